package bench

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/klauspost/cpuid/v2"

	"github.com/structuredffn/sffn/gen/spec"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/vec"
)

func newBench(t *testing.T, threads int) *Bench {
	t.Helper()
	isa, err := kernel.Default()
	if err != nil {
		t.Fatal(err)
	}
	pool := rt.NewPool(threads)
	t.Cleanup(pool.Close)
	return &Bench{Options: rt.Options{ISA: isa, Pool: pool}, Repeats: 1}
}

// What is timed in place of a network computes the same: factor by factor bit
// for bit, with literal shuffles up to the order of fc2's sums, which absorbed
// ones take from the order of storage.
func TestAblationsCompute(t *testing.T) {
	for _, threads := range []int{1, 2} {
		b := newBench(t, threads)
		for _, f := range []spec.FFN{
			{Kind: spec.BlockShuffle, Hidden: 192, FFN: 768, Blocks: 2, Act: spec.GELU},
			{Kind: spec.BlockShuffle, Hidden: 192, FFN: 768, Blocks: 4, Act: spec.SwiGLU},
			{Kind: spec.BlockShuffle, Hidden: 84, FFN: 120, Blocks: 6, Act: spec.GELU},
			{Kind: spec.BlockShuffle, Hidden: 20, FFN: 30, Blocks: 1, Act: spec.GELU},
			{Kind: spec.LowRank, Hidden: 96, FFN: 200, Rank: 13, Act: spec.SwiGLU},
		} {
			for _, rows := range []int{1, 150} {
				n, err := b.network(f, rows, false)
				if err != nil {
					t.Fatal(err)
				}
				n.Forward(n.y, n.x, nil, rows, nil, n.ws)
				want := slices.Clone(n.y)
				clear(n.y)
				n.byFactor(rows, b.ISA)(0)
				same(t, fmt.Sprintf("%s, %d rows, by factor", f.Name(), rows), n.y, want)
				if f.Kind == spec.BlockShuffle {
					l, err := b.literal(n, rows)
					if err != nil {
						t.Fatal(err)
					}
					l.forward(0)
					for i, w := range want {
						// Entries are of size 1, sums of at most 768 products.
						if d := math.Abs(float64(l.y[i] - w)); !(d <= 16*math.Sqrt(768)*0x1p-24) {
							t.Fatalf("%s, %d rows, literal: [%d] = %v, want %v", f.Name(), rows, i, l.y[i], w)
						}
					}
					l.close()
				}
				n.close()
			}
		}
	}
}

func same(t *testing.T, what string, got, want []float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d entries, want %d", what, len(got), len(want))
	}
	for i := range want {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			t.Fatalf("%s: [%d] = %v, want %v", what, i, got[i], want[i])
		}
	}
}

func TestShuffles(t *testing.T) {
	for _, isa := range kernel.Available() {
		v := vec.For(isa)
		for _, c := range []struct{ n, q int }{{2, 384}, {4, 48}, {3, 17}, {6, 5}, {1, 33}} {
			x, dealt, back := normal(c.n*c.q, 1), make([]float32, c.n*c.q), make([]float32, c.n*c.q)
			deal(v, isa, dealt, x, c.n)
			for i, w := range x {
				if got := dealt[i%c.n*c.q+i/c.n]; got != w {
					t.Fatalf("%s: deal to %d piles of %d: entry %d became %v, want %v", isa, c.n, c.q, i, got, w)
				}
			}
			riffle(v.NewSpread(c.n), back, dealt, c.n)
			same(t, "deal and riffle", back, x)
		}
	}
}

// Rates from times that are given.
func TestRate(t *testing.T) {
	fixed := func(seconds ...float64) func(int) (float64, error) {
		i := -2 // warm-up
		return func(int) (float64, error) { i++; return seconds[max(0, i-1)%len(seconds)], nil }
	}
	b := newBench(t, 1)
	b.Repeats = 4
	ops := []op{
		{name: "forward", flops: 8e9, bytes: 1e9, time: fixed(1, 2, 4, 8)},
		{name: "forward", peer: "other", version: "1.0", flops: 0, time: fixed(3, 4, 4, 8)},
		{name: "backward", peer: "other", time: fixed(1)},
	}
	samples, err := b.measure(nil, ops...)
	if err != nil {
		t.Fatal(err)
	}
	for i := range samples {
		samples[i].peak, samples[i].read = 16e9, 2e9
	}
	r := rate(samples, ops, 0)
	// Sorted times 1 2 4 8: the median is the third, quartiles the second and fourth.
	if r.Seconds != 4 || r.GFLOPS != 2 || r.Peak != 16 || r.Read != 2 || r.GBps != 0.25 {
		t.Errorf("%+v", r)
	}
	if want := (Spread{0.25, 0.125, 0.5}); r.Share != want || *r.ReadShare != want || r.Bound != want {
		t.Errorf("%+v, %+v", r, *r.ReadShare)
	}
	if len(r.Peers) != 1 || r.Peers[0].Name != "other" || r.Peers[0].Seconds != 4 || r.Peers[0].GFLOPS != 2 || r.Peers[0].Ratio != (Spread{2, 1, 3}) {
		t.Errorf("%+v", r.Peers)
	}
	broken := op{time: func(int) (float64, error) { return 0, fmt.Errorf("it broke") }}
	if _, err := b.measure(nil, ops[0], broken); err == nil || err.Error() != "it broke" {
		t.Error(err)
	}
}

// The machine's target is the one that layers follow: that of the options, or else
// the one of the instruction set.
func TestTarget(t *testing.T) {
	b := newBench(t, 1)
	if got, want := b.target(), kernel.For(b.ISA).Name; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	for _, target := range kernel.Targets() {
		b.Target = &target
		if got := b.target(); got != target.Name {
			t.Errorf("with target %s: %s", target.Name, got)
		}
	}
}

func TestDispatch(t *testing.T) {
	l := newBench(t, 2).Dispatch(50)
	if l.Count != 50 || l.Threads != 2 || !(l.Low > 0 && l.Low <= l.Median && l.Median <= l.High && l.High <= l.Worst) {
		t.Errorf("%+v", l)
	}
}

// A format's peaks are those of the instruction sets whose kernels run it here.
func TestPeaks(t *testing.T) {
	b := newBench(t, 1)
	check := func(want map[kernel.FormatName][]kernel.ISA) {
		t.Helper()
		for _, f := range kernel.Formats() {
			b.Format = f
			peaks := b.peaks()
			isas := want[f]
			if isas == nil {
				isas = kernel.Available()
			}
			for _, isa := range isas {
				if !(peaks[isa] > 0) {
					t.Errorf("%s on %s: %v operations a second", f, isa, peaks[isa])
				}
			}
			if len(peaks) != len(isas) {
				t.Errorf("%s: peaks %v, want those of %v", f, peaks, isas)
			}
		}
	}
	lower := map[kernel.FormatName][]kernel.ISA{}
	for _, name := range kernel.Formats() {
		f, _ := name.Format()
		if !kernel.Has(f.Needs[kernel.AVX512]...) {
			lower[name] = slices.DeleteFunc(kernel.Available(), func(isa kernel.ISA) bool { return isa == kernel.AVX512 })
		}
	}
	check(lower)
	for _, f := range []cpuid.FeatureID{cpuid.AVX512BF16, cpuid.AVX512VNNI} {
		if cpuid.CPU.Has(f) {
			cpuid.CPU.Disable(f)
			defer cpuid.CPU.Enable(f)
		}
	}
	below := slices.DeleteFunc(kernel.Available(), func(isa kernel.ISA) bool { return isa == kernel.AVX512 })
	check(map[kernel.FormatName][]kernel.ISA{kernel.Int8: below, kernel.Int4: below})
}

// Rates of integers are no floating-point operations; a format is that of each factor.
func TestUnits(t *testing.T) {
	for want, formats := range map[string][]kernel.FormatName{"GFLOP/s": {kernel.F32, kernel.BF16}, "GOP/s": {kernel.Int4, kernel.Int8}} {
		var rates []Rate
		for _, f := range formats {
			if unit(f) != want {
				t.Errorf("%s: %s, want %s", f, unit(f), want)
			}
			rates = append(rates, Rate{Format: f})
		}
		if got := rateHeads(rates)[0]; got != want {
			t.Errorf("%v: %s, want %s", formats, got, want)
		}
	}
	if got := rateHeads([]Rate{{Format: kernel.Int4}, {Format: kernel.BF16}})[0]; got != "GFLOP/s" {
		t.Errorf("integers and floating point: %s", got)
	}
	b := newBench(t, 1)
	b.Format = kernel.Int4
	rs, err := b.Factors(spec.FFN{Kind: spec.LowRank, Hidden: 96, FFN: 192, Rank: 16, Act: spec.GELU}, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rs { // a rank of 16 is too small for integers
		if r.Format != kernel.BF16 {
			t.Errorf("%s: %s, want %s", r.Factor, r.Format, kernel.BF16)
		}
	}
}
