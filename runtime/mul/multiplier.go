package mul

import (
	"fmt"
	"unsafe"

	"github.com/structuredffn/sffn/runtime/kernel"
)

// Multiplier runs products whose right operand is packed while the program
// runs, in whole panels.
type Multiplier struct {
	target *kernel.Target
	format kernel.Format
	tiles  *tiles
	pairs  bool // of panels have tiles
}

// Need is what some rows of a product need: the products [From, Depth) of each sum, and the
// first Panels panels of results. From is a whole number of groups of k.
type Need struct{ From, Depth, Panels int }

// NewMultiplier binds the any-shape kernels of a target, for packs of a format that reads
// the left operand where it lies.
func NewMultiplier(t *kernel.Target, format kernel.FormatName) (*Multiplier, error) {
	f, _ := format.Format()
	if f.Packs() {
		return nil, fmt.Errorf("mul: %s packs its left operand, want a format that does not", f.Name)
	}
	t = t.For(f.Name)
	all, err := anyShape(t, family{format: f.Name})
	return &Multiplier{target: t, format: f, tiles: all, pairs: f.Name == kernel.F32}, err
}

// Run computes rows x (32*panels) results. a gives A, B, C, the strides and
// flags; depth products each, the panels panelStep bytes apart.
func (m *Multiplier) Run(s *Scratch, a kernel.Args, rows, depth, panels int) {
	m.RunNeeded(s, a, rows, panels, func(int, int) Need { return Need{0, depth, panels} })
}

// RunNeeded computes of rows x (32*panels) results what is needed: need says so of n rows from
// row r on, and where that is nothing nothing is stored.
func (m *Multiplier) RunNeeded(s *Scratch, a kernel.Args, rows, panels int, need func(r, n int) Need) {
	s.seg = kernel.Segment{}
	a.Segs, a.NSegs = unsafe.Pointer(&s.seg), 1
	group := m.format.GroupBytes() * kernel.Panel
	for at := 0; at < panels; {
		w, n, step := kernel.Full, panels-at, 1
		if n > 1 && m.pairs && m.target.Wide(rows, a.LDA) {
			w, n, step = kernel.Pair, n/2, 2
		}
		s.args = a
		s.args.NR = kernel.Widths[w]
		for r := 0; r < rows; r += s.args.MR {
			s.args.MR = m.target.FormatTile(&m.format, rows-r, w)
			some := need(r, s.args.MR)
			s.args.NTiles, s.seg.Len = min(n, CeilDiv(some.Panels-at, step)), some.Depth-some.From
			if s.args.NTiles <= 0 || s.seg.Len <= 0 {
				continue
			}
			s.args.A = unsafe.Add(a.A, r*a.LDA+some.From*a.KStep)
			s.args.B = unsafe.Add(a.B, at*a.PanelStep+some.From/m.format.KGroup*group)
			s.args.C = unsafe.Add(a.C, r*a.LDC+at*kernel.EntryBytes*kernel.Panel)
			s.Call(m.tiles[w][s.args.MR].run)
		}
		at += n * step
	}
}

// Wrap puts what wrap makes of each kernel in its place: for tests that look at the
// calls.
func (m *Multiplier) Wrap(wrap func(kernel.Func) kernel.Func) { m.tiles = m.tiles.wrapped(wrap) }
