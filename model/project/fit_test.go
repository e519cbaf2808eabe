package project

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"gonum.org/v1/gonum/mat"

	"github.com/structuredffn/sffn/gen/spec"
	rt "github.com/structuredffn/sffn/runtime"
)

// large have products that run on the float32 kernels.
var large = []spec.Linear{
	{Kind: spec.LowRank, In: 192, Out: 256, Rank: 90},
	{Kind: spec.LowRank, In: 256, Out: 192, Rank: 90},
	{Kind: spec.BlockDense, In: 256, Out: 192, Rank: 120, Blocks: 2},
	{Kind: spec.BlockShuffle, In: 192, Out: 256, Blocks: 2},
	{Kind: spec.BTT, In: 192, Out: 256, Rank: 4},
	{Kind: spec.BLAST, In: 256, Out: 192, Rank: 80, Blocks: 2},
}

// uneven are moments of inputs of very different sizes, in directions of their own.
func uneven(t *testing.T, r *rand.Rand, n int) (*Moments, *mat.Dense) {
	t.Helper()
	x := mat.NewDense(2*n, n, random(r, 2*n*n))
	for c := range n {
		for row := range 2 * n {
			x.Set(row, c, x.At(row, c)*math.Pow(float64(c+1), -1))
		}
	}
	var mixed, sum mat.Dense
	mixed.Mul(x, mat.NewDense(n, n, random(r, n*n)))
	sum.Mul(mixed.T(), &mixed)
	m, err := NewMoments(mat.DenseCopyOf(&sum).RawMatrix().Data, n, 2*n)
	if err != nil {
		t.Fatal(err)
	}
	return m, mat.DenseCopyOf(m.c)
}

// Products of both sizes, of what is transposed and what is part of a matrix, are those
// of float64, the large ones to float32's rounding.
func TestProducts(t *testing.T) {
	pool := rt.NewPool(2)
	defer pool.Close()
	p, err := newProducts(t.Context(), rt.Options{Pool: pool})
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	r := rand.New(rand.NewPCG(1, 2))
	for _, s := range [][3]int{{3, 5, 7}, {128, 64, fastFrom/128/64 - 1}, {128, 64, fastFrom / 128 / 64}, {65, 193, 130}} {
		m, n, k := s[0], s[1], s[2]
		a, b := mat.NewDense(m, k+3, random(r, m*(k+3))).Slice(0, m, 1, k+1).(*mat.Dense), mat.NewDense(k, n, random(r, k*n))
		var want mat.Dense
		want.Mul(a, b)
		at, bt := mat.DenseCopyOf(a.T()), mat.DenseCopyOf(b.T())
		for name, got := range map[string]*mat.Dense{
			"mul": p.mul(0, a, b), "mul of transposed": p.mul(0, at.T(), bt.T()),
			"exact": p.exact(a, b), "exact of transposed": p.exact(at.T(), bt.T()),
		} {
			tol := 1e-12
			if m*n*k >= fastFrom && name[0] == 'm' {
				tol = 3e-6
			}
			got.Sub(got, &want)
			if e := mat.Norm(got, 2) / mat.Norm(&want, 2); !(e < tol) {
				t.Errorf("%s of %v: relative error %v", name, s, e)
			}
		}
	}
}

// The float32 kernels cost nothing that counts: what a low rank lacks of outputs, of
// inputs of very different sizes, is the tail of the singular values in float64.
func TestProjectOutputsAreTail(t *testing.T) {
	pool := rt.NewPool(2)
	defer pool.Close()
	for _, l := range large[:2] {
		r := rand.New(rand.NewPCG(11, uint64(l.In)))
		w := random(r, l.In*l.Out)
		m, c := uneven(t, r, l.In)
		p, err := Project(t.Context(), l, w, Goal{Follow: m, Measure: m}, rt.Options{Pool: pool})
		if err != nil {
			t.Fatal(err)
		}
		s := mat.NewSymDense(l.In, nil)
		for i := range l.In {
			for j := i; j < l.In; j++ {
				s.SetSym(i, j, c.At(i, j))
			}
		}
		var chol mat.Cholesky
		if !chol.Factorize(s) {
			t.Fatal("no root")
		}
		var root mat.TriDense
		chol.LTo(&root)
		var white mat.Dense
		white.Mul(mat.NewDense(l.Out, l.In, w), &root)
		var svd mat.SVD
		if !svd.Factorize(&white, mat.SVDNone) {
			t.Fatal("no decomposition")
		}
		tail := 0.0
		for _, x := range svd.Values(nil)[l.Rank:] {
			tail += x * x
		}
		_, got := squares(l, p.Factors, w, c)
		t.Logf("%s: %v of %v is missing, the tail is %v", l.Name(), got, p.AllOutput, tail)
		if got > tail*(1+1e-3) {
			t.Errorf("%s: %v is missing, the tail is %v", l.Name(), got, tail)
		}
	}
}

// Any number of threads gives the same bits where the float32 kernels run, and what is
// reported as missing is missing.
func TestProjectLarge(t *testing.T) {
	for _, l := range large {
		r := rand.New(rand.NewPCG(7, uint64(l.In)))
		w := random(r, l.In*l.Out)
		var want string
		for _, threads := range []int{1, 3} {
			m, c := uneven(t, rand.New(rand.NewPCG(8, 9)), l.In)
			pool := rt.NewPool(threads)
			p, err := Project(t.Context(), l, w, Goal{Follow: m, Measure: m}, rt.Options{Pool: pool})
			pool.Close()
			if err != nil {
				t.Fatal(err)
			}
			got := fmt.Sprintf("%x", p)
			if want != "" {
				if got != want {
					t.Errorf("%s: %d threads give other bits", l.Name(), threads)
				}
				continue
			}
			want = got
			weights, outputs := squares(l, p.Factors, w, c)
			near(t, l.Name()+" weights lack", p.Lost, weights, 1e-5*p.All)
			near(t, l.Name()+" outputs lack", p.LostOutput, outputs, 1e-5*p.AllOutput)
		}
	}
}

// counted is a context that ends when it has been asked so often.
type counted struct {
	context.Context
	asked atomic.Int64
	most  int64
}

func (c *counted) Err() error {
	if c.asked.Add(1) > c.most {
		return context.Canceled
	}
	return nil
}

// A context that ends inside a matrix ends the projection: wherever that is, next to
// nothing is computed after it.
func TestProjectInterrupted(t *testing.T) {
	pool := rt.NewPool(1)
	defer pool.Close()
	for _, l := range layers {
		r := rand.New(rand.NewPCG(9, uint64(l.In)))
		w := random(r, l.In*l.Out)
		run := func(most int64) (int64, error) {
			m, _ := inputs(t, rand.New(rand.NewPCG(8, 9)), l.In)
			c := &counted{Context: context.Background(), most: most}
			_, err := Project(c, l, w, Goal{Follow: m, Measure: m}, rt.Options{Pool: pool})
			return c.asked.Load(), err
		}
		all, err := run(math.MaxInt64)
		if err != nil {
			t.Fatal(err)
		}
		blocks := int64(len(newBlocks(l).links))
		if l.Kind != spec.LowRank && all < 3*blocks {
			t.Errorf("%s: the context is asked %d times, for %d blocks", l.Name(), all, blocks)
		}
		for most := int64(0); most < all; most += max(1, all/7) {
			asked, err := run(most)
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%s: after %d of %d questions: %v", l.Name(), most, all, err)
			}
			// Each block, and each row of it, may ask once more.
			if asked > most+6*blocks+40 {
				t.Errorf("%s: %d questions follow the end", l.Name(), asked-most)
			}
		}
	}
}

// What a pool has not begun when the context ends is left out.
func TestRunEnds(t *testing.T) {
	pool := rt.NewPool(2)
	defer pool.Close()
	p, err := newProducts(&counted{Context: context.Background(), most: 5}, rt.Options{Pool: pool})
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	var calls atomic.Int64
	p.run(100, func(int, int) { calls.Add(1) })
	if calls.Load() != 5 {
		t.Errorf("%d calls of 100, the context ends after 5", calls.Load())
	}
}
