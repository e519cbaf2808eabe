package simd

import (
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// roundBF16 rounds the lanes of x to bfloat16, ties to even: the upper halves of what it
// returns, whose lower halves hold anything. Subnormal numbers become zeros of their sign,
// NaN stays one: what VCVTNEPS2BF16 does, in instructions that each set has.
func (e *asm) roundBF16(x reg.VecVirtual) reg.VecVirtual {
	a, t := e.Vec(), e.Vec()
	e.VANDPS(e.bits(0x7fffffff), x, a)
	e.VMOVUPS(e.bits(0x7f800000), t)
	e.VPSUBD(a, t, t)
	e.VPSRAD(operand.U8(31), t, t) // all ones where x is NaN
	e.VANDPS(e.bits(0x00400000), t, t)
	e.VPMINSD(e.bits(0x7fff0000), a, a) // a NaN that rounding would carry over
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

// upper clears the lower halves of the lanes.
func (e *asm) upper(v reg.VecVirtual) { e.VANDPS(e.bits(0xffff0000), v, v) }

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
		v := b.roundBF16(b.ld(1))
		b.VPSRLD(operand.U8(16), v, v)
		half := b.GP64()
		b.MOVQ(b.idx, half)
		b.SHRQ(operand.U8(1), half)
		b.StoreLower(v, indexed(b.ptrs[0], half, 1, b.disp/2))
	})
}

func (e *asm) bf16Pairs() {
	e.eachRow(3, func(b *vecBody) {
		even, odd := b.roundBF16(b.ld(1)), b.roundBF16(b.ld(2))
		b.VPSRLD(operand.U8(16), even, even)
		b.upper(odd)
		b.VORPS(even, odd, odd)
		b.st(0, odd)
	})
}

func (e *asm) roundedBF16() {
	e.eachRow(2, func(b *vecBody) {
		v := b.roundBF16(b.ld(1))
		b.upper(v)
		b.st(0, v)
	})
}
