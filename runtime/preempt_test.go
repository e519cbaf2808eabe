package runtime

import (
	"fmt"
	"math/rand/v2"
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
	if a.ColC > 0 { // lanes across blocks
		work *= kernel.LaneGroup
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	c.sum += work
	c.most = max(c.most, work)
	if err != nil {
		c.wrong = err
	}
}

// instead is see in the place of a kernel.
func (c *calls) instead(kernel.Func) kernel.Func { return c.see }

func (c *calls) watchLayer(l *layer) {
	for _, q := range slices.Concat(slices.Concat(l.forward...), slices.Concat(l.backward...)) {
		q.Wrap(c.instead)
	}
	for _, g := range l.gradients {
		g.Wrap(c.instead)
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
	for _, m := range []int{1, 140} {
		x, y, dx := make([]float32, m*s.Hidden), make([]float32, m*s.Hidden), make([]float32, m*s.Hidden)
		saved := f.NewSaved(m)
		least := 0
		if m == 140 {
			least = minWork
		}
		what := fmt.Sprintf("%s, %s, %d rows, %d threads", s.Name(), isa, m, threads)
		f.Forward(y, x, nil, m, saved, ws)
		c.check(t, what+", forward", ws.Calls(), m*weights, least)
		f.Backward(dx, FFNWeights{emptyLike(w.FC1), emptyLike(w.FC2)}, y, x, m, saved, false, ws)
		c.check(t, what+", backward", ws.Calls(), 2*m*weights, least)
		saved.Close()
	}
}

// Those of a factor whose lanes run across blocks, too, which nothing is allocated for.
func TestPreemptionAcross(t *testing.T) {
	c := narrow{blocks: 160, in: 16, out: 16, q: 4, p: 4}
	w := emptyLike(c.subject(rand.New(rand.NewPCG(1, 1))).w[0])
	for _, isa := range kernel.Available() {
		if isa == kernel.Portable && len(kernel.Available()) > 1 {
			continue
		}
		opt := Options{ISA: isa, Pool: NewPool(1), Train: true}
		if err := opt.setDefaults(); err != nil {
			t.Fatal(err)
		}
		l, err := newLayer(c.plan(), w, opt)
		if err != nil {
			t.Fatal(err)
		}
		var seen calls
		f, ws := l.factors("layer")[1], NewWorkspace(opt.Pool)
		const m = 140
		x, dy, g := make([]float32, m*160*16), make([]float32, m*160*16), make([]float32, 160*16*16)
		passes := map[string]func(){
			"forward":         func() { f.Forward(dy, x, m, ws) },
			"backward-data":   func() { f.BackwardData(x, dy, m, ws) },
			"backward-weight": func() { f.BackwardWeight(g, dy, x, m, ws) },
		}
		whole, saved := &Linear{l}, (&Linear{l}).NewSaved(m)
		in, out, din, grads := make([]float32, m*16*4), make([]float32, m*16*4), make([]float32, m*16*4), emptyLike(w)
		if n := testing.AllocsPerRun(3, func() {
			whole.Forward(out, in, nil, m, nil, ws)
			whole.Forward(out, in, nil, m, saved, ws)
			whole.Backward(din, grads, out, in, m, saved, true, ws)
		}); n != 0 {
			t.Errorf("%s: %v allocations", isa, n)
		}
		saved.Close()
		ws.Calls()
		seen.watchLayer(l)
		for name, pass := range passes {
			pass()
			seen.check(t, fmt.Sprintf("across, %s, %s", isa, name), ws.Calls(), m*len(g), 1<<12)
		}
		ws.Close()
		l.packs.Close()
		opt.Pool.Close()
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
		a.Wrap(c.instead)
		const m, width = 300, 256
		qkv, o, sums := make([]float32, 3*m*width), make([]float32, m*width), make([]float32, 2*2*m)
		ws := a.NewWorkspace()
		for name, pass := range map[string]func(){
			"forward":  func() { a.Forward(o, sums, qkv, 1, m, ws) },
			"backward": func() { a.Backward(slices.Clone(qkv), o, o, sums, qkv, 1, m, ws) },
		} {
			pass()
			c.check(t, fmt.Sprintf("attention, %s, %s", isa, name), ws.Calls(), c.sum, 0)
		}
		ws.Close()
		pool.Close()
	}
}
