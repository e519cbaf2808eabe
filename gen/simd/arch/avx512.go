package arch

import (
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
	"github.com/mmcloughlin/avo/x86"
)

// zmm are the 32 registers of 512 bits, with lanes masked by registers of their own.
type zmm struct {
	*build.Context
	label  func(string) string
	vector func(lanes []uint32) operand.Mem
}

func (*zmm) Lanes() int            { return 16 }
func (*zmm) Bytes() int            { return 64 }
func (*zmm) Constant() int         { return 4 }
func (*zmm) Registers() int        { return 32 }
func (z *zmm) Vec() reg.VecVirtual { return z.ZMM() }

// Zero reads nothing: avo's tables do not say so, and would keep v for its sake.
func (z *zmm) Zero(v reg.VecVirtual) {
	clear, err := x86.VPXORD(v, v, v)
	if err != nil {
		panic(err)
	}
	clear.CancellingInputs = true
	z.Instruction(clear)
}

func (z *zmm) Round(x, dst operand.Op)    { z.VRNDSCALEPS(operand.U8(nearest), x, dst) }
func (z *zmm) Scale2(n, p reg.VecVirtual) { z.VSCALEFPS(n, p, p) }

func (z *zmm) ZeroBelow(x reg.VecVirtual, limit operand.Mem, p reg.VecVirtual) {
	k := z.K()
	z.VCMPPS(operand.U8(notLess), limit, x, k)
	z.VMOVAPS_Z(p, k, p)
}

func (z *zmm) FirstLanes(n reg.GPVirtual) Mask {
	r, k := z.GP64(), z.K()
	z.MOVQ(n, reg.RCX)
	z.MOVQ(operand.U32(1), r)
	z.SHLQ(reg.CL, r)
	z.DECQ(r)
	z.KMOVW(r.As32(), k)
	return Mask{k: k}
}

func (z *zmm) LoadMasked(m operand.Mem, k Mask, v reg.VecVirtual)  { z.VMOVUPS_Z(m, k.k, v) }
func (z *zmm) StoreMasked(v reg.VecVirtual, k Mask, m operand.Mem) { z.VMOVUPS(v, k.k, m) }
func (z *zmm) Keep(k Mask, v reg.VecVirtual)                       { z.VMOVAPS_Z(v, k.k, v) }

func (z *zmm) Fill(c operand.Mem, k Mask, v reg.VecVirtual) {
	t := z.Vec()
	z.VMOVUPS(c, t)
	z.VMOVAPS(v, k.k, t)
	z.VMOVAPS(t, v)
}

func (z *zmm) StoreLower(v reg.VecVirtual, m operand.Mem) { z.VPMOVDW(v, m) }

func (z *zmm) Fold(v reg.VecVirtual, op func(...operand.Op)) reg.Register {
	y, h := v.AsY(), z.YMM()
	z.VEXTRACTF64X4(operand.U8(1), v, h)
	op(h, y, y)
	return foldY(z.Context, v, op)
}

// spreadEntry is the size of one entry of vec.spreadTable: the lanes of a
// permutation, and its mask.
const spreadEntry = 68

// Spread turns a vector into Step/4 vectors with holes, by the permutations and
// masks of the table.
func (z *zmm) Spread(s Spread) {
	x, v, table, count, l := z.Vec(), z.Vec(), z.GP64(), z.GP64(), z.label("vector")
	z.MOVQ(s.Table, table)
	z.MOVQ(s.Step, count)
	z.SHRQ(operand.U8(2), count)
	z.VMOVUPS(at(s.Src), x)
	z.Label(l)
	idx, k := z.Vec(), z.K()
	z.VMOVUPS(at(table), idx)
	z.KMOVW(at(table).Offset(64), k)
	z.VPERMPS(x, idx, v)
	if s.Res != nil {
		old := z.Vec()
		z.VMOVUPS_Z(indexed(s.Res, s.At, 1), k, old)
		z.VADDPS(old, v, v)
	}
	z.VMOVUPS(v, k, indexed(s.Dst, s.At, 1))
	z.ADDQ(operand.U32(spreadEntry), table)
	z.ADDQ(operand.U32(uint32(z.Bytes())), s.At)
	z.DECQ(count)
	z.JNZ(operand.LabelRef(l))
	z.ADDQ(operand.U32(uint32(z.Bytes())), s.Src)
	z.SUBQ(operand.U32(uint32(z.Lanes())), s.N)
}

func (z *zmm) Narrow(vs []reg.VecVirtual, m operand.Mem) {
	for i, v := range vs {
		z.VPMOVDB(v, m.Offset(i*z.Lanes()))
	}
}

// Weaver has one permutation of two vectors for each half of what comes out, first of single
// lanes, then of pairs.
func (z *zmm) Weaver(n int) func(vs []reg.VecVirtual) []reg.VecVirtual {
	var by [2][2]reg.VecVirtual // group of 1 or 2 lanes, half
	for g := 1; g < n; g *= 2 {
		for half := range 2 {
			lanes := make([]uint32, z.Lanes())
			for i := range lanes {
				from := half*z.Lanes()/2 + i/(2*g)*g + i%g
				lanes[i] = uint32(i/g%2*z.Lanes() + from)
			}
			by[g/2][half] = z.Vec()
			z.VMOVUPS(z.vector(lanes), by[g/2][half])
		}
	}
	// pair deals out groups of x and y in turn.
	pair := func(g int, x, y reg.VecVirtual) (low, high reg.VecVirtual) {
		high = z.Vec()
		z.VMOVAPS(x, high)
		z.VPERMT2PS(y, by[g/2][0], x)
		z.VPERMT2PS(y, by[g/2][1], high)
		return x, high
	}
	return func(vs []reg.VecVirtual) []reg.VecVirtual {
		ab0, ab1 := pair(1, vs[0], vs[1])
		if n == 2 {
			return []reg.VecVirtual{ab0, ab1}
		}
		cd0, cd1 := pair(1, vs[2], vs[3])
		q0, q1 := pair(2, ab0, cd0)
		q2, q3 := pair(2, ab1, cd1)
		return []reg.VecVirtual{q0, q1, q2, q3}
	}
}
