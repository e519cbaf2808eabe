package mul

import (
	"unsafe"

	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/vec"
)

// weaves reports whether the products of a stage are all those whose results lie in turn.
func weaves(ps []*Product) bool {
	if len(ps) == 0 || ps[0].woven != len(ps) {
		return false
	}
	for i, q := range ps {
		if q.woven != len(ps) || q.store[0] != ps[0].store[0]+i || len(q.store) != len(ps[0].store) {
			return false
		}
	}
	return true
}

// weave runs products whose results lie in turn: tile by tile of all of them through scratch,
// from where they are dealt out, so that whole lines are stored at once.
func weave(s *Scratch, ps []*Product, o operands, m int) {
	q, t := ps[0], vec.On(ps[0].target)
	o.meetOutside()
	left, ldLeft := q.leftOf(s, o.src, m)
	tallest := q.tallest(ldLeft)
	for panel := range q.panels {
		width := q.pack.Layout.Width(panel)
		col := q.store[0] + panel*kernel.Panel*len(ps)
		for r := 0; r < m; {
			mr := q.rowTile(min(m-r, tallest), kernel.WidthOf(width))
			for b, p := range ps {
				p.tile(s, o, unsafe.Add(left, r*ldLeft), ldLeft, mr, panel, s.tile[b*mr*width:], width)
			}
			at, next := r*q.DstWidth+col, (r+mr)*q.DstWidth+col
			var add []float32
			if o.residual != nil {
				add = o.residual[at:]
			}
			if r += mr; r >= m {
				next = min(col+kernel.Panel*len(ps), len(o.dst)-1)
			}
			t.Weave(o.dst[at:], s.tile, add, o.dst[next:], len(ps), mr, width, mr*width, q.DstWidth)
		}
	}
}
