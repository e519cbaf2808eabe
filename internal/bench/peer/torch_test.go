package peer

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/decode"
	"github.com/structuredffn/sffn/model/initial"
	"github.com/structuredffn/sffn/model/safetensors"
	"github.com/structuredffn/sffn/model/train"
	rt "github.com/structuredffn/sffn/runtime"
)

// torchOrSkip skips where PyTorch cannot run, and says what is missing.
func torchOrSkip(t *testing.T, name string) Torch {
	t.Helper()
	found, _, err := FindTorch([]string{name})
	if err != nil {
		t.Skip("skipped: ", err)
	}
	return found[0]
}

// start writes the tensors to a file and starts PyTorch with them.
func start(t *testing.T, torch Torch, job Job, values []safetensors.Value) *Process {
	t.Helper()
	job.File, job.Threads = filepath.Join(t.TempDir(), "values.safetensors"), 2
	f, err := os.Create(job.File)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := safetensors.Write(f, values, nil); err != nil {
		t.Fatal(err)
	}
	p, err := torch.Start(job)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func show(t *testing.T, p *Process, op string) [][]float32 {
	t.Helper()
	r, err := p.show(op)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// near compares float32 results of two programs that sum in different orders.
func near(t *testing.T, what string, got, want []float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: torch has %d entries, we %d", what, len(got), len(want))
	}
	scale := float32(0)
	for _, v := range want {
		scale = max(scale, v, -v)
	}
	for i, v := range want {
		if d := math.Abs(float64(got[i] - v)); !(d <= 2e-5*float64(scale)) {
			t.Fatalf("%s[%d]: torch computes %v, we %v", what, i, got[i], v)
		}
	}
}

// small lists models that together have every form of every part.
var small = []spec.Model{
	{Kind: spec.Dense, Act: spec.GELU, Norm: spec.LayerNorm, NormEps: 1e-5, Position: spec.RoPE, QKVBias: true, OutputBias: true, FFNBias: true, TieEmbeddings: true, KVHeads: 4},
	{Kind: spec.LowRank, Rank: 5, Act: spec.SwiGLU, Norm: spec.RMSNorm, NormEps: 1e-5, Position: spec.Absolute, KVHeads: 2},
	{Kind: spec.BlockDense, Rank: 12, Blocks: 3, Act: spec.GELU, Norm: spec.RMSNorm, NormEps: 1e-5, Position: spec.RoPE, Except: "0:dense", ScaleAttnByLayer: true, KVHeads: 2, TieEmbeddings: true},
	{Kind: spec.BlockShuffle, Blocks: 4, Act: spec.SwiGLU, Norm: spec.LayerNorm, NormEps: 1e-5, Position: spec.Absolute, QKVBias: true, OutputBias: true, FFNBias: true, Except: "0:lowrank_r7", KVHeads: 1},
	{Kind: spec.BlockShuffle, Blocks: 2, Act: spec.GELU, Norm: spec.LayerNorm, NormEps: 1e-5, Position: spec.RoPE, QKVBias: true, OutputBias: true, FFNBias: true, TieEmbeddings: true, KVHeads: 4},
}

func init() {
	for i := range small {
		m := &small[i]
		m.Name = fmt.Sprintf("%s_%s_%s_%s", m.Kind, m.Act, m.Norm, m.Position)
		m.Vocab, m.Hidden, m.FFN, m.Layers, m.AttnDim, m.QHeads, m.MaxPositions, m.RotaryBase, m.InitStd = 37, 24, 48, 2, 32, 4, 16, 10000, 0.2
	}
}

func TestTorchFFN(t *testing.T) {
	torch := torchOrSkip(t, "torch")
	const rows = 7
	for _, m := range small {
		t.Run(m.Name, func(t *testing.T) { testTorchFFN(t, torch, m.LayerFFN(1), rows) })
	}
}

func TestTorchCompiled(t *testing.T) {
	torch := torchOrSkip(t, "torch-compile")
	testTorchFFN(t, torch, small[4].LayerFFN(1), 7)
	testTorchDecode(t, torch, small[0])
}

func testTorchFFN(t *testing.T, torch Torch, f spec.FFN, rows int) {
	var values []safetensors.Value
	draw := func(name string, shape ...int) []float32 {
		x := make([]float32, spec.Param{Shape: shape}.Size())
		for i := range x {
			x[i] = float32(math.Sin(float64(i*i+7*len(values)))) / 2
		}
		values = append(values, safetensors.Value{Name: name, Shape: shape, Data: x})
		return x
	}
	weights := func(name string, l spec.Linear) (w, g rt.Weights) {
		for _, p := range l.Params() {
			x, dx := draw(name+"."+p.Name, p.Shape...), make([]float32, p.Size())
			if p.Name == "bias" {
				w.Bias, g.Bias = x, dx
			} else {
				w.Factors, g.Factors = append(w.Factors, x), append(g.Factors, dx)
			}
		}
		return w, g
	}
	var w, g rt.FFNWeights
	w.FC1, g.FC1 = weights("fc1", f.FC1())
	w.FC2, g.FC2 = weights("fc2", f.FC2())
	x, dy := draw("x", rows, f.Hidden), draw("dy", rows, f.Hidden)
	n, err := rt.NewFFN(f, w, rt.Options{Train: true})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	y, dx, ws, saved := make([]float32, len(x)), make([]float32, len(x)), n.NewWorkspace(), n.NewSaved(rows)
	defer ws.Close()
	defer saved.Close()
	n.Forward(y, x, nil, rows, saved, ws)
	n.Backward(dx, g, dy, x, rows, saved, false, ws)

	p := start(t, torch, Job{Mode: "ffn", FFN: &f, Rows: rows}, values)
	near(t, "y", show(t, p, "forward")[0], y)
	r := show(t, p, "forward and backward")
	near(t, "y with gradients", r[0], y)
	near(t, "dx", r[1], dx)
	want := slices.Concat(g.FC1.Factors, [][]float32{g.FC1.Bias}, g.FC2.Factors, [][]float32{g.FC2.Bias})
	want = slices.DeleteFunc(want, func(x []float32) bool { return x == nil })
	for i, x := range want {
		near(t, fmt.Sprintf("gradient %d", i), r[2+i], x)
	}
	if s, err := p.Run("forward", 3); err != nil || s <= 0 || s > 10 {
		t.Error(s, err)
	}
}

// newModel draws a model; values are its parameters.
func newModel(t *testing.T, s spec.Model) (m *model.Model, values []safetensors.Value) {
	t.Helper()
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	pool := rt.NewPool(2)
	t.Cleanup(pool.Close)
	p := model.NewParams(s)
	t.Cleanup(p.Close)
	initial.Model(p, s, 3, nil, pool)
	for _, q := range p.List() {
		for i := range p.Get(q.Name) { // also norms and biases, which begin as ones and zeros
			p.Get(q.Name)[i] += 0.1 * float32(math.Sin(float64(i)))
		}
		values = append(values, safetensors.Value{Name: q.Name, Shape: q.Shape, Data: slices.Clone(p.Get(q.Name))})
	}
	m, err := model.New(s, p, rt.Options{Pool: pool, Train: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m, values
}

func someTokens(n, vocab int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(i * i % vocab)
	}
	return ids
}

// Three steps of training: a wrong gradient, norm or update would show in the
// second loss.
func TestTorchTrain(t *testing.T) {
	torch := torchOrSkip(t, "torch")
	for _, s := range small {
		t.Run(s.Name, func(t *testing.T) {
			m, values := newModel(t, s)
			const batch, seq = 2, 9
			ids, targets := someTokens(batch*seq, s.Vocab), someTokens(2*batch*seq, s.Vocab)[batch*seq:]
			tr, grads, adam := m.NewTrace(batch*seq), model.NewParams(s), train.NewAdamW(m, 0.9, 0.95, 1e-8, 0.1, 1)
			defer tr.Close()
			defer grads.Close()
			defer adam.Close()
			p := start(t, torch, Job{Mode: "train", Model: &s, Batch: batch, IDs: ids, Targets: targets, LR: 0.01}, values)
			for range 3 {
				loss, err := tr.Backward(grads, ids, targets, batch, 1, false)
				if err != nil {
					t.Fatal(err)
				}
				adam.Step(grads, 0.01)
				m.Repack()
				near(t, "loss", show(t, p, "train")[0], []float32{float32(loss)})
			}
		})
	}
}

func TestTorchDecode(t *testing.T) {
	torch := torchOrSkip(t, "torch")
	for _, s := range small {
		t.Run(s.Name, func(t *testing.T) { testTorchDecode(t, torch, s) })
	}
}

func testTorchDecode(t *testing.T, torch Torch, s spec.Model) {
	m, values := newModel(t, s)
	const batch, context, steps = 3, 8, 4
	ids := someTokens(batch*(context+1), s.Vocab)
	d, err := decode.Of(m).NewDecoder(batch, context+steps)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	feed := func(lo, hi int) []float32 {
		var tokens [][]int32
		for i := range batch {
			tokens = append(tokens, ids[i*(context+1):][lo:hi])
		}
		logits, err := d.Feed([]int{0, 1, 2}, tokens)
		if err != nil {
			t.Fatal(err)
		}
		return logits
	}
	p := start(t, torch, Job{Mode: "decode", Model: &s, Batch: batch, Seq: context, Steps: steps, IDs: ids}, values)
	near(t, "logits after the prompt", show(t, p, "prefill")[0], feed(0, context))
	for range steps {
		near(t, "logits of a decoded token", show(t, p, "decode")[0], feed(context, context+1))
	}
}

func TestTorchErrors(t *testing.T) {
	if _, _, err := FindTorch([]string{"jax"}); err == nil || !strings.Contains(err.Error(), "want torch, torch-compile or all") {
		t.Error(err)
	}
	t.Run("broken", func(t *testing.T) {
		torch := torchOrSkip(t, "torch")
		f := small[1].LayerFFN(1)
		if _, err := torch.Start(Job{Mode: "ffn", FFN: &f, Rows: 2, Threads: 1, File: "nowhere"}); err == nil || !strings.Contains(err.Error(), "torch: FileNotFoundError") {
			t.Error(err)
		}
		p := start(t, torch, Job{Mode: "ffn", FFN: &f, Rows: 2}, []safetensors.Value{})
		if _, err := p.Run("backward", 1); err == nil || !strings.Contains(err.Error(), "KeyError: 'backward'") {
			t.Error(err)
		}
	})
	t.Setenv("PATH", t.TempDir())
	if _, _, err := FindTorch([]string{"torch"}); err == nil || !strings.Contains(err.Error(), "pip install torch") {
		t.Error(err)
	}
	found, absent, err := FindTorch([]string{"all"})
	if err != nil || len(found) != 0 || len(absent) != 2 {
		t.Error(found, absent, err)
	}
}
