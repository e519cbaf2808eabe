package project

import (
	"fmt"
	"math"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas64"
	"gonum.org/v1/gonum/floats"
	"gonum.org/v1/gonum/lapack/lapack64"
	"gonum.org/v1/gonum/mat"
)

// Moments are the second moments of a layer's inputs, C = E[x x^T], not centred.
type Moments struct {
	n    int
	c    *mat.Dense // both triangles, with the ridge
	mean float64    // of the diagonal
	// blocks are the roots of that many blocks, and what they make of the moments: for
	// the next matrix that has as many.
	blocks int
	roots  []*mat.Dense
	white  []float32
}

// ridge is what is added to the moments' diagonal, relative to its mean, so that
// directions which the data never have are not free to take any weights. Where
// rounding asks for it, it is ten times as much, again and again.
const ridge = 1e-6

// NewMoments takes the sum of x x^T over so many rows, [n, n], which becomes theirs.
// Of the sum the upper triangle is read.
func NewMoments(sum []float64, n, rows int) (*Moments, error) {
	if len(sum) != n*n || rows < 1 {
		return nil, fmt.Errorf("project: %d sums of %d rows, want those of %d inputs", len(sum), rows, n)
	}
	m := &Moments{n: n, c: mat.NewDense(n, n, sum)}
	for i := range n {
		for j := i; j < n; j++ {
			sum[i*n+j] /= float64(rows)
			sum[j*n+i] = sum[i*n+j]
		}
		if sum[i*n+i] < 0 {
			return nil, fmt.Errorf("project: what was summed up of %d inputs are no second moments: input %d has a negative square", n, i)
		}
	}
	m.mean = mat.Trace(m.c) / float64(n)
	if math.IsNaN(m.mean) || math.IsInf(m.mean, 0) {
		return nil, fmt.Errorf("project: the inputs' moments are not finite: their mean square is %v", m.mean)
	}
	if m.mean == 0 {
		m.mean = 1 // all inputs are 0, and all weights as good as others
	}
	for i := range n {
		sum[i*n+i] += ridge * m.mean
	}
	return m, nil
}

// Matrix is [n, n], both triangles, with the ridge; not to be changed.
func (m *Moments) Matrix() *mat.Dense { return m.c }

// At is the moment of inputs i and j.
func (m *Moments) At(i, j int) float64 { return m.c.At(i, j) }

func (m *Moments) check(in int) error {
	if m != nil && m.n != in {
		return fmt.Errorf("project: moments of %d inputs, the layer has %d", m.n, in)
	}
	return nil
}

// whiten finds the lower Cholesky factor L_j of the moments of each of so many blocks of
// inputs among each other, [q, q], and the moments of inputs that are multiplied by
// these, K_ij = L_i^-1 C_ij L_j^-T, where more than one is asked for: of the identity on
// the diagonal. Columns of block j of K are rows of white, [n, q] for each j.
func (m *Moments) whiten(p *products, blocks int) (roots []*mat.Dense, white []float32, err error) {
	if m.blocks == blocks {
		return m.roots, m.white, nil
	}
	q := m.n / blocks
	roots = make([]*mat.Dense, blocks)
	errs := make([]error, blocks)
	p.run(blocks, func(_, j int) { roots[j], errs[j] = m.root(j, q) })
	for _, err := range errs {
		if err != nil {
			return nil, nil, err
		}
	}
	if blocks > 1 {
		white = m.correlations(p, roots, q)
	}
	if err := p.ctx.Err(); err != nil {
		return nil, nil, err
	}
	m.blocks, m.roots, m.white = blocks, roots, white
	return roots, white, nil
}

// root is the Cholesky factor of block j; above it there are zeros. Sums are rounded,
// and may leave a matrix that is not quite positive.
func (m *Moments) root(j, q int) (*mat.Dense, error) {
	for more := 0.0; more <= m.mean; more = max(10*more, 10*ridge*m.mean) {
		l := mat.DenseCopyOf(m.c.Slice(j*q, (j+1)*q, j*q, (j+1)*q))
		raw := l.RawMatrix()
		for i := range q {
			raw.Data[i*q+i] += more
		}
		if _, ok := lapack64.Potrf(blas64.Symmetric{Uplo: blas.Lower, N: q, Data: raw.Data, Stride: raw.Stride}); ok {
			for i := range q {
				clear(raw.Data[i*q+i+1 : (i+1)*q])
			}
			return l, nil
		}
	}
	return nil, fmt.Errorf("project: the moments of inputs %d to %d are not positive definite", j*q, (j+1)*q-1)
}

// solvePiece is the number of columns, or rows, of a triangular system at a time: an
// interrupt does not wait for all of them.
const solvePiece = 96

// correlations are the columns of K, as rows.
func (m *Moments) correlations(p *products, roots []*mat.Dense, q int) []float32 {
	blocks := len(roots)
	k := mat.DenseCopyOf(m.c)
	across := (q + solvePiece - 1) / solvePiece
	// Above the diagonal, rows i of blocks first, then columns j.
	p.run(blocks*blocks*across, func(_, at int) {
		i, j, c := at/across/blocks, at/across%blocks, at%across*solvePiece
		if j > i {
			blas64.Trsm(blas.Left, blas.NoTrans, 1, lower(roots[i]), k.Slice(i*q, (i+1)*q, j*q+c, j*q+min(c+solvePiece, q)).(*mat.Dense).RawMatrix())
		}
	})
	white := make([]float32, m.n*m.n)
	p.run(blocks*blocks*across, func(_, at int) {
		i, j, r := at/across/blocks, at/across%blocks, at%across*solvePiece
		hi := min(r+solvePiece, q)
		if j < i {
			return
		}
		if j > i {
			blas64.Trsm(blas.Right, blas.Trans, 1, lower(roots[j]), k.Slice(i*q+r, i*q+hi, j*q, (j+1)*q).(*mat.Dense).RawMatrix())
		}
		for r := r; r < hi; r++ {
			for c := range q {
				v := k.At(i*q+r, j*q+c)
				if i == j {
					v = 0
					if r == c {
						v = 1
					}
				}
				white[j*m.n*q+(i*q+r)*q+c] = float32(v)
				if i != j {
					white[i*m.n*q+(j*q+c)*q+r] = float32(v)
				}
			}
		}
	})
	return white
}

// lower is a Cholesky factor for products and systems.
func lower(l *mat.Dense) blas64.Triangular {
	raw := l.RawMatrix()
	return blas64.Triangular{Uplo: blas.Lower, Diag: blas.NonUnit, N: raw.Rows, Data: raw.Data, Stride: raw.Stride}
}

// Square is the expected square of the outputs of rows of weights, with float32's
// rounding.
func (m *Moments) square(p *products, w *mat.Dense) float64 {
	y := p.mul(0, w, m.c)
	rows, _ := w.Dims()
	sums := make([]float64, rows)
	p.pieces(rows, tileRows, func(lo, hi int) {
		for r := lo; r < hi; r++ {
			sums[r] = floats.Dot(y.RawRowView(r), w.RawRowView(r))
		}
	})
	return sum(sums)
}
