// Package project finds the structured layers that are nearest to dense matrices:
// nearest in weights, or, with the second moments of a layer's inputs, in outputs.
package project

import (
	"cmp"
	"context"
	"fmt"
	"math"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas64"
	"gonum.org/v1/gonum/floats"
	"gonum.org/v1/gonum/mat"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model/initial"
	rt "github.com/structuredffn/sffn/runtime"
)

// Projection is a structured layer that stands for a dense matrix.
type Projection struct {
	// Factors are the weights in chain order, row-major.
	Factors [][]float64
	// Lost is the squared Frobenius norm of what is missing, and All that of the
	// matrix; LostOutput and AllOutput are the expected squares of the outputs, where
	// moments of the inputs were given.
	Lost, All             float64
	LostOutput, AllOutput float64
}

// WeightError is the relative error of the weights, in the Frobenius norm.
func (p Projection) WeightError() float64 { return ratio(p.Lost, p.All) }

// OutputError is the relative error of the outputs, in the root of mean squares.
func (p Projection) OutputError() float64 { return ratio(p.LostOutput, p.AllOutput) }

// ratio is that of two roots; nothing is lost of nothing.
func ratio(lost, all float64) float64 {
	if all == 0 {
		return 0
	}
	return math.Sqrt(max(0, lost) / all)
}

// Goal says what is near.
type Goal struct {
	// Follow are the second moments of the inputs whose outputs count, in the mean
	// square; nil where weights do, in the Frobenius norm.
	Follow *Moments
	// Measure are those that the errors of outputs are reported by, nil for none.
	Measure *Moments
	// Sweeps bounds how often factors are gone through that cannot be solved for at
	// once; 0 is twenty times.
	Sweeps int
}

// Project finds the layer of a structure that is nearest to the dense matrix w [out,
// in], row-major. The options need a pool, whose threads results do not depend on. When
// the context ends, Project returns its error within the time of one decomposition of a
// block.
//
// Chains of two factors are solved block by block by a truncated singular value
// decomposition, which is the optimum (Eckart and Young 1936) for weights, and for
// outputs where no columns are cut. Where they are, and of chains of three factors, what
// that gives is improved by alternating least squares, in coordinates where the inputs of
// a block are white, until a sweep gains next to nothing. No sweep raises the error.
func Project(ctx context.Context, l spec.Linear, w []float64, goal Goal, opt rt.Options) (Projection, error) {
	if l.Kind == spec.Dense {
		return Projection{}, fmt.Errorf("project: a dense layer is no structure")
	}
	if err := l.Validate(); err != nil {
		return Projection{}, err
	}
	if len(w) != l.In*l.Out {
		return Projection{}, fmt.Errorf("project: %d weights of a %d -> %d layer", len(w), l.In, l.Out)
	}
	if floats.HasNaN(w) || math.IsInf(floats.Norm(w, 2), 0) {
		return Projection{}, fmt.Errorf("project: the weights of a %d -> %d layer are not finite", l.In, l.Out)
	}
	for _, m := range []*Moments{goal.Follow, goal.Measure} {
		if err := m.check(l.In); err != nil {
			return Projection{}, err
		}
	}
	p, err := newProducts(ctx, opt)
	if err != nil {
		return Projection{}, err
	}
	defer p.close()
	t := &task{products: p, blocks: newBlocks(l), in: l.In, moments: goal.Follow}
	for _, f := range l.Chain() {
		t.factors = append(t.factors, make([]float64, f.Weights()))
	}
	// Rows in the order of the last factor's blocks.
	t.w = mat.NewDense(l.Out, l.In, nil)
	for o, at := range t.place {
		copy(t.w.RawRowView(o), w[at*l.In:(at+1)*l.In])
	}
	if t.middle == nil && (goal.Follow == nil || t.columns == 1) {
		err = t.closed()
	} else {
		err = t.improve(cmp.Or(goal.Sweeps, sweeps))
	}
	if err != nil {
		return Projection{}, err
	}
	r := t.result(goal.Measure)
	return r, ctx.Err()
}

// task is a matrix on its way into a structure.
type task struct {
	*products
	*blocks
	in      int
	factors [][]float64
	w       *mat.Dense // its rows in the order of the last factor's blocks
	moments *Moments
}

// block is the part of a matrix that block (i, j) has.
func (t *task) block(m *mat.Dense, i, j int) *mat.Dense {
	return m.Slice(i*t.p, (i+1)*t.p, j*t.q, (j+1)*t.q).(*mat.Dense)
}

// strip is the part of a matrix that the rows of block i have.
func (t *task) strip(m *mat.Dense, i int) *mat.Dense {
	return m.Slice(i*t.p, (i+1)*t.p, 0, t.in).(*mat.Dense)
}

// closed puts the optimum into each block, of which none depends on another.
func (t *task) closed() error {
	errs := make([]error, len(t.links))
	t.run(len(t.links), func(worker, at int) {
		i, j := at/t.columns, at%t.columns
		k := min(len(t.links[at]), t.p, t.q)
		if k == 0 {
			return
		}
		var right, left *mat.Dense
		if t.moments == nil {
			right, left = t.principal(worker, mat.DenseCopyOf(t.block(t.w, i, j)), k)
		} else if right, left, errs[at] = t.outputs(worker, t.strip(t.w, i), k); errs[at] != nil {
			return
		}
		t.put(i, j, right, left)
	})
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return t.ctx.Err()
}

// put makes right [k, q] and left [p, k] the weights of the first links of block (i, j),
// which no other block has.
func (t *task) put(i, j int, right, left *mat.Dense) {
	first, last := t.firstBlock(j), t.lastBlock(i)
	k, _ := right.Dims()
	for s, at := range t.of(i, j)[:k] {
		copy(first.RawRowView(at.c), right.RawRowView(s))
		for r := range t.p {
			last.Set(r, at.a, left.At(r, s))
		}
	}
}

// principal are the first k components of a matrix [p, q], right [k, q] and left [p, k],
// of one length each. It goes through the eigenvectors of the smaller Gram matrix, and
// takes the other factor by least squares, so that components which are too small for
// the Gram matrix's rounding cost what they are, and no more.
func (t *task) principal(worker int, a *mat.Dense, k int) (right, left *mat.Dense) {
	p, q := a.Dims()
	if p <= q {
		left = largest(t.mul(worker, a, a.T()), k)
		right = t.mul(worker, left.T(), a)
	} else {
		v := largest(t.mul(worker, a.T(), a), k)
		left, right = t.mul(worker, a, v), mat.DenseCopyOf(v.T())
	}
	balance(right, left)
	return right, left
}

// outputs are the components of a matrix [rows, in] that give most of its outputs: with
// moments C = L L^T they are those of W L, and of its Gram matrix W C W^T, so that no
// root of the inputs' moments is needed where there are fewer rows.
func (t *task) outputs(worker int, w *mat.Dense, k int) (right, left *mat.Dense, err error) {
	if p, _ := w.Dims(); p <= t.in {
		left = largest(t.mul(worker, t.mul(worker, w, t.moments.c), w.T()), k)
		right = t.mul(worker, left.T(), w)
		balance(right, left)
		return right, left, t.ctx.Err()
	}
	roots, _, err := t.moments.whiten(t.products, 1)
	if err != nil {
		return nil, nil, err
	}
	right, left = t.principal(worker, t.mul(worker, w, roots[0]), k)
	blas64.Trsm(blas.Right, blas.NoTrans, 1, lower(roots[0]), right.RawMatrix())
	balance(right, left)
	return right, left, t.ctx.Err()
}

// largest are the eigenvectors of the largest k eigenvalues of a symmetric matrix [n, n],
// of which the upper triangle is read: the columns of [n, k].
func largest(g *mat.Dense, k int) *mat.Dense {
	n, _ := g.Dims()
	_, v := initial.LargestEigen(g.RawMatrix().Data, n, k)
	return mat.NewDense(n, k, v)
}

// firstBlock and lastBlock are the weights of one block of the first and of the last factor.
func (t *task) firstBlock(j int) *mat.Dense {
	n := t.first.Out * t.q
	return mat.NewDense(t.first.Out, t.q, t.factors[0][j*n:(j+1)*n])
}

func (t *task) lastBlock(i int) *mat.Dense {
	n := t.p * t.last.In
	return mat.NewDense(t.p, t.last.In, t.factors[len(t.factors)-1][i*n:(i+1)*n])
}

// balance gives each component of right [k, q] the length that it has in left [p, k],
// as the decomposition of weights does; the product stays.
func balance(right, left *mat.Dense) {
	raw := left.RawMatrix()
	for s := range raw.Cols {
		row, column := right.RawRowView(s), blas64.Vector{N: raw.Rows, Inc: raw.Stride, Data: raw.Data[s:]}
		a, b := floats.Norm(row, 2), blas64.Nrm2(column)
		if a == 0 || b == 0 {
			continue
		}
		floats.Scale(math.Sqrt(b/a), row)
		blas64.Scal(math.Sqrt(a/b), column)
	}
}

// right and left are the weights of the links of block (i, j), a row [links, q] and a
// column [p, links] for each; weights are those of the middle factor.
func (t *task) right(i, j int) *mat.Dense {
	links, first := t.of(i, j), t.firstBlock(j)
	right := mat.NewDense(len(links), t.q, nil)
	for s, at := range links {
		copy(right.RawRowView(s), first.RawRowView(at.c))
	}
	return right
}

func (t *task) left(i, j int, weighted bool) *mat.Dense {
	links, last := t.of(i, j), t.lastBlock(i)
	left := mat.NewDense(t.p, len(links), nil)
	for r := range t.p {
		to, from := left.RawRowView(r), last.RawRowView(r)
		for s, at := range links {
			to[s] = from[at.a]
			if weighted {
				to[s] *= t.weight(at)
			}
		}
	}
	return left
}

// weight is the entry of M_ij.
func (t *task) weight(at link) float64 {
	if at.weight < 0 {
		return 1
	}
	return t.factors[1][at.weight]
}

// product is what the factors make of block (i, j).
func (t *task) product(worker, i, j int) *mat.Dense {
	if len(t.of(i, j)) == 0 {
		return mat.NewDense(t.p, t.q, nil)
	}
	return t.mul(worker, t.left(i, j, true), t.right(i, j))
}

// result adds up what is missing.
func (t *task) result(measure *Moments) Projection {
	r := Projection{Factors: t.factors}
	rest := mat.DenseCopyOf(t.w)
	all, lost := make([]float64, len(t.links)), make([]float64, len(t.links))
	t.run(len(t.links), func(worker, at int) {
		i, j := at/t.columns, at%t.columns
		w, rest := t.block(t.w, i, j), t.block(rest, i, j)
		rest.Sub(rest, t.product(worker, i, j))
		all[at], lost[at] = square(w), square(rest)
	})
	r.All, r.Lost = sum(all), sum(lost)
	if measure != nil {
		r.AllOutput, r.LostOutput = measure.square(t.products, t.w), measure.square(t.products, rest)
	}
	return r
}

// square is the squared Frobenius norm.
func square(m *mat.Dense) (sum float64) {
	rows, _ := m.Dims()
	for r := range rows {
		row := m.RawRowView(r)
		sum += floats.Dot(row, row)
	}
	return sum
}
