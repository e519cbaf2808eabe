package experiment

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/internal/frugal"
	"github.com/structuredffn/sffn/model/checkpoint"
	"github.com/structuredffn/sffn/runtime/collective"
)

const good = `text: [TEXT]
model: {vocab: 257, hidden: 16, ffn: 32, layers: 2, q_heads: 2, max_positions: 32, mlp: {kind: dense, first_layer_dense: false}}
train: {steps: 12, batch: 1, seq: 32, lr: 0.01, eval_tokens: 256}
studies:
  - name: kinds
    question: Which one?
    seeds: [1, 2]
    variants:
      - name: dense
      - name: lowrank
        model: {mlp: {kind: lowrank}}
        rank_of_hidden: 0.25
      - name: guided
        model: {mlp: {kind: lowrank, rank: 4}}
        train: {guide: {mode: fixedflop, max_step_ratio: 0.3}}
        flops_of: dense
  - name: sizes
    seeds: [1]
    fit: true
    reference: lowrank
    sizes:
      - name: h16
      - name: h24
        seeds: [2, 3]
        model: {hidden: 24, ffn: 48}
        train: {steps: 14}
    variants:
      - name: dense
      - name: lowrank
        model: {mlp: {kind: lowrank}}
        rank_of_hidden: 0.25
`

func parse(t testing.TB, src string) *Plan {
	t.Helper()
	p, err := Parse("plan.yaml", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestParse(t *testing.T) {
	p := parse(t, good)
	if len(p.Studies) != 2 || len(p.Studies[0].Points) != 6 || len(p.Studies[1].Points) != 6 {
		t.Fatalf("%d studies, %d and %d points", len(p.Studies), len(p.Studies[0].Points), len(p.Studies[1].Points))
	}
	// The runs of the first seed at the first size serve both studies.
	if len(p.Runs) != 6+4 || p.Studies[0].Points[0].Run != p.Studies[1].Points[0].Run || p.Studies[0].Points[2].Run != p.Studies[1].Points[1].Run {
		t.Errorf("%d runs, want 10 that the studies share", len(p.Runs))
	}
	for _, q := range p.Studies[1].Points {
		m := q.Run.Config.Model
		if want := m.Hidden / 4; q.Variant == "lowrank" && m.Rank != want || q.Size == "h24" && m.Hidden != 24 || q.Run.Config.Train.Seed != q.Seed {
			t.Errorf("%s: %+v, %+v", q.Run.Name, m, q.Run.Config.Train)
		}
	}
	// Steps are whole: the guided run comes as near as half a step of its own.
	dense, guided := p.Studies[0].Points[0].Run.Config, p.Studies[0].Points[4].Run.Config
	want, got := dense.Course(), guided.Course()
	if got.Guided < 1 || math.Abs(got.FLOPs-want.FLOPs) > 2*got.FLOPs/float64(got.Steps) {
		t.Errorf("the guided run has %+v, the dense one %+v", got, want)
	}
	for _, off := range []int{-1, 1} {
		c := *guided
		c.Train.Steps += off
		if math.Abs(c.Course().FLOPs-want.FLOPs) < math.Abs(got.FLOPs-want.FLOPs) {
			t.Errorf("%d steps come nearer to the FLOPs than %d", c.Train.Steps, guided.Train.Steps)
		}
	}
}

func TestErrors(t *testing.T) {
	for _, tt := range []struct{ name, old, new, want string }{
		{"unknown field", "    fit: true", "    fits: true", "plan.yaml:19:5: unknown field \"fits\""},
		{"unknown field of a model", "hidden: 24,", "hiden: 24,", "plan.yaml:25:17: unknown field \"hiden\""},
		{"wrong type", "{steps: 14}", "{steps: many}", "plan.yaml:26:24: "},
		{"quotes", "{steps: 14}", "{steps: \"14\"}", "plan.yaml:26:24: steps: \"14\" is no whole number in decimal"},
		{"leading zero", "steps: 12", "steps: 012", "plan.yaml:3:16: steps: 012 is no whole number in decimal"},
		{"nothing", "steps: 12", "steps: ", "plan.yaml:3:9: steps: is empty"},
		{"an empty section", "{steps: 14}", "", "plan.yaml:26:9: train: is empty"},
		{"fraction of a seed", "seeds: [1, 2]", "seeds: [1, 2.5]", "plan.yaml:7:16: seeds: 2.5 is no whole number in decimal"},
		{"no list", "seeds: [2, 3]", "seeds: 2", "plan.yaml:24:16: seeds: 2 is no list, want a list"},
		{"no seed", "seeds: [2, 3]", "seeds: [2, ~]", "plan.yaml:24:16: seeds: is empty"},
		{"truth", "fit: true", "fit: yes", "plan.yaml:19:10: fit: yes is no truth value, want true or false"},
		{"number for a name", "- name: h24", "- name: 024", "plan.yaml:23:15: name: 024 is a number, want text"},
		{"a seed twice", "seeds: [1, 2]", "seeds: [1, 2, 1]", "\"kinds\": seeds: 1 comes twice"},
		{"a seed of a size twice", "seeds: [2, 3]", "seeds: [3, 3]", "\"sizes\": size \"h24\": seeds: 3 comes twice"},
		{"no corpus", "text: [TEXT]\n", "", "want either corpus: goroot, or a list text:"},
		{"unknown corpus", "text: [TEXT]", "corpus: web", "want either corpus: goroot, or a list text:"},
		{"seeds", "    seeds: [1]\n", "", "plan.yaml: studies[1]: \"sizes\": seeds: is empty"},
		{"reference", "reference: lowrank", "reference: monarch", "reference: \"monarch\" is none of the variants"},
		{"flops", "flops_of: dense", "flops_of: guided", "variant \"guided\": flops_of: \"guided\" is no variant before it"},
		{"twice", "- name: guided", "- name: dense", "variant \"dense\" comes twice"},
		{"name", "name: kinds", "name: ../kinds", "study name \"../kinds\": want lower-case letters"},
		{"invalid model", "hidden: 24", "hidden: 25", "plan.yaml: study \"sizes\", size \"h24\", variant \"dense\": q_heads: 2 does not divide attn_dim 25"},
		{"rank", "rank_of_hidden: 0.25\n      - name: guided", "rank_of_hidden: -1\n      - name: guided", "rank_of_hidden: -1 is out of range"},
		{"empty", good, "", "the file is empty"},
	} {
		src := strings.Replace(good, tt.old, tt.new, 1)
		if src == good {
			t.Fatalf("%s: nothing replaced", tt.name)
		}
		if _, err := Parse("plan.yaml", []byte(src)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want it to contain %q", tt.name, err, tt.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("corpus: goroot\nstudies: [{name: a, seeds: [1], variants: [{name: b}]}]"))
	f.Add([]byte("model: &a {mlp: *a}"))
	f.Add([]byte("corpus: goroot\nstudies: [{name: a, seeds: [1.5, 2], variants: [{name: b}]}]\n---\n"))
	f.Add([]byte("text: " + strings.Repeat("[", 16)))
	f.Add([]byte("studies:\n" + strings.Repeat("- ", 16)))
	f.Fuzz(func(t *testing.T, src []byte) {
		if p, err := Parse("fuzz.yaml", src); err == nil && len(p.Runs) == 0 {
			t.Error("a plan without runs was accepted")
		}
	})
}

// A plan that is interrupted goes on; one that is finished trains nothing; its
// report has every run's loss.
func TestTrain(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.Mkdir(text, 0o777); err != nil {
		t.Fatal(err)
	}
	for i := range 60 {
		if err := os.WriteFile(filepath.Join(text, fmt.Sprint(i, ".txt")), []byte(strings.Repeat(fmt.Sprintf("%d and %d are %d\n", i, i, 2*i), 20)), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	p := parse(t, strings.Replace(good, "TEXT", text, 1))
	out := filepath.Join(dir, "out")
	ctx, cancel := context.WithCancel(context.Background())
	var notes []string
	opt := Options{Jobs: 2, Threads: 1, SaveEvery: time.Minute, Note: func(s string) {
		notes = append(notes, s)
		if len(notes) == 3 {
			cancel()
		}
	}}
	if err := p.Train(ctx, out, opt); err != nil {
		t.Fatal(err)
	}
	if err := p.Report(out); err != nil {
		t.Fatal(err)
	}
	first := len(notes)
	if first >= len(p.Runs) {
		t.Fatalf("nothing was left to do after an interrupt: %q", notes)
	}
	// What was not at work was not begun.
	if begun, err := os.ReadDir(filepath.Join(out, runsDir)); err != nil || len(begun) > first {
		t.Errorf("%d runs were begun, %d were heard of: %v", len(begun), first, err)
	}
	// Two ranks share out what is left.
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, g := range collective.Local(2) {
		p, opt := parse(t, strings.Replace(good, "TEXT", text, 1)), opt
		begun := 0
		opt.Group, opt.Jobs, opt.Note = g, 1, func(s string) {
			mu.Lock()
			defer mu.Unlock()
			notes, begun = append(notes, s), begun+1
		}
		wg.Go(func() {
			if err := p.Train(context.Background(), out, opt); err != nil || begun == 0 {
				t.Errorf("rank %d: %v, %d notes", g.Rank(), err, begun)
			}
		})
	}
	wg.Wait()
	again := len(notes)
	if err := p.Train(context.Background(), out, opt); err != nil || len(notes) != again {
		t.Errorf("a finished plan trained on: %v, %q", err, notes[again:])
	}
	if err := p.Report(out); err != nil {
		t.Fatal(err)
	}
	results, err := p.results(out)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range p.Runs {
		if got := results[r]; got.Status != "finished" || !(got.Loss > 0 && got.Loss < 6) {
			t.Errorf("%s: %+v", r.Name, got)
		}
		at, err := checkpoint.Find(r.Dir(out))
		if err != nil {
			t.Fatal(err)
		}
		if c, _, err := checkpoint.Describe(at); err != nil || c.Model.Rank != r.Config.Model.Rank {
			t.Errorf("%s is no ordinary run: %v", r.Name, err)
		}
	}
	f, err := os.Open(filepath.Join(out, ResultsFile))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if lines, err := csv.NewReader(f).ReadAll(); err != nil || len(lines) != 1+12 {
		t.Errorf("%s: %d lines, %v", ResultsFile, len(lines), err)
	}
	report, err := os.ReadFile(filepath.Join(out, ReportFile))
	if err != nil || !strings.Contains(string(report), "10 of 10 runs are finished") || !strings.Contains(string(report), "Which one?") || strings.Contains(string(report), "NaN") {
		t.Errorf("%v, report:\n%s", err, report)
	}
	for _, s := range p.Studies {
		g, err := os.Open(filepath.Join(out, s.Name+".png"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := png.Decode(g); err != nil {
			t.Errorf("%s.png: %v", s.Name, err)
		}
		g.Close()
	}
	// Another plan must not mix its runs with these.
	other := parse(t, strings.Replace(strings.Replace(good, "TEXT", text, 1), "lr: 0.01", "lr: 0.02", 1))
	if err := other.Train(context.Background(), out, opt); err == nil || !strings.Contains(err.Error(), "holds a run of another configuration") {
		t.Errorf("runs of another configuration: %v", err)
	}
}

// The report of experiments/paper is what is written of its losses today. It says by
// itself where the interval of a slope is not valid.
func TestPaperReport(t *testing.T) {
	f, err := os.Open("../../experiments/paper/results.csv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	losses := map[string]float64{}
	for _, l := range lines[1:] {
		if losses[l[4]], err = strconv.ParseFloat(l[12], 64); err != nil {
			t.Fatal(err)
		}
	}
	p, err := Load("../../experiments/paper/plan.yaml")
	if err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	for _, r := range p.Runs {
		dir := r.Dir(out)
		if err := os.MkdirAll(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		metrics := fmt.Sprintf("{\"step\": %d, \"loss\": %[2]v, \"val_loss\": %[2]v}\n", r.Config.Course().Steps, losses[r.Name])
		if err := os.WriteFile(filepath.Join(dir, "metrics.jsonl"), []byte(metrics), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	results, err := p.results(out)
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := p.writeMarkdown(&got, results); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("../../experiments/paper/report.md")
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("the report of the losses in results.csv is\n%s", got.String())
	}
}

// Intervals and lines against numbers computed by hand.
func TestStatistics(t *testing.T) {
	// Three values: sd 1, so that the half width is 4.3027/sqrt(3).
	if e := estimateOf([]float64{1, 2, 3}); e.mean != 2 || math.Abs(e.half-2.48414) > 1e-4 {
		t.Errorf("%+v", e)
	}
	if e := estimateOf([]float64{5}); e.mean != 5 || !math.IsInf(e.half, 1) || e.String() != "5.0000 (1 seed)" {
		t.Errorf("%v", e)
	}
	if e := estimateOf(nil); e.String() != "-" {
		t.Errorf("%v", e)
	}
	// y = 1 + 2x with residuals 0.1, -0.2, 0.1: the slope is exact, its error
	// sqrt(0.06/1/2), the quantile for one degree of freedom 12.706.
	f := fitLine([]float64{-1, 0, 1}, []float64{-0.9, 0.8, 3.1})
	if math.Abs(f.b-2) > 1e-12 || math.Abs(f.a-1) > 1e-12 || math.Abs(f.half-12.7062*math.Sqrt(0.03)) > 1e-3 {
		t.Errorf("%+v", f)
	}
	if f.lack != nil {
		t.Errorf("a test of a line whose points have no twins: %v", f.lack)
	}
	// Three sizes of two seeds about y = 1: F(1, 3) = 12/(6/3), see scaling's
	// tests; ten times as close to each other, seeds reject the line.
	x := []float64{0, 0, 1, 1, 2, 2}
	if f := fitLine(x, []float64{-1, 1, 2, 4, -1, 1}); f.lack == nil || math.Abs(f.lack.F-6) > 1e-9 || f.lack.Rejects() {
		t.Errorf("%+v, lack of fit %v", f, f.lack)
	}
	if f := fitLine(x, []float64{-0.1, 0.1, 2.9, 3.1, -0.1, 0.1}); math.Abs(f.lack.F-600) > 1e-6 || !f.lack.Rejects() {
		t.Errorf("%+v, lack of fit %v", f, f.lack)
	}
	if f := fitLine([]float64{1, 1}, []float64{2, 3}); !math.IsNaN(f.b) {
		t.Errorf("a line through points above each other: %+v", f)
	}
	c, o := cell{losses: map[uint64]float64{1: 2, 2: 3, 4: 9}}, cell{losses: map[uint64]float64{1: 1.5, 2: 2.5, 3: 9}}
	if d := c.against(&o); d.n != 2 || d.mean != 0.5 || d.half != 0 {
		t.Errorf("paired by seed: %+v", d)
	}
}

// One process at a time trains a plan in a folder.
func TestHeldFolder(t *testing.T) {
	out := t.TempDir()
	lock, err := disk.Hold(out)
	if err != nil {
		t.Fatal(err)
	}
	p := parse(t, good)
	opt := Options{Jobs: 1, Threads: 1, Note: func(string) {}}
	var held *disk.Held
	if err := p.Train(t.Context(), out, opt); !errors.As(err, &held) {
		t.Errorf("a folder that another holds: %v", err)
	}
	lock.Release()
	if entries, err := os.ReadDir(out); err != nil || len(entries) != 0 {
		t.Errorf("%d entries were left in it, %v", len(entries), err)
	}
}

// A plan that is interrupted while it prepares its data trains nothing, and makes
// nothing that would be taken for data; the same plan goes on.
func TestInterruptedPreparing(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "book.txt")
	if err := os.WriteFile(text, []byte(strings.Repeat("a line of the book\n", 20000)), 0o666); err != nil {
		t.Fatal(err)
	}
	p := parse(t, strings.Replace(good, "TEXT", text, 1))
	p.Runs = p.Runs[:1]
	out := filepath.Join(dir, "out")
	ctx, stop := context.WithCancel(t.Context())
	var notes []string
	opt := Options{Jobs: 1, Threads: 1, Note: func(s string) {
		notes = append(notes, s)
		stop()
	}}
	if err := p.Train(ctx, out, opt); err != nil || !slices.Equal(notes, []string{"preparing " + filepath.Join(out, dataDir)}) {
		t.Errorf("interrupted: %v, it says %q", err, notes)
	}
	for _, name := range []string{dataDir, runsDir} {
		if _, err := os.Stat(filepath.Join(out, name)); err == nil {
			t.Errorf("it has made %s", name)
		}
	}
	opt.Note = func(s string) { notes = append(notes, s) }
	if err := p.Train(t.Context(), out, opt); err != nil || !strings.Contains(notes[len(notes)-1], "12 steps, validation loss") {
		t.Errorf("going on: %v, it says %q", err, notes)
	}
}

// What would take long is refused at little cost.
func TestHostilePlans(t *testing.T) {
	list := func(n int, entry string) string {
		b := &strings.Builder{}
		for i := range n {
			fmt.Fprintf(b, entry, i)
		}
		return b.String()
	}
	head := "text: [x]\nmodel: {vocab: 257, hidden: 16, ffn: 32, layers: 1, q_heads: 2}\nstudies:\n  - name: a\n"
	for name, tt := range map[string]struct{ src, want string }{
		"runs": {head + "    seeds: [" + list(400, "%d, ") + "]\n    sizes: [" + list(100, "{name: s%d}, ") + "]\n    variants: [" + list(100, "{name: v%d}, ") + "]\n",
			"make more than 10000 runs"},
		"shared runs": {head + "    seeds: [1]\n    sizes: [" + list(150, "{name: s%d}, ") + "]\n    variants: [" + list(150, "{name: v%d}, ") + "]\n",
			"make more than 10000 runs"},
		"nested": {"studies: " + strings.Repeat("[", 4000), "nested too deep"},
		"keys":   {"model: {" + list(10_000, "a%d: 1, ") + "}", "too long"},
	} {
		frugal.Run(t, 256<<20, func() {
			if _, err := Parse("plan.yaml", []byte(tt.src)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: got %.300v, want it to contain %q", name, err, tt.want)
			}
		})
	}
}
