package vec

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"
	"unsafe"

	"github.com/structuredffn/sffn/internal/guard"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// A quantised row has the same bytes on every instruction set, stands for the row within
// half a step, and its sums are those of its integers: of every length, up to chunks, with
// operands that end at a protected page.
func TestQuantize(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	for _, n := range []int{1, 5, 31, 32, 33, 63, 64, 65, 96, 127, 768, 1000, 3072, chunk - 1, chunk, chunk + 1, 2*chunk + 40} {
		x, f := guard.Floats(t, n), guard.Floats(t, kernel.QuantGroups(n)*kernel.QuantGroup)
		for i := range x {
			x[i] = float32(r.NormFloat64())
		}
		for i := range f {
			f[i] = float32(math.Exp(r.NormFloat64()))
		}
		want := make([]byte, kernel.LeftRow(n))
		For(kernel.Portable).Quantize(want, x, f)
		for _, isa := range kernel.Available() {
			words := guard.Floats(t, kernel.LeftRow(n)/4)
			got := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), 4*len(words))
			For(isa).Quantize(got, x, f)
			if used := kernel.LeftHead + kernel.QuantGroups(n)*kernel.LeftGroupBytes; !bytes.Equal(got[:used], want[:used]) {
				t.Fatalf("%s: %d entries have other bytes than in Go", isa, n)
			}
		}
		scale, all, top := math.Float32frombits(binary.LittleEndian.Uint32(want)), int32(0), 0
		for g := range kernel.QuantGroups(n) {
			group := want[kernel.LeftHead+g*kernel.LeftGroupBytes:]
			sum := int32(0)
			for i := range kernel.QuantGroup {
				q, k := int8(group[4+i]), g*kernel.QuantGroup+i
				sum += int32(q)
				top = max(top, int(q), -int(q))
				v := 0.0
				if k < n {
					v = float64(x[k]) * float64(f[k])
				}
				if d := math.Abs(v - float64(q)*float64(scale)); d > float64(scale)*(0.5+1e-4) {
					t.Fatalf("entry %d of %d is %v, quantised %d x %v", k, n, v, q, scale)
				}
			}
			all += sum
			if got := int32(binary.LittleEndian.Uint32(group)); got != -8*sum {
				t.Fatalf("group %d of %d sums %d, written %d", g, n, sum, got)
			}
		}
		if got := int32(binary.LittleEndian.Uint32(want[4:])); got != -128*all || top != 127 {
			t.Fatalf("%d entries sum %d up to %d, written %d", n, all, top, got)
		}
	}
}

// Rows that are not finite have no scale; rows of nothing, or next to it, are zeros.
func TestQuantizeExtremes(t *testing.T) {
	f := make([]float32, 64)
	for i := range f {
		f[i] = 1
	}
	for _, c := range []struct{ v, scale float32 }{
		{float32(math.NaN()), float32(math.NaN())}, {float32(math.Inf(-1)), float32(math.NaN())}, {0, 0}, {1e-40, 0}, {smallest / 2, 0},
		{smallest, smallest / 127}, {math.MaxFloat32, math.MaxFloat32 / 127},
	} {
		for _, isa := range kernel.Available() {
			x, dst := make([]float32, 50), make([]byte, kernel.LeftRow(50))
			for i := range dst {
				dst[i] = 0xaa
			}
			x[33] = c.v
			For(isa).Quantize(dst, x, f)
			scale, q := math.Float32frombits(binary.LittleEndian.Uint32(dst)), int8(dst[kernel.LeftHead+kernel.LeftGroupBytes+4+1])
			if scale != c.scale && (scale == scale || c.scale == c.scale) || (q != 0) != (scale > 0) {
				t.Errorf("%s: a row of %v has scale %v and integer %d, want %v", isa, c.v, scale, q, c.scale)
			}
		}
	}
}
