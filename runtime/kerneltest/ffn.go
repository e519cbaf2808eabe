package kerneltest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/bound"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// FFN checks a network, with its guides off and on where it has some, on every
// instruction set of the machine: against float64, and that all assembly gives
// the same bits. In other formats than float32 it compares the kernels made for its shape
// with those for any.
func FFN(t *testing.T, s spec.FFN) {
	if err := checkFFN(s, func(rt.FFNWeights) {}); err != nil {
		t.Fatalf("%s: %v", s.Name(), err)
	}
	if err := checkFormats(s, func([]float32) {}); err != nil {
		t.Fatalf("%s: %v", s.Name(), err)
	}
}

// checkFormats compares what a network makes of one row and of many in each format, of
// which a test of this test spoils the first.
func checkFormats(s spec.FFN, spoil func(y []float32)) error {
	const rows = 29
	r := rand.New(rand.NewPCG(3, 4))
	s.Guide = false // which is off here, and formats of integers have none
	w := rt.FFNWeights{FC1: weights(r, s.FC1()), FC2: weights(r, s.FC2())}
	x := normal(r, make([]float32, rows*s.Hidden), 1)
	pool := rt.NewPool(1)
	defer pool.Close()
	for _, format := range kernel.Formats()[1:] {
		for _, isa := range kernel.Available() {
			var first []float32
			for _, any := range []bool{false, true} {
				f, err := rt.NewFFN(s, w, rt.Options{ISA: isa, Pool: pool, Format: format, AnyShape: any})
				if err != nil {
					return err
				}
				ws := f.NewWorkspace()
				y, one := poison(rows*s.Hidden), poison(s.Hidden)
				f.Forward(y, x, nil, rows, nil, ws)
				f.Forward(one, x[:s.Hidden], nil, 1, nil, ws)
				if first == nil {
					spoil(y)
					first = y
				}
				ws.Close()
				f.Close()
				for i, v := range first {
					if !(v == y[i]) || i < s.Hidden && !(v == one[i]) {
						return fmt.Errorf("%s on %s: entry %d is %v by the kernels made for the shape, %v by those for any, any shape %v", format, isa, i, v, y[i], any)
					}
				}
			}
		}
	}
	return nil
}

// checkFFN compares a network whose weights, for a test of this test, are
// spoiled before it is made.
func checkFFN(s spec.FFN, spoil func(rt.FFNWeights)) error {
	const rows = 8
	r := rand.New(rand.NewPCG(3, 3))
	w := rt.FFNWeights{FC1: weights(r, s.FC1()), FC2: weights(r, s.FC2())}
	x := normal(r, make([]float32, rows*s.Hidden), 1)
	pool := rt.NewPool(1)
	defer pool.Close()
	mixes := []rt.Guide{{}}
	if s.Guide {
		mixes = append(mixes, rt.Guide{On: true, Ratio: 0.3})
	}
	var want [][]bound.Num
	for _, mix := range mixes {
		want = append(want, network(s, w, x, rows, mix))
	}
	spoil(w)
	best := make([][]float32, len(mixes)) // of the assembly
	for _, isa := range kernel.Available() {
		f, err := rt.NewFFN(s, w, rt.Options{ISA: isa, Pool: pool})
		if err != nil {
			return err
		}
		defer f.Close()
		ws := f.NewWorkspace()
		defer ws.Close()
		for i, mix := range mixes {
			f.SetGuides(mix, mix)
			y := poison(rows * s.Hidden)
			f.Forward(y, x, nil, rows, nil, ws)
			for j, v := range want[i] {
				v.E *= deviations
				if !v.Holds(y[j]) {
					return fmt.Errorf("%s: guide %+v: y[%d] = %v, want %v within %.2g", isa, mix, j, y[j], v.V, v.E)
				}
			}
			switch {
			case isa == kernel.Portable:
			case best[i] == nil:
				best[i] = y
			case !slices.Equal(y, best[i]):
				return fmt.Errorf("%s and %s differ", isa, kernel.Available()[0])
			}
		}
	}
	return nil
}

func weights(r *rand.Rand, l spec.Linear) (w rt.Weights) {
	for _, f := range l.Chain() {
		w.Factors = append(w.Factors, normal(r, make([]float32, f.Weights()), 1/math.Sqrt(float64(f.In))))
	}
	if l.Bias {
		w.Bias = normal(r, make([]float32, l.Out), 1)
	}
	if l.Guide {
		w.Guide = normal(r, make([]float32, l.Out*l.In), 1/math.Sqrt(float64(l.In)))
	}
	return w
}

// The worst case of all roundings grows at each factor by the sum of its
// weights' magnitudes, and would hide a wrong weight. The roundings of a sum's
// terms are independent, though: here their squares add, and E bounds a standard
// deviation. One rounding lies evenly within its bound, which is 1.7 deviations
// of it: results stay within 10 of them.
const deviations = 6

// network is fc2(act(fc1(x))), with everything in its true order.
func network(s spec.FFN, w rt.FFNWeights, x []float32, m int, mix rt.Guide) []bound.Num {
	p := plan.NewFFN(s)
	in := make([]bound.Num, len(x))
	for i, v := range x {
		in[i] = bound.Of(v)
	}
	pre := linear(p.FC1, w.FC1, in, m, mix)
	act := make([]bound.Num, m*s.FFN)
	for i := range m {
		for j := range s.FFN {
			h := pre[i*len(pre)/m:]
			v, _ := h[j].Activation(string(s.Act))
			if s.Act.Gated() {
				v = v.Mul(h[s.FFN+j])
			}
			act[i*s.FFN+j] = v
		}
	}
	return linear(p.FC2, w.FC2, act, m, mix)
}

func linear(p plan.Layer, w rt.Weights, x []bound.Num, m int, mix rt.Guide) []bound.Num {
	var y []bound.Num
	share := bound.Of(1)
	if mix.On {
		y = factor(p.Guide, w.Guide, x, nil, m, bound.Of(mix.Ratio))
		share = bound.Of(1 - mix.Ratio)
	}
	for i := range p.Factors {
		if last := len(p.Factors) - 1; i < last {
			x = factor(&p.Factors[i], w.Factors[i], x, nil, m, bound.Of(1))
		} else {
			y = factor(&p.Factors[i], w.Factors[i], x, y, m, share)
		}
	}
	for i := range y {
		if w.Bias != nil {
			y[i] = y[i].Add(bound.Of(w.Bias[i%len(w.Bias)]))
		}
	}
	return y
}

// factor adds to m rows of y, where there are some, the products of those of x
// with a factor, times a share. The plan says in which order each sum is made.
func factor(f *plan.Factor, w []float32, x, y []bound.Num, m int, share bound.Num) []bound.Num {
	sums := make([]bound.Num, m*f.Factor.Blocks*f.Out)
	copy(sums, y)
	orders := make([]plan.Product, f.Factor.Blocks)
	for _, p := range f.Forward() {
		if p.Lanes > 0 {
			for b := range orders {
				orders[b] = p
			}
			break
		}
		orders[p.Block] = p
	}
	in, row := make([]bound.Num, m*f.In), make([]float64, f.In)
	for b, p := range orders {
		order := p.KIndex()
		for i := range m {
			for k, at := range order {
				in[i*f.In+k] = x[(i*f.Factor.Blocks+b)*f.In+at]
			}
		}
		for c := range f.Out {
			for k, at := range order {
				row[k] = float64(w[(b*f.Out+c)*f.In+at])
			}
			for i := range m {
				to := &sums[i*f.Factor.Blocks*f.Out+f.Shuffled(b*f.Out+c)]
				k := 0
				for _, depth := range p.KBlocks {
					var sum, inherited, rounded float64
					for range depth {
						p := row[k] * in[i*f.In+k].V
						e := row[k] * in[i*f.In+k].E
						sum += p
						inherited += e * e
						rounded += p*p + sum*sum
						k++
					}
					e := math.Sqrt(inherited + bound.Unit*bound.Unit*rounded)
					part := bound.Num{V: sum, E: e}.Mul(share)
					to.E = math.Hypot(to.E, part.E)
					to.V += part.V
					to.E = math.Hypot(to.E, bound.Unit*to.V)
				}
			}
		}
	}
	return sums
}
