package plan

import (
	"github.com/structuredffn/sffn/runtime/kernel"
)

// Product is one dense product inside a factor: N outputs, each the sum over
// K inputs. Forward and backward-data are lists of products over the same
// weights, read one way or the other.
type Product struct {
	// Block is the factor's block; Transposed products sum over its outputs.
	Block      int
	Transposed bool
	// K lists the summed entries, N the results, in the order of the pack;
	// Up lists, for gated activations, the up beside the gate of each of N.
	K, N, Up []Seg
	// Lanes, where not 0, is the number of the factor's blocks, all of which the
	// product takes at once: where others have an entry it has as many neighbours, one
	// of each block. K and N are then where those of the first block lie.
	Lanes int
	// Direct results lie side by side in the destination row and are stored
	// by the kernel; others pass through a scratch tile in the L1 cache.
	Direct bool
	// KBlocks are the depths of the blocks of k.
	KBlocks []int
	// SrcWidth, DstWidth and PreWidth are the entries of a stored row.
	SrcWidth, DstWidth, PreWidth int
	Epilogue                     kernel.Epilogue
	// Format is that of the pack, and says how it is multiplied.
	Format kernel.FormatName
}

// MinRun is the shortest run of neighbouring results worth a product of its
// own; blocks with shorter ones go through the scratch tile as a whole.
const MinRun = kernel.HalfPanel

// ShortRun is the mean length from which runs that pass through the scratch tile, or
// are gathered, are worth a vector each.
const ShortRun = 3

// Forward lists the products of y = W x.
func (f Factor) Forward() []Product {
	if f.Across {
		return f.lanes(false)
	}
	var ps []Product
	for i, b := range f.Blocks {
		ps = append(ps, split(Product{Block: i, K: b.In, N: b.Out, Up: b.Up, Format: f.Format,
			SrcWidth: f.InWidth, DstWidth: f.OutWidth, PreWidth: f.PreWidth, Epilogue: kernel.Epilogue(f.Act)})...)
	}
	return ps
}

// BackwardData lists the products of dx = W^T dy, dy being the gradient
// before the activation.
func (f Factor) BackwardData() []Product {
	if f.Across {
		return f.lanes(true)
	}
	var ps []Product
	for i, b := range f.Blocks {
		k := append(append([]Seg(nil), b.Out...), b.Up...)
		ps = append(ps, split(Product{Block: i, Transposed: true, K: k, N: b.In, Format: f.Format,
			SrcWidth: f.PreWidth, DstWidth: f.InWidth, PreWidth: f.InWidth})...)
	}
	return ps
}

// split makes a product of each run of neighbouring results where all are
// long enough, or else one indirect product.
func split(p Product) []Product {
	p.KBlocks = KBlocks(Len(p.K), p.Format)
	for _, s := range p.N {
		if s.Store.Len > 1 && s.Store.Step != 1 || len(p.N) > 1 && s.Store.Len < MinRun {
			return []Product{p}
		}
	}
	if p.Up != nil && len(p.Up) != len(p.N) {
		return []Product{p}
	}
	for i, s := range p.Up {
		if s.Store.Len != p.N[i].Store.Len || s.Store.Off-p.N[i].Store.Off != p.DstWidth {
			return []Product{p}
		}
	}
	p.Direct = true
	var ps []Product
	for i := range p.N {
		q := p
		q.N = p.N[i : i+1]
		if p.Up != nil {
			q.Up = p.Up[i : i+1]
		}
		ps = append(ps, q)
	}
	return ps
}

// Len is the number of entries of the segments.
func Len(segs []Seg) int {
	n := 0
	for _, s := range segs {
		n += s.Store.Len
	}
	return n
}

// Results is the number of results, a gate and its up counted once.
func (p Product) Results() int { return max(1, p.Lanes) * Len(p.N) }

// Columns is the number of columns of the pack, padding included: a multiple
// of 16 in float32, of 32 in other formats.
func (p Product) Columns() int {
	if p.Lanes > 0 {
		return groups(p.Lanes) * p.PanelColumns()
	}
	unit := p.Format.ColumnUnit()
	n := (Len(p.N) + unit - 1) / unit * unit
	if p.Epilogue.Gated() {
		n *= 2
	}
	return n
}

// PanelResults is the number of results of one panel: gated ones hold pairs.
func (p Product) PanelResults() int {
	if p.Epilogue.Gated() {
		return kernel.HalfPanel
	}
	return kernel.Panel
}

// PanelColumns is the width of all panels of the pack but the last; where the lanes
// run across blocks there is one for each group of them.
func (p Product) PanelColumns() int {
	if p.Lanes > 0 {
		return kernel.LaneGroup * Len(p.N)
	}
	return kernel.Panel
}

// Panels counts the panels of the pack.
func (p Product) Panels() int { return max(1, p.Columns()/p.PanelColumns()) }

// LastPanel is the width of the last one.
func (p Product) LastPanel() int { return p.Columns() - (p.Panels()-1)*p.PanelColumns() }

// FullPanels counts the panels that are 32 columns wide and without padding.
func (p Product) FullPanels() int {
	if p.LastPanel() != kernel.Panel {
		return p.Panels() - 1
	}
	return p.Results() / p.PanelResults()
}

// LastDirect reports whether a last panel that is not 32 wide has no padding.
func (p Product) LastDirect() bool {
	return p.LastPanel() != kernel.Panel && p.Results() == p.Columns()
}

// Depth is the number of products in each sum.
func (p Product) Depth() int { return Len(p.K) }

// Padding is the ratio of multiplied to useful columns.
func (p Product) Padding() float64 {
	useful := p.Results() + Len(p.Up)
	return float64(p.Columns()) / float64(useful)
}

// PanelBytes is the size of a panel of the pack over kc products.
func (p Product) PanelBytes(kc int) int { return p.format().PanelBytes(p.PanelColumns(), kc) }

// PackBytes is the size of the whole pack.
func (p Product) PackBytes() (n int) {
	for _, kc := range p.KBlocks {
		n += (p.Panels()-1)*p.PanelBytes(kc) + p.format().PanelBytes(p.LastPanel(), kc)
	}
	return n
}

func (p Product) format() *kernel.Format {
	f, _ := p.Format.Format()
	return &f
}

// KStep is the distance in bytes between neighbouring k of one segment.
func (p Product) KStep() int {
	for _, s := range p.K {
		if s.Store.Len > 1 {
			return kernel.EntryBytes * s.Store.Step
		}
	}
	return kernel.EntryBytes
}

// Segments lists, for one block of k, where its inputs lie, in bytes from the
// start of the source row. k0 is the first k of the block, kc its depth.
func (p Product) Segments(k0, kc int) []kernel.Segment {
	var segs []kernel.Segment
	for _, s := range p.K {
		n := s.Store.Len
		lo, hi := max(0, k0), min(n, k0+kc)
		if lo < hi {
			segs = append(segs, kernel.Segment{Off: kernel.EntryBytes * s.Store.At(lo), Len: hi - lo})
		}
		k0 -= n
	}
	return segs
}

// BlockEpilogue is the epilogue of the kernels for the i-th block of k. Only
// the last block's sum is complete; gated kernels must run all of them, because
// only they know where the halves are kept.
func (p Product) BlockEpilogue(i int) kernel.Epilogue {
	if p.Epilogue.Gated() || i == len(p.KBlocks)-1 {
		return p.Epilogue
	}
	return kernel.Linear
}

// KBlocks splits k products of a format into ceil(k/MaxKC) blocks of near-equal depth,
// multiples of 4 but for the last. It depends on k and the format alone: the sums of
// every kernel on every target break at the same places.
func KBlocks(k int, format kernel.FormatName) []int {
	f, _ := format.Format()
	n := (k + f.MaxKC - 1) / f.MaxKC
	if n == 0 {
		return nil
	}
	kc := ((k+n-1)/n + 3) &^ 3
	var blocks []int
	for k > 0 {
		b := min(kc, k)
		blocks = append(blocks, b)
		k -= b
	}
	return blocks
}

// Relative makes the offsets relative to the first segment's, which it
// returns.
func Relative(segs []kernel.Segment) (base int, rel []kernel.Segment) {
	base = segs[0].Off
	for _, s := range segs {
		rel = append(rel, kernel.Segment{Off: s.Off - base, Len: s.Len})
	}
	return base, rel
}

// KIndex lists the block-local index of every k, in the order of the pack.
func (p Product) KIndex() []int { return canon(p.K) }

// ColumnIndex lists the block-local index of every packed column, -1 where it
// is padding. Gated panels alternate 16 gates and 16 ups.
func (p Product) ColumnIndex() []int {
	idx := make([]int, p.Columns())
	for i := range idx {
		idx[i] = -1
	}
	if !p.Epilogue.Gated() {
		copy(idx, canon(p.N))
		return idx
	}
	up := canon(p.Up)
	for i, c := range canon(p.N) {
		at := i/kernel.HalfPanel*kernel.Panel + i%kernel.HalfPanel
		idx[at], idx[at+kernel.HalfPanel] = c, up[i]
	}
	return idx
}

// StoreIndex lists where each result is stored in a destination row.
func (p Product) StoreIndex() []int {
	var idx []int
	for _, s := range p.N {
		for i := range s.Store.Len {
			idx = append(idx, s.Store.At(i))
		}
	}
	return idx
}

func canon(segs []Seg) []int {
	var idx []int
	for _, s := range segs {
		for i := range s.Canon.Len {
			idx = append(idx, s.Canon.At(i))
		}
	}
	return idx
}
