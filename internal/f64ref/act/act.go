// Package act has the activations in float64, each with its derivative.
package act

import "math"

// Function is an activation of one column; of gated ones that of the gate.
type Function struct {
	// Value and its derivative.
	Value func(h float64) (y, dy float64)
	// Steep bounds how much the derivative grows with the error of the tanh or the
	// exponential in it.
	Steep func(h float64) float64
}

// functions are those of the activations, by name.
var functions = map[string]Function{
	"gelu": {GELU, func(h float64) float64 { return 0.5 + math.Abs(h)*(1+0.14*h*h) }},
	// No tanh or exponential is rounded at the size of its argument.
	"gelu_erf": {GELUErf, func(h float64) float64 { return 1 + math.Abs(h) }},
	"swiglu":   {SiLU, func(h float64) float64 { return 1 + math.Abs(h) }},
}

// Of is the function of an activation, zero for a name that is none.
func Of(name string) Function { return functions[name] }

// GELU is the tanh form and its derivative.
func GELU(h float64) (y, dy float64) {
	c := math.Sqrt(2 / math.Pi)
	t := math.Tanh(c * (h + 0.044715*h*h*h))
	return 0.5 * h * (1 + t), 0.5*(1+t) + 0.5*h*(1-t*t)*c*(1+3*0.044715*h*h)
}

// GELUErf is the erf form, h*P(h) with the normal distribution function P, and its
// derivative.
func GELUErf(h float64) (y, dy float64) {
	p := math.Erfc(-h/math.Sqrt2) / 2
	return h * p, p + h*math.Exp(-h*h/2)/math.Sqrt(2*math.Pi)
}

// SiLU is h*sigmoid(h) and its derivative.
func SiLU(h float64) (y, dy float64) {
	s := 1 / (1 + math.Exp(-h))
	return h * s, s + h*s*(1-s)
}
