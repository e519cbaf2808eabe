package peer

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

// TestProducts compares every library that was built in with sums in float64.
func TestProducts(t *testing.T) {
	libs, absent, err := Find([]string{"all"})
	t.Log(absent)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range libs {
		for _, p := range []Product{
			{Rows: 1, Blocks: 1, Out: 5, In: 7},
			{Rows: 9, Blocks: 3, Out: 13, In: 4},
			{Rows: 67, Blocks: 2, Out: 130, In: 400},
			{Rows: 30, Blocks: 1, Out: 257, In: 1600},
		} {
			t.Run(fmt.Sprintf("%s/%dx%dx%dx%d", l.Name(), p.Rows, p.Blocks, p.Out, p.In), func(t *testing.T) {
				defer l.Use(1)()
				if l.Version() == "" && l.Name() != "gonum" { // test binaries list no dependencies
					t.Error("no version")
				}
				testProduct(t, l, p)
			})
		}
	}
}

func testProduct(t *testing.T, l Library, p Product) {
	rng := rand.New(rand.NewPCG(1, 2))
	random := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(rng.NormFloat64())
		}
		return x
	}
	nx, ny, nw := p.Rows*p.Blocks*p.In, p.Rows*p.Blocks*p.Out, p.Blocks*p.Out*p.In
	p.X, p.Y, p.G = random(nx), random(ny), random(nw)
	p.W = [][]float32{random(nw), random(nw)}
	w := p.W[1]
	at := func(r, b, i, width int) int { return (r*p.Blocks+b)*width + i }
	compare := func(what string, got []float32, want []float64, terms int) {
		t.Helper()
		for i, v := range want {
			// Standard normal terms: the sum's rounding error stays far below terms ulps of its size.
			if math.Abs(float64(got[i])-v) > 1e-6*math.Sqrt(float64(terms))*10 {
				t.Fatalf("%s [%d] = %v, want %v", what, i, got[i], v)
			}
		}
	}
	wantG, wantX, wantY := make([]float64, nw), make([]float64, nx), make([]float64, ny)
	each := func(f func(r, b, o, k, wi int)) {
		for r := range p.Rows {
			for b := range p.Blocks {
				for o := range p.Out {
					for k := range p.In {
						f(r, b, o, k, (b*p.Out+o)*p.In+k)
					}
				}
			}
		}
	}
	if f := l.BackwardWeight(&p); f != nil {
		each(func(r, b, o, k, wi int) {
			wantG[wi] += float64(p.Y[at(r, b, o, p.Out)]) * float64(p.X[at(r, b, k, p.In)])
		})
		f(1)
		compare("weight gradient", p.G, wantG, p.Rows)
	}
	if f := l.Forward(&p); f != nil {
		each(func(r, b, o, k, wi int) {
			wantY[at(r, b, o, p.Out)] += float64(w[wi]) * float64(p.X[at(r, b, k, p.In)])
		})
		f(1)
		compare("y", p.Y, wantY, p.In)
	} else {
		t.Error("no forward product")
	}
	if f := l.BackwardData(&p); f != nil {
		copy(p.Y, random(ny))
		each(func(r, b, o, k, wi int) {
			wantX[at(r, b, k, p.In)] += float64(w[wi]) * float64(p.Y[at(r, b, o, p.Out)])
		})
		f(1)
		compare("dx", p.X, wantX, p.Out)
	}
}

func TestFind(t *testing.T) {
	if _, _, err := Find([]string{"gonum", "mkl"}); err == nil || !strings.Contains(err.Error(), `"mkl" here, want openblas, libxsmm, gonum or all`) {
		t.Error(err)
	}
	t.Setenv("OPENBLAS_CORETYPE", "Haswell") // would make it slower than it is
	if _, _, err := Find([]string{"openblas"}); err == nil || !strings.Contains(err.Error(), "openblas: ") {
		t.Error(err)
	}
	found, absent, err := Find([]string{"all"})
	if err != nil || len(found)+len(absent) != 3 || len(absent) == 0 || found[len(found)-1].Name() != "gonum" {
		t.Error(found, absent, err)
	}
}
