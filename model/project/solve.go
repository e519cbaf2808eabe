package project

import (
	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas64"
	"gonum.org/v1/gonum/lapack/lapack64"
	"gonum.org/v1/gonum/mat"
)

// damp is added to the diagonals of least squares, relative to their mean: where a
// problem is singular, what does not matter stays as it is. It is above float32's
// rounding.
const damp = 1e-7

// damped returns (g + damping)^-1 b, of a symmetric g, by what makes the solution of the
// lower root of g.
func damped(g, b *mat.Dense, by func(root, b *mat.Dense) *mat.Dense) *mat.Dense {
	n, columns := b.Dims()
	mean := mat.Trace(g) / float64(n)
	if mean == 0 {
		mean = 1
	}
	for small := damp * mean; small <= mean; small *= 10 { // rounding may leave g indefinite by more than the damping
		s := mat.DenseCopyOf(g)
		for i := range n {
			s.Set(i, i, s.At(i, i)+small)
		}
		raw := s.RawMatrix()
		if _, ok := lapack64.Potrf(blas64.Symmetric{Uplo: blas.Lower, N: n, Data: raw.Data, Stride: raw.Stride}); ok {
			return by(s, b)
		}
	}
	return mat.NewDense(n, columns, nil) // no step is better than a wild one
}

// potrs solves in float64.
func potrs(root, b *mat.Dense) *mat.Dense {
	x := mat.DenseCopyOf(b)
	lapack64.Potrs(lower(root), x.RawMatrix())
	return x
}

// solve is a damped solution for a step of a fit. That of many columns multiplies by the
// inverse of the root, twice, on the float32 kernels: the root's condition, which the
// damping bounds by some thousands, leaves three digits and more, and the next step sees
// what is missing.
func (p *products) solve(worker int, g, b *mat.Dense) *mat.Dense {
	return damped(g, b, func(root, b *mat.Dense) *mat.Dense {
		n, columns := b.Dims()
		if columns < n || n*n*columns < fastFrom {
			return potrs(root, b)
		}
		if !lapack64.Trtri(lower(root)) {
			return mat.NewDense(n, columns, nil)
		}
		raw := root.RawMatrix()
		for i := range n {
			clear(raw.Data[i*raw.Stride+i+1 : i*raw.Stride+n])
		}
		return p.mul(worker, root.T(), p.mul(worker, root, b))
	})
}
