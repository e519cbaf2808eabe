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

// blocks calls f for every block: the number of its first row of weights, the places
// of its inputs and those of its outputs.
func (f *factor) blocks(block func(o int, source, targets []int)) {
	perBlock := len(f.target) / (len(f.source) / f.in)
	for o := 0; o < len(f.target); o += perBlock {
		block(o, f.source[o/perBlock*f.in:][:f.in], f.target[o:][:perBlock])
	}
}

// gather puts the entries of a block's inputs of m rows one after the other.
func (f *factor) gather(dst, x []float64, source []int, m int) {
	for r := range m {
		src, dst := x[r*len(f.source):], dst[r*f.in:][:f.in]
		for d, at := range source {
			dst[d] = src[at]
		}
	}
}

// Forward computes y [m, out] of x [m, in] without a bias, and the input of each
// factor, of which x is the first.
func (c *Chain) Forward(w [][]float64, x []float64, m int) (y []float64, inputs [][]float64) {
	for i := range c.factors {
		f := &c.factors[i]
		inputs = append(inputs, x)
		y = make([]float64, m*len(f.target))
		rows := make([]float64, m*f.in)
		f.blocks(func(o int, source, targets []int) {
			f.gather(rows, x, source, m)
			for n, target := range targets {
				row := w[i][(o+n)*f.in:][:f.in]
				r := 0
				for ; r+4 <= m; r += 4 { // sums that do not wait for one another
					s0, s1, s2, s3 := dot4(row, rows[r*f.in:])
					out := y[r*len(f.target)+target:]
					out[0], out[len(f.target)], out[2*len(f.target)], out[3*len(f.target)] = s0, s1, s2, s3
				}
				for ; r < m; r++ {
					sum := 0.0
					for d, v := range rows[r*f.in:][:len(row)] {
						sum += row[d] * v
					}
					y[r*len(f.target)+target] = sum
				}
			}
		})
		x = y
	}
	return y, inputs
}

// dot4 multiplies a row with four of as many entries.
func dot4(row, rows []float64) (s0, s1, s2, s3 float64) {
	n := len(row)
	x0, x1, x2, x3 := rows[:n], rows[n:][:n], rows[2*n:][:n], rows[3*n:][:n]
	for d, v := range row {
		s0 += v * x0[d]
		s1 += v * x1[d]
		s2 += v * x2[d]
		s3 += v * x3[d]
	}
	return s0, s1, s2, s3
}

// Backward computes dx and the gradient of each factor's weights from dy and
// the inputs of the forward pass.
func (c *Chain) Backward(w, inputs [][]float64, dy []float64, m int) (dx []float64, dw [][]float64) {
	dw = make([][]float64, len(w))
	for i := len(w) - 1; i >= 0; i-- {
		f := &c.factors[i]
		dw[i] = make([]float64, len(w[i]))
		dx = make([]float64, m*len(f.source))
		rows, slopes := make([]float64, m*f.in), make([]float64, m*f.in)
		f.blocks(func(o int, source, targets []int) {
			f.gather(rows, inputs[i], source, m)
			clear(slopes)
			for n, target := range targets {
				row, grad := w[i][(o+n)*f.in:][:f.in], dw[i][(o+n)*f.in:][:f.in]
				r := 0
				for ; r+2 <= m; r += 2 {
					g0, g1 := dy[r*len(f.target)+target], dy[(r+1)*len(f.target)+target]
					x0, x1 := rows[r*f.in:][:len(row)], rows[(r+1)*f.in:][:len(row)]
					d0, d1 := slopes[r*f.in:][:len(row)], slopes[(r+1)*f.in:][:len(row)]
					grad := grad[:len(row)]
					for d, v := range row {
						d0[d] += v * g0
						d1[d] += v * g1
						grad[d] = grad[d] + x0[d]*g0 + x1[d]*g1
					}
				}
				for ; r < m; r++ {
					g := dy[r*len(f.target)+target]
					x, slope := rows[r*f.in:], slopes[r*f.in:]
					for d, v := range row {
						slope[d] += v * g
						grad[d] += x[d] * g
					}
				}
			}
			for r := range m {
				for d, at := range source {
					dx[r*len(f.source)+at] = slopes[r*f.in+d]
				}
			}
		})
		dy = dx
	}
	return dx, dw
}
