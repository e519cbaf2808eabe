package runtime

import (
	"slices"
	"time"

	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/vec"
)

// Peak measures the machine's rate of a format's multiply-adds on the pool's threads, in
// operations a second, two each: independent chains in registers, of the instructions
// that the format's products have on an instruction set, or, where the processor lacks
// them there, on the one below that runs them. It is what every rate is compared with,
// and takes about 30 ms.
func Peak(p *Pool, isa kernel.ISA, f kernel.FormatName) float64 {
	target := kernel.For(isa)
	t := vec.On(target.For(f))
	// One thread's rate sets the length of a run.
	start := time.Now()
	one := t.Peak(f, 1e6) / time.Since(start).Seconds()
	var rates []float64
	for range 5 {
		done := make([]float64, p.Threads())
		start := time.Now()
		p.Run(p.Threads(), func(_, i int) { done[i] = t.Peak(f, one*5e-3) })
		sum := 0.0
		for _, d := range done {
			sum += d
		}
		rates = append(rates, sum/time.Since(start).Seconds())
	}
	slices.Sort(rates)
	return rates[len(rates)-1]
}

// readUnit is what a worker reads before it takes the next part, in entries.
const readUnit = 64 << 10

// ReadBandwidth reads x again and again for about 10 ms on the pool's threads
// and returns the rate in bytes a second. The size of x says which of the
// caches, or the memory, is measured.
func ReadBandwidth(p *Pool, isa kernel.ISA, x []float32) float64 {
	t := vec.For(isa)
	units := (len(x) + readUnit - 1) / readUnit
	pass := func() {
		p.Run(units, func(_, i int) { t.Read(x[i*readUnit : min(len(x), (i+1)*readUnit)]) })
	}
	pass()
	start, passes := time.Now(), 0
	for passes == 0 || time.Since(start) < 10*time.Millisecond {
		pass()
		passes++
	}
	return float64(passes) * kernel.EntryBytes * float64(len(x)) / time.Since(start).Seconds()
}
