//go:build !purego

package ptx

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/cpuid/v2"
)

// Assembly leaves the bits of Go, also where it writes to a register that it reads.
func TestAssembly(t *testing.T) {
	if !cpuid.CPU.Supports(cpuid.AVX2) {
		t.Skip("the processor has no AVX2")
	}
	rng := rand.New(rand.NewPCG(1, 1))
	odd := []uint32{0, 1 << 31, 1, 31, 32, 33, math.MaxUint32, 0x7f800000, 0xff800000, 0x7f7fffff, 1 << 23, 0x00000007, 0x3f800000, 0x7f80, 0x8000, 0x3f803f80}
	draw := func() (r [warpSize]uint32) {
		for l := range r {
			switch rng.IntN(4) {
			case 0:
				r[l] = odd[rng.IntN(len(odd))]
			case 1: // numbers whose sums round
				r[l] = math.Float32bits(float32(rng.NormFloat64()))
			case 2:
				r[l] = uint32(roundBF16(float32(rng.NormFloat64()))<<16 | roundBF16(float32(rng.NormFloat64())))
			default:
				r[l] = rng.Uint32()
			}
		}
		return r
	}
	same := func(got, want uint32) bool { return got == want || f32(got) != f32(got) && f32(want) != f32(want) }
	n := 0
	for code, vector := range vectors {
		if vector == nil {
			continue
		}
		n++
		for range 200 {
			w := warp{r32: [][warpSize]uint32{draw(), draw(), draw(), draw()}}
			in := &instr{op: &opcodeOf[code], r32: [4]int{rng.IntN(3), rng.IntN(3), rng.IntN(3)}}
			var want [warpSize]uint32
			w.compute32(in, &want, allLanes)
			sources := w.r32[0:3:3]
			a, b, c := sources[in.r32[0]], sources[in.r32[1]], sources[in.r32[2]]
			d := rng.IntN(4)
			vector(&w.r32[d], &w.r32[in.r32[0]], &w.r32[in.r32[1]], &w.r32[in.r32[2]])
			for l, got := range w.r32[d] {
				if !same(got, want[l]) {
					t.Fatalf("code %d, lane %d of %#x, %#x, %#x: %#x, want %#x", code, l, a[l], b[l], c[l], got, want[l])
				}
			}
		}
	}
	if n < 14 {
		t.Errorf("%d instructions are assembly", n)
	}
	for range 500 {
		var r [14][warpSize]uint32
		for i := range r {
			r[i] = draw()
		}
		other := r
		var m, o multiplication
		for _, x := range []struct {
			m *multiplication
			r *[14][warpSize]uint32
		}{{&m, &r}, {&o, &other}} {
			for i := range 4 {
				x.m.d[i], x.m.a[i], x.m.c[i] = &x.r[i], &x.r[4+i], &x.r[8+i]
			}
			x.m.b[0], x.m.b[1] = &x.r[12], &x.r[13]
		}
		if i, j := rng.IntN(4), rng.IntN(14); j >= 4 { // D shares a register
			m.d[i], o.d[i] = &r[j], &other[j]
		}
		multiply(&m)
		o.run()
		for i := range r {
			for l := range r[i] {
				if !same(r[i][l], other[i][l]) {
					t.Fatalf("register %d, lane %d: %#x, want %#x", i, l, r[i][l], other[i][l])
				}
			}
		}
	}
}

// opcodeOf has an opcode of every code.
var opcodeOf = func() (of [opMMA]opcode) {
	for i := range of {
		of[i].code = code(i)
	}
	return of
}()
