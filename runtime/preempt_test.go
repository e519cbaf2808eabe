package runtime

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"unsafe"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/preempt"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// calls looks at calls of kernels, in place of the kernels.
type calls struct {
	mu    sync.Mutex
	n     uint
	sum   int // multiply-adds of all calls
	most  int // of one
	wrong error
}

func (c *calls) see(a *kernel.Args) {
	err := preempt.Point()
	depth := 0
	for _, s := range unsafe.Slice((*kernel.Segment)(a.Segs), a.NSegs) {
		depth += s.Len
	}
	work := a.MR * a.NTiles * a.NR * depth
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	c.sum += work
	c.most = max(c.most, work)
	if err != nil {
		c.wrong = err
	}
}

// watched is a table with see in the place of kernels.
func (c *calls) watched(fs *tiles) *tiles {
	seen := &tiles{}
	for w := range fs {
		for mr, f := range fs[w] {
			if f.run != nil {
				seen[w][mr] = tileKernel{c.see, f.ahead}
			}
		}
	}
	return seen
}

func (c *calls) watchLayer(l *layer) {
	for _, factors := range [][][]*product{l.forward, l.backward} {
		for _, qs := range factors {
			for _, q := range qs {
				for i := range q.blocks {
					b := &q.blocks[i]
					b.tiles, b.scratch = *c.watched(&b.tiles), c.watched(b.scratch)
				}
			}
		}
	}
	for _, g := range l.gradients {
		g.strips = c.watched(g.strips)
	}
}

// check looks at what came since the last time: want multiply-adds, and want of
// them on average at least.
func (c *calls) check(t *testing.T, what string, counted uint, want, least int) {
	t.Helper()
	t.Logf("%s: %d calls of %d multiply-adds on average, %d at most", what, c.n, c.sum/max(1, int(c.n)), c.most)
	if c.wrong != nil {
		t.Errorf("%s: who calls a kernel cannot be preempted: %v", what, c.wrong)
	}
	if c.n != counted {
		t.Errorf("%s: %d kernels run, %d of them where they are counted", what, c.n, counted)
	}
	if c.sum != want {
		t.Errorf("%s: kernels compute %d multiply-adds, want %d", what, c.sum, want)
	}
	if c.most > maxWork {
		t.Errorf("%s: a call computes %d multiply-adds, want %d at most", what, c.most, maxWork)
	}
	if c.sum < least*int(c.n) {
		t.Errorf("%s: %d calls compute %d multiply-adds, want %d each on average, or more", what, c.n, c.sum, least)
	}
	c.n, c.sum, c.most = 0, 0, 0
}

const (
	// maxWork bounds the multiply-adds of one call: 0.1 ms of a core with AVX2, which
	// computes 2e10 a second and more.
	maxWork = 2_000_000
	// minWork is what a call computes on average where there are rows enough: some
	// microseconds, beside which calling it is little.
	minWork = 1 << 16
)

// The scheduler, and with it the garbage collector, can stop a worker between
// any two calls of kernels, which are leaves that nothing can interrupt. A call
// is short, but no shorter than need be, and the calls do all the work, so that
// nothing else is to be waited for. No clock is needed to see it.
func TestPreemption(t *testing.T) {
	for _, isa := range kernel.Available() {
		if isa == kernel.Portable && len(kernel.Available()) > 1 {
			continue // Go code can be preempted anywhere
		}
		for _, s := range []spec.FFN{
			{Kind: spec.Dense, Hidden: 768, FFN: 3072, Act: spec.GELU},
			{Kind: spec.LowRank, Hidden: 768, FFN: 3072, Rank: 384, Act: spec.GELU},
			{Kind: spec.BlockDense, Hidden: 768, FFN: 3072, Rank: 512, Blocks: 2, Act: spec.SwiGLU},
			{Kind: spec.BlockShuffle, Hidden: 768, FFN: 3072, Blocks: 4, Act: spec.SwiGLU},
		} {
			for _, threads := range []int{1, 2} { // blocks of rows, and units of columns
				checkCalls(t, isa, s, threads)
			}
		}
	}
}

func checkCalls(t *testing.T, isa kernel.ISA, s spec.FFN, threads int) {
	t.Helper()
	var c calls
	var w FFNWeights
	weights := 0
	for l, to := range map[spec.Linear]*Weights{s.FC1(): &w.FC1, s.FC2(): &w.FC2} {
		for _, f := range l.Chain() {
			to.Factors = append(to.Factors, make([]float32, f.Weights()))
			weights += f.Weights()
		}
	}
	pool := NewPool(threads)
	defer pool.Close()
	f, err := NewFFN(s, w, Options{ISA: isa, Pool: pool, Train: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c.watchLayer(f.fc1)
	c.watchLayer(f.fc2)
	ws := f.NewWorkspace()
	defer ws.Close()
	counted := func() (n uint) {
		for i := range ws.scratch {
			n += ws.scratch[i].calls
			ws.scratch[i].calls = 0
		}
		return n
	}
	for _, m := range []int{1, 140} {
		x, y, dx := make([]float32, m*s.Hidden), make([]float32, m*s.Hidden), make([]float32, m*s.Hidden)
		saved := f.NewSaved(m)
		least := 0
		if m == 140 {
			least = minWork
		}
		what := fmt.Sprintf("%s, %s, %d rows, %d threads", s.Name(), isa, m, threads)
		f.Forward(y, x, nil, m, saved, ws)
		c.check(t, what+", forward", counted(), m*weights, least)
		f.Backward(dx, FFNWeights{emptyLike(w.FC1), emptyLike(w.FC2)}, y, x, m, saved, false, ws)
		c.check(t, what+", backward", counted(), 2*m*weights, least)
		saved.Close()
	}
}

// Attention's, too.
func TestPreemptionAttention(t *testing.T) {
	for _, isa := range kernel.Available() {
		pool := NewPool(1)
		a, err := NewAttention(AttentionSpec{QHeads: 2, KVHeads: 2, HeadDim: 128, Scale: 1}, Options{ISA: isa, Pool: pool})
		if err != nil {
			t.Fatal(err)
		}
		var c calls
		a.mul.tiles = c.watched(a.mul.tiles)
		const m, width = 300, 256
		qkv, o, sums := make([]float32, 3*m*width), make([]float32, m*width), make([]float32, 2*2*m)
		ws := a.NewWorkspace()
		for name, pass := range map[string]func(){
			"forward":  func() { a.Forward(o, sums, qkv, 1, m, ws) },
			"backward": func() { a.Backward(slices.Clone(qkv), o, o, sums, qkv, 1, m, ws) },
		} {
			pass()
			c.check(t, fmt.Sprintf("attention, %s, %s", isa, name), ws.scratch[0].calls, c.sum, 0)
			ws.scratch[0].calls = 0
		}
		ws.Close()
		pool.Close()
	}
}
