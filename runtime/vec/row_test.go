package vec

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"

	"github.com/structuredffn/sffn/internal/bound"
	"github.com/structuredffn/sffn/internal/guard"
	"github.com/structuredffn/sffn/runtime/kernel"
)

type num = bound.Num

// shape is how large the operands of a call are, in entries; what it means is
// said at each operation's portable form.
type shape struct{ n, rows, groups, stride, step, gap int }

// row says what an operation does to its operands, from which its test
// follows.
type row struct {
	// operands has one letter an operand: i is read, o is written, u is both, t
	// is the table of Spread, and - is none.
	operands string
	// s are the scalars of a call.
	s []float32
	// draw makes the entries of operands that are not just normal.
	draw map[int]func(r *rand.Rand, i int) float32
	// inPlace lists which operand may be written where which other is read.
	inPlace [][2]int
	// An elementwise operation gives, from the entries of all operands at one
	// place, those of the written ones in order, and its terms of the sums R.
	entry, terms func(x, s []num) []num
	// largest is the largest: R0 is the largest of what it makes of the entries at one
	// place, or least.
	largest func(x []num) num
	least   float64

	// Others have shapes, the places of the entries of each operand in order,
	// and all results, as the written operands list their places.
	shapes func(kernel.ISA) []shape
	places func(sh shape, operand int) []int
	want   func(sh shape, x [][]num, s []num) [][]num
	// rate is Peak: R0 is the number of operations, of which there are some.
	rate bool
}

// maxLength covers every tail of both vector widths behind unrolled loops.
const maxLength = 70

func (w *row) allShapes(isa kernel.ISA) (all []shape) {
	if w.shapes != nil {
		return w.shapes(isa)
	}
	for _, n := range []int{1023, 768, 127} {
		all = append(all, shape{n: n})
	}
	for n := maxLength; n >= 0; n-- {
		all = append(all, shape{n: n})
	}
	return all
}

// counted lists the n first places.
func counted(n int) []int {
	at := make([]int, n)
	for i := range at {
		at[i] = i
	}
	return at
}

// grid lists n places in each of the rows.
func grid(rows, stride, n, step int) (at []int) {
	for r := range rows {
		for i := range n {
			at = append(at, r*stride+i*step)
		}
	}
	return at
}

func (w *row) placesOf(sh shape, operand int) []int {
	if w.places == nil {
		return counted(sh.n)
	}
	return w.places(sh, operand)
}

// one is a list of one number.
func one(x num) []num { return []num{x} }

func quantizeShapes(kernel.ISA) (all []shape) {
	for _, n := range []int{32, 64, 96, 768} {
		all = append(all, shape{n: n})
	}
	return all
}

// quantizePlaces are words, of groups of integers.
func quantizePlaces(sh shape, operand int) []int {
	if operand == 0 {
		return counted(sh.n / kernel.QuantGroup * kernel.LeftGroupBytes / 4)
	}
	return counted(sh.n)
}

func wantQuantized(sh shape, x [][]num, s []num) [][]num {
	var out []num
	word := func(b [4]byte) {
		out = append(out, num{V: float64(math.Float32frombits(binary.LittleEndian.Uint32(b[:])))})
	}
	for at := 0; at < sh.n; at += kernel.QuantGroup {
		var q [kernel.QuantGroup]byte
		sum := int32(0)
		for i := range q {
			v := int32(math.RoundToEven(float64(float32(float32(x[1][at+i].V*x[2][at+i].V) * float32(s[0].V)))))
			q[i], sum = byte(v), sum+v
		}
		var b [4]byte
		binary.LittleEndian.PutUint32(b[:], uint32(-8*sum))
		word(b)
		for i := 0; i < len(q); i += 4 {
			word([4]byte(q[i:]))
		}
	}
	return [][]num{out}
}

// spread in entries, of a tile whose rows hold whole vectors.
func spreadShapes(kernel.ISA) (all []shape) {
	for _, n := range []int{16, 32, 48} {
		for _, step := range []int{1, 2, 3, 4, 5, 7, 16, 33} {
			for _, rows := range []int{1, 3} {
				all = append(all, shape{n: n, rows: rows, step: step, stride: n*step + 2})
			}
		}
	}
	return all
}

func spreadPlaces(sh shape, operand int) []int {
	if operand == 1 {
		return counted(sh.rows * sh.n)
	}
	return grid(sh.rows, sh.stride, sh.n, sh.step)
}

// weaveRow is the row of an operation that deals out so many blocks.
func weaveRow(blocks int, add bool) row {
	w := row{
		operands: "oi",
		shapes: func(kernel.ISA) (all []shape) {
			for _, n := range []int{16, 32, 48} {
				for _, rows := range []int{1, 3} {
					all = append(all, shape{n: n, rows: rows, step: rows*n + 8, stride: n*blocks + 2})
				}
			}
			return all
		},
		places: func(sh shape, operand int) (at []int) {
			for r := range sh.rows {
				for i := range sh.n {
					for b := range blocks {
						if operand == 1 {
							at = append(at, b*sh.step+r*sh.n+i)
						} else {
							at = append(at, r*sh.stride+i*blocks+b)
						}
					}
				}
			}
			return at
		},
		want: func(_ shape, x [][]num, _ []num) [][]num {
			sums := append([]num(nil), x[1]...)
			for i := range sums {
				if add {
					sums[i] = sums[i].Add(x[2][i])
				}
			}
			return [][]num{sums}
		},
	}
	if add {
		w.operands, w.inPlace = "oii", [][2]int{{0, 2}}
	}
	return w
}

// runPlaces are runs of n entries, some places apart and in falling order where they
// go, one behind the other where they come from.
func runPlaces(sh shape) (to, from []int) {
	for g := range sh.groups {
		for i := range sh.n {
			to, from = append(to, (sh.groups-1-g)*(sh.n+3)+i), append(from, g*sh.n+i)
		}
	}
	return to, from
}

// packRow is the row of an operation that packs groups of so many columns.
func packRow(width func(kernel.ISA) int, steps ...int) row {
	return row{
		operands: "oi",
		shapes: func(isa kernel.ISA) (all []shape) {
			n := width(isa)
			for _, rows := range []int{1, 2, 3, 17} {
				for _, groups := range []int{1, 2, 5} {
					for _, step := range steps {
						all = append(all, shape{n: n, rows: rows, groups: groups, step: step, stride: groups*n*step + 3, gap: rows % 3})
					}
				}
			}
			return all
		},
		places: func(sh shape, operand int) (at []int) {
			switch operand {
			case 0:
				return grid(sh.groups, sh.rows*sh.n+sh.gap, sh.rows*sh.n, 1)
			case 2:
				return counted(sh.groups * sh.n)
			}
			for g := range sh.groups {
				for r := range sh.rows {
					for i := range sh.n {
						at = append(at, r*sh.stride+(g*sh.n+i)*sh.step)
					}
				}
			}
			return at
		},
		want: func(_ shape, x [][]num, _ []num) [][]num { return [][]num{x[1]} },
	}
}

// sumRow is that of one that also sums the columns.
func sumRow(steps ...int) row {
	w := packRow(stripMR, steps...)
	w.operands = "oiu"
	w.want = func(sh shape, x [][]num, _ []num) [][]num {
		sums := append([]num(nil), x[2]...)
		for i, v := range x[1] {
			at := i/sh.n/sh.rows*sh.n + i%sh.n
			sums[at] = sums[at].Add(v)
		}
		return [][]num{x[1], sums}
	}
	return w
}

func stripMR(isa kernel.ISA) int { return kernel.For(isa).StripRows }

// around draws arguments of activations: normal ones, and some far out.
func around(r *rand.Rand, i int) float32 {
	if far := []float32{0, 100, -100, 30, -30, 1e-20, -1e-3}; i < len(far) {
		return far[i]
	}
	return float32(4 * r.NormFloat64())
}

// centred is (x - s0)*s1.
func centred(x num, s []num) num { return x.Sub(s[0]).Mul(s[1]) }

// rows has a row for each operation.
var rows = withActivations(map[kernel.VecOp]row{
	kernel.OpSum:           {operands: "i", terms: func(x, _ []num) []num { return one(x[0]) }},
	kernel.OpSumDeviations: {operands: "i", s: []float32{0.3}, terms: func(x, s []num) []num { d := x[0].Sub(s[0]); return one(d.Mul(d)) }},
	kernel.OpNormalize: {
		operands: "oiii", s: []float32{0.3, 1.7},
		entry: func(x, s []num) []num { return one(centred(x[1], s).Mul(x[2]).Add(x[3])) },
	},
	kernel.OpNormSums: {
		operands: "iiiuu", s: []float32{0.3, 1.7},
		entry: func(x, s []num) []num {
			return []num{x[3].Add(x[0].Mul(centred(x[1], s))), x[4].Add(x[0])}
		},
		terms: func(x, s []num) []num {
			g := x[0].Mul(x[2])
			return []num{g, g.Mul(centred(x[1], s))}
		},
	},
	kernel.OpNormApply: {
		operands: "uiii", s: []float32{0.3, 1.7, 0.2, -0.6},
		entry: func(x, s []num) []num {
			g := x[1].Mul(x[3]).Sub(s[2]).Sub(s[3].Mul(centred(x[2], s)))
			return one(x[0].Add(s[1].Mul(g)))
		},
	},
	kernel.OpMax:     {operands: "i", least: math.Inf(-1), largest: func(x []num) num { return x[0] }},
	kernel.OpLargest: {operands: "ii", largest: func(x []num) num { p := x[0].Mul(x[1]); return num{V: math.Abs(p.V), E: p.E} }},
	// Integers are read as float32: those at the ends of words are positive and small, and
	// sums negative, so that none is NaN.
	kernel.OpQuantize: {operands: "oii", s: []float32{1.5}, draw: map[int]func(r *rand.Rand, i int) float32{1: func(r *rand.Rand, i int) float32 {
		if i%4 == 3 {
			return 10 * r.Float32()
		}
		return -80 * r.Float32()
	}, 2: func(r *rand.Rand, i int) float32 { return 0.9 + 0.1*r.Float32() }}, shapes: quantizeShapes, places: quantizePlaces, want: wantQuantized},
	kernel.OpExpSum: {
		operands: "oi", inPlace: [][2]int{{0, 1}}, s: []float32{0.5, 1},
		draw: map[int]func(*rand.Rand, int) float32{1: func(r *rand.Rand, i int) float32 {
			if i%11 == 1 {
				return []float32{float32(math.Inf(-1)), -1000}[i%2]
			}
			return float32(r.NormFloat64())
		}},
		entry: func(x, s []num) []num { return one(expOf(x[1], s)) },
		terms: func(x, s []num) []num { return one(expOf(x[1], s)) },
	},
	kernel.OpSoftmaxBackward: {
		operands: "oii", inPlace: [][2]int{{0, 1}, {0, 2}}, s: []float32{0.25, 0.7},
		entry: func(x, s []num) []num { return one(x[1].Mul(x[2].Sub(s[0])).Mul(s[1])) },
	},
	kernel.OpDot:      {operands: "ii", terms: func(x, _ []num) []num { return one(x[0].Mul(x[1])) }},
	kernel.OpMultiply: {operands: "ui", entry: func(x, s []num) []num { return one(x[0].Mul(x[1])) }},
	kernel.OpScale:    {operands: "u", s: []float32{-0.7}, entry: func(x, s []num) []num { return one(x[0].Mul(s[0])) }},
	kernel.OpAxpy:     {operands: "ui", s: []float32{0.7}, entry: func(x, s []num) []num { return one(x[0].Add(s[0].Mul(x[1]))) }},
	kernel.OpColSum: {
		operands: "ui",
		shapes: func(kernel.ISA) (all []shape) {
			for n := 1; n <= maxLength; n++ {
				for _, rows := range []int{1, 2, 5} {
					all = append(all, shape{n: n, rows: rows, stride: n + 3})
				}
			}
			return all
		},
		places: func(sh shape, operand int) []int {
			if operand == 0 {
				return counted(sh.n)
			}
			return grid(sh.rows, sh.stride, sh.n, 1)
		},
		want: func(sh shape, x [][]num, _ []num) [][]num {
			sum := append([]num(nil), x[0]...)
			for i, v := range x[1] {
				sum[i%sh.n] = sum[i%sh.n].Add(v)
			}
			return [][]num{sum}
		},
	},
	kernel.OpRotate: {
		operands: "uuii", s: []float32{-1},
		shapes: func(kernel.ISA) (all []shape) {
			for n := 1; n <= maxLength; n++ {
				for _, heads := range []int{1, 3} {
					all = append(all, shape{n: n, rows: heads, stride: 2*n + 5})
				}
			}
			return all
		},
		places: func(sh shape, operand int) []int {
			if operand > 1 {
				return counted(sh.n)
			}
			return grid(sh.rows, sh.stride, sh.n, 1)
		},
		want: func(sh shape, x [][]num, s []num) [][]num {
			var a, b []num
			for i := range x[0] {
				cos, sin := x[2][i%sh.n], x[3][i%sh.n].Mul(s[0])
				a = append(a, x[0][i].Mul(cos).Sub(x[1][i].Mul(sin)))
				b = append(b, x[1][i].Mul(cos).Add(x[0][i].Mul(sin)))
			}
			return [][]num{a, b}
		},
	},
	kernel.OpAdamW: {
		operands: "uiuu", s: []float32{0.999, 0.9, 0.1, 0.99, 0.01, 0.5, 0.05, 80, 1e-8},
		draw: map[int]func(*rand.Rand, int) float32{3: func(r *rand.Rand, _ int) float32 { return float32(r.Float64()) }},
		entry: func(x, s []num) []num {
			g := x[1].Mul(s[5])
			m := x[2].Mul(s[1]).Add(g.Mul(s[2]))
			v := x[3].Mul(s[3]).Add(g.Mul(g).Mul(s[4]))
			step := m.Mul(s[6]).Div(v.Mul(s[7]).Sqrt().Add(s[8]))
			return []num{x[0].Mul(s[0]).Sub(step), m, v}
		},
	},
	kernel.OpSpread: {
		operands: "oi-t", shapes: spreadShapes, places: spreadPlaces,
		want: func(_ shape, x [][]num, _ []num) [][]num { return [][]num{x[1]} },
	},
	kernel.OpSpreadAdd: {
		operands: "oiit", inPlace: [][2]int{{0, 2}}, shapes: spreadShapes, places: spreadPlaces,
		want: func(_ shape, x [][]num, _ []num) [][]num {
			var sums []num
			for i, v := range x[1] {
				sums = append(sums, v.Add(x[2][i]))
			}
			return [][]num{sums}
		},
	},
	kernel.OpWeave2:         weaveRow(2, false),
	kernel.OpWeave2Add:      weaveRow(2, true),
	kernel.OpWeave4:         weaveRow(4, false),
	kernel.OpWeave4Add:      weaveRow(4, true),
	kernel.OpPackPanels:     packRow(func(kernel.ISA) int { return kernel.Panel }, 1),
	kernel.OpPackStrips:     packRow(stripMR, 1),
	kernel.OpPackStripsStep: packRow(stripMR, 2, 3, 8),
	kernel.OpSumStrips:      sumRow(1),
	kernel.OpSumStripsStep:  sumRow(2, 3, 8),
	kernel.OpTranspose: {
		operands: "oi",
		shapes: func(kernel.ISA) (all []shape) {
			for _, n := range []int{16, 48} {
				for _, rows := range []int{16, 32} {
					all = append(all, shape{n: n, rows: rows, stride: n + 3, step: rows + 5})
				}
			}
			return all
		},
		places: func(sh shape, operand int) (at []int) {
			for r := range sh.rows {
				for i := range sh.n {
					at = append(at, []int{i*sh.step + r, r*sh.stride + i}[operand])
				}
			}
			return at
		},
		want: func(_ shape, x [][]num, _ []num) [][]num { return [][]num{x[1]} },
	},
	kernel.OpCopyRuns: {
		operands: "oi-t",
		shapes: func(isa kernel.ISA) (all []shape) {
			for n := 1; n <= max(8, isa.Lanes()); n++ {
				for _, rows := range []int{1, 2, 5} {
					for _, groups := range []int{1, 2, 7} {
						all = append(all, shape{n: n, rows: rows, groups: groups, stride: groups*(n+3) + 4, step: groups*n + 1})
					}
				}
			}
			return all
		},
		places: func(sh shape, operand int) (at []int) {
			for r := range sh.rows {
				to, from := runPlaces(sh)
				for i := range to {
					at = append(at, []int{r*sh.stride + to[i], r*sh.step + from[i]}[operand])
				}
			}
			return at
		},
		want: func(_ shape, x [][]num, _ []num) [][]num { return [][]num{x[1]} },
	},
	kernel.OpBF16: {
		operands: "oi", draw: map[int]func(*rand.Rand, int) float32{1: anyExponent},
		shapes: func(isa kernel.ISA) (all []shape) {
			for n := 1; n <= maxLength; n++ {
				if n%2 > 0 && isa == kernel.Portable {
					continue // half an entry
				}
				for _, rows := range []int{1, 3} {
					all = append(all, shape{n: n, rows: rows, groups: isa.Lanes(), stride: n + 3, step: n + 16})
				}
			}
			return all
		},
		places: func(sh shape, operand int) []int {
			if operand == 1 {
				return grid(sh.rows, sh.stride, sh.n, 1)
			}
			return grid(sh.rows, sh.step, (sh.n+sh.groups-1)/sh.groups*sh.groups/2, 1)
		},
		want: func(sh shape, x [][]num, _ []num) [][]num {
			var pairs []num
			for r := range sh.rows {
				row := x[1][r*sh.n:][:sh.n]
				for i := 0; i < (sh.n+sh.groups-1)/sh.groups*sh.groups; i += 2 {
					var h [2]num
					copy(h[:], row[min(i, sh.n):])
					pairs = append(pairs, pairOf(h[0], h[1]))
				}
			}
			return [][]num{pairs}
		},
	},
	kernel.OpBF16Pairs: {
		operands: "oii", draw: map[int]func(*rand.Rand, int) float32{1: anyExponent, 2: anyExponent}, shapes: rowShapes, places: rowPlaces,
		want: func(_ shape, x [][]num, _ []num) [][]num {
			var pairs []num
			for i := range x[1] {
				pairs = append(pairs, pairOf(x[1][i], x[2][i]))
			}
			return [][]num{pairs}
		},
	},
	kernel.OpRoundBF16: {
		operands: "oi", inPlace: [][2]int{{0, 1}}, draw: map[int]func(*rand.Rand, int) float32{1: anyExponent},
		shapes: func(isa kernel.ISA) (all []shape) {
			for _, sh := range rowShapes(isa) {
				sh.step = sh.stride
				all = append(all, sh)
			}
			return all
		},
		places: rowPlaces,
		want: func(_ shape, x [][]num, _ []num) [][]num {
			var rounded []num
			for _, v := range x[1] {
				rounded = append(rounded, num{V: float64(nearest(v))})
			}
			return [][]num{rounded}
		},
	},
	kernel.OpSwapBF16: {
		operands: "oi", inPlace: [][2]int{{0, 1}}, draw: map[int]func(*rand.Rand, int) float32{1: anyExponent},
		shapes: func(isa kernel.ISA) (all []shape) {
			for _, sh := range rowShapes(isa) {
				sh.step = sh.stride
				if sh.n%2 == 0 {
					all = append(all, sh)
				}
			}
			return all
		},
		places: rowPlaces,
		want: func(_ shape, x [][]num, _ []num) [][]num {
			var rounded []num
			for i := range x[1] {
				rounded = append(rounded, num{V: float64(nearest(x[1][i^1]))})
			}
			return [][]num{rounded}
		},
	},
	kernel.OpRead: {operands: "i"},
	kernel.OpPeak: rate, kernel.OpPeakBF16: rate, kernel.OpPeakInt8: rate, kernel.OpPeakInt4: rate,
})

var rate = row{rate: true, shapes: func(kernel.ISA) []shape { return []shape{{n: 1}, {n: 5}} }}

// withActivations adds the rows of the operations of activations.
func withActivations(rows map[kernel.VecOp]row) map[kernel.VecOp]row {
	for _, e := range kernel.Epilogues() {
		if e == kernel.Linear {
			continue
		}
		of := func(x num) (y, dy num) { return x.Activation(string(e)) }
		drawn := func(i int) map[int]func(*rand.Rand, int) float32 {
			return map[int]func(*rand.Rand, int) float32{i: around}
		}
		forward, backward := e.Ops()
		if e.Gated() {
			rows[forward] = row{
				operands: "oii", draw: drawn(1),
				entry: func(x, _ []num) []num { y, _ := of(x[1]); return one(y.Mul(x[2])) },
			}
			rows[backward] = row{
				operands: "oooiii", inPlace: [][2]int{{0, 5}}, draw: drawn(3),
				entry: func(x, _ []num) []num {
					y, dy := of(x[3])
					return []num{y.Mul(x[4]), dy.Mul(x[4]).Mul(x[5]), y.Mul(x[5])}
				},
			}
			continue
		}
		rows[forward] = row{
			operands: "oi", inPlace: [][2]int{{0, 1}}, draw: drawn(1),
			entry: func(x, _ []num) []num { y, _ := of(x[1]); return one(y) },
		}
		rows[backward] = row{
			operands: "ooii", inPlace: [][2]int{{0, 2}, {0, 3}, {1, 3}}, draw: drawn(2),
			entry: func(x, _ []num) []num { y, dy := of(x[2]); return []num{y, x[3].Mul(dy)} },
		}
	}
	return rows
}

// rowShapes are rows of some entries.
func rowShapes(kernel.ISA) (all []shape) {
	for n := 1; n <= maxLength; n++ {
		for _, rows := range []int{1, 3} {
			all = append(all, shape{n: n, rows: rows, stride: n + 3, step: n + 2})
		}
	}
	return all
}

func rowPlaces(sh shape, operand int) []int {
	if operand == 0 {
		return grid(sh.rows, sh.step, sh.n, 1)
	}
	return grid(sh.rows, sh.stride, sh.n, 1)
}

// anyExponent draws numbers of all sizes, ties of bfloat16 and subnormal ones among them.
func anyExponent(r *rand.Rand, i int) float32 {
	u := r.Uint32() & 0xff7fffff // the largest exponents round to infinity, or are that
	switch i % 5 {
	case 1:
		u = u&0xffff0000 | 0x8000
	case 2:
		u &= 0x807fffff
	case 3:
		return float32(r.NormFloat64())
	}
	return math.Float32frombits(u)
}

// nearest is the bfloat16 nearest to x, a zero of its sign where x is subnormal.
func nearest(x num) float32 {
	if math.Abs(x.V) < 0x1p-126 {
		return float32(math.Copysign(0, x.V))
	}
	m, e := math.Frexp(x.V)
	return float32(math.Ldexp(math.RoundToEven(math.Ldexp(m, 8)), e-8))
}

// pairOf is an entry that holds two numbers rounded to bfloat16.
func pairOf(even, odd num) num {
	bits := math.Float32bits(nearest(even))>>16 | math.Float32bits(nearest(odd))
	return num{V: float64(math.Float32frombits(bits))}
}

// expOf is e^(x*s0 - s1).
func expOf(x num, s []num) num {
	if math.IsInf(x.V, -1) {
		return num{}
	}
	return x.Mul(s[0]).Sub(s[1]).Exp()
}

// call is a call's operands: what they hold before it at their places.
type call struct {
	shape
	row
	places [6][]int
	before [6][]float32
}

// written lists the operands that the operation writes.
func (w *row) written() (ps []int) {
	for p, kind := range w.operands {
		if kind == 'o' || kind == 'u' {
			ps = append(ps, p)
		}
	}
	return ps
}

// newCall draws the operands. A shorter vector holds the first entries of a
// longer one.
func newCall(w row, sh shape) *call {
	c := &call{shape: sh, row: w}
	for p, kind := range w.operands {
		if kind == '-' || kind == 't' {
			continue
		}
		c.places[p] = w.placesOf(sh, p)
		r := rand.New(rand.NewPCG(3, uint64(p)))
		for i := range c.places[p] {
			x := float32(math.NaN())
			if kind != 'o' {
				x = float32(r.NormFloat64())
				if draw := w.draw[p]; draw != nil {
					x = draw(r, i)
				}
			}
			c.before[p] = append(c.before[p], x)
		}
	}
	return c
}

// want is what the written operands hold at their places after the call, and
// the results.
func (c *call) want() (out [][]num, r []num) {
	s, x := []num(nil), make([][]num, len(c.operands))
	for _, v := range c.s {
		s = append(s, bound.Of(v))
	}
	for p := range x {
		for _, v := range c.before[p] {
			x[p] = append(x[p], bound.Of(v))
		}
	}
	switch {
	case c.row.want != nil:
		return c.row.want(c.shape, x, s), nil
	case c.rate:
		return nil, one(num{V: 1 << 20, E: 1<<20 - 1})
	case c.largest != nil:
		m := num{V: c.least}
		for i := range c.n {
			var at []num
			for p := range x {
				at = append(at, x[p][i])
			}
			if v := c.largest(at); v.V > m.V {
				m = v
			}
		}
		return nil, one(m)
	}
	out = make([][]num, len(c.written()))
	var terms [2][]num
	entries := make([]num, len(x))
	for i := range c.n {
		for p := range x {
			entries[p] = x[p][i]
		}
		if c.entry != nil {
			for o, v := range c.entry(entries, s) {
				out[o] = append(out[o], v)
			}
		}
		if c.terms != nil {
			for j, v := range c.terms(entries, s) {
				terms[j] = append(terms[j], v)
			}
		}
	}
	if c.terms != nil {
		r = []num{bound.Sum(terms[0]...), bound.Sum(terms[1]...)}
	}
	return out, r
}

// room is where operands lie: each between two protected pages.
type room [6]*guard.Pages

func newRoom(t testing.TB) (m room) {
	for i := range m {
		m[i] = guard.NewPages(t)
	}
	return m
}

// run calls f and returns the results, and what the written operands hold at
// their places. It is an error if anything else has changed. Operand to, where
// not negative, is written where operand from is read.
func (m room) run(f kernel.VecFunc, c *call, side guard.Side, to, from int) (out [][]float32, r [2]float32, err error) {
	a := kernel.VecArgs{N: c.n, Rows: c.rows, Groups: c.groups, Stride: 4 * c.stride, Step: 4 * c.step, GroupStep: 4 * (c.rows*c.n + c.gap)}
	copy(a.S[:], c.s)
	var bufs, olds [6][]float32
	for p, kind := range c.operands {
		switch {
		case kind == 't':
			a.P[p] = unsafe.Pointer(&For(kernel.Portable).NewSpread(c.step).table[0])
			if c.stride > 0 && c.groups > 0 {
				t := Table{lanes: c.n}
				a.P[p] = unsafe.Pointer(&t.NewRuns(runPlaces(c.shape)).table[0])
			}
			continue
		case kind == '-' || p == to:
			continue
		}
		size := 0
		for _, at := range c.places[p] {
			size = max(size, at+1)
		}
		bufs[p] = m[p].Floats(size, side)
		for i, at := range c.places[p] {
			bufs[p][at] = c.before[p][i]
		}
		olds[p] = append(olds[p], bufs[p]...)
		a.P[p] = unsafe.Pointer(unsafe.SliceData(bufs[p]))
	}
	if to >= 0 {
		a.P[to] = a.P[from]
	}
	if err := guard.Catch(func() { f(&a) }); err != nil {
		return nil, r, err
	}
	for _, p := range c.written() {
		buf, old := p, p
		if p == to {
			buf, old = from, from
		}
		var x []float32
		for _, at := range c.places[p] {
			x = append(x, bufs[buf][at])
			olds[old][at] = bufs[buf][at]
		}
		out = append(out, x)
	}
	for p, buf := range bufs {
		for i, v := range buf {
			if math.Float32bits(v) != math.Float32bits(olds[p][i]) {
				return nil, r, fmt.Errorf("entry %d of operand %d is %v, was %v: it is not the operation's", i, p, v, olds[p][i])
			}
		}
	}
	return out, a.R, nil
}

// check runs an operation at all of its shapes, and returns what it wrote at
// each. An entry depends on its own operands alone: not on the length, nor on
// whether it is part of a tail.
func (m room) check(w row, isa kernel.ISA, f kernel.VecFunc) (outs [][][]float32, err error) {
	for _, sh := range w.allShapes(isa) {
		c := newCall(w, sh)
		want, results := c.want()
		var first [][]float32
		for _, side := range guard.Sides {
			what := fmt.Sprintf("%+v, operands that border on protected memory at the %v", sh, side)
			out, r, err := m.run(f, c, side, -1, -1)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", what, err)
			}
			for j, v := range results {
				if !v.Holds(r[j]) && float64(r[j]) != v.V {
					return nil, fmt.Errorf("%s: R%d = %v, want %v within %.2g", what, j, r[j], v.V, v.E)
				}
			}
			for o, p := range w.written() {
				for i, v := range want[o] {
					if got := out[o][i]; !v.Holds(got) {
						return nil, fmt.Errorf("%s: P%d[%d] = %v, want %v within %.2g", what, p, c.places[p][i], got, v.V, v.E)
					}
				}
			}
			if first == nil {
				first = out
			}
			others := [][][]float32{first}
			if w.shapes == nil && len(outs) > 0 {
				others = append(others, outs[0])
			}
			for _, o := range others {
				if err := sameBits(out, o); err != nil {
					return nil, fmt.Errorf("%s: %w in a call elsewhere or of another length", what, err)
				}
			}
			for _, pair := range w.inPlace {
				in, _, err := m.run(f, c, side, pair[0], pair[1])
				if err == nil {
					err = sameBits(in, out)
				}
				if err != nil {
					return nil, fmt.Errorf("%s: P%d written to P%d: %w", what, pair[0], pair[1], err)
				}
			}
		}
		outs = append(outs, first)
	}
	return outs, nil
}

// sameBits compares as many entries as x has.
func sameBits(x, y [][]float32) error {
	for o := range x {
		for i, v := range x[o] {
			if math.Float32bits(v) != math.Float32bits(y[o][i]) {
				return fmt.Errorf("entry %d of output %d is %v, but %v", i, o, v, y[o][i])
			}
		}
	}
	return nil
}

// Every operation on every instruction set of this machine, as its row says.
// What is written, sums of many entries aside, has the same bits on all
// assembly.
func TestRows(t *testing.T) {
	if len(rows) != int(kernel.NumVecOps) {
		t.Errorf("%d operations have a row, of %d", len(rows), kernel.NumVecOps)
	}
	m := newRoom(t)
	for op := range kernel.NumVecOps {
		w, ok := rows[op]
		if !ok {
			t.Errorf("%s has no row: nothing would test it", op)
			continue
		}
		var best [][][]float32
		for _, isa := range kernel.Available() {
			t.Run(fmt.Sprintf("%s/%s", op, isa), func(t *testing.T) {
				outs, err := m.check(w, isa, For(isa).fns[op])
				if err != nil {
					t.Fatal(err)
				}
				if isa == kernel.Portable || !slices.Equal(w.allShapes(isa), w.allShapes(kernel.Available()[0])) {
					return
				}
				if best == nil {
					best = outs
				}
				for i, o := range outs {
					if err := sameBits(o, best[i]); err != nil {
						t.Fatalf("%+v: %v on %s", w.allShapes(isa)[i], err, kernel.Available()[0])
					}
				}
			})
		}
	}
}
