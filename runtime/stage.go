package runtime

import "github.com/structuredffn/sffn/runtime/kernel"

// stage is one step over all rows of a call: the products of one factor, or
// an elementwise pass. Row i of its results needs row i of its operands only,
// so that a block of rows may run through all stages before the next block.
type stage struct {
	products []*product
	// The operands of the products; pre and residual may be empty.
	src, dst, pre, residual matrix
	weight                  weight
	// activation, where products is nil, is the network whose activation is
	// computed backward: src is what it saved before the activation, dst and
	// pre are act and dpre of activationBackward. Without products and
	// activation, rows of so many entries are copied from src to dst.
	activation *FFN
	copied     int
	// units is the number of pairs of panels of all products.
	units int
}

// matrix is an operand of a stage: rows whose width its products know. A local
// one holds only the rows at work, for each worker its own, so that it stays
// in the cache.
type matrix struct {
	data  []float32
	local bool
}

// whole is a matrix of all rows.
func whole(x []float32) matrix { return matrix{data: x} }

// local returns the slot's buffer as a local matrix of the call at work.
func (w *Workspace) local(s slot, width int) matrix {
	return matrix{w.floats(s, w.localRows()*width), true}
}

// localRows is the number of rows that a local matrix holds.
func (w *Workspace) localRows() int {
	if w.rowChunk > 0 {
		return w.rowChunk * w.pool.Threads()
	}
	return w.m
}

// from is the part of x that begins at row r0, which the worker has at work.
func (w *Workspace) from(x matrix, worker, r0, width int) []float32 {
	switch {
	case x.data == nil:
		return nil
	case x.local && w.rowChunk > 0:
		return x.data[worker*w.rowChunk*width:]
	}
	return x.data[r0*width:]
}

func (w *Workspace) addProducts(ps []*product, st stage) {
	st.products = ps
	for _, p := range ps {
		st.units += p.units()
	}
	w.stages = append(w.stages, st)
}

// units counts the product's pairs of panels: the smallest chunk of work when
// there are few rows.
func (q *product) units() int { return (q.panels + 1) / 2 }

// begin starts the stages of a call over m rows. Many rows are handed out in
// blocks that pass through all stages; few rows in column units, stage by
// stage.
func (w *Workspace) begin(t *kernel.Target, m int) {
	w.target = t
	w.half = half{}
	w.stages = w.stages[:0]
	w.m, w.rowChunk = m, w.target.RowChunk(m, w.pool.Threads())
}

// exec runs the stages.
func (w *Workspace) exec() {
	m := w.m
	if w.rowChunk > 0 {
		w.pool.Run((m+w.rowChunk-1)/w.rowChunk, w.runRows)
		return
	}
	for i := range w.stages {
		st := &w.stages[i]
		w.at = st
		n := w.count(st)
		if st.flops(m) < w.target.InlineFlops {
			w.chunk = n
			w.chunkStep(0, 0)
			continue
		}
		w.chunk = max(1, n/(w.target.UnitsPerThread*w.pool.Threads()))
		w.pool.Run(ceilDiv(n, w.chunk), w.runChunks)
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
func (w *Workspace) count(st *stage) int {
	if st.products == nil {
		return ceilDiv(w.m, w.target.RowTiles)
	}
	return st.units
}

func (st *stage) flops(m int) int {
	n := 0
	for _, p := range st.products {
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
		if st.products == nil {
			w.scratch[worker].elementwise(func() { w.rows(st, worker, r0, r1) })
			continue
		}
		o := w.operands(st, worker, r0)
		for j, p := range st.products {
			p.run(&w.scratch[worker], o, r1-r0, 0, p.panels, w.following(k, j, r1-r0))
		}
	}
}

// unitStep runs unit i of the stage at work over all rows.
func (w *Workspace) unitStep(worker, unit int) {
	st := w.at
	if st.products == nil {
		w.scratch[worker].elementwise(func() { w.rows(st, worker, unit*w.target.RowTiles, min(w.m, (unit+1)*w.target.RowTiles)) })
		return
	}
	p, i := st.unit(unit)
	var after []byte
	if q, j := st.unit(w.nextUnit(unit)); q != nil {
		after = q.first(2*j, w.m)
	}
	p.run(&w.scratch[worker], w.operands(st, 0, 0), w.m, 2*i, min(2*i+2, p.panels), after)
}

// rows runs an elementwise pass over rows [r0, r1).
func (w *Workspace) rows(st *stage, worker, r0, r1 int) {
	if st.activation != nil {
		st.activation.activationBackward(st.dst.data, st.pre.data, st.src.data, r0, r1)
		return
	}
	n := st.copied
	copy(w.from(st.dst, worker, r0, n)[:(r1-r0)*n], w.from(st.src, worker, r0, n))
}

// unit finds the product that unit i belongs to, and the unit's number in it.
func (st *stage) unit(i int) (*product, int) {
	for _, p := range st.products {
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
	if st := &w.stages[k]; j+1 < len(st.products) {
		return st.products[j+1].first(0, rows)
	}
	for i := range w.stages {
		if st := &w.stages[(k+1+i)%len(w.stages)]; st.products != nil {
			return st.products[0].first(0, rows)
		}
	}
	return nil
}

// operands are the rows from r0 on of a stage of products.
func (w *Workspace) operands(st *stage, worker, r0 int) operands {
	p := st.products[0]
	return operands{
		src:      w.from(st.src, worker, r0, p.SrcWidth),
		dst:      w.from(st.dst, worker, r0, p.DstWidth),
		pre:      w.from(st.pre, worker, r0, p.PreWidth),
		residual: w.from(st.residual, worker, r0, p.DstWidth),
		weight:   st.weight,
	}
}
