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
	if _, err := New(s, pool, &target, "int3"); err == nil || !strings.Contains(err.Error(), "want f32 or bf16") {
		t.Error(err)
	}
}
