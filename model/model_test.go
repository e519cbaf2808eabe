package model_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/draw"
	"github.com/structuredffn/sffn/internal/modeltest"
	"github.com/structuredffn/sffn/model"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/memory"
)

// drawSpec draws a small model of any form.
func drawSpec(t *rapid.T) spec.Model {
	pick := func(name string, n int) int { return rapid.IntRange(0, n-1).Draw(t, name) }
	kv := 1 + pick("kv", 2)
	q := kv * (1 + pick("group", 2))
	s := spec.Model{
		Name: "drawn", Vocab: 11 + pick("vocab", 30), Hidden: 12 * (1 + pick("hidden", 2)), FFN: 12 * (1 + pick("ffn", 4)), Layers: 1 + pick("layers", 3),
		AttnDim: q * 2 * (1 + pick("head", 4)), QHeads: q, KVHeads: kv, MaxPositions: 24,
		Act: []spec.Act{spec.GELU, spec.SwiGLU}[pick("act", 2)], QKVBias: pick("qkv bias", 2) == 0, OutputBias: pick("output bias", 2) == 0, FFNBias: pick("ffn bias", 2) == 0,
		Norm: []spec.Norm{spec.LayerNorm, spec.RMSNorm}[pick("norm", 2)], NormEps: []float64{1e-6, 1e-5, 1e-2}[pick("eps", 3)], Position: []spec.Position{spec.RoPE, spec.Absolute}[pick("position", 2)],
		RotaryBase: 10000, QKNorm: pick("qk norm", 2) == 0, Window: pick("window", 2) * (1 + pick("seen", 12)), ScaleAttnByLayer: pick("scale", 2) == 0, TieEmbeddings: pick("tie", 2) == 0, InitStd: 0.2,
	}
	if s.Position == spec.RoPE {
		s.RotaryScaling = []spec.RotaryScaling{{}, {Type: spec.LinearScaling, Factor: 3},
			{Type: spec.Llama3Scaling, Factor: 4, LowFreqFactor: 1, HighFreqFactor: 4, OriginalPositions: 40}}[pick("scaling", 3)]
	}
	structure := func() spec.Structure {
		return draw.Structure(func(n int) int { return pick("structure", n) }, s.Hidden, s.FFN, s.Act)
	}
	s.SetOwn(structure())
	for i := range s.Layers {
		if pick("other", 2) == 0 {
			s.SetStructure(i, i, structure())
		}
	}
	s.Guided = pick("guided", 2) == 0
	return s
}

// The gradient of each parameter, against the difference of two losses along
// a direction of that parameter alone.
func TestGradients(t *testing.T) {
	isas := kernel.Available()
	for seed := range 30 {
		s := rapid.Custom(drawSpec).Example(seed)
		t.Run(fmt.Sprintf("%d_%s_%s_%s", seed, s.Kind, s.Act, s.Norm), func(t *testing.T) { testGradients(t, s, isas[seed%len(isas)], 2, 9) })
	}
}

func testGradients(t *testing.T, s spec.Model, isa kernel.ISA, batch, seq int, drop ...model.Dropout) {
	t.Helper()
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	m := modeltest.Build(t, s, isa, 2)
	r := rand.New(rand.NewPCG(9, 9))
	ids, targets := modeltest.Tokens(r, batch*seq, s.Vocab), modeltest.Tokens(r, batch*seq, s.Vocab)
	tr := m.NewTrace(batch * seq)
	defer tr.Close()
	grads := model.NewParams(s)
	defer grads.Close()
	lossOf := tr.Loss
	for _, d := range drop { // only a backward pass drops anything
		tr.SetDropout(d)
		other := model.NewParams(s)
		defer other.Close()
		lossOf = func(ids, targets []int32, batch int) (float64, error) {
			return tr.Backward(other, ids, targets, batch, 1, false)
		}
	}
	if _, err := tr.Backward(grads, ids, targets, batch, 1, false); err != nil {
		t.Fatal(err)
	}
	for _, q := range slices.Concat(m.Params.List(), m.Params.Guides()) {
		w, g := m.Params.Get(q.Name), grads.Get(q.Name)
		// Along the gradient's own direction the difference is largest.
		norm := 0.0
		for _, v := range g {
			norm += float64(v) * float64(v)
		}
		norm = math.Sqrt(norm)
		if norm < 1e-5 {
			continue
		}
		old := slices.Clone(w)
		at := func(eps float64) float64 {
			for i := range w {
				w[i] = old[i] + float32(eps*float64(g[i])/norm)
			}
			m.Repack()
			loss, err := lossOf(ids, targets, batch)
			if err != nil {
				t.Fatal(err)
			}
			return loss
		}
		// Four points cancel the third derivative. A loss is good to about
		// 1e-6, which a distance of 12*eps/16 divides; where it is steep, it bends
		// sooner, and where small heads are normed.
		eps := 0.004 / max(1, norm)
		if s.QKNorm {
			eps /= 2
		}
		slope := (8*(at(eps)-at(-eps)) - (at(2*eps) - at(-2*eps))) / (12 * eps)
		copy(w, old)
		m.Repack()
		if !(math.Abs(slope-norm) <= 2e-3*norm+1e-3) {
			t.Errorf("%s: the loss rises by %v along the gradient, whose length is %v", q.Name, slope, norm)
		}
	}
}

// Losses and gradients have the same bits for any number of threads, and
// micro-batches that accumulate give the gradient of the whole batch.
func TestThreadsAndAccumulation(t *testing.T) {
	for _, s := range modeltest.Forms {
		var first []float32
		r := rand.New(rand.NewPCG(6, 6))
		const batch, seq = 4, 70
		ids, targets := modeltest.Tokens(r, batch*seq, s.Vocab), modeltest.Tokens(r, batch*seq, s.Vocab)
		for _, threads := range []int{1, 2, 3, 16} {
			m := modeltest.Build(t, s, "", threads)
			tr := m.NewTrace(batch * seq)
			grads := model.NewParams(s)
			if _, err := tr.Backward(grads, ids, targets, batch, 1, false); err != nil {
				t.Fatal(err)
			}
			if first == nil {
				first = slices.Clone(grads.Data)
			}
			if !slices.Equal(first, grads.Data) {
				t.Errorf("%s: %d threads give other gradients than 1", s.Name, threads)
			}
			for i := range batch {
				at := i * seq
				if _, err := tr.Backward(grads, ids[at:at+seq], targets[at:at+seq], 1, 1.0/batch, i > 0); err != nil {
					t.Fatal(err)
				}
			}
			modeltest.Near(t, s.Name+": accumulated", grads.Data, first)
			tr.Close()
			grads.Close()
		}
	}
}

func TestBadInput(t *testing.T) {
	s := modeltest.Forms[0]
	m := modeltest.Build(t, s, "", 1)
	tr := m.NewTrace(20)
	defer tr.Close()
	good := make([]int32, 20)
	for what, f := range map[string]func() error{
		"want 0 to 49":             func() error { _, err := tr.Loss([]int32{50}, []int32{0}, 1); return err },
		"target 0 is -2":           func() error { _, err := tr.Loss([]int32{0}, []int32{-2}, 1); return err },
		"room for 20":              func() error { _, err := tr.Loss(make([]int32, 21), make([]int32, 21), 1); return err },
		"no batch of 3":            func() error { _, err := tr.Loss(good, good, 3); return err },
		"no targets for 20 tokens": func() error { _, err := tr.Loss(good, nil, 1); return err },
		"19 targets for 20":        func() error { _, err := tr.Loss(good, good[:19], 1); return err },
	} {
		if err := f(); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("got %v, want it to contain %q", err, what)
		}
	}
}

// Computing activations again gives the same bits, guides and micro-batches
// that accumulate included.
func TestRecompute(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 6))
	for seed := range 24 {
		s := rapid.Custom(drawSpec).Example(seed)
		s.Guided = s.Kind != spec.Dense && seed%2 == 0
		if err := s.Validate(); err != nil {
			t.Fatal(err)
		}
		m := modeltest.Build(t, s, "", 2)
		guides := make([]rt.Guide, len(s.Guides()))
		for i := range guides {
			guides[i] = rt.Guide{On: i%3 != 2, Ratio: 0.3}
		}
		m.SetGuides(guides)
		const batch, seq = 3, 23
		ids, targets := modeltest.Tokens(r, 2*batch*seq, s.Vocab), modeltest.Tokens(r, 2*batch*seq, s.Vocab)
		run := func(tr *model.Trace) (losses [2]float64, grads []float32) {
			defer tr.Close()
			g := model.NewParams(s)
			defer g.Close()
			for i := range losses {
				at, end := i*batch*seq, (i+1)*batch*seq
				var err error
				if losses[i], err = tr.Backward(g, ids[at:end], targets[at:end], batch, 0.5, i > 0); err != nil {
					t.Fatal(err)
				}
			}
			return losses, slices.Clone(g.Data)
		}
		losses, grads := run(m.NewTrace(batch * seq))
		again, gradsAgain := run(m.NewRecomputingTrace(batch * seq))
		if losses != again || !slices.Equal(grads, gradsAgain) {
			t.Errorf("%d: %+v: losses %v and, recomputed, %v; equal gradients: %v", seed, s, losses, again, slices.Equal(grads, gradsAgain))
		}
	}
}

// The prediction counts every buffer that training maps; computing activations
// again takes far fewer.
func TestMemory(t *testing.T) {
	all, fewer := trainingMemory(t, false), trainingMemory(t, true)
	if fewer > 0.65*all {
		t.Errorf("%.0f bytes of activations, %.0f with recomputation", all, fewer)
	}
}

// trainingMemory checks the prediction and returns the activations' share.
func trainingMemory(t *testing.T, recompute bool) float64 {
	s := modeltest.Forms[0]
	s.Vocab, s.Hidden, s.FFN, s.AttnDim, s.QHeads, s.KVHeads, s.Layers = 1000, 256, 1024, 256, 4, 4, 4
	const rows = 1024
	before := memory.Held()
	pool := rt.NewPool(2)
	defer pool.Close()
	p := model.NewParams(s)
	defer p.Close()
	m, err := model.New(s, p, rt.Options{Pool: pool, Train: true})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	grads := model.NewParams(s)
	defer grads.Close()
	newTrace := m.NewTrace
	if recompute {
		newTrace = m.NewRecomputingTrace
	}
	without := memory.Held()
	tr := newTrace(rows)
	defer tr.Close()
	ids := make([]int32, rows)
	if _, err := tr.Backward(grads, ids, ids, rows/256, 1, false); err != nil {
		t.Fatal(err)
	}
	want := model.PredictMemory(s, kernel.F32, true, recompute, 2)
	want.Moments = 0 // the optimizer is not here
	got := memory.Held() - before
	if ratio := float64(got) / float64(want.Total(rows)); ratio < 0.7 || ratio > 1.2 {
		t.Errorf("training takes %d bytes, predicted %d", got, want.Total(rows))
	}
	return float64(memory.Held() - without)
}
