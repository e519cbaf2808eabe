// Package bound derives the tolerances of tests: arithmetic in float64 that
// carries along how far float32 arithmetic may have come from it.
package bound

import "math"

// Num is a number, and a bound on the error of the float32 that stands for it.
type Num struct{ V, E float64 }

const (
	// Unit bounds the relative error of one rounding, least the absolute one
	// where results are subnormal.
	Unit  = 0x1p-24
	least = 0x1p-150
)

// Of is a float32 without an error.
func Of(x float32) Num { return Num{V: float64(x)} }

// Const is a constant that had to be rounded.
func Const(x float64) Num { return rounded(x, 0) }

// rounded is v, computed with error e and then rounded.
func rounded(v, e float64) Num { return Num{v, e + Unit*(math.Abs(v)+e) + least} }

// Holds reports whether x lies within the bound.
func (a Num) Holds(x float32) bool { return math.Abs(float64(x)-a.V) <= a.E }

// Add is a + b.
func (a Num) Add(b Num) Num { return rounded(a.V+b.V, a.E+b.E) }

// Sub is a - b.
func (a Num) Sub(b Num) Num { return rounded(a.V-b.V, a.E+b.E) }

// Mul is a * b.
func (a Num) Mul(b Num) Num {
	return rounded(a.V*b.V, math.Abs(a.V)*b.E+math.Abs(b.V)*a.E+a.E*b.E)
}

// Div is a / b.
func (a Num) Div(b Num) Num {
	if b.E >= math.Abs(b.V) {
		return Num{a.V / b.V, math.Inf(1)}
	}
	q := a.V / b.V
	return rounded(q, (a.E+math.Abs(q)*b.E)/(math.Abs(b.V)-b.E))
}

// Sqrt is the root of a.
func (a Num) Sqrt() Num {
	s := math.Sqrt(a.V)
	return rounded(s, max(s-math.Sqrt(max(0, a.V-a.E)), math.Sqrt(a.V+a.E)-s))
}

// Sum is the sum of the terms in any order: each is rounded len-1 times or
// fewer, and no partial sum is larger than that of the magnitudes.
func Sum(terms ...Num) Num {
	var s Num
	all := 0.0
	for _, x := range terms {
		s.V += x.V
		s.E += x.E
		all += math.Abs(x.V) + x.E
	}
	n := float64(len(terms)) * Unit
	return Num{s.V, s.E + n/(1-n)*all}
}

// Chain is a sum of products in their order, of which each is rounded once or
// not at all before it is added: the running error of a sum is half an ulp of
// each of its partial sums.
type Chain struct {
	v, rounded, inherited float64
	n                     int
}

// Add adds w*x, w being without an error.
func (c *Chain) Add(w float64, x Num) {
	p := w * x.V
	c.v += p
	c.rounded += math.Abs(c.v) + math.Abs(p)
	c.inherited += math.Abs(w) * x.E
	c.n++
}

// Num is the sum.
func (c *Chain) Num() Num {
	// Each error is rounded along with the partial sums that follow it.
	n := float64(c.n)
	return Num{c.v, (c.inherited+Unit*c.rounded)*(1+4*n*Unit) + 2*n*least}
}

// The kernels' exponential is good to expUlps ulps: half of one is its
// polynomial's last step, as much the steps before it, less the reduction of
// its argument and the polynomial's own 2e-9. Its argument stops at +-126
// powers of 2, and what would be subnormal is 0.
const (
	expErr = 2 * 0x1p-23
	expMin = 0x1p-125
)

// Exp is e^a.
func (a Num) Exp() Num {
	v := math.Exp(a.V)
	return rounded(v, v*math.Expm1(a.E+expErr)+expMin)
}

// Sigmoid is 1/(1+e^-a).
func (a Num) Sigmoid() Num {
	f := func(x float64) float64 { return 1 / (1 + math.Exp(-x)) }
	v, d := f(a.V), a.E+expErr
	if 1-f(a.V-d) < Unit/2 {
		return Num{v, 1 - v} // e^-a is lost beside the 1
	}
	// The sum and the quotient are rounded.
	s := rounded(v, max(f(a.V+d)-v, v-f(a.V-d))+expMin)
	return rounded(v, s.E)
}

// GELU is the tanh form, x*s with s = sigmoid(z), z = sqrt(8/pi) (x + 0.044715 x^3),
// and its derivative s + x*s*(1-s)*z'.
func (a Num) GELU() (y, dy Num) {
	c := math.Sqrt(8 / math.Pi)
	x2 := a.Mul(a)
	s := a.Mul(Const(c).Add(Const(c * 0.044715).Mul(x2))).Sigmoid()
	y = a.Mul(s)
	dz := Const(c).Add(Const(3 * c * 0.044715).Mul(x2))
	return y, s.Add(y.Mul(Of(1).Sub(s)).Mul(dz))
}

// erfUlps bounds the relative error of the kernels' |x| P(-|x|) and normal density, in
// roundings: two of |x|+K and its inverse, which count 1.6 times as they are in the
// polynomial as well, two of the exponential, one each of the polynomial, its constants
// and the last product but two.
const erfUlps = 8

// GELUErf is the erf form, a*P(a) with the normal distribution function P, and its
// derivative P(a) + a*p(a). Neither turns faster than by 0.8.
func (a Num) GELUErf() (y, dy Num) {
	t := math.Abs(a.V)
	tail, density := math.Erfc(t/math.Sqrt2)/2, math.Exp(-t*t/2)/math.Sqrt(2*math.Pi)
	v, d := -t*tail, tail-t*density
	if a.V > 0 {
		v, d = a.V+v, 1-d
	}
	own := erfUlps * Unit
	y = rounded(v, a.E*(math.Abs(d)+0.8*a.E)+own*t*tail)
	return y, rounded(d, 0.8*a.E+own*(tail+t*density))
}

// Activation is that of a name, and its derivative; of gated ones that of the gate.
func (a Num) Activation(name string) (y, dy Num) {
	switch name {
	case "gelu":
		return a.GELU()
	case "gelu_erf":
		return a.GELUErf()
	case "swiglu":
		return a.SiLU()
	}
	panic("bound: no activation " + name)
}

// SiLU is a*sigmoid(a) and its derivative s + a*s*(1-s).
func (a Num) SiLU() (y, dy Num) {
	s := Const(1).Mul(a).Sigmoid() // its power of 2 has an argument of its own
	y = a.Mul(s)
	return y, s.Add(y.Mul(Of(1).Sub(s)))
}

// FMA is a*b + c, rounded once.
func FMA(a, b, c float32) float32 {
	p, z := float64(a)*float64(b), float64(c) // p is exact
	s := p + z
	// Rounding to odd keeps what decides the second rounding: Boldo and
	// Melquiond, "Emulation of FMA and correctly rounded sums".
	t := s - p
	if lost := (p - (s - t)) + (z - t); lost != 0 {
		if bits := math.Float64bits(s); bits&1 == 0 {
			if (lost > 0) == (s > 0) {
				bits++
			} else {
				bits--
			}
			s = math.Float64frombits(bits)
		}
	}
	return float32(s)
}
