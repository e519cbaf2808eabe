package project

import (
	"context"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas64"
	"gonum.org/v1/gonum/mat"

	"github.com/structuredffn/sffn/gen/spec"
	rt "github.com/structuredffn/sffn/runtime"
)

// products multiplies matrices on a pool. Results do not depend on its threads.
type products struct {
	ctx    context.Context
	opt    rt.Options
	spaces []*rt.Workspace // of each worker
}

// newProducts needs options with a pool.
func newProducts(ctx context.Context, opt rt.Options) (*products, error) {
	opt.Train = false
	p := &products{ctx: ctx, opt: opt}
	l, err := p.linear([]float32{1}, 1, 1)
	if err != nil {
		return nil, err
	}
	l.Close()
	for range opt.Pool.Threads() {
		p.spaces = append(p.spaces, rt.NewWorkspace(opt.Pool))
	}
	return p, nil
}

func (p *products) close() {
	for _, ws := range p.spaces {
		ws.Close()
	}
}

// run calls f for every i in [0, n), on any worker; what is left when the context ends
// is left out, so that callers look at the context before they use results.
func (p *products) run(n int, f func(worker, i int)) {
	p.opt.Pool.Run(n, func(worker, i int) {
		if p.ctx.Err() == nil {
			f(worker, i)
		}
	})
}

// pieces calls f for stretches of [0, n) of up to size.
func (p *products) pieces(n, size int, f func(lo, hi int)) {
	p.run((n+size-1)/size, func(_, i int) { f(i*size, min((i+1)*size, n)) })
}

// fastFrom is the number of multiply-adds of a product from which the float32 kernels
// are faster than float64 in Go, what they copy included.
const fastFrom = 1 << 20

// mul is a b, either of which may be transposed, in float64 where it is small and with
// float32's rounding where it is large: for steps towards an optimum, whose errors the
// next steps see. worker is that of the pool, 0 outside.
func (p *products) mul(worker int, a, b mat.Matrix) *mat.Dense {
	m, k := a.Dims()
	_, n := b.Dims()
	y := mat.NewDense(m, n, nil)
	if m*n*k < fastFrom {
		y.Mul(a, b)
		return y
	}
	l := p.must(narrow32(b.T()), k, n)
	defer l.Close()
	out := make([]float32, m*n)
	l.Forward(out, narrow32(a), nil, m, nil, p.spaces[worker])
	copyWide(y, out)
	return y
}

// linear multiplies by the transpose of w [n, k].
func (p *products) linear(w []float32, k, n int) (*rt.Linear, error) {
	return rt.NewLinear(spec.Linear{Kind: spec.Dense, In: k, Out: n}, rt.Weights{Factors: [][]float32{w}}, p.opt)
}

// must is linear with the options that newProducts has tried.
func (p *products) must(w []float32, k, n int) *rt.Linear {
	l, err := p.linear(w, k, n)
	if err != nil {
		panic(err)
	}
	l.DropWeights()
	return l
}

// narrow32 is a matrix in float32, row-major.
func narrow32(a mat.Matrix) []float32 {
	rows, cols := a.Dims()
	x := make([]float32, rows*cols)
	if t, ok := a.(mat.Transpose); ok {
		d := t.Matrix.(*mat.Dense)
		for c := range cols {
			for r, v := range d.RawRowView(c) {
				x[r*cols+c] = float32(v)
			}
		}
		return x
	}
	d := a.(*mat.Dense)
	for r := range rows {
		for c, v := range d.RawRowView(r) {
			x[r*cols+c] = float32(v)
		}
	}
	return x
}

func copyWide(y *mat.Dense, x []float32) {
	rows, cols := y.Dims()
	for r := range rows {
		to := y.RawRowView(r)
		for c, v := range x[r*cols : (r+1)*cols] {
			to[c] = float64(v)
		}
	}
}

// A tile of an exact product has so few blocks of gonum's that it runs on one thread:
// the pool's are all that work.
const tileRows, tileColumns = 64, 192

// exact is a b in float64, either of which may be transposed.
func (p *products) exact(a, b mat.Matrix) *mat.Dense {
	m, _ := a.Dims()
	_, n := b.Dims()
	y := mat.NewDense(m, n, nil)
	ta, x := operand(a)
	tb, z := operand(b)
	across := (n + tileColumns - 1) / tileColumns
	p.run((m+tileRows-1)/tileRows*across, func(_, i int) {
		r, c := i/across*tileRows, i%across*tileColumns
		rows, columns := min(tileRows, m-r), min(tileColumns, n-c)
		blas64.Gemm(ta, tb, 1, part(x, ta, r, rows), part(z, other(tb), c, columns), 0, part(y.RawMatrix(), blas.NoTrans, r, rows, c, columns))
	})
	return y
}

func operand(a mat.Matrix) (blas.Transpose, blas64.General) {
	if t, ok := a.(mat.Transpose); ok {
		return blas.Trans, t.Matrix.(*mat.Dense).RawMatrix()
	}
	return blas.NoTrans, a.(*mat.Dense).RawMatrix()
}

func other(t blas.Transpose) blas.Transpose {
	if t == blas.Trans {
		return blas.NoTrans
	}
	return blas.Trans
}

// part is a stretch of a matrix's rows, or, transposed, of its columns, and, where
// another stretch is given, of its columns too.
func part(a blas64.General, t blas.Transpose, at, n int, columns ...int) blas64.General {
	if t == blas.Trans {
		return blas64.General{Rows: a.Rows, Cols: n, Stride: a.Stride, Data: a.Data[at:]}
	}
	g := blas64.General{Rows: n, Cols: a.Cols, Stride: a.Stride, Data: a.Data[at*a.Stride:]}
	if len(columns) > 0 {
		g.Data, g.Cols = g.Data[columns[0]:], columns[1]
	}
	return g
}
