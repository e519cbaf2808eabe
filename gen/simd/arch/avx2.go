package arch

import (
	"math"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/structuredffn/sffn/runtime/kernel"
)

// ymm are the 16 registers of 256 bits, with lanes masked by the sign bits of
// another one.
type ymm struct {
	*build.Context
	hasMasks bool
}

func (*ymm) Lanes() int            { return 8 }
func (*ymm) Bytes() int            { return 32 }
func (*ymm) Constant() int         { return 32 }
func (*ymm) Registers() int        { return 16 }
func (y *ymm) Vec() reg.VecVirtual { return y.YMM() }

func (y *ymm) Zero(v reg.VecVirtual)   { y.VXORPS(v, v, v) }
func (y *ymm) Round(x, dst operand.Op) { y.VROUNDPS(operand.U8(nearest), x, dst) }

// Scale2 adds to the exponent's field.
func (y *ymm) Scale2(n, p reg.VecVirtual) {
	y.VCVTPS2DQ(n, n)
	y.VPSLLD(operand.U8(23), n, n)
	y.VPADDD(n, p, p)
}

func (y *ymm) ZeroBelow(x reg.VecVirtual, limit operand.Mem, p reg.VecVirtual) {
	m := y.Vec()
	y.VCMPPS(operand.U8(notLess), limit, x, m)
	y.VANDPS(m, p, p)
}

const maskTable = "tail_mask"

// FirstLanes loads from a table of as many lanes set as there are, and as many
// clear, n before the border.
func (y *ymm) FirstLanes(n reg.GPVirtual) Mask {
	r := y.GP64()
	if !y.hasMasks {
		y.hasMasks = true
		y.StaticGlobal(maskTable)
		y.DataAttributes(attr.RODATA | attr.NOPTR)
		for i := range 2 * y.Lanes() {
			v := uint32(0)
			if i < y.Lanes() {
				v = math.MaxUint32
			}
			y.AddDatum(kernel.EntryBytes*i, operand.U32(v))
		}
	}
	y.LEAQ(operand.NewDataAddr(operand.NewStaticSymbol(maskTable), y.Bytes()), r)
	back := y.GP64()
	y.MOVQ(n, back)
	y.NEGQ(back)
	bits := y.Vec()
	y.VMOVUPS(indexed(r, back, kernel.EntryBytes), bits)
	return Mask{bits: bits}
}

func (y *ymm) LoadMasked(m operand.Mem, k Mask, v reg.VecVirtual)  { y.VMASKMOVPS(m, k.bits, v) }
func (y *ymm) StoreMasked(v reg.VecVirtual, k Mask, m operand.Mem) { y.VMASKMOVPS(v, k.bits, m) }
func (y *ymm) Keep(k Mask, v reg.VecVirtual)                       { y.VANDPS(k.bits, v, v) }

func (y *ymm) Fill(c operand.Mem, k Mask, v reg.VecVirtual) {
	t := y.Vec()
	y.VMOVUPS(c, t)
	y.VBLENDVPS(k.bits, v, t, v)
}

// StoreLower packs within halves of the register, whose first quarters it then moves
// together.
func (y *ymm) StoreLower(v reg.VecVirtual, m operand.Mem) {
	const firstAndThird = 8
	y.VPACKUSDW(v, v, v)
	y.VPERMQ(operand.U8(firstAndThird), v, v)
	y.VMOVUPS(v.AsX(), m)
}

func (y *ymm) Fold(v reg.VecVirtual, op func(...operand.Op)) reg.Register {
	return foldY(y.Context, v, op)
}

// Spread moves one entry: there is no masked store worth the name.
func (y *ymm) Spread(s Spread) {
	x := y.XMM()
	y.VMOVSS(at(s.Src), x)
	if s.Res != nil {
		y.VADDSS(indexed(s.Res, s.At, 1), x, x)
	}
	y.VMOVSS(x, indexed(s.Dst, s.At, 1))
	step := y.GP64()
	y.MOVQ(s.Step, step)
	y.ADDQ(step, s.At)
	y.ADDQ(operand.U32(kernel.EntryBytes), s.Src)
	y.DECQ(s.N)
}

// Narrow packs within halves, and deals the halves out again.
func (y *ymm) Narrow(vs []reg.VecVirtual, m operand.Mem) {
	p, q, high := y.Vec(), y.Vec(), y.XMM()
	y.VPACKSSDW(vs[1], vs[0], p)
	y.VPACKSSDW(vs[3], vs[2], q)
	y.VPACKSSWB(q, p, p)
	y.VEXTRACTI128(operand.U8(1), p, high)
	low, x := y.XMM(), y.XMM()
	y.VPUNPCKLDQ(high, p.AsX(), low)
	y.VPUNPCKHDQ(high, p.AsX(), x)
	y.VMOVDQU(low, m)
	y.VMOVDQU(x, m.Offset(y.Bytes()/2))
}

// Weaver deals out within halves, single lanes and then pairs, and puts halves together.
func (y *ymm) Weaver(n int) func(vs []reg.VecVirtual) []reg.VecVirtual {
	pair := func(unpack func(...operand.Op), a, b reg.VecVirtual) reg.VecVirtual {
		v := y.Vec()
		unpack(b, a, v)
		return v
	}
	halves := func(which uint8, a, b reg.VecVirtual) reg.VecVirtual {
		v := y.Vec()
		y.VPERM2F128(operand.U8(which), b, a, v)
		return v
	}
	const lower, upper = 0x20, 0x31
	return func(vs []reg.VecVirtual) []reg.VecVirtual {
		ab0, ab1 := pair(y.VUNPCKLPS, vs[0], vs[1]), pair(y.VUNPCKHPS, vs[0], vs[1])
		if n == 2 {
			return []reg.VecVirtual{halves(lower, ab0, ab1), halves(upper, ab0, ab1)}
		}
		cd0, cd1 := pair(y.VUNPCKLPS, vs[2], vs[3]), pair(y.VUNPCKHPS, vs[2], vs[3])
		q0, q1 := pair(y.VUNPCKLPD, ab0, cd0), pair(y.VUNPCKHPD, ab0, cd0)
		q2, q3 := pair(y.VUNPCKLPD, ab1, cd1), pair(y.VUNPCKHPD, ab1, cd1)
		return []reg.VecVirtual{halves(lower, q0, q1), halves(lower, q2, q3), halves(upper, q0, q1), halves(upper, q2, q3)}
	}
}
