package train

import (
	"math"

	"github.com/structuredffn/sffn/model/config"
)

// LRSchedule is the learning rate, step by step: a linear warm-up, then half a
// cosine from Peak to Min.
//
// With WSD it stays at Peak after the warm-up until the last Decay steps (warm-up,
// stable, decay: Hu et al. 2024, MiniCPM, arXiv 2404.06395, section 4), of which step
// d, from 0, has
//
//	Min + (Peak-Min) (1 - sqrt(d/Decay))
//
// (the shape of Hägele et al. 2024, arXiv 2405.18392, section 4, which ends at Min
// instead of 0).
type LRSchedule struct {
	Peak, Min     float64
	Warmup, Total int
	WSD           bool
	Decay         int
}

// NewLRSchedule takes the warm-up and the minimum as shares: warm-up is the
// integer part of share*total, as the reference's double-precision product gives
// it.
func NewLRSchedule(peak, minShare, warmupShare float64, total int) LRSchedule {
	return LRSchedule{Peak: peak, Min: minShare * peak, Warmup: int(warmupShare * float64(total)), Total: total}
}

// newSchedule is the schedule of a run of so many steps.
func newSchedule(t config.Train, total int) LRSchedule {
	l := NewLRSchedule(t.LR, t.MinLR, t.Warmup, total)
	if t.Schedule == "wsd" {
		l.WSD, l.Decay = true, int(t.Decay*float64(total))
	}
	return l
}

// At is the learning rate of step s, from 0.
func (l LRSchedule) At(s int) float64 {
	if s < l.Warmup {
		return float64(s+1) / float64(l.Warmup) * l.Peak
	}
	if s >= l.Total {
		return l.Min
	}
	if l.WSD {
		d := s - (l.Total - l.Decay)
		if d <= 0 {
			return l.Peak
		}
		return l.Min + (l.Peak-l.Min)*(1-math.Sqrt(float64(d)/float64(l.Decay)))
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
