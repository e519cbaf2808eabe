package runtime

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/f64ref"
	"github.com/structuredffn/sffn/internal/runtimetest"
	"github.com/structuredffn/sffn/runtime/kernel"
	"pgregory.net/rapid"
)

func randomWeights(r *rand.Rand, l spec.Linear) Weights {
	var w Weights
	for _, f := range l.Chain() {
		w.Factors = append(w.Factors, runtimetest.Random(r, f.Weights(), 1/math.Sqrt(float64(f.In))))
	}
	if l.Bias {
		w.Bias = runtimetest.Random(r, l.Out, 1)
	}
	if l.Guide {
		w.Guide = runtimetest.Random(r, l.Out*l.In, 1/math.Sqrt(float64(l.In)))
	}
	return w
}

func wideFactors(w Weights) (fs [][]float64, bias []float64) {
	for _, f := range w.Factors {
		fs = append(fs, runtimetest.Wide(f))
	}
	if w.Bias != nil {
		bias = runtimetest.Wide(w.Bias)
	}
	return fs, bias
}

func emptyLike(w Weights) (g Weights) {
	for _, f := range w.Factors {
		g.Factors = append(g.Factors, runtimetest.Poisoned(len(f)))
	}
	if w.Bias != nil {
		g.Bias = runtimetest.Poisoned(len(w.Bias))
	}
	if w.Guide != nil {
		g.Guide = runtimetest.Poisoned(len(w.Guide))
	}
	return g
}

var linearCases = []spec.Linear{
	{Kind: spec.Dense, In: 13, Out: 71, Bias: true},
	{Kind: spec.Dense, In: 1, Out: 1},
	{Kind: spec.Dense, In: 800, Out: 50},
	{Kind: spec.Dense, In: 96, Out: 257, Bias: true},
	{Kind: spec.LowRank, In: 96, Out: 160, Rank: 24, Bias: true},
	{Kind: spec.BlockDense, In: 35, Out: 51, Rank: 15, Blocks: 5, Bias: true},
	{Kind: spec.BlockDense, In: 128, Out: 64, Rank: 96, Blocks: 2},
	{Kind: spec.BlockShuffle, In: 48, Out: 96, Blocks: 4, Bias: true},
	{Kind: spec.BlockShuffle, In: 192, Out: 768, Blocks: 4, Bias: true},
	{Kind: spec.BlockShuffle, In: 768, Out: 192, Blocks: 2},
	{Kind: spec.BlockShuffle, In: 42, Out: 30, Blocks: 6},
	{Kind: spec.BlockShuffle, In: 12, Out: 48, Blocks: 4, Bias: true},
	{Kind: spec.BlockShuffle, In: 24, Out: 36, Blocks: 1, Bias: true},
	{Kind: spec.BTT, In: 96, Out: 160, Rank: 3, Bias: true},
	{Kind: spec.BTT, In: 192, Out: 96, Rank: 10},
	{Kind: spec.BTT, In: 35, Out: 60, Rank: 2, InSplit: 7, OutSplit: 30, Bias: true},
	{Kind: spec.BLAST, In: 96, Out: 160, Rank: 40, Blocks: 16, Bias: true},
	{Kind: spec.BLAST, In: 96, Out: 320, Rank: 88, Blocks: 8},
	{Kind: spec.BLAST, In: 36, Out: 60, Rank: 7, Blocks: 4, OutSplit: 5, Bias: true},
}

func TestLinear(t *testing.T) {
	for _, isa := range kernel.Available() {
		for _, s := range linearCases {
			for _, m := range []int{1, 2, 7, 13, 30, 300} {
				if m > 30 && s.In*s.Out > 10000 && isa == kernel.Portable {
					continue
				}
				t.Run(fmt.Sprintf("%s/%s/%d", isa, s.Name(), m), func(t *testing.T) { testLinear(t, isa, s, m) })
			}
		}
	}
}

func testLinear(t *testing.T, isa kernel.ISA, s spec.Linear, m int) {
	r := rand.New(rand.NewPCG(1, uint64(m)))
	pool := NewPool(2)
	defer pool.Close()
	w := randomWeights(r, s)
	l, err := NewLinear(s, w, Options{ISA: isa, Pool: pool, Train: true})
	if err != nil {
		t.Fatal(err)
	}
	ws := l.NewWorkspace()
	defer ws.Close()
	saved := l.NewSaved(m)
	defer saved.Close()
	x, dy := runtimetest.Random(r, m*s.In, 1), runtimetest.Random(r, m*s.Out, 1)
	res := runtimetest.Random(r, m*s.Out, 1)
	y, dx, g := runtimetest.Poisoned(m*s.Out), runtimetest.Poisoned(m*s.In), emptyLike(w)
	l.Forward(y, x, res, m, saved, ws)
	l.Backward(dx, g, dy, x, m, saved, false, ws)

	fs, bias := wideFactors(w)
	merged := f64ref.Merged(s, fs)
	want := f64ref.Linear(merged, bias, runtimetest.Wide(x), m, s.In, s.Out)
	for i, v := range res {
		want[i] += float64(v)
	}
	runtimetest.Near(t, "y", y, want, runtimetest.Tolerance(s.In))
	wdx, wdw, wdb := f64ref.LinearBackward(merged, runtimetest.Wide(x), runtimetest.Wide(dy), m, s.In, s.Out)
	runtimetest.Near(t, "dx", dx, wdx, runtimetest.Tolerance(s.Out))
	for i, wg := range f64ref.FactorGradients(s, fs, wdw) {
		runtimetest.Near(t, "grad "+s.Chain()[i].Param, g.Factors[i], wg, runtimetest.Tolerance(m+s.In+s.Out))
	}
	if s.Bias {
		runtimetest.Near(t, "grad bias", g.Bias, wdb, runtimetest.Tolerance(m))
	}
}

func TestFFN(t *testing.T) {
	specs := []spec.FFN{
		{Kind: spec.Dense, Hidden: 24, FFN: 66, Act: spec.GELU, Bias: true},
		{Kind: spec.Dense, Hidden: 96, FFN: 384, Act: spec.SwiGLU, Bias: true},
		{Kind: spec.Dense, Hidden: 800, FFN: 64, Act: spec.SwiGLU},
		{Kind: spec.LowRank, Hidden: 64, FFN: 256, Rank: 32, Act: spec.GELU, Bias: true},
		{Kind: spec.LowRank, Hidden: 37, FFN: 53, Rank: 11, Act: spec.SwiGLU, Bias: true},
		{Kind: spec.Dense, Hidden: 800, FFN: 64, Act: spec.GELUErf},
		{Kind: spec.BlockShuffle, Hidden: 30, FFN: 42, Blocks: 3, Act: spec.GELUErf, Bias: true},
		{Kind: spec.BlockDense, Hidden: 64, FFN: 128, Rank: 32, Blocks: 2, Act: spec.GELU},
		{Kind: spec.BlockShuffle, Hidden: 128, FFN: 512, Blocks: 4, Act: spec.GELU, Bias: true},
		{Kind: spec.BlockShuffle, Hidden: 128, FFN: 512, Blocks: 2, Act: spec.SwiGLU, Bias: true},
		{Kind: spec.BlockShuffle, Hidden: 30, FFN: 42, Blocks: 3, Act: spec.SwiGLU, Bias: true},
		{Kind: spec.BlockShuffle, Hidden: 30, FFN: 42, Blocks: 6, Act: spec.GELU, Bias: true},
		{Kind: spec.BTT, Hidden: 96, FFN: 256, Rank: 3, Act: spec.GELU, Bias: true},
		{Kind: spec.BTT, Hidden: 96, FFN: 256, Rank: 3, Act: spec.SwiGLU, Bias: true},
		{Kind: spec.BTT, Hidden: 48, FFN: 800, Rank: 2, FFNSplit: 1, Act: spec.SwiGLU}, // gate and up in one block
		{Kind: spec.BLAST, Hidden: 96, FFN: 256, Rank: 40, Blocks: 16, Act: spec.GELU, Bias: true},
		{Kind: spec.BLAST, Hidden: 96, FFN: 256, Rank: 21, Blocks: 4, HiddenSplit: 6, Act: spec.SwiGLU, Bias: true},
	}
	for _, isa := range kernel.Available() {
		for _, s := range specs {
			for _, m := range []int{1, 11, 70} {
				t.Run(fmt.Sprintf("%s/%s/%d", isa, s.Name(), m), func(t *testing.T) { testFFN(t, isa, s, m) })
			}
		}
		for _, s := range wideFFNs {
			s.Guide = false
			t.Run(fmt.Sprintf("%s/%s", isa, s.Name()), func(t *testing.T) { testFFN(t, isa, s, 2*kernel.RowBlock+9) })
		}
	}
}

func testFFN(t *testing.T, isa kernel.ISA, s spec.FFN, m int) {
	r := rand.New(rand.NewPCG(2, uint64(m)))
	pool := NewPool(2)
	defer pool.Close()
	fc1, fc2 := s.FC1(), s.FC2()
	w := FFNWeights{randomWeights(r, fc1), randomWeights(r, fc2)}
	f, err := NewFFN(s, w, Options{ISA: isa, Pool: pool, Train: true})
	if err != nil {
		t.Fatal(err)
	}
	ws := f.NewWorkspace()
	defer ws.Close()
	saved := f.NewSaved(m)
	defer saved.Close()
	h := s.Hidden
	x, dy := runtimetest.Random(r, m*h, 1), runtimetest.Random(r, m*h, 1)
	y, dx := runtimetest.Poisoned(m*h), runtimetest.Poisoned(m*h)
	g := FFNWeights{emptyLike(w.FC1), emptyLike(w.FC2)}
	f.Forward(y, x, nil, m, saved, ws)
	f.Backward(dx, g, dy, x, m, saved, false, ws)
	decoded := runtimetest.Poisoned(m * h)
	f.Forward(decoded, x, nil, m, nil, ws)
	for i := range y {
		if y[i] != decoded[i] {
			t.Fatalf("without saved, y[%d] = %v, not %v", i, decoded[i], y[i])
		}
	}

	f1, b1 := wideFactors(w.FC1)
	f2, b2 := wideFactors(w.FC2)
	m1, m2 := f64ref.Merged(fc1, f1), f64ref.Merged(fc2, f2)
	pre := f64ref.Linear(m1, b1, runtimetest.Wide(x), m, h, fc1.Out)
	act := f64ref.Activate(s, pre, m)
	tol := 4 * runtimetest.Tolerance(m+h+fc1.Out)
	runtimetest.Near(t, "y", y, f64ref.Linear(m2, b2, act, m, s.FFN, h), tol)
	da, dw2, db2 := f64ref.LinearBackward(m2, act, runtimetest.Wide(dy), m, s.FFN, h)
	wdx, dw1, db1 := f64ref.LinearBackward(m1, runtimetest.Wide(x), f64ref.ActivateBackward(s, pre, da, m), m, h, fc1.Out)
	runtimetest.Near(t, "dx", dx, wdx, tol)
	for i, wg := range f64ref.FactorGradients(fc1, f1, dw1) {
		runtimetest.Near(t, "fc1."+fc1.Chain()[i].Param, g.FC1.Factors[i], wg, tol)
	}
	for i, wg := range f64ref.FactorGradients(fc2, f2, dw2) {
		runtimetest.Near(t, "fc2."+fc2.Chain()[i].Param, g.FC2.Factors[i], wg, tol)
	}
	if s.Bias {
		runtimetest.Near(t, "fc1.bias", g.FC1.Bias, db1, tol)
		runtimetest.Near(t, "fc2.bias", g.FC2.Bias, db2, tol)
	}
}

// A layer that is like another one but for its weights computes the bits of one
// made anew, and outlives the other.
func TestWith(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.SampledFrom(linearCases).Draw(t, "layer")
		s.Guide = s.Kind != spec.Dense && rapid.Bool().Draw(t, "guide")
		m := rapid.SampledFrom([]int{1, 7, 30}).Draw(t, "rows")
		r := rand.New(rand.NewPCG(1, uint64(m)))
		pool := NewPool(2)
		defer pool.Close()
		opt := Options{Pool: pool, Train: true}
		w := randomWeights(r, s)
		first, err := NewLinear(s, randomWeights(r, s), opt)
		if err != nil {
			t.Fatal(err)
		}
		like, err := first.With(w)
		if err != nil {
			t.Fatal(err)
		}
		defer like.Close()
		first.SetGuide(Guide{On: s.Guide, Ratio: 0.9})
		first.Close()
		anew, err := NewLinear(s, w, opt)
		if err != nil {
			t.Fatal(err)
		}
		defer anew.Close()
		ws, saved := anew.NewWorkspace(), anew.NewSaved(m)
		defer ws.Close()
		defer saved.Close()
		x, dy := runtimetest.Random(r, m*s.In, 1), runtimetest.Random(r, m*s.Out, 1)
		var results [2][][]float32
		for i, l := range []*Linear{anew, like} {
			y, dx, g := runtimetest.Poisoned(m*s.Out), runtimetest.Poisoned(m*s.In), emptyLike(w)
			for _, mix := range []Guide{{}, {On: s.Guide, Ratio: 0.3}} {
				l.SetGuide(mix)
				l.Forward(y, x, nil, m, saved, ws)
				l.Backward(dx, g, dy, x, m, saved, mix.On, ws)
				results[i] = append(results[i], slices.Clone(y), slices.Clone(dx))
			}
			results[i] = append(append(results[i], g.Factors...), g.Bias, g.Guide)
		}
		for i := range results[0] {
			if !slices.Equal(results[0][i], results[1][i]) {
				t.Errorf("result %d differs", i)
			}
		}
		w.Factors = w.Factors[1:]
		if _, err := first.With(w); err == nil {
			t.Error("weights of too few factors were taken")
		}
	})
}

// Options.AnyShape leaves out the specialised kernels, which this test's
// program links.
func TestAnyShapeOption(t *testing.T) {
	isas := kernel.Available()
	l := spec.Linear{Kind: spec.LowRank, In: 768, Out: 3072, Rank: 192, Bias: true}
	for _, isa := range isas[:len(isas)-1] { // all but portable
		for _, anyShape := range []bool{false, true} {
			b, err := NewLinear(l, randomWeights(rand.New(rand.NewPCG(1, 1)), l), Options{ISA: isa, AnyShape: anyShape})
			if err != nil {
				t.Fatal(err)
			}
			special := 0
			for _, qs := range b.layer.forward {
				for _, q := range qs {
					special += q.Specialised()
				}
			}
			b.Close()
			if (special == 0) != anyShape {
				t.Errorf("%s: AnyShape %v: %d specialised kernels", isa, anyShape, special)
			}
		}
	}
}
