package attention

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/internal/runtimetest"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// Shapes that are none are refused in words.
func TestErrors(t *testing.T) {
	target := instructionSets()[0]
	for _, c := range []struct {
		s    Spec
		want string
	}{
		{Spec{}, "0 query heads, 0 key/value heads of 0: want positive counts"},
		{Spec{QHeads: 3, KVHeads: 2, HeadDim: 4}, "3 query heads, 2 key/value heads of 4: want positive counts, key/value heads dividing query heads"},
		{Spec{QHeads: 1, KVHeads: 1}, "heads of 0"},
		{Spec{QHeads: 1, KVHeads: 1, HeadDim: -1}, "heads of -1"},
		{Spec{QHeads: -2, KVHeads: -1, HeadDim: 4}, "-2 query heads"},
		{Spec{QHeads: 1, KVHeads: 1, HeadDim: 1, Window: -1}, "a window of -1: want 0 for all positions"},
		{Spec{QHeads: 1, KVHeads: 1, HeadDim: 1, Scale: -1}, "scale -1: want 0 or more, finite"},
		{Spec{QHeads: 1, KVHeads: 1, HeadDim: 1, Scale: float32(math.NaN())}, "scale NaN"},
		{Spec{QHeads: 1, KVHeads: 1, HeadDim: 1, Scale: float32(math.Inf(1))}, "scale +Inf"},
	} {
		if _, err := New(c.s, runtimetest.PoolOf(1), &target, kernel.F32); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: got %v, want it to contain %q", c.s, err, c.want)
		}
	}
}

// No rows are no work.
func TestNoRows(t *testing.T) {
	target := instructionSets()[0]
	a := bind(t, Spec{QHeads: 2, KVHeads: 1, HeadDim: 8}, &target, runtimetest.PoolOf(2))
	ws := a.NewWorkspace()
	defer ws.Close()
	for _, shape := range [][2]int{{0, 4}, {3, 0}, {0, 0}} {
		a.Forward(nil, nil, nil, shape[0], shape[1], ws)
		a.Backward(nil, nil, nil, nil, nil, shape[0], shape[1], ws)
	}
	c := a.NewKVCache(0, 0)
	defer c.Close()
	if err := a.Extend(nil, nil, c, nil, ws); err != nil {
		t.Error(err)
	}
}

// What a caller does wrong panics with the attention's name and words; what the cache
// has no room for is an error, and leaves all as it was.
func TestMisuse(t *testing.T) {
	target := instructionSets()[0]
	two := runtimetest.PoolOf(2)
	s := Spec{QHeads: 4, KVHeads: 2, HeadDim: 8, Scale: 1}
	a, fewer := bind(t, s, &target, two), bind(t, Spec{QHeads: 4, KVHeads: 1, HeadDim: 8, Scale: 1}, &target, two)
	bigger, elsewhere := bind(t, Spec{QHeads: 4, KVHeads: 2, HeadDim: 80, Scale: 1}, &target, two), bind(t, s, &target, runtimetest.PoolOf(1))
	ws := a.NewWorkspace()
	defer ws.Close()
	const batch, seq = 3, 10
	r := rand.New(rand.NewPCG(1, 1))
	qkv, o := runtimetest.Random(r, batch*seq*64, 1), runtimetest.Poisoned(batch*seq*32)
	do, dqkv, sums := runtimetest.Random(r, batch*seq*32, 1), runtimetest.Poisoned(batch*seq*64), runtimetest.Poisoned(batch*seq*8)
	runtimetest.MustPanic(t, "a short qkv", func() { a.Forward(o, nil, qkv[1:], batch, seq, ws) }, "attention of 4 query and 2 key/value heads of 8", "qkv has 1919 entries, want [30, 64]")
	runtimetest.MustPanic(t, "no o", func() { a.Forward(nil, nil, qkv, batch, seq, ws) }, "o has 0 entries")
	runtimetest.MustPanic(t, "short sums", func() { a.Forward(o, sums[1:], qkv, batch, seq, ws) }, "sums has 239")
	runtimetest.MustPanic(t, "o in qkv", func() { a.Forward(qkv[:batch*seq*32], nil, qkv, batch, seq, ws) }, "o lies in the memory of qkv")
	runtimetest.MustPanic(t, "a batch below 0", func() { a.Forward(o, nil, qkv, -1, seq, ws) }, "a batch of -1 sequences of 10")
	runtimetest.MustPanic(t, "backward without sums", func() { a.Backward(dqkv, do, o, nil, qkv, batch, seq, ws) }, "sums has 0")
	runtimetest.MustPanic(t, "dqkv over o", func() { a.Backward(dqkv, do, dqkv, sums, qkv, batch, seq, ws) }, "dqkv lies in the memory of o")
	runtimetest.MustPanic(t, "dqkv over sums", func() { a.Backward(dqkv, do, o, dqkv, qkv, batch, seq, ws) }, "dqkv lies in the memory of sums")
	runtimetest.MustPanic(t, "sums in o", func() { a.Forward(o, o, qkv, batch, seq, ws) }, "sums lies in the memory of o")
	runtimetest.MustPanic(t, "dqkv in qkv", func() { a.Backward(qkv, do, o, sums, qkv, batch, seq, ws) }, "dqkv lies in the memory of qkv")
	runtimetest.MustPanic(t, "a workspace for smaller heads", func() { bigger.Forward(nil, nil, nil, 0, 0, ws) }, "heads of another size")
	runtimetest.MustPanic(t, "a workspace of another pool", func() { elsewhere.Forward(nil, nil, nil, 0, 0, ws) }, "another pool")
	runtimetest.MustPanic(t, "no workspace", func() { a.Forward(o, nil, qkv, batch, seq, nil) }, "NewWorkspace")

	c, small := a.NewKVCache(batch, 20), fewer.NewKVCache(batch, 20)
	defer c.Close()
	defer small.Close()
	for _, bad := range []struct {
		want  string
		cache *KVCache
		spans []Span
	}{
		{"the cache has 1 key/value heads of 8", small, []Span{{Rows: 1}}},
		{"sequence 3 of a cache of 3", c, []Span{{Seq: 3, Rows: 1}}},
		{"sequence -1", c, []Span{{Seq: -1, Rows: 1}}},
		{"sequence 1 has two spans", c, []Span{{Seq: 1, Rows: 1}, {Seq: 0, Row: 1, Rows: 1}, {Seq: 1, Pos: 1, Row: 2, Rows: 1}}},
		{"holds 0 positions, a span that begins at 1 would leave a gap", c, []Span{{Pos: 1, Rows: 1}}},
		{"would grow to 21 positions, the cache holds 20", c, []Span{{Rows: 21}}},
		{"a span of 0 rows", c, []Span{{}}},
		{"from row -1", c, []Span{{Row: -1, Rows: 1}}},
		{"rows 29 to 30 of a qkv of 30", c, []Span{{Row: 29, Rows: 2}}},
		{"begins at row 1, the one before ends with row 1", c, []Span{{Rows: 2}, {Seq: 1, Row: 1, Rows: 2}}},
		{"the cache is nil", nil, []Span{{Rows: 1}}},
	} {
		before := slices.Clone(o)
		if err := a.Extend(o, qkv, bad.cache, bad.spans, ws); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("got %v, want it to contain %q", err, bad.want)
		}
		runtimetest.SameBits(t, "o after an error", o, before)
	}
	if err := a.Extend(o[:32], qkv, c, []Span{{Row: 1, Rows: 1}}, ws); err == nil || !strings.Contains(err.Error(), "rows 1 to 1 of an o of 1") {
		t.Errorf("a short o: %v", err)
	}
	if err := a.Extend(qkv, qkv, c, []Span{{Rows: 1}}, ws); err == nil || !strings.Contains(err.Error(), "o lies in the memory of qkv") {
		t.Errorf("o in qkv: %v", err)
	}
	runtimetest.MustPanic(t, "a cache of less than nothing", func() { a.NewKVCache(-1, 1) }, "a cache of -1 sequences of 1")
	runtimetest.MustPanic(t, "copying to nowhere", func() { c.Copy(7, 0, 0) }, "copying sequence 0 to 7 of a cache of 3")
	// What a span replaces is gone, with what followed it.
	extend := func(pos, rows int) error { return a.Extend(o, qkv, c, []Span{{Pos: pos, Rows: rows}}, ws) }
	if err := extend(0, 10); err != nil {
		t.Fatal(err)
	}
	if err := extend(4, 2); err != nil {
		t.Fatal(err)
	}
	if err := extend(7, 1); err == nil || !strings.Contains(err.Error(), "holds 6 positions") {
		t.Errorf("a gap behind a shortened sequence: %v", err)
	}
	runtimetest.MustPanic(t, "copying more than there is", func() { c.Copy(1, 0, 7) }, "copying 7 positions of sequence 0, which holds 6")
}
