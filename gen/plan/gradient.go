package plan

import (
	"slices"

	"github.com/structuredffn/sffn/runtime/kernel"
)

// Gradient plans one block's weight gradient,
//
//	dW[c,d] = sum over rows of dY[row, place of c] * X[row, place of d].
//
// The kernel multiplies strips of dY with panels of X. Both are packed in the
// order in which they are stored, wherever the block's segments are long
// enough, and the results find their canonical place.
type Gradient struct {
	Block int
	// Strips cut the rows of dW.
	Strips []Strip
	// In lists where the inputs are stored, in the order of the panels, and
	// Canon which column of dW each belongs to.
	In, Canon []int
}

// Strip is what one kernel call makes of a panel: rows Row, Row+RowStep, ...
// of dW. Store lists where their outputs lie in a row of dY.
type Strip struct {
	Store        []int
	Row, RowStep int
}

// Direct reports whether the panels' columns are those of dW, in order.
// Otherwise the results are summed aside and put in order once.
func (g Gradient) Direct() bool { return Step(g.Canon) == 1 }

// Step is the distance between neighbours where all are equally far apart and
// in ascending order, 1 for a single index, and otherwise 0.
func Step(idx []int) int {
	if len(idx) < 2 {
		return 1
	}
	step := idx[1] - idx[0]
	for i := range idx[1:] {
		if idx[i+1]-idx[i] != step || step < 1 {
			return 0
		}
	}
	return step
}

// Gradients lists the weight gradients of the factor's blocks on a schedule.
func Gradients(f Factor, sched *kernel.Schedule) []Gradient {
	var gs []Gradient
	for i, b := range f.Blocks {
		g := Gradient{Block: i}
		for _, s := range stretches(slices.Concat(b.Out, b.Up), sched.StripRows) {
			for len(s) > 0 {
				g.Strips = append(g.Strips, newStrip(s[:sched.NextStrip(len(s))]))
				s = s[sched.NextStrip(len(s)):]
			}
		}
		for _, s := range stretches(b.In, kernel.Panel) {
			for _, p := range s {
				g.In, g.Canon = append(g.In, p.store), append(g.Canon, p.canon)
			}
		}
		gs = append(gs, g)
	}
	return gs
}

func newStrip(ps []place) Strip {
	s := Strip{Row: ps[0].canon, RowStep: 1}
	if len(ps) > 1 {
		s.RowStep = ps[1].canon - ps[0].canon
	}
	for _, p := range ps {
		s.Store = append(s.Store, p.store)
	}
	return s
}

// stretches lists the places of each segment, or, where one of several is
// shorter than least, all places in canonical order: packing then gathers.
func stretches(segs []Seg, least int) [][]place {
	var all [][]place
	gather := false
	for _, s := range segs {
		var ps []place
		for i := range s.Store.Len {
			ps = append(ps, place{s.Store.At(i), s.Canon.At(i)})
		}
		all = append(all, ps)
		gather = gather || len(segs) > 1 && len(ps) < least
	}
	if !gather {
		return all
	}
	one := slices.Concat(all...)
	slices.SortFunc(one, func(a, b place) int { return a.canon - b.canon })
	return [][]place{one}
}
