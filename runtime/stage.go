package runtime

import "github.com/structuredffn/sffn/gen/plan"

// stage is one step over all rows of a call: the products of one factor, or
// an elementwise pass. Row i of its results needs row i of its operands only,
// so that a block of rows may run through all stages before the next block.
type stage struct {
	products []*product
	operands
	// rows, where products is nil, is the elementwise pass over rows [r0, r1).
	rows func(r0, r1 int)
	// units is the number of pairs of panels of all products.
	units int
}

func (w *Workspace) reset() { w.stages = w.stages[:0] }

func (w *Workspace) addProducts(ps []*product, o operands) {
	n := 0
	for _, p := range ps {
		n += p.units()
	}
	w.stages = append(w.stages, stage{products: ps, operands: o, units: n})
}

func (w *Workspace) addRows(f func(r0, r1 int)) {
	w.stages = append(w.stages, stage{rows: f})
}

// units counts the product's pairs of panels: the smallest chunk of work when
// there are few rows.
func (q *product) units() int { return (q.panels + 1) / 2 }

const (
	// rowTiles is a common multiple of the tiles' heights: chunks of rows cut
	// no tile.
	rowTiles = 12
	// maxRowChunk rows of activations and one group of panels share the L2
	// cache.
	maxRowChunk = 11 * rowTiles
	// inlineFlops is the work below which a dispatch costs more than it saves.
	inlineFlops = 100_000
)

// exec runs the stages over m rows. Many rows are handed out in blocks that
// pass through all stages; few rows in column units, stage by stage. How the
// work is split never changes a sum.
func (w *Workspace) exec(m int) {
	w.m = m
	threads := w.pool.Threads()
	if chunk := m / (4 * threads) / rowTiles * rowTiles; chunk >= 2*rowTiles || threads == 1 {
		w.rowChunk = min(max(chunk, rowTiles), maxRowChunk)
		w.pool.Run((m+w.rowChunk-1)/w.rowChunk, w.runRows)
		return
	}
	for i := range w.stages {
		st := &w.stages[i]
		w.at = st
		n := (m + rowTiles - 1) / rowTiles
		if st.products != nil {
			n = st.units
		}
		if st.flops(m) < inlineFlops {
			for j := range n {
				w.unitStep(0, j)
			}
			continue
		}
		w.pool.Run(n, w.runUnits)
	}
}

func (st *stage) flops(m int) int {
	n := 0
	for _, p := range st.products {
		n += 2 * m * p.Depth() * p.columns
	}
	return n
}

// rowStep runs block i of rows through all stages.
func (w *Workspace) rowStep(worker, i int) {
	r0 := i * w.rowChunk
	r1 := min(w.m, r0+w.rowChunk)
	for k := range w.stages {
		st := &w.stages[k]
		if st.rows != nil {
			w.scratch[worker].elementwise(func() { st.rows(r0, r1) })
			continue
		}
		for _, p := range st.products {
			p.run(&w.scratch[worker], st.operands, r0, r1, 0, p.panels)
		}
	}
}

// unitStep runs unit i of the stage at work over all rows.
func (w *Workspace) unitStep(worker, i int) {
	st := w.at
	if st.rows != nil {
		w.scratch[worker].elementwise(func() { st.rows(i*rowTiles, min(w.m, (i+1)*rowTiles)) })
		return
	}
	for _, p := range st.products {
		if n := p.units(); i >= n {
			i -= n
			continue
		}
		p.run(&w.scratch[worker], st.operands, 0, w.m, 2*i, min(2*i+2, p.panels))
		return
	}
}

// groupPanels is the number of panels of packed right operand that
// backward-weight keeps in L2.
func groupPanels(t plan.Target) int { return max(2, t.PanelGroup(plan.RowBlock)/2) }
