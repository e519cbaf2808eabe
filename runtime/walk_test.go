package runtime

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/f64ref"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// Every pair of widths up to 100 with every number of blocks that divides
// both, as a layer whose inputs and outputs lie in order and as a network whose
// hidden vector lies block by block, and the kinds without blocks: forward and
// all gradients against float64, on the best instruction set of the machine.
//
// All terms are positive. No sum cancels, so that each entry is right to within
// one rounding a term, and a wrong, missing or misplaced term shows in it.
func TestAllSmallWidths(t *testing.T) {
	most := 100
	if kernel.Available()[0] == kernel.Portable {
		most = 30
	}
	w := newWalk(t)
	for in := 1; in <= most; in++ {
		t.Run(fmt.Sprintf("in_%d", in), func(t *testing.T) {
			for out := 1; out <= most; out++ {
				w.layer(t, spec.Linear{Kind: spec.Dense, In: in, Out: out, Bias: true})
				w.layer(t, spec.Linear{Kind: spec.LowRank, In: in, Out: out, Rank: 1 + (7*in+out)%min(in, out)})
				for blocks := 1; blocks <= min(in, out); blocks++ {
					if in%blocks != 0 || out%blocks != 0 {
						continue
					}
					w.layer(t, spec.Linear{Kind: spec.BlockShuffle, In: in, Out: out, Blocks: blocks, Bias: true})
					w.layer(t, spec.Linear{Kind: spec.BlockDense, In: in, Out: out, Blocks: blocks, Rank: blocks * (1 + (in+out)%4)})
					act := []spec.Act{spec.GELU, spec.SwiGLU}[(in+out+blocks)%2]
					w.network(t, spec.FFN{Kind: spec.BlockShuffle, Hidden: in, FFN: out, Blocks: blocks, Act: act, Bias: true})
				}
			}
		})
	}
}

// walk is what the layers of a walk share.
type walk struct {
	isa    kernel.ISA
	pool   *Pool
	ws     *Workspace
	r      *rand.Rand
	values []float32
}

const walkRows = 3

func newWalk(t *testing.T) *walk {
	w := &walk{isa: kernel.Available()[0], pool: NewPool(1), r: rand.New(rand.NewPCG(9, 9)), values: make([]float32, 1<<18)}
	w.ws = NewWorkspace(w.pool)
	for i := range w.values {
		w.values[i] = 0.5 + w.r.Float32()
	}
	t.Cleanup(func() { w.ws.Close(); w.pool.Close() })
	return w
}

// draw returns n entries, 0.5 to 1.5.
func (w *walk) draw(n int) []float32 { return w.values[w.r.IntN(len(w.values)-n):][:n] }

func (w *walk) weights(l spec.Linear) (v Weights) {
	for _, f := range l.Chain() {
		v.Factors = append(v.Factors, w.draw(f.Weights()))
	}
	if l.Bias {
		v.Bias = w.draw(l.Out)
	}
	return v
}

// worded turns a panic into a failure that names the layer.
func worded(t *testing.T, name string) {
	if p := recover(); p != nil {
		t.Errorf("%s: panic: %v", name, p)
	}
}

// each compares entry by entry, to within so many roundings.
func each(t *testing.T, name, what string, got []float32, want []float64, roundings int, own float64) {
	t.Helper()
	tol := float64(roundings)*0x1p-24 + own
	for i, v := range want {
		if !(math.Abs(float64(got[i])-v) <= tol*v) {
			t.Fatalf("%s: %s[%d] = %v, want %v", name, what, i, got[i], v)
		}
	}
}

func addBias(y []float64, bias []float32, m int) {
	for i := range y {
		if bias != nil {
			y[i] += float64(bias[i%(len(y)/m)])
		}
	}
}

func (w *walk) layer(t *testing.T, s spec.Linear) {
	t.Helper()
	const m = walkRows
	name := s.Name()
	defer worded(t, name)
	v := w.weights(s)
	l, err := NewLinear(s, v, Options{ISA: w.isa, Pool: w.pool, Train: true})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	saved := l.NewSaved(m)
	defer saved.Close()
	x, dy := w.draw(m*s.In), w.draw(m*s.Out)
	y, dx, g := poisoned(m*s.Out), poisoned(m*s.In), emptyLike(v)
	l.Forward(y, x, nil, m, saved, w.ws)
	l.Backward(dx, g, dy, x, m, saved, false, w.ws)

	fs, _ := wideFactors(v)
	c := f64ref.NewChain(s)
	wy, inputs := c.Forward(fs, wide(x), m)
	addBias(wy, v.Bias, m)
	n := s.In + s.Out + s.Rank + m + 4
	each(t, name, "y", y, wy, n, 0)
	wdx, dw := c.Backward(fs, inputs, wide(dy), m)
	each(t, name, "dx", dx, wdx, n, 0)
	for i := range dw {
		each(t, name, "gradient of "+s.Chain()[i].Param, g.Factors[i], dw[i], n, 0)
	}
	w.bias(t, name, g.Bias, wide(dy), m)
}

func (w *walk) bias(t *testing.T, name string, got []float32, dy []float64, m int) {
	t.Helper()
	if got == nil {
		return
	}
	want := make([]float64, len(got))
	for i, v := range dy {
		want[i%len(want)] += v
	}
	each(t, name, "gradient of the bias", got, want, m+len(got)+200, 4e-6)
}

func (w *walk) network(t *testing.T, s spec.FFN) {
	t.Helper()
	const m = walkRows
	name := s.Name()
	defer worded(t, name)
	fc1, fc2 := s.FC1(), s.FC2()
	v := FFNWeights{w.weights(fc1), w.weights(fc2)}
	f, err := NewFFN(s, v, Options{ISA: w.isa, Pool: w.pool, Train: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	saved := f.NewSaved(m)
	defer saved.Close()
	x, dy := w.draw(m*s.Hidden), w.draw(m*s.Hidden)
	y, dx, g := poisoned(m*s.Hidden), poisoned(m*s.Hidden), FFNWeights{emptyLike(v.FC1), emptyLike(v.FC2)}
	f.Forward(y, x, nil, m, saved, w.ws)
	f.Backward(dx, g, dy, x, m, saved, false, w.ws)

	f1, _ := wideFactors(v.FC1)
	f2, _ := wideFactors(v.FC2)
	c1, c2 := f64ref.NewChain(fc1), f64ref.NewChain(fc2)
	pre, in1 := c1.Forward(f1, wide(x), m)
	addBias(pre, v.FC1.Bias, m)
	wy, in2 := c2.Forward(f2, f64ref.Activate(s, pre, m), m)
	addBias(wy, v.FC2.Bias, m)
	// The activation is good to 1e-6 of its argument, which is at least half a
	// weight times an input here; its derivative, near 1, to about as much of
	// the gradient.
	n, own := 2*(s.Hidden+fc1.Out)+m+8, 4e-6
	each(t, name, "y", y, wy, n, own)
	da, dw2 := c2.Backward(f2, in2, wide(dy), m)
	dpre := f64ref.ActivateBackward(s, pre, da, m)
	wdx, dw1 := c1.Backward(f1, in1, dpre, m)
	each(t, name, "dx", dx, wdx, n, own)
	for i := range dw1 {
		each(t, name, "gradient of fc1."+fc1.Chain()[i].Param, g.FC1.Factors[i], dw1[i], n, own)
	}
	for i := range dw2 {
		each(t, name, "gradient of fc2."+fc2.Chain()[i].Param, g.FC2.Factors[i], dw2[i], n, own)
	}
	w.bias(t, name, g.FC1.Bias, dpre, m)
	w.bias(t, name, g.FC2.Bias, wide(dy), m)
}
