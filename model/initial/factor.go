package initial

import (
	"math"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas64"
	"gonum.org/v1/gonum/mat"
)

// thin is the thin SVD of a matrix, cut to its k largest singular values:
// u [rows, k], s [k], vt [k, cols].
type thin struct{ u, s, vt []float64 }

// lost is the square of the ratio of singular values below which the Gram
// matrix has lost too many of the digits that a float32 keeps: its relative
// error is 2^-52 over this.
const lost = 1e-8

// svd goes through the eigenvectors of the smaller Gram matrix: for the
// oblong and, above all, truncated matrices here that is several times faster
// than an SVD. Nearly singular ones go through the SVD itself.
func svd(a []float64, rows, cols, k int) thin {
	g, n := gram(a, rows, cols)
	values, v := LargestEigen(g, n, k)
	if !(values[k-1] > lost*values[0]) {
		return exactSVD(a, rows, cols, k)
	}
	t := thin{u: make([]float64, rows*k), s: make([]float64, k), vt: make([]float64, k*cols)}
	for j, x := range values {
		t.s[j] = math.Sqrt(x)
	}
	b := blas64.Implementation()
	if rows < cols { // v holds the left vectors
		copy(t.u, v)
		b.Dgemm(blas.Trans, blas.NoTrans, k, cols, rows, 1, v, k, a, cols, 0, t.vt, cols)
		for j, s := range t.s {
			b.Dscal(cols, 1/s, t.vt[j*cols:], 1)
		}
		return t
	}
	for i := range cols {
		for j := range k {
			t.vt[j*cols+i] = v[i*k+j]
		}
	}
	b.Dgemm(blas.NoTrans, blas.NoTrans, rows, k, cols, 1, a, cols, v, k, 0, t.u, k)
	for j, s := range t.s {
		b.Dscal(rows, 1/s, t.u[j:], k)
	}
	return t
}

func exactSVD(a []float64, rows, cols, k int) thin {
	var f mat.SVD
	if !f.Factorize(mat.NewDense(rows, cols, a), mat.SVDThin) {
		panic("initial: the singular value decomposition did not converge")
	}
	var u, v mat.Dense
	f.UTo(&u)
	f.VTo(&v)
	t := thin{s: f.Values(nil)[:k]}
	t.u = mat.DenseCopyOf(u.Slice(0, rows, 0, k)).RawMatrix().Data
	t.vt = mat.DenseCopyOf(v.Slice(0, cols, 0, k).T()).RawMatrix().Data
	return t
}

// LowRank is the svd initialiser: the first rank components of a dense draw
// [out, in], split evenly: lr1 = sqrt(S) V^T [rank, in], lr2 = U sqrt(S)
// [out, rank] (README of the golden vectors; paper, section 4). It also
// returns the singular values.
func LowRank(dense []float64, out, in, rank int) (lr1, lr2, s []float64) {
	t := svd(dense, out, in, rank)
	for j, x := range t.s {
		root := math.Sqrt(x)
		blas64.Implementation().Dscal(in, root, t.vt[j*in:], 1)
		blas64.Implementation().Dscal(out, root, t.u[j:], rank)
	}
	return t.vt, t.u, t.s
}

// Ortho is the ortho initialiser: it returns the matrix with orthonormal rows
// or columns that is nearest to a [rows, cols], U V^T of its thin SVD.
func Ortho(a []float64, rows, cols int) []float64 {
	k := min(rows, cols)
	t := svd(a, rows, cols, k)
	w := make([]float64, rows*cols)
	blas64.Implementation().Dgemm(blas.NoTrans, blas.NoTrans, rows, cols, k, 1, t.u, k, t.vt, cols, 0, w, cols)
	return w
}
