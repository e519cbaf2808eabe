package config

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/gen/specfile"
)

// Every preset is a configuration, of the same model for the generator.
func TestPresets(t *testing.T) {
	for _, name := range specfile.Presets() {
		c, err := Load(name)
		if err != nil {
			t.Error(err)
			continue
		}
		if m, err := specfile.Load(name); err != nil || m != c.Model || m.Name != name {
			t.Errorf("%s: %v, generated for %+v, trained as %+v", name, err, m, c.Model)
		}
	}
}

// Every configuration of the reference's file has a preset of its name, of its
// size and of its plan.
func TestPresetPlans(t *testing.T) {
	src, err := os.ReadFile("../../gen/spec/testdata/params_flops.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Configs []struct {
			Name  string
			Total int64 `json:"total_params"`
			FLOPs int64 `json:"flops_b1_s1024"`
			Plan  struct {
				LR       float64
				Batch    int `json:"global_batch"`
				Seq      int
				Steps    int     `json:"steps_total"`
				Guided   int     `json:"guided_steps"`
				Repeated int     `json:"repeat_steps"`
				FLOPs    float64 `json:"train_flops_total"`
			}
		}
	}
	if err := json.Unmarshal(src, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Configs) < 50 {
		t.Fatalf("%d configurations", len(file.Configs))
	}
	for _, want := range file.Configs {
		c, err := Load(want.Name)
		if err != nil {
			t.Error(err)
			continue
		}
		p, tr := c.Course(), c.Train
		if c.Model.Count().Total != want.Total || int64(c.Model.ForwardFLOPs(1, 1024)) != want.FLOPs || tr.LR != want.Plan.LR ||
			tr.Batch*tr.Accumulate != want.Plan.Batch || tr.Seq != want.Plan.Seq || p.Steps != want.Plan.Steps || p.Guided != want.Plan.Guided || p.Repeated != want.Plan.Repeated ||
			tr.MinLR != 0.1 || tr.Warmup != 0.1 || math.Abs(p.FLOPs/want.Plan.FLOPs-1) > 1e-12 {
			t.Errorf("%s: %d parameters, %+v, %+v, want %+v", want.Name, c.Model.Count().Total, p, tr, want)
		}
	}
}

// What a guide section leaves out, and what a run of it comes to.
func TestGuide(t *testing.T) {
	c, err := Parse("g", []byte(good+"train: {steps: 10, guide: {max_step_ratio: 0.29, mode: fixedflop}}"))
	if err != nil {
		t.Fatal(err)
	}
	if want := (Guide{MaxStepRatio: 0.29, Schedule: "cosine", Mode: "fixedflop", Start: "merged"}); c.Train.Guide != want || !c.Model.Guided {
		t.Errorf("%+v, want %+v", c.Train.Guide, want)
	}
	if n := c.Course(); n.Steps != 12 || n.Guided != 2 || n.Repeated != 2 {
		t.Errorf("%+v", n)
	}
	if c, err = Parse("g", []byte(good)); err != nil || c.Train.Guide.On() || c.Model.Guided {
		t.Errorf("guided without a guide section: %+v, %v", c, err)
	}
}

const good = `model:
  vocab: 257
  hidden: 64
  ffn: 256
  layers: 2
  q_heads: 4
  mlp: {kind: lowrank, rank: 16}
`

// Errors of the section train, and of both together.
func TestErrors(t *testing.T) {
	for _, tt := range []struct{ name, old, new, want string }{
		{"seq", "rank: 16}", "rank: 16}\ntrain: {seq: 5000}", "seq: 5000 is more than the model's max_positions 1024"},
		{"guide without structure", "mlp: {kind: lowrank, rank: 16}", "mlp: {kind: dense}\ntrain:\n  guide: {mode: fixedflop}", "bad.yaml:9:10: guide: no layer of the model is structured"},
		{"guide's ratio", "rank: 16}", "rank: 16}\ntrain:\n  guide: {max_step_ratio: 1.5}", "bad.yaml:9:27: guide.max_step_ratio: 1.5 is out of range"},
		{"guide's schedule", "rank: 16}", "rank: 16}\ntrain:\n  guide:\n    schedule: step", "bad.yaml:10:15: guide.schedule: unknown schedule \"step\"; valid are cosine, linear"},
		{"guide's field", "rank: 16}", "rank: 16}\ntrain:\n  guide:\n    ratio: 1", "bad.yaml:10:5: unknown field \"ratio\""},
		{"recompute", "rank: 16}", "rank: 16}\ntrain: {recompute: 2}", "recompute: 2"},
		{"the model's", "hidden: 64", "hidden: 0", "bad.yaml:3:11: hidden: 0 is out of range, want 1 to 1048576"},
		{"duplicate key", "rank: 16}", "rank: 16}\ntrain: {lr: 1, lr: 2}", "bad.yaml:8:16: mapping key \"lr\" already defined at [8:9]"},
		{"empty", good, "", "the file is empty"},
	} {
		src := strings.Replace(good, tt.old, tt.new, 1)
		if src == good {
			t.Fatalf("%s: nothing replaced", tt.name)
		}
		_, err := Parse("bad.yaml", []byte(src))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want it to contain %q", tt.name, err, tt.want)
		}
	}
}

// What the YAML library would read past without a word.
func TestSaidPlainly(t *testing.T) {
	for _, tt := range []struct{ src, want string }{
		{good + "train: {steps: 5.9}", "f.yaml:8:16: steps: 5.9 is no whole number"},
		{good + "train: {seed: 1.5}", "f.yaml:8:15: seed: 1.5 is no whole number"},
		{good + "train: {steps: \"5.9\"}", "steps: \"5.9\" is no whole number"},
		{good + "train: {steps: !!int 5.9}", "f.yaml:8:16: tags (!!int) are not taken"},
		{good + "train: {<<: {steps: 5}}", "f.yaml:8:9: merge keys (<<) are not taken"},
		{strings.Replace(good, "hidden: 64", "hidden: 64.5", 1), "f.yaml:3:11: hidden: 64.5 is no whole number"},
		{strings.Replace(good, "rank: 16", "rank: 1.6e-1", 1), "rank: 1.6e-1 is no whole number"},
		{good + "---\nmodel: {vocab: 1}\n", "f.yaml:8:1: a second document begins; want one"},
		{good + "...\nmodel: {vocab: 1}\n", "f.yaml:9:1: there is more after the document's end"},
		{"\xff\xfem\x00", "the text is UTF-16, want UTF-8"},
	} {
		if _, err := Parse("f.yaml", []byte(tt.src)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: got %v, want %q", tt.src, err, tt.want)
		}
	}
	for _, src := range []string{"\ufeff" + good, "# a comment\n---\n" + good + "...\n", good + "train: {steps: 1e3, seed: 18446744073709551615, lr: 0.5}"} {
		if _, err := Parse("f.yaml", []byte(src)); err != nil {
			t.Errorf("%q: %v", src, err)
		}
	}
}

// Sequences are as long as the model takes where nothing is said, 256 at most.
func TestSeqDefault(t *testing.T) {
	for positions, want := range map[int]int{64: 64, 256: 256, 1024: 256} {
		c, err := Parse("s", []byte(strings.Replace(good, "layers: 2", fmt.Sprintf("layers: 2\n  max_positions: %d", positions), 1)))
		if err != nil || c.Train.Seq != want {
			t.Errorf("max_positions %d: %v, %v", positions, c, err)
		}
	}
	for _, seq := range []int{0, -1, 65} {
		if _, err := Parse("s", []byte(strings.Replace(good, "layers: 2", "layers: 2\n  max_positions: 64", 1)+fmt.Sprintf("train: {seq: %d}", seq))); err == nil || !strings.Contains(err.Error(), "seq: ") {
			t.Errorf("seq %d: %v", seq, err)
		}
	}
	d := NewDraft()
	d.model.Vocab, d.model.Hidden, d.model.FFN, d.model.Layers, d.model.QHeads, d.model.MaxPositions = 10, 8, 8, 1, 1, 32
	c, err := d.Config("draft")
	if err != nil || c.Train.Seq != 32 || !strings.Contains(string(c.Source), "seq: 32\n") {
		t.Errorf("a draft: %v, %v", c, err)
	}
}

// Drafts take sections and lists over one another, are copied, and are written as
// what they are read from.
func TestDraftLayers(t *testing.T) {
	section := func(text string) ast.Node {
		f, err := parser.ParseBytes([]byte(text), 0)
		if err != nil {
			t.Fatal(err)
		}
		return f.Docs[0].Body
	}
	base := NewDraft()
	if err := base.Overlay(section("{vocab: 257, hidden: 64, ffn: 256, layers: 3, q_heads: 4, mlp: {kind: lowrank, rank: 16, except: [{layers: 2, kind: lowrank, rank: 8}]}}"), nil); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		over string
		rank float64
		want string // of layers 0, 1 and 2
	}{
		{"{}", 0, "dense lowrank_r16 lowrank_r8"},
		{"{mlp: {rank: 4}}", 0, "dense lowrank_r4 lowrank_r8"},
		{"{mlp: {except: []}}", 0, "dense lowrank_r16 lowrank_r16"},
		{"{mlp: {first_layer_dense: false, except: [{layers: 1, kind: dense}]}}", 0, "lowrank_r16 dense lowrank_r16"},
		{"{mlp: [{kind: dense}, {layers: 1-2, kind: blockshuffle, blocks: 4}]}", 0, "dense blockshuffle_b4 blockshuffle_b4"},
		{"{}", 0.5, "dense lowrank_r32 lowrank_r32"},
		{"{mlp: [{kind: dense}, {layers: 1-2, kind: lowrank, rank: 3}]}", 0.5, "dense lowrank_r32 lowrank_r32"},
	} {
		d := base
		if err := d.Overlay(section(tt.over), nil); err != nil {
			t.Errorf("%s: %v", tt.over, err)
			continue
		}
		if tt.rank > 0 {
			d.SetRank(tt.rank)
		}
		c, err := d.Config("draft")
		if err != nil {
			t.Errorf("%s: %v", tt.over, err)
			continue
		}
		var got []string
		for i := range c.Model.Layers {
			got = append(got, c.Model.Structure(i).String())
		}
		if again, err := Parse("draft", c.Source); err != nil || !again.SameRun(c) || strings.Join(got, " ") != tt.want {
			t.Errorf("%s: %v, want %s; read again: %v\n%s", tt.over, got, tt.want, err, c.Source)
		}
		if !strings.HasPrefix(tt.over, "{mlp: [") {
			continue
		}
		// A section after a list begins with the defaults.
		if err := d.Overlay(section("{mlp: {kind: lowrank, rank: 5}}"), nil); err != nil {
			t.Fatal(err)
		}
		if c, err = d.Config("draft"); err != nil || c.Model.Except != "0:dense" || c.Model.Rank != 5 {
			t.Errorf("a section after a list: %+v, %v", c.Model, err)
		}
	}
}

// What trains has a model that there are kernels for.
func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("model: {vocab: 1}"))
	f.Add([]byte("\ufeff---\n" + good + "train: {steps: 5.9, seed: !!int \"1.5\"}\n...\n"))
	f.Add([]byte(good + "train: {steps: 5, guide: {mode: fixedflop}}\n"))
	f.Fuzz(func(t *testing.T, src []byte) {
		c, err := Parse("fuzz.yaml", src)
		if err != nil {
			return
		}
		if m, err := specfile.Parse("fuzz.yaml", src); err != nil || m.Validate() != nil || m != c.Model {
			t.Errorf("trained as %+v, generated as %+v, %v, %v", c.Model, m, err, m.Validate())
		}
	})
}

// A draft's text is read as what it was made of, what depends on other keys included.
func TestDraftIsRead(t *testing.T) {
	no := false
	for _, change := range []func(d *Draft){
		func(*Draft) {},
		func(d *Draft) { d.model.FFNBias, d.model.NormEps, d.model.QKNorm, d.model.Window = &no, 1e-6, true, 7 },
		func(d *Draft) { d.model.RotaryScaling.Type, d.model.RotaryScaling.Factor = spec.LinearScaling, 2.5 },
		func(d *Draft) { d.model.Window, d.model.WindowLayers = 7, "1" },
		func(d *Draft) {
			d.model.RotaryScaling.Type, d.model.RotaryScaling.Factor, d.model.RotaryScaling.OriginalPositions = spec.YarnScaling, 4, 256
			d.model.RotaryScaling.Truncate = &no
		},
	} {
		d := NewDraft()
		d.model.Vocab, d.model.Hidden, d.model.FFN, d.model.Layers, d.model.QHeads = 11, 64, 64, 2, 4
		change(&d)
		want, err := d.Config("x")
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse("x", want.Source)
		if err != nil || !same(got, want) {
			t.Errorf("read again, %+v is %+v; %v\n%s", want.Model, got, err, want.Source)
		}
	}
}
