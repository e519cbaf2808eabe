// Package peer runs the same products with other libraries, to be timed in
// turn with this project's kernels.
package peer

import (
	"fmt"
	"slices"
	"strings"
)

// Product is what one factor computes of so many rows: for each block b,
// y[b] = x[b] w[b]ᵀ forward, dx[b] = dy[b] w[b] and g[b] = dy[b]ᵀ x[b]
// backward. Permutations between the factors are left out, in the peers'
// favour.
type Product struct {
	Rows, Blocks, Out, In int

	X []float32   // x and dx, [Rows, Blocks*In]
	Y []float32   // y and dy, [Rows, Blocks*Out]
	W [][]float32 // copies of [Blocks, Out, In]: call i of Forward takes the next one
	G []float32   // [Blocks, Out, In], nil where there is no backward pass
}

// Library is other software that multiplies matrices.
type Library interface {
	// Name is what the library is asked for by.
	Name() string
	// Version says what runs: a release, and the kernels it chose.
	Version() string
	// MaxThreads is how many threads it can use at most, 0 for any number.
	MaxThreads() int
	// Use makes calls use so many threads until the function that it returns
	// is called.
	Use(threads int) (restore func())
	// Forward, BackwardData and BackwardWeight prepare calls of a product, nil
	// where the library has none.
	Forward(p *Product) func(i int)
	BackwardData(p *Product) func(i int)
	BackwardWeight(p *Product) func(i int)
}

// Find returns the libraries of these names, all that were built in for
// "all". A library that is there and cannot run properly is an error.
func Find(names []string) ([]Library, error) {
	built := append([]Library{gonum{}}, tagged...)
	known := make([]string, len(built))
	for i, l := range built {
		known[i] = l.Name()
	}
	if slices.Equal(names, []string{"all"}) {
		names = known
	}
	var found []Library
	for _, n := range names {
		i := slices.Index(known, n)
		switch {
		case i < 0 && slices.Contains([]string{"openblas", "libxsmm"}, n):
			return nil, fmt.Errorf("this build has no %s: install libopenblas-dev and libxsmm-dev and build sffn with -tags peers", n)
		case i < 0:
			return nil, fmt.Errorf("no peer is called %q, want %s or all", n, strings.Join(known, ", "))
		}
		if c, ok := built[i].(interface{ check() error }); ok {
			if err := c.check(); err != nil {
				return nil, err
			}
		}
		found = append(found, built[i])
	}
	return found, nil
}

// sgemm computes c = op(a) op(b) of row-major matrices, op(a) [m, k] and
// op(b) [k, n].
type sgemm func(transA, transB bool, m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int)

func (f sgemm) forward(p *Product) func(i int) {
	return func(i int) {
		w := p.W[i%len(p.W)]
		for b := range p.Blocks {
			f(false, true, p.Rows, p.Out, p.In, p.X[b*p.In:], p.Blocks*p.In, w[b*p.Out*p.In:], p.In, p.Y[b*p.Out:], p.Blocks*p.Out)
		}
	}
}

func (f sgemm) backwardData(p *Product) func(i int) {
	return func(i int) {
		w := p.W[i%len(p.W)]
		for b := range p.Blocks {
			f(false, false, p.Rows, p.In, p.Out, p.Y[b*p.Out:], p.Blocks*p.Out, w[b*p.Out*p.In:], p.In, p.X[b*p.In:], p.Blocks*p.In)
		}
	}
}

func (f sgemm) backwardWeight(p *Product) func(i int) {
	return func(int) {
		for b := range p.Blocks {
			f(true, false, p.Out, p.In, p.Rows, p.Y[b*p.Out:], p.Blocks*p.Out, p.X[b*p.In:], p.Blocks*p.In, p.G[b*p.Out*p.In:], p.In)
		}
	}
}
