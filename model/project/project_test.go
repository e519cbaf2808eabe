package project

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"gonum.org/v1/gonum/mat"
	"gonum.org/v1/gonum/optimize"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/f64ref"
	rt "github.com/structuredffn/sffn/runtime"
)

// layers have each kind, wide and tall, with what lies between the factors narrower
// and wider than a block, and with piles of unequal length.
var layers = []spec.Linear{
	{Kind: spec.LowRank, In: 12, Out: 20, Rank: 5},
	{Kind: spec.LowRank, In: 20, Out: 12, Rank: 12},
	{Kind: spec.BlockDense, In: 12, Out: 18, Rank: 6, Blocks: 3},
	{Kind: spec.BlockDense, In: 20, Out: 6, Rank: 16, Blocks: 2},
	{Kind: spec.BlockShuffle, In: 12, Out: 24, Blocks: 2},
	{Kind: spec.BlockShuffle, In: 30, Out: 15, Blocks: 3},
	{Kind: spec.BlockShuffle, In: 8, Out: 16, Blocks: 4}, // some blocks have no link
	{Kind: spec.BTT, In: 12, Out: 18, Rank: 1},
	{Kind: spec.BTT, In: 18, Out: 12, Rank: 2},
	{Kind: spec.BTT, In: 12, Out: 12, Rank: 2, InSplit: 6, OutSplit: 2},
	{Kind: spec.BLAST, In: 12, Out: 18, Rank: 4, Blocks: 3},
	{Kind: spec.BLAST, In: 18, Out: 12, Rank: 3, Blocks: 2, OutSplit: 3},
	{Kind: spec.BLAST, In: 8, Out: 6, Rank: 9, Blocks: 2}, // wider than the matrix
}

func random(r *rand.Rand, n int) []float64 {
	x := make([]float64, n)
	for i := range x {
		x[i] = r.NormFloat64()
	}
	return x
}

// inputs are the moments of inputs that depend on each other, and these in full.
func inputs(t *testing.T, r *rand.Rand, n int) (*Moments, *mat.Dense) {
	t.Helper()
	const rows = 200
	var x, sum mat.Dense
	x.Mul(mat.NewDense(rows, n, random(r, rows*n)), mat.NewDense(n, n, random(r, n*n)))
	sum.Mul(x.T(), &x)
	m, err := NewMoments(sum.RawMatrix().Data, n, rows)
	if err != nil {
		t.Fatal(err)
	}
	sum.Scale(1.0/rows, &sum)
	return m, &sum
}

// squares are what a matrix lacks of w, of weights and of outputs, computed from the
// merged matrix of the oracle.
func squares(l spec.Linear, factors [][]float64, w []float64, c *mat.Dense) (weights, outputs float64) {
	e := f64ref.Merged(l, factors)
	for i := range e {
		e[i] -= w[i]
		weights += e[i] * e[i]
	}
	if c == nil {
		return weights, 0
	}
	d := mat.NewDense(l.Out, l.In, e)
	var ec mat.Dense
	ec.Mul(d, c)
	for o := range l.Out {
		for i := range l.In {
			outputs += ec.At(o, i) * d.At(o, i)
		}
	}
	return weights, outputs
}

// descend minimises what a layer lacks of w from random factors, by gradients alone: it
// knows the merged matrix of a kind, and nothing of blocks.
func descend(t *testing.T, l spec.Linear, w []float64, c *mat.Dense, r *rand.Rand) float64 {
	t.Helper()
	split := func(x []float64) (factors [][]float64) {
		for _, f := range l.Chain() {
			factors = append(factors, x[:f.Weights():f.Weights()])
			x = x[f.Weights():]
		}
		return factors
	}
	lack := func(x []float64) (float64, []float64) {
		e := mat.NewDense(l.Out, l.In, f64ref.Merged(l, split(x)))
		e.Sub(e, mat.NewDense(l.Out, l.In, w))
		ec := mat.DenseCopyOf(e)
		if c != nil {
			ec.Mul(e, c)
		}
		sum := 0.0
		for i, v := range ec.RawMatrix().Data {
			sum += v * e.RawMatrix().Data[i]
		}
		ec.Scale(2, ec)
		return sum, ec.RawMatrix().Data
	}
	p := optimize.Problem{
		Func: func(x []float64) float64 { sum, _ := lack(x); return sum },
		Grad: func(grad, x []float64) {
			_, d := lack(x)
			copy(grad, slices.Concat(f64ref.FactorGradients(l, split(x), d)...))
		},
	}
	best := math.Inf(1)
	for range 3 {
		x := random(r, l.Weights())
		res, err := optimize.Minimize(p, x, &optimize.Settings{MajorIterations: 800, Converger: &optimize.FunctionConverge{Relative: 1e-12, Iterations: 200}}, &optimize.LBFGS{})
		if res == nil {
			t.Fatal(err)
		}
		best = min(best, res.F)
	}
	return best
}

// Of two factors, nothing that gradients find is nearer to the weights than the
// projection, and it is what it says. So it is of outputs, where there is one block of
// columns. With several, and of three factors, steps in turn come close.
func TestProjectIsNearest(t *testing.T) {
	pool := rt.NewPool(2)
	defer pool.Close()
	seen := map[spec.Kind]bool{}
	for _, l := range layers {
		for _, on := range []string{"weights", "outputs"} {
			t.Run(l.Name()+" "+on, func(t *testing.T) {
				seen[l.Kind] = true
				r := rand.New(rand.NewPCG(uint64(l.In), uint64(l.Out)))
				w := random(r, l.In*l.Out)
				var m *Moments
				var c *mat.Dense
				if on == "outputs" {
					m, c = inputs(t, r, l.In)
				}
				p, err := Project(context.Background(), l, w, Goal{Follow: m, Measure: m}, rt.Options{Pool: pool})
				if err != nil {
					t.Fatal(err)
				}
				got, gotOutput := squares(l, p.Factors, w, c)
				near(t, "weights lack", p.Lost, got, 1e-9*p.All)
				if m != nil {
					// The ridge is no part of the true moments.
					near(t, "outputs lack", p.LostOutput, gotOutput, 1e-4*p.AllOutput)
					got = gotOutput
				}
				best := descend(t, l, w, c, r)
				all := p.All
				if m != nil {
					all = p.AllOutput
				}
				t.Logf("%.6f of all is missing, gradients find %.6f", got/all, best/all)
				// Gradients stop a little short of an optimum, and the ridge moves it.
				slack := 1e-5 * all
				if b := newBlocks(l); b.middle != nil || m != nil && b.columns > 1 {
					slack = 0.03 * all
				}
				if got > best+slack {
					t.Errorf("%v is missing, gradients find %v", got, best)
				}
			})
		}
	}
	for _, k := range spec.Kinds() {
		if k != spec.Dense && !seen[k] {
			t.Errorf("no layer is %s", k)
		}
	}
}

func near(t *testing.T, what string, got, want, tol float64) {
	t.Helper()
	if !(math.Abs(got-want) <= tol) {
		t.Errorf("%s %v, want %v within %v", what, got, want, tol)
	}
}

// What a low rank lacks is the tail of the singular values, and nothing of a matrix that
// has the rank.
func TestProjectLowRankIsTail(t *testing.T) {
	pool := rt.NewPool(1)
	defer pool.Close()
	for _, l := range []spec.Linear{{In: 30, Out: 70}, {In: 70, Out: 30}, {In: 16, Out: 16}, {In: 1, Out: 5}} {
		w := random(rand.New(rand.NewPCG(3, 4)), l.In*l.Out)
		var svd mat.SVD
		if !svd.Factorize(mat.NewDense(l.Out, l.In, w), mat.SVDNone) {
			t.Fatal("no decomposition")
		}
		s := svd.Values(nil)
		for rank := 1; rank <= len(s); rank += max(1, len(s)/5) {
			l.Kind, l.Rank = spec.LowRank, rank
			p, err := Project(context.Background(), l, w, Goal{}, rt.Options{Pool: pool})
			if err != nil {
				t.Fatal(err)
			}
			tail := 0.0
			for _, x := range s[rank:] {
				tail += x * x
			}
			got, _ := squares(l, p.Factors, w, nil)
			near(t, l.Name(), got, tail, 1e-10*p.All)
		}
	}
}

// A matrix that a layer of two factors amounts to, comes back.
func TestProjectRecovers(t *testing.T) {
	pool := rt.NewPool(2)
	defer pool.Close()
	for _, l := range layers {
		r := rand.New(rand.NewPCG(5, 6))
		var factors [][]float64
		for _, f := range l.Chain() {
			factors = append(factors, random(r, f.Weights()))
		}
		w := f64ref.Merged(l, factors)
		p, err := Project(context.Background(), l, w, Goal{}, rt.Options{Pool: pool})
		if err != nil {
			t.Fatal(err)
		}
		limit := 1e-6
		if len(l.Chain()) == 3 {
			limit = 0.3 // least squares in turn creep
		}
		got, _ := squares(l, p.Factors, w, nil)
		if e := math.Sqrt(got / p.All); e > limit {
			t.Errorf("%s: relative error %v", l.Name(), e)
		}
	}
}

// Any number of threads gives the same bits.
func TestProjectThreads(t *testing.T) {
	for _, l := range layers {
		for _, whitened := range []bool{false, true} {
			r := rand.New(rand.NewPCG(7, 8))
			w := random(r, l.In*l.Out)
			var m *Moments
			if whitened {
				m, _ = inputs(t, r, l.In)
			}
			var want string
			for _, threads := range []int{1, 2, 3, 16} {
				pool := rt.NewPool(threads)
				p, err := Project(context.Background(), l, w, Goal{Follow: m, Measure: m}, rt.Options{Pool: pool})
				pool.Close()
				if err != nil {
					t.Fatal(err)
				}
				if got := fmt.Sprintf("%x", p); want == "" {
					want = got
				} else if got != want {
					t.Errorf("%s, whitened %v: %d threads give other bits", l.Name(), whitened, threads)
				}
			}
		}
	}
}

// Where inputs never move, weights follow those that do: what is nearest for outputs is
// nearer for outputs.
func TestProjectFollowsMoments(t *testing.T) {
	pool := rt.NewPool(2)
	defer pool.Close()
	for _, l := range layers {
		r := rand.New(rand.NewPCG(9, 10))
		w := random(r, l.In*l.Out)
		x := mat.NewDense(l.In, l.In, nil)
		for i := range l.In / 2 {
			x.Set(2*i, 2*i, 1)
		}
		m, err := NewMoments(x.RawMatrix().Data, l.In, 1)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := Project(context.Background(), l, w, Goal{}, rt.Options{Pool: pool})
		if err != nil {
			t.Fatal(err)
		}
		white, err := Project(context.Background(), l, w, Goal{Follow: m, Measure: m}, rt.Options{Pool: pool})
		if err != nil {
			t.Fatal(err)
		}
		_, a := squares(l, plain.Factors, w, x)
		_, b := squares(l, white.Factors, w, x)
		if l.Weights() < l.In*l.Out && !(b < 0.95*a) {
			t.Errorf("%s: outputs lack %v with moments, %v without", l.Name(), b, a)
		}
	}
}

// Matrices of zeros, and of one direction, are matrices.
func TestProjectDegenerate(t *testing.T) {
	pool := rt.NewPool(1)
	defer pool.Close()
	for _, l := range layers {
		one := make([]float64, l.In*l.Out)
		for o := range l.Out {
			for i := range l.In {
				one[o*l.In+i] = float64(o+1) * float64(i+1)
			}
		}
		for _, w := range [][]float64{make([]float64, l.In*l.Out), one} {
			for _, sum := range [][]float64{nil, make([]float64, l.In*l.In)} {
				var m *Moments
				if sum != nil {
					var err error
					if m, err = NewMoments(sum, l.In, 1); err != nil {
						t.Fatal(err)
					}
				}
				p, err := Project(context.Background(), l, w, Goal{Follow: m, Measure: m}, rt.Options{Pool: pool})
				if err != nil {
					t.Fatal(err)
				}
				got, _ := squares(l, p.Factors, w, nil)
				if l.Kind != spec.BlockShuffle && !(got <= 1e-10*p.All) || math.IsNaN(got) {
					t.Errorf("%s: %v of %v is missing", l.Name(), got, p.All)
				}
			}
		}
	}
}

func TestProjectErrors(t *testing.T) {
	pool := rt.NewPool(1)
	defer pool.Close()
	l := spec.Linear{Kind: spec.LowRank, In: 2, Out: 2, Rank: 1}
	m, err := NewMoments(make([]float64, 9), 3, 1)
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func() error{
		"dense": func() error {
			_, err := Project(context.Background(), spec.Linear{Kind: spec.Dense, In: 2, Out: 2}, make([]float64, 4), Goal{}, rt.Options{Pool: pool})
			return err
		},
		"rank": func() error {
			_, err := Project(context.Background(), spec.Linear{Kind: spec.LowRank, In: 2, Out: 2, Rank: 3}, make([]float64, 4), Goal{}, rt.Options{Pool: pool})
			return err
		},
		"few weights": func() error {
			_, err := Project(context.Background(), l, make([]float64, 3), Goal{}, rt.Options{Pool: pool})
			return err
		},
		"not finite": func() error {
			_, err := Project(context.Background(), l, []float64{1, 2, math.NaN(), 4}, Goal{}, rt.Options{Pool: pool})
			return err
		},
		"infinite": func() error {
			_, err := Project(context.Background(), l, []float64{1, 2, math.Inf(1), 4}, Goal{}, rt.Options{Pool: pool})
			return err
		},
		"other moments": func() error {
			_, err := Project(context.Background(), l, make([]float64, 4), Goal{Follow: m}, rt.Options{Pool: pool})
			return err
		},
		"moments":  func() error { _, err := NewMoments([]float64{math.NaN()}, 1, 1); return err },
		"negative": func() error { _, err := NewMoments([]float64{1, 0, 0, -3}, 2, 1); return err },
		"no rows":  func() error { _, err := NewMoments([]float64{1}, 1, 0); return err },
	} {
		if f() == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
