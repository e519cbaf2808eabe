package mul

import (
	"fmt"
	"unsafe"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/plan/cpu"
	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/memory"
)

// acrossTiles holds a kernel for each size of a tile whose lanes run across blocks.
type acrossTiles [kernel.MaxMR + 1][kernel.MaxAcross + 1]kernel.Func

// newAcrossTiles lists a target's kernels, which must exist.
func newAcrossTiles(t *kernel.Target) (*acrossTiles, error) {
	all := &acrossTiles{}
	for _, k := range cpu.Across(t) {
		info, err := lookup(k)
		if err != nil {
			return nil, err
		}
		all[k.MR][k.NR] = info.Func
	}
	return all, nil
}

// wrapped is the table with what wrap makes of each kernel.
func (t *acrossTiles) wrapped(wrap func(kernel.Func) kernel.Func) *acrossTiles {
	c := *t
	for i := range c {
		for j, f := range c[i] {
			if f != nil {
				c[i][j] = wrap(f)
			}
		}
	}
	return &c
}

// newAcross binds a product whose lanes run across blocks.
func newAcross(p plan.Product, t *kernel.Target, bias bool, arena *memory.Arena) (*Product, error) {
	if bias || p.Epilogue != kernel.Linear || len(p.KBlocks) != 1 {
		return nil, fmt.Errorf("mul: a product across %d blocks has one block of k and neither bias nor activation, not %d, %v and %q", p.Lanes, len(p.KBlocks), bias, p.Epilogue)
	}
	q := &Product{Product: p, target: t, panels: p.Panels()}
	var err error
	if q.across, err = newAcrossTiles(t); err != nil {
		return nil, err
	}
	q.allocate(false, arena)
	return q, nil
}

// packGroup fills the pack of one group of lanes, [k][column][lane], from the
// canonical blocks.
func (q *Product) packGroup(group int, w []float32, f *plan.Factor) {
	dst := kernel.Floats(q.pack.Panel(0, group))
	columns, depth := f.Out, f.In
	ldCol, ldK := f.In, 1
	if q.Transposed {
		columns, depth, ldCol, ldK = depth, columns, ldK, ldCol
	}
	first := plan.FirstLane(q.Lanes, group)
	for lane := range kernel.LaneGroup {
		block := w[(first+lane)*f.In*f.Out:][:f.In*f.Out]
		at := lane
		for k := range depth {
			for c := range columns {
				dst[at] = block[c*ldCol+k*ldK]
				at += kernel.LaneGroup
			}
		}
	}
}

// runAcross computes m rows of the results of groups of lanes [g0, g1).
func (q *Product) runAcross(s *Scratch, o operands, m, g0, g1 int) {
	if o.weight.Flags != 0 || o.residual != nil {
		panic(fmt.Sprintf("mul: a product across %d blocks stores its sums as they are, and is told flags %b and a residual of %d entries", q.Lanes, o.weight.Flags, len(o.residual)))
	}
	const vector = kernel.EntryBytes * kernel.LaneGroup
	depth, columns, apart := q.Depth(), plan.Len(q.N), kernel.EntryBytes*q.Lanes
	s.seg = kernel.Segment{Len: depth}
	a := &s.args
	*a = kernel.Args{
		Segs: unsafe.Pointer(&s.seg), NSegs: 1,
		LDA: kernel.EntryBytes * q.SrcWidth, KStep: apart, LDB: vector * columns, ColB: vector, LDC: kernel.EntryBytes * q.DstWidth, ColC: apart,
	}
	for g := g0; g < g1; g++ {
		first := plan.FirstLane(q.Lanes, g)
		pack := unsafe.Pointer(&q.pack.From(0, g)[0])
		for r := 0; r < m; r += a.MR {
			a.MR = q.target.Across.NextRows(m - r)
			a.A = unsafe.Pointer(&o.src[r*q.SrcWidth+first])
			q.across.run(s, q.target.Across, pack, unsafe.Pointer(&o.dst[r*q.DstWidth+first]), columns)
		}
	}
}

// run computes the columns of some rows of tiles: all arguments are there but B and C,
// which are those of the first column.
func (t *acrossTiles) run(s *Scratch, size kernel.AcrossTile, b, c unsafe.Pointer, columns int) {
	a := &s.args
	for done := 0; done < columns; {
		a.NR, a.NTiles = size.NextColumns(columns-done), 1
		for done+(a.NTiles+1)*a.NR <= columns && size.NextColumns(columns-done-a.NTiles*a.NR) == a.NR {
			a.NTiles++
		}
		a.B, a.C = unsafe.Add(b, done*a.ColB), unsafe.Add(c, done*a.ColC)
		s.Call(t[a.MR][a.NR])
		done += a.NTiles * a.NR
	}
}

// acrossGradient is the weight gradient of a factor whose lanes run across blocks: for
// a group of them, dW[c,d] = sum over rows of dY[row,c] * X[row,d], lane by lane. Both
// operands are read where they lie.
type acrossGradient struct {
	blocks int
	tiles  *acrossTiles
}

// newAcrossGradient binds a gradient whose lanes run across blocks.
func newAcrossGradient(f plan.Factor, t *kernel.Target) (*acrossGradient, error) {
	tiles, err := newAcrossTiles(t)
	return &acrossGradient{f.Factor.Blocks, tiles}, err
}

// addAcrossUnits splits the gradient into units of about the given number of weights:
// whole groups of lanes.
func (g *Gradient) addAcrossUnits(units []Unit, u Unit, weights int) []Unit {
	all := CeilDiv(g.across.blocks, kernel.LaneGroup)
	each := max(1, weights/(kernel.LaneGroup*g.nIn*g.nOut))
	for u.p0 = 0; u.p0 < all; u.p0 = u.p1 {
		u.p1 = min(all, u.p0+each)
		units = append(units, u)
	}
	return units
}

// runAcross sums the gradients of a unit's groups of lanes, as many at a time as have
// room for their sums in the L2 cache.
func (u *Unit) runAcross(s *Scratch, m int, accumulate bool) {
	if u.weight.Flags != 0 {
		panic(fmt.Sprintf("mul: a gradient across %d blocks is its sums as they are, and is told flags %b", u.across.blocks, u.weight.Flags))
	}
	size := kernel.LaneGroup * u.nIn * u.nOut // of a group's weights
	most := max(1, u.target.GradientBytes/(kernel.EntryBytes*size))
	for g0 := u.p0; g0 < u.p1; g0 += most {
		g1 := min(u.p1, g0+most)
		n := (g1 - g0) * size
		sums := s.floats(&s.sums, 2*n)
		chains, total := sums[:n], sums[n:2*n]
		if accumulate {
			u.eachGroup(total, g0, g1, gatherLanes)
		} else if m == 0 {
			clear(total)
		}
		for m0 := 0; m0 < m; m0 += kernel.RowBlock {
			rows := min(kernel.RowBlock, m-m0)
			if m0 == 0 && !accumulate {
				u.chains(s, total, g0, g1, m0, rows)
				continue
			}
			u.chains(s, chains, g0, g1, m0, rows)
			u.vec.Axpy(total, 1, chains)
		}
		u.eachGroup(total, g0, g1, scatterLanes)
	}
}

// eachGroup moves weights between dW and sums of groups of lanes, [group][out][in][lane],
// but for the blocks that a group has in common with the one before.
func (u *Unit) eachGroup(sums []float32, g0, g1 int, move func(sums, dw []float32, lane, n int)) {
	n := u.nIn * u.nOut
	for g := g0; g < g1; g++ {
		first := plan.FirstLane(u.across.blocks, g)
		for lane := g*kernel.LaneGroup - first; lane < kernel.LaneGroup; lane++ {
			move(sums[(g-g0)*kernel.LaneGroup*n:][:kernel.LaneGroup*n], u.dw[(first+lane)*n:][:n], lane, n)
		}
	}
}

// scatterLanes takes one lane's weights out of a group's sums.
func scatterLanes(sums, dw []float32, lane, n int) {
	for i := range dw {
		dw[i] = sums[i*kernel.LaneGroup+lane]
	}
}

// gatherLanes puts them there.
func gatherLanes(sums, dw []float32, lane, n int) {
	for i, v := range dw {
		sums[i*kernel.LaneGroup+lane] = v
	}
}

// chains fills sums, [group][out][in][lane], with one chain each over the rows from m0
// on. Few rows pass at a time, over all groups, each of which goes on where it stopped:
// what lies side by side is read at about the same time.
func (u *Unit) chains(s *Scratch, sums []float32, g0, g1, m0, rows int) {
	const vector = kernel.EntryBytes * kernel.LaneGroup
	a, size := &s.args, u.target.Across
	apart := kernel.EntryBytes * u.across.blocks
	*a = kernel.Args{
		Segs: unsafe.Pointer(&s.seg), NSegs: 1,
		LDA: apart, KStep: kernel.EntryBytes * u.outWidth, LDB: kernel.EntryBytes * u.inWidth, ColB: apart, LDC: vector * u.nIn, ColC: vector,
	}
	from := kernel.Flags(0)
	for r := 0; r < rows; r += s.seg.Len {
		s.seg = kernel.Segment{Len: min(size.Depth, rows-r)}
		at := 0
		for g := g0; g < g1; g++ {
			first := plan.FirstLane(u.across.blocks, g)
			x := unsafe.Pointer(&u.x[(m0+r)*u.inWidth+first])
			for c := 0; c < u.nOut; c += a.MR {
				a.MR, a.Flags = size.NextRows(u.nOut-c), from
				if c == 0 {
					a.Flags |= kernel.AskB // which the other tiles read, too
				}
				a.A = unsafe.Pointer(&u.dy[(m0+r)*u.outWidth+c*u.across.blocks+first])
				u.across.tiles.run(s, size, x, unsafe.Pointer(&sums[at]), u.nIn)
				at += a.MR * u.nIn * kernel.LaneGroup
			}
		}
		from = kernel.Continue
	}
}
