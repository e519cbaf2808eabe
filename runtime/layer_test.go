package runtime

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/f64ref"
	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/mul"
	"pgregory.net/rapid"
)

func wide(x []float32) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = float64(v)
	}
	return y
}

func random(r *rand.Rand, n int, scale float64) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64() * scale)
	}
	return x
}

func poisoned(n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(math.NaN())
	}
	return x
}

// reporter is what tests and their property checks have in common.
type reporter interface {
	Helper()
	Fatalf(format string, args ...any)
}

// near compares with a bound on each entry: eps of float32 times a few, times
// the magnitude that the sums reach.
func near(t reporter, what string, got []float32, want []float64, tol float64) {
	t.Helper()
	scale := 0.0
	for _, v := range want {
		scale = max(scale, math.Abs(v))
	}
	for i, v := range want {
		if !(math.Abs(float64(got[i])-v) <= tol*scale) {
			t.Fatalf("%s[%d] = %v, want %v (largest %v)", what, i, got[i], v, scale)
		}
	}
}

// tolerance bounds the relative error of chains of sums over depth products:
// random errors grow with the root of the depth; 16 is for two factors and
// the tails of many trials.
func tolerance(depth int) float64 { return 16 * math.Sqrt(float64(depth)) * 0x1p-24 }

func randomWeights(r *rand.Rand, l spec.Linear) Weights {
	var w Weights
	for _, f := range l.Chain() {
		w.Factors = append(w.Factors, random(r, f.Weights(), 1/math.Sqrt(float64(f.In))))
	}
	if l.Bias {
		w.Bias = random(r, l.Out, 1)
	}
	if l.Guide {
		w.Guide = random(r, l.Out*l.In, 1/math.Sqrt(float64(l.In)))
	}
	return w
}

func wideFactors(w Weights) (fs [][]float64, bias []float64) {
	for _, f := range w.Factors {
		fs = append(fs, wide(f))
	}
	if w.Bias != nil {
		bias = wide(w.Bias)
	}
	return fs, bias
}

func emptyLike(w Weights) (g Weights) {
	for _, f := range w.Factors {
		g.Factors = append(g.Factors, poisoned(len(f)))
	}
	if w.Bias != nil {
		g.Bias = poisoned(len(w.Bias))
	}
	if w.Guide != nil {
		g.Guide = poisoned(len(w.Guide))
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
	{Kind: spec.BTT, In: 768, Out: 192, Rank: 10},
	{Kind: spec.BTT, In: 35, Out: 60, Rank: 2, InSplit: 7, OutSplit: 30, Bias: true},
	{Kind: spec.BLAST, In: 96, Out: 160, Rank: 40, Blocks: 16, Bias: true},
	{Kind: spec.BLAST, In: 192, Out: 768, Rank: 88, Blocks: 8},
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
	x, dy := random(r, m*s.In, 1), random(r, m*s.Out, 1)
	res := random(r, m*s.Out, 1)
	y, dx, g := poisoned(m*s.Out), poisoned(m*s.In), emptyLike(w)
	l.Forward(y, x, res, m, saved, ws)
	l.Backward(dx, g, dy, x, m, saved, false, ws)

	fs, bias := wideFactors(w)
	merged := f64ref.Merged(s, fs)
	want := f64ref.Linear(merged, bias, wide(x), m, s.In, s.Out)
	for i, v := range res {
		want[i] += float64(v)
	}
	near(t, "y", y, want, tolerance(s.In))
	wdx, wdw, wdb := f64ref.LinearBackward(merged, wide(x), wide(dy), m, s.In, s.Out)
	near(t, "dx", dx, wdx, tolerance(s.Out))
	for i, wg := range f64ref.FactorGradients(s, fs, wdw) {
		near(t, "grad "+s.Chain()[i].Param, g.Factors[i], wg, tolerance(m+s.In+s.Out))
	}
	if s.Bias {
		near(t, "grad bias", g.Bias, wdb, tolerance(m))
	}
}

// A second pass that accumulates adds to each gradient, bit for bit, what the
// first one computed: the sums of the blocks of rows, in order. A single block
// doubles it. Blocks of rows whose sums have to be put in order first are added
// as one.
func TestAccumulate(t *testing.T) {
	for _, isa := range kernel.Available() {
		for _, s := range linearCases {
			for _, guide := range []bool{false, true} {
				if s.Guide = guide; guide && s.Kind == spec.Dense {
					continue
				}
				for _, m := range []int{1, 7, kernel.RowBlock, kernel.RowBlock + 44} {
					if isa == kernel.Portable && s.In*s.Out > 10000 {
						m = min(m, 7)
					}
					t.Run(fmt.Sprintf("%s/%s/%d", isa, s.Name(), m), func(t *testing.T) { testAccumulate(t, isa, s, m) })
				}
			}
		}
	}
}

func testAccumulate(t *testing.T, isa kernel.ISA, s spec.Linear, m int) {
	r := rand.New(rand.NewPCG(4, uint64(m)))
	pool := NewPool(2)
	defer pool.Close()
	w := randomWeights(r, s)
	l, err := NewLinear(s, w, Options{ISA: isa, Pool: pool, Train: true})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.SetGuide(Guide{On: s.Guide, Ratio: 0.3})
	ws, saved := l.NewWorkspace(), l.NewSaved(m)
	defer ws.Close()
	defer saved.Close()
	x, dy := random(r, m*s.In, 1), random(r, m*s.Out, 1)
	// pass adds the gradients of rows [m0, m1) to g, or overwrites them.
	pass := func(g Weights, m0, m1 int, accumulate bool) {
		x, dy, m := x[m0*s.In:], dy[m0*s.Out:], m1-m0
		l.Forward(poisoned(m*s.Out), x, nil, m, saved, ws)
		l.Backward(nil, g, dy, x, m, saved, accumulate, ws)
	}
	g := emptyLike(w)
	pass(g, 0, m, false)
	once := [][]float32{slices.Clone(g.Bias), slices.Clone(g.Guide)}
	for _, f := range g.Factors {
		once = append(once, slices.Clone(f))
	}
	pass(g, 0, m, true)
	var blocks []Weights
	for m0 := 0; m0 < m; m0 += kernel.RowBlock {
		b := emptyLike(w)
		pass(b, m0, min(m, m0+kernel.RowBlock), false)
		blocks = append(blocks, b)
	}
	// check compares a gradient with what the first pass left, and those of the
	// blocks of rows, where they are added one by one.
	check := func(what string, got, once []float32, direct bool, of func(Weights) []float32) {
		t.Helper()
		for i, v := range once {
			want := v
			if direct {
				for _, b := range blocks {
					want += of(b)[i]
				}
			} else {
				want += v
			}
			if math.Float32bits(got[i]) != math.Float32bits(want) {
				t.Fatalf("%s[%d] = %v after %v, want %v", what, i, got[i], v, want)
			}
		}
	}
	// The sums of the bias's rows run through all blocks.
	check("bias", g.Bias, once[0], false, nil)
	factor := func(what string, gr *mul.Gradient, got, once []float32, of func(Weights) []float32) {
		n := len(got) / gr.Blocks()
		for b := range gr.Blocks() {
			check(fmt.Sprint(what, " block ", b), got[b*n:][:n], once[b*n:][:n], gr.Direct(b),
				func(w Weights) []float32 { return of(w)[b*n:][:n] })
		}
	}
	for i, gr := range l.layer.gradients {
		factor(s.Chain()[i].Param, gr, g.Factors[i], once[2+i], func(w Weights) []float32 { return w.Factors[i] })
	}
	if s.Guide {
		factor("guide", l.layer.guide.gradient, g.Guide, once[1], func(w Weights) []float32 { return w.Guide })
	}
}

func TestFFN(t *testing.T) {
	specs := []spec.FFN{
		{Kind: spec.Dense, Hidden: 24, FFN: 66, Act: spec.GELU, Bias: true},
		{Kind: spec.Dense, Hidden: 96, FFN: 384, Act: spec.SwiGLU, Bias: true},
		{Kind: spec.Dense, Hidden: 800, FFN: 64, Act: spec.SwiGLU},
		{Kind: spec.LowRank, Hidden: 64, FFN: 256, Rank: 32, Act: spec.GELU, Bias: true},
		{Kind: spec.LowRank, Hidden: 37, FFN: 53, Rank: 11, Act: spec.SwiGLU, Bias: true},
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
	x, dy := random(r, m*h, 1), random(r, m*h, 1)
	y, dx := poisoned(m*h), poisoned(m*h)
	g := FFNWeights{emptyLike(w.FC1), emptyLike(w.FC2)}
	f.Forward(y, x, nil, m, saved, ws)
	f.Backward(dx, g, dy, x, m, saved, false, ws)
	decoded := poisoned(m * h)
	f.Forward(decoded, x, nil, m, nil, ws)
	for i := range y {
		if y[i] != decoded[i] {
			t.Fatalf("without saved, y[%d] = %v, not %v", i, decoded[i], y[i])
		}
	}

	f1, b1 := wideFactors(w.FC1)
	f2, b2 := wideFactors(w.FC2)
	m1, m2 := f64ref.Merged(fc1, f1), f64ref.Merged(fc2, f2)
	pre := f64ref.Linear(m1, b1, wide(x), m, h, fc1.Out)
	act := f64ref.Activate(s, pre, m)
	tol := 4 * tolerance(m+h+fc1.Out)
	near(t, "y", y, f64ref.Linear(m2, b2, act, m, s.FFN, h), tol)
	da, dw2, db2 := f64ref.LinearBackward(m2, act, wide(dy), m, s.FFN, h)
	wdx, dw1, db1 := f64ref.LinearBackward(m1, wide(x), f64ref.ActivateBackward(s, pre, da, m), m, h, fc1.Out)
	near(t, "dx", dx, wdx, tol)
	for i, wg := range f64ref.FactorGradients(fc1, f1, dw1) {
		near(t, "fc1."+fc1.Chain()[i].Param, g.FC1.Factors[i], wg, tol)
	}
	for i, wg := range f64ref.FactorGradients(fc2, f2, dw2) {
		near(t, "fc2."+fc2.Chain()[i].Param, g.FC2.Factors[i], wg, tol)
	}
	if s.Bias {
		near(t, "fc1.bias", g.FC1.Bias, db1, tol)
		near(t, "fc2.bias", g.FC2.Bias, db2, tol)
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
		x, dy := random(r, m*s.In, 1), random(r, m*s.Out, 1)
		var results [2][][]float32
		for i, l := range []*Linear{anew, like} {
			y, dx, g := poisoned(m*s.Out), poisoned(m*s.In), emptyLike(w)
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
