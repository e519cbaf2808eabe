// Package act has the activations in float64, each with its derivative.
package act

import "math"

// GELU is the tanh form and its derivative.
func GELU(h float64) (y, dy float64) {
	c := math.Sqrt(2 / math.Pi)
	t := math.Tanh(c * (h + 0.044715*h*h*h))
	return 0.5 * h * (1 + t), 0.5*(1+t) + 0.5*h*(1-t*t)*c*(1+3*0.044715*h*h)
}

// SiLU is h*sigmoid(h) and its derivative.
func SiLU(h float64) (y, dy float64) {
	s := 1 / (1 + math.Exp(-h))
	return h * s, s + h*s*(1-s)
}
