// Package schedule holds what a training run follows step by step, as pure
// functions: the learning rate, the ratio of the guide, and the number of
// steps of each phase.
package schedule

import "math"

// LR is the learning rate's course: a linear warm-up, then half a cosine from
// Peak to Min.
type LR struct {
	Peak, Min     float64
	Warmup, Total int
}

// NewLR takes the warm-up and the minimum as shares: warm-up is the integer
// part of share*total, as the reference's double-precision product gives it.
func NewLR(peak, minShare, warmupShare float64, total int) LR {
	return LR{Peak: peak, Min: minShare * peak, Warmup: int(warmupShare * float64(total)), Total: total}
}

// At is the learning rate of step s, from 0.
func (l LR) At(s int) float64 {
	if s < l.Warmup {
		return float64(s+1) / float64(l.Warmup) * l.Peak
	}
	if s >= l.Total {
		return l.Min
	}
	x := float64(s-l.Warmup) / float64(l.Total-l.Warmup)
	return l.Min + (l.Peak-l.Min)*(1+math.Cos(math.Pi*x))/2
}

// Course names how the guide's ratio falls.
type Course string

// The courses of the guide's ratio.
const (
	Cosine Course = "cosine"
	Linear Course = "linear"
)

// Ratio is the guide's share after t finished steps of a guided phase of
// total: it falls from 1 to 0, and stays there.
func Ratio(c Course, t, total int) float64 {
	switch {
	case t > total || total == 0:
		return 0
	case c == Linear:
		return 1 - float64(t)/float64(total)
	}
	return (1 + math.Cos(math.Pi*float64(t)/float64(total))) / 2
}
