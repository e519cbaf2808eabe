package project

import (
	"context"

	"gonum.org/v1/gonum/mat"

	rt "github.com/structuredffn/sffn/runtime"
)

// TakeOver are the weights [out, columns] of some columns of a matrix w [out, in] that
// give the outputs of all of them best, W C_all,columns C_columns,columns^-1, by the
// moments C of the inputs.
func TakeOver(ctx context.Context, w []float64, columns []int, m *Moments, opt rt.Options) ([]float64, error) {
	n, out := len(columns), len(w)/m.n
	p, err := newProducts(ctx, opt)
	if err != nil {
		return nil, err
	}
	defer p.close()
	own, cross := mat.NewDense(n, n, nil), mat.NewDense(n, m.n, nil)
	for i, u := range columns {
		copy(cross.RawRowView(i), m.c.RawRowView(u))
		for j, v := range columns {
			own.Set(i, j, m.c.At(u, v))
		}
	}
	b := p.exact(cross, mat.NewDense(out, m.n, w).T()) // [columns, out]
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	x := damped(own, b, potrs)
	return mat.DenseCopyOf(x.T()).RawMatrix().Data, ctx.Err()
}

// Lost are the squares of what a matrix lacks of another one of as many weights, and of
// that one itself: of weights, and of outputs where moments are given.
func Lost(ctx context.Context, w, hat []float64, in int, m *Moments, opt rt.Options) (Projection, error) {
	p, err := newProducts(ctx, opt)
	if err != nil {
		return Projection{}, err
	}
	defer p.close()
	all, rest := mat.NewDense(len(w)/in, in, w), mat.NewDense(len(w)/in, in, nil)
	rest.Sub(all, mat.NewDense(len(w)/in, in, hat))
	r := Projection{All: square(all), Lost: square(rest)}
	if m != nil {
		r.AllOutput, r.LostOutput = m.square(p, all), m.square(p, rest)
	}
	return r, ctx.Err()
}
