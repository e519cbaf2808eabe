// Package mul runs matrix products: packs of weights, the kernels that multiply them,
// the stages of a call with the chunks that workers take, and weight gradients.
package mul

import (
	"fmt"
	"runtime"
	"slices"
	"time"
	"unsafe"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/plan/cpu"
	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/memory"
	"github.com/structuredffn/sffn/runtime/vec"
)

// Product is a planned Product bound to its kernels and packed weights.
type Product struct {
	plan.Product
	target *kernel.Target
	// kernels is the format whose kernels run.
	kernels kernel.FormatName
	blocks  []kblock
	// pack holds the weights, bias one entry a packed column.
	pack   *kernel.Packed
	bias   []float32
	panels int
	// store lists where each result goes in a destination row; cols and ks
	// which entries of the canonical block the pack's columns and depths hold.
	store, cols, ks []int
	// pairs says that panels may run in pairs; pass is the size of a panel that every
	// tile passes over, which groups of panels are cut by.
	pairs bool
	pass  int
	// results counts the results of one full panel: 16 of gated activations, else 32.
	results int
	// spread stores the scratch tile's rows, where all results lie in one
	// stretch with a fixed distance; nil where they do not.
	spread *vec.Spread
	// runs store those of one panel, where they lie in stretches; nil where they do
	// not.
	runs []*vec.Runs
	// woven is the number of neighbouring products, this one and others like it, whose
	// results lie in turn; 0 where they do not.
	woven int
	// left packs the left operand, nil where kernels read it where it lies.
	left *leftPack
	// across holds the kernels of a product whose lanes run across blocks, which needs
	// nothing else of the above but its pack.
	across *acrossTiles
}

// kblock is one block of k: where its inputs lie in a source row and the
// kernels of each tile.
type kblock struct {
	k0, kc int
	base   int // bytes
	segs   []kernel.Segment
	// tiles[w][mr] runs mr rows of width class w. scratch holds the kernels
	// whose C is the scratch tile.
	tiles   tiles
	scratch *tiles
}

// NewProduct binds a product to the kernels of a target: those made for its shape,
// where they are linked and onlyAny is false.
func NewProduct(p plan.Product, t *kernel.Target, bias, onlyAny bool, arena *memory.Arena) (*Product, error) {
	if p.Lanes > 0 {
		return newAcross(p, t, bias, arena)
	}
	t = t.For(p.Format)
	if p.Format.Quantized() && len(p.KBlocks) > 1 {
		return nil, fmt.Errorf("mul: a sum of %d products of integers, want at most %d", p.Depth(), kernel.MaxKCIntegers)
	}
	f, _ := p.Format.Format()
	q := &Product{Product: p, target: t, kernels: f.Kernels(t), panels: p.Panels(), store: p.StoreIndex(), cols: p.ColumnIndex(), ks: p.KIndex(), results: p.PanelResults(), left: newLeftPack(p, t)}
	k0 := 0
	for i, kc := range p.KBlocks {
		b := kblock{k0: k0, kc: kc}
		b.base, b.segs = q.segments(k0, kc)
		var err error
		if b.scratch, err = anyShape(t, family{format: q.kernels, epilogue: p.BlockEpilogue(i)}); err != nil {
			return nil, err
		}
		b.tiles = *b.scratch
		for w := range kernel.NumWidths {
			if onlyAny || q.left != nil && !q.format().Packs() {
				break
			}
			for _, k := range cpu.Shaped(t, p, i, b.segs, w) {
				if info, ok := kernel.Lookup(k.Name()); ok && k.Format == q.kernels {
					b.tiles.put(info)
				}
			}
		}
		q.blocks = append(q.blocks, b)
		k0 += kc
	}
	q.allocate(bias, arena)
	q.pairs = cpu.Pairs(t, p)
	q.pass = q.pack.PanelStep(0)
	if !q.Direct {
		q.pass = q.pack.Format.PanelBytes(kernel.Panel, len(q.ks)) // all blocks of k
	}
	if !q.Direct && p.Epilogue == kernel.Linear {
		if len(p.N) == 1 && p.N[0].Store.Step > 1 {
			step := p.N[0].Store.Step
			q.spread = vec.On(t).NewSpread(step)
			if (step == 2 || step == vec.WeaveBlocks) && len(q.store)%kernel.HalfPanel == 0 && q.left == nil {
				q.woven = step
			}
		} else {
			q.listRuns(vec.On(t))
		}
	}
	return q, nil
}

// format is the row of the product's format.
func (q *Product) format() *kernel.Format {
	f, _ := q.Format.Format()
	return &f
}

// segments are the places of a block of k in the rows that its kernels read.
func (q *Product) segments(k0, kc int) (base int, segs []kernel.Segment) {
	if q.left != nil && !q.format().Packs() {
		return kernel.EntryBytes * k0, []kernel.Segment{{Len: kc}}
	}
	return cpu.Segments(q.kernels, q.Product, k0, kc)
}

// rowTile is the height of the next tile of a width when m rows are left.
func (q *Product) rowTile(m int, w kernel.Width) int {
	return q.target.FormatTile(&q.pack.Format, m, w)
}

// kStep is the distance of neighbouring k there.
func (q *Product) kStep() int {
	if q.left != nil {
		return kernel.EntryBytes
	}
	return q.KStep()
}

// listRuns cuts the results of each panel into runs.
func (q *Product) listRuns(t *vec.Table) {
	n := 0
	for p := range q.panels {
		store := q.store[min(len(q.store), p*kernel.Panel):]
		if p < q.panels-1 {
			store = store[:kernel.Panel]
		}
		q.runs = append(q.runs, t.NewRuns(store, plan.Identity(len(store))))
		n += q.runs[p].Len()
	}
	if plan.ShortRun*n > len(q.store) {
		q.runs = nil
	}
}

// allocate makes room for the packed weights.
func (q *Product) allocate(bias bool, arena *memory.Arena) {
	q.pack = kernel.NewPacked(*q.format(), kernel.Layout{Columns: q.Columns(), KBlocks: q.KBlocks, Panel: q.PanelColumns()}, arena.Bytes)
	if bias {
		q.bias = arena.Floats(q.Columns())
	}
}

// Rebind is the product with packs of its own in the arena, and nothing in them.
func (q *Product) Rebind(arena *memory.Arena) *Product {
	c := *q
	if q.left != nil {
		left := *q.left
		left.inputs = slices.Clone(left.inputs)
		c.left = &left
	}
	c.allocate(q.bias != nil, arena)
	return &c
}

// Copy is the product with a copy of its packed weights in the arena.
func (q *Product) Copy(arena *memory.Arena) *Product {
	c := *q
	c.pack = kernel.NewPacked(q.pack.Format, q.pack.Layout, arena.Bytes)
	copy(c.pack.Data, q.pack.Data)
	return &c
}

// PackedBytes is the size of the packed weights.
func (q *Product) PackedBytes() int { return len(q.pack.Data) }

// StoresParts reports whether the product stores the sums of one block of k for the
// next block to find.
func (q *Product) StoresParts() bool { return q.Direct && len(q.blocks) > 1 }

// Specialised counts the kernels of the product that are made for its shape.
func (q *Product) Specialised() (n int) {
	for i := range q.blocks {
		b := &q.blocks[i]
		for w := range b.tiles {
			for mr := range b.tiles[w] {
				if b.tiles[w][mr].shaped {
					n++
				}
			}
		}
	}
	return n
}

// Wrap puts what wrap makes of each kernel in its place: for tests that look at the
// calls.
func (q *Product) Wrap(wrap func(kernel.Func) kernel.Func) {
	for i := range q.blocks {
		b := &q.blocks[i]
		b.tiles, b.scratch = *b.tiles.wrapped(wrap), b.scratch.wrapped(wrap)
	}
	if q.across != nil {
		q.across = q.across.wrapped(wrap)
	}
}

// PackWeights fills panel number panel from the factor's weights; each entry
// of the canonical block is w[out*ldOut + in*ldIn].
func (q *Product) PackWeights(panel int, w []float32, f *plan.Factor) {
	if q.across != nil {
		q.packGroup(panel, w, f)
		return
	}
	w = w[q.Block*f.In*f.Out:][:f.In*f.Out]
	ldCol, ldK := f.In, 1
	if q.Transposed {
		ldCol, ldK = 1, f.In
	}
	cols := q.cols[panel*kernel.Panel:]
	cols = cols[:q.pack.Layout.Width(panel)]
	for i, b := range q.blocks {
		dst, ks := q.pack.Panel(i, panel), q.ks[b.k0:b.k0+b.kc]
		if q.pack.Format.Weights == kernel.BFloat16 {
			packPairs(vec.On(q.target), dst, w, cols, ks, ldCol, ldK, q.kernels != q.pack.Format.Name)
			continue
		}
		packPanel(vec.On(q.target), kernel.Floats(dst), w, cols, ks, ldCol, ldK)
	}
}

// packPairs packs a panel of bfloat16: pairs of k, the last of which may be half zeros,
// with the odd k first where they are swapped.
func packPairs(t *vec.Table, dst []byte, w []float32, cols, ks []int, ldCol, ldK int, swapped bool) {
	var rows [2 * pairsAtOnce * kernel.Panel]float32
	width := len(cols)
	out := unsafe.Slice((*uint32)(unsafe.Pointer(&dst[0])), len(dst)/4)
	for len(ks) > 0 {
		n := min(len(ks), 2*pairsAtOnce)
		packPanel(t, rows[:n*width], w, cols, ks[:n], ldCol, ldK)
		pairs := (n + 1) / 2
		clear(rows[n*width : 2*pairs*width])
		first, second := rows[:], rows[width:]
		if swapped {
			first, second = second, first
		}
		t.PairBF16(out, first, second, pairs, width, 2*width)
		out, ks = out[pairs*width:], ks[n:]
	}
}

// pairsAtOnce is the number of pairs of k that are gathered before they are rounded.
const pairsAtOnce = 32

// PackBias puts the bias beside the packed columns. canon maps a stored place
// before the activation to its entry of the bias.
func (q *Product) PackBias(bias []float32, canon []int) {
	for i, at := range q.store {
		if !q.Epilogue.Gated() {
			q.bias[i] = bias[canon[at]]
			continue
		}
		j := i/kernel.HalfPanel*kernel.Panel + i%kernel.HalfPanel
		q.bias[j] = bias[canon[at]]
		q.bias[j+kernel.HalfPanel] = bias[canon[q.DstWidth+at]]
	}
}

// packPanel writes dst[k][j] = w[cols[j]*ldCol + ks[k]*ldK], 0 where the column
// is padding.
func packPanel(t *vec.Table, dst, w []float32, cols, ks []int, ldCol, ldK int) {
	width := len(cols)
	if ldCol == 1 && contiguous(cols) {
		if step := plan.Step(ks); width == kernel.Panel && step > 0 {
			t.PackPanels(dst, w[cols[0]+ks[0]*ldK:], len(ks), 1, 0, step*ldK)
			return
		}
		for i, k := range ks {
			copy(dst[i*width:(i+1)*width], w[cols[0]+k*ldK:])
		}
		return
	}
	line := ldK == 1 && contiguous(ks)
	for j := 0; j < width; {
		c, n := cols[j], 1
		switch {
		case c < 0:
			for i := range ks {
				dst[i*width+j] = 0
			}
		case line:
			step := 1
			if j+1 < width && cols[j+1] > c {
				step = cols[j+1] - c
			}
			for j+n < width && cols[j+n] == c+n*step {
				n++
			}
			t.Transpose(dst[j:], w[c*ldCol+ks[0]:], n, len(ks), width, step*ldCol)
		default:
			at := j
			for _, k := range ks {
				dst[at] = w[c*ldCol+k*ldK]
				at += width
			}
		}
		j += n
	}
}

func contiguous(idx []int) bool {
	for i, x := range idx {
		if x != idx[0]+i {
			return false
		}
	}
	return idx[0] >= 0
}

// operands are the rows of one product, from the first at work on, of SrcWidth,
// DstWidth and PreWidth entries; pre and residual may be nil.
type operands struct {
	src, dst, pre, residual []float32
	weight                  Weight
}

// run computes m rows of the results of panels [p0, p1). after is what will be
// multiplied then.
func (q *Product) run(s *Scratch, o operands, m, p0, p1 int, after []byte) {
	if q.across != nil {
		q.runAcross(s, o, m, p0, p1)
		return
	}
	full := q.FullPanels()
	for p0 < p1 {
		n := min(q.target.PanelGroup(q.pass, m), p1-p0)
		at, end := p0, p0+n
		s.after = after
		if end < p1 {
			s.after = q.first(end, m)
		}
		if direct := min(end, full) - at; q.Direct && direct > 0 {
			if q.pairs && q.target.Wide(m, kernel.EntryBytes*q.SrcWidth) && direct >= 2 {
				q.direct(s, o, m, at, direct/2, kernel.Pair)
				at += direct &^ 1
				direct &= 1
			}
			if direct > 0 {
				q.direct(s, o, m, at, direct, kernel.Full)
				at += direct
			}
		}
		if q.Direct && at < end && at == full && q.LastDirect() {
			q.direct(s, o, m, at, 1, kernel.WidthOf(q.LastPanel()))
			at++
		}
		if at < end {
			q.indirect(s, o, m, at, end)
		}
		p0 = end
	}
}

// first is what a run of m rows from a panel on multiplies first: the panels of
// one group in the first block of k.
func (q *Product) first(panel, m int) []byte {
	return q.panelsFrom(0, panel, q.target.PanelGroup(q.pack.PanelStep(0), m))
}

// panelsFrom is up to n panels of a block of k.
func (q *Product) panelsFrom(block, panel, n int) []byte {
	from := q.pack.From(block, panel)
	return from[:min(len(from), n*q.pack.PanelStep(block))]
}

const lineBytes = 64 // of a cache line

// direct runs n tiles of width class w, beginning at a panel, straight into
// the destination. Meanwhile the row tiles ask for what comes next, each for its
// share.
func (q *Product) direct(s *Scratch, o operands, m, panel, n int, w kernel.Width) {
	a := &s.args
	col := q.store[0] + panel*q.results
	left, ldLeft := q.leftOf(s, o.src, m)
	for i := range q.blocks {
		b := &q.blocks[i]
		last := i == len(q.blocks)-1
		a.B = unsafe.Pointer(&q.pack.From(i, panel)[0])
		a.Segs, a.NSegs = unsafe.Pointer(&b.segs[0]), len(b.segs)
		a.LDA, a.KStep, a.LDC = ldLeft, q.kStep(), kernel.EntryBytes*q.DstWidth
		a.LDAux, a.UpAux = kernel.EntryBytes*q.PreWidth, kernel.EntryBytes*q.DstWidth
		a.NTiles, a.PanelStep = n, q.pack.PanelStep(i)
		a.NR, a.Epilogue = kernel.Widths[w], q.BlockEpilogue(i)
		a.Residual, a.Aux = nil, nil
		q.setFlags(a, o.weight, i, panel)
		next := s.after
		if !last {
			next = q.panelsFrom(i+1, panel, CeilDiv(n*kernel.Widths[w], kernel.Panel))
		}
		for r := 0; r < m; r += a.MR {
			a.MR = q.rowTile(m-r, w)
			a.Ahead = 0
			if len(next) > 0 && a.MR < m {
				a.Ahead = uintptr(unsafe.Pointer(&next[0]))
				next = next[min(len(next), n*b.kc/kernel.AheadK*lineBytes*b.tiles[w][a.MR].ahead):]
			}
			a.A = unsafe.Add(left, r*ldLeft+b.base)
			a.C = unsafe.Pointer(&o.dst[r*q.DstWidth+col])
			if last && o.residual != nil {
				a.Residual = unsafe.Pointer(&o.residual[r*q.DstWidth+col])
			}
			if o.pre != nil && (last || q.Epilogue.Gated()) {
				a.Aux = unsafe.Pointer(&o.pre[r*q.PreWidth+col])
			}
			s.Call(b.tiles[w][a.MR].run)
		}
	}
}

func (q *Product) setFlags(a *kernel.Args, w Weight, block, panel int) {
	a.Alpha, a.Flags, a.Bias = w.Alpha, w.Flags, nil
	if block > 0 {
		a.Flags |= kernel.Accumulate
	}
	if block < len(q.blocks)-1 {
		a.Flags |= kernel.PreOnly
	} else if q.bias != nil {
		a.Bias = unsafe.Pointer(&q.bias[panel*kernel.Panel])
	}
}

// indirect runs panels [p0, p1) tile by tile through the scratch tile, which
// stays in the L1 cache, and sends each result to its place.
func (q *Product) indirect(s *Scratch, o operands, m, p0, p1 int) {
	if q.Epilogue == kernel.Linear {
		o.meetOutside()
	}
	add := o.weight.Flags&kernel.Accumulate != 0
	left, ldLeft := q.leftOf(s, o.src, m)
	widest, tallest := max(kernel.Panel, q.pack.Layout.Width(p1-1)), q.tallest(ldLeft)
	for r := 0; r < m; {
		mr := q.rowTile(min(m-r, tallest), kernel.WidthOf(widest))
		for panel := p0; panel < p1; panel++ {
			w := kernel.WidthOf(q.pack.Layout.Width(panel))
			out := q.results
			if w != kernel.Full {
				out = kernel.Widths[w]
			}
			if add {
				q.gather(s, o, r, mr, panel*q.results, out)
			}
			q.tile(s, o, unsafe.Add(left, r*ldLeft), ldLeft, mr, panel, s.tile, out)
			if q.runs != nil && o.residual == nil {
				q.runs[panel].Run(o.dst[r*q.DstWidth:], s.tile, mr, q.DstWidth, out)
				continue
			}
			q.scatter(s, o, r, mr, panel*q.results, out)
		}
		r += mr
	}
}

// meetOutside has a scratch tile meet what it is added to on its way out.
func (o *operands) meetOutside() {
	if o.weight.Flags&kernel.Accumulate == 0 {
		return
	}
	if o.residual != nil {
		panic("mul: a product through scratch that adds to its results takes no residual beside them")
	}
	o.residual, o.weight.Flags = o.dst, o.weight.Flags&^kernel.Accumulate
}

// tallest is the height of the tallest scratch tile where rows are so many bytes apart.
func (q *Product) tallest(ldLeft int) int {
	if ldLeft%q.target.SetBytes == 0 {
		return max(1, q.target.RowTiles/2) // more rows would share too few sets of the L1 cache
	}
	return q.target.RowTiles
}

// tile computes mr rows of one panel into a tight tile of so many columns, which stays in
// the L1 cache.
func (q *Product) tile(s *Scratch, o operands, left unsafe.Pointer, ldLeft, mr, panel int, tile []float32, columns int) {
	a, w := &s.args, kernel.WidthOf(q.pack.Layout.Width(panel))
	for i := range q.blocks {
		b := &q.blocks[i]
		a.A = unsafe.Add(left, b.base)
		a.B = unsafe.Pointer(&q.pack.From(i, panel)[0])
		a.C = unsafe.Pointer(&tile[0])
		a.Segs, a.NSegs = unsafe.Pointer(&b.segs[0]), len(b.segs)
		a.LDA, a.KStep, a.LDC = ldLeft, q.kStep(), kernel.EntryBytes*columns
		a.NTiles, a.PanelStep, a.Ahead = 1, q.pack.PanelStep(i), 0
		a.MR, a.NR, a.Epilogue = mr, kernel.Widths[w], q.BlockEpilogue(i)
		a.Residual, a.Aux = nil, nil
		if a.Epilogue != kernel.Linear {
			a.Aux, a.LDAux, a.UpAux = unsafe.Pointer(&s.pre[0]), kernel.EntryBytes*kernel.LongPanel, kernel.EntryBytes*kernel.HalfPanel
		}
		q.setFlags(a, o.weight, i, panel)
		s.Call(b.scratch[w][mr].run)
	}
}

// scatter stores mr rows of the scratch tile, results [c0, c0+width) of the
// product, padding left out.
func (q *Product) scatter(s *Scratch, o operands, r, mr, c0, width int) {
	store := q.store[c0:min(c0+width, len(q.store))]
	if q.spread != nil && len(store) == width {
		at := r*q.DstWidth + store[0]
		var add []float32
		if o.residual != nil {
			add = o.residual[at:]
		}
		q.spread.Run(o.dst[at:], s.tile, add, mr, width, q.DstWidth)
		return
	}
	for i := range mr {
		row := (r + i) * q.DstWidth
		tile := s.tile[i*width:][:len(store)]
		dst := o.dst[row : row+q.DstWidth]
		if o.residual != nil {
			res := o.residual[row : row+q.DstWidth]
			for j, at := range store {
				dst[at] = tile[j] + res[at]
			}
		} else {
			for j, at := range store {
				dst[at] = tile[j]
			}
		}
		if o.pre == nil || q.Epilogue == kernel.Linear {
			continue
		}
		pre := o.pre[(r+i)*q.PreWidth:][:q.PreWidth]
		for j, at := range store {
			pre[at] = s.pre[i*kernel.LongPanel+j]
			if q.Epilogue.Gated() {
				pre[q.DstWidth+at] = s.pre[i*kernel.LongPanel+kernel.HalfPanel+j]
			}
		}
	}
}

// gather fills the scratch tile with what scatter's places hold, for the
// kernels to add to: sums before the activation, which gated ones have in pre.
func (q *Product) gather(s *Scratch, o operands, r, mr, c0, width int) {
	store := q.store[c0:min(c0+width, len(q.store))]
	for i := range mr {
		if q.Epilogue.Gated() {
			tile, pre := s.pre[i*kernel.LongPanel:], o.pre[(r+i)*q.PreWidth:][:q.PreWidth]
			for j, at := range store {
				tile[j], tile[kernel.HalfPanel+j] = pre[at], pre[q.DstWidth+at]
			}
			continue
		}
		tile, dst := s.tile[i*width:], o.dst[(r+i)*q.DstWidth:][:q.DstWidth]
		for j, at := range store {
			tile[j] = dst[at]
		}
	}
}

// Scratch is what one worker needs: the kernel's arguments, tiles of 14 x 32
// results and the same before the activation, and the packs of
// backward-weight.
type Scratch struct {
	args      kernel.Args
	tile, pre []float32
	// left holds a few strips of dY, right a group of panels of X, sums the
	// results of a unit.
	left, right, sums []float32
	// columns are the sums of a unit's columns of dY.
	columns []float32
	// leftRounded and rightRounded are the first two rounded to bfloat16, in pairs of rows.
	leftRounded, rightRounded []float32
	seg                       kernel.Segment
	leftRows                  leftRows
	// after is what the product at work will multiply next.
	after []byte
	// crowded is the pool's, calls counts the calls of kernels.
	crowded bool
	calls   uint
	// Spent is the time outside matrix products.
	Spent time.Duration
}

// floats returns n entries of the buffer at b, which grows to what it needs.
func (s *Scratch) floats(b *[]float32, n int) []float32 {
	if len(*b) < n {
		*b = make([]float32, n)
	}
	return (*b)[:n]
}

// Calls is the number of calls of kernels since somebody last asked.
func (s *Scratch) Calls() uint {
	n := s.calls
	s.calls = 0
	return n
}

// SetCrowded says whether the workers leave no P to other goroutines.
func (s *Scratch) SetCrowded(crowded bool) { s.crowded = crowded }

// Elementwise runs a pass that is no matrix product.
func (s *Scratch) Elementwise(f func()) {
	start := time.Now()
	f()
	s.Spent += time.Since(start)
}

const scratchTile = 16 * kernel.LongPanel * vec.WeaveBlocks

// Call runs a kernel. Kernels are leaves that cannot be preempted; the
// prologue of this method is where the garbage collector stops the loop.
//
//go:noinline
func (s *Scratch) Call(f kernel.Func) {
	f(&s.args)
	if s.calls++; s.calls%YieldCalls == 0 && s.crowded {
		runtime.Gosched()
	}
}

// YieldCalls is the number of kernel calls, some hundreds of microseconds in
// all, after which a worker lets other goroutines run where workers hold every
// P: the scheduler would make them wait for its time slices of 10 ms each.
const YieldCalls = 32
