package contract

import (
	"testing"

	"github.com/structuredffn/sffn/internal/runtimetest"
)

// Rows takes buffers that are long enough, whatever lies behind the rows, and refuses
// others with the layer's name, the operand's and both sizes.
func TestRows(t *testing.T) {
	x := make([]float32, 120)
	for _, c := range []struct{ have, m, width int }{{120, 5, 24}, {120, 4, 24}, {120, 0, 24}, {0, 0, 24}, {0, 5, 0}, {1, 1, 1}} {
		Rows("a layer", "x", x[:c.have], c.m, c.width)
	}
	Rows("a layer", "x", nil, 0, 24)
	for _, c := range []struct {
		have, m, width int
		want           string
	}{
		{119, 5, 24, "runtime: dense_24x8: dy has 119 entries, want [5, 24] = 120"},
		{0, 1, 1, "dy has 0 entries, want [1, 1] = 1"},
		{120, -1, 24, "dy has 120 entries, want [-1, 24]"},
		{120, 6, 24, "want [6, 24] = 144"},
	} {
		runtimetest.MustPanic(t, c.want, func() { Rows("dense_24x8", "dy", x[:c.have], c.m, c.width) }, c.want)
	}
	runtimetest.MustPanic(t, "no buffer", func() { Rows("dense_24x8", "dy", nil, 1, 1) }, "dy has 0 entries")
}

// Overlap is about entries, not about capacity.
func TestOverlap(t *testing.T) {
	x := make([]float32, 10)
	for _, c := range []struct {
		what string
		a, b []float32
		want bool
	}{
		{"itself", x, x, true},
		{"a part", x, x[3:5], true},
		{"one entry in common", x[:6], x[5:], true},
		{"the first entry in common", x[:1], x, true},
		{"neighbours", x[:5], x[5:], false},
		{"apart in one array", x[:2], x[8:], false},
		{"no entries", x, x[5:5], false},
		{"no buffer", x, nil, false},
		{"two without entries", x[:0], x[:0], false},
		{"two arrays", x, make([]float32, 10), false},
	} {
		if got := Overlap(c.a, c.b); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
		if got := Overlap(c.b, c.a); got != c.want {
			t.Errorf("%s, the other way round: %v", c.what, got)
		}
	}
}

// Apart looks at every source, and names the one that the result lies in.
func TestApart(t *testing.T) {
	x := make([]float32, 30)
	y, a, b := Operand{"y", x[:10]}, Operand{"a", x[10:20]}, Operand{"b", x[20:]}
	Apart("a layer", y)
	Apart("a layer", y, a, b, Operand{Name: "none"})
	Apart("a layer", Operand{Name: "none"}, a, y)
	over := Operand{"b", x[9:20]}
	runtimetest.MustPanic(t, "the last source", func() { Apart("lowrank_8x8_r2", y, a, over) },
		"runtime: lowrank_8x8_r2: y lies in the memory of b, which is still read; give it a buffer of its own")
	runtimetest.MustPanic(t, "the first source", func() { Apart("lowrank_8x8_r2", a, over, y) }, "a lies in the memory of b")
	runtimetest.MustPanic(t, "itself", func() { Apart("lowrank_8x8_r2", y, y) }, "y lies in the memory of y")
}
