package attention

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/structuredffn/sffn/internal/runtimetest"
)

// inPieces gives a cache the sequences of a batch in pieces, the same stretch of each,
// and demands the bits of one pass. piece is the next one's number of rows.
func inPieces(t *testing.T, a *Attention, batch, seq int, piece func(pos int) int) {
	t.Helper()
	width, out := a.RowWidth(), a.OutWidth()
	qkv := runtimetest.Random(rand.New(rand.NewPCG(4, uint64(seq))), batch*seq*width, 1.5)
	ws := a.NewWorkspace()
	defer ws.Close()
	full, got := runtimetest.Poisoned(batch*seq*out), runtimetest.Poisoned(batch*seq*out)
	a.Forward(full, nil, qkv, batch, seq, ws)
	cache := a.NewKVCache(batch, seq)
	defer cache.Close()
	most := 0
	for pos := 0; pos < seq; {
		n := min(piece(pos), seq-pos)
		most = max(most, n)
		var spans []Span
		for b := range batch {
			// Rows keep their places in qkv and o.
			spans = append(spans, Span{Seq: b, Pos: pos, Row: b*seq + pos, Rows: n})
		}
		if err := a.Extend(got, qkv, cache, spans, ws); err != nil {
			t.Fatal(err)
		}
		pos += n
	}
	runtimetest.SameBits(t, fmt.Sprintf("%v, through the cache in pieces of up to %d", a.Spec, most), got, full)
	if err := a.Extend(got, qkv, cache, []Span{{Pos: seq, Rows: 1}}, ws); err == nil {
		t.Error("a full cache takes another row")
	}
}

// Rows that come through the cache in pieces of any length have the bits of one pass.
func TestKVCache(t *testing.T) {
	for _, target := range instructionSets() {
		for _, c := range shapes {
			rng := rand.New(rand.NewPCG(4, uint64(c.seq)))
			inPieces(t, bind(t, c.Spec, &target, runtimetest.PoolOf(2)), c.batch, c.seq, func(pos int) int { return 1 + rng.IntN(1+pos) })
		}
	}
}

// Sequences of a cache are apart: spans side by side may begin at any positions, and
// give the bits of each sequence alone.
func TestSpans(t *testing.T) {
	s := Spec{QHeads: 4, KVHeads: 2, HeadDim: 20}
	const seq = 200
	for _, target := range instructionSets() {
		a := bind(t, s, &target, runtimetest.PoolOf(2))
		ws := a.NewWorkspace()
		width, out := a.RowWidth(), a.OutWidth()
		qkv := runtimetest.Random(rand.New(rand.NewPCG(5, 5)), 2*seq*width, 1.5)
		want, got := runtimetest.Poisoned(2*seq*out), runtimetest.Poisoned(2*seq*out)
		a.Forward(want, nil, qkv, 2, seq, ws)
		cache := a.NewKVCache(3, seq)
		// Sequence 2 of the cache runs ahead, sequence 0 lags; nobody holds sequence 1.
		for _, spans := range [][]Span{
			{{Seq: 0, Pos: 0, Row: 0, Rows: 1}, {Seq: 2, Pos: 0, Row: seq, Rows: 130}},
			{{Seq: 0, Pos: 1, Row: 1, Rows: 99}, {Seq: 2, Pos: 130, Row: seq + 130, Rows: 1}},
			{{Seq: 2, Pos: 131, Row: seq + 131, Rows: 69}},
			{{Seq: 0, Pos: 100, Row: 100, Rows: 100}},
		} {
			if err := a.Extend(got, qkv, cache, spans, ws); err != nil {
				t.Fatal(err)
			}
		}
		runtimetest.SameBits(t, string(target.ISA)+", sequences at positions of their own", got, want)
		cache.Close()
		ws.Close()
	}
}

// A copied sequence goes on as the one it is a copy of, from wherever it was cut, and
// neither sees what the other takes up then.
func TestCopy(t *testing.T) {
	s := Spec{QHeads: 4, KVHeads: 2, HeadDim: 20}
	const seq = 150
	for _, target := range instructionSets() {
		a := bind(t, s, &target, runtimetest.PoolOf(2))
		ws := a.NewWorkspace()
		width, out := a.RowWidth(), a.OutWidth()
		qkv := runtimetest.Random(rand.New(rand.NewPCG(6, 6)), 2*seq*width, 1.5)
		whole := qkv[:seq*width]
		for _, n := range []int{0, 1, 127, 128, 129, seq - 1} {
			// The other text begins with n rows of the first.
			other := append(slices.Clone(whole[:n*width]), qkv[seq*width:][:(seq-n)*width]...)
			want := [2][]float32{runtimetest.Poisoned(seq * out), runtimetest.Poisoned(seq * out)}
			a.Forward(want[0], nil, whole, 1, seq, ws)
			a.Forward(want[1], nil, other, 1, seq, ws)
			cache := a.NewKVCache(2, seq)
			got := [2][]float32{slices.Clone(want[0]), slices.Clone(want[1])}
			extend := func(i, pos, rows int) {
				t.Helper()
				x := [][]float32{whole, other}[i]
				clear(got[i][pos*out : (pos+rows)*out])
				if err := a.Extend(got[i][pos*out:], x[pos*width:], cache, []Span{{Seq: i, Pos: pos, Rows: rows}}, ws); err != nil {
					t.Fatal(err)
				}
			}
			extend(0, 0, seq-1)
			extend(1, 0, 1) // what the copy replaces
			cache.Copy(1, 0, n)
			extend(1, n, seq-n)
			extend(0, seq-1, 1)
			for i := range got {
				runtimetest.SameBits(t, fmt.Sprintf("%s, text %d, %d positions copied", target.ISA, i, n), got[i], want[i])
			}
			cache.Close()
		}
		ws.Close()
	}
}

// What is not finite in a later position reaches no earlier row, nor a row whose
// window has left it behind: a full pass gives rows the bits of those that come one by one, when nothing later exists.
func TestLaterPositions(t *testing.T) {
	bits := func(x []float32) (b []uint32) {
		for _, v := range x {
			if v != v {
				v = float32(math.NaN()) // NaN of any kind
			}
			b = append(b, math.Float32bits(v))
		}
		return b
	}
	for _, window := range []int{0, 1, 40, 130} {
		testNotFinite(t, Spec{QHeads: 2, KVHeads: 1, HeadDim: 40, Window: window}, bits)
	}
}

func testNotFinite(t *testing.T, s Spec, bits func([]float32) []uint32) {
	const seq = 200
	for _, target := range instructionSets() {
		isa := target.ISA
		a := bind(t, s, &target, runtimetest.PoolOf(2))
		ws := a.NewWorkspace()
		width, out := s.RowWidth(), s.QHeads*s.HeadDim
		for _, at := range []int{1, 95, 100, 127, 150, 199} {
			for what, bad := range map[string]float32{"NaN": float32(math.NaN()), "infinity": float32(math.Inf(-1)), "an infinite value": float32(math.Inf(1))} {
				qkv := runtimetest.Random(rand.New(rand.NewPCG(8, 8)), seq*width, 1)
				parts := []int{s.QHeads + 1, 0, s.QHeads} // v, q, k
				if what == "an infinite value" {
					parts = parts[:1] // rows that see it are infinite, not NaN
				}
				for _, part := range parts {
					qkv[at*width+part*s.HeadDim+17] = bad
				}
				full := runtimetest.Poisoned(seq * out)
				a.Forward(full, nil, qkv, 1, seq, ws)
				cache := a.NewKVCache(1, seq)
				one := runtimetest.Poisoned(seq * out)
				for pos := range seq {
					if err := a.Extend(one[pos*out:], qkv[pos*width:], cache, []Span{{Pos: pos, Rows: 1}}, ws); err != nil {
						t.Fatal(err)
					}
				}
				pieces := runtimetest.Poisoned(seq * out)
				for pos, n := 0, 0; pos < seq; pos += n {
					n = min(seq-pos, 1+pos)
					if err := a.Extend(pieces[pos*out:], qkv[pos*width:], cache, []Span{{Pos: pos, Rows: n}}, ws); err != nil {
						t.Fatal(err)
					}
				}
				cache.Close()
				for i, v := range full[:at*out] {
					if v != v {
						t.Fatalf("%s: %s in position %d makes row %d NaN", isa, what, at, i/out)
					}
				}
				for i := (at + s.Window) * out; s.Window > 0 && i < len(full); i++ {
					if full[i] != full[i] {
						t.Fatalf("%s: %s in position %d makes row %d NaN, of a window of %d", isa, what, at, i/out, s.Window)
					}
				}
				if want := bits(one); !slices.Equal(bits(full), want) || !slices.Equal(bits(pieces), want) {
					t.Fatalf("%s: %s in position %d: rows that come at once have other bits than one by one", isa, what, at)
				}
			}
		}
		ws.Close()
	}
}
