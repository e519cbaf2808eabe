package peer

import (
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
	"github.com/structuredffn/sffn/model/decode"
	"github.com/structuredffn/sffn/model/initial"
	"github.com/structuredffn/sffn/model/safetensors"
	"github.com/structuredffn/sffn/model/train"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// torchOrSkip skips where PyTorch cannot run, and says what is missing.
func torchOrSkip(t *testing.T, name string, format kernel.FormatName) Program {
	t.Helper()
	return oneOrSkip(t, "ffn", format, name)
}

// oneOrSkip finds a program. The test is skipped where it is not installed; any other error
// is a failure.
func oneOrSkip(t *testing.T, mode string, format kernel.FormatName, name string) Program {
	t.Helper()
	found, _, err := FindPrograms(mode, format, []string{name})
	if missing := (absent{}); errors.As(err, &missing) {
		t.Skip("skipped: ", missing)
	} else if err != nil {
		t.Fatal(err)
	}
	return found[0]
}

// start writes the tensors to a file and starts PyTorch with them.
func start(t *testing.T, torch Program, job Job, values []safetensors.Value) *Process {
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

// near compares results of two programs that sum in different orders, in float32; or in
// bf16, of which so many roundings of what passes through, each by half of the last place
// of 8 bits, are one behind the other. These round at different places here and there.
func near(t *testing.T, format kernel.FormatName, roundings int, what string, got, want []float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: torch has %d entries, we %d", what, len(got), len(want))
	}
	scale := float32(0)
	for _, v := range want {
		scale = max(scale, v, -v)
	}
	part := 2e-5
	if format == kernel.BF16 {
		part = 0x1p-8 * float64(roundings)
	}
	for i, v := range want {
		if d := math.Abs(float64(got[i] - v)); !(d <= part*float64(scale)) {
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
	eachInTorch(t, small[2:4], func(t *testing.T, torch Program, format kernel.FormatName, s spec.Model) {
		testTorchFFN(t, torch, format, s.LayerFFN(1), 7)
	})
}

// eachInTorch tests all models in float32, and some in bf16.
func eachInTorch(t *testing.T, some []spec.Model, test func(t *testing.T, torch Program, format kernel.FormatName, s spec.Model)) {
	torchOrSkip(t, "torch", kernel.F32)
	for _, s := range small {
		t.Run(s.Name, func(t *testing.T) { test(t, Torch{Format: kernel.F32}, kernel.F32, s) })
	}
	for _, s := range some {
		t.Run("bf16_"+s.Name, func(t *testing.T) { test(t, Torch{Format: kernel.BF16}, kernel.BF16, s) })
	}
}

func TestTorchCompiled(t *testing.T) {
	torch := torchOrSkip(t, "torch-compile", kernel.F32)
	testTorchFFN(t, torch, kernel.F32, small[4].LayerFFN(1), 7)
	testTorchDecode(t, torch, kernel.F32, small[0])
}

// inBF16 says that each number is one of bfloat16, as what PyTorch computes in it is.
func inBF16(t *testing.T, format kernel.FormatName, what string, x []float32) {
	t.Helper()
	for i, v := range x {
		if format == kernel.BF16 && math.Float32bits(v)&0xffff != 0 {
			t.Fatalf("%s[%d]: %v is not in bfloat16", what, i, v)
		}
	}
}

// Roundings of numbers on their way through a network, and through its gradient too, and
// through a layer of a model: what is normed, multiplied, rotated, activated and added.
const (
	networkRoundings = 4
	layerRoundings   = 12
)

func testTorchFFN(t *testing.T, torch Program, format kernel.FormatName, f spec.FFN, rows int) {
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
	n, err := rt.NewFFN(f, w, rt.Options{Train: true, Format: format})
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
	forward := show(t, p, "forward")[0]
	near(t, format, networkRoundings, "y", forward, y)
	inBF16(t, format, "y", forward)
	r := show(t, p, "forward and backward")
	near(t, format, networkRoundings, "y with gradients", r[0], y)
	near(t, format, 2*networkRoundings, "dx", r[1], dx)
	inBF16(t, format, "dx", r[1])
	want := slices.Concat(g.FC1.Factors, [][]float32{g.FC1.Bias}, g.FC2.Factors, [][]float32{g.FC2.Bias})
	want = slices.DeleteFunc(want, func(x []float32) bool { return x == nil })
	for i, x := range want {
		near(t, format, 2*networkRoundings, fmt.Sprintf("gradient %d", i), r[2+i], x)
	}
	if s, err := p.Run("forward", 3); err != nil || s <= 0 || s > 10 {
		t.Error(s, err)
	}
}

// newModel draws a model; values are its parameters.
func newModel(t *testing.T, s spec.Model, format kernel.FormatName) (m *model.Model, values []safetensors.Value) {
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
	m, err := model.New(s, p, rt.Options{Pool: pool, Train: true, Format: format})
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
	first := map[kernel.FormatName]float32{}
	eachInTorch(t, small[:1], func(t *testing.T, torch Program, format kernel.FormatName, s spec.Model) {
		m, values := newModel(t, s, format)
		const batch, seq = 2, 9
		ids, targets := someTokens(batch*seq, s.Vocab), someTokens(2*batch*seq, s.Vocab)[batch*seq:]
		tr, grads, adam := m.NewTrace(batch*seq), model.NewParams(s), train.NewAdamW(m, 0.9, 0.95, 1e-8, 0.1, 1)
		defer tr.Close()
		defer grads.Close()
		defer adam.Close()
		p := start(t, torch, Job{Mode: "train", Model: &s, Batch: batch, IDs: ids, Targets: targets, LR: 0.01}, values)
		for i := range 3 {
			loss, err := tr.Backward(grads, ids, targets, batch, 1, false)
			if err != nil {
				t.Fatal(err)
			}
			adam.Step(grads, 0.01)
			m.Repack()
			got := show(t, p, "train")[0]
			near(t, format, layerRoundings*s.Layers, "loss", got, []float32{float32(loss)})
			if i == 0 && s.Name == small[0].Name {
				first[format] = got[0]
			}
		}
	})
	if first[kernel.F32] != 0 && first[kernel.F32] == first[kernel.BF16] {
		t.Error("nothing is rounded in bf16")
	}
}

func TestTorchDecode(t *testing.T) {
	eachInTorch(t, small[:2], testTorchDecode)
}

func testTorchDecode(t *testing.T, torch Program, format kernel.FormatName, s spec.Model) {
	m, values := newModel(t, s, format)
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
	roundings := layerRoundings * s.Layers
	near(t, format, roundings, "logits after the prompt", show(t, p, "prefill")[0], feed(0, context))
	for range steps {
		logits := show(t, p, "decode")[0]
		near(t, format, roundings, "logits of a decoded token", logits, feed(context, context+1))
		inBF16(t, format, "logits", logits)
	}
}

func TestTorchErrors(t *testing.T) {
	if _, _, err := FindPrograms("train", kernel.F32, []string{"jax"}); err == nil || !strings.Contains(err.Error(), "want torch, torch-compile or all") {
		t.Error(err)
	}
	for _, f := range []kernel.FormatName{kernel.BF16W, kernel.Int8, kernel.Int4} {
		if _, _, err := FindPrograms("decode", f, []string{"torch"}); err == nil || err.Error() != "torch: PyTorch computes in f32 or bf16 here, not in "+string(f) {
			t.Error(err)
		}
	}
	t.Run("broken", func(t *testing.T) {
		torch := torchOrSkip(t, "torch", kernel.F32)
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
	if _, _, err := FindPrograms("ffn", kernel.F32, []string{"torch"}); err == nil || !strings.Contains(err.Error(), "pip install torch") {
		t.Error(err)
	}
	found, absent, err := FindPrograms("ffn", kernel.F32, []string{"all"})
	if err != nil || len(found) != 0 || len(absent) != 2 {
		t.Error(found, absent, err)
	}
}
