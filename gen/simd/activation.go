package simd

import (
	"math"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/structuredffn/sffn/runtime/kernel"
)

// activation is a row of the table of activations: a function of one column, of gated
// ones that of the gate.
type activation struct {
	// value replaces x by the function.
	value func(e *asm, x reg.VecVirtual)
	// slope returns it and its derivative; x is destroyed.
	slope func(e *asm, x reg.VecVirtual) (y, dy reg.VecVirtual)
}

// activations has a row for each epilogue but none.
var activations = map[kernel.Epilogue]activation{
	kernel.GELU:    {(*asm).gelu, (*asm).geluSlope},
	kernel.GELUErf: {(*asm).geluErf, (*asm).geluErfSlope},
	kernel.SwiGLU:  {(*asm).silu, (*asm).siluSlope},
}

// storeActivated stores the tile's results. A gated one has its sums in registers.
// Others store the sums, and walk them again where they lie: a copy of the function
// for each vector of a row, not for each of the tile, and all registers for it.
func (m *tile) storeActivated() {
	act := activations[m.Epilogue]
	if m.Epilogue.Gated() {
		m.store(func(i int) []reg.VecVirtual {
			gates, ups := m.gates(i), m.ups(i)
			for j, u := range ups {
				act.value(m.asm, gates[j])
				m.VMULPS(gates[j], u, u)
			}
			return ups
		})
		return
	}
	m.store(func(i int) []reg.VecVirtual { return m.acc[i] })
	p, stride, n := m.load(argC), m.load(argLDC), m.GP64()
	m.addColumns(p, m.stored())
	m.MOVQ(operand.U32(uint32(m.MR)), n)
	row := m.label("row")
	m.Label(row)
	for j := 0; j < len(m.columnAt); j += 2 {
		m.alternate(min(2, len(m.columnAt)-j), func(i int) {
			x, at := m.Vec(), mem(p, (j+i)*m.Bytes())
			m.VMOVUPS(at, x)
			act.value(m.asm, x)
			m.VMOVUPS(x, at)
		})
	}
	m.ADDQ(stride, p)
	m.DECQ(n)
	m.JNZ(m.jump(row))
}

// emitActivations adds the elementwise operations of the activations.
func emitActivations(of map[kernel.VecOp]func(*asm)) {
	for epilogue, act := range activations {
		forward, backward := epilogue.Ops()
		if epilogue.Gated() {
			of[forward], of[backward] = act.gated, act.gatedBackward
		} else {
			of[forward], of[backward] = act.forward, act.backward
		}
	}
}

func (act activation) forward(e *asm) {
	e.loop(2, []int{0, 1}, func(b *vecBody) {
		x := b.ld(1)
		act.value(e, x)
		b.st(0, x)
	})
}

func (act activation) backward(e *asm) {
	e.loop(1, []int{0, 1, 2, 3}, func(b *vecBody) {
		h, da := b.ld(2), b.ld(3)
		y, dy := act.slope(e, h)
		b.st(0, y)
		b.VMULPS(dy, da, da)
		b.st(1, da)
	})
}

func (act activation) gated(e *asm) {
	e.loop(2, []int{0, 1, 2}, func(b *vecBody) {
		g, u := b.ld(1), b.ld(2)
		act.value(e, g)
		b.VMULPS(g, u, u)
		b.st(0, u)
	})
}

func (act activation) gatedBackward(e *asm) {
	e.loop(1, []int{0, 1, 2, 3, 4, 5}, func(b *vecBody) {
		g, u, da := b.ld(3), b.ld(4), b.ld(5)
		y, dy := act.slope(e, g)
		v := b.Vec()
		b.VMULPS(y, u, v)
		b.st(0, v)
		b.VMULPS(y, da, v)
		b.st(2, v)
		b.VMULPS(u, dy, dy)
		b.VMULPS(da, dy, dy)
		b.st(1, dy)
	})
}

// silu replaces x by x * sigmoid(x), as a quotient.
func (e *asm) silu(x reg.VecVirtual) {
	t := e.Vec()
	e.siluExp(x, t)
	e.VDIVPS(t, x, x)
}

// siluExp sets t to 1 + exp(-x).
func (e *asm) siluExp(x, t reg.VecVirtual) {
	e.VMULPS(e.constant(-log2e), x, t)
	e.exp2(t)
	e.VADDPS(e.constant(1), t, t)
}

// siluSlope is silu = x s, s = sigmoid(x), and its derivative s + silu (1-s).
func (e *asm) siluSlope(x reg.VecVirtual) (y, dy reg.VecVirtual) {
	t, s := e.Vec(), e.Vec()
	e.siluExp(x, t)
	e.VMOVUPS(e.constant(1), s)
	e.VDIVPS(t, s, s)
	e.VMULPS(x, s, x)
	e.VMOVUPS(e.constant(1), t)
	e.VSUBPS(s, t, t)
	e.VFMADD231PS(x, t, s)
	return x, s
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
	t := e.Vec()
	e.geluExp(x, t)
	e.VDIVPS(t, x, x)
}

// geluExp sets t to 1 + exp(-2u). Where x^2 overflows, so does the exponent, with
// the sign of -x.
func (e *asm) geluExp(x, t reg.VecVirtual) {
	e.VMULPS(x, x, t)
	e.VMULPS(e.constant(geluC1), t, t)
	e.VADDPS(e.constant(geluC0), t, t)
	e.VMULPS(x, t, t)
	e.exp2(t)
	e.VADDPS(e.constant(1), t, t)
}

// geluSlope is gelu = x s, s = sigmoid(2u), and its derivative s + gelu (1-s) 2u'.
func (e *asm) geluSlope(x reg.VecVirtual) (y, dy reg.VecVirtual) {
	s, t := e.Vec(), e.Vec()
	e.geluExp(x, t)
	e.VMOVUPS(e.constant(1), s)
	e.VDIVPS(t, s, s)
	y = e.Vec()
	e.VMULPS(x, s, y)
	du := e.Vec()
	e.VMULPS(x, x, du)
	e.VMULPS(e.constant(float32(6*math.Sqrt(2/math.Pi)*0.044715)), du, du)
	e.VADDPS(e.constant(float32(2*math.Sqrt(2/math.Pi))), du, du)
	// x^2 may overflow: far out gelu or 1-s is 0, and so is their product with it.
	e.VMINPS(e.constant(math.MaxFloat32), du, du)
	e.VMOVUPS(e.constant(1), t)
	e.VSUBPS(s, t, t)
	e.VMULPS(y, t, t)
	e.VFMADD231PS(du, t, s)
	return y, s
}

// The erf form of GELU is x P(x), P being the normal distribution function. With
// t = |x| it is max(x,0) - t P(-t), where P(-t) = exp(-t^2/2) G(t)/(t+K), and G, which
// falls from K/2 to 1/sqrt(2 pi), is a polynomial in (t-K)/(t+K) = 1 - 2K/(t+K): nearly
// minimax up to normalEnd, relative error 3.2e-8 with these coefficients.
const normalK = 2.5

var normalPoly = [...]float32{0.7066566348075867, -0.4336921274662018, 0.1319879591464996, 0.009237798862159252, -0.0163931455463171,
	-0.0016103239031508565, 0.002540446585044265, 0.0007032380672171712, -0.0003241542144678533, -0.00017088143795263022}

// Beyond normalEnd t P(-t) and its derivative are less than half the least float32.
// Exponentials are 2^normalShift too large up to the last operation: that alone rounds
// what is subnormal, and 2^n fits down to the end.
const (
	normalEnd   = 14.75
	normalShift = 32
)

// normal takes t = min(|x|, normalEnd) for x and returns 2^normalShift exp(-t^2/2), and
// G(t)/(t+K). NaN stays NaN.
func (e *asm) normal(x reg.VecVirtual) (t, exp, ratio reg.VecVirtual) {
	t, exp, ratio = e.Vec(), e.Vec(), e.Vec()
	// The first operand is what MAXPS and MINPS return for NaN.
	e.VMULPS(e.constant(-1), x, t)
	e.VMAXPS(x, t, t)
	e.VMOVUPS(e.constant(normalEnd), exp)
	e.VMINPS(t, exp, t)
	// The square in two parts, and exp by Cody and Waite's two parts of ln2.
	square, low, n, f := e.Vec(), e.Vec(), e.Vec(), e.Vec()
	e.VMULPS(t, t, square)
	e.VMOVAPS(square, low)
	e.VFMSUB231PS(t, t, low)
	e.VMULPS(e.constant(-log2e/2), square, n)
	e.Round(n, n)
	e.VMULPS(e.constant(-0.5), square, f)
	e.VFNMADD231PS(e.constant(ln2Hi), n, f)
	e.VFNMADD231PS(e.constant(ln2Lo), n, f)
	e.VFNMADD231PS(e.constant(0.5), low, f)
	e.poly(expPoly[:], f, exp)
	e.VADDPS(e.constant(normalShift), n, n)
	e.Scale2(n, exp)
	r, q := e.Vec(), e.Vec()
	e.VADDPS(e.constant(normalK), t, q)
	e.VMOVUPS(e.constant(1), r)
	e.VDIVPS(q, r, r)
	e.VMOVUPS(e.constant(1), q)
	e.VFNMADD231PS(e.constant(2*normalK), r, q)
	e.poly(normalPoly[:], q, ratio)
	e.VMULPS(r, ratio, ratio)
	return t, exp, ratio
}

// geluErf replaces x by gelu(x) in the erf form.
func (e *asm) geluErf(x reg.VecVirtual) { e.geluErfOf(x) }

// geluErfOf does so, and returns what [asm.normal] gave.
func (e *asm) geluErfOf(x reg.VecVirtual) (t, exp, ratio reg.VecVirtual) {
	t, exp, ratio = e.normal(x)
	zero, part := e.Vec(), e.Vec()
	e.VMOVUPS(e.constant(0), zero)
	e.VMAXPS(x, zero, x)
	e.VMULPS(ratio, t, part)
	e.VMULPS(exp, part, part)
	e.VFNMADD231PS(e.constant(1/float32(1<<normalShift)), part, x)
	return t, exp, ratio
}

// geluErfSlope is the erf form of GELU and its derivative P(x) + x p(x), p being the
// normal density: s = P(-t) - t p(t) where x < 0, 1-s where x > 0, and 1/2 at 0 and near,
// whatever w is there.
func (e *asm) geluErfSlope(x reg.VecVirtual) (y, dy reg.VecVirtual) {
	w, sign := e.Vec(), e.Vec()
	e.VMULPS(e.constant(0x1p100), x, w)
	e.VMAXPS(e.constant(0), w, w)
	e.VMINPS(e.constant(1), w, w) // 1 where x > 0, 0 where x < 0
	e.VMOVUPS(e.constant(1/float32(1<<normalShift)), sign)
	e.VFNMADD231PS(e.constant(2/float32(1<<normalShift)), w, sign)
	t, exp, s := e.geluErfOf(x)
	e.VFNMADD231PS(e.constant(float32(1/math.Sqrt(2*math.Pi))), t, s)
	e.VMULPS(exp, s, s)
	e.VFMADD231PS(sign, s, w)
	return x, w
}
