package kerneltest

import (
	"fmt"
	"math/rand/v2"
	"unsafe"

	"github.com/structuredffn/sffn/internal/bound"
	"github.com/structuredffn/sffn/internal/guard"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// vectors is a two-dimensional operand of a kernel whose lanes run across blocks:
// vector (i,j) begins at entry i*first + j*second.
type vectors struct{ first, second, n, m int }

// newVectors lays n x m vectors out with room between them, the one or the other index
// in neighbouring places.
func newVectors(n, m int, swapped bool) vectors {
	const apart = kernel.LaneGroup + 3
	if swapped {
		return vectors{apart, n*apart + 2, n, m}
	}
	return vectors{m*apart + 2, apart, n, m}
}

// size is the number of entries from the first to the last.
func (v vectors) size() int { return v.at(v.n-1, v.m-1, kernel.LaneGroup) }

func (v vectors) at(i, j, lane int) int { return i*v.first + j*v.second + lane }

// each calls f with the place of every entry.
func (v vectors) each(f func(at int)) {
	for i := range v.n {
		for j := range v.m {
			for l := range kernel.LaneGroup {
				f(v.at(i, j, l))
			}
		}
	}
}

// checkAcross runs a kernel whose lanes run across blocks, on operands of every form
// that it is called with: rows of a layer beside a pack, and two rows beside sums.
func (m *room) checkAcross(k kernel.Info) error {
	r := rand.New(rand.NewPCG(8, 8))
	for _, depth := range []int{1, 2, 5, 33} {
		for form := range 4 {
			for _, tiles := range []int{1, 2} {
				for _, side := range guard.Sides {
					if err := m.solveAcross(k, r, depth, tiles, form, side); err != nil {
						return fmt.Errorf("depth %d tiles %d form %d, buffers that border on protected memory at the %v: %w", depth, tiles, form, side, err)
					}
				}
			}
		}
	}
	return nil
}

func (m *room) solveAcross(k kernel.Info, r *rand.Rand, depth, tiles, form int, side guard.Side) error {
	swapped := form&1 != 0
	la, lb, lc := newVectors(k.MR, depth, swapped), newVectors(depth, tiles*k.NR, swapped), newVectors(k.MR, tiles*k.NR, !swapped)
	fill := func(p *guard.Pages, v vectors) []float32 {
		x := p.Floats(v.size(), side)
		v.each(func(at int) { x[at] = float32(r.NormFloat64()) })
		return x
	}
	a, b := fill(m.a, la), fill(m.b, lb)
	args := kernel.Args{MR: k.MR, NR: k.NR, NTiles: tiles, NSegs: 1, A: unsafe.Pointer(&a[0]), B: unsafe.Pointer(&b[0]),
		LDA: 4 * la.first, KStep: 4 * la.second, LDB: 4 * lb.first, ColB: 4 * lb.second, LDC: 4 * lc.first, ColC: 4 * lc.second}
	seg := kernel.Segment{Len: depth}
	args.Segs = unsafe.Pointer(&seg)
	c := m.c.Floats(lc.size(), side) // poison
	if form&2 != 0 {
		c = fill(m.c, lc)
		args.Flags = kernel.Continue | kernel.AskB
	}
	args.C = unsafe.Pointer(&c[0])
	before := append([]float32(nil), c...)
	if err := guard.Catch(func() { k.Func(&args) }); err != nil {
		return err
	}
	stored := make([]bool, len(c))
	for i := range lc.n {
		for j := range lc.m {
			for l := range kernel.LaneGroup {
				at := lc.at(i, j, l)
				stored[at] = true
				var chain bound.Chain
				bits := float32(0)
				if args.Flags != 0 {
					bits = before[at]
					chain.Add(1, bound.Of(bits))
				}
				for d := range depth {
					x, y := a[la.at(i, d, l)], b[lb.at(d, j, l)]
					chain.Add(float64(x), bound.Of(y))
					bits = bound.FMA(x, y, bits)
				}
				want := chain.Num()
				if k.ISA != kernel.Portable {
					want = bound.Of(bits)
				}
				if !want.Holds(c[at]) {
					return fmt.Errorf("flags %b: lane %d of entry %d,%d of C is %v, want %v within %.2g", args.Flags, l, i, j, c[at], want.V, want.E)
				}
			}
		}
	}
	for at := range c {
		if !stored[at] && !same(c[at], before[at]) {
			return fmt.Errorf("entry %d of C changed, which lies between its vectors", at)
		}
	}
	return nil
}
