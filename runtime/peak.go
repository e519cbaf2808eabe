package runtime

import (
	"slices"
	"time"

	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/vec"
)

// Peak measures the machine's rate of multiply-adds on the pool's threads, in
// floating-point operations a second: independent chains in registers. It is
// what every rate is compared with, and takes about 30 ms.
func Peak(p *Pool, isa kernel.ISA) float64 {
	t := vec.For(isa)
	// One thread's rate sets the length of a run.
	start := time.Now()
	one := t.Peak(1e6) / time.Since(start).Seconds()
	var rates []float64
	for range 5 {
		done := make([]float64, p.Threads())
		start := time.Now()
		p.Run(p.Threads(), func(_, i int) { done[i] = t.Peak(one * 5e-3) })
		sum := 0.0
		for _, d := range done {
			sum += d
		}
		rates = append(rates, sum/time.Since(start).Seconds())
	}
	slices.Sort(rates)
	return rates[len(rates)-1]
}
