package model

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/f64ref"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// subject is a model with what it computes in float64 for one sequence.
type subject struct {
	spec         spec.Model
	params       *Params
	ids, targets []int32
	guides       []rt.Guide

	logits []float64
	loss   float64
	// Along a direction of each parameter the loss has this slope.
	directions map[string][]float64
	slopes     map[string]float64
}

func newSubject(s spec.Model, seq int) *subject {
	r := rand.New(rand.NewPCG(3, uint64(seq)))
	u := &subject{spec: s, params: NewParams(s), directions: map[string][]float64{}, slopes: map[string]float64{}}
	wide := map[string][]float64{}
	for _, q := range slices.Concat(u.params.List(), u.params.Guides()) {
		x := u.params.Get(q.Name)
		wide[q.Name] = make([]float64, len(x))
		for i := range x {
			x[i] = float32(0.3 * r.NormFloat64())
			if len(q.Shape) == 1 {
				x[i]++ // norms, and biases that count
			}
			wide[q.Name][i] = float64(x[i])
		}
	}
	ref := &f64ref.Model{Model: s, Get: func(name string) []float64 { return wide[name] }}
	for range u.params.Guides() {
		a := 0.2 + 0.6*r.Float32()
		u.guides, ref.Ratios = append(u.guides, rt.Guide{On: true, Ratio: a}), append(ref.Ratios, float64(a))
	}
	for range seq {
		u.ids, u.targets = append(u.ids, r.Int32N(int32(s.Vocab))), append(u.targets, r.Int32N(int32(s.Vocab)))
	}
	u.logits, u.loss = ref.Logits(u.ids), ref.Loss(u.ids, u.targets)
	const eps = 1e-5
	for name, x := range wide {
		dir := make([]float64, len(x))
		for i := range dir {
			dir[i] = r.NormFloat64()
		}
		at := func(eps float64) float64 {
			old := slices.Clone(x)
			for i := range x {
				x[i] += eps * dir[i]
			}
			defer copy(x, old)
			return ref.Loss(u.ids, u.targets)
		}
		u.directions[name], u.slopes[name] = dir, (at(eps)-at(-eps))/(2*eps)
	}
	return u
}

// run is a model with all that computes on it.
type run struct {
	m  *Model
	tr *Trace
	g  *Params
}

func (u *subject) run(t *testing.T, isa kernel.ISA) *run {
	t.Helper()
	pool := rt.NewPool(2)
	m, err := New(u.spec, u.params, rt.Options{ISA: isa, Pool: pool, Train: true})
	if err != nil {
		t.Fatal(err)
	}
	m.SetGuides(u.guides)
	x := &run{m: m, tr: m.NewTrace(len(u.ids)), g: NewParams(u.spec)}
	// What nobody writes is noticed.
	for _, s := range [][]float32{x.tr.final, x.tr.dfinal, x.tr.dnorm, x.g.Data} {
		for i := range s {
			s[i] = float32(math.NaN())
		}
	}
	t.Cleanup(func() {
		x.tr.Close()
		x.g.Close()
		m.Close()
		pool.Close()
	})
	return x
}

// check compares logits, loss and every gradient with float64.
func (u *subject) check(x *run) error {
	n, v := len(u.ids), u.spec.Vocab
	logits := make([]float32, n*v)
	if err := x.tr.Logits(logits, u.ids, 1); err != nil {
		return err
	}
	if err := closeTo("logits", logits, u.logits); err != nil {
		return err
	}
	loss, err := x.tr.Backward(x.g, u.ids, u.targets, 1, 1, false)
	if err != nil {
		return err
	}
	if !(math.Abs(loss-u.loss) <= 1e-5*u.loss) {
		return fmt.Errorf("the loss is %v, want %v", loss, u.loss)
	}
	for name, dir := range u.directions {
		slope, scale := 0.0, 0.0
		for i, g := range x.g.Get(name) {
			slope += float64(g) * dir[i]
			scale += math.Abs(float64(g) * dir[i])
		}
		// Each entry is good to about a thousand roundings of its own terms.
		if !(math.Abs(slope-u.slopes[name]) <= 1e-4*scale+1e-8) {
			return fmt.Errorf("%s: the gradient gives a slope of %v, want %v", name, slope, u.slopes[name])
		}
	}
	return nil
}

// closeTo allows a thousand roundings of the largest entry.
func closeTo(what string, got []float32, want []float64) error {
	largest := 0.0
	for _, w := range want {
		largest = max(largest, math.Abs(w))
	}
	for i, w := range want {
		if !(math.Abs(float64(got[i])-w) <= 1000*0x1p-24*largest) {
			return fmt.Errorf("%s: [%d] = %v, want %v", what, i, got[i], w)
		}
	}
	return nil
}

var subjects = []spec.Model{
	{Name: "rotary", Vocab: 29, Hidden: 24, FFN: 60, Layers: 2, AttnDim: 32, QHeads: 4, KVHeads: 2, MaxPositions: 64, Kind: spec.LowRank, Rank: 5, Guided: true,
		Except: "0:dense", Act: spec.GELU, QKVBias: true, OutputBias: true, FFNBias: true, Norm: spec.LayerNorm, NormEps: 1e-5, Position: spec.RoPE, RotaryBase: 100, TieEmbeddings: true, ScaleAttnByLayer: true, InitStd: 1},
	{Name: "absolute", Vocab: 29, Hidden: 24, FFN: 36, Layers: 2, AttnDim: 24, QHeads: 3, KVHeads: 1, MaxPositions: 64, Kind: spec.BlockShuffle, Blocks: 3, Guided: true,
		Act: spec.SwiGLU, Norm: spec.RMSNorm, NormEps: 1e-5, Position: spec.Absolute, InitStd: 1},
	// Heads wider than the residual stream's share.
	{Name: "normed heads", Vocab: 29, Hidden: 64, FFN: 60, Layers: 2, AttnDim: 128, QHeads: 4, KVHeads: 2, MaxPositions: 64, Kind: spec.LowRank, Rank: 9, Guided: true,
		Act: spec.SwiGLU, QKVBias: true, Norm: spec.RMSNorm, NormEps: 0.25, QKNorm: true, Position: spec.RoPE, RotaryBase: 100, Window: 9, WindowLayers: "1", InitStd: 1,
		RotaryScaling: spec.RotaryScaling{Type: spec.Llama3Scaling, Factor: 4, LowFreqFactor: 1, HighFreqFactor: 4, OriginalPositions: 40}},
	{Name: "yarn", Vocab: 29, Hidden: 24, FFN: 36, Layers: 2, AttnDim: 64, QHeads: 4, KVHeads: 2, MaxPositions: 64, Kind: spec.LowRank, Rank: 5, Guided: true, Act: spec.GELUErf,
		FFNBias: true, Norm: spec.RMSNorm, NormEps: 1e-5, Position: spec.RoPE, RotaryBase: 100, InitStd: 1,
		RotaryScaling: spec.RotaryScaling{Type: spec.YarnScaling, Factor: 4, OriginalPositions: 40, BetaFast: 8, BetaSlow: 1, AttentionFactor: 1.3}},
}

// seq has two chunks of rows.
const seq = 41

// Whole models against float64: logits, loss and gradients. Package decode has its
// own test.
func TestFloat64(t *testing.T) {
	for _, s := range subjects {
		u := newSubject(s, seq)
		defer u.params.Close()
		for _, isa := range kernel.Available() {
			if err := u.check(u.run(t, isa)); err != nil {
				t.Errorf("%s, %s: %v", s.Name, isa, err)
			}
		}
	}
}

// last leaves out the last chunk of a pass.
func last(step *func(worker, i int), chunks int) {
	all := *step
	*step = func(worker, i int) {
		if i < chunks-1 {
			all(worker, i)
		}
	}
}

// A fault in any pass of a model is noticed: TestFloat64 can fail.
func TestFaultsAreNoticed(t *testing.T) {
	chunks := rowChunks(seq)
	for _, f := range []struct {
		name  string
		only  string // the subject that has the pass
		fault func(x *run)
	}{
		{"embedding leaves out the last rows", "", func(x *run) { last(&x.tr.pass.runEmbed, chunks) }},
		{"norm leaves out the last rows", "", func(x *run) { last(&x.tr.pass.runNorm, chunks) }},
		{"norm's gradient leaves out the last rows", "", func(x *run) { last(&x.tr.pass.runNormBackward, chunks) }},
		{"norm without its weight", "", func(x *run) { x.m.layers[1].ln1.w = slices.Repeat([]float32{1}, x.m.Spec.Hidden) }},
		{"norms swapped", "", func(x *run) { l := &x.m.layers[0]; l.ln1, l.ln2 = l.ln2, l.ln1 }},
		{"last norm swapped", "", func(x *run) { x.m.norm, x.m.layers[1].ln2 = x.m.layers[1].ln2, x.m.norm }},
		{"positions are not rotated", "rotary", func(x *run) { x.tr.pass.runRotate = func(_, _ int) {} }},
		{"rotation leaves out the last rows", "rotary", func(x *run) { last(&x.tr.pass.runRotate, chunks) }},
		{"gradients are rotated forward", "rotary", func(x *run) { x.tr.pass.rotateBack = x.tr.pass.rotateForward }},
		{"sines and cosines swapped", "rotary", func(x *run) { x.m.cos, x.m.sin = x.m.sin, x.m.cos }},
		{"norm's epsilon", "normed heads", func(x *run) { x.m.norm.eps = 1e-5 }},
		{"angles are not scaled", "normed heads", func(x *run) {
			m := x.m.Spec
			m.RotaryScaling = spec.RotaryScaling{}
			x.m.cos, x.m.sin = Angles(m)
		}},
		{"rotated heads are not longer", "yarn", func(x *run) {
			m := x.m.Spec
			m.RotaryScaling.AttentionFactor = 1
			x.m.cos, x.m.sin = Angles(m)
		}},
		{"angles change between whole pairs", "yarn", func(x *run) {
			m := x.m.Spec
			m.RotaryScaling.Between = true
			x.m.cos, x.m.sin = Angles(m)
		}},
		{"a window in another layer", "normed heads", func(x *run) { x.m.layers[0].attn.Window, x.m.layers[1].attn.Window = 9, 0 }},
		{"heads are not normed", "normed heads", func(x *run) { x.tr.pass.runHeads = func(_, _ int) {} }},
		{"heads' norms leave out the last rows", "normed heads", func(x *run) { last(&x.tr.pass.runHeads, chunks) }},
		{"heads' norms leave out the gradient", "normed heads", func(x *run) { x.tr.pass.runHeadsBackward = func(_, _ int) {} }},
		{"heads' norms leave out the last rows' gradient", "normed heads", func(x *run) { last(&x.tr.pass.runHeadsBackward, chunks) }},
		{"norms of queries and keys swapped", "normed heads", func(x *run) { l := &x.m.layers[1]; l.qnorm, l.knorm = l.knorm, l.qnorm }},
		{"the heads' epsilon", "normed heads", func(x *run) { x.m.layers[0].knorm.eps = 1e-5 }},
		{"a window of one more", "normed heads", func(x *run) { x.m.layers[1].attn.Window++ }},
		{"projections of two layers swapped", "", func(x *run) { a, b := &x.m.layers[0], &x.m.layers[1]; a.qkv, b.qkv = b.qkv, a.qkv }},
		{"output projections swapped", "", func(x *run) { a, b := &x.m.layers[0], &x.m.layers[1]; a.out, b.out = b.out, a.out }},
		{"networks swapped", "absolute", func(x *run) { a, b := &x.m.layers[0], &x.m.layers[1]; a.ffn, b.ffn = b.ffn, a.ffn }},
		{"attention's scale", "", func(x *run) { x.m.layers[1].attn.Scale *= 1.01 }},
		{"guides left out", "", func(x *run) { x.m.SetGuides(make([]rt.Guide, len(x.m.Spec.Guides()))) }},
		{"a guide's ratio", "", func(x *run) {
			x.m.layers[1].ffn.SetGuides(rt.Guide{On: true, Ratio: 0.5}, rt.Guide{On: true, Ratio: 0.5})
		}},
		{"loss leaves out the last rows", "", func(x *run) { last(&x.tr.runLosses, (seq+7)/8) }},
		{"embedding's gradient is left out", "", func(x *run) { x.tr.runEmbeds = func(_, _ int) {} }},
	} {
		for _, s := range subjects {
			if f.only != "" && f.only != s.Name {
				continue
			}
			u := newSubject(s, seq)
			x := u.run(t, kernel.Available()[0])
			f.fault(x)
			err := u.check(x)
			if err == nil {
				t.Errorf("%s: %s: nobody notices", s.Name, f.name)
			} else {
				t.Logf("%s: %s: %v", s.Name, f.name, err)
			}
			u.params.Close()
		}
	}
}

// Packs that are older than the weights are noticed, too.
func TestStaleWeightsAreNoticed(t *testing.T) {
	for _, s := range subjects {
		u := newSubject(s, seq)
		defer u.params.Close()
		for _, q := range u.params.List() {
			if len(q.Shape) == 1 || q.Name == "model.wpe.weight" || q.Name == "model.wte.weight" && !s.TieEmbeddings {
				continue // nobody packs these
			}
			w := u.params.Get(q.Name)
			old := slices.Clone(w)
			for i := range w {
				w[i] *= 1.5
			}
			x := u.run(t, kernel.Available()[0])
			copy(w, old)
			if u.check(x) == nil {
				t.Errorf("%s: packs of other weights of %s: nobody notices", s.Name, q.Name)
			}
		}
	}
}
