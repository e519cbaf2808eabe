package runtimetest

import (
	"sync"
	"testing"
	"unsafe"

	"github.com/structuredffn/sffn/internal/preempt"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// Calls looks at calls of kernels, in place of the kernels.
type Calls struct {
	mu    sync.Mutex
	n     uint
	sum   int // multiply-adds of all calls
	most  int // of one
	wrong error
}

func (c *Calls) see(a *kernel.Args) {
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

// Instead is what looks, in the place of a kernel.
func (c *Calls) Instead(kernel.Func) kernel.Func { return c.see }

// Sum is the number of multiply-adds since the last check.
func (c *Calls) Sum() int { return c.sum }

// maxWork bounds the multiply-adds of one call: 0.1 ms of a core with AVX2, which
// computes 2e10 a second and more.
const maxWork = 2_000_000

// Check looks at what came since the last time: counted calls, want multiply-adds, and
// least of them on average at least.
func (c *Calls) Check(t *testing.T, what string, counted uint, want, least int) {
	t.Helper()
	t.Logf("%s: %d calls of %d multiply-adds on average, %d at most", what, c.n, c.sum/max(1, int(c.n)), c.most)
	if c.wrong != nil {
		t.Errorf("%s: who calls a kernel cannot be preempted: %v", what, c.wrong)
	}
	if c.n == 0 || c.n != counted {
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
