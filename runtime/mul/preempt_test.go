package mul

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/runtimetest"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// minWork is what a call computes on average where there are rows enough: some
// microseconds, beside which calling it is little.
const minWork = 1 << 16

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
			target := kernel.For(isa)
			for _, u := range subjects(s, rand.New(rand.NewPCG(1, 1))) {
				for _, threads := range []int{1, 2} { // blocks of rows, and units of columns
					checkCalls(t, &target, u, threads)
				}
			}
		}
	}
}

func checkCalls(t *testing.T, target *kernel.Target, u *subject, threads int) {
	t.Helper()
	var c runtimetest.Calls
	b := u.bind(t, target, threads)
	for i := range b.forward {
		for _, q := range append(b.forward[i], b.backward[i]...) {
			q.Wrap(c.Instead)
		}
		b.gradients[i].Wrap(c.Instead)
	}
	in, out, width := u.widths()
	g, db := b.emptyGradients()
	for _, m := range []int{1, 140} {
		x, y, dx, pre := make([]float32, m*in), make([]float32, m*out), make([]float32, m*in), make([]float32, m*width)
		z, dz := b.between(m), b.between(m)
		least := 0
		if m == 140 {
			least = minWork
		}
		what := fmt.Sprintf("%s, %s, %d rows, %d threads", u.name, target.ISA, m, threads)
		b.runForward(y, pre, x, nil, z, m, Weight{})
		c.Check(t, what+", forward", b.ws.Calls(), m*b.weights(), least)
		b.runBackward(dx, pre, dz, m)
		b.runGradients(g, db, x, pre, z, dz, m, UnitWeights(target, b.weights(), threads), false)
		c.Check(t, what+", backward", b.ws.Calls(), 2*m*b.weights(), least)
	}
}
