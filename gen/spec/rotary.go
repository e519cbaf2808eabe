package spec

import "math"

// Scaling names how rotary frequencies are lowered.
type Scaling string

// The scalings. Linear divides all frequencies by the factor. Llama3 divides those
// that make fewer than LowFreqFactor turns within OriginalPositions, leaves those
// that make more than HighFreqFactor as they are, and goes from one to the other along
// a line between.
const (
	LinearScaling Scaling = "linear"
	Llama3Scaling Scaling = "llama3"
)

// Scalings lists them.
func Scalings() []Scaling { return []Scaling{LinearScaling, Llama3Scaling} }

// RotaryScaling lowers rotary frequencies, for sequences longer than a model first
// was trained on. The zero value leaves them as they are.
type RotaryScaling struct {
	Type   Scaling
	Factor float64
	// Of llama3.
	LowFreqFactor, HighFreqFactor float64
	OriginalPositions             int
}

// of is the frequency, in radians a position, that the scaling makes of one.
func (s RotaryScaling) of(freq float64) float64 {
	switch s.Type {
	case LinearScaling:
		return freq / s.Factor
	case Llama3Scaling:
		turns := float64(s.OriginalPositions) * freq / (2 * math.Pi)
		stay := min(1, max(0, (turns-s.LowFreqFactor)/(s.HighFreqFactor-s.LowFreqFactor)))
		return (1-stay)*freq/s.Factor + stay*freq
	}
	return freq
}

// Frequencies are the angles, in radians, by which a position turns each pair of
// entries of a head, j and j + size/2: RotaryBase^(-2j/size), scaled.
func (m Model) Frequencies() []float64 {
	size := m.HeadDim()
	f := make([]float64, size/2)
	for j := range f {
		f[j] = m.RotaryScaling.of(math.Pow(m.RotaryBase, -2*float64(j)/float64(size)))
	}
	return f
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
	if s.Type != LinearScaling && s.Type != Llama3Scaling {
		fail("type", "unknown scaling %q; valid are %s", s.Type, Names(Scalings(), ""))
		return
	}
	if !(s.Factor >= 1 && s.Factor <= MaxRotaryFactor) {
		fail("factor", "%v is out of range, want 1 to %d", s.Factor, int(MaxRotaryFactor))
	}
	if s.Type == LinearScaling {
		for _, f := range []struct {
			name  string
			given bool
		}{{"low_freq_factor", s.LowFreqFactor != 0}, {"high_freq_factor", s.HighFreqFactor != 0}, {"original_max_positions", s.OriginalPositions != 0}} {
			if f.given {
				fail(f.name, "the scaling %s has none; it is for %s", s.Type, Llama3Scaling)
			}
		}
		return
	}
	c.width("rotary_scaling.original_max_positions", s.OriginalPositions)
	low := s.LowFreqFactor > 0 && !math.IsInf(s.LowFreqFactor, 0)
	if !low {
		fail("low_freq_factor", "%v is out of range, want a positive number", s.LowFreqFactor)
	}
	if low && !(s.HighFreqFactor > s.LowFreqFactor) || !low && !(s.HighFreqFactor > 0) || math.IsInf(s.HighFreqFactor, 0) {
		fail("high_freq_factor", "%v is out of range, want more than low_freq_factor, %v", s.HighFreqFactor, s.LowFreqFactor)
	}
}
