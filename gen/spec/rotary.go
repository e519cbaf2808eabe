package spec

import (
	"math"
	"slices"
)

// Scaling names how rotary frequencies are lowered.
type Scaling string

// The scalings. Linear divides all frequencies by the factor. Llama3 divides those
// that make fewer than LowFreqFactor turns within OriginalPositions, leaves those
// that make more than HighFreqFactor as they are, and goes from one to the other along
// a line between. Yarn (Peng et al. 2023, arXiv 2309.00071, as transformers has it) does
// so along a line between the pairs of entries that would make BetaFast and BetaSlow
// turns, and multiplies rotated queries and keys by AttentionFactor.
const (
	LinearScaling Scaling = "linear"
	Llama3Scaling Scaling = "llama3"
	YarnScaling   Scaling = "yarn"
)

// Scalings lists them.
func Scalings() []Scaling { return []Scaling{LinearScaling, Llama3Scaling, YarnScaling} }

// RotaryScaling lowers rotary frequencies, for sequences longer than a model first
// was trained on. The zero value leaves them as they are.
type RotaryScaling struct {
	Type   Scaling
	Factor float64
	// Of llama3.
	LowFreqFactor, HighFreqFactor float64
	// Of llama3 and yarn.
	OriginalPositions int
	// Of yarn; Between says that its line runs between the very places, not between the
	// whole pairs beside them.
	BetaFast, BetaSlow, AttentionFactor float64
	Between                             bool
}

// The numbers that yarn has where nothing says others.
const (
	YarnBetaFast = 32
	YarnBetaSlow = 1
)

// YarnAttentionFactor is yarn's for a factor of 1 and more.
func YarnAttentionFactor(factor float64) float64 { return 0.1*math.Log(max(1, factor)) + 1 }

// Frequencies are the angles, in radians, by which a position turns each pair of
// entries of a head, j and j + size/2: RotaryBase^(-2j/size), scaled.
func (m Model) Frequencies() []float64 {
	size, s := float64(m.HeadDim()), m.RotaryScaling
	f := make([]float64, m.HeadDim()/2)
	low, high := 0.0, 0.0
	if s.Type == YarnScaling {
		low, high = s.yarnLine(size, m.RotaryBase)
	}
	for j := range f {
		f[j] = math.Pow(m.RotaryBase, -2*float64(j)/size)
		switch s.Type {
		case LinearScaling:
			f[j] /= s.Factor
		case Llama3Scaling:
			turns := float64(s.OriginalPositions) * f[j] / (2 * math.Pi)
			f[j] = s.lowered(f[j], (turns-s.LowFreqFactor)/(s.HighFreqFactor-s.LowFreqFactor))
		case YarnScaling:
			f[j] = s.lowered(f[j], (high-float64(j))/(high-low))
		}
	}
	return f
}

// lowered divides a frequency by the factor, but for the share of it that stays, 0 to 1.
func (s RotaryScaling) lowered(freq, stay float64) float64 {
	stay = min(1, max(0, stay))
	return (1-stay)*freq/s.Factor + stay*freq
}

// yarnLine is the line between the pairs that make BetaFast turns within
// OriginalPositions and BetaSlow.
func (s RotaryScaling) yarnLine(size, base float64) (low, high float64) {
	pair := func(turns float64) float64 {
		return size * math.Log(float64(s.OriginalPositions)/(turns*2*math.Pi)) / (2 * math.Log(base))
	}
	low, high = pair(s.BetaFast), pair(s.BetaSlow)
	if !s.Between {
		low, high = math.Floor(low), math.Ceil(high)
	}
	low, high = max(low, 0), min(high, size-1)
	if low == high {
		high += 0.001
	}
	return low, high
}

// RotaryFactor is what rotated queries and keys are multiplied by.
func (m Model) RotaryFactor() float64 {
	if m.RotaryScaling.Type == YarnScaling {
		return m.RotaryScaling.AttentionFactor
	}
	return 1
}

func (c *checker) rotaryScaling(m Model) {
	s := m.RotaryScaling
	if s == (RotaryScaling{}) {
		return
	}
	fail := func(field, format string, args ...any) { c.fail("rotary_scaling."+field, format, args...) }
	if m.Position != RoPE {
		c.fail("rotary_scaling", "positions are %s; rope alone has it", m.Position)
		return
	}
	if !slices.Contains(Scalings(), s.Type) {
		fail("type", "unknown scaling %q; valid are %s", s.Type, Names(Scalings(), ""))
		return
	}
	if !(s.Factor >= 1 && s.Factor <= MaxRotaryFactor) {
		fail("factor", "%v is out of range, want 1 to %d", s.Factor, int(MaxRotaryFactor))
	}
	for _, f := range []struct {
		name  string
		given bool
		of    []Scaling
	}{
		{"low_freq_factor", s.LowFreqFactor != 0, []Scaling{Llama3Scaling}},
		{"high_freq_factor", s.HighFreqFactor != 0, []Scaling{Llama3Scaling}},
		{"original_max_positions", s.OriginalPositions != 0, []Scaling{Llama3Scaling, YarnScaling}},
		{"beta_fast", s.BetaFast != 0, []Scaling{YarnScaling}},
		{"beta_slow", s.BetaSlow != 0, []Scaling{YarnScaling}},
		{"attention_factor", s.AttentionFactor != 0, []Scaling{YarnScaling}},
		{"truncate", s.Between, []Scaling{YarnScaling}},
	} {
		if f.given && !slices.Contains(f.of, s.Type) {
			fail(f.name, "the scaling %s has none; it is for %s", s.Type, Names(f.of, "and"))
		}
	}
	positive := func(name string, v float64) bool {
		ok := v > 0 && !math.IsInf(v, 0)
		if !ok {
			fail(name, "%v is out of range, want a positive number", v)
		}
		return ok
	}
	// more wants high to be more than low, which is all right or not.
	more := func(name string, high float64, than string, low float64, ok bool) {
		if ok && !(high > low) || !ok && !(high > 0) || math.IsInf(high, 0) {
			fail(name, "%v is out of range, want more than %s, %v", high, than, low)
		}
	}
	switch s.Type {
	case Llama3Scaling:
		c.width("rotary_scaling.original_max_positions", s.OriginalPositions)
		more("high_freq_factor", s.HighFreqFactor, "low_freq_factor", s.LowFreqFactor, positive("low_freq_factor", s.LowFreqFactor))
	case YarnScaling:
		c.width("rotary_scaling.original_max_positions", s.OriginalPositions)
		more("beta_fast", s.BetaFast, "beta_slow", s.BetaSlow, positive("beta_slow", s.BetaSlow))
		positive("attention_factor", s.AttentionFactor)
		if !(m.RotaryBase > 1) {
			c.fail("rotary_base", "%v is out of range, want more than 1 with the scaling %s", m.RotaryBase, s.Type)
		}
	}
}
