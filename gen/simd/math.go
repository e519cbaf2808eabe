package simd

import (
	"math"

	"github.com/mmcloughlin/avo/reg"
)

// The functions here work on whole registers and need few temporaries, so
// that a matrix product can call them while its accumulators are live. All
// register files run the same operations in the same order: a lane has the same
// bits on each.

// Minimax polynomials of degree 6 with p(0) = 1, relative error 2.0e-9.
var (
	// 2^f for f in [-1/2, 1/2].
	exp2Poly = [...]float32{1, 0.6931472028550825, 0.24022647913626755, 0.05550332471099234, 0.00961843735779506, 0.0013398874422616079, 0.00015353361897175216}
	// e^f for f in [-ln2/2, ln2/2].
	expPoly = [...]float32{1, 1.000000032165084, 0.49999994209041015, 0.16666431262526335, 0.04166800203639478, 0.008374155317419172, 0.001384365349133109}
)

const log2e = 1.4426950408889634

// ln2 in two parts, the first exact times any exponent.
const (
	ln2Hi = 0.693359375
	ln2Lo = math.Ln2 - ln2Hi
)

// poly evaluates the polynomial at f into p.
func (e *asm) poly(c []float32, f, p reg.VecVirtual) {
	e.VMOVUPS(e.constant(c[len(c)-1]), p)
	for i := len(c) - 2; i >= 0; i-- {
		e.VFMADD213PS(e.constant(c[i]), f, p)
	}
}

// exp2 replaces t by 2^t: from 128 on it is infinite, below -126 that of -126;
// NaN counts as 128. At 128 the remainder is 0 and the polynomial 1, so that the
// exponent's field alone overflows, however it is scaled.
func (e *asm) exp2(t reg.VecVirtual) {
	n, p := e.Vec(), e.Vec()
	e.VMINPS(e.constant(128), t, t)
	e.VMAXPS(e.constant(-126), t, t)
	e.Round(t, n)
	e.VSUBPS(n, t, t)
	e.poly(exp2Poly[:], t, p)
	e.Scale2(n, p)
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
	n, p, f := e.Vec(), e.Vec(), e.Vec()
	// The first operand is what MINPS and MAXPS return for NaN: keep x there.
	e.VMOVUPS(e.constant(expMax), f)
	e.VMINPS(x, f, f)
	e.VMOVUPS(e.constant(expMin), p)
	e.VMAXPS(f, p, f)
	e.VMULPS(e.constant(log2e), f, n)
	e.Round(n, n)
	// Cody and Waite: ln2 in two parts.
	e.VFNMADD231PS(e.constant(ln2Hi), n, f)
	e.VFNMADD231PS(e.constant(ln2Lo), n, f)
	e.poly(expPoly[:], f, p)
	e.Scale2(n, p)
	e.ZeroBelow(x, e.constant(expMin), p)
	e.VMOVAPS(p, x)
}
