package runtime

import (
	"unsafe"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// gradient computes one factor's weight gradient,
//
//	dW[c,d] = sum over rows of dY[row, place of c] * X[row, place of d],
//
// straight into canonical order: the places are looked up while both operands
// are packed, dY in strips of [row][MR], X in panels of [row][32]. Every
// RowBlock rows are one chain of fused multiply-adds.
type gradient struct {
	target plan.Target
	// in and out place each block's entries in a row of x and of dy, of the
	// given widths.
	in, out           [][]int
	inWidth, outWidth int
	nIn, nOut         int
	strips            [len(widths)][16]kernel.Func
}

func newGradient(f plan.Factor, t plan.Target) (*gradient, error) {
	g := &gradient{target: t, inWidth: f.InWidth, outWidth: f.PreWidth, nIn: f.In, nOut: f.Out}
	for b := range f.Blocks {
		in, out := f.WeightIndex(b)
		g.in, g.out = append(g.in, in), append(g.out, out)
	}
	for w, nr := range widths {
		if nr > plan.Panel {
			continue
		}
		for mr := 1; mr <= t.MainMR[nr]; mr++ {
			fn, err := lookup(plan.Kernel{ISA: t.ISA, MR: mr, NR: nr, Strip: true})
			if err != nil {
				return nil, err
			}
			g.strips[w][mr] = fn
		}
	}
	return g, nil
}

// weightUnit is a chunk of gradient work: rows [c0, c1) of dW and a group of
// its panels of columns, or, where gradient is nil, a stretch of the bias.
type weightUnit struct {
	*gradient
	block, c0, c1, p0, p1 int
	dw, dy, x             []float32
	bias                  *biasGradient
}

// addUnits splits the gradient into units, by its shape alone.
func (g *gradient) addUnits(units []weightUnit, dw, dy, x []float32) []weightUnit {
	panels := (g.nIn + plan.Panel - 1) / plan.Panel
	group := min(groupPanels(g.target), panels)
	groups := (panels + group - 1) / group
	// At least 16 units where each keeps 96 rows: below that, packing x again
	// for each unit costs more than 5 % of the products.
	mr := g.target.StripMR()
	ranges := max(1, min((15+groups*len(g.in))/(groups*len(g.in)), g.nOut/96))
	rows := ((g.nOut+ranges-1)/ranges + mr - 1) / mr * mr
	for b := range g.in {
		for p := 0; p < panels; p += group {
			for c := 0; c < g.nOut; c += rows {
				units = append(units, weightUnit{gradient: g, block: b, c0: c, c1: min(g.nOut, c+rows),
					p0: p, p1: min(panels, p+group), dw: dw, dy: dy, x: x})
			}
		}
	}
	return units
}

// execWeights runs the units of gradient work over m rows.
func (w *Workspace) execWeights(m int, accumulate bool) {
	w.m, w.accumulate = m, accumulate
	w.pool.Run(len(w.units), w.runWeights)
}

// weightStep runs unit i.
func (w *Workspace) weightStep(worker, i int) {
	u := &w.units[i]
	if u.gradient == nil {
		u.bias.run(u, w.m, w.accumulate)
		return
	}
	u.run(&w.scratch[worker], w.m, w.accumulate)
}

func (u *weightUnit) run(s *scratch, m int, accumulate bool) {
	in, out := u.in[u.block], u.out[u.block]
	dw := u.dw[u.block*u.nIn*u.nOut:][:u.nIn*u.nOut]
	full := u.nIn / plan.Panel
	for m0 := 0; m0 < m || m0 == 0; m0 += plan.RowBlock {
		rows := min(plan.RowBlock, m-m0)
		add := accumulate || m0 > 0
		s.packRight(u.x[m0*u.inWidth:], u.inWidth, rows, in, u.p0, u.p1)
		for c := u.c0; c < u.c1; {
			mr := u.target.StripRows(u.c1 - c)
			s.packLeft(u.dy[m0*u.outWidth:], u.outWidth, rows, out[c:c+mr])
			if n := min(full, u.p1) - u.p0; n > 0 {
				s.strip(u.strips[oneWide][mr], kernel.Args{
					B: unsafe.Pointer(&s.right[0]), C: unsafe.Pointer(&dw[c*u.nIn+u.p0*plan.Panel]),
					LDC: 4 * u.nIn, NTiles: n, MR: mr, NR: plan.Panel,
				}, rows, add)
			}
			if u.p1 > full {
				u.edge(s, dw, c, mr, rows, add)
			}
			c += mr
		}
	}
}

// edge runs the last, narrower panel through the scratch tile.
func (u *weightUnit) edge(s *scratch, dw []float32, c, mr, rows int, add bool) {
	full := u.nIn / plan.Panel
	n := u.nIn - full*plan.Panel
	w := oneWide
	if n <= plan.HalfPanel {
		w = halfWide
	}
	s.strip(u.strips[w][mr], kernel.Args{
		B: unsafe.Pointer(&s.right[(full-u.p0)*plan.Panel*rows]), C: unsafe.Pointer(&s.tile[0]),
		LDC: 4 * widths[w], NTiles: 1, MR: mr, NR: widths[w],
	}, rows, false)
	for i := range mr {
		dst := dw[(c+i)*u.nIn+full*plan.Panel:][:n]
		src := s.tile[i*widths[w]:][:n]
		if !add {
			copy(dst, src)
			continue
		}
		for j, v := range src {
			dst[j] += v
		}
	}
}

// strip calls a strip kernel on the packed left operand.
func (s *scratch) strip(f kernel.Func, a kernel.Args, rows int, add bool) {
	s.seg = kernel.Segment{Len: rows}
	a.A, a.LDA, a.KStep = unsafe.Pointer(&s.left[0]), 4, 4*a.MR
	a.Segs, a.NSegs = unsafe.Pointer(&s.seg), 1
	a.PanelStep = 4 * plan.Panel * rows
	if add {
		a.Flags |= kernel.Accumulate
	}
	s.args = a
	s.call(f)
}

// packLeft writes left[row][j] = y[row*ld + idx[j]].
func (s *scratch) packLeft(y []float32, ld, rows int, idx []int) {
	n := len(idx)
	if contiguous(idx) {
		y = y[idx[0]:]
		if n == 12 { // the main strip of AVX-512: a copy without a call
			for r := range rows {
				*(*[12]float32)(s.left[12*r:]) = [12]float32(y[r*ld:])
			}
			return
		}
		for r := range rows {
			copy(s.left[r*n:(r+1)*n], y[r*ld:])
		}
		return
	}
	for r := range rows {
		row, dst := y[r*ld:(r+1)*ld], s.left[r*n:(r+1)*n]
		for j, at := range idx {
			dst[j] = row[at]
		}
	}
}

// packRight writes panels [p0, p1) of x, each [row][32], the last one 16 wide
// where no more is needed; columns beyond the true ones are 0.
func (s *scratch) packRight(x []float32, ld, rows int, idx []int, p0, p1 int) {
	if n := (p1 - p0) * plan.Panel * rows; len(s.right) < n {
		s.right = make([]float32, n)
	}
	for p := p0; p < p1; p++ {
		cols := idx[p*plan.Panel : min(len(idx), (p+1)*plan.Panel)]
		width := plan.Panel
		if len(cols) <= plan.HalfPanel {
			width = plan.HalfPanel
		}
		dst := s.right[(p-p0)*plan.Panel*rows:]
		line := contiguous(cols)
		if line && len(cols) == plan.Panel {
			for r := range rows {
				*(*[plan.Panel]float32)(dst[plan.Panel*r:]) = [plan.Panel]float32(x[r*ld+cols[0]:])
			}
			continue
		}
		for r := range rows {
			d := dst[r*width : (r+1)*width]
			row := x[r*ld : (r+1)*ld]
			if line {
				copy(d, row[cols[0]:cols[0]+len(cols)])
			} else {
				for j, at := range cols {
					d[j] = row[at]
				}
			}
			clear(d[len(cols):])
		}
	}
}
