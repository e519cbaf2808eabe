// Package ticks labels the axes of plots: with as many digits as tell the labels apart.
package ticks

import (
	"fmt"
	"math"
	"strconv"

	"gonum.org/v1/plot"
)

// Log labels a logarithmic axis: powers of ten where there are several,
// else 1, 2, 5 of each decade, and below half a decade round steps.
type Log struct{}

const enoughLabels = 3

// Ticks implements plot.Ticker.
func (Log) Ticks(lo, hi float64) []plot.Tick {
	if !(lo > 0 && hi > lo) {
		return nil
	}
	decades := math.Log10(hi / lo)
	every := max(1, int(math.Ceil(decades/10)))
	if ts := multiples(lo, hi, every, 1); labels(ts) >= enoughLabels {
		return ts
	}
	for _, digits := range [][]float64{{1, 3}, {1, 2, 5}, {1, 1.5, 2, 3, 4, 5, 6, 8}} {
		if ts := multiples(lo, hi, 1, digits...); labels(ts) >= enoughLabels {
			return ts
		}
	}
	return Linear{}.Ticks(lo, hi)
}

// multiples labels digits times every so many powers of ten, with unlabelled
// ticks at all multiples between.
func multiples(lo, hi float64, every int, digits ...float64) []plot.Tick {
	var ts []plot.Tick
	for e := int(math.Floor(math.Log10(lo))); e <= int(math.Floor(math.Log10(hi))); e++ {
		power, _ := strconv.ParseFloat(fmt.Sprintf("1e%d", e), 64)
		for _, d := range digits {
			if x := d * power; x >= lo && x <= hi && e%every == 0 {
				ts = append(ts, plot.Tick{Value: x, Label: label(d, e)})
			}
		}
		for d := 1.0; d < 10; d++ {
			if x := d * power; x >= lo && x <= hi {
				ts = append(ts, plot.Tick{Value: x})
			}
		}
	}
	return ts
}

// Linear labels round steps.
type Linear struct{}

// Ticks implements plot.Ticker.
func (Linear) Ticks(lo, hi float64) []plot.Tick {
	step, fits := math.Pow(10, math.Ceil(math.Log10(hi-lo))), func(step float64) bool {
		return math.Floor(hi/step)-math.Ceil(lo/step)+1 >= enoughLabels
	}
	for i := 0; !fits(step); i++ {
		step /= []float64{2, 2.5, 2}[i%3] // 10, 5, 2, 1
	}
	var ts []plot.Tick
	for i := math.Ceil(lo / step); i*step <= hi; i++ {
		ts = append(ts, plot.Tick{Value: i * step, Label: strconv.FormatFloat(i*step, 'g', 10, 64)})
	}
	return ts
}

func labels(ts []plot.Tick) int {
	n := 0
	for _, t := range ts {
		if t.Label != "" {
			n++
		}
	}
	return n
}

// label writes d times ten to the e.
func label(d float64, e int) string {
	if e >= -3 && e <= 3 {
		return strconv.FormatFloat(d*math.Pow(10, float64(e)), 'g', 4, 64)
	}
	return fmt.Sprintf("%ge%d", d, e)
}
