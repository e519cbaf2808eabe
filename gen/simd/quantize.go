package simd

import (
	"github.com/mmcloughlin/avo/operand"

	"github.com/structuredffn/sffn/runtime/kernel"
)

// largest compares magnitudes as integers, in whose order NaN comes last.
func largest(e *asm) {
	acc := e.sums(reduceUnroll)
	e.loop(reduceUnroll, []int{0, 1}, func(b *vecBody) {
		x, f := b.ld(0), b.ld(1)
		b.VMULPS(f, x, x)
		b.VANDPS(b.bits(0x7fffffff), x, x)
		b.VPMAXUD(x, acc[b.u], acc[b.u])
	})
	e.result(0, acc, e.VPMAXUD)
}

// quantize writes a group after the other.
func quantize(e *asm) {
	inverse := e.scalar(0)
	dst, x, f, n := e.load(vecP(0)), e.load(vecP(1)), e.load(vecP(2)), e.load(vecN)
	l := e.label("group")
	e.Label(l)
	vs := e.vecs(kernel.QuantGroup / e.Lanes())
	for j, v := range vs {
		e.VMOVUPS(mem(x, j*e.Bytes()), v)
		e.VMULPS(mem(f, j*e.Bytes()), v, v)
		e.VMULPS(inverse, v, v)
		e.VCVTPS2DQ(v, v)
	}
	e.Narrow(vs, mem(dst, 4))
	for _, v := range vs[1:] {
		e.VPADDD(v, vs[0], vs[0])
	}
	sum, minus := e.Fold(vs[0], e.VPADDD), e.XMM()
	e.VPXOR(minus, minus, minus)
	e.VPSUBD(sum, minus, minus)
	e.VPSLLD(operand.U8(3), minus, minus)
	e.VMOVD(minus, mem(dst, 0))
	e.ADDQ(operand.U8(kernel.LeftGroupBytes), dst)
	e.ADDQ(operand.U32(kernel.EntryBytes*kernel.QuantGroup), x)
	e.ADDQ(operand.U32(kernel.EntryBytes*kernel.QuantGroup), f)
	e.SUBQ(operand.U8(kernel.QuantGroup), n)
	e.JG(e.jump(l))
}
