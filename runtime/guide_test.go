package runtime

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/f64ref"
	"github.com/structuredffn/sffn/internal/runtimetest"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// mixture is the dense matrix that a guided layer amounts to.
func mixture(s spec.Linear, w Weights, g Guide) []float64 {
	fs, _ := wideFactors(w)
	m := f64ref.Merged(s, fs)
	for i := range m {
		if g.On {
			m[i] = float64(g.Ratio)*float64(w.Guide[i]) + (1-float64(g.Ratio))*m[i]
		}
	}
	return m
}

// nearGuided compares the gradients of a guided layer with those that the
// gradient dm of its mixture gives.
func nearGuided(t runtimetest.Reporter, what string, s spec.Linear, w, got Weights, dm []float64, g Guide, tol float64) {
	t.Helper()
	share := func(x []float64, a float64) []float64 {
		y := slices.Clone(x)
		for i := range y {
			y[i] *= a
		}
		return y
	}
	a := 0.0
	if g.On {
		a = float64(g.Ratio)
	}
	fs, _ := wideFactors(w)
	for i, want := range f64ref.FactorGradients(s, fs, share(dm, 1-a)) {
		runtimetest.Near(t, what+s.Chain()[i].Param, got.Factors[i], want, tol)
	}
	runtimetest.Near(t, what+"guide", got.Guide, share(dm, a), tol)
}

// Guided layers of every kind, with tiles that the kernels store and tiles
// that are scattered, padded panels and several blocks of k, against float64:
// forward, both backward passes, and accumulation over two passes of which the
// second goes without the guide.
func TestGuidedLinear(t *testing.T) {
	for _, isa := range kernel.Available() {
		rapid.Check(t, func(t *rapid.T) {
			s := rapid.SampledFrom(linearCases[4:]).Draw(t, "layer")
			s.Guide = true
			m := rapid.SampledFrom([]int{1, 7, 30, 260}).Draw(t, "rows")
			if isa == kernel.Portable && s.In*s.Out > 10000 {
				m = min(m, 7)
			}
			g := Guide{On: true, Ratio: rapid.SampledFrom([]float32{0, 0.3, 0.75, 1}).Draw(t, "ratio")}
			r := rand.New(rand.NewPCG(1, uint64(m)))
			pool := NewPool(2)
			defer pool.Close()
			w := randomWeights(r, s)
			l, err := NewLinear(s, w, Options{ISA: isa, Pool: pool, Train: true})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			ws, saved := l.NewWorkspace(), l.NewSaved(m)
			defer ws.Close()
			defer saved.Close()
			x, dy, res := runtimetest.Random(r, m*s.In, 1), runtimetest.Random(r, m*s.Out, 1), runtimetest.Random(r, m*s.Out, 1)
			_, bias := wideFactors(w)
			grads := emptyLike(w)
			sums := [2][]float64{}
			for pass, mix := range []Guide{g, {}} {
				l.SetGuide(mix)
				y, dx := runtimetest.Poisoned(m*s.Out), runtimetest.Poisoned(m*s.In)
				l.Forward(y, x, res, m, saved, ws)
				l.Backward(dx, grads, dy, x, m, saved, pass > 0, ws)
				dense := mixture(s, w, mix)
				want := f64ref.Linear(dense, bias, runtimetest.Wide(x), m, s.In, s.Out)
				for i, v := range res {
					want[i] += float64(v)
				}
				runtimetest.Near(t, "y", y, want, runtimetest.Tolerance(s.In))
				wdx, dm, db := f64ref.LinearBackward(dense, runtimetest.Wide(x), runtimetest.Wide(dy), m, s.In, s.Out)
				runtimetest.Near(t, "dx", dx, wdx, runtimetest.Tolerance(s.Out))
				if pass == 0 {
					nearGuided(t, "gradient of ", s, w, grads, dm, mix, runtimetest.Tolerance(m+s.In+s.Out))
					if s.Bias {
						runtimetest.Near(t, "gradient of the bias", grads.Bias, db, runtimetest.Tolerance(m))
					}
				}
				sums[pass] = dm
			}
			// The second pass added nothing to the guide's gradient.
			fs, _ := wideFactors(w)
			both := make([]float64, s.In*s.Out)
			guided := make([]float64, s.In*s.Out)
			for i := range both {
				both[i] = (1-float64(g.Ratio))*sums[0][i] + sums[1][i]
				guided[i] = float64(g.Ratio) * sums[0][i]
			}
			for i, want := range f64ref.FactorGradients(s, fs, both) {
				runtimetest.Near(t, "accumulated "+s.Chain()[i].Param, grads.Factors[i], want, runtimetest.Tolerance(m+s.In+s.Out))
			}
			runtimetest.Near(t, "accumulated guide", grads.Guide, guided, runtimetest.Tolerance(m+s.In+s.Out))
			// Overwriting without the guide leaves its gradient at zero.
			l.Backward(nil, grads, dy, x, m, saved, false, ws)
			for i, v := range grads.Guide {
				if v != 0 {
					t.Fatalf("gradient %d of a guide that was left out is %v", i, v)
				}
			}
		})
	}
}

func TestGuidedFFN(t *testing.T) {
	specs := []spec.FFN{
		{Kind: spec.LowRank, Hidden: 64, FFN: 256, Rank: 32, Act: spec.GELU, Bias: true},
		{Kind: spec.LowRank, Hidden: 37, FFN: 53, Rank: 11, Act: spec.SwiGLU, Bias: true},
		{Kind: spec.LowRank, Hidden: 37, FFN: 53, Rank: 11, Act: spec.GELUErf, Bias: true},
		{Kind: spec.LowRank, Hidden: 800, FFN: 64, Rank: 16, Act: spec.SwiGLU},
		{Kind: spec.BlockDense, Hidden: 64, FFN: 128, Rank: 32, Blocks: 2, Act: spec.GELU},
		{Kind: spec.BlockShuffle, Hidden: 128, FFN: 512, Blocks: 4, Act: spec.GELU, Bias: true},
		{Kind: spec.BlockShuffle, Hidden: 128, FFN: 512, Blocks: 2, Act: spec.SwiGLU, Bias: true},
		{Kind: spec.BlockShuffle, Hidden: 30, FFN: 42, Blocks: 3, Act: spec.SwiGLU, Bias: true},
		{Kind: spec.BlockShuffle, Hidden: 30, FFN: 42, Blocks: 6, Act: spec.GELU, Bias: true},
		{Kind: spec.BTT, Hidden: 60, FFN: 96, Rank: 2, Act: spec.GELU, Bias: true},
		{Kind: spec.BTT, Hidden: 60, FFN: 96, Rank: 2, Act: spec.SwiGLU, Bias: true},
		{Kind: spec.BLAST, Hidden: 60, FFN: 96, Rank: 20, Blocks: 4, Act: spec.SwiGLU, Bias: true},
	}
	mixes := []Guide{{On: true, Ratio: 0.625}, {}, {On: true, Ratio: 1}}
	for _, isa := range kernel.Available() {
		for _, s := range specs {
			s.Guide = true
			for i, m := range []int{1, 11, 70} {
				t.Run(fmt.Sprintf("%s/%s/%d", isa, s.Name(), m), func(t *testing.T) {
					testGuidedFFN(t, isa, s, m, mixes[i], mixes[(i+1)%3])
					testGuidedFFN(t, isa, s, m, mixes[0], mixes[0])
				})
			}
		}
	}
}

func testGuidedFFN(t *testing.T, isa kernel.ISA, s spec.FFN, m int, g1, g2 Guide) {
	r := rand.New(rand.NewPCG(2, uint64(m)))
	pool := NewPool(2)
	defer pool.Close()
	fc1, fc2, h := s.FC1(), s.FC2(), s.Hidden
	w := FFNWeights{randomWeights(r, fc1), randomWeights(r, fc2)}
	f, err := NewFFN(s, w, Options{ISA: isa, Pool: pool, Train: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.SetGuides(g1, g2)
	ws, saved := f.NewWorkspace(), f.NewSaved(m)
	defer ws.Close()
	defer saved.Close()
	x, dy := runtimetest.Random(r, m*h, 1), runtimetest.Random(r, m*h, 1)
	y, dx, again := runtimetest.Poisoned(m*h), runtimetest.Poisoned(m*h), runtimetest.Poisoned(m*h)
	g := FFNWeights{emptyLike(w.FC1), emptyLike(w.FC2)}
	f.Forward(y, x, nil, m, saved, ws)
	f.Backward(dx, g, dy, x, m, saved, false, ws)
	f.Forward(again, x, nil, m, nil, ws)
	for i := range y {
		if math.Float32bits(y[i]) != math.Float32bits(again[i]) {
			t.Fatalf("without saved, y[%d] = %v, not %v", i, again[i], y[i])
		}
	}
	_, b1 := wideFactors(w.FC1)
	_, b2 := wideFactors(w.FC2)
	m1, m2 := mixture(fc1, w.FC1, g1), mixture(fc2, w.FC2, g2)
	pre := f64ref.Linear(m1, b1, runtimetest.Wide(x), m, h, fc1.Out)
	act := f64ref.Activate(s, pre, m)
	tol := 4 * runtimetest.Tolerance(m+h+fc1.Out)
	runtimetest.Near(t, "y", y, f64ref.Linear(m2, b2, act, m, s.FFN, h), tol)
	da, dw2, db2 := f64ref.LinearBackward(m2, act, runtimetest.Wide(dy), m, s.FFN, h)
	wdx, dw1, db1 := f64ref.LinearBackward(m1, runtimetest.Wide(x), f64ref.ActivateBackward(s, pre, da, m), m, h, fc1.Out)
	runtimetest.Near(t, "dx", dx, wdx, tol)
	nearGuided(t, "fc1.", fc1, w.FC1, g.FC1, dw1, g1, tol)
	nearGuided(t, "fc2.", fc2, w.FC2, g.FC2, dw2, g2, tol)
	if s.Bias {
		runtimetest.Near(t, "fc1.bias", g.FC1.Bias, db1, tol)
		runtimetest.Near(t, "fc2.bias", g.FC2.Bias, db2, tol)
	}
}

// A guide with a ratio of 0 is a guide that is off, bit for bit: the mixture
// changes no sum but by the rounding of its own terms.
func TestGuideOfNoShare(t *testing.T) {
	s := spec.Linear{Kind: spec.LowRank, In: 96, Out: 160, Rank: 24, Bias: true, Guide: true}
	r := rand.New(rand.NewPCG(3, 3))
	w := randomWeights(r, s)
	l, err := NewLinear(s, w, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ws := l.NewWorkspace()
	defer ws.Close()
	x, on, off := runtimetest.Random(r, 40*s.In, 1), make([]float32, 40*s.Out), make([]float32, 40*s.Out)
	l.Forward(off, x, nil, 40, nil, ws)
	l.SetGuide(Guide{On: true})
	l.Forward(on, x, nil, 40, nil, ws)
	if !slices.Equal(on, off) {
		t.Error("a ratio of 0 changes the result")
	}
}
