package train

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/checkpoint"
	"github.com/structuredffn/sffn/model/config"
	"github.com/structuredffn/sffn/model/initial"
	"github.com/structuredffn/sffn/model/project"
	"github.com/structuredffn/sffn/model/safetensors"
	"github.com/structuredffn/sffn/model/token"
	rt "github.com/structuredffn/sffn/runtime"
)

// parameters are those of a checkpoint.
func parameters(t *testing.T, dir string) *model.Params {
	t.Helper()
	c, _, err := checkpoint.Describe(dir)
	if err != nil {
		t.Fatal(err)
	}
	c.Model.Guided = false
	p := model.NewParams(c.Model)
	t.Cleanup(p.Close)
	if err := checkpoint.Load(dir, p); err != nil {
		t.Fatal(err)
	}
	return p
}

// imported saves weights alone, as a model that comes from elsewhere.
func imported(t *testing.T, run string, c *config.Config, p *model.Params, tok token.Tokenizer) {
	t.Helper()
	var values []safetensors.Value
	for _, q := range p.List() {
		values = append(values, safetensors.Value{Name: q.Name, Shape: q.Shape, Data: p.Get(q.Name)})
	}
	if _, err := checkpoint.SaveWeights(run, c.Source, checkpoint.State{Name: "elsewhere", Steps: c.Train.Steps}, tok, values); err != nil {
		t.Fatal(err)
	}
}

// A run that begins with weights begins with these, zero moments and its own data,
// however the weights came; it resumes from its first step on, without them.
func TestInit(t *testing.T) {
	dir := t.TempDir()
	prepare(t, filepath.Join(dir, "data"))
	first := train(t, newRun(t, filepath.Join(dir, "data"), filepath.Join(dir, "first"), 2, ""))
	p := parameters(t, first.Checkpoint)
	beside := []token.File{{Name: "chat_template.jinja", Content: []byte("{{ messages }}")}}
	imported(t, filepath.Join(dir, "imported"), parse(t, tiny), p, token.With(token.Bytes{}, beside))
	begin := func(name, from string, threads int) *Run {
		r := newRun(t, filepath.Join(dir, "data"), filepath.Join(dir, name), threads, "")
		r.Config = parse(t, strings.Replace(tiny, "steps: 30", "seed: 7, steps: 12", 1))
		r.Init = from
		return r
	}
	whole := train(t, begin("whole", first.Checkpoint, 2))
	lines := readMetrics(t, filepath.Join(dir, "whole"))
	if cold := readMetrics(t, filepath.Join(dir, "first")); lines[0].Loss > cold[29].Loss+0.5 || lines[0].Loss > cold[0].Loss-1 {
		t.Errorf("the first loss is %v, the run before went from %v to %v", lines[0].Loss, cold[0].Loss, cold[29].Loss)
	}
	for i, stop := range []int{0, 5} {
		name := fmt.Sprint("broken", stop)
		r := begin(name, filepath.Join(dir, []string{"imported", "first"}[i]), 1)
		res, _ := trainOn(t, r, func(c *counted, cut func()) {
			if c.micros == 2*stop+1 {
				cut()
			}
		})
		if res.Step != stop || res.Checkpoint == "" {
			t.Fatalf("%+v", res)
		}
		if stop == 0 {
			if !slices.Equal(parameters(t, res.Checkpoint).Data, p.Data) {
				t.Error("before its first step the run has other weights than it was given")
			}
			m, v := model.NewParams(p.Spec()), model.NewParams(p.Spec())
			defer m.Close()
			defer v.Close()
			if err := checkpoint.LoadMoments(res.Checkpoint, m, v); err != nil || slices.ContainsFunc(slices.Concat(m.Data, v.Data), func(x float32) bool { return x != 0 }) {
				t.Errorf("moments before the first step: %v", err)
			}
			if err := os.RemoveAll(filepath.Join(dir, "imported")); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := begin(name, first.Checkpoint, 1).Train(context.Background()); err == nil || !strings.Contains(err.Error(), "holds a run already") {
			t.Errorf("over a run: %v", err)
		}
		r = begin(name, "", 2)
		r.Resume = true
		if err := r.Configure("", 0); err != nil {
			t.Fatal(err)
		}
		res = train(t, r)
		if !bytes.Equal(weights(t, res.Checkpoint), weights(t, whole.Checkpoint)) {
			t.Errorf("stopped at step %d, the run ends with other bits", stop)
		}
		sameMetrics(t, r.Dir, filepath.Join(dir, "whole"))
		// What lay beside the tokenizer of the imported model goes on.
		text, err := os.ReadFile(filepath.Join(res.Checkpoint, "chat_template.jinja"))
		if has := err == nil && string(text) == "{{ messages }}"; has != (stop == 0) {
			t.Errorf("stopped at step %d, the chat template is %q, %v", stop, text, err)
		}
	}
}

// A file for a run that begins with weights may leave out the model, or be left out.
func TestInitConfig(t *testing.T) {
	dir := t.TempDir()
	prepare(t, filepath.Join(dir, "data"))
	r := newRun(t, filepath.Join(dir, "data"), filepath.Join(dir, "first"), 2, "")
	r.Config.Train.Steps = 2
	first := train(t, r)
	r = &Run{Init: first.Checkpoint}
	if err := r.Configure("", 0); err != nil || r.Config.Train != parse(t, strings.Replace(tiny, "steps: 30", "steps: 2", 1)).Train {
		t.Errorf("%+v, %v", r.Config, err)
	}
	file := filepath.Join(dir, "tune.yaml")
	for text, want := range map[string]string{
		"train: {steps: 5, seq: 16}": "",
		"train: {steps: 5, seq: 65}": "tune.yaml:1:24: seq: 65 is more than the model's max_positions 64",
		"train: {step: 5}":           "tune.yaml:1:9: unknown field \"step\"",
		"train: {steps: many}":       "tune.yaml:1:16: steps: many is no whole number",
		"train:":                     "train: is empty",
		"steps: 5":                   "unknown field \"steps\"",
		"":                           "the file is empty",
		"train: {steps: 5, guide: {max_step_ratio: 2}}":  "tune.yaml:1:43: guide.max_step_ratio: 2 is out of range",
		strings.Replace(tiny, "hidden: 32", "foo: 1", 1): "unknown field \"foo\"",
	} {
		if err := os.WriteFile(file, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		err := r.Configure(file, 3)
		if want != "" {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v, want %q", text, err, want)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		m := parse(t, tiny).Model
		m.Name = "tune"
		if r.Config.Model != m || r.Config.Train.Steps != 3 || r.Config.Train.Seq != 16 || r.Config.Train.LR != 6e-4 {
			t.Errorf("%+v", r.Config)
		}
		// What it saves is the whole of it.
		again, err := config.Parse("tune", r.Config.Source)
		if err != nil || again.Model != m || again.Train.Seq != 16 || again.Train.Steps != 5 {
			t.Errorf("%s: %+v, %v", r.Config.Source, again, err)
		}
	}
	if err := (&Run{Init: filepath.Join(dir, "none")}).Configure("", 0); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "nothing to begin with") {
		t.Error(err)
	}
}

// What may not begin a run is refused by name, before there is a folder of it.
func TestInitRefused(t *testing.T) {
	dir := t.TempDir()
	prepare(t, filepath.Join(dir, "data"))
	first := newRun(t, filepath.Join(dir, "data"), filepath.Join(dir, "first"), 2, "")
	first.Config.Train.Steps = 1
	from := train(t, first).Checkpoint
	imported(t, filepath.Join(dir, "other"), parse(t, tiny), parameters(t, from), others{})
	imported(t, filepath.Join(dir, "untold"), parse(t, tiny), parameters(t, from), nil)
	begin := func(from, old, new string) *Run {
		r := newRun(t, filepath.Join(dir, "data"), filepath.Join(dir, "run"), 2, "")
		if r.Config = parse(t, strings.Replace(tiny, old, new, 1)); old != "" && r.Config.SameRun(parse(t, tiny)) {
			t.Fatalf("%s changes nothing", new)
		}
		r.Config.Train.Steps = 1
		r.Init = from
		return r
	}
	resumes := begin(from, "", "")
	resumes.Resume = true
	for want, r := range map[string]*Run{
		"another model than the configuration's: mlp: layer 1 is lowrank, rank 8, want lowrank, rank 4":                                                         begin(from, "rank: 8", "rank: 4"),
		"another model than the configuration's: hidden is 32, want 64, attn_dim is 32, want 64":                                                                begin(from, "hidden: 32", "hidden: 64"),
		"the configuration's: kv_heads is 2, want 1, qkv_bias is true, want false, output_bias is true, want false, ffn_bias is true, want false, qk_norm is f": begin(from, "q_heads: 2", "q_heads: 2\n  kv_heads: 1\n  bias: false\n  qk_norm: true"),
		"layers is 2, want 3": begin(from, "layers: 2", "layers: 3"),
		"mlp: layer 1 is lowrank, rank 8, want blockdense, rank 8, 2 blocks": begin(from, "lowrank, rank: 8}", "blockdense, rank: 8, blocks: 2}\n  tie_embeddings: true"),
		"the data was made with the tokenizer byte (":                        begin(filepath.Join(dir, "other"), "", ""),
		"nothing to begin with: ":                                            begin(filepath.Join(dir, "none"), "", ""),
		"a run begins with the weights of another one, or resumes, not both": resumes,
	} {
		_, err := r.Train(context.Background())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		if _, err := os.Stat(r.Dir); err == nil {
			t.Fatalf("%s: there is a folder", want)
		}
	}
	r, said := begin(filepath.Join(dir, "untold"), "", ""), ""
	r.OnNote = func(s string) { said += s }
	if train(t, r); !strings.Contains(said, "untold/step-00000000 has no tokenizer") {
		t.Errorf("it says %q", said)
	}
}

// others is a tokenizer that has the ids of another one.
type others struct{ token.Bytes }

func (others) Name() string   { return "gpt2" }
func (others) Hash() [32]byte { return [32]byte{1} }

// A guided run that begins with a dense model has the loss of that in the first
// step, whatever its factors are, and resumes with the same bits. The factors are the
// projections of the dense matrices.
func TestInitDense(t *testing.T) {
	dir := t.TempDir()
	prepare(t, filepath.Join(dir, "data"))
	const settings = "train: {steps: 30, batch: 2, accumulate: 2, seq: 32, lr: 0.01"
	of := func(mlp, train string) string {
		s := strings.Replace(tiny, "{kind: lowrank, rank: 8}", mlp, 1)
		return strings.Replace(s, settings, "train: {steps: 8, batch: 2, accumulate: 2, seq: 32, lr: 0.01"+train, 1)
	}
	r := newRun(t, filepath.Join(dir, "data"), filepath.Join(dir, "dense"), 2, "")
	r.Config = parse(t, of("{kind: dense}", ""))
	dense := train(t, r)
	given := parameters(t, dense.Checkpoint)
	// The same sequences without guides: the dense model goes on.
	r = newRun(t, filepath.Join(dir, "data"), filepath.Join(dir, "on"), 2, "")
	r.Config, r.Init = parse(t, of("{kind: dense}", "")), dense.Checkpoint
	train(t, r)
	want := readMetrics(t, r.Dir)[0].Loss
	for i, mlp := range []string{"{kind: lowrank, rank: 8}", "{kind: blockshuffle, blocks: 4, first_layer_dense: false}", "{kind: btt, rank: 2, except: [{layers: 1, kind: lowrank, rank: 4}]}", "{kind: blast, rank: 4, blocks: 2}"} {
		begin := func(name string, threads int) *Run {
			r := newRun(t, filepath.Join(dir, "data"), filepath.Join(dir, fmt.Sprint(name, i)), threads, "")
			r.Config, r.Init = parse(t, of(mlp, ", guide: {}")), dense.Checkpoint
			return r
		}
		whole := train(t, begin("whole", 2))
		if got := readMetrics(t, filepath.Join(dir, fmt.Sprint("whole", i)))[0].Loss; math.Abs(got-want) > 1e-5 {
			t.Errorf("%s: the first loss is %v, that of the dense model %v", mlp, got, want)
		}
		for _, stop := range []int{0, 2, 6} {
			r := begin(fmt.Sprint("from", stop), 1)
			res, _ := trainOn(t, r, func(c *counted, cut func()) {
				if c.micros == 2*stop+1 {
					cut()
				}
			})
			if stop == 0 {
				checkDense(t, res.Checkpoint, r.Config, given)
			}
			r.Init, r.Resume = "", true
			if res := train(t, r); !bytes.Equal(weights(t, res.Checkpoint), weights(t, whole.Checkpoint)) {
				t.Errorf("%s: the run that resumes at step %d ends with other weights", mlp, stop)
			}
		}
	}
	// Without guides the matrices would go nowhere.
	for train, want := range map[string]string{"": "mlp: layer 1 is dense, want lowrank, rank 8", ", guide: {max_step_ratio: 0.1}": "guide: of 8 steps none is guided"} {
		r := newRun(t, filepath.Join(dir, "data"), filepath.Join(dir, "none"), 2, "")
		r.Config, r.Init = parse(t, of("{kind: lowrank, rank: 8}", train)), dense.Checkpoint
		if _, err := r.Train(context.Background()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// checkDense compares a guided checkpoint before its first step with the dense
// parameters that it was given.
func checkDense(t *testing.T, dir string, c *config.Config, given *model.Params) {
	t.Helper()
	m := c.Model
	p := model.NewParams(m)
	defer p.Close()
	if err := checkpoint.Load(dir, p); err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, q := range p.Guides() {
		name := strings.TrimSuffix(q.Name, "guide_linear")
		if !slices.Equal(p.Get(q.Name), given.Get(name+"weight")) {
			t.Errorf("%s is not the dense matrix", q.Name)
		}
		checked++
	}
	pool := rt.NewPool(1)
	defer pool.Close()
	for i := range m.Layers {
		f := m.LayerFFN(i)
		for name, l := range map[string]spec.Linear{"fc1": f.FC1(), "fc2": f.FC2()} {
			name = model.LayerName(i) + ".mlp." + name + "."
			if !l.Guide {
				continue
			}
			want, err := project.Project(t.Context(), l, floats(given.Get(name+"weight")), project.Goal{}, rt.Options{Pool: pool})
			if err != nil {
				t.Fatal(err)
			}
			for j, f := range l.Chain() {
				for n, v := range p.Get(name + f.Param) {
					if v != float32(want.Factors[j][n]) {
						t.Fatalf("%s[%d] is %v, the projection has %v", name+f.Param, n, v, want.Factors[j][n])
					}
				}
			}
		}
	}
	for _, q := range p.List() {
		if want := given.Get(q.Name); want != nil && !slices.Equal(p.Get(q.Name), want) {
			t.Errorf("%s is not the dense model's", q.Name)
		}
	}
	if checked < 2 {
		t.Errorf("%d guides", checked)
	}
}

// A guided run that begins with a structured model has the function of the dense one
// whose matrices are its guides, but for the order of sums, and after the guides that of
// the structured one, to the bit; it resumes in between.
func TestInitGuides(t *testing.T) {
	dir := t.TempDir()
	prepare(t, filepath.Join(dir, "data"))
	// Steps that move nothing.
	const settings = "train: {steps: 30, batch: 2, accumulate: 2, seq: 32, lr: 0.01, eval_every: 10, eval_tokens: 512}"
	of := func(mlp, train string) *config.Config {
		s := strings.Replace(tiny, "{kind: lowrank, rank: 8}", mlp+"\n  act: swiglu", 1)
		return parse(t, strings.Replace(s, settings, "train: {steps: 6, batch: 2, accumulate: 2, seq: 32, lr: 1e-30, eval_tokens: 512"+train+"}", 1))
	}
	begin := func(name string, c *config.Config, init, guides string) *Run {
		r := newRun(t, filepath.Join(dir, "data"), filepath.Join(dir, name), 2, "")
		r.Config, r.Init, r.Guides = c, init, guides
		return r
	}
	losses := func(name string) (l []float64) {
		for _, m := range readMetrics(t, filepath.Join(dir, name)) {
			l = append(l, m.Loss)
		}
		return l
	}
	one := of("{kind: dense}", "")
	one.Train.LR = 0.01
	dense := train(t, begin("dense", one, "", "")).Checkpoint
	given := parameters(t, dense)
	train(t, begin("dense-on", of("{kind: dense}", ""), dense, ""))
	for i, mlp := range []string{"{kind: blockdense, rank: 8, blocks: 2}", "{kind: blast, rank: 6, blocks: 2, first_layer_dense: false, except: [{layers: 1, kind: dense}]}"} {
		name := fmt.Sprint(i)
		// What convert would make of it, but for other biases' sake a run of its own.
		c := of(mlp, "")
		p := model.NewParams(c.Model)
		defer p.Close()
		pool := rt.NewPool(1)
		defer pool.Close()
		initial.Model(p, c.Model, 7, initial.Merged, pool)
		for _, q := range p.List() {
			if g := given.Get(q.Name); g != nil {
				copy(p.Get(q.Name), g)
			}
		}
		converted := filepath.Join(dir, "converted"+name)
		imported(t, converted, c, p, token.Bytes{})
		train(t, begin("plain"+name, c, converted, ""))
		train(t, begin("guided"+name, of(mlp, ", guide: {}"), converted, dense))
		want, plain, got := losses("dense-on"), losses("plain"+name), losses("guided"+name)
		if math.Abs(got[0]-want[0]) > 1e-7 || math.Abs(plain[0]-want[0]) < 1e-5 {
			t.Errorf("%s: the first loss is %v, the dense model's %v, the structured one's %v", mlp, got[0], want[0], plain[0])
		}
		if !slices.Equal(got[3:], plain[3:]) {
			t.Errorf("%s: after the guides losses are %v, those of the structured model %v", mlp, got[3:], plain[3:])
		}
		r := begin("resumed"+name, of(mlp, ", guide: {}"), converted, dense)
		trainOn(t, r, func(c *counted, cut func()) {
			if c.micros == 3 {
				cut()
			}
		})
		r.Init, r.Guides, r.Resume = "", "", true
		train(t, r)
		if again := losses("resumed" + name); !slices.Equal(again, got) {
			t.Errorf("%s: the run that resumes has losses %v, want %v", mlp, again, got)
		}
	}
	// What cannot be guides is told by the layer, before there is a folder.
	narrow := of("{kind: dense}", "")
	narrow.Model.FFN = 64
	q := model.NewParams(narrow.Model)
	defer q.Close()
	src := *narrow
	src.Source = bytes.Replace(src.Source, []byte("ffn: 96"), []byte("ffn: 64"), 1)
	imported(t, filepath.Join(dir, "narrow"), &src, q, token.Bytes{})
	converted, block := filepath.Join(dir, "converted0"), "{kind: blockdense, rank: 8, blocks: 2}"
	for want, r := range map[string]*Run{
		"layer 1 of " + converted + "/step-00000000 is blockdense, rank 8, 2 blocks, want dense":                            begin("bad", of(block, ", guide: {}"), converted, converted),
		"layer 1 of " + dir + "/narrow/step-00000000 has the widths 32 and 64 (swiglu), the run's model 32 and 96 (swiglu)": begin("bad", of(block, ", guide: {}"), converted, filepath.Join(dir, "narrow")),
		"the configuration says nothing of guides":                                                                          begin("bad", of(block, ""), converted, dense),
		"want --init of a structured model":                                                                                 begin("bad", of(block, ", guide: {}"), dense, dense),
		"guide: of 6 steps none is guided":                                                                                  begin("bad", of(block, ", guide: {max_step_ratio: 0.1}"), converted, dense),
		"none: no such file":                                                                                                begin("bad", of(block, ", guide: {}"), converted, filepath.Join(dir, "none")),
	} {
		_, err := r.Train(context.Background())
		if err == nil || !strings.HasPrefix(err.Error(), "guides: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want guides: %s", err, want)
		}
		if _, err := os.Stat(r.Dir); err == nil {
			t.Fatalf("%s: there is a folder", want)
		}
	}
}

func floats(x []float32) (y []float64) {
	for _, v := range x {
		y = append(y, float64(v))
	}
	return y
}
