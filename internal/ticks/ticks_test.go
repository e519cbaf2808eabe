package ticks

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"gonum.org/v1/plot"
	"pgregory.net/rapid"
)

// An axis of any width has three labels or more, in order, without repeats,
// and not so many that they meet.
func TestTicks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lo := math.Pow(10, rapid.Float64Range(-5, 24).Draw(t, "lo"))
		hi := lo * math.Pow(10, rapid.Float64Range(0.02, 14).Draw(t, "decades"))
		for _, ticker := range []plot.Ticker{Log{}, Linear{}} {
			seen := map[string]bool{}
			last := 0.0
			for _, tick := range ticker.Ticks(lo, hi) {
				if tick.Value < lo*(1-1e-12) || tick.Value > hi*(1+1e-12) {
					t.Errorf("tick %v is outside %g to %g", tick, lo, hi)
				}
				if tick.Label == "" {
					continue
				}
				if tick.Value <= last || seen[tick.Label] {
					t.Errorf("%T, %g to %g: label %q comes twice or out of order", ticker, lo, hi, tick.Label)
				}
				last, seen[tick.Label] = tick.Value, true
				var x float64
				if _, err := fmt.Sscan(tick.Label, &x); err != nil || math.Abs(x/tick.Value-1) > 0.01 {
					t.Errorf("label %q at %g", tick.Label, tick.Value)
				}
			}
			if len(seen) < 3 || len(seen) > 13 {
				t.Errorf("%T, %g to %g: %d labels", ticker, lo, hi, len(seen))
			}
		}
	})
}

// Labels say where they stand, to the last digit: the axis of losses that differ little,
// that of a long run's steps, one that crosses zero.
func TestLinearLabels(t *testing.T) {
	for _, c := range []struct {
		lo, hi float64
		want   []string
	}{
		{1.98, 2.31, []string{"2", "2.1", "2.2", "2.3"}},
		{2.01, 2.085, []string{"2.02", "2.04", "2.06", "2.08"}},
		{1, 60000, []string{"20000", "40000", "60000"}},
		{-0.3, 0.3, []string{"-0.2", "0", "0.2"}},
	} {
		var got []string
		for _, tick := range (Linear{}).Ticks(c.lo, c.hi) {
			got = append(got, tick.Label)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%v to %v: %q, want %q", c.lo, c.hi, got, c.want)
		}
	}
}
