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
	tiles  *tiles
	pairs  bool // of panels have tiles
}

// NewMultiplier binds the any-shape kernels of a target, for packs of a format that reads
// the left operand where it lies.
func NewMultiplier(t *kernel.Target, format kernel.FormatName) (*Multiplier, error) {
	f, _ := format.Format()
	if f.Packs() {
		return nil, fmt.Errorf("mul: %s packs its left operand, want a format that does not", f.Name)
	}
	t = t.For(f.Name)
	all, err := anyShape(t, family{format: f.Name})
	return &Multiplier{target: t, tiles: all, pairs: f.Name == kernel.F32}, err
}

// Run computes rows x (32*panels) results. a gives A, B, C, the strides and
// flags; depth products each, the panels panelStep bytes apart.
func (m *Multiplier) Run(s *Scratch, a kernel.Args, rows, depth, panels int) {
	s.seg = kernel.Segment{Len: depth}
	a.Segs, a.NSegs = unsafe.Pointer(&s.seg), 1
	for at := 0; at < panels; {
		w, n, step := kernel.Full, panels-at, 1
		if n > 1 && m.pairs && m.target.Wide(rows, a.LDA) {
			w, n, step = kernel.Pair, n/2, 2
		}
		s.args = a
		s.args.B = unsafe.Add(a.B, at*a.PanelStep)
		s.args.NTiles, s.args.NR = n, kernel.Widths[w]
		for r := 0; r < rows; r += s.args.MR {
			s.args.MR = m.target.RowTile(rows-r, w)
			s.args.A = unsafe.Add(a.A, r*a.LDA)
			s.args.C = unsafe.Add(a.C, r*a.LDC+at*kernel.EntryBytes*kernel.Panel)
			s.Call(m.tiles[w][s.args.MR].run)
		}
		at += n * step
	}
}

// Wrap puts what wrap makes of each kernel in its place: for tests that look at the
// calls.
func (m *Multiplier) Wrap(wrap func(kernel.Func) kernel.Func) { m.tiles = m.tiles.wrapped(wrap) }
