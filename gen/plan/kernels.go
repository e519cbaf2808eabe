package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/structuredffn/sffn/runtime/kernel"
)

// Kernel is the plan of one matrix-product kernel: everything that its
// emitter and its name need.
type Kernel struct {
	ISA      kernel.ISA
	MR, NR   int
	Epilogue kernel.Epilogue
	// Strip kernels read the left operand packed as [k][MR].
	Strip bool
	// Shape holds the constants of a specialised kernel, nil for any shape.
	Shape *kernel.Shape
}

// Name carries the plan:
//
//	mul_f32_<shape>_<MR>x<NR>[_<epilogue>]_<isa>
//
// where <shape> is any (every stride in a register), strip (the same, the left
// operand packed) or, in entries, k<depth>[s<segments>x<distance>][t<step>]
// a<row of A>c<row of C>; kernels of one row leave out the rows.
func (k Kernel) Name() string {
	var b strings.Builder
	b.WriteString("mul_f32_")
	switch s := k.Shape; {
	case k.Strip:
		b.WriteString("strip")
	case s == nil:
		b.WriteString("any")
	default:
		fmt.Fprintf(&b, "k%d", s.K())
		if n := len(s.Segs); n > 1 {
			fmt.Fprintf(&b, "s%dx%d", n, (s.Segs[1].Off-s.Segs[0].Off)/4)
		}
		if s.KStep != 4 {
			fmt.Fprintf(&b, "t%d", s.KStep/4)
		}
		if k.MR > 1 {
			fmt.Fprintf(&b, "a%dc%d", s.LDA/4, s.LDC/4)
		}
	}
	fmt.Fprintf(&b, "_%dx%d", k.MR, k.NR)
	if k.Epilogue != kernel.Linear {
		fmt.Fprintf(&b, "_%s", k.Epilogue)
	}
	fmt.Fprintf(&b, "_%s", k.ISA)
	return b.String()
}

// Shaped is the kernel k made for one block of a product, or false where no
// specialised kernel exists: results that pass through scratch, and segments
// of different lengths or distances, run any-shape kernels.
func (k Kernel) Shaped(p Product, segs []kernel.Segment) (Kernel, bool) {
	if !p.Direct || !uniform(segs) {
		return k, false
	}
	s := &kernel.Shape{LDA: 4 * p.SrcWidth, KStep: p.KStep(), LDC: 4 * p.DstWidth, Segs: segs}
	if k.MR == 1 {
		s.LDA, s.LDC = 0, 0
	}
	k.Shape = s
	return k, true
}

func uniform(segs []kernel.Segment) bool {
	for i, s := range segs {
		if s.Len != segs[0].Len || i > 0 && s.Off-segs[i-1].Off != segs[1].Off-segs[0].Off {
			return false
		}
	}
	return segs[0].Off == 0
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

// Any lists the any-shape kernels of a target: every tile height and width
// with every epilogue, and the strip kernels of backward-weight.
func (t Target) Any() []Kernel {
	var ks []Kernel
	for _, nr := range t.Widths() {
		for mr := 1; mr <= t.MaxMR[nr]; mr++ {
			for _, epi := range kernel.Epilogues() {
				// Gated panels are all full ones.
				if epi.Gated() && nr%Panel != 0 {
					continue
				}
				ks = append(ks, Kernel{ISA: t.ISA, MR: mr, NR: nr, Epilogue: epi})
			}
			if nr <= Panel && mr <= t.MainMR[nr] {
				ks = append(ks, Kernel{ISA: t.ISA, MR: mr, NR: nr, Strip: true})
			}
		}
	}
	return ks
}

// Widths lists the tile widths of the target, widest first.
func (t Target) Widths() []int {
	var ws []int
	for _, w := range []int{2 * Panel, LongPanel, Panel, HalfPanel} {
		if t.MaxMR[w] > 0 {
			ws = append(ws, w)
		}
	}
	return ws
}

// Specialised lists the kernels worth emitting for the layers on a target,
// sorted by name. Layers that need the same kernel share it.
func (t Target) Specialised(layers ...Layer) []Kernel {
	byName := map[string]Kernel{}
	for _, l := range layers {
		factors := l.Factors
		if l.Guide != nil {
			factors = append(slices.Clone(factors), *l.Guide)
		}
		for _, f := range factors {
			for _, p := range append(f.Forward(), f.BackwardData()...) {
				for _, k := range t.Kernels(p) {
					byName[k.Name()] = k
				}
			}
		}
	}
	return slices.SortedFunc(maps.Values(byName), func(a, b Kernel) int { return cmp.Compare(a.Name(), b.Name()) })
}

// Kernels lists the specialised kernels of a product: for each block of k the
// main tile of each width and the decode tile of one row. Tails of rows run
// any-shape kernels.
func (t Target) Kernels(p Product) []Kernel {
	var ks []Kernel
	k0 := 0
	for i, kc := range p.KBlocks {
		_, segs := Relative(p.Segments(k0, kc))
		k0 += kc
		add := func(mr, nr int) {
			k, ok := (Kernel{ISA: t.ISA, MR: mr, NR: nr, Epilogue: p.BlockEpilogue(i)}).Shaped(p, segs)
			if ok && !slices.ContainsFunc(ks, func(o Kernel) bool { return o.Name() == k.Name() }) {
				ks = append(ks, k)
			}
		}
		for _, nr := range t.tileWidths(p) {
			add(t.MainMR[nr], nr)
			add(1, PanelWidth(nr)) // pairs run panel by panel
		}
	}
	return ks
}

// ShapedHeights lists the heights of which a specialised kernel of so many
// columns may exist.
func (t Target) ShapedHeights(nr int) []int {
	switch {
	case t.MainMR[nr] == 0:
		return nil
	case PanelWidth(nr) != nr:
		return []int{t.MainMR[nr]}
	}
	return []int{1, t.MainMR[nr]}
}

// tileWidths lists the widths of the tiles that store a product's results
// themselves. A last panel with padding goes through the scratch tile.
func (t Target) tileWidths(p Product) []int {
	panels := p.FullPanels()
	var ws []int
	for _, w := range t.Widths() {
		switch {
		case w == 2*Panel && panels >= 2 && t.Pairs(p):
			panels %= 2
		case w == Panel && panels > 0:
		case w == p.LastPanel() && w != Panel && p.LastDirect():
		default:
			continue
		}
		ws = append(ws, w)
	}
	return ws
}
