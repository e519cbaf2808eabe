package runtime

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/f64ref"
	"github.com/structuredffn/sffn/internal/runtimetest"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// subject is a layer or a network with weights, and what both are in float64.
//
// All its weights and inputs are positive. No sum cancels, so that each entry is
// right to within one rounding a term, and a wrong, missing or misplaced term
// shows in it.
type subject struct {
	name    string
	in, out int
	layers  []spec.Linear
	ffn     *spec.FFN // nil for a layer
	w       []Weights // of each layer
	chains  []*f64ref.Chain
	r       *rand.Rand
	format  kernel.FormatName // that it runs in
}

// ratio is the guides' share where a subject has guides.
const ratio = 0.375

func newSubject(s any, r *rand.Rand) *subject {
	u := &subject{r: r}
	switch s := s.(type) {
	case spec.Linear:
		u.name, u.in, u.out, u.layers = s.Name(), s.In, s.Out, []spec.Linear{s}
	case spec.FFN:
		u.name, u.in, u.out, u.layers, u.ffn = s.Name(), s.Hidden, s.Hidden, []spec.Linear{s.FC1(), s.FC2()}, &s
	}
	for _, l := range u.layers {
		var w Weights
		for _, f := range l.Chain() {
			w.Factors = append(w.Factors, runtimetest.Positive(u.r, f.Weights(), 1/float32(f.In)))
		}
		if l.Bias {
			w.Bias = runtimetest.Positive(u.r, l.Out, 1)
		}
		if l.Guide {
			w.Guide = runtimetest.Positive(u.r, l.Out*l.In, 1/float32(l.In))
		}
		u.w, u.chains = append(u.w, w), append(u.chains, f64ref.NewChain(l))
	}
	return u
}

// bound is a subject on kernels.
type bound struct {
	*subject
	linear *Linear
	ffn    *FFN
	g      []Weights
}

func (u *subject) bind(t *testing.T, opt Options) *bound {
	t.Helper()
	b := &bound{subject: u}
	for _, w := range u.w {
		b.g = append(b.g, emptyLike(w))
	}
	guide := Guide{On: u.layers[0].Guide, Ratio: ratio}
	var err error
	if u.ffn == nil {
		if b.linear, err = NewLinear(u.layers[0], u.w[0], opt); err == nil {
			b.linear.SetGuide(guide)
			t.Cleanup(b.linear.Close)
		}
	} else if b.ffn, err = NewFFN(*u.ffn, FFNWeights{u.w[0], u.w[1]}, opt); err == nil {
		b.ffn.SetGuides(guide, guide)
		t.Cleanup(b.ffn.Close)
	}
	if err != nil {
		t.Fatalf("%s: %v", u.name, err)
	}
	return b
}

func (b *bound) newSaved(m int) *Saved {
	if b.ffn != nil {
		return b.ffn.NewSaved(m)
	}
	return b.linear.NewSaved(m)
}

func (b *bound) forward(y, x, residual []float32, m int, saved *Saved, ws *Workspace) {
	if b.ffn != nil {
		b.ffn.Forward(y, x, residual, m, saved, ws)
		return
	}
	b.linear.Forward(y, x, residual, m, saved, ws)
}

// backward leaves the gradients in b.g.
func (b *bound) backward(dx, dy, x []float32, m int, saved *Saved, accumulate bool, ws *Workspace) {
	if b.ffn != nil {
		b.ffn.Backward(dx, FFNWeights{b.g[0], b.g[1]}, dy, x, m, saved, accumulate, ws)
		return
	}
	b.linear.Backward(dx, b.g[0], dy, x, m, saved, accumulate, ws)
}

// result is one vector of what a pass computes.
type result[T float32 | float64] struct {
	name string
	data []T
}

// gradients lists those of all parameters, in a fixed order.
func (b *bound) gradients() (all []result[float32]) {
	for i, g := range b.g {
		for j, f := range g.Factors {
			all = append(all, result[float32]{b.layers[i].Chain()[j].Param, f})
		}
		all = append(all, result[float32]{"bias", g.Bias}, result[float32]{"guide", g.Guide})
	}
	return all
}

// reference computes in float64 y, dx and the gradients, in the order of
// gradients; residual may be nil.
func (u *subject) reference(x, residual, dy []float32, m int) (y, dx []float64, grads []result[float64]) {
	first := u.layerForward(0, runtimetest.Wide(x), m)
	if u.ffn == nil {
		addTo(first.y, residual)
		dx, grads = u.layerBackward(0, first, runtimetest.Wide(dy), m)
		return first.y, dx, grads
	}
	second := u.layerForward(1, f64ref.Activate(*u.ffn, first.y, m), m)
	addTo(second.y, residual)
	da, g2 := u.layerBackward(1, second, runtimetest.Wide(dy), m)
	dx, grads = u.layerBackward(0, first, f64ref.ActivateBackward(*u.ffn, first.y, da, m), m)
	return second.y, dx, append(grads, g2...)
}

func addTo(y []float64, x []float32) {
	for i, v := range x {
		y[i] += float64(v)
	}
}

// layerPass is the forward pass of one layer.
type layerPass struct {
	w      [][]float64
	inputs [][]float64 // of each factor, the layer's first
	y      []float64
	guide  []float64
	share  float64 // of the guide
}

func (u *subject) layerForward(i int, x []float64, m int) (p layerPass) {
	l, w := u.layers[i], u.w[i]
	p.w, _ = wideFactors(w)
	p.y, p.inputs = u.chains[i].Forward(p.w, x, m)
	if l.Guide {
		p.guide, p.share = runtimetest.Wide(w.Guide), ratio
		dense := f64ref.Linear(p.guide, nil, x, m, l.In, l.Out)
		for j, v := range dense {
			p.y[j] = ratio*v + (1-ratio)*p.y[j]
		}
	}
	for j := range p.y {
		if w.Bias != nil {
			p.y[j] += float64(w.Bias[j%l.Out])
		}
	}
	return p
}

func (u *subject) layerBackward(i int, p layerPass, dy []float64, m int) (dx []float64, grads []result[float64]) {
	l := u.layers[i]
	dchain := make([]float64, len(dy))
	for j, v := range dy {
		dchain[j] = (1 - p.share) * v
	}
	dx, dw := u.chains[i].Backward(p.w, p.inputs, dchain, m)
	for j := range dw {
		grads = append(grads, result[float64]{l.Chain()[j].Param, dw[j]})
	}
	var db, dg []float64
	if l.Bias {
		db = make([]float64, l.Out)
		for j, v := range dy {
			db[j%l.Out] += v
		}
	}
	if l.Guide {
		var gx []float64
		gx, dg, _ = f64ref.LinearBackward(p.guide, p.inputs[0], dy, m, l.In, l.Out)
		for j := range dx {
			dx[j] += p.share * gx[j]
		}
		for j := range dg {
			dg[j] *= p.share
		}
	}
	return dx, append(grads, result[float64]{"bias", db}, result[float64]{"guide", dg})
}

// roundings bounds the relative error of any entry of a pass over m rows: one
// rounding a term of every sum on its way, and for networks the activation's
// own, whose argument is at least a quarter here.
func (u *subject) roundings(m int) (n int, own float64) {
	n = m + 8
	for _, l := range u.layers {
		n += l.In + l.Out
		for _, f := range l.Chain() {
			n += f.In
		}
	}
	if u.ffn != nil {
		own = 8e-6
	}
	return n, own
}

// coarse bounds the relative error of rounding to bfloat16 what each product on the way
// multiplies, forward and backward, and once more for the weights' gradients; activations
// pass on less than three times the relative error of their argument, and their
// derivatives, of arguments that are a quarter or more, as well.
func (u *subject) coarse() float64 {
	if u.format == "" || u.format == kernel.F32 {
		return 0
	}
	products := 1
	for _, l := range u.layers {
		products += 2 * (len(l.Chain()) + 1)
	}
	if u.ffn != nil {
		products *= 3
	}
	return math.Pow(1+0x1p-9, float64(2*products)) - 1
}

// check compares entry by entry.
func (u *subject) check(t *testing.T, what string, got []float32, want []float64, m int) {
	t.Helper()
	n, own := u.roundings(m)
	tol := float64(n)*0x1p-24 + own + u.coarse()
	if len(got) != len(want) {
		t.Fatalf("%s: %s has %d entries, want %d", u.name, what, len(got), len(want))
	}
	for i, v := range want {
		if !(math.Abs(float64(got[i])-v) <= tol*v) {
			t.Fatalf("%s, %d rows: %s[%d] = %v, want %v", u.name, m, what, i, got[i], v)
		}
	}
}
