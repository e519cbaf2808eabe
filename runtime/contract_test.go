package runtime

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
)

// mustPanic runs f and demands a panic that says all of want.
func mustPanic(t *testing.T, what string, f func(), want ...string) {
	t.Helper()
	defer func() {
		t.Helper()
		v := recover()
		if v == nil {
			t.Errorf("%s: no panic", what)
			return
		}
		for _, w := range want {
			if !strings.Contains(fmt.Sprint(v), w) {
				t.Errorf("%s: panic %q, want it to say %q", what, v, w)
			}
		}
	}()
	f()
}

// What a caller does wrong panics with the layer's name and words, before
// anything is written.
func TestMisuse(t *testing.T) {
	const m, hidden = 5, 24
	pool := NewPool(2)
	defer pool.Close()
	r := rand.New(rand.NewPCG(1, 1))
	network := func(ffn int) *FFN {
		s := spec.FFN{Kind: spec.LowRank, Hidden: hidden, FFN: ffn, Rank: 6, Act: spec.SwiGLU, Bias: true, Guide: true}
		f, err := NewFFN(s, FFNWeights{randomWeights(r, s.FC1()), randomWeights(r, s.FC2())}, Options{Pool: pool, Train: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(f.Close)
		return f
	}
	f, narrow := network(64), network(40)
	twin, err := f.With(FFNWeights{randomWeights(r, f.spec.FC1()), randomWeights(r, f.spec.FC2())})
	if err != nil {
		t.Fatal(err)
	}
	defer twin.Close()
	g := FFNWeights{emptyLike(f.fc1.weights), emptyLike(f.fc2.weights)}
	ws, saved := f.NewWorkspace(), f.NewSaved(m)
	defer ws.Close()
	defer saved.Close()
	narrowSaved := narrow.NewSaved(m)
	defer narrowSaved.Close()
	room := random(r, 5*m*hidden, 1)
	x, y, dx := room[:m*hidden], room[m*hidden:2*m*hidden], room[2*m*hidden:3*m*hidden]
	dy := random(r, m*hidden, 1)
	forward := func() { f.Forward(y, x, nil, m, saved, ws) }
	name := f.fc1.name
	merged, err := f.Merged()
	if err != nil {
		t.Fatal(err)
	}
	defer merged.Close()
	inference, err := NewFFN(f.spec, FFNWeights{f.fc1.weights, f.fc2.weights}, Options{Pool: pool})
	if err != nil {
		t.Fatal(err)
	}
	defer inference.Close()

	for _, c := range []struct {
		what string
		do   func()
		want []string
	}{
		{"a short x", func() { f.Forward(y, x[:len(x)-1], nil, m, nil, ws) }, []string{name, "x has 119 entries, want [5, 24] = 120"}},
		{"no y", func() { f.Forward(nil, x, nil, m, nil, ws) }, []string{"y has 0 entries"}},
		{"a short residual", func() { f.Forward(y, x, x[1:], m, nil, ws) }, []string{"residual has 119"}},
		{"rows below 0", func() { f.Forward(y, x, nil, -1, nil, ws) }, []string{"[-1, 24]"}},
		{"no workspace", func() { f.Forward(y, x, nil, m, nil, nil) }, []string{name, "NewWorkspace"}},
		{"y is x", func() { f.Forward(x, x, nil, m, nil, ws) }, []string{"y lies in the memory of x"}},
		{"y overlaps x", func() { f.Forward(room[hidden:], room, nil, m, nil, ws) }, []string{"y lies in the memory of x"}},
		{"y overlaps the residual", func() { f.Forward(room[hidden:], dy, room, m, nil, ws) }, []string{"y lies in the memory of residual at another place"}},
		{"a Saved of a narrower network", func() { f.Forward(y, x, nil, m, narrowSaved, ws) }, []string{name, "made by another layer"}},
		{"a Saved of fewer rows", func() { f.Forward(room[2*m*hidden:], room, nil, m+1, saved, ws) }, []string{"room for 5 rows, got 6"}},

		{"backward without a Saved", func() { f.Backward(dx, g, dy, x, m, nil, false, ws) }, []string{name, "nil"}},
		{"backward before forward", func() { f.Backward(dx, g, dy, x, m, f.NewSaved(m), false, ws) }, []string{"filled by another layer, or by none"}},
		{"a Saved that a twin filled", func() {
			twin.Forward(y, x, nil, m, saved, ws)
			f.Backward(dx, g, dy, x, m, saved, false, ws)
		}, []string{"filled by another layer"}},
		{"more rows backward than forward", func() {
			f.Forward(y, x, nil, m-1, saved, ws)
			f.Backward(dx, g, dy, x, m, saved, false, ws)
		}, []string{"saved holds 4 rows, the backward pass has 5"}},
		{"dx is dy", func() { forward(); f.Backward(dy, g, dy, x, m, saved, false, ws) }, []string{"dx lies in the memory of dy"}},
		{"dx is x", func() { forward(); f.Backward(x, g, dy, x, m, saved, false, ws) }, []string{"dx lies in the memory of x"}},
		{"gradients of another shape", func() {
			forward()
			f.Backward(dx, FFNWeights{emptyLike(narrow.fc1.weights), g.FC2}, dy, x, m, saved, false, ws)
		}, []string{"gradients of", "has"}},
		{"backward of a layer for inference", func() { inference.Backward(dx, g, dy, x, m, saved, false, ws) }, []string{"Options.Train"}},

		{"weights' half first", func() { forward(); f.BackwardWeights(g, dy, x, m, saved, false, ws) }, []string{"BackwardWeights takes up what BackwardData left"}},
		{"a workspace used in between", func() {
			forward()
			f.BackwardData(dx, dy, m, saved, ws)
			narrow.Forward(y, x, nil, m, nil, ws)
			f.BackwardWeights(g, dy, x, m, saved, false, ws)
		}, []string{"which another call has used since"}},
		{"another layer in between", func() {
			forward()
			f.BackwardData(dx, dy, m, saved, ws)
			twin.BackwardWeights(g, dy, x, m, saved, false, ws)
		}, []string{"filled by another layer"}},
		{"another Saved", func() {
			forward()
			f.BackwardData(dx, dy, m, saved, ws)
			other := f.NewSaved(m)
			defer other.Close()
			f.Forward(y, x, nil, m, other, f.NewWorkspace())
			f.BackwardWeights(g, dy, x, m, other, false, ws)
		}, []string{"must follow the BackwardData of the same layer"}},
		{"a Saved that was filled again", func() {
			forward()
			f.BackwardData(dx, dy, m, saved, ws)
			f.Forward(y, x, nil, m, saved, f.NewWorkspace())
			f.BackwardWeights(g, dy, x, m, saved, false, ws)
		}, []string{"which no forward pass has filled since"}},
		{"a Saved that fewer rows filled", func() {
			forward()
			f.BackwardData(dx, dy, m, saved, ws)
			f.Forward(y, x, nil, m-1, saved, f.NewWorkspace())
			f.BackwardWeights(g, dy, x, m, saved, false, ws)
		}, []string{"saved holds 4 rows, the backward pass has 5"}},
		{"a closed workspace", func() {
			own := f.NewWorkspace()
			forward()
			f.BackwardData(dx, dy, m, saved, own)
			own.Close()
			f.BackwardWeights(g, dy, x, m, saved, false, own)
		}, []string{"which another call has used since"}},
		{"a gradient in dy", func() {
			forward()
			bad := FFNWeights{emptyLike(f.fc1.weights), g.FC2}
			bad.FC1.Factors[0] = room[3*m*hidden:][: 6*hidden : 6*hidden]
			f.Backward(dx, bad, room[3*m*hidden:], x, m, saved, false, ws)
		}, []string{"the gradient of lr1 lies in the memory of dy"}},
		{"weights for gradients", func() {
			forward()
			f.Backward(dx, FFNWeights{f.fc1.weights, g.FC2}, dy, x, m, saved, false, ws)
		}, []string{"lies in the memory of"}},
		{"another dy", func() {
			forward()
			f.BackwardData(dx, dy, m, saved, ws)
			f.BackwardWeights(g, y, x, m, saved, false, ws)
		}, []string{"same layer, rows, dy and saved"}},

		{"stale packs, forward", func() { f.MarkStale(); forward() }, []string{name, "call Repack"}},
		{"stale packs, backward", func() { forward(); f.MarkStale(); f.Backward(dx, g, dy, x, m, saved, false, ws) }, []string{"call Repack"}},
		{"stale packs, a factor", func() { f.MarkStale(); f.Factors()[0].Forward(make([]float32, m*6), x, m, ws) }, []string{"call Repack"}},
		{"a factor's dx in dy", func() {
			c := f.Factors()[0]
			c.BackwardData(room[6:], room, m, ws)
		}, []string{"dx lies in the memory of dy"}},
		{"stale packs, a factor backward", func() { f.MarkStale(); f.Factors()[0].BackwardData(dx, make([]float32, m*6), m, ws) }, []string{"call Repack"}},
		{"repacking a merged network", func() { merged.Repack() }, []string{"its weights were dropped"}},
		{"repacking dropped weights", func() {
			l, err := NewLinear(spec.Linear{Kind: spec.Dense, In: 4, Out: 4}, Weights{Factors: [][]float32{make([]float32, 16)}}, Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			l.DropWeights()
			l.Repack()
		}, []string{"dense_4x4 holds packs alone"}},
		{"a guide that is not there", func() { merged.SetGuides(Guide{On: true}, Guide{}) }, []string{"has no guide"}},
	} {
		mustPanic(t, c.what, c.do, c.want...)
		f.Repack()
	}
	for _, on := range [][2]Guide{{{}, {On: true}}, {{On: true}, {}}} {
		f.SetGuides(on[0], on[1])
		if _, err := f.Merged(); err == nil || !strings.Contains(err.Error(), "its guide is on") {
			t.Errorf("merging with the guide on: %v", err)
		}
	}
}

// What lies behind the rows of a call is the caller's own: buffers cut from one
// arena are no misuse.
func TestOneArena(t *testing.T) {
	const m, width = 3, 8
	s := spec.Linear{Kind: spec.Dense, In: width, Out: width, Bias: true}
	r := rand.New(rand.NewPCG(1, 1))
	l, err := NewLinear(s, randomWeights(r, s), Options{Train: true})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ws := l.NewWorkspace()
	defer ws.Close()
	arena, n := random(r, 4*m*width+width*width+width, 1), m*width
	g := Weights{Factors: [][]float32{arena[4*n : 4*n+width*width]}, Bias: arena[4*n+width*width:]}
	l.Forward(arena[n:], arena, nil, m, nil, ws)
	l.Backward(arena[2*n:], g, arena[3*n:], arena, m, NoIntermediates(), false, ws)
}

// A Linear says the same; its Saved is that of one layer.
func TestMisuseOfLinear(t *testing.T) {
	const m = 4
	r := rand.New(rand.NewPCG(1, 1))
	s := spec.Linear{Kind: spec.LowRank, In: 12, Out: 10, Rank: 3}
	w := randomWeights(r, s)
	l, err := NewLinear(s, w, Options{Train: true})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ws, saved, g := l.NewWorkspace(), l.NewSaved(m), emptyLike(w)
	defer ws.Close()
	defer saved.Close()
	x, y, dx, dy := random(r, m*12, 1), poisoned(m*10), poisoned(m*12), random(r, m*10, 1)
	forward := func() { l.Forward(y, x, nil, m, saved, ws) }
	mustPanic(t, "y is x", func() { l.Forward(x, x, nil, m, nil, ws) }, "y lies in the memory of x")
	mustPanic(t, "nothing saved", func() { l.Forward(y, x, nil, m, NoIntermediates(), ws) }, "made by another layer")
	mustPanic(t, "dx is x", func() { forward(); l.Backward(x, g, dy, x, m, saved, false, ws) }, "dx lies in the memory of x")
	mustPanic(t, "fewer rows", func() { forward(); l.Backward(dx, g, dy, x, m-1, saved, false, ws) }, "saved holds 4 rows")
	mustPanic(t, "weights first", func() { forward(); l.BackwardWeights(g, dy, x, m, saved, false, ws) }, "BackwardData")
	l.MarkStale()
	mustPanic(t, "stale", forward, "call Repack")
}

// No rows are no work: the gradients of nothing are zeros, or what was there.
func TestNoRows(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	s := spec.FFN{Kind: spec.BlockShuffle, Hidden: 24, FFN: 36, Blocks: 3, Act: spec.GELU, Bias: true, Guide: true}
	f, err := NewFFN(s, FFNWeights{randomWeights(r, s.FC1()), randomWeights(r, s.FC2())}, Options{Train: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.SetGuides(Guide{On: true, Ratio: 0.5}, Guide{})
	ws, saved := f.NewWorkspace(), f.NewSaved(3)
	defer ws.Close()
	defer saved.Close()
	g := FFNWeights{emptyLike(f.fc1.weights), emptyLike(f.fc2.weights)}
	all := func() [][]float32 {
		return slices.Concat(g.FC1.Factors, g.FC2.Factors, [][]float32{g.FC1.Bias, g.FC2.Bias, g.FC1.Guide, g.FC2.Guide})
	}
	f.Forward(nil, nil, nil, 0, saved, ws)
	f.Forward([]float32{}, nil, nil, 0, nil, ws)
	f.Backward(nil, g, nil, nil, 0, saved, false, ws)
	for i, x := range all() {
		if slices.ContainsFunc(x, func(v float32) bool { return v != 0 }) {
			t.Errorf("gradient %d of no rows is not zero", i)
		}
	}
	for _, x := range all() {
		for i := range x {
			x[i] = float32(i)
		}
	}
	f.Backward(nil, g, nil, nil, 0, saved, true, ws)
	for i, x := range all() {
		for j, v := range x {
			if v != float32(j) {
				t.Fatalf("accumulating no rows changed gradient %d", i)
			}
		}
	}
	for _, c := range f.Factors() {
		blocks, out, in := c.Shape()
		c.Forward(nil, nil, 0, ws)
		c.BackwardData(nil, nil, 0, ws)
		c.BackwardWeight(poisoned(blocks*out*in), nil, nil, 0, ws)
	}
	l := spec.Linear{Kind: spec.Dense, In: 5, Out: 7, Bias: true}
	w := randomWeights(r, l)
	lin, err := NewLinear(l, w, Options{Train: true})
	if err != nil {
		t.Fatal(err)
	}
	defer lin.Close()
	lg := emptyLike(w)
	lin.Forward(nil, nil, nil, 0, lin.NewSaved(0), ws)
	lin.Backward(nil, lg, nil, nil, 0, NoIntermediates(), false, ws)
	if lg.Factors[0][0] != 0 || lg.Bias[0] != 0 {
		t.Error("the gradients of no rows are not zero")
	}
	a, err := NewAttention(AttentionSpec{QHeads: 2, KVHeads: 1, HeadDim: 8, Scale: 1}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	aws := a.NewWorkspace()
	defer aws.Close()
	for _, shape := range [][2]int{{0, 4}, {3, 0}, {0, 0}} {
		a.Forward(nil, nil, nil, shape[0], shape[1], aws)
		a.Backward(nil, nil, nil, nil, nil, shape[0], shape[1], aws)
	}
}

func TestMisuseOfAttention(t *testing.T) {
	pool, other := NewPool(2), NewPool(1)
	defer pool.Close()
	defer other.Close()
	make3 := func(s AttentionSpec, p *Pool) *Attention {
		a, err := NewAttention(s, Options{Pool: p})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	s := AttentionSpec{QHeads: 4, KVHeads: 2, HeadDim: 8, Scale: 1}
	a, fewer := make3(s, pool), make3(AttentionSpec{QHeads: 4, KVHeads: 1, HeadDim: 8, Scale: 1}, pool)
	bigger, elsewhere := make3(AttentionSpec{QHeads: 4, KVHeads: 2, HeadDim: 80, Scale: 1}, pool), make3(s, other)
	ws := a.NewWorkspace()
	defer ws.Close()
	const batch, seq = 3, 10
	r := rand.New(rand.NewPCG(1, 1))
	qkv, o := random(r, batch*seq*64, 1), poisoned(batch*seq*32)
	do, dqkv, sums := random(r, batch*seq*32, 1), poisoned(batch*seq*64), poisoned(batch*seq*8)
	mustPanic(t, "a short qkv", func() { a.Forward(o, nil, qkv[1:], batch, seq, ws) }, "attention of 4 query and 2 key/value heads of 8", "qkv has 1919 entries, want [30, 64]")
	mustPanic(t, "no o", func() { a.Forward(nil, nil, qkv, batch, seq, ws) }, "o has 0 entries")
	mustPanic(t, "short sums", func() { a.Forward(o, sums[1:], qkv, batch, seq, ws) }, "sums has 239")
	mustPanic(t, "o in qkv", func() { a.Forward(qkv[:batch*seq*32], nil, qkv, batch, seq, ws) }, "o lies in the memory of qkv")
	mustPanic(t, "a batch below 0", func() { a.Forward(o, nil, qkv, -1, seq, ws) }, "a batch of -1 sequences of 10")
	mustPanic(t, "backward without sums", func() { a.Backward(dqkv, do, o, nil, qkv, batch, seq, ws) }, "sums has 0")
	mustPanic(t, "dqkv over o", func() { a.Backward(dqkv, do, dqkv, sums, qkv, batch, seq, ws) }, "dqkv lies in the memory of o")
	mustPanic(t, "dqkv over sums", func() { a.Backward(dqkv, do, o, dqkv, qkv, batch, seq, ws) }, "dqkv lies in the memory of sums")
	mustPanic(t, "sums in o", func() { a.Forward(o, o, qkv, batch, seq, ws) }, "sums lies in the memory of o")
	mustPanic(t, "dqkv in qkv", func() { a.Backward(qkv, do, o, sums, qkv, batch, seq, ws) }, "dqkv lies in the memory of qkv")
	mustPanic(t, "a workspace for smaller heads", func() { bigger.Forward(nil, nil, nil, 0, 0, ws) }, "heads of another size")
	mustPanic(t, "a workspace of another pool", func() { elsewhere.Forward(nil, nil, nil, 0, 0, ws) }, "another pool")
	mustPanic(t, "no workspace", func() { a.Forward(o, nil, qkv, batch, seq, nil) }, "NewWorkspace")

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
		sameBits(t, "o after an error", o, before)
	}
	if err := a.Extend(o[:32], qkv, c, []Span{{Row: 1, Rows: 1}}, ws); err == nil || !strings.Contains(err.Error(), "rows 1 to 1 of an o of 1") {
		t.Errorf("a short o: %v", err)
	}
	if err := a.Extend(qkv, qkv, c, []Span{{Rows: 1}}, ws); err == nil || !strings.Contains(err.Error(), "o lies in the memory of qkv") {
		t.Errorf("o in qkv: %v", err)
	}
	mustPanic(t, "a cache of less than nothing", func() { a.NewKVCache(-1, 1) }, "a cache of -1 sequences of 1")
	mustPanic(t, "copying to nowhere", func() { c.Copy(7, 0, 0) }, "copying sequence 0 to 7 of a cache of 3")
	for _, scale := range []float32{-1, float32(math.NaN()), float32(math.Inf(1))} {
		if _, err := NewAttention(AttentionSpec{QHeads: 1, KVHeads: 1, HeadDim: 1, Scale: scale}, Options{}); err == nil {
			t.Errorf("a scale of %v is accepted", scale)
		}
	}
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
	mustPanic(t, "copying more than there is", func() { c.Copy(1, 0, 7) }, "copying 7 positions of sequence 0, which holds 6")
}
