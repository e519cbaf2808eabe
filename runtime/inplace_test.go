package runtime

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/runtimetest"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// The result may overwrite the residual: the bits are those of two buffers,
// whatever the layer does on the way to the last sum. Below and above each
// number of blocks of k, with guides, for tiles that kernels store and tiles
// that are scattered, for few rows and for chunks of many.
func TestResidualInPlace(t *testing.T) {
	linears := []spec.Linear{
		{Kind: spec.Dense, In: 768, Out: 70, Bias: true},
		{Kind: spec.Dense, In: 769, Out: 70, Bias: true},
		{Kind: spec.Dense, In: 1600, Out: 64},
		{Kind: spec.LowRank, In: 900, Out: 801, Rank: 800, Bias: true},
		{Kind: spec.BlockDense, In: 800, Out: 900, Rank: 780, Blocks: 2},
		{Kind: spec.BlockShuffle, In: 800, Out: 96, Blocks: 1, Bias: true},
		{Kind: spec.BlockShuffle, In: 64, Out: 1600, Blocks: 2, Bias: true},
	}
	for _, isa := range kernel.Available() {
		for _, s := range linears {
			for _, guide := range []bool{false, true} {
				s.Guide = guide
				if guide && s.Kind == spec.Dense {
					continue
				}
				t.Run(fmt.Sprintf("%s/%s", isa, s.Name()), func(t *testing.T) {
					r := rand.New(rand.NewPCG(1, 1))
					for _, threads := range []int{1, 2} {
						pool := NewPool(threads)
						defer pool.Close()
						l, err := NewLinear(s, randomWeights(r, s), Options{ISA: isa, Pool: pool})
						if err != nil {
							t.Fatal(err)
						}
						defer l.Close()
						l.SetGuide(Guide{On: guide, Ratio: 0.3})
						ws := l.NewWorkspace()
						defer ws.Close()
						for _, m := range []int{1, 5, 30, 200} {
							if m > 5 && isa == kernel.Portable {
								continue
							}
							x, res := runtimetest.Random(r, m*s.In, 1), runtimetest.Random(r, m*s.Out, 1)
							apart := runtimetest.Poisoned(m * s.Out)
							l.Forward(apart, x, res, m, nil, ws)
							l.Forward(res, x, res, m, nil, ws)
							runtimetest.SameBits(t, fmt.Sprintf("%d rows, %d threads, in place", m, threads), res, apart)
						}
					}
				})
			}
		}
	}
}

func TestFFNInPlace(t *testing.T) {
	for _, isa := range kernel.Available() {
		for _, s := range []spec.FFN{
			{Kind: spec.Dense, Hidden: 64, FFN: 768, Act: spec.GELU, Bias: true},
			{Kind: spec.Dense, Hidden: 64, FFN: 800, Act: spec.GELU, Bias: true},
			{Kind: spec.Dense, Hidden: 64, FFN: 800, Act: spec.GELUErf, Bias: true},
			{Kind: spec.Dense, Hidden: 64, FFN: 1600, Act: spec.SwiGLU},
			{Kind: spec.LowRank, Hidden: 900, FFN: 1000, Rank: 800, Act: spec.SwiGLU, Guide: true},
			{Kind: spec.BlockShuffle, Hidden: 64, FFN: 1600, Blocks: 1, Act: spec.GELU, Guide: true},
		} {
			t.Run(fmt.Sprintf("%s/%s", isa, s.Name()), func(t *testing.T) {
				r := rand.New(rand.NewPCG(1, 1))
				pool := NewPool(2)
				defer pool.Close()
				f, err := NewFFN(s, FFNWeights{randomWeights(r, s.FC1()), randomWeights(r, s.FC2())}, Options{ISA: isa, Pool: pool})
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				f.SetGuides(Guide{On: s.Guide, Ratio: 0.4}, Guide{On: s.Guide, Ratio: 0.2})
				ws := f.NewWorkspace()
				defer ws.Close()
				for _, m := range []int{1, 3, 210} {
					if m > 3 && isa == kernel.Portable {
						continue
					}
					x, res := runtimetest.Random(r, m*s.Hidden, 1), runtimetest.Random(r, m*s.Hidden, 1)
					apart := runtimetest.Poisoned(m * s.Hidden)
					f.Forward(apart, x, res, m, nil, ws)
					f.Forward(res, x, res, m, nil, ws)
					runtimetest.SameBits(t, fmt.Sprintf("%d rows in place", m), res, apart)
				}
			})
		}
	}
}

// What the copy of the rows at work costs: in turn, the time of a network whose
// result overwrites its residual over that with a buffer apart; the median.
func BenchmarkResidualInPlace(b *testing.B) {
	pool := NewPool(1)
	defer pool.Close()
	s := spec.FFN{Kind: spec.Dense, Hidden: 768, FFN: 3072, Act: spec.GELU, Bias: true}
	r := rand.New(rand.NewPCG(1, 1))
	f, err := NewFFN(s, FFNWeights{randomWeights(r, s.FC1()), randomWeights(r, s.FC2())}, Options{Pool: pool})
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	ws := f.NewWorkspace()
	defer ws.Close()
	for _, m := range []int{1, 4, 16, 128, 512} {
		b.Run(fmt.Sprint(m), func(b *testing.B) {
			x, res, y := runtimetest.Random(r, m*s.Hidden, 1), runtimetest.Random(r, m*s.Hidden, 1), runtimetest.Poisoned(m*s.Hidden)
			run := func(y []float32) float64 {
				start := time.Now()
				for range max(1, 64/m) {
					f.Forward(y, x, res, m, nil, ws)
				}
				return time.Since(start).Seconds()
			}
			run(y)
			var ratios []float64
			for b.Loop() {
				clear(res)
				ratios = append(ratios, run(res)/run(y))
			}
			slices.Sort(ratios)
			b.ReportMetric(ratios[len(ratios)/2], "in-place/apart")
		})
	}
}
