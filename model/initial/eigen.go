package initial

import (
	"math"
	"math/rand/v2"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas64"
	"gonum.org/v1/gonum/floats"
	"gonum.org/v1/gonum/lapack/gonum"
)

// LargestEigen returns the k largest eigenvalues of a symmetric matrix g
// [n, n], of which the upper triangle is read and overwritten, in falling
// order, and their orthonormal eigenvectors as the columns of v [n, k].
//
// It reduces g to a tridiagonal matrix, takes that one's eigenvectors by
// inverse iteration, and rotates them back. A full decomposition (gonum's
// EigenSym) gives the same to rounding and spends ten times as long in the
// rotations of its QL iteration.
func LargestEigen(g []float64, n, k int) (values, v []float64) {
	var lapack gonum.Implementation
	// The lower triangle of a row-major symmetric matrix is its upper one
	// mirrored; Householder vectors below the diagonal fit Dormqr.
	for i := range n {
		for j := range i {
			g[i*n+j] = g[j*n+i]
		}
	}
	diag, off, tau := make([]float64, n), make([]float64, max(0, n-1)), make([]float64, max(0, n-1))
	query := []float64{0}
	lapack.Dsytrd(blas.Lower, n, g, n, diag, off, tau, query, -1)
	lapack.Dsytrd(blas.Lower, n, g, n, diag, off, tau, make([]float64, int(query[0])), int(query[0]))

	all, rest := append([]float64(nil), diag...), append([]float64(nil), off...)
	if !lapack.Dsterf(n, all, rest) {
		panic("initial: the eigenvalues of a symmetric tridiagonal matrix did not converge")
	}
	values = make([]float64, k)
	for j := range values {
		values[j] = all[n-1-j]
	}
	v = make([]float64, n*k)
	for j, x := range tridiagonalVectors(diag, off, values) {
		for i, e := range x {
			v[i*k+j] = e
		}
	}
	if n > 1 {
		lapack.Dormqr(blas.Left, blas.NoTrans, n-1, k, n-1, g[n:], n, tau, v[k:], k, query, -1)
		lapack.Dormqr(blas.Left, blas.NoTrans, n-1, k, n-1, g[n:], n, tau, v[k:], k, make([]float64, int(query[0])), int(query[0]))
	}
	return values, v
}

// tridiagonalVectors finds the eigenvectors of falling eigenvalues of a
// symmetric tridiagonal matrix by inverse iteration; those of eigenvalues that
// lie close together are orthogonalised against each other, as LAPACK's DSTEIN
// does.
func tridiagonalVectors(diag, off, values []float64) [][]float64 {
	var lapack gonum.Implementation
	n := len(diag)
	norm := 0.0
	for i := range diag {
		row := math.Abs(diag[i])
		if i > 0 {
			row += math.Abs(off[i-1])
		}
		if i < n-1 {
			row += math.Abs(off[i])
		}
		norm = max(norm, row)
	}
	const eps = 0x1p-52
	near := 1e-3 * norm
	rng := rand.New(rand.NewPCG(1, 1)) // any start that is not orthogonal to the answer
	dl, d, du := make([]float64, n), make([]float64, n), make([]float64, n)
	vectors := make([][]float64, 0, len(values))
	shift := math.Inf(1)
	for j, value := range values {
		// Equal eigenvalues get shifts a rounding apart, and so other vectors.
		shift = min(value, shift-eps*norm)
		first := j
		for first > 0 && values[first-1]-value <= near {
			first--
		}
		x := make([]float64, n)
		for i := range x {
			x[i] = rng.Float64() - 0.5
		}
		for range 4 {
			copy(dl, off)
			copy(du, off)
			for i := range d {
				d[i] = diag[i] - shift
			}
			if !lapack.Dgtsv(n, 1, dl, d, du, x, 1) {
				shift -= eps * norm
				continue
			}
			for _, y := range vectors[first:] {
				floats.AddScaled(x, -floats.Dot(x, y), y)
			}
			length := floats.Norm(x, 2)
			if length == 0 || math.IsInf(length, 0) || math.IsNaN(length) {
				for i := range x {
					x[i] = rng.Float64() - 0.5
				}
				continue
			}
			floats.Scale(1/length, x)
		}
		vectors = append(vectors, x)
	}
	return vectors
}

// gram computes the upper triangle of a a^T where a [rows, cols] is wide, and
// of a^T a otherwise.
func gram(a []float64, rows, cols int) (g []float64, n int) {
	n = min(rows, cols)
	g = make([]float64, n*n)
	trans := blas.Trans
	if rows < cols {
		trans = blas.NoTrans
	}
	blas64.Implementation().Dsyrk(blas.Upper, trans, n, max(rows, cols), 1, a, cols, 0, g, n)
	return g, n
}
