package attention

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/internal/runtimetest"
	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/vec"
)

// Keys and values in bfloat16 give, to the bit, what float32 gives of keys and values
// that were rounded before: in one pass and through the cache in pieces.
func TestRoundedKeysAndValues(t *testing.T) {
	for _, target := range instructionSets() {
		for _, c := range shapes {
			t.Run(fmt.Sprintf("%s/%dx%d_%d_%d", target.ISA, c.QHeads, c.KVHeads, c.HeadDim, c.seq), func(t *testing.T) {
				pool := runtimetest.PoolOf(2)
				exact := bind(t, c.Spec, &target, pool)
				a, err := New(exact.Spec, pool, &target, kernel.BF16)
				if err != nil {
					t.Fatal(err)
				}
				r := rand.New(rand.NewPCG(7, uint64(c.seq)))
				inPieces(t, a, c.batch, c.seq, func(pos int) int { return 1 + r.IntN(1+pos) })
				m := c.batch * c.seq
				qkv := runtimetest.Random(r, m*a.RowWidth(), 1.5)
				rounded := append([]float32(nil), qkv...)
				for i := range rounded {
					if i%a.RowWidth() >= a.QHeads*a.HeadDim {
						rounded[i] = vec.FromBF16(vec.BF16(qkv[i]))
					}
				}
				ws := a.NewWorkspace()
				defer ws.Close()
				forward := func(a *Attention, qkv []float32) []float32 {
					o := runtimetest.Poisoned(m * a.OutWidth())
					a.Forward(o, nil, qkv, c.batch, c.seq, ws)
					return o
				}
				runtimetest.SameBits(t, "rounded before and while packing", forward(a, qkv), forward(exact, rounded))
				// Values of later keys that are no numbers leave earlier rows alone: rows then
				// read what they see, and no more, from odd keys on where a window begins there.
				if c.seq > 90 {
					value := 85*a.RowWidth() + (a.QHeads+a.KVHeads)*a.HeadDim
					qkv[value], rounded[value] = float32(math.NaN()), float32(math.NaN())
					got, want := forward(a, qkv), forward(exact, rounded)
					for i := range got {
						if got[i] != want[i] && (got[i] == got[i] || want[i] == want[i]) {
							t.Fatalf("with a value that is no number: entry %d is %v, want %v", i, got[i], want[i])
						}
					}
					if got[0] != got[0] {
						t.Error("a later value reaches the first row")
					}
				}
			})
		}
	}
}

// Keys and values in int8 give what float32 gives of rounded ones, but for the places of
// their scales: a score is a scale times a sum, and not a sum with it in every product.
func TestIntegerKeysAndValues(t *testing.T) {
	for _, target := range instructionSets() {
		for _, c := range shapes {
			t.Run(fmt.Sprintf("%s/%dx%d_%d_%d", target.ISA, c.QHeads, c.KVHeads, c.HeadDim, c.seq), func(t *testing.T) {
				pool := runtimetest.PoolOf(2)
				exact := bind(t, c.Spec, &target, pool)
				a, err := New(exact.Spec, pool, &target, kernel.Int8)
				if err != nil {
					t.Fatal(err)
				}
				r := rand.New(rand.NewPCG(9, uint64(c.seq)))
				inPieces(t, a, c.batch, c.seq, func(pos int) int { return 1 + r.IntN(1+pos) })
				m, hd, width := c.batch*c.seq, a.HeadDim, a.RowWidth()
				const size = 1.5 // of the largest entry
				qkv := runtimetest.Random(r, m*width, size)
				// Some keys and values are nothing, and some far smaller than others.
				for i := range m {
					row := qkv[i*width+a.QHeads*hd:][:2*a.KVHeads*hd]
					for j := range row {
						row[j] *= []float32{1, 1, 1e-3, 0}[(i+j/hd)%4]
					}
				}
				rounded := append([]float32(nil), qkv...)
				for i := range m {
					for h := a.QHeads; h < a.QHeads+2*a.KVHeads; h++ {
						roundToIntegers(rounded[i*width+h*hd:][:hd])
					}
				}
				ws := a.NewWorkspace()
				defer ws.Close()
				forward := func(a *Attention, qkv []float32) []float32 {
					o := runtimetest.Poisoned(m * a.OutWidth())
					a.Forward(o, nil, qkv, c.batch, c.seq, ws)
					return o
				}
				// A score has hd products of at most size^2, each with two roundings more than
				// one of float32, and as many additions; it moves a weight by its error times
				// Scale, relatively. Weights sum up to 1 twice, in at most 2*seq roundings.
				const u = 0x1p-24
				score := float64(a.Scale) * size * size * float64(hd) * float64(hd+4) * u
				tolerance := size * 2 * (2*score + float64(2*c.seq+16)*u)
				if tolerance > 0.02 {
					t.Fatalf("a tolerance of %v finds nothing", tolerance)
				}
				got, want := forward(a, qkv), forward(exact, rounded)
				for i := range got {
					if d := math.Abs(float64(got[i] - want[i])); !(d <= tolerance) {
						t.Fatalf("entry %d is %v, of rounded ones %v: apart by %v, want at most %v", i, got[i], want[i], d, tolerance)
					}
				}
				if c.seq > 90 {
					value := 85*width + (a.QHeads+a.KVHeads)*hd
					qkv[value] = float32(math.Inf(1))
					after := forward(a, qkv)
					rows := 85 * a.OutWidth()
					runtimetest.SameBits(t, "rows before a value that is not finite", after[:rows], got[:rows])
					if after[rows] == after[rows] {
						t.Error("a value that is not finite leaves the row that sees it finite")
					}
				}
			})
		}
	}
}

// roundToIntegers makes the entries of x whole multiples of the largest magnitude over 127.
func roundToIntegers(x []float32) {
	top := float32(0)
	for _, v := range x {
		top = max(top, float32(math.Abs(float64(v))))
	}
	if top == 0 {
		return
	}
	f, scale := 127/top, top/127
	for i, v := range x {
		x[i] = scale * float32(math.RoundToEven(float64(v*f)))
	}
}

// What is held in bfloat16 has half the size, no backward pass, and a cache of its own.
func TestRoundedMisuse(t *testing.T) {
	target := instructionSets()[0]
	pool := runtimetest.PoolOf(1)
	s := Spec{QHeads: 2, KVHeads: 1, HeadDim: 64, Scale: 1}
	exact := bind(t, s, &target, pool)
	a, err := New(s, pool, &target, kernel.BF16)
	if err != nil {
		t.Fatal(err)
	}
	if 2*a.size(300) != exact.size(300) {
		t.Errorf("%d entries, and %d in float32", a.size(300), exact.size(300))
	}
	ws := a.NewWorkspace()
	defer ws.Close()
	row := make([]float32, a.RowWidth())
	runtimetest.MustPanic(t, "a backward pass", func() { a.Backward(row, row, row, row, row, 1, 1, ws) }, "there is no backward pass")
	cache := exact.NewKVCache(1, 4)
	defer cache.Close()
	if err := a.Extend(make([]float32, a.OutWidth()), row, cache, []Span{{Rows: 1}}, ws); err == nil || !strings.Contains(err.Error(), "another format") {
		t.Errorf("a cache of float32: %v", err)
	}
	integers, err := New(s, pool, &target, kernel.Int8)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := integers.size(300), exact.size(300)/4+3*2*keyBlock; got != want {
		t.Errorf("%d entries in int8, want %d: a quarter of float32's, and scales", got, want)
	}
	if _, err := New(s, pool, &target, "int3"); err == nil || !strings.Contains(err.Error(), "valid: [f32 bf16 int8]") {
		t.Error(err)
	}
}
