package train

import "math"

// LRSchedule is the learning rate, step by step: a linear warm-up, then half a
// cosine from Peak to Min.
type LRSchedule struct {
	Peak, Min     float64
	Warmup, Total int
}

// NewLRSchedule takes the warm-up and the minimum as shares: warm-up is the
// integer part of share*total, as the reference's double-precision product gives
// it.
func NewLRSchedule(peak, minShare, warmupShare float64, total int) LRSchedule {
	return LRSchedule{Peak: peak, Min: minShare * peak, Warmup: int(warmupShare * float64(total)), Total: total}
}

// At is the learning rate of step s, from 0.
func (l LRSchedule) At(s int) float64 {
	if s < l.Warmup {
		return float64(s+1) / float64(l.Warmup) * l.Peak
	}
	if s >= l.Total {
		return l.Min
	}
	x := float64(s-l.Warmup) / float64(l.Total-l.Warmup)
	return l.Min + (l.Peak-l.Min)*(1+math.Cos(math.Pi*x))/2
}

// GuideSchedule names how the guides' ratio falls.
type GuideSchedule string

// The schedules of the guides' ratio.
const (
	GuideCosine GuideSchedule = "cosine"
	GuideLinear GuideSchedule = "linear"
)

// Ratio is the guides' share after t finished steps of a guided phase of
// total: it falls from 1 to 0, and stays there.
func (g GuideSchedule) Ratio(t, total int) float64 {
	switch {
	case t > total || total == 0:
		return 0
	case g == GuideLinear:
		return 1 - float64(t)/float64(total)
	}
	return (1 + math.Cos(math.Pi*float64(t)/float64(total))) / 2
}
