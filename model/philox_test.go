package model

import (
	"math"
	"testing"
)

// The known answers of the generator's authors (Random123, philox4x32 of 10 rounds).
func TestPhilox(t *testing.T) {
	for _, c := range []struct {
		counter [4]uint32
		key     [2]uint32
		want    [4]uint32
	}{
		{[4]uint32{}, [2]uint32{}, [4]uint32{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
		{[4]uint32{math.MaxUint32, math.MaxUint32, math.MaxUint32, math.MaxUint32}, [2]uint32{math.MaxUint32, math.MaxUint32}, [4]uint32{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
		{[4]uint32{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, [2]uint32{0xa4093822, 0x299f31d0}, [4]uint32{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
	} {
		if got := philox(c.counter, c.key); got != c.want {
			t.Errorf("%08x with %08x gives %08x, want %08x", c.counter, c.key, got, c.want)
		}
	}
}

// Entries are dropped with their probability, each by a draw of its own, and the
// others divided by what is left.
func TestDropRows(t *testing.T) {
	const width, rows = 37, 500
	seen := map[string]bool{}
	for _, p := range []float64{0.1, 0.5, 0.99} {
		n, pairs := 0, 0
		for micro := range 2 {
			var tr Trace
			tr.SetDropout(Dropout{P: p, Seed: 1 << 40, Step: 3, Micro: micro})
			for place := range uint32(3) {
				x, add, before := make([]float32, width), make([]float32, width), make([]bool, width)
				for row := range uint32(rows) {
					for i := range x {
						x[i], add[i] = float32(i+1), float32(2*i)
					}
					tr.drop.row(x, x, add, place, row)
					pattern := make([]byte, width)
					for i, v := range x {
						switch v - float32(2*i) {
						case 0:
							n++
							pattern[i] = 1
							if before[i] {
								pairs++
							}
						case float32(2*i) + float32(i+1)*float32(1/(1-p)) - float32(2*i):
						default:
							t.Fatalf("%v of %d with %d added", v, i+1, 2*i)
						}
						before[i] = pattern[i] == 1
					}
					if p == 0.5 {
						if seen[string(pattern)] {
							t.Fatal("a row is dropped as another one")
						}
						seen[string(pattern)] = true
					}
				}
			}
		}
		const all = 2 * 3 * rows * width
		for what, c := range map[string]struct{ got, p float64 }{"dropped": {float64(n), p}, "and the one in the next row": {float64(pairs), p * p}} {
			if dev := math.Sqrt(all * c.p * (1 - c.p)); math.Abs(c.got-all*c.p) > 6*dev+37*6 {
				t.Errorf("%v of %d entries are %s, want about %v", c.got, all, what, all*c.p)
			}
		}
	}
}
