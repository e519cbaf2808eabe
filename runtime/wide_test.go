package runtime

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/runtimetest"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// wideFFNs are networks with more between their factors than at both ends.
var wideFFNs = []spec.FFN{
	{Kind: spec.BTT, Hidden: 64, FFN: 192, Rank: 8, Act: spec.GELU, Bias: true},
	{Kind: spec.BTT, Hidden: 64, FFN: 192, Rank: 8, Act: spec.SwiGLU, Bias: true},
	{Kind: spec.BLAST, Hidden: 64, FFN: 96, Rank: 24, Blocks: 16, Act: spec.GELU, Bias: true, Guide: true},
}

// What lies between the factors of a wide layer is not saved: a token takes at
// most what one of the dense network does.
func TestWideSaves(t *testing.T) {
	for _, f := range append(wideFFNs[:3:3], spec.FFN{Kind: spec.BTT, Hidden: 768, FFN: 3072, Rank: 10, Act: spec.GELU, Bias: true}) {
		per := func(f spec.FFN) int {
			r := rand.New(rand.NewPCG(1, 1))
			n, err := NewFFN(f, FFNWeights{randomWeights(r, f.FC1()), randomWeights(r, f.FC2())}, Options{Pool: runtimetest.PoolOf(1), Train: true})
			if err != nil {
				t.Fatal(err)
			}
			defer n.Close()
			s := n.NewSaved(1)
			defer s.Close()
			return s.BytesPerRow()
		}
		dense := spec.FFN{Kind: spec.Dense, Hidden: f.Hidden, FFN: f.FFN, Act: f.Act, Bias: f.Bias}
		if got, want := per(f), per(dense); got > want {
			t.Errorf("%s saves %d bytes a token, the dense network %d", f.Name(), got, want)
		}
	}
}

// The backward pass of a wide network over many rows, block by block, has the
// bits of that many passes of a block that accumulate, and those of the two
// halves where there is one block; and on any number of threads.
func TestWideBackward(t *testing.T) {
	const m = 2*kernel.RowBlock + 40
	for _, isa := range kernel.Available() {
		for _, f := range wideFFNs {
			var want [][]float32
			for _, threads := range []int{1, 3} {
				r := rand.New(rand.NewPCG(5, 6))
				w := FFNWeights{randomWeights(r, f.FC1()), randomWeights(r, f.FC2())}
				n, err := NewFFN(f, w, Options{ISA: isa, Pool: runtimetest.PoolOf(threads), Train: true})
				if err != nil {
					t.Fatal(err)
				}
				n.SetGuides(Guide{f.Guide, 0.5}, Guide{f.Guide, 0.25})
				ws, saved := n.NewWorkspace(), n.NewSaved(m)
				h := f.Hidden
				x, dy := runtimetest.Random(r, m*h, 1), runtimetest.Random(r, m*h, 1)
				y, dx := runtimetest.Poisoned(m*h), runtimetest.Poisoned(m*h)
				g := FFNWeights{emptyLike(w.FC1), emptyLike(w.FC2)}
				n.Forward(y, x, nil, m, saved, ws)
				n.Backward(dx, g, dy, x, m, saved, false, ws)
				got := append(append([][]float32{y, dx, g.FC1.Bias, g.FC2.Bias, g.FC1.Guide, g.FC2.Guide}, g.FC1.Factors...), g.FC2.Factors...)
				if want == nil {
					want = got
					one := FFNWeights{emptyLike(w.FC1), emptyLike(w.FC2)}
					dx := runtimetest.Poisoned(m * h)
					for r0 := 0; r0 < m; r0 += kernel.RowBlock {
						rows := min(kernel.RowBlock, m-r0)
						n.Forward(y[r0*h:], x[r0*h:], nil, rows, saved, ws)
						n.BackwardData(dx[r0*h:], dy[r0*h:], rows, saved, ws)
						if r0 == 0 {
							n.BackwardWeights(one, dy, x, rows, saved, false, ws) // and again
						}
						n.BackwardWeights(one, dy[r0*h:], x[r0*h:], rows, saved, r0 > 0, ws)
					}
					got = append(append([][]float32{y, dx, one.FC1.Bias, one.FC2.Bias, one.FC1.Guide, one.FC2.Guide}, one.FC1.Factors...), one.FC2.Factors...)
				}
				for i := range want {
					runtimetest.SameBits(t, f.Name(), got[i], want[i])
				}
				saved.Close()
				ws.Close()
				n.Close()
			}
		}
	}
}

// BenchmarkFFN times the passes of the S networks at 2048 rows, and at one row, and packing
// their weights. min-ms is the shortest of the calls, which neighbours disturb least.
func BenchmarkFFN(b *testing.B) {
	for _, c := range []struct {
		name string
		f    spec.FFN
	}{
		{"dense", spec.FFN{Kind: spec.Dense}}, {"lowrank_r384", spec.FFN{Kind: spec.LowRank, Rank: 384}}, {"lowrank_r192", spec.FFN{Kind: spec.LowRank, Rank: 192}},
		{"blockshuffle_b2", spec.FFN{Kind: spec.BlockShuffle, Blocks: 2}}, {"blockshuffle_b4", spec.FFN{Kind: spec.BlockShuffle, Blocks: 4}},
		{"blast_r368", spec.FFN{Kind: spec.BLAST, Rank: 368, Blocks: 16}}, {"blast_r176", spec.FFN{Kind: spec.BLAST, Rank: 176, Blocks: 16}},
	} {
		b.Run(c.name, func(b *testing.B) {
			f, r := c.f, rand.New(rand.NewPCG(1, 1))
			f.Hidden, f.FFN, f.Act, f.Bias = 768, 3072, spec.GELU, true
			w := FFNWeights{randomWeights(r, f.FC1()), randomWeights(r, f.FC2())}
			n, err := NewFFN(f, w, Options{Pool: runtimetest.PoolOf(1), Train: true})
			if err != nil {
				b.Fatal(err)
			}
			defer n.Close()
			const m = 2048
			ws, saved, g := n.NewWorkspace(), n.NewSaved(m), FFNWeights{emptyLike(w.FC1), emptyLike(w.FC2)}
			defer ws.Close()
			defer saved.Close()
			x, y, dx := runtimetest.Random(r, m*f.Hidden, 1), make([]float32, m*f.Hidden), make([]float32, m*f.Hidden)
			n.Forward(y, x, nil, m, saved, ws)
			n.BackwardData(dx, y, m, saved, ws)
			for _, pass := range []struct {
				name string
				run  func()
			}{
				{"weights", func() { n.BackwardWeights(g, y, x, m, saved, false, ws) }},
				{"data", func() { n.BackwardData(dx, y, m, saved, ws) }},
				{"forward", func() { n.Forward(y, x, nil, m, saved, ws) }},
				{"backward", func() { n.Backward(dx, g, y, x, m, saved, false, ws) }},
				{"pack", func() { n.MarkStale(); n.Repack() }},
				{"row", func() { n.Forward(y, x, nil, 1, nil, ws) }},
			} {
				b.Run(pass.name, func(b *testing.B) {
					shortest := math.Inf(1)
					for b.Loop() {
						start := time.Now()
						pass.run()
						shortest = min(shortest, time.Since(start).Seconds())
					}
					b.ReportMetric(1e3*shortest, "min-ms")
				})
			}
		})
	}
}
