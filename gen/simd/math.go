package simd

import (
	"math"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/structuredffn/sffn/runtime/kernel"
)

// The functions here work on whole registers and need few temporaries, so
// that a matrix product can call them while its accumulators are live. Both
// instruction sets run the same operations in the same order: a lane has the
// same bits on each.

// Minimax polynomials of degree 6 with p(0) = 1, relative error 2.0e-9.
var (
	// 2^f for f in [-1/2, 1/2].
	exp2Poly = [...]float32{1, 0.6931472028550825, 0.24022647913626755, 0.05550332471099234, 0.00961843735779506, 0.0013398874422616079, 0.00015353361897175216}
	// e^f for f in [-ln2/2, ln2/2].
	expPoly = [...]float32{1, 1.000000032165084, 0.49999994209041015, 0.16666431262526335, 0.04166800203639478, 0.008374155317419172, 0.001384365349133109}
)

const log2e = 1.4426950408889634

// round rounds to the nearest integer, ties to even.
func (e *asm) round(x, dst operand.Op) {
	if e.isa == kernel.AVX512 {
		e.VRNDSCALEPS(operand.U8(8), x, dst)
		return
	}
	e.VROUNDPS(operand.U8(8), x, dst)
}

// poly evaluates the polynomial at f into p.
func (e *asm) poly(c []float32, f, p reg.VecVirtual) {
	e.VMOVUPS(e.constant(c[len(c)-1]), p)
	for i := len(c) - 2; i >= 0; i-- {
		e.VFMADD213PS(e.constant(c[i]), f, p)
	}
}

// scale2 multiplies p by 2^n, n being integers as floats; n is destroyed.
func (e *asm) scale2(n, p reg.VecVirtual) {
	if e.isa == kernel.AVX512 {
		e.VSCALEFPS(n, p, p)
		return
	}
	e.VCVTPS2DQ(n, n)
	e.VPSLLD(operand.U8(23), n, n)
	e.VPADDD(n, p, p)
}

// exp2 replaces t by 2^t: from 128 on it is infinite, below -126 that of -126;
// NaN counts as 128. At 128 the remainder is 0 and the polynomial 1, so that the
// exponent's field alone overflows, on both instruction sets.
func (e *asm) exp2(t reg.VecVirtual) {
	n, p := e.vec(), e.vec()
	e.VMINPS(e.constant(128), t, t)
	e.VMAXPS(e.constant(-126), t, t)
	e.round(t, n)
	e.VSUBPS(n, t, t)
	e.poly(exp2Poly[:], t, p)
	e.scale2(n, p)
	e.VMOVAPS(p, t)
}

// Arguments of exp beyond these give 2^127 and 0.
const (
	expMax = 88.02969
	expMin = -87.33654
)

// exp replaces x by e^x. Below -87.3, where the result would be subnormal, it
// is 0; NaN stays NaN.
func (e *asm) exp(x reg.VecVirtual) {
	n, p, f := e.vec(), e.vec(), e.vec()
	// The first operand is what MINPS and MAXPS return for NaN: keep x there.
	e.VMOVUPS(e.constant(expMax), f)
	e.VMINPS(x, f, f)
	e.VMOVUPS(e.constant(expMin), p)
	e.VMAXPS(f, p, f)
	e.VMULPS(e.constant(log2e), f, n)
	e.round(n, n)
	// Cody and Waite: ln2 in two parts, the first exact times any n.
	const ln2Hi = 0.693359375
	e.VFNMADD231PS(e.constant(ln2Hi), n, f)
	e.VFNMADD231PS(e.constant(float32(math.Ln2-ln2Hi)), n, f)
	e.poly(expPoly[:], f, p)
	e.scale2(n, p)
	e.zeroBelow(x, expMin, p)
	e.VMOVAPS(p, x)
}

// zeroBelow clears the lanes of p where x < limit.
func (e *asm) zeroBelow(x reg.VecVirtual, limit float32, p reg.VecVirtual) {
	const notLess = 5 // NLT: unordered counts as not less
	if e.isa == kernel.AVX512 {
		k := e.K()
		e.VCMPPS(operand.U8(notLess), e.constant(limit), x, k)
		e.VMOVAPS_Z(p, k, p)
		return
	}
	m := e.vec()
	e.VCMPPS(operand.U8(notLess), e.constant(limit), x, m)
	e.VANDPS(m, p, p)
}

// The tanh form of GELU is x * sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3).
// geluC0 and geluC1 give -2u log2(e) = x (C0 + C1 x^2).
var (
	geluC0 = float32(-2 * math.Sqrt(2/math.Pi) * log2e)
	geluC1 = float32(-2 * math.Sqrt(2/math.Pi) * 0.044715 * log2e)
)

// gelu replaces x by gelu(x). Absolute error below 1e-6 max(1, |x|); for large
// negative x it divides by infinity, which gives 0, and NaN of minus infinity.
func (e *asm) gelu(x reg.VecVirtual) {
	t := e.vec()
	e.geluExp(x, t)
	e.VADDPS(e.constant(1), t, t)
	e.VDIVPS(t, x, x)
}

// geluExp sets t to exp(-2u). Where x^2 overflows, so does the exponent, with
// the sign of -x.
func (e *asm) geluExp(x, t reg.VecVirtual) {
	e.VMULPS(x, x, t)
	e.VMULPS(e.constant(geluC1), t, t)
	e.VADDPS(e.constant(geluC0), t, t)
	e.VMULPS(x, t, t)
	e.exp2(t)
}
