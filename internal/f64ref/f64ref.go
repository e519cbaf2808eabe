// Package f64ref is the oracle of the tests: structured layers in float64,
// written from their definitions, with explicit indices and plain loops. It
// shares nothing with the planner or the kernels.
package f64ref

import (
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/f64ref/act"
)

// Merged is the dense [out, in] matrix of a layer whose factors are given in
// chain order, row-major.
func Merged(l spec.Linear, w [][]float64) []float64 {
	in, out, r, n := l.In, l.Out, l.Rank, l.Blocks
	m := make([]float64, out*in)
	switch l.Kind {
	case spec.Dense:
		copy(m, w[0])
	case spec.LowRank:
		for o := range out {
			for k := range r {
				for i := range in {
					m[o*in+i] += w[1][o*r+k] * w[0][k*in+i]
				}
			}
		}
	case spec.BlockDense:
		q, p := r/n, in/n
		for o := range out {
			for k := range n {
				for c := range q {
					for d := range p {
						m[o*in+k*p+d] += w[1][o*r+k*q+c] * w[0][(k*q+c)*p+d]
					}
				}
			}
		}
	case spec.BlockShuffle:
		p, s := in/n, out/n
		q := s
		if in < out {
			q = p
		}
		for l := range n {
			for b := range s {
				for a := range q {
					z := a*n + l
					k, c := z/q, z%q
					for d := range p {
						m[(b*n+l)*in+k*p+d] += w[1][(l*s+b)*q+a] * w[0][(k*q+c)*p+d]
					}
				}
			}
		}
	case spec.BTT:
		m0, m1, n0, n1 := splits(l)
		for i := range n0 {
			for j := range n1 {
				for k := range m1 {
					for s := range r {
						for d := range m0 {
							m[(i*n1+j)*in+k*m0+d] += w[1][(i*n1+j)*m1*r+k*r+s] * w[0][((k*n0+i)*r+s)*m0+d]
						}
					}
				}
			}
		}
	case spec.BLAST:
		rows, cols := blocks(l)
		p, q := out/rows, in/cols
		for i := range rows {
			for l := range p {
				for j := range cols {
					for d := range q {
						for s := range r {
							m[(i*p+l)*in+j*q+d] += w[2][(i*p+l)*r+s] * w[1][(s*rows+i)*cols+j] * w[0][(j*r+s)*q+d]
						}
					}
				}
			}
		}
	}
	return m
}

// blocks are those of a BLAST's rows and columns.
func blocks(l spec.Linear) (rows, cols int) {
	rows, cols = l.Blocks, l.Blocks
	if l.OutSplit > 0 {
		rows = l.OutSplit
	}
	if l.InSplit > 0 {
		cols = l.InSplit
	}
	return rows, cols
}

// splits are the two numbers that each width of a BTT is the product of: the
// given ones, or those of its authors' rule, in = m0*m1 and out = n0*n1.
func splits(l spec.Linear) (m0, m1, n0, n1 int) {
	two := func(n, given int) (int, int) {
		if given > 0 {
			return given, n / given
		}
		pair := [2]int{1, 1}
		for rest, p := n, 2; rest > 1; {
			if rest%p > 0 {
				p++
				continue
			}
			rest /= p
			if pair[0] > pair[1] {
				pair[1] *= p
			} else {
				pair[0] *= p
			}
		}
		return min(pair[0], pair[1]), max(pair[0], pair[1])
	}
	m0, m1 = two(l.In, l.InSplit)
	n0, n1 = two(l.Out, l.OutSplit)
	return m0, m1, n0, n1
}

// FactorGradients gives the gradients of the factors from that of the merged
// matrix: what a chain makes of the identity's rows.
func FactorGradients(l spec.Linear, w [][]float64, dm []float64) [][]float64 {
	eye, dy := make([]float64, l.In*l.In), make([]float64, l.In*l.Out)
	for i := range l.In {
		eye[i*l.In+i] = 1
		for o := range l.Out {
			dy[i*l.Out+o] = dm[o*l.In+i]
		}
	}
	c := NewChain(l)
	_, inputs := c.Forward(w, eye, l.In)
	_, g := c.Backward(w, inputs, dy, l.In)
	return g
}

// Linear computes y [m, out] = x W^T + bias, W being merged; bias may be nil.
func Linear(w, bias, x []float64, m, in, out int) []float64 {
	y := make([]float64, m*out)
	for r := range m {
		row := x[r*in:][:in]
		for o := range out {
			s := 0.0
			for i, v := range w[o*in:][:len(row)] {
				s += row[i] * v
			}
			if bias != nil {
				s += bias[o]
			}
			y[r*out+o] = s
		}
	}
	return y
}

// LinearBackward computes the gradients of x, W and bias from dy.
func LinearBackward(w, x, dy []float64, m, in, out int) (dx, dw, db []float64) {
	dx, dw, db = make([]float64, m*in), make([]float64, out*in), make([]float64, out)
	for r := range m {
		for o := range out {
			d := dy[r*out+o]
			db[o] += d
			row, grad := w[o*in:][:in], dw[o*in:][:in]
			src, slope := x[r*in:][:in], dx[r*in:][:in]
			for i, v := range row {
				slope[i] += d * v
				grad[i] += d * src[i]
			}
		}
	}
	return dx, dw, db
}

// Activate computes the FFN's activation of h [m, fc1 out].
func Activate(f spec.FFN, h []float64, m int) []float64 {
	of := act.Of(string(f.Act)).Value
	a := make([]float64, m*f.FFN)
	for r := range m {
		for j := range f.FFN {
			if !f.Act.Gated() {
				a[r*f.FFN+j], _ = of(h[r*f.FFN+j])
				continue
			}
			s, _ := of(h[r*2*f.FFN+j])
			a[r*f.FFN+j] = s * h[r*2*f.FFN+f.FFN+j]
		}
	}
	return a
}

// ActivateBackward computes the gradient of h from that of the activation.
func ActivateBackward(f spec.FFN, h, da []float64, m int) []float64 {
	of := act.Of(string(f.Act)).Value
	dh := make([]float64, len(h))
	for r := range m {
		for j := range f.FFN {
			d := da[r*f.FFN+j]
			if !f.Act.Gated() {
				_, g := of(h[r*f.FFN+j])
				dh[r*f.FFN+j] = d * g
				continue
			}
			g, u := r*2*f.FFN+j, r*2*f.FFN+f.FFN+j
			s, ds := of(h[g])
			dh[g], dh[u] = d*h[u]*ds, d*s
		}
	}
	return dh
}
