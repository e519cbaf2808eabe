package cpu

import (
	"cmp"
	"maps"
	"slices"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// row is the kernel of a tile as a target's schedule asks for it. Narrower weights are
// fewer lines to ask for.
func row(t *kernel.Target, format kernel.FormatName, mr int, w kernel.Width, e kernel.Epilogue, strip bool) kernel.Row {
	f, _ := format.Format()
	k := kernel.Row{ISA: t.ISA, Format: f.Name, MR: mr, NR: kernel.Widths[w], Epilogue: e, Strip: strip, Sweeps: t.Tiles[w].Sweeps, Unroll: t.Unroll, PrefetchC: t.PrefetchC}
	if !strip && !f.KeysValues {
		k.Ahead = t.AheadLines(k.MR, k.NR) * f.Weights.Bits / kernel.Float32.Bits
		k.Ahead -= k.Ahead % k.Sweeps
	}
	return k
}

// shaped is a kernel made for one block of a product, or false where no
// specialised kernel exists: results that pass through scratch, and segments
// of different lengths or distances, run any-shape kernels.
func shaped(k kernel.Row, p plan.Product, segs []kernel.Segment) (kernel.Row, bool) {
	if !p.Direct || !kernel.Uniform(segs) {
		return k, false
	}
	s := &kernel.Shape{LDA: kernel.EntryBytes * p.SrcWidth, KStep: p.KStep(), LDC: kernel.EntryBytes * p.DstWidth, Segs: segs}
	if f, _ := p.Format.Format(); f.Packs() {
		s.LDA, s.KStep = f.LeftStride(k.Format, p.Depth()), kernel.EntryBytes
	} else if f.KGroup > 1 && !WholeGroups(&f, segs) {
		return k, false
	}
	if k.MR == 1 {
		s.LDA, s.LDC = 0, 0
	}
	k.Shape = s
	return k, true
}

// WholeGroups reports whether no segment but the last cuts a group of k.
func WholeGroups(f *kernel.Format, segs []kernel.Segment) bool {
	for _, s := range segs[:len(segs)-1] {
		if s.Len%f.KGroup > 0 {
			return false
		}
	}
	return true
}

// Segments are the places of a block of k of a product as kernels of a format count them: in
// the source row, relative to base, or, where rows are packed, in the packed one.
func Segments(kernels kernel.FormatName, p plan.Product, k0, kc int) (base int, segs []kernel.Segment) {
	f, _ := p.Format.Format()
	if !f.Packs() {
		return plan.Relative(p.Segments(k0, kc))
	}
	if p.Format.Quantized() {
		return kernel.LeftHead, []kernel.Segment{{Len: kc}}
	}
	return f.LeftBytes(kernels, k0), []kernel.Segment{{Len: f.Groups(kc) * f.KGroup}}
}

// Any lists the any-shape kernels of a target: every tile height and width
// with every epilogue, the strip kernels of backward-weight, and those across blocks.
func Any(t kernel.Target) []kernel.Row {
	ks := Across(&t)
	for _, format := range kernel.AllFormats() {
		if f, _ := format.Format(); format != kernel.F32 && f.KernelsOf(t.ISA) == format {
			ks = append(ks, panels(&t, format)...)
		}
	}
	for w := range kernel.NumWidths {
		for mr := 1; mr <= t.Tiles[w].Max; mr++ {
			for _, e := range kernel.Epilogues() {
				// Gated panels are all full ones.
				if e.Gated() && kernel.Widths[w]%kernel.Panel != 0 {
					continue
				}
				ks = append(ks, row(&t, kernel.F32, mr, w, e, false))
			}
		}
	}
	for _, w := range []kernel.Width{kernel.Full, kernel.Half} {
		for mr := 1; mr <= t.StripRows; mr++ {
			ks = append(ks, row(&t, kernel.F32, mr, w, kernel.Linear, true))
		}
	}
	return ks
}

// panels lists the any-shape kernels of a format that is not float32: tiles over one
// panel, without an activation, and the strips of formats that train.
func panels(t *kernel.Target, format kernel.FormatName) (ks []kernel.Row) {
	if format.Quantized() {
		return integers(t, format)
	}
	f, _ := format.Format()
	for _, mr := range heights(t, &f) {
		ks = append(ks, row(t, format, mr, kernel.Full, kernel.Linear, false))
	}
	if f.Weights == f.Activations {
		for mr := 1; mr <= t.StripRows; mr++ {
			ks = append(ks, row(t, format, mr, kernel.Full, kernel.Linear, true))
		}
	}
	return ks
}

// Across lists the kernels of a target whose lanes run across blocks: every tile up
// to the largest.
func Across(t *kernel.Target) (ks []kernel.Row) {
	sweeps := 1
	if t.ISA == kernel.AVX2 {
		sweeps = 2
	}
	for mr := 1; mr <= t.Across.Rows; mr++ {
		for nr := 1; nr <= t.Across.Columns; nr++ {
			ks = append(ks, kernel.Row{ISA: t.ISA, Format: kernel.F32, MR: mr, NR: nr, Across: true, Sweeps: sweeps, Unroll: 1, PrefetchC: t.PrefetchC, Ahead: t.Across.Ahead})
		}
	}
	return ks
}

// Specialised lists the kernels worth emitting for the layers on a target,
// sorted by name. Layers that need the same kernel share it.
func Specialised(t kernel.Target, layers ...plan.Layer) []kernel.Row {
	byName := map[string]kernel.Row{}
	for _, l := range layers {
		factors := l.Factors
		if l.Guide != nil {
			factors = append(slices.Clone(factors), *l.Guide)
		}
		for _, f := range factors {
			for _, p := range append(f.Forward(), f.BackwardData()...) {
				for _, k := range Kernels(t, p) {
					byName[k.Name()] = k
				}
			}
		}
	}
	return slices.SortedFunc(maps.Values(byName), func(a, b kernel.Row) int { return cmp.Compare(a.Name(), b.Name()) })
}

// Kernels lists the specialised kernels of a product: for each block of k the
// main tile of each width and the decode tile of one row. Tails of rows run
// any-shape kernels.
func Kernels(t kernel.Target, p plan.Product) []kernel.Row {
	var ks []kernel.Row
	k0 := 0
	for i, kc := range p.KBlocks {
		_, segs := Segments(p.Format, p, k0, kc)
		k0 += kc
		for _, w := range widths(&t, p) {
			for _, k := range Shaped(&t, p, i, segs, w) {
				if !slices.ContainsFunc(ks, func(o kernel.Row) bool { return o.Name() == k.Name() }) {
					ks = append(ks, k)
				}
			}
		}
	}
	return ks
}

// Shaped lists the specialised kernels that may exist for tiles of one width over
// the i-th block of k of a product, whose segments are relative: the main tile, and
// that of one row, which runs pairs panel by panel where a target has it so.
func Shaped(t *kernel.Target, p plan.Product, i int, segs []kernel.Segment, w kernel.Width) (ks []kernel.Row) {
	if p.Lanes > 0 || t.Tiles[w].Max == 0 || p.Epilogue.Gated() && kernel.Widths[w]%kernel.Panel != 0 {
		return nil
	}
	f, _ := p.Format.Format()
	if f.Name != kernel.F32 && w != kernel.Full || f.Name.Quantized() {
		return nil
	}
	format, one := f.KernelsOf(t.ISA), w
	if w == kernel.Pair && t.LoneRows > 0 {
		one = kernel.Full
	}
	for _, k := range []kernel.Row{row(t, format, t.Tiles[w].Main, w, p.BlockEpilogue(i), false), row(t, format, 1, one, p.BlockEpilogue(i), false)} {
		if k, ok := shaped(k, p, segs); ok {
			ks = append(ks, k)
		}
	}
	return ks
}

// Pairs reports whether the product's panels run in pairs.
func Pairs(t *kernel.Target, p plan.Product) bool {
	if f, _ := p.Format.Format(); f.Name != kernel.F32 {
		return false
	}
	return t.Tiles[kernel.Pair].Max > 0 && !(len(p.KBlocks) > 0 && t.Shallow(p.PanelBytes(p.KBlocks[0]), kernel.EntryBytes*p.SrcWidth))
}

// widths lists those of the tiles that store a product's results themselves. A
// last panel with padding goes through the scratch tile.
func widths(t *kernel.Target, p plan.Product) []kernel.Width {
	panels := p.FullPanels()
	var ws []kernel.Width
	for _, w := range []kernel.Width{kernel.Pair, kernel.Long, kernel.Full, kernel.Half} {
		switch {
		case w == kernel.Pair && panels >= 2 && Pairs(t, p):
			if t.PairTall {
				panels %= 2
			}
		case w == kernel.Full && panels > 0:
		case kernel.Widths[w] == p.LastPanel() && w != kernel.Full && w != kernel.Pair && p.LastDirect():
		default:
			continue
		}
		ws = append(ws, w)
	}
	return ws
}

// integers lists the kernels of a format of integers: one of each height, and one more with
// the feature that they gain from.
func integers(t *kernel.Target, format kernel.FormatName) (ks []kernel.Row) {
	f, _ := format.Format()
	for _, mr := range heights(t, &f) {
		k := kernel.Row{ISA: t.ISA, Format: format, MR: mr, NR: kernel.Panel, Sweeps: t.Tiles[kernel.Full].Sweeps, Unroll: f.KGroup, Ahead: kernel.QuantAhead(format, mr)}
		ks = append(ks, k)
		if k.With = f.Gains[t.ISA]; k.With != "" {
			ks = append(ks, k)
		}
	}
	return ks
}

// heights lists those of a format's tiles over one panel, rising.
func heights(t *kernel.Target, f *kernel.Format) (hs []int) {
	for mr := 1; mr <= t.Tallest(f.Name); mr++ {
		if f.Heights == nil || slices.Contains(f.Heights, mr) {
			hs = append(hs, mr)
		}
	}
	return hs
}
