// Package peer runs the same products with other libraries, and the same networks and
// models with other programs, to be timed in turn with this project's.
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
	check() error
}

// Find returns the libraries of these names, or for "all" those that can run
// here: then absent says why the others cannot.
func Find(names []string) (found []Library, absent []error, err error) {
	return find(names, append(slices.Clone(tagged), gonum{}))
}

// absent is the error of a peer that is not installed here.
type absent struct{ error }

// candidate is a peer by name; check says why it cannot run here as it should.
type candidate interface {
	Name() string
	check() error
}

func find[C candidate](names []string, known []C) (found []C, absent []error, err error) {
	valid := make([]string, len(known))
	for i, c := range known {
		valid[i] = c.Name()
	}
	all := slices.Equal(names, []string{"all"})
	if all {
		names = valid
	}
	for _, n := range names {
		i := slices.Index(valid, n)
		if i < 0 {
			return nil, nil, fmt.Errorf("no peer is called %q here, want %s or all", n, strings.Join(valid, ", "))
		}
		if err := known[i].check(); err == nil {
			found = append(found, known[i])
		} else if err = fmt.Errorf("%s: %w", n, err); all {
			absent = append(absent, err)
		} else {
			return nil, nil, err
		}
	}
	return found, absent, nil
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
