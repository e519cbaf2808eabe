// Package convert makes structured models of dense ones: by the projection of the
// weights that is nearest to them, or, with text to calibrate on, nearest in what the
// layers give on it.
package convert

import (
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

// How often what cannot be solved at once is gone through: the blocks of a row, each
// time with decompositions, and the factors of a chain of three.
const (
	rowSweeps = 6
	sweeps    = 20
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

// Project finds the layer of a structure that is nearest to the dense matrix w [out,
// in], row-major: nearest in the Frobenius norm, or, where the inputs' second moments
// are given, in the mean square of the outputs.
//
// Chains of two factors are solved block by block by a truncated singular value
// decomposition, which is the optimum (Eckart and Young 1936) for weights, and for
// outputs where no columns are cut. Where they are, the blocks of a row are improved in
// turn, each to its optimum beside the others. Chains of three factors are solved by
// alternating least squares, from the truncated decomposition of the whole matrix.
// Each step lowers the error; their number is fixed. Results do not depend on the
// pool's threads.
func Project(l spec.Linear, w []float64, moments *Moments, pool *rt.Pool) (Projection, error) {
	return project(l, w, moments, moments, pool)
}

// project follows moments, and measures by others; either may be nil.
func project(l spec.Linear, w []float64, moments, measure *Moments, pool *rt.Pool) (Projection, error) {
	if l.Kind == spec.Dense {
		return Projection{}, fmt.Errorf("convert: a dense layer is no structure")
	}
	if err := l.Validate(); err != nil {
		return Projection{}, err
	}
	if len(w) != l.In*l.Out {
		return Projection{}, fmt.Errorf("convert: %d weights of a %d -> %d layer", len(w), l.In, l.Out)
	}
	if floats.HasNaN(w) || math.IsInf(floats.Norm(w, 2), 0) {
		return Projection{}, fmt.Errorf("convert: the weights of a %d -> %d layer are not finite", l.In, l.Out)
	}
	t := &task{blocks: newBlocks(l), in: l.In, pool: pool, moments: moments, measured: measure}
	for _, f := range l.Chain() {
		t.factors = append(t.factors, make([]float64, f.Weights()))
	}
	// Rows in the order of the last factor's blocks.
	t.w = mat.NewDense(l.Out, l.In, nil)
	for o, at := range t.place {
		copy(t.w.RawRowView(o), w[at*l.In:(at+1)*l.In])
	}
	t.rest = mat.DenseCopyOf(t.w)
	for _, m := range []*Moments{moments, measure} {
		if err := m.check(l.In); err != nil {
			return Projection{}, err
		}
	}
	if moments != nil {
		var err error
		if t.roots, err = moments.roots(t.columns); err != nil {
			return Projection{}, err
		}
	}
	if t.middle == nil {
		pool.Run(t.rows, func(_, i int) { t.row(i) })
	} else {
		t.alternate()
	}
	return t.result(), nil
}

// task is a matrix on its way into a structure.
type task struct {
	*blocks
	in      int
	pool    *rt.Pool
	factors [][]float64
	// w is the matrix, its rows in the order of the last factor's blocks, and rest
	// what the factors lack of it.
	w, rest *mat.Dense
	moments *Moments
	// measured are moments that errors are reported by.
	measured *Moments
	// roots are the Cholesky factors of the moments of each block of columns.
	roots []*mat.TriDense
}

// block is the part of a matrix that block (i, j) has.
func (t *task) block(m *mat.Dense, i, j int) *mat.Dense {
	return m.Slice(i*t.p, (i+1)*t.p, j*t.q, (j+1)*t.q).(*mat.Dense)
}

// strip is the part of a matrix that the rows of block i have.
func (t *task) strip(m *mat.Dense, i int) *mat.Dense {
	return m.Slice(i*t.p, (i+1)*t.p, 0, t.in).(*mat.Dense)
}

// row solves the blocks of a row, of a chain of two factors.
func (t *task) row(i int) {
	for j := range t.columns {
		t.nearest(i, j, true)
	}
	if t.moments == nil || t.columns == 1 {
		return
	}
	for range rowSweeps {
		for j := range t.columns {
			t.nearest(i, j, false)
		}
		t.solveLast(i) // all blocks at once, in one of their factors
	}
}

// nearest puts the optimum into block (i, j): beside the other blocks of the row as they
// are, or, alone, as if these lacked nothing.
//
// With moments C = L L^T of the columns, the outputs' error is |E L|, E being all that the
// row lacks. As a function of block j it is |(T - W_j) L_j| and a constant, where
// T = W_j + (E C)_j C_jj^-1: a problem of low rank again.
func (t *task) nearest(i, j int, alone bool) {
	links := t.of(i, j)
	if len(links) == 0 {
		return
	}
	w, rest := t.block(t.w, i, j), t.block(t.rest, i, j)
	goal := mat.DenseCopyOf(w)
	if t.moments != nil {
		root := t.roots[j].RawTriangular()
		if !alone {
			goal.Sub(w, rest)
		}
		blas64.Trmm(blas.Right, blas.NoTrans, 1, root, goal.RawMatrix())
		if !alone {
			var toward mat.Dense
			toward.Mul(t.strip(t.rest, i), t.moments.columns(j, t.q))
			blas64.Trsm(blas.Right, blas.Trans, 1, root, toward.RawMatrix())
			goal.Add(goal, &toward)
		}
	}
	k := min(len(links), t.p, t.q)
	right, left, _ := initial.LowRank(goal.RawMatrix().Data, t.p, t.q, k) // [k, q] and [p, k]
	if t.moments != nil {
		blas64.Trsm(blas.Right, blas.NoTrans, 1, t.roots[j].RawTriangular(), blas64.General{Rows: k, Cols: t.q, Stride: t.q, Data: right})
		balance(right, left, t.q, k)
	}
	first, last := t.firstBlock(j), t.lastBlock(i)
	for s, at := range links[:k] {
		copy(first.RawRowView(at.c), right[s*t.q:(s+1)*t.q])
		for r := range t.p {
			last.Set(r, at.a, left[r*k+s])
		}
	}
	var product mat.Dense
	product.Mul(mat.NewDense(t.p, k, left), mat.NewDense(k, t.q, right))
	rest.Sub(w, &product)
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
func balance(right, left []float64, q, k int) {
	for s := range k {
		row, column := right[s*q:(s+1)*q], blas64.Vector{N: len(left) / k, Inc: k, Data: left[s:]}
		a, b := floats.Norm(row, 2), blas64.Nrm2(column)
		if a == 0 || b == 0 {
			continue
		}
		floats.Scale(math.Sqrt(b/a), row)
		blas64.Scal(math.Sqrt(a/b), column)
	}
}

// result adds up what is missing.
func (t *task) result() Projection {
	r := Projection{Factors: t.factors}
	parts := make([]Projection, t.rows)
	t.pool.Run(t.rows, func(_, i int) {
		w, rest := t.strip(t.w, i), t.strip(t.rest, i)
		parts[i].All, parts[i].Lost = square(w), square(rest)
		if t.measured != nil {
			parts[i].AllOutput, parts[i].LostOutput = t.measured.square(w), t.measured.square(rest)
		}
	})
	for _, p := range parts {
		r.All, r.Lost, r.AllOutput, r.LostOutput = r.All+p.All, r.Lost+p.Lost, r.AllOutput+p.AllOutput, r.LostOutput+p.LostOutput
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
