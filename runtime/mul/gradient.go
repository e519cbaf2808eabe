package mul

import (
	"slices"
	"unsafe"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/vec"
)

// Gradient computes one factor's weight Gradient. Both operands are packed,
// dY in strips of [row][MR], X in panels of [row][32]; every RowBlock rows are
// one chain of fused multiply-adds. In bfloat16 both are rounded, and rows come in pairs.
type Gradient struct {
	target *kernel.Target
	format kernel.Format
	// widened says that kernels of float32 run, on rounded rows with those of each pair
	// swapped.
	widened bool
	vec     *vec.Table
	blocks  []gradientBlock
	// inWidth and outWidth are the entries of a row of x and of dy, nIn and
	// nOut those of one block.
	inWidth, outWidth int
	nIn, nOut         int
	strips            *tiles
	// across takes the place of blocks and strips where the lanes run across blocks.
	across *acrossGradient
}

type gradientBlock struct {
	plan.Gradient
	direct bool
	// steps is the distance of a strip's columns of dy, 0 where they have no
	// single one.
	steps []int
	// runs are where the panels' columns go that are not direct.
	runs []columnRun
	// gathers pack the panels whose columns do not lie side by side, but in runs; nil
	// where they do neither.
	gathers []*vec.Runs
}

// columnRun says that the panels' columns from from to to are columns first,
// first+step, ... of dW.
type columnRun struct {
	from, to, first, step int
	spread                *vec.Spread
}

// columnRuns cuts places into runs of equal steps.
func columnRuns(canon []int, t *vec.Table) []columnRun {
	var runs []columnRun
	for i := 0; i < len(canon); {
		r := columnRun{from: i, to: i + 1, first: canon[i], step: 1}
		if i+1 < len(canon) && canon[i+1] > canon[i] {
			r.step = canon[i+1] - canon[i]
		}
		for r.to < len(canon) && canon[r.to] == canon[r.to-1]+r.step {
			r.to++
		}
		r.spread = t.NewSpread(r.step)
		runs = append(runs, r)
		i = r.to
	}
	return runs
}

// NewGradient plans the gradient of a factor's weights and binds its kernels.
func NewGradient(f plan.Factor, t *kernel.Target) (*Gradient, error) {
	format := kernel.F32
	if f.Format == kernel.BF16 { // of others, weights alone are rounded
		format = kernel.BF16
	}
	t = t.For(format)
	g := &Gradient{target: t, vec: vec.On(t), inWidth: f.InWidth, outWidth: f.PreWidth, nIn: f.In, nOut: f.Out}
	g.format, _ = format.Format()
	if g.widened = g.format.Kernels(t) != format; g.widened {
		format = kernel.F32
	}
	var err error
	if f.Across {
		g.across, err = newAcrossGradient(f, t)
		return g, err
	}
	for _, p := range plan.Gradients(f, &t.Schedule) {
		b := gradientBlock{Gradient: p, direct: p.Direct()}
		for _, s := range p.Strips {
			b.steps = append(b.steps, plan.Step(s.Store))
		}
		if !b.direct {
			b.runs = columnRuns(b.Canon, g.vec)
		}
		b.listGathers(g.vec)
		g.blocks = append(g.blocks, b)
	}
	g.strips, err = anyShape(t, family{format: format, strip: true})
	return g, err
}

// listGathers cuts the columns of each panel into runs.
func (b *gradientBlock) listGathers(t *vec.Table) {
	n := 0
	for p := 0; p < len(b.In); p += kernel.Panel {
		cols := b.In[p:min(len(b.In), p+kernel.Panel)]
		b.gathers = append(b.gathers, t.NewRuns(plan.Identity(len(cols)), cols))
		n += b.gathers[len(b.gathers)-1].Len()
	}
	if plan.ShortRun*n > len(b.In) {
		b.gathers = nil
	}
}

// Unit is a chunk of gradient work: strips [s0, s1) of dW and panels
// [p0, p1) of its columns, or, where gradient is nil, columns [s0, s1) of the
// bias.
type Unit struct {
	*Gradient
	block          *gradientBlock
	s0, s1, p0, p1 int
	dw, dy, x      []float32
	weight         Weight
	// bias, where not nil, has the sums of the strips' columns added up while they are
	// packed, for db; where gradient is nil x is room for the sums, and dw is db.
	bias *BiasGradient
	db   []float32
}

// Blocks is the number of the factor's blocks.
func (g *Gradient) Blocks() int { return len(g.blocks) }

// Direct reports whether a block's gradient is summed where it belongs, and not put
// in order after it.
func (g *Gradient) Direct(block int) bool { return g.blocks[block].direct }

// Wrap puts what wrap makes of each kernel in its place: for tests that look at the
// calls.
func (g *Gradient) Wrap(wrap func(kernel.Func) kernel.Func) {
	if g.across != nil {
		g.across.tiles = g.across.tiles.wrapped(wrap)
		return
	}
	g.strips = g.strips.wrapped(wrap)
}

// AddUnits splits the gradient into units of about the given number of
// weights. Each packs its part of x again: units are tall rather than many.
func (g *Gradient) AddUnits(units []Unit, dw, dy, x []float32, weights int, share Weight) []Unit {
	if g.across != nil {
		return g.addAcrossUnits(units, Unit{Gradient: g, dw: dw, dy: dy, x: x, weight: share}, weights)
	}
	panels := CeilDiv(g.nIn, kernel.Panel)
	groups := CeilDiv(panels, g.target.GradientPanels())
	group := CeilDiv(panels, groups)
	ranges := max(1, g.nIn*g.nOut/groups/weights)
	for i := range g.blocks {
		b := &g.blocks[i]
		strips := CeilDiv(len(b.Strips), ranges)
		for p := 0; p < panels; p += group {
			for s := 0; s < len(b.Strips); s += strips {
				units = append(units, Unit{Gradient: g, block: b, s0: s, s1: min(len(b.Strips), s+strips),
					p0: p, p1: min(panels, p+group), dw: dw[i*g.nIn*g.nOut:][:g.nIn*g.nOut], dy: dy, x: x, weight: share})
			}
		}
	}
	return units
}

// CeilDiv is a / b, rounded up.
func CeilDiv(a, b int) int { return (a + b - 1) / b }

// UnitWeights is the number of weights of one unit where all are shared out:
// several units a thread keep the last ones short. One thread has nobody to
// share with, and packs least in large units.
func UnitWeights(t *kernel.Target, all, threads int) int {
	n := max(1, CeilDiv(all, t.WeightUnitsPerThread*threads))
	if threads == 1 {
		n = max(n, t.SmallUnit)
	}
	return n
}

// work is about how much a unit computes; a bias's columns are little.
func (u *Unit) work() int {
	if u.Gradient == nil {
		return u.s1 - u.s0
	}
	if u.across != nil {
		return (u.p1 - u.p0) * kernel.LaneGroup * u.nIn * u.nOut
	}
	return (u.s1 - u.s0) * u.target.StripRows * (u.p1 - u.p0) * kernel.Panel
}

// ExecWeights runs the units of gradient work over m rows, the largest first.
func (w *Workspace) ExecWeights(m int, accumulate bool) {
	w.m, w.accumulate = m, accumulate
	slices.SortStableFunc(w.Units, func(a, b Unit) int { return b.work() - a.work() })
	w.pool.Run(len(w.Units), w.runWeights)
}

// weightStep runs unit i.
func (w *Workspace) weightStep(worker, i int) {
	u := &w.Units[i]
	if u.Gradient == nil {
		u.bias.run(u, w.m, w.accumulate)
		return
	}
	u.run(&w.workers[worker], w.m, w.accumulate)
}

func (u *Unit) run(s *Scratch, m int, accumulate bool) {
	if u.across != nil {
		u.runAcross(s, m, accumulate)
		return
	}
	var sums, columns []float32
	width := (u.p1 - u.p0) * kernel.Panel
	if u.bias != nil {
		columns = s.floats(&s.columns, (u.s1-u.s0)*u.target.StripRows)
		clear(columns)
	}
	if !u.block.direct {
		sums = s.floats(&s.sums, (u.s1-u.s0)*u.target.StripRows*width)
	}
	for m0 := 0; m0 < m || m0 == 0; m0 += kernel.RowBlock {
		rows := min(kernel.RowBlock, m-m0)
		u.packRight(s, u.x[m0*u.inWidth:], rows)
		right := u.roundRight(s, rows)
		for i := u.s0; i < u.s1; {
			n := u.packLeft(s, u.dy[m0*u.outWidth:], rows, i, columns)
			left := u.roundLeft(s, rows, i, n)
			for ; n > 0; n-- {
				st := &u.block.Strips[i]
				if u.block.direct {
					u.direct(s, st, left, right, rows, accumulate || m0 > 0)
				} else {
					at := (i - u.s0) * u.target.StripRows * width
					u.strip(s, kernel.Full, st, left, right, sums[at:], kernel.EntryBytes*width, u.p1-u.p0, rows, m0 > 0)
				}
				left = left[u.leftStep(rows, len(st.Store)):]
				i++
			}
		}
	}
	if !u.block.direct {
		u.order(sums, width, accumulate)
	}
	if u.bias != nil {
		for i := u.s0; i < u.s1; i++ {
			u.bias.put(u.db, u.block.Strips[i].Store, columns[(i-u.s0)*u.target.StripRows:], accumulate)
		}
	}
}

// direct sums a strip into dW itself; a last, narrower panel goes through the
// scratch tile. The strip's rows may follow each other upwards: RowStep is
// negative where a block's outputs are stored last row first.
func (u *Unit) direct(s *Scratch, st *plan.Strip, left, right []float32, rows int, add bool) {
	row, ld := st.Row*u.nIn, st.RowStep*u.nIn
	full := u.nIn / kernel.Panel
	if n := min(full, u.p1) - u.p0; n > 0 {
		u.strip(s, kernel.Full, st, left, right, u.dw[row+u.p0*kernel.Panel:], kernel.EntryBytes*ld, n, rows, add)
	}
	if u.p1 <= full {
		return
	}
	w := kernel.WidthOf(u.panelWidth(full))
	u.strip(s, w, st, left, right[(full-u.p0)*u.rightEntries(rows):], s.tile, kernel.EntryBytes*kernel.Widths[w], 1, rows, false)
	n := u.nIn - full*kernel.Panel
	for i := range st.Store {
		dst := u.dw[row+i*ld+full*kernel.Panel:][:n]
		src := s.tile[i*kernel.Widths[w]:][:n]
		if !add {
			copy(dst, src)
			continue
		}
		for j, v := range src {
			dst[j] += v
		}
	}
}

// order moves the unit's sums to their places in dW.
func (u *Unit) order(sums []float32, width int, add bool) {
	for k := u.s0; k < u.s1; k++ {
		st := &u.block.Strips[k]
		for i := range st.Store {
			dst := u.dw[(st.Row+i*st.RowStep)*u.nIn:][:u.nIn]
			src := sums[((k-u.s0)*u.target.StripRows+i)*width:]
			for _, r := range u.block.runs {
				from, to := max(r.from, u.p0*kernel.Panel), min(r.to, u.p1*kernel.Panel)
				if from < to {
					r.put(dst[r.first+(from-r.from)*r.step:], src[from-u.p0*kernel.Panel:to-u.p0*kernel.Panel], add)
				}
			}
		}
	}
}

// put stores src step entries apart, or adds it.
func (r *columnRun) put(dst, src []float32, add bool) {
	if whole := len(src) &^ 15; whole > 0 {
		var to []float32
		if add {
			to = dst
		}
		r.spread.Run(dst, src, to, 1, whole, 0)
		if whole == len(src) {
			return
		}
		dst, src = dst[whole*r.step:], src[whole:]
	}
	for i, v := range src {
		if add {
			v += dst[i*r.step]
		}
		dst[i*r.step] = v
	}
}

// strip multiplies a packed strip with n packed panels of width class w.
func (u *Unit) strip(s *Scratch, w kernel.Width, st *plan.Strip, left, right, dst []float32, ld, n, rows int, add bool) {
	mr := len(st.Store)
	s.seg = kernel.Segment{Len: u.format.Groups(rows) * u.format.KGroup}
	a := &s.args
	a.A, a.LDA, a.KStep = unsafe.Pointer(&left[0]), kernel.EntryBytes, kernel.EntryBytes*mr
	a.Segs, a.NSegs = unsafe.Pointer(&s.seg), 1
	a.B, a.PanelStep = unsafe.Pointer(&right[0]), kernel.EntryBytes*u.rightEntries(rows)
	a.C, a.LDC = unsafe.Pointer(&dst[0]), ld
	a.NTiles, a.MR, a.NR, a.Epilogue = n, mr, kernel.Widths[w], kernel.Linear
	a.Bias, a.Residual, a.Aux, a.Ahead = nil, nil, nil, 0
	a.Alpha, a.Flags = u.weight.Alpha, u.weight.Flags
	if add {
		a.Flags |= kernel.Accumulate
	}
	s.Call(u.strips[w][mr].run)
}

// packLeft packs strips i, i+1, ... of dY, one after the other as [row][MR],
// and returns how many: neighbours as far as one pass takes them. sums, where not nil, are
// those of the unit's columns.
func (u *Unit) packLeft(s *Scratch, y []float32, rows, i int, sums []float32) int {
	if sums != nil {
		sums = sums[(i-u.s0)*u.target.StripRows:]
	}
	b, mr := u.block, u.target.StripRows
	n, step := 0, b.steps[i]
	for i+n < u.s1 && n < u.target.LeftStrips && step > 0 && b.steps[i+n] == step && len(b.Strips[i+n].Store) == mr &&
		b.Strips[i+n].Store[0] == b.Strips[i].Store[0]+n*mr*step {
		n++
	}
	left := s.floats(&s.left, u.target.LeftStrips*stripStep(kernel.RowBlock, mr))
	if n > 0 {
		u.vec.PackStrips(left, y[b.Strips[i].Store[0]:], sums, rows, n, mr, step, stripStep(rows, mr), u.outWidth)
		return n
	}
	idx := b.Strips[i].Store
	for r := range rows {
		row, dst := y[r*u.outWidth:(r+1)*u.outWidth], left[r*len(idx):(r+1)*len(idx)]
		for j, at := range idx {
			dst[j] = row[at]
		}
		if sums != nil {
			for j, v := range dst {
				sums[j] += v
			}
		}
	}
	return 1
}

// stripGap is the distance of packed strips beyond their entries: strips of whole blocks of
// rows would share the sets of the L1 cache.
const stripGap = 16

// stripStep leads from one packed strip of rows to the next.
func stripStep(rows, mr int) int { return rows*mr + stripGap }

// leftStep leads from one strip that kernels read to the next.
func (u *Unit) leftStep(rows, mr int) int {
	if !u.format.Packs() {
		return stripStep(rows, mr)
	}
	return u.leftEntries(rows, mr)
}

// leftEntries is the size of a strip of rows, in entries of float32, and rightEntries that of
// a panel.
func (u *Unit) leftEntries(rows, mr int) int {
	if u.widened {
		return u.format.Groups(rows) * u.format.KGroup * mr
	}
	return u.format.Groups(rows) * mr
}

func (u *Unit) rightEntries(rows int) int { return u.leftEntries(rows, kernel.Panel) }

// noRow stands for the row that is missing of a last pair.
var noRow [kernel.Panel]float32

// roundLeft is what kernels read of n strips from number i on that packLeft has packed:
// pairs of rows of bfloat16, or rows of float32 that bfloat16 can hold, or those strips.
func (u *Unit) roundLeft(s *Scratch, rows, i, n int) []float32 {
	if !u.format.Packs() {
		return s.left
	}
	most := u.leftEntries(kernel.RowBlock, u.target.LeftStrips*u.target.StripRows)
	all, src := s.floats(&s.leftRounded, most), s.left
	dst := all
	for ; n > 0; n-- {
		mr := len(u.block.Strips[i].Store)
		u.pair(dst, src, rows, mr)
		src, dst = src[stripStep(rows, mr):], dst[u.leftEntries(rows, mr):]
		i++
	}
	return all
}

// roundRight is what kernels read of the panels that packRight has packed: pairs of rows
// of bfloat16, or those panels.
func (u *Unit) roundRight(s *Scratch, rows int) []float32 {
	if !u.format.Packs() {
		return s.right
	}
	size := u.rightEntries(rows)
	right := s.floats(&s.rightRounded, max(1, (u.p1-u.p0)*size))
	for p := range u.p1 - u.p0 {
		u.pair(right[p*size:], s.right[p*kernel.Panel*rows:], rows, kernel.Panel)
	}
	return right
}

// pair rounds rows of n entries to bfloat16, in pairs of rows.
func (u *Unit) pair(dst, src []float32, rows, n int) {
	if u.widened {
		u.swap(dst, src, rows, n)
		return
	}
	pairs := unsafe.Slice((*uint32)(unsafe.Pointer(&dst[0])), len(dst))
	if rows > 1 {
		u.vec.PairBF16(pairs, src, src[n:], rows/2, n, 2*n)
	}
	if rows%2 > 0 {
		u.vec.PairBF16(pairs[rows/2*n:], src[(rows-1)*n:], noRow[:], 1, n, n)
	}
}

// swap rounds rows of n entries to what bfloat16 can hold, and swaps those of each pair.
func (u *Unit) swap(dst, src []float32, rows, n int) {
	even := (rows + 1) / 2
	if rows > 1 {
		u.vec.RoundBF16(dst, src[n:], rows/2, n, 2*n, 2*n)
	}
	u.vec.RoundBF16(dst[n:], src, even, n, 2*n, 2*n)
	if rows%2 > 0 {
		clear(dst[(rows-1)*n : rows*n]) // the row that is missing of the last pair
	}
}

// packRight packs the unit's panels of X, each [row][32], a last one of 16
// columns or fewer [row][16]; columns beyond the true ones are 0.
func (u *Unit) packRight(s *Scratch, x []float32, rows int) {
	right := s.floats(&s.right, max(1, (u.p1-u.p0)*kernel.Panel*rows))
	for p := u.p0; p < u.p1; {
		n := 0
		for p+n < u.p1 && u.line(p+n) && u.block.In[(p+n)*kernel.Panel] == u.block.In[p*kernel.Panel]+n*kernel.Panel {
			n++
		}
		dst := right[(p-u.p0)*kernel.Panel*rows:]
		if n > 0 {
			u.vec.PackPanels(dst, x[u.block.In[p*kernel.Panel]:], rows, n, rows*kernel.Panel, u.inWidth)
			p += n
			continue
		}
		cols, width := u.columns(p), u.panelWidth(p)
		if u.block.gathers != nil {
			if len(cols) < width {
				clear(dst[:rows*width])
			}
			u.block.gathers[p].Run(dst, x, rows, width, u.inWidth)
			p++
			continue
		}
		for r := range rows {
			d, row := dst[r*width:(r+1)*width], x[r*u.inWidth:(r+1)*u.inWidth]
			for j, at := range cols {
				d[j] = row[at]
			}
			clear(d[len(cols):])
		}
		p++
	}
}

// columns lists the stored places of a panel's columns.
func (u *Unit) columns(panel int) []int {
	return u.block.In[panel*kernel.Panel : min(u.nIn, (panel+1)*kernel.Panel)]
}

// line reports whether a panel is full and its columns lie side by side.
func (u *Unit) line(panel int) bool {
	cols := u.columns(panel)
	return len(cols) == kernel.Panel && plan.Step(cols) == 1
}

// panelWidth is the width of a packed panel: 16 where no more is needed and
// its results go through the scratch tile.
func (u *Unit) panelWidth(panel int) int {
	if u.format.Name.ColumnUnit() == kernel.HalfPanel && u.block.direct && len(u.columns(panel)) <= kernel.HalfPanel {
		return kernel.HalfPanel
	}
	return kernel.Panel
}
