// Package bench times layers, training steps and decoding against what the
// machine can do at best, its rate of their format's multiply-adds and of reading
// memory, measured in turn with them.
package bench

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/klauspost/cpuid/v2"

	"github.com/structuredffn/sffn/internal/bench/peer"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// Bench says how to measure.
type Bench struct {
	rt.Options
	// Repeats is how often everything is measured; medians are reported.
	Repeats int
	// Cold makes weights come from memory: every call takes another copy, of
	// so many that no cache holds them.
	Cold bool
	// Libraries take turns with factors, Programs with networks and models.
	Libraries []peer.Library
	Programs  []peer.Program
}

// Machine is what results are compared with.
type Machine struct {
	CPU string     `json:"cpu"`
	ISA kernel.ISA `json:"isa"`
	// Target is the name of the row of the table of targets that kernels followed.
	Target string `json:"target"`
	// Format is that of the products, and of the peaks.
	Format   kernel.FormatName `json:"format"`
	Revision string            `json:"revision,omitempty"`
	Threads  int               `json:"threads"`
	// PeakGFLOPS is the rate of the format's multiply-adds of each instruction set that
	// runs it, 10^9 operations a second, two each; those of integers are no
	// floating-point operations.
	PeakGFLOPS map[kernel.ISA]float64 `json:"peak_gflops"`
	// Read is the rate of reading data that fit each level.
	Read []Bandwidth `json:"read"`
}

// Bandwidth is the rate of reading a buffer again and again.
type Bandwidth struct {
	Level string  `json:"level"` // L2 (of each thread), L3 or memory
	Bytes int     `json:"bytes"`
	GBps  float64 `json:"gb_per_s"`
}

// Report is what was measured.
type Report[Result any] struct {
	Machines []Machine `json:"machines"`
	Results  []Result  `json:"results"`
}

// Sweep measures the machine and every item on every number of threads, and says to
// done how many of these are measured. revision is that of the program.
func Sweep[Item, Result any](b Bench, revision string, threads []int, items []Item, measure func(Bench, Item) ([]Result, error), done func(int)) (r Report[Result], err error) {
	for i, n := range threads {
		b.Options.Pool = rt.NewPool(n)
		r.Machines = append(r.Machines, b.Machine(revision))
		for j, item := range items {
			rs, err := measure(b, item)
			if err != nil {
				b.Pool.Close()
				return r, err
			}
			r.Results = append(r.Results, rs...)
			done(i*len(items) + j + 1)
		}
		b.Pool.Close()
	}
	return r, nil
}

// memoryBytes is the size of what no cache holds; a gigabyte is enough to read through
// that of any socket at two cores' share of it.
func memoryBytes() int { return min(1<<30, max(256<<20, 6*cpuid.CPU.Cache.L3)) }

// Machine measures the machine.
func (b *Bench) Machine(revision string) Machine {
	m := Machine{CPU: cpuid.CPU.BrandName, ISA: b.ISA, Target: b.target(), Format: cmp.Or(b.Format, kernel.F32), Revision: revision, Threads: b.Pool.Threads(), PeakGFLOPS: b.peaks()}
	for _, l := range []struct {
		name string
		size int
	}{{"L2", cpuid.CPU.Cache.L2 / 2 * m.Threads}, {"L3", cpuid.CPU.Cache.L3 / 2}, {"memory", memoryBytes()}} {
		if l.size <= 0 {
			continue // unknown
		}
		var arena rt.Arena
		x := readable(&arena, l.size)
		m.Read = append(m.Read, Bandwidth{l.name, l.size, b.median(func() float64 { return rt.ReadBandwidth(b.Pool, b.ISA, x) / 1e9 })})
		arena.Close()
	}
	return m
}

// peaks are those of the instruction sets that run the format here.
func (b *Bench) peaks() map[kernel.ISA]float64 {
	peaks := map[kernel.ISA]float64{}
	for _, isa := range kernel.Available() {
		if t := kernel.For(isa); t.For(b.Format).ISA == isa {
			peaks[isa] = b.median(func() float64 { return rt.Peak(b.Pool, isa, b.Format) / 1e9 })
		}
	}
	return peaks
}

// target is the name of the target that the layers follow.
func (b *Bench) target() string {
	if b.Target != nil {
		return b.Target.Name
	}
	return kernel.For(b.ISA).Name
}

func (b *Bench) median(f func() float64) float64 {
	v := make([]float64, b.Repeats)
	for i := range v {
		v[i] = f()
	}
	return spreadOf(v).Median
}

// readable returns a buffer of so many bytes for measuring bandwidth. It is
// written to: pages that never were all are one page of zeros.
func readable(arena *rt.Arena, bytes int) []float32 {
	x := arena.Floats(bytes / 4)
	for i := range x {
		x[i] = 1
	}
	return x
}

// Spread is the median and the quartiles of repeated measurements.
type Spread struct {
	Median float64 `json:"median"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
}

func spreadOf(v []float64) Spread {
	v = slices.Sorted(slices.Values(v))
	n := len(v)
	return Spread{v[n/2], v[n/4], v[n*3/4]}
}

func (s Spread) times(f float64) Spread { return Spread{s.Median * f, s.Low * f, s.High * f} }

// Rate is the speed of an operation beside the machine's bounds. Ratios are
// medians of the ratios of each repetition.
type Rate struct {
	Seconds float64 `json:"seconds"`
	GFLOPS  float64 `json:"gflops"`
	// Format is that of the products. Peak is the rate of its multiply-adds and Share
	// the part of it that was reached.
	Format kernel.FormatName `json:"format"`
	Peak   float64           `json:"peak_gflops"`
	Share  Spread            `json:"share_of_peak"`
	// GBps is the rate at which the bytes that have to be read were, Read the
	// rate of reading as many from the same place and ReadShare their ratio:
	// only where that is a bound.
	GBps      float64 `json:"gb_per_s,omitempty"`
	Read      float64 `json:"read_gb_per_s,omitempty"`
	ReadShare *Spread `json:"share_of_read,omitempty"`
	// Bound is the share of the nearer of the two bounds.
	Bound Spread `json:"share_of_bound"`
	Peers []Peer `json:"peers,omitempty"`
}

// Peer is the speed of other software at the same operation.
type Peer struct {
	Name    string  `json:"name"`
	Version string  `json:"version,omitempty"`
	Seconds float64 `json:"seconds"`
	GFLOPS  float64 `json:"gflops"`
	// Ratio is its time / ours: above 1 where ours is faster.
	Ratio Spread `json:"ratio"`
}

// op is an operation to time.
type op struct {
	name string
	// peer and version say whose it is, where not ours.
	peer, version string
	// time runs it n times and returns the seconds that each took.
	time func(n int) (float64, error)
	// format is that of the products, which f32 is where it is empty.
	format kernel.FormatName
	// flops and bytes are what each has to compute and to read.
	flops, bytes float64
}

// calls times calls of f, which are numbered through.
func calls(f func(i int)) func(n int) (float64, error) {
	return tries(func(i int) error { f(i); return nil })
}

// tries is calls of what can fail.
func tries(f func(i int) error) func(n int) (float64, error) {
	next := 0
	return func(n int) (float64, error) {
		start := time.Now()
		for range n {
			if err := f(next); err != nil {
				return 0, err
			}
			next++
		}
		return time.Since(start).Seconds() / float64(n), nil
	}
}

// sample is one repetition: the machine's bounds and each operation's time.
type sample struct {
	peak, read float64
	seconds    []float64
}

// minTime is the shortest time that one measurement takes.
const minTime = 20 * time.Millisecond

// measure times operations in turn, with the peak of the first one's format. read is
// what the read bandwidth is measured on, nil where reading is no bound.
func (b *Bench) measure(read []float32, ops ...op) ([]sample, error) {
	times := make([]int, len(ops))
	for k, o := range ops {
		if _, err := o.time(1); err != nil { // warms up
			return nil, err
		}
		once, err := o.time(1)
		if err != nil {
			return nil, err
		}
		times[k] = max(1, int(minTime.Seconds()/max(1e-9, once)))
	}
	samples := make([]sample, b.Repeats)
	for i := range samples {
		s := &samples[i]
		s.peak = rt.Peak(b.Pool, b.ISA, ops[0].format)
		if read != nil {
			s.read = rt.ReadBandwidth(b.Pool, b.ISA, read)
		}
		for k, o := range ops {
			t, err := o.time(times[k])
			if err != nil {
				return nil, err
			}
			s.seconds = append(s.seconds, t)
		}
	}
	return samples, nil
}

// collect sums up a figure of all samples.
func collect(samples []sample, f func(s sample) float64) Spread {
	var v []float64
	for _, s := range samples {
		v = append(v, f(s))
	}
	return spreadOf(v)
}

// slower is the time of operation j / that of operation k.
func slower(samples []sample, j, k int) Spread {
	return collect(samples, func(s sample) float64 { return s.seconds[j] / s.seconds[k] })
}

// rate sums up operation k of ops, with the peers that do the same.
func rate(samples []sample, ops []op, k int) Rate {
	o := ops[k]
	seconds := func(k int) float64 { return collect(samples, func(s sample) float64 { return s.seconds[k] }).Median }
	r := Rate{
		Format:  cmp.Or(o.format, kernel.F32),
		Seconds: seconds(k),
		GFLOPS:  o.flops / seconds(k) / 1e9,
		Peak:    collect(samples, func(s sample) float64 { return s.peak / 1e9 }).Median,
		Share:   collect(samples, func(s sample) float64 { return o.flops / s.seconds[k] / s.peak }),
	}
	r.Bound = r.Share
	if samples[0].read > 0 && o.bytes > 0 {
		r.GBps = o.bytes / seconds(k) / 1e9
		r.Read = collect(samples, func(s sample) float64 { return s.read / 1e9 }).Median
		share := collect(samples, func(s sample) float64 { return o.bytes / s.seconds[k] / s.read })
		r.ReadShare = &share
		r.Bound = collect(samples, func(s sample) float64 { return max(o.flops/s.peak, o.bytes/s.read) / s.seconds[k] })
	}
	for j, p := range ops {
		if p.peer != "" && p.name == o.name {
			r.Peers = append(r.Peers, Peer{p.peer, p.version, seconds(j), o.flops / seconds(j) / 1e9, slower(samples, j, k)})
		}
	}
	return r
}

// normal draws n numbers, always the same.
func normal(n int, deviation float64) []float32 {
	rng := rand.New(rand.NewPCG(1, uint64(n)))
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(deviation * rng.NormFloat64())
	}
	return x
}
