package simd

import (
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/structuredffn/sffn/gen/simd/pass"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// rounded rounds the lanes of x to bfloat16, ties to even, in the lower halves of lanes
// whose upper halves are 0. Subnormal numbers become zeros of their sign, NaN stays one.
func (e *asm) rounded(x reg.VecVirtual) reg.VecVirtual {
	if e.native() {
		half, v := e.YMM(), e.Vec()
		e.Instruction(pass.VCVTNEPS2BF16(x, half))
		e.VPMOVZXWD(half, v)
		return v
	}
	v := e.roundBF16(x)
	e.VPSRLD(operand.U8(16), v, v)
	return v
}

// native reports whether there are the instructions of AVX-512 that round to bfloat16.
func (e *asm) native() bool { return e.Lanes() == kernel.HalfPanel }

// roundBF16 is what VCVTNEPS2BF16 does, in instructions that each set has: the upper halves
// of what it returns, whose lower halves hold anything.
func (e *asm) roundBF16(x reg.VecVirtual) reg.VecVirtual {
	a, t, low := e.Vec(), e.Vec(), e.Vec()
	e.VANDPS(e.bits(0x7fffffff), x, a)
	e.VMOVUPS(e.bits(0x7f800000), t)
	e.VPSUBD(a, t, t)
	e.VPSRAD(operand.U8(31), t, t) // all ones where x is NaN
	e.VANDPS(a, t, low)
	e.VANDPS(e.bits(0xffff), low, low)
	e.VPSUBD(low, a, a) // nothing rounds the upper bits of a NaN
	e.VANDPS(e.bits(0x00400000), t, t)
	e.VORPS(t, a, a)
	// Half of the last place that stays, and one more where that is odd.
	e.VPSRLD(operand.U8(16), a, t)
	e.VANDPS(e.bits(1), t, t)
	e.VPADDD(e.bits(0x7fff), t, t)
	e.VPADDD(a, t, t)
	e.VANDPS(e.bits(0x7fffffff), x, a)
	e.ZeroBelow(a, e.bits(0x00800000), t)
	e.VANDPS(e.bits(0x80000000), x, a)
	e.VORPS(a, t, t)
	return t
}

// eachRow runs body over the N entries of each of the rows, with step bytes from one row
// of the first operand to the next, and stride bytes of the others.
func (e *asm) eachRow(operands int, body func(*vecBody)) {
	b := &vecBody{asm: e, ptrs: map[int]reg.GPVirtual{}, idx: e.GP64()}
	for i := range operands {
		b.ptrs[i] = e.load(vecP(i))
	}
	step, stride, rows := e.load(vecStep), e.load(vecStride), e.load(vecRows)
	row := e.label("row")
	e.Label(row)
	e.XORQ(b.idx, b.idx)
	e.vectors(b, e.load(vecN), 2, body)
	e.ADDQ(step, b.ptrs[0])
	for i := 1; i < operands; i++ {
		e.ADDQ(stride, b.ptrs[i])
	}
	e.DECQ(rows)
	e.JNZ(e.jump(row))
}

func (e *asm) bf16() {
	e.eachRow(2, func(b *vecBody) {
		half := b.GP64()
		b.MOVQ(b.idx, half)
		b.SHRQ(operand.U8(1), half)
		x, to := b.ld(1), indexed(b.ptrs[0], half, 1, b.disp/2)
		if b.native() {
			v := b.YMM()
			b.Instruction(pass.VCVTNEPS2BF16(x, v))
			b.VMOVUPS(v, to)
			return
		}
		b.StoreLower(b.rounded(x), to)
	})
}

func (e *asm) bf16Pairs() {
	e.eachRow(3, func(b *vecBody) {
		even, odd := b.rounded(b.ld(1)), b.rounded(b.ld(2))
		b.VPSLLD(operand.U8(16), odd, odd)
		b.VORPS(even, odd, odd)
		b.st(0, odd)
	})
}

func (e *asm) roundedBF16(swap bool) {
	e.eachRow(2, func(b *vecBody) {
		v := b.rounded(b.ld(1))
		b.VPSLLD(operand.U8(16), v, v)
		if swap {
			b.VPSHUFD(operand.U8(0b10_11_00_01), v, v)
		}
		b.st(0, v)
	})
}
