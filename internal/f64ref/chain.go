package f64ref

import "github.com/structuredffn/sffn/gen/spec"

// A Chain is a layer in float64 that keeps its factors apart: its work is that
// of the layer, where the merged matrix takes that of a dense one.
type Chain struct {
	l spec.Linear
	// in and out are, for every weight of a factor in canonical order, the entry
	// that it multiplies and the one that it adds to.
	in, out [][]int32
	widths  []int // of x, of each intermediate, of y
}

// NewChain lists the weights of a layer's factors.
func NewChain(l spec.Linear) *Chain {
	c := &Chain{l: l, widths: []int{l.In}}
	n, r, p := l.Blocks, l.Rank, 0
	add := func(width int, each func(emit func(in, out int))) {
		var in, out []int32
		each(func(i, o int) { in, out = append(in, int32(i)), append(out, int32(o)) })
		c.in, c.out, c.widths = append(c.in, in), append(c.out, out), append(c.widths, width)
	}
	dense := func(in, out int) {
		add(out, func(emit func(in, out int)) {
			for o := range out {
				for i := range in {
					emit(i, o)
				}
			}
		})
	}
	// blocks maps block k's p inputs to q outputs.
	blocks := func(q int) {
		add(n*q, func(emit func(in, out int)) {
			for k := range n {
				for o := range q {
					for d := range p {
						emit(k*p+d, k*q+o)
					}
				}
			}
		})
	}
	switch l.Kind {
	case spec.Dense:
		dense(l.In, l.Out)
	case spec.LowRank:
		dense(l.In, r)
		dense(r, l.Out)
	case spec.BlockDense:
		p = l.In / n
		blocks(r / n)
		dense(r, l.Out)
	case spec.BlockShuffle:
		s := l.Out / n
		p = l.In / n
		q := s
		if l.In < l.Out {
			q = p
		}
		blocks(q)
		// Block k of the second factor takes every n-th entry, from the k-th on,
		// and gives every n-th.
		add(l.Out, func(emit func(in, out int)) {
			for k := range n {
				for b := range s {
					for a := range q {
						emit(a*n+k, b*n+k)
					}
				}
			}
		})
	}
	return c
}

// Forward computes y [m, out] of x [m, in] without a bias, and the input of each
// factor, of which x is the first.
func (c *Chain) Forward(w [][]float64, x []float64, m int) (y []float64, inputs [][]float64) {
	for f := range c.in {
		inputs = append(inputs, x)
		y = make([]float64, m*c.widths[f+1])
		for r := range m {
			src, dst := x[r*c.widths[f]:], y[r*c.widths[f+1]:]
			for i, o := range c.out[f] {
				dst[o] += w[f][i] * src[c.in[f][i]]
			}
		}
		x = y
	}
	return y, inputs
}

// Backward computes dx and the gradient of each factor's weights from dy and
// the inputs of the forward pass.
func (c *Chain) Backward(w, inputs [][]float64, dy []float64, m int) (dx []float64, dw [][]float64) {
	dw = make([][]float64, len(w))
	for f := len(w) - 1; f >= 0; f-- {
		dw[f] = make([]float64, len(w[f]))
		dx = make([]float64, m*c.widths[f])
		for r := range m {
			src, dst, g := inputs[f][r*c.widths[f]:], dx[r*c.widths[f]:], dy[r*c.widths[f+1]:]
			for i, o := range c.out[f] {
				at := c.in[f][i]
				dst[at] += w[f][i] * g[o]
				dw[f][i] += src[at] * g[o]
			}
		}
		dy = dx
	}
	return dx, dw
}
