package convert

import (
	"fmt"
	"math"

	"gonum.org/v1/gonum/floats"
	"gonum.org/v1/gonum/mat"
)

// Moments are the second moments of a layer's inputs, C = E[x x^T], not centred.
type Moments struct {
	n int
	c *mat.Dense // both triangles, with the ridge
}

// ridge is what is added to the moments' diagonal, relative to its mean, so that
// directions which the data never have are not free to take any weights. Where
// rounding asks for it, it is ten times as much, again and again.
const ridge = 1e-6

// NewMoments takes the sum of x x^T over so many rows, [n, n], of which it keeps a
// copy. Of the sum the upper triangle is read.
func NewMoments(sum []float64, n, rows int) (*Moments, error) {
	if len(sum) != n*n || rows < 1 {
		return nil, fmt.Errorf("convert: %d sums of %d rows, want those of %d inputs", len(sum), rows, n)
	}
	m := &Moments{n, mat.NewDense(n, n, nil)}
	for i := range n {
		for j := i; j < n; j++ {
			v := sum[i*n+j] / float64(rows)
			m.c.Set(i, j, v)
			m.c.Set(j, i, v)
		}
	}
	mean := mat.Trace(m.c) / float64(n)
	if math.IsNaN(mean) || math.IsInf(mean, 0) {
		return nil, fmt.Errorf("convert: the inputs' moments are not finite: their mean square is %v", mean)
	}
	if mean == 0 {
		mean = 1 // all inputs are 0, and all weights as good as others
	}
	// Sums are rounded, and may leave a matrix that is not quite positive.
	for more := ridge * mean; more <= mean; more *= 10 {
		for i := range n {
			m.c.Set(i, i, m.c.At(i, i)+more)
		}
		var chol mat.Cholesky
		if chol.Factorize(mat.NewSymDense(n, m.c.RawMatrix().Data)) {
			return m, nil
		}
	}
	return nil, fmt.Errorf("convert: what was summed up of %d inputs are no second moments: they are not positive", n)
}

// Matrix is [n, n], with the ridge.
func (m *Moments) Matrix() *mat.Dense { return m.c }

// Square is the expected square of the outputs of rows of weights.
func (m *Moments) Square(w *mat.Dense) float64 { return m.square(w) }

func (m *Moments) check(in int) error {
	if m != nil && m.n != in {
		return fmt.Errorf("convert: moments of %d inputs, the layer has %d", m.n, in)
	}
	return nil
}

// columns are those of block j, [n, q].
func (m *Moments) columns(j, q int) *mat.Dense {
	return m.c.Slice(0, m.n, j*q, (j+1)*q).(*mat.Dense)
}

// own are the moments of the inputs of block j among each other.
func (m *Moments) own(j, q int) *mat.Dense {
	return m.c.Slice(j*q, (j+1)*q, j*q, (j+1)*q).(*mat.Dense)
}

// roots are the lower Cholesky factors of the moments of each of so many blocks.
func (m *Moments) roots(blocks int) ([]*mat.TriDense, error) {
	q := m.n / blocks
	all := make([]*mat.TriDense, blocks)
	for j := range all {
		own := m.own(j, q)
		s := mat.NewSymDense(q, nil)
		for a := range q {
			for b := a; b < q; b++ {
				s.SetSym(a, b, own.At(a, b))
			}
		}
		var chol mat.Cholesky
		if !chol.Factorize(s) {
			return nil, fmt.Errorf("convert: the moments of inputs %d to %d are not positive definite", j*q, (j+1)*q-1)
		}
		all[j] = mat.NewTriDense(q, mat.Lower, nil)
		chol.LTo(all[j])
	}
	return all, nil
}

// square is the expected square of the outputs of rows of weights.
func (m *Moments) square(w *mat.Dense) (sum float64) {
	var wc mat.Dense
	wc.Mul(w, m.c)
	rows, _ := w.Dims()
	for r := range rows {
		sum += floats.Dot(wc.RawRowView(r), w.RawRowView(r))
	}
	return sum
}
