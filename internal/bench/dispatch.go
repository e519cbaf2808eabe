package bench

import (
	"runtime"
	"runtime/metrics"
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

// Collections times garbage collection beside steps of training, count times:
// runtime.GC() from the call to the return, with as many Ps as there are and
// with one more than workers, and the pauses in which it stops the world. The
// first includes waiting for workers that hold all Ps, the second does not.
func (b *Bench) Collections(s spec.Model, batch, seq, count int) ([]Latency, error) {
	step, stop, err := b.trainer(s, batch, seq, false)
	if err != nil {
		return nil, err
	}
	defer stop()
	if err := step(0); err != nil { // warms up
		return nil, err
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
	n := b.Pool.Threads()
	before := pauses()
	v := collections(count)
	stopped := pausesSince(before)
	procs := runtime.GOMAXPROCS(n + 1)
	spare := collections(count)
	runtime.GOMAXPROCS(procs)
	over.Store(true)
	return []Latency{latencyOf("runtime.GC() beside training "+s.Name, n, v),
		latencyOf("the same with a P to spare", n, spare), latencyOf("pauses of the world for GC", n, stopped)}, <-done
}

// collections times count collections.
func collections(count int) (v []float64) {
	for i := range count {
		// Pauses of uneven length meet the step in all of its parts.
		time.Sleep(time.Duration(5+i*7%40) * time.Millisecond)
		start := time.Now()
		runtime.GC()
		v = append(v, time.Since(start).Seconds())
	}
	return v
}

// pauses is the runtime's histogram of the times in which the collector stops
// the world.
func pauses() *metrics.Float64Histogram {
	sample := []metrics.Sample{{Name: "/sched/pauses/total/gc:seconds"}}
	metrics.Read(sample)
	return sample[0].Value.Float64Histogram()
}

// pausesSince lists the pauses after before was taken, each by the upper bound
// of its bucket, which is at most a quarter above it.
func pausesSince(before *metrics.Float64Histogram) []float64 {
	now := pauses()
	var v []float64
	for i, n := range now.Counts {
		for range n - before.Counts[i] {
			v = append(v, now.Buckets[i+1])
		}
	}
	return v
}
