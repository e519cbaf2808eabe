package mul

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/f64ref"
	"github.com/structuredffn/sffn/internal/runtimetest"
	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/memory"
	"github.com/structuredffn/sffn/runtime/vec"
)

// subject is a planned layer with weights, all positive, and what it is in float64.
// Rows are stored as the plan says.
type subject struct {
	name string
	plan plan.Layer
	ffn  *spec.FFN // whose activation follows the layer
	// order is the input that each stored entry of x is.
	order []int
	w     [][]float32
	bias  []float32
	chain *f64ref.Chain
	r     *rand.Rand
}

// subjects are a layer, or both of a network.
func subjects(s any, r *rand.Rand) []*subject {
	var all []*subject
	add := func(l plan.Layer, ffn *spec.FFN, order []int) {
		u := &subject{name: l.Spec.Name(), plan: l, ffn: ffn, order: order, chain: f64ref.NewChain(l.Spec), r: r}
		for _, f := range l.Factors {
			u.w = append(u.w, runtimetest.Positive(r, f.Weights(), 1/float32(f.In)))
		}
		if l.Spec.Bias {
			u.bias = runtimetest.Positive(r, l.Spec.Out, 1)
		}
		all = append(all, u)
	}
	switch s := s.(type) {
	case spec.Linear:
		add(plan.NewLayer(s), nil, plan.Identity(s.In))
	case spec.FFN:
		p := plan.NewFFN(s)
		add(p.FC1, &s, plan.Identity(s.Hidden))
		add(p.FC2, nil, p.FC1.Bias[:s.FFN]) // the hidden vector, as fc1 stores it
	}
	return all
}

func (u *subject) last() *plan.Factor { return &u.plan.Factors[len(u.plan.Factors)-1] }

func (u *subject) widths() (x, y, pre int) {
	return len(u.order), u.last().OutWidth, u.last().PreWidth
}

// reference is a pass in float64, stored as the kernels store it.
type reference struct {
	y, pre, dx, db []float64
	dw             [][]float64
}

// reference computes act(share*W x + bias + residual) and, from the gradient of what is
// before the activation, all gradients; residual may be nil.
func (u *subject) reference(x, residual, dpre []float32, m int, share float64) (ref reference) {
	in, out, width := u.widths()
	xs, dys := make([]float64, m*in), make([]float64, m*width)
	for r := range m {
		for s, j := range u.order {
			xs[r*in+j] = float64(x[r*in+s])
		}
		for s, j := range u.plan.Bias {
			dys[r*width+j] = float64(dpre[r*width+s])
		}
	}
	var w [][]float64
	for _, f := range u.w {
		w = append(w, runtimetest.Wide(f))
	}
	sums, inputs := u.chain.Forward(w, xs, m)
	dxs, dw := u.chain.Backward(w, inputs, dys, m)
	ref.dw, ref.db = dw, make([]float64, width)
	ref.pre, ref.dx = make([]float64, m*width), make([]float64, m*in)
	for r := range m {
		for s, j := range u.plan.Bias {
			v := &sums[r*width+j]
			*v *= share
			if u.bias != nil {
				*v += float64(u.bias[j])
			}
			if residual != nil {
				*v += float64(residual[r*width+s])
			}
			ref.pre[r*width+s] = *v
			ref.db[j] += dys[r*width+j]
		}
		for s, j := range u.order {
			ref.dx[r*in+s] = dxs[r*in+j]
		}
	}
	ref.y = ref.pre
	if u.ffn != nil {
		act := f64ref.Activate(*u.ffn, sums, m)
		ref.y = make([]float64, m*out)
		for r := range m {
			for s := range out {
				ref.y[r*out+s] = act[r*out+u.plan.Bias[s]]
			}
		}
	}
	return ref
}

// tolerance bounds the relative error of any entry: one rounding a term of every sum on
// its way, and the activation's own, whose argument is at least a quarter here.
func (u *subject) tolerance(m int) float64 {
	n := m + u.plan.Spec.In + u.plan.Spec.Out + 8
	for _, f := range u.plan.Factors {
		n += f.In
	}
	tol := float64(n) * 0x1p-24
	if u.ffn != nil {
		tol += 8e-6
	}
	return tol
}

// bound is a subject on kernels.
type bound struct {
	*subject
	target            *kernel.Target
	forward, backward [][]*Product
	gradients         []*Gradient
	sums              *BiasGradient
	arena             memory.Arena
	ws                *Workspace
}

func (u *subject) bind(t testing.TB, target *kernel.Target, threads int) *bound {
	t.Helper()
	b := &bound{subject: u, target: target, ws: NewWorkspace(runtimetest.PoolOf(threads))}
	t.Cleanup(func() { b.ws.Close(); b.arena.Close() })
	products := func(ps []plan.Product, f *plan.Factor, w, bias []float32) (qs []*Product) {
		for _, p := range ps {
			q, err := NewProduct(p, target, bias != nil, false, &b.arena)
			if err != nil {
				t.Fatalf("%s: %v", u.name, err)
			}
			for i := range q.Panels() {
				q.PackWeights(i, w, f)
			}
			if bias != nil {
				q.PackBias(bias, u.plan.Bias)
			}
			qs = append(qs, q)
		}
		return qs
	}
	for i := range u.plan.Factors {
		f := &u.plan.Factors[i]
		var bias []float32
		if f == u.last() {
			bias = u.bias
		}
		b.forward = append(b.forward, products(f.Forward(), f, u.w[i], bias))
		b.backward = append(b.backward, products(f.BackwardData(), f, u.w[i], nil))
		g, err := NewGradient(*f, target)
		if err != nil {
			t.Fatalf("%s: %v", u.name, err)
		}
		b.gradients = append(b.gradients, g)
	}
	b.sums = NewBiasGradient(vec.On(target), target, u.plan.Bias)
	return b
}

// between makes room for m rows of what lies between the factors.
func (b *bound) between(m int) (z [][]float32) {
	for _, f := range b.plan.Factors[:len(b.plan.Factors)-1] {
		z = append(z, runtimetest.Poisoned(m*f.OutWidth))
	}
	return z
}

// runForward computes y; where z is nil, what lies between the factors is local.
func (b *bound) runForward(y, pre, x, residual []float32, z [][]float32, m int, share Weight) {
	b.ws.Begin(b.target, m, 0)
	src, before := Whole(x), Whole(pre)
	if pre == nil && b.last().Act.Gated() {
		before = b.ws.Local(SlotPre, b.last().PreWidth)
	}
	for i, qs := range b.forward {
		if i == len(b.forward)-1 {
			b.ws.AddProducts(qs, Stage{Src: src, Dst: Whole(y), Pre: before, Residual: Whole(residual), Share: share})
			break
		}
		dst := Matrix{}
		if z != nil {
			dst = Whole(z[i])
		} else {
			dst = b.ws.Local(SlotZ1, b.plan.Factors[i].OutWidth)
		}
		b.ws.AddProducts(qs, Stage{Src: src, Dst: dst})
		src = dst
	}
	b.ws.Exec()
}

// runBackward computes dx, and in dz what lies between the factors.
func (b *bound) runBackward(dx, dpre []float32, dz [][]float32, m int) {
	b.ws.Begin(b.target, m, 0)
	src := Whole(dpre)
	for i := len(b.backward) - 1; i >= 0; i-- {
		dst := Whole(dx)
		if i > 0 {
			dst = Whole(dz[i-1])
		}
		b.ws.AddProducts(b.backward[i], Stage{Src: src, Dst: dst})
		src = dst
	}
	b.ws.Exec()
}

// runGradients computes the gradient of each factor's weights into g, and of the bias
// into db, in units of about so many weights.
func (b *bound) runGradients(g [][]float32, db, x, dpre []float32, z, dz [][]float32, m, unit int, accumulate bool) {
	b.ws.Units = b.ws.Units[:0]
	from := 0
	for i, gr := range b.gradients {
		in, out := x, dpre
		if i > 0 {
			in = z[i-1]
		}
		if i < len(dz) {
			out = dz[i]
		}
		from = len(b.ws.Units)
		b.ws.Units = gr.AddUnits(b.ws.Units, g[i], out, in, unit, Weight{})
	}
	b.ws.Units = b.sums.AddUnits(b.ws.Units, from, db, dpre, make([]float32, len(db)))
	b.ws.ExecWeights(m, accumulate)
}

func (b *bound) emptyGradients() (g [][]float32, db []float32) {
	for _, w := range b.w {
		g = append(g, runtimetest.Poisoned(len(w)))
	}
	return g, runtimetest.Poisoned(len(b.plan.Bias))
}

func (b *bound) weights() (n int) {
	for _, w := range b.w {
		n += len(w)
	}
	return n
}

// outcome is all that a subject computes, each with its name.
type outcome struct {
	y, pre, dx, db []float32
	dw             [][]float32
}

func (o *outcome) same(t *testing.T, what string, p *outcome) {
	t.Helper()
	runtimetest.SameBits(t, what+": y", o.y, p.y)
	runtimetest.SameBits(t, what+": before the activation", o.pre, p.pre)
	runtimetest.SameBits(t, what+": dx", o.dx, p.dx)
	runtimetest.SameBits(t, what+": gradient of the bias", o.db, p.db)
	for i := range o.dw {
		runtimetest.SameBits(t, fmt.Sprintf("%s: gradient of factor %d", what, i), o.dw[i], p.dw[i])
	}
}

// operands draws the operands of m rows.
func (u *subject) operands(m int) (x, residual, dpre []float32) {
	in, _, width := u.widths()
	x, dpre = runtimetest.Positive(u.r, m*in, 1), runtimetest.Positive(u.r, m*width, 1)
	if u.ffn == nil {
		residual = runtimetest.Positive(u.r, m*width, 1)
	}
	return x, residual, dpre
}

// run computes everything, and compares the ways of computing y.
func (b *bound) run(t *testing.T, x, residual, dpre []float32, m int) *outcome {
	t.Helper()
	in, out, width := b.widths()
	what := fmt.Sprintf("%s, %d rows, %s with %d threads: ", b.name, m, b.target.Name, b.ws.Threads())
	o := &outcome{y: runtimetest.Poisoned(m * out), dx: runtimetest.Poisoned(m * in)}
	if b.ffn != nil {
		o.pre = runtimetest.Poisoned(m * width)
	}
	z, dz := b.between(m), b.between(m)
	b.runForward(o.y, o.pre, x, residual, z, m, Weight{})
	local := runtimetest.Poisoned(m * out)
	b.runForward(local, nil, x, residual, nil, m, Weight{})
	runtimetest.SameBits(t, what+"with what lies between the factors in the cache", local, o.y)
	var res []float32
	if residual != nil {
		res = residual[(m-1)*width:]
	}
	b.runForward(local, nil, x[(m-1)*in:], res, nil, 1, Weight{})
	runtimetest.SameBits(t, what+"the last row alone", local[:out], o.y[(m-1)*out:])
	b.runBackward(o.dx, dpre, dz, m)
	o.dw, o.db = b.emptyGradients()
	b.runGradients(o.dw, o.db, x, dpre, z, dz, m, UnitWeights(b.target, b.weights(), b.ws.Threads()), false)
	return o
}

// check compares with float64, entry by entry.
func (u *subject) check(t *testing.T, what string, got *outcome, want reference, m int) {
	t.Helper()
	what = fmt.Sprintf("%s, %d rows, %s: ", u.name, m, what)
	tol := u.tolerance(m)
	runtimetest.NearEach(t, what+"y", got.y, want.y, tol)
	if u.ffn != nil {
		runtimetest.NearEach(t, what+"before the activation", got.pre, want.pre, tol)
	}
	runtimetest.NearEach(t, what+"dx", got.dx, want.dx, tol)
	runtimetest.NearEach(t, what+"gradient of the bias", got.db, want.db, tol)
	for i := range want.dw {
		runtimetest.NearEach(t, fmt.Sprintf("%sgradient of factor %d", what, i), got.dw[i], want.dw[i], tol)
	}
}

// layers are of every kind, in and out of order, of several blocks of k and of widths
// that panels and strips divide and do not.
var layers = []any{
	spec.Linear{Kind: spec.Dense, In: 13, Out: 71, Bias: true},
	spec.Linear{Kind: spec.Dense, In: 800, Out: 50},
	spec.Linear{Kind: spec.Dense, In: 96, Out: 257, Bias: true},
	spec.Linear{Kind: spec.LowRank, In: 96, Out: 160, Rank: 24, Bias: true},
	spec.Linear{Kind: spec.BlockDense, In: 35, Out: 51, Rank: 15, Blocks: 5, Bias: true},
	spec.Linear{Kind: spec.BlockShuffle, In: 48, Out: 96, Blocks: 4, Bias: true},
	spec.Linear{Kind: spec.BlockShuffle, In: 42, Out: 30, Blocks: 6},
	spec.Linear{Kind: spec.BlockShuffle, In: 1600, Out: 64, Blocks: 2},
	spec.FFN{Kind: spec.Dense, Hidden: 37, FFN: 53, Act: spec.SwiGLU, Bias: true},
	spec.FFN{Kind: spec.Dense, Hidden: 800, FFN: 40, Act: spec.GELU},
	spec.FFN{Kind: spec.BlockShuffle, Hidden: 30, FFN: 42, Blocks: 3, Act: spec.SwiGLU, Bias: true},
	spec.FFN{Kind: spec.BlockShuffle, Hidden: 128, FFN: 512, Blocks: 4, Act: spec.GELU, Bias: true},
}

// eachSubject calls f for the subjects of layers on a target of each instruction set.
func eachSubject(t *testing.T, f func(t *testing.T, u *subject, target *kernel.Target)) {
	for _, isa := range kernel.Available() {
		target := kernel.For(isa)
		for _, s := range layers {
			for i, u := range subjects(s, rand.New(rand.NewPCG(1, 1))) {
				t.Run(fmt.Sprintf("%s/%s/%d", isa, u.name, i), func(t *testing.T) { f(t, u, &target) })
			}
		}
	}
}

func cloneAll(all [][]float32) (c [][]float32) {
	for _, x := range all {
		c = append(c, slices.Clone(x))
	}
	return c
}
