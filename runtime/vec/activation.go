package vec

import (
	"math"

	"github.com/structuredffn/sffn/runtime/kernel"
)

// activations has a row for each: a function of one entry and its derivative there, of
// gated ones that of the gate.
var activations = map[kernel.Epilogue]func(v float32) (y, dy float32){
	kernel.GELU:    GELU,
	kernel.GELUErf: GELUErf,
	kernel.SwiGLU:  SiLU,
}

// portableActivations adds the readable definition of their operations.
func portableActivations(of []kernel.VecFunc) {
	for epilogue, f := range activations {
		forward, backward := epilogue.Ops()
		if epilogue.Gated() {
			of[forward], of[backward] = gated(f), gatedBackward(f)
		} else {
			of[forward], of[backward] = activate(f), activateBackward(f)
		}
	}
}

// P0 = f(P1).
func activate(f func(float32) (y, dy float32)) kernel.VecFunc {
	return func(a *kernel.VecArgs) {
		y, x := p(a, 0), p(a, 1)
		for i, h := range x {
			y[i], _ = f(h)
		}
	}
}

// P0 = f(P2), P1 = P3 * f'(P2).
func activateBackward(f func(float32) (y, dy float32)) kernel.VecFunc {
	return func(a *kernel.VecArgs) {
		y, dh, h, da := p(a, 0), p(a, 1), p(a, 2), p(a, 3)
		for i := range h {
			v, d := f(h[i])
			dh[i] = da[i] * d
			y[i] = v
		}
	}
}

// P0 = f(P1) * P2.
func gated(f func(float32) (y, dy float32)) kernel.VecFunc {
	return func(a *kernel.VecArgs) {
		y, g, u := p(a, 0), p(a, 1), p(a, 2)
		for i := range y {
			s, _ := f(g[i])
			y[i] = s * u[i]
		}
	}
}

// P0 = f(P3)*P4, P1 = f'(P3)*P4*P5, P2 = P5*f(P3).
func gatedBackward(f func(float32) (y, dy float32)) kernel.VecFunc {
	return func(a *kernel.VecArgs) {
		y, dg, du, g, u, da := p(a, 0), p(a, 1), p(a, 2), p(a, 3), p(a, 4), p(a, 5)
		for i := range y {
			s, d := f(g[i])
			ui, di := u[i], da[i]
			y[i] = s * ui
			du[i] = di * s
			dg[i] = d * ui * di
		}
	}
}

// GELU is one entry of the activation, tanh form, and its derivative: x*s and
// s + x*s*(1-s)*2u', s = sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3). The
// limits are 0 and x, and 0 and 1, on every instruction set; NaN gives NaN, and
// so do minus infinity (where s is 0) and both infinities in the derivative.
func GELU(v float32) (y, dy float32) {
	c := math.Sqrt(2 / math.Pi)
	x := float64(v)
	s := 1 / (1 + math.Exp(-2*c*(x+0.044715*x*x*x)))
	return float32(x * s), float32(s + x*s*(1-s)*2*c*(1+3*0.044715*x*x))
}

// GELUErf is one entry of the activation, erf form, and its derivative: x*P(x) and
// P(x) + x*p(x), with the normal distribution function P(x) = (1 + erf(x/sqrt(2)))/2
// and its density p. Infinities give the limits: 0 and x, and 0 and 1.
func GELUErf(v float32) (y, dy float32) {
	x := float64(v)
	t := math.Min(math.Abs(x), 40) // the density beyond is 0 in float32
	tail := math.Erfc(t/math.Sqrt2) / 2
	density := math.Exp(-t*t/2) / math.Sqrt(2*math.Pi)
	y, dy = float32(math.Max(x, 0)-t*tail), float32(tail-t*density)
	if x > 0 {
		dy = float32(1 - (tail - t*density))
	}
	return y, dy
}

// SiLU is one entry of the activation and its derivative: x*s and
// s + x*s*(1-s), s = sigmoid(x). Its limits are GELU's.
func SiLU(v float32) (y, dy float32) {
	x := float64(v)
	s := 1 / (1 + math.Exp(-x))
	return float32(x * s), float32(s + x*s*(1-s))
}
