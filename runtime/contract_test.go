package runtime

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/runtimetest"
)

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
	room := runtimetest.Random(r, 5*m*hidden, 1)
	x, y, dx := room[:m*hidden], room[m*hidden:2*m*hidden], room[2*m*hidden:3*m*hidden]
	dy := runtimetest.Random(r, m*hidden, 1)
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
		runtimetest.MustPanic(t, c.what, c.do, c.want...)
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
	arena, n := runtimetest.Random(r, 4*m*width+width*width+width, 1), m*width
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
	x, y, dx, dy := runtimetest.Random(r, m*12, 1), runtimetest.Poisoned(m*10), runtimetest.Poisoned(m*12), runtimetest.Random(r, m*10, 1)
	forward := func() { l.Forward(y, x, nil, m, saved, ws) }
	runtimetest.MustPanic(t, "y is x", func() { l.Forward(x, x, nil, m, nil, ws) }, "y lies in the memory of x")
	runtimetest.MustPanic(t, "nothing saved", func() { l.Forward(y, x, nil, m, NoIntermediates(), ws) }, "made by another layer")
	runtimetest.MustPanic(t, "dx is x", func() { forward(); l.Backward(x, g, dy, x, m, saved, false, ws) }, "dx lies in the memory of x")
	runtimetest.MustPanic(t, "fewer rows", func() { forward(); l.Backward(dx, g, dy, x, m-1, saved, false, ws) }, "saved holds 4 rows")
	runtimetest.MustPanic(t, "weights first", func() { forward(); l.BackwardWeights(g, dy, x, m, saved, false, ws) }, "BackwardData")
	l.MarkStale()
	runtimetest.MustPanic(t, "stale", forward, "call Repack")
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
		c.BackwardWeight(runtimetest.Poisoned(blocks*out*in), nil, nil, 0, ws)
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
}
