package bench

import (
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"github.com/structuredffn/sffn/gen/spec"
)

// Latency sums up the times of single events, in seconds.
type Latency struct {
	What    string `json:"what"`
	Threads int    `json:"threads"`
	Count   int    `json:"count"`
	Spread
	Worst float64 `json:"worst"`
}

func latencyOf(what string, threads int, v []float64) Latency {
	return Latency{What: what, Threads: threads, Count: len(v), Spread: spreadOf(v), Worst: slices.Max(v)}
}

// Dispatch times handing work to all of the pool's workers: until each has
// begun one piece, and the call has returned. All wait for each other, so that
// no worker does the piece of another.
func (b *Bench) Dispatch(count int) Latency {
	n := b.Pool.Threads()
	var begun atomic.Int64
	piece := func(int, int) {
		begun.Add(1)
		for begun.Load() < int64(n) {
			// The others are on their way.
		}
	}
	const warm = 1000
	var v []float64
	for i := range warm + count {
		begun.Store(0)
		start := time.Now()
		b.Pool.Run(n, piece)
		if i >= warm {
			v = append(v, time.Since(start).Seconds())
		}
	}
	return latencyOf("dispatch", n, v)
}

// Collections times runtime.GC() beside steps of training, which go on until
// count collections have passed.
func (b *Bench) Collections(s spec.Model, batch, seq, count int) (Latency, error) {
	step, stop, err := b.trainer(s, batch, seq, false)
	if err != nil {
		return Latency{}, err
	}
	defer stop()
	if err := step(0); err != nil { // warms up
		return Latency{}, err
	}
	var over atomic.Bool
	done := make(chan error)
	go func() {
		var err error
		for i := 1; err == nil && !over.Load(); i++ {
			err = step(i)
		}
		done <- err
	}()
	var v []float64
	for i := range count {
		// Pauses of uneven length meet the step in all of its parts.
		time.Sleep(time.Duration(5+i*7%40) * time.Millisecond)
		start := time.Now()
		runtime.GC()
		v = append(v, time.Since(start).Seconds())
	}
	over.Store(true)
	return latencyOf("runtime.GC() beside training "+s.Name, b.Pool.Threads(), v), <-done
}
