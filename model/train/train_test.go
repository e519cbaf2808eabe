package train

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/checkpoint"
	"github.com/structuredffn/sffn/model/config"
	"github.com/structuredffn/sffn/model/data"
	"github.com/structuredffn/sffn/model/data/source"
	"github.com/structuredffn/sffn/model/initial"
	"github.com/structuredffn/sffn/model/token"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/kernel"
)

const tiny = `
model:
  vocab: 257
  hidden: 32
  ffn: 96
  layers: 2
  q_heads: 2
  max_positions: 64
  mlp: {kind: lowrank, rank: 8}
train: {steps: 30, batch: 2, accumulate: 2, seq: 32, lr: 0.01, eval_every: 10, eval_tokens: 512}
`

func parse(t testing.TB, src string) *config.Config {
	t.Helper()
	c, err := config.Parse("tiny", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func prepare(t testing.TB, dir string) {
	t.Helper()
	var docs [][]byte
	for i := range 80 {
		docs = append(docs, []byte(strings.Repeat(fmt.Sprintf("%d times %d is %d\n", i, i, i*i), 30)))
	}
	prepareDocuments(t, dir, docs)
}

func prepareDocuments(t testing.TB, dir string, docs [][]byte) {
	t.Helper()
	p := data.Preparation{Sources: []source.Source{&source.Documents{Named: "text", Texts: docs}}, Tokenizer: token.Bytes{}}
	if _, err := p.Run(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
}

// newRun opens the data and a pool for a run.
func newRun(t testing.TB, dataDir, out string, threads int, isa kernel.ISA) *Run {
	t.Helper()
	set, err := data.Open(dataDir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(set.Close)
	pool := rt.NewPool(threads)
	t.Cleanup(pool.Close)
	return &Run{Config: parse(t, tiny), Data: set, Dir: out, Keep: 2, Options: rt.Options{Pool: pool, ISA: isa}}
}

func train(t testing.TB, r *Run) *Result {
	t.Helper()
	res, err := r.Train(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// weights reads everything that a checkpoint holds.
func weights(t testing.TB, dir string) []byte {
	t.Helper()
	var all []byte
	for _, name := range []string{"model.safetensors", "optimizer.safetensors"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	return all
}

func TestTrain(t *testing.T) {
	dir := t.TempDir()
	prepare(t, filepath.Join(dir, "data"))
	r := newRun(t, filepath.Join(dir, "data"), filepath.Join(dir, "one"), 1, "")
	var first, last Progress
	r.OnStep = func(p Progress) {
		if p.Step == 1 {
			first = p
		}
		last = p
	}
	one := train(t, r)
	if one.Interrupted || one.Step != 30 || !(one.ValLoss < 4) || !(last.Loss < first.Loss-1) {
		t.Errorf("trained to %+v, loss %v to %v", one, first.Loss, last.Loss)
	}
	for _, threads := range []int{2, 3} {
		many := train(t, newRun(t, filepath.Join(dir, "data"), filepath.Join(dir, fmt.Sprint(threads)), threads, ""))
		if !bytes.Equal(weights(t, one.Checkpoint), weights(t, many.Checkpoint)) {
			t.Errorf("%d threads train other weights than 1", threads)
		}
	}
	lines, _, err := ReadMetrics(r.Dir, 100)
	if err != nil || len(lines) != 30 || lines[29].Step != 30 || lines[9].ValLoss == nil || lines[8].ValLoss != nil || lines[29].Tokens != 30*2*2*32 {
		t.Errorf("metrics: %d lines, %v", len(lines), err)
	}
	f, err := os.Open(filepath.Join(r.Dir, CurveFile))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := png.Decode(f); err != nil {
		t.Errorf("%s: %v", CurveFile, err)
	}
	// A second run in the same folder would overwrite it.
	if _, err := newRun(t, filepath.Join(dir, "data"), r.Dir, 1, "").Train(context.Background()); err == nil || !strings.Contains(err.Error(), "holds a run already") {
		t.Errorf("starting over an old run: %v", err)
	}
}

// An interrupt finishes the step and saves; the run that resumes, here with
// another number of threads, ends with the bits of an unbroken one, and its
// metrics have each step once.
func TestInterrupt(t *testing.T) {
	dir := t.TempDir()
	prepare(t, filepath.Join(dir, "data"))
	whole := train(t, newRun(t, filepath.Join(dir, "data"), filepath.Join(dir, "whole"), 2, ""))
	ctx, cancel := context.WithCancel(context.Background())
	r := newRun(t, filepath.Join(dir, "data"), filepath.Join(dir, "broken"), 2, "")
	r.OnStep = func(p Progress) {
		if p.Step == 13 {
			cancel()
		}
	}
	res, err := r.Train(ctx)
	if err != nil || !res.Interrupted || res.Step != 13 {
		t.Fatalf("interrupted: %+v, %v", res, err)
	}
	r = newRun(t, filepath.Join(dir, "data"), filepath.Join(dir, "broken"), 1, "")
	r.Resume = true
	if res = train(t, r); res.Step != 30 || !bytes.Equal(weights(t, res.Checkpoint), weights(t, whole.Checkpoint)) {
		t.Error("the run that was interrupted ends with other weights")
	}
	lines, _, err := ReadMetrics(r.Dir, 100)
	if err != nil || !slices.EqualFunc(lines, make([]int, 30), func(m Metrics, _ int) bool { return m.Loss > 0 }) {
		t.Errorf("metrics: %d lines, %v", len(lines), err)
	}
	for i, m := range lines {
		if m.Step != i+1 {
			t.Fatalf("line %d of the metrics is step %d", i, m.Step)
		}
	}
	// Nothing is left to do, which is no error.
	if res = train(t, r); res.Step != 30 {
		t.Errorf("resuming a finished run: %+v", res)
	}
}

// Whether activations are computed again changes no bit of a run, which may
// resume the other way.
func TestRecompute(t *testing.T) {
	dir := t.TempDir()
	prepare(t, filepath.Join(dir, "data"))
	whole := train(t, newRun(t, filepath.Join(dir, "data"), filepath.Join(dir, "whole"), 2, ""))
	ctx, cancel := context.WithCancel(context.Background())
	r := newRun(t, filepath.Join(dir, "data"), filepath.Join(dir, "recomputed"), 2, "")
	r.Config = parse(t, strings.Replace(tiny, "steps: 30", "recompute: true, steps: 30", 1))
	r.OnStep = func(p Progress) {
		if p.Step == 13 {
			cancel()
		}
	}
	if res, err := r.Train(ctx); err != nil || res.Step != 13 {
		t.Fatalf("interrupted: %+v, %v", res, err)
	}
	r = newRun(t, filepath.Join(dir, "data"), r.Dir, 1, "")
	r.Resume = true
	if res := train(t, r); !bytes.Equal(weights(t, res.Checkpoint), weights(t, whole.Checkpoint)) {
		t.Error("the run that recomputed activations at first ends with other weights")
	}
}

// Guided runs of every mode end with the same bits whether or not they are
// interrupted: inside the guided phase, at its end, and after it. Their
// checkpoints hold guides in that phase only, and apart from the model.
func TestGuidedResume(t *testing.T) {
	dir := t.TempDir()
	prepare(t, filepath.Join(dir, "data"))
	for i, guide := range []string{
		"{max_step_ratio: 0.5, mode: fixedflop, reduce_flop: true}",
		"{schedule: linear, start: published}",
	} {
		src := strings.Replace(tiny, "steps: 30", "guide: "+guide+", steps: 12", 1)
		src = strings.Replace(src, "lowrank, rank: 8", "blockshuffle, blocks: 4", 1)
		begin := func(name string, threads int) *Run {
			r := newRun(t, filepath.Join(dir, "data"), filepath.Join(dir, fmt.Sprint(name, i)), threads, "")
			r.Config, r.Keep = parse(t, src), 100
			return r
		}
		r := begin("whole", 2)
		r.SaveEvery = 1
		whole := train(t, r)
		if want := r.Config.Course(); whole.Steps != want.Steps || want.Guided != 6 || whole.Step != want.Steps {
			t.Fatalf("trained %d of %d steps, %+v", whole.Step, whole.Steps, want)
		}
		for _, stop := range []int{4, 6, 9} {
			at := filepath.Join(r.Dir, fmt.Sprintf("step-%08d", stop))
			_, err := os.Stat(filepath.Join(at, "guides.safetensors"))
			if (err == nil) != (stop < 6) {
				t.Errorf("step %d: guides in the checkpoint: %v", stop, err)
			}
			if err := checkpoint.Verify(at, r.Config); err != nil {
				t.Error(err)
			}
			again := begin(fmt.Sprint("from", stop), 1)
			if err := os.CopyFS(filepath.Join(again.Dir, filepath.Base(at)), os.DirFS(at)); err != nil {
				t.Fatal(err)
			}
			again.Resume = true
			if res := train(t, again); !bytes.Equal(weights(t, res.Checkpoint), weights(t, whole.Checkpoint)) {
				t.Errorf("%s: the run that resumes at step %d ends with other weights", guide, stop)
			}
		}
	}
}

// Draws are uniform, the same every time, and others for every seed, step and
// micro-batch.
func TestUniforms(t *testing.T) {
	seen := map[float64]bool{}
	sum, n := 0.0, 0
	for seed := range uint64(3) {
		draw := uniforms(seed)
		for step := range 20 {
			for micro := range 3 {
				u, again := make([]float64, 8), make([]float64, 8)
				draw(u, step, micro)
				uniforms(seed)(again, step, micro)
				if !slices.Equal(u, again) {
					t.Fatal("drawn again, the numbers are others")
				}
				for _, v := range u {
					if v < 0 || v >= 1 || seen[v] {
						t.Fatalf("%v is out of range or comes twice", v)
					}
					seen[v] = true
					sum += v
					n++
				}
			}
		}
	}
	// The mean of n draws has a deviation of 1/sqrt(12 n).
	if mean := sum / float64(n); math.Abs(mean-0.5) > 5/math.Sqrt(12*float64(n)) {
		t.Errorf("the mean of %d draws is %v", n, mean)
	}
}

// A guide that no micro-batch used is left alone: no decay, no moments, no
// count; a used one moves, and the norm has both phases' parameters.
func TestUnusedGuide(t *testing.T) {
	m := parse(t, strings.Replace(tiny, "steps: 30", "guide: {}, steps: 30", 1)).Model
	pool := rt.NewPool(2)
	defer pool.Close()
	p := model.NewParams(m)
	defer p.Close()
	initial.Model(p, m, 1, initial.Merged, pool)
	tf, err := model.New(m, p, rt.Options{Pool: pool, Train: true})
	if err != nil {
		t.Fatal(err)
	}
	defer tf.Close()
	adam := NewAdamW(tf, 0.9, 0.999, 1e-8, 0.1, 1)
	defer adam.Close()
	grads := model.NewParams(m)
	defer grads.Close()
	for i := range grads.Data {
		grads.Data[i] = 1
	}
	guides := p.Guides()
	one, two := p.Get(guides[0].Name), p.Get(guides[1].Name)
	before := slices.Concat(one, two)
	adam.Used = []bool{true, false}
	norm := adam.Step(grads, 0.01)
	_, rest := p.Ranges()
	if want := math.Sqrt(float64(len(one) + rest.Hi - rest.Lo)); math.Abs(norm-want) > 1e-6*want {
		t.Errorf("norm %v, want %v", norm, want)
	}
	if slices.Equal(one, before[:len(one)]) || !slices.Equal(two, before[len(one):]) || !slices.Equal(adam.GuideSteps, []int{1, 0}) {
		t.Errorf("the used guide has to move and the unused one to stay; updates %v", adam.GuideSteps)
	}
	// Its first update is a first one, bias correction included.
	adam.Used = nil
	adam.Step(grads, 0.01)
	moved := before[len(one)]*(1-0.01*0.1) - 0.01
	if got := two[0]; math.Abs(float64(got-moved)) > 1e-5 {
		t.Errorf("the first update of a guide leads to %v, want %v", got, moved)
	}
}

// A run resumes on another instruction set, which rounds the activations and
// norms otherwise, with nearly the same loss.
func TestResumeOnAnotherISA(t *testing.T) {
	isas := kernel.Available()
	dir := t.TempDir()
	prepare(t, filepath.Join(dir, "data"))
	whole := train(t, newRun(t, filepath.Join(dir, "data"), filepath.Join(dir, "whole"), 2, isas[0]))
	ctx, cancel := context.WithCancel(context.Background())
	r := newRun(t, filepath.Join(dir, "data"), filepath.Join(dir, "moved"), 2, isas[0])
	r.OnStep = func(p Progress) {
		if p.Step == 15 {
			cancel()
		}
	}
	if _, err := r.Train(ctx); err != nil {
		t.Fatal(err)
	}
	r = newRun(t, filepath.Join(dir, "data"), filepath.Join(dir, "moved"), 2, isas[len(isas)-1])
	r.Resume = true
	if moved := train(t, r); !(moved.ValLoss-whole.ValLoss < 0.02 && whole.ValLoss-moved.ValLoss < 0.02) {
		t.Errorf("%s to %s ends at %v, %s alone at %v", isas[0], isas[len(isas)-1], moved.ValLoss, isas[0], whole.ValLoss)
	}
}

// What cannot be resumed says why.
func TestResumeErrors(t *testing.T) {
	dir := t.TempDir()
	prepare(t, filepath.Join(dir, "data"))
	run := filepath.Join(dir, "run")
	res := train(t, newRun(t, filepath.Join(dir, "data"), run, 1, ""))
	other := filepath.Join(dir, "other")
	var docs [][]byte
	for i := range 80 {
		docs = append(docs, []byte(fmt.Sprint(i, strings.Repeat(" another text", 30))))
	}
	prepareDocuments(t, other, docs)
	resume := func(dataDir string, edit func(*Run)) error {
		r := newRun(t, dataDir, run, 1, "")
		r.Resume = true
		edit(r)
		_, err := r.Train(context.Background())
		return err
	}
	good := filepath.Join(dir, "data")
	state := filepath.Join(res.Checkpoint, "state.json")
	text, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		want string
		err  func() error
	}{
		{"planned for 30 steps, which its learning rate follows; it may resume with more, not with 20", func() error { return resume(good, func(r *Run) { r.Config.Train.Steps = 20 }) }},
		{"the configuration is not the one", func() error { return resume(good, func(r *Run) { r.Config.Train.LR = 1 }) }},
		{"is not what", func() error { return resume(other, func(*Run) {}) }},
		{"nothing to resume", func() error { return resume(good, func(r *Run) { r.Dir = filepath.Join(dir, "nowhere") }) }},
		{"rank 3 of 2", func() error { return resume(good, func(r *Run) { r.Rank, r.World = 3, 2 }) }},
		{"is damaged, or was changed", func() error {
			if err := os.WriteFile(state, bytes.Replace(text, []byte(`"step": 30`), []byte(`"step": 31`), 1), 0o666); err != nil {
				t.Fatal(err)
			}
			return resume(good, func(*Run) {})
		}},
		{"state.json", func() error {
			if err := os.WriteFile(state, []byte("{"), 0o666); err != nil {
				t.Fatal(err)
			}
			return resume(good, func(*Run) {})
		}},
		{"cut off or damaged", func() error {
			if err := os.WriteFile(state, text, 0o666); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(filepath.Join(res.Checkpoint, "model.safetensors"), 5000); err != nil {
				t.Fatal(err)
			}
			return resume(good, func(*Run) {})
		}},
	} {
		if err := c.err(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want it to contain %q", err, c.want)
		}
	}
}

// Two processes that average their gradients read what one of twice the batch
// reads; the hook sees the gradients before clipping.
func TestReduce(t *testing.T) {
	dir := t.TempDir()
	prepare(t, filepath.Join(dir, "data"))
	r := newRun(t, filepath.Join(dir, "data"), filepath.Join(dir, "run"), 1, "")
	calls := 0
	r.Reduce = func(g []float32) error {
		calls++
		clear(g)
		return nil
	}
	var norms []float64
	r.OnStep = func(p Progress) { norms = append(norms, p.GradNorm) }
	train(t, r)
	if calls != 30 || slices.Max(norms) != 0 {
		t.Errorf("%d calls, gradient norms %v after a hook that clears", calls, norms)
	}
	fail := errors.New("the network is down")
	r = newRun(t, filepath.Join(dir, "data"), filepath.Join(dir, "fails"), 1, "")
	r.Reduce = func([]float32) error { return fail }
	if _, err := r.Train(context.Background()); !errors.Is(err, fail) {
		t.Errorf("got %v", err)
	}
}

// A checkpoint that cannot be written leaves the one before it whole.
func TestSaveFails(t *testing.T) {
	dir := t.TempDir()
	prepare(t, filepath.Join(dir, "data"))
	run := filepath.Join(dir, childRun)
	ctx, cancel := context.WithCancel(context.Background())
	r := newRun(t, filepath.Join(dir, "data"), run, 1, "")
	r.OnStep = func(p Progress) {
		if p.Step == 5 {
			cancel()
		}
	}
	res, err := r.Train(ctx)
	if err != nil {
		t.Fatal(err)
	}
	before := weights(t, res.Checkpoint)
	// A limit on the size of files, in another process, stands for a full disk.
	out, err := child(t, dir, limitFileSize).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "the earlier checkpoints are whole") {
		t.Errorf("the trainer ends with %v:\n%s", err, out)
	}
	if !bytes.Equal(before, weights(t, res.Checkpoint)) {
		t.Error("the earlier checkpoint has changed")
	}
	if latest, err := checkpoint.Find(run); err != nil || latest != res.Checkpoint {
		t.Errorf("newest checkpoint %s, %v; want %s", latest, err, res.Checkpoint)
	}
}

// Metrics files come from disk: nothing in them may do harm.
func FuzzMetrics(f *testing.F) {
	f.Add([]byte(`{"step":1,"loss":2.5}` + "\n" + `{"step":2,"loss":2,"val_loss":3}` + "\n{\"st"))
	f.Add([]byte("\n\n"))
	f.Add([]byte(`{"step":1,"loss":1e999}` + "\n" + `{"step":2,"loss":"NaN"}` + "\n" + `{"step":-3,"grad_norms":{"a":[[[[[]]]]]}}` + "\n"))
	f.Add([]byte(`{"step":1,"loss":1}` + "\r\n\x00\x00\x00\n" + `{"step":2,"step":1,"val_loss":null}`))
	f.Add([]byte(strings.Repeat("[", 200) + "\n" + `{"step":1,"loss":2}` + "\n" + `{"step":2}` + "\n"))
	f.Add([]byte(strings.ReplaceAll("{step:1}\n{step:9}\n{step:2}\nnull\n{step:2}\n{step:3}", "step", `"loss":2,"step"`)))
	f.Add(append(bytes.Repeat([]byte{0}, 2*maxLine), "\n{\"step\":1,\"loss\":2}\n"...))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, MetricsFile), b, 0o666); err != nil {
			t.Fatal(err)
		}
		before, _, err := ReadMetrics(dir, 3)
		if err != nil {
			t.Fatal(err)
		}
		w, err := openMetrics(dir, before)
		if err != nil {
			t.Fatal(err)
		}
		w.Close()
		// What is kept is whole.
		lines, damage, err := ReadMetrics(dir, 3)
		if err != nil || damage != "" || len(lines) != len(before) {
			t.Fatalf("%d lines of %d, %s, %v", len(lines), len(before), damage, err)
		}
		for i, m := range lines {
			if m.Step > 3 || m.Step <= i {
				t.Errorf("step %d is kept", m.Step)
			}
		}
	})
}

// A step of training allocates nothing once its buffers have grown: data, both
// passes with accumulation, guides drawn at random, the optimizer and packing.
func TestStepAllocatesNothing(t *testing.T) {
	dataDir := t.TempDir()
	prepare(t, dataDir)
	for name, change := range map[string][2]string{
		"dense":        {"mlp: {kind: lowrank, rank: 8}", "mlp: {kind: dense}"},
		"lowrank":      {"q_heads: 2", "q_heads: 2"},
		"blockshuffle": {"mlp: {kind: lowrank, rank: 8}", "kv_heads: 1\n  act: swiglu\n  bias: false\n  norm: rmsnorm\n  position: absolute\n  mlp: {kind: blockshuffle, blocks: 2}"},
		"blockdense":   {"mlp: {kind: lowrank, rank: 8}", "tie_embeddings: false\n  mlp: {kind: blockdense, rank: 8, blocks: 2}"},
		"btt":          {"mlp: {kind: lowrank, rank: 8}", "act: swiglu\n  mlp: {kind: btt, rank: 3}"},
		"blast":        {"mlp: {kind: lowrank, rank: 8}", "mlp: {kind: blast, rank: 24, blocks: 4}"},
		"normed heads": {"q_heads: 2", "q_heads: 2\n  qk_norm: true\n  window: 9"},
		"recomputed":   {"eval_every: 10,", "recompute: true,"},
		"bf16":         {"eval_every: 10,", "precision: bf16, guide: {max_step_ratio: 1},"},
		"guided":       {"eval_every: 10,", "guide: {max_step_ratio: 1, reduce_flop: true},"},
	} {
		for _, threads := range []int{1, 2} {
			r := newRun(t, dataDir, t.TempDir(), threads, "")
			r.Config = parse(t, strings.Replace(tiny, change[0], change[1], 1))
			r.Config.Train.NormEvery = 0 // a map for each step's line
			tr, err := r.begin()
			if err != nil {
				t.Fatal(err)
			}
			tr.watch.before = slices.Grow(tr.watch.before, watchWindow+1)
			step := func() {
				if _, err := tr.Step(context.Background()); err != nil {
					t.Fatal(err)
				}
			}
			for range 3 {
				step()
			}
			if n := testing.AllocsPerRun(25, step); n != 0 {
				t.Errorf("%s, %d threads: a step makes %v allocations", name, threads, n)
			}
			tr.Close()
		}
	}
}

// A run goes on from its own folder alone, and from checkpoints that can be
// used; what cannot be read says what to do.
func TestResumeFromWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	prepare(t, filepath.Join(dir, "data"))
	r := newRun(t, filepath.Join(dir, "data"), filepath.Join(dir, "run"), 1, "")
	for _, stop := range []int{3, 5} {
		ctx, cancel := context.WithCancel(t.Context())
		r.OnStep = func(p Progress) {
			if p.Step == stop {
				cancel()
			}
		}
		if _, err := r.Train(ctx); err != nil {
			t.Fatal(err)
		}
		cancel()
		r.Resume = true
	}
	all, err := filepath.Glob(filepath.Join(r.Dir, "step-*"))
	if err != nil || len(all) < 2 {
		t.Fatalf("%d checkpoints, %v; want two or more", len(all), err)
	}
	older, newest := all[len(all)-2], all[len(all)-1]
	demand := func(what string, words ...string) {
		t.Helper()
		_, err := r.Train(t.Context())
		for _, w := range words {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v, want it to say %q", what, err, w)
			}
		}
	}
	run := r.Dir
	r.Dir = newest
	demand("a checkpoint for a run", newest+" is a checkpoint, want the folder of its run: "+run)
	r.Dir = run
	model := filepath.Join(newest, "model.safetensors")
	text, err := os.ReadFile(model)
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)-5] ^= 1
	if err := os.WriteFile(model, text, 0o666); err != nil {
		t.Fatal(err)
	}
	demand("a flipped bit", "is damaged", "to go on from "+older+", move "+newest+" out of the run's folder")
	if err := os.Remove(model); err != nil {
		t.Fatal(err)
	}
	demand("a missing file", "no such file", "to go on from "+older)
	if err := os.RemoveAll(newest); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(older, newest); err != nil {
		t.Fatal(err)
	}
	demand("a folder of another name", "call it "+filepath.Base(older))
}
