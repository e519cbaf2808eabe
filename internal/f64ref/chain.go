package f64ref

import "github.com/structuredffn/sffn/gen/spec"

// A Chain is a layer in float64 that keeps its factors apart: its work is that
// of the layer, where the merged matrix takes that of a dense one.
type Chain struct{ factors []factor }

// factor multiplies blocks of its input with matrices [out, in].
type factor struct {
	in int // entries of one block of inputs
	// source is the place of each block's inputs, block after block, and target
	// that of each row of the weights.
	source, target []int
}

// NewChain lists the factors of a layer.
func NewChain(l spec.Linear) *Chain {
	inOrder := func(i int) int { return i }
	block := func(blocks, in, out int, source, target func(i int) int) factor {
		f := factor{in: in}
		for i := range blocks * in {
			f.source = append(f.source, source(i))
		}
		for o := range blocks * out {
			f.target = append(f.target, target(o))
		}
		return f
	}
	n := l.Blocks
	switch l.Kind {
	case spec.LowRank:
		return &Chain{[]factor{block(1, l.In, l.Rank, inOrder, inOrder), block(1, l.Rank, l.Out, inOrder, inOrder)}}
	case spec.BlockDense:
		return &Chain{[]factor{block(n, l.In/n, l.Rank/n, inOrder, inOrder), block(1, l.Rank, l.Out, inOrder, inOrder)}}
	case spec.BlockShuffle:
		q := min(l.In, l.Out) / n
		// Block k of the second factor takes every n-th entry, from the k-th on,
		// and gives every n-th.
		dealt := func(size int) func(i int) int { return func(i int) int { return i%size*n + i/size } }
		return &Chain{[]factor{block(n, l.In/n, q, inOrder, inOrder), block(n, q, l.Out/n, dealt(q), dealt(l.Out/n))}}
	case spec.BTT:
		// Block k of the first factor makes, for each of n0 targets, r entries:
		// these lie target by target, and then block by block.
		m0, m1, n0, n1 := splits(l)
		r := l.Rank
		grouped := func(o int) int {
			k, i, s := o/(n0*r), o/r%n0, o%r
			return (i*m1+k)*r + s
		}
		return &Chain{[]factor{block(m1, m0, n0*r, inOrder, grouped), block(n0, m1*r, n1, inOrder, inOrder)}}
	case spec.BLAST:
		rows, cols := blocks(l)
		// Block s of the second factor takes entry s of each block of columns, and
		// gives entry s of each block of rows.
		r := l.Rank
		across := func(blocks int) func(i int) int { return func(i int) int { return i%blocks*r + i/blocks } }
		return &Chain{[]factor{block(cols, l.In/cols, r, inOrder, inOrder), block(r, cols, rows, across(cols), across(rows)),
			block(rows, r, l.Out/rows, inOrder, inOrder)}}
	}
	return &Chain{[]factor{block(1, l.In, l.Out, inOrder, inOrder)}}
}

// each calls f for every row of the weights: the factor's row number, its
// inputs' places and its output's.
func (f *factor) each(row func(o int, source []int, target int)) {
	perBlock := len(f.target) / (len(f.source) / f.in)
	for o, target := range f.target {
		row(o, f.source[o/perBlock*f.in:][:f.in], target)
	}
}

// Forward computes y [m, out] of x [m, in] without a bias, and the input of each
// factor, of which x is the first.
func (c *Chain) Forward(w [][]float64, x []float64, m int) (y []float64, inputs [][]float64) {
	for i := range c.factors {
		f := &c.factors[i]
		inputs = append(inputs, x)
		y = make([]float64, m*len(f.target))
		f.each(func(o int, source []int, target int) {
			row := w[i][o*f.in:][:f.in]
			for r := range m {
				src, sum := x[r*len(f.source):], 0.0
				for d, at := range source {
					sum += row[d] * src[at]
				}
				y[r*len(f.target)+target] = sum
			}
		})
		x = y
	}
	return y, inputs
}

// Backward computes dx and the gradient of each factor's weights from dy and
// the inputs of the forward pass.
func (c *Chain) Backward(w, inputs [][]float64, dy []float64, m int) (dx []float64, dw [][]float64) {
	dw = make([][]float64, len(w))
	for i := len(w) - 1; i >= 0; i-- {
		f := &c.factors[i]
		dw[i] = make([]float64, len(w[i]))
		dx = make([]float64, m*len(f.source))
		f.each(func(o int, source []int, target int) {
			row, grad := w[i][o*f.in:][:f.in], dw[i][o*f.in:][:f.in]
			for r := range m {
				src, dst, g := inputs[i][r*len(f.source):], dx[r*len(f.source):], dy[r*len(f.target)+target]
				for d, at := range source {
					dst[at] += row[d] * g
					grad[d] += src[at] * g
				}
			}
		})
		dy = dx
	}
	return dx, dw
}
