package initial

import (
	"math"
	"slices"
	"testing"

	"gonum.org/v1/gonum/mat"
	"pgregory.net/rapid"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/config"
	rt "github.com/structuredffn/sffn/runtime"
)

// reference is U_k f(S_k) V_k^T of gonum's SVD.
func reference(a []float64, rows, cols, k int, f func(s float64) float64) *mat.Dense {
	t := exactSVD(a, rows, cols, k)
	for j, s := range t.s {
		for i := range cols {
			t.vt[j*cols+i] *= f(s)
		}
	}
	var w mat.Dense
	w.Mul(mat.NewDense(rows, k, t.u), mat.NewDense(k, cols, t.vt))
	return &w
}

func worst(a []float64, b *mat.Dense) float64 {
	w := 0.0
	for i, x := range b.RawMatrix().Data {
		w = max(w, math.Abs(a[i]-x))
	}
	return w
}

func TestAgainstSVD(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows, cols := rapid.IntRange(1, 40).Draw(t, "rows"), rapid.IntRange(1, 40).Draw(t, "cols")
		k := rapid.IntRange(1, min(rows, cols)).Draw(t, "rank")
		a := draw(rapid.Uint64().Draw(t, "seed"), "a", rows*cols, 1)
		lr1, lr2, _ := LowRank(a, rows, cols, k)
		var w mat.Dense
		w.Mul(mat.NewDense(rows, k, lr2), mat.NewDense(k, cols, lr1))
		// Singular values are below 20 here. The Gram matrix squares the
		// condition, which the guard keeps below 1e8: 20 * 2^-52 * 1e8 = 4e-7.
		if d := worst(w.RawMatrix().Data, reference(a, rows, cols, k, func(s float64) float64 { return s })); d > 4e-7 {
			t.Fatalf("lowrank product is off by %g", d)
		}
		if d := worst(Ortho(a, rows, cols), reference(a, rows, cols, min(rows, cols), func(float64) float64 { return 1 })); d > 4e-7 {
			t.Fatalf("orthonormal matrix is off by %g", d)
		}
	})
}

// The eigenvectors stay orthonormal where eigenvalues coincide.
func TestRepeatedEigenvalues(t *testing.T) {
	const n = 24
	for name, value := range map[string]func(i int) float64{
		"identity": func(int) float64 { return 1 },
		"halves":   func(i int) float64 { return float64(1 + i%2) },
	} {
		g := make([]float64, n*n)
		for i := range n {
			g[i*n+i] = value(i)
		}
		values, v := LargestEigen(g, n, n)
		if !slices.IsSortedFunc(values, func(a, b float64) int { return int(b - a) }) {
			t.Errorf("%s: eigenvalues %v do not fall", name, values)
		}
		for a := range n {
			for b := range n {
				dot := 0.0
				for i := range n {
					dot += v[i*n+a] * v[i*n+b]
				}
				want := 0.0
				if a == b {
					want = 1
				}
				if math.Abs(dot-want) > 1e-10 {
					t.Fatalf("%s: vectors %d and %d have product %g", name, a, b, dot)
				}
			}
		}
	}
}

func TestModel(t *testing.T) {
	c, err := config.Load("demo")
	if err != nil {
		t.Fatal(err)
	}
	fill := func(threads int, seed uint64, m spec.Model) *model.Params {
		pool := rt.NewPool(threads)
		defer pool.Close()
		p := model.NewParams(m)
		t.Cleanup(p.Close)
		Model(p, m, seed, Merged, pool)
		return p
	}
	a, b := fill(1, 5, c.Model), fill(3, 5, c.Model)
	if !slices.Equal(a.Data, b.Data) {
		t.Error("the start depends on the number of threads")
	}
	if slices.Equal(a.Data, fill(1, 6, c.Model).Data) {
		t.Error("the start does not depend on the seed")
	}
	deviation := func(p *model.Params, name string) float64 {
		w := p.Get(name)
		sum := 0.0
		for _, x := range w {
			sum += float64(x) * float64(x)
		}
		return math.Sqrt(sum / float64(len(w)))
	}
	near := func(what string, got, want float64) {
		t.Helper()
		// 32896 draws or more: four deviations of the estimate are 1.6 %.
		if math.Abs(got/want-1) > 0.016 {
			t.Errorf("%s: deviation %g, want %g", what, got, want)
		}
	}
	near("fixed", deviation(a, "model.layers.0.mlp.fc1.weight"), c.Model.InitStd)
	near("embedding", deviation(a, "model.wte.weight"), c.Model.InitStd)
	m := c.Model
	m.InitFanIn = true
	p := fill(2, 5, m)
	near("fan-in", deviation(p, "model.layers.0.mlp.fc1.weight"), 1/math.Sqrt(float64(m.Hidden)))
	near("embedding", deviation(p, "model.wte.weight"), m.InitStd)
	if p.Get("model.ln_f.weight")[3] != 1 || p.Get("model.layers.1.mlp.fc2.bias")[0] != 0 {
		t.Error("norms start at 1, biases at 0")
	}
}

func BenchmarkStart(b *testing.B) {
	for _, name := range []string{"gpt2s-lowrank-63", "gpt2s-blockdense-63", "gpt2s-blockshuffle-63"} {
		b.Run(name, func(b *testing.B) {
			c, err := config.Load(name)
			if err != nil {
				b.Fatal(err)
			}
			pool := rt.NewPool(2)
			defer pool.Close()
			p := model.NewParams(c.Model)
			defer p.Close()
			for b.Loop() {
				Model(p, c.Model, 1, Merged, pool)
			}
		})
	}
}

// Factors that draw with deviations of their own have those of Qiu et al. 2024,
// sqrt(min(in, out)) / in of a block; a layer that closes a residual branch starts
// at zero.
func TestSpectral(t *testing.T) {
	for _, l := range []spec.Linear{
		{Kind: spec.BTT, In: 768, Out: 3072, Rank: 2},
		{Kind: spec.BLAST, In: 384, Out: 768, Rank: 48, Blocks: 16},
	} {
		for _, closes := range []bool{false, true} {
			factors := Linear(l, "layer", closes, Fixed(7), 1)
			for i, f := range l.Chain() {
				want := math.Sqrt(float64(min(f.In, f.Out))) / float64(f.In)
				if closes && i == len(factors)-1 {
					want = 0
				}
				sum := 0.0
				for _, x := range factors[i] {
					sum += x * x
				}
				// The deviation of so many draws is right to within 1/sqrt(2n), five times over.
				n := float64(len(factors[i]))
				if got := math.Sqrt(sum / n); math.Abs(got-want) > 5/math.Sqrt(2*n)*want {
					t.Errorf("%s, closing a branch %v: %s has the deviation %v, want %v", l.Name(), closes, f.Param, got, want)
				}
			}
		}
	}
}
