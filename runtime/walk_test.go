package runtime

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/draw"
	"github.com/structuredffn/sffn/internal/runtimetest"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// Every pair of widths up to 100 with every number of blocks that divides
// both, as a layer whose inputs and outputs lie in order and as a network whose
// hidden vector lies block by block, and the kinds without blocks: forward and
// all gradients against float64, on the best instruction set of the machine.
func TestAllSmallWidths(t *testing.T) {
	most := 100
	if kernel.Available()[0] == kernel.Portable {
		most = 30
	}
	for in := 1; in <= most; in++ {
		t.Run(fmt.Sprintf("in_%d", in), func(t *testing.T) {
			t.Parallel()
			pool := NewPool(1)
			defer pool.Close()
			ws := NewWorkspace(pool)
			defer ws.Close()
			r := rand.New(rand.NewPCG(9, uint64(in)))
			for out := 1; out <= most; out++ {
				check := func(s any) { t.Helper(); walkOne(t, newSubject(s, r), pool, ws) }
				check(spec.Linear{Kind: spec.Dense, In: in, Out: out, Bias: true})
				check(spec.Linear{Kind: spec.LowRank, In: in, Out: out, Rank: 1 + (7*in+out)%min(in, out)})
				for i, kind := range spec.Split() {
					if (7*in+out)%32 != i { // many factors each: some of the pairs
						continue
					}
					act := spec.Acts()[(in+out)%len(spec.Acts())]
					s := draw.Of(kind, r.IntN, in, out, act)
					check(draw.Linear(s, in, out, true))
					check(s.Network(in, out, act))
				}
				for blocks := 1; blocks <= min(in, out); blocks++ {
					if in%blocks != 0 || out%blocks != 0 {
						continue
					}
					act := spec.Acts()[(in+out+blocks)%len(spec.Acts())]
					check(spec.Linear{Kind: spec.BlockShuffle, In: in, Out: out, Blocks: blocks, Bias: true})
					check(spec.Linear{Kind: spec.BlockDense, In: in, Out: out, Blocks: blocks, Rank: blocks * (1 + (in+out)%4)})
					check(spec.FFN{Kind: spec.BlockShuffle, Hidden: in, FFN: out, Blocks: blocks, Act: act, Bias: true})
				}
			}
		})
	}
}

func walkOne(t *testing.T, u *subject, pool *Pool, ws *Workspace) {
	t.Helper()
	defer func() {
		if p := recover(); p != nil {
			t.Errorf("%s: panic: %v", u.name, p)
		}
	}()
	const m = 3
	b := u.bind(t, Options{ISA: kernel.Available()[0], Pool: pool, Train: true})
	saved := b.newSaved(m)
	defer saved.Close()
	x, dy := runtimetest.Positive(u.r, m*u.in, 1), runtimetest.Positive(u.r, m*u.out, 1)
	y, dx := runtimetest.Poisoned(m*u.out), runtimetest.Poisoned(m*u.in)
	b.forward(y, x, nil, m, saved, ws)
	b.backward(dx, dy, x, m, saved, false, ws)
	wy, wdx, wg := u.reference(x, nil, dy, m)
	u.check(t, "y", y, wy, m)
	u.check(t, "dx", dx, wdx, m)
	for i, g := range b.gradients() {
		u.check(t, "gradient of "+g.name, g.data, wg[i].data, m)
	}
}
