package narrow

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// All values of the small types come back from float32, and what lies between two
// neighbours goes to the nearer one, or to the even one.
func TestRound(t *testing.T) {
	for _, typ := range []Type{F16, BF16} {
		infinite := map[Type]uint16{F16: 0x7c00, BF16: 0x7f80}[typ]
		value := func(h uint16) float32 {
			var x [1]float32
			typ.Widen(x[:], binary.LittleEndian.AppendUint16(nil, h))
			return x[0]
		}
		bits := func(v float32) uint16 {
			b, err := typ.Append(nil, []float32{v})
			if err != nil {
				t.Fatalf("%s: %v: %v", typ, v, err)
			}
			return binary.LittleEndian.Uint16(b)
		}
		for h := uint16(0); h < infinite; h++ {
			for _, sign := range []uint16{0, 0x8000} {
				if got := bits(value(h | sign)); got != h|sign {
					t.Fatalf("%s: %#04x came back as %#04x", typ, h|sign, got)
				}
			}
			if h+1 == infinite {
				break
			}
			a, b := value(h), value(h+1)
			middle := a + (b-a)/2 // exact: float32 has more bits
			even := h + h&1
			if got := bits(middle); got != even {
				t.Fatalf("%s: %v between %v and %v became %#04x, want %#04x", typ, middle, a, b, got, even)
			}
			if got := bits(math.Nextafter32(middle, a)); got != h {
				t.Fatalf("%s: below the middle of %v and %v became %#04x", typ, a, b, got)
			}
			if got := bits(math.Nextafter32(middle, b)); got != h+1 {
				t.Fatalf("%s: above the middle of %v and %v became %#04x", typ, a, b, got)
			}
		}
		largest := value(infinite - 1)
		over := largest + (largest-value(infinite-2))/2
		if _, err := typ.Append(nil, []float32{1, over}); err == nil || !strings.Contains(err.Error(), "is too large for "+string(typ)) {
			t.Errorf("%s: %v: %v", typ, over, err)
		}
		if got := bits(math.Nextafter32(over, 0)); got != infinite-1 {
			t.Errorf("%s: %v became %#04x, want the largest", typ, math.Nextafter32(over, 0), got)
		}
		for _, v := range []float32{float32(math.Inf(1)), float32(math.Inf(-1))} {
			if got := value(bits(v)); got != v {
				t.Errorf("%s: %v became %v", typ, v, got)
			}
		}
		nan := math.Float32frombits(0x7f800001)
		if got := value(bits(nan)); got == got {
			t.Errorf("%s: not a number became %v", typ, got)
		}
	}
}

func TestFloat32(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	x, y := make([]float32, 100), make([]float32, 100)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	b, err := F32.Append([]byte{7}, x)
	if err != nil || len(b) != 401 || b[0] != 7 {
		t.Fatal(len(b), err)
	}
	if F32.Widen(y, b[1:]); !slices.Equal(x, y) {
		t.Error("float32 changed")
	}
	if _, err := Type("F8").Append(nil, x); err == nil || Type("F8").Size() != 0 {
		t.Error("a type that is none was taken")
	}
}
