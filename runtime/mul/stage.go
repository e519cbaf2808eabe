package mul

import "github.com/structuredffn/sffn/runtime/kernel"

// Stage is one step over all rows of a call: the products of one factor, or
// an elementwise pass. Row i of its results needs row i of its operands only,
// so that a block of rows may run through all stages before the next block.
type Stage struct {
	Products []*Product
	// The operands of the products; Pre and Residual may be empty.
	Src, Dst, Pre, Residual Matrix
	Share                   Weight
	// Rows, where there are no products, computes rows of Dst and Pre from those of
	// Src; Widths are the entries of their rows. With neither, rows are copied from
	// Src to Dst.
	Rows   func(dst, pre, src []float32)
	Widths Widths
	// units is the number of pairs of panels of all products.
	units int
}

// Widths are the entries of a row of each operand of a pass.
type Widths struct{ Dst, Pre, Src int }

// Matrix is an operand of a stage: rows whose width its products know. A local
// one holds only the rows at work, for each worker its own, so that it stays
// in the cache.
type Matrix struct {
	Data  []float32
	local bool
}

// Whole is a matrix of all rows.
func Whole(x []float32) Matrix { return Matrix{Data: x} }

// Slice is entries [lo, hi) of the data.
func (m Matrix) Slice(lo, hi int) Matrix { return Matrix{m.Data[lo:hi], m.local} }

// Local returns the slot's buffer as a local matrix of the call at work.
func (w *Workspace) Local(s Slot, width int) Matrix {
	return Matrix{w.Floats(s, w.LocalRows()*width), true}
}

// LocalRows is the number of rows that a local matrix holds.
func (w *Workspace) LocalRows() int {
	if w.rowChunk > 0 {
		return w.rowChunk * w.pool.Threads()
	}
	return w.m
}

// from is the part of x that begins at row r0, which the worker has at work.
func (w *Workspace) from(x Matrix, worker, r0, width int) []float32 {
	switch {
	case x.Data == nil:
		return nil
	case x.local && w.rowChunk > 0:
		return x.Data[worker*w.rowChunk*width:]
	}
	return x.Data[r0*width:]
}

// Add adds a stage without products.
func (w *Workspace) Add(st Stage) { w.stages = append(w.stages, st) }

// AddProducts adds the stage of some products.
func (w *Workspace) AddProducts(ps []*Product, st Stage) {
	st.Products = ps
	for _, p := range ps {
		st.units += p.units()
	}
	w.stages = append(w.stages, st)
}

// units counts the product's pairs of panels: the smallest chunk of work when
// there are few rows. Of lanes across blocks the last three groups may be one, because
// the last two have blocks in common.
func (q *Product) units() int {
	if q.across != nil {
		return max(1, q.panels/2)
	}
	return (q.panels + 1) / 2
}

// end is the panel at which unit i ends.
func (q *Product) end(i int) int {
	if i == q.units()-1 {
		return q.panels
	}
	return 2*i + 2
}

// Begin starts the stages of a call over m rows, each of width entries between
// factors. Many rows are handed out in blocks that pass through all stages; few rows in
// column units, stage by stage.
func (w *Workspace) Begin(t *kernel.Target, m, width int) {
	w.target = t
	w.stages = w.stages[:0]
	w.m, w.rowChunk = m, w.target.RowChunk(m, w.pool.Threads(), width)
}

// Exec runs the stages.
func (w *Workspace) Exec() {
	m := w.m
	if w.rowChunk > 0 {
		w.pool.Run((m+w.rowChunk-1)/w.rowChunk, w.runRows)
		return
	}
	for i := range w.stages {
		st := &w.stages[i]
		w.at = st
		for j := range w.workers {
			w.workers[j].leftRows.forget()
		}
		n := w.count(st)
		if st.flops(m) < w.target.InlineFlops {
			w.chunk = n
			w.chunkStep(0, 0)
			continue
		}
		w.chunk = max(1, n/(w.target.UnitsPerThread*w.pool.Threads()))
		w.pool.Run(CeilDiv(n, w.chunk), w.runChunks)
	}
}

// chunkStep runs chunk i of the units of the stage at work: neighbours, because
// their weights lie side by side in memory.
func (w *Workspace) chunkStep(worker, i int) {
	for u := i * w.chunk; u < min(w.count(w.at), (i+1)*w.chunk); u++ {
		w.unitStep(worker, u)
	}
}

// nextUnit is the unit that a worker most likely runs after this one: workers
// take turns at chunks, more or less.
func (w *Workspace) nextUnit(unit int) int {
	unit++
	if unit%w.chunk == 0 {
		unit += (w.pool.Threads() - 1) * w.chunk
	}
	return unit
}

// count is the number of a stage's units.
func (w *Workspace) count(st *Stage) int {
	if st.Products == nil {
		return CeilDiv(w.m, w.target.RowTiles)
	}
	return st.units
}

func (st *Stage) flops(m int) int {
	n := 0
	for _, p := range st.Products {
		n += 2 * m * p.Depth() * p.pack.Layout.Columns
	}
	return n
}

// rowStep runs block i of rows through all stages.
func (w *Workspace) rowStep(worker, i int) {
	r0 := i * w.rowChunk
	r1 := min(w.m, r0+w.rowChunk)
	for k := range w.stages {
		st := &w.stages[k]
		if st.Products == nil {
			w.workers[worker].Elementwise(func() { w.rows(st, worker, r0, r1) })
			continue
		}
		o := w.operands(st, worker, r0)
		w.workers[worker].leftRows.forget()
		if weaves(st.Products) {
			weave(&w.workers[worker], st.Products, o, r1-r0)
			continue
		}
		for j, p := range st.Products {
			p.run(&w.workers[worker], o, r1-r0, 0, p.panels, w.following(k, j, r1-r0))
		}
	}
}

// unitStep runs unit i of the stage at work over all rows.
func (w *Workspace) unitStep(worker, unit int) {
	st := w.at
	if st.Products == nil {
		w.workers[worker].Elementwise(func() { w.rows(st, worker, unit*w.target.RowTiles, min(w.m, (unit+1)*w.target.RowTiles)) })
		return
	}
	p, i := st.unit(unit)
	var after []byte
	if q, j := st.unit(w.nextUnit(unit)); q != nil {
		after = q.first(2*j, w.m)
	}
	p.run(&w.workers[worker], w.operands(st, 0, 0), w.m, 2*i, p.end(i), after)
}

// rows runs an elementwise pass over rows [r0, r1).
func (w *Workspace) rows(st *Stage, worker, r0, r1 int) {
	part := func(x Matrix, width int) []float32 {
		if x.Data == nil {
			return nil
		}
		return w.from(x, worker, r0, width)[:(r1-r0)*width]
	}
	dst, pre, src := part(st.Dst, st.Widths.Dst), part(st.Pre, st.Widths.Pre), part(st.Src, st.Widths.Src)
	if st.Rows != nil {
		st.Rows(dst, pre, src)
		return
	}
	copy(dst, src)
}

// unit finds the product that unit i belongs to, and the unit's number in it.
func (st *Stage) unit(i int) (*Product, int) {
	for _, p := range st.Products {
		if n := p.units(); i >= n {
			i -= n
			continue
		}
		return p, i
	}
	return nil, 0
}

// following is what a block of rows multiplies after product j of stage k; the
// next block begins again.
func (w *Workspace) following(k, j, rows int) []byte {
	if st := &w.stages[k]; j+1 < len(st.Products) {
		return st.Products[j+1].first(0, rows)
	}
	for i := range w.stages {
		if st := &w.stages[(k+1+i)%len(w.stages)]; st.Products != nil {
			return st.Products[0].first(0, rows)
		}
	}
	return nil
}

// operands are the rows from r0 on of a stage of products.
func (w *Workspace) operands(st *Stage, worker, r0 int) operands {
	p := st.Products[0]
	return operands{
		src:      w.from(st.Src, worker, r0, p.SrcWidth),
		dst:      w.from(st.Dst, worker, r0, p.DstWidth),
		pre:      w.from(st.Pre, worker, r0, p.PreWidth),
		residual: w.from(st.Residual, worker, r0, p.DstWidth),
		weight:   st.Share,
	}
}
