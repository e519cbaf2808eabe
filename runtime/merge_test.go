package runtime

import (
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/f64ref"
	"github.com/structuredffn/sffn/internal/runtimetest"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// Merge against the definition in float64, for inputs beyond one pass of the
// identity; and the merged network against the factors.
func TestMerge(t *testing.T) {
	for _, isa := range kernel.Available() {
		for _, s := range linearCases {
			if isa == kernel.Portable && s.In*s.Out > 10000 {
				continue
			}
			r := rand.New(rand.NewPCG(4, 4))
			w := randomWeights(r, s)
			got, err := Merge(s, w, Options{ISA: isa})
			if err != nil {
				t.Fatal(err)
			}
			fs, _ := wideFactors(w)
			runtimetest.Near(t, string(isa)+" "+s.Name(), got, f64ref.Merged(s, fs), runtimetest.Tolerance(s.In))
		}
	}
}

func TestMergedFFN(t *testing.T) {
	pool := NewPool(2)
	defer pool.Close()
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.SampledFrom([]spec.FFN{
			{Kind: spec.LowRank, Hidden: 64, FFN: 256, Rank: 32, Act: spec.GELU, Bias: true},
			{Kind: spec.BlockDense, Hidden: 64, FFN: 128, Rank: 32, Blocks: 2, Act: spec.SwiGLU},
			{Kind: spec.BlockShuffle, Hidden: 60, FFN: 120, Blocks: 4, Act: spec.GELU, Bias: true},
			{Kind: spec.BlockShuffle, Hidden: 64, FFN: 128, Blocks: 2, Act: spec.SwiGLU, Bias: true},
			{Kind: spec.BTT, Hidden: 64, FFN: 96, Rank: 3, Act: spec.SwiGLU, Bias: true},
			{Kind: spec.BLAST, Hidden: 64, FFN: 96, Rank: 33, Blocks: 8, Act: spec.GELU, Bias: true},
		}).Draw(t, "network")
		m := rapid.IntRange(1, 40).Draw(t, "rows")
		r := rand.New(rand.NewPCG(uint64(m), 5))
		f, err := NewFFN(s, FFNWeights{randomWeights(r, s.FC1()), randomWeights(r, s.FC2())}, Options{Pool: pool})
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		d, err := f.Merged()
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		ws := f.NewWorkspace()
		defer ws.Close()
		x, y, merged := runtimetest.Random(r, m*s.Hidden, 1), make([]float32, m*s.Hidden), make([]float32, m*s.Hidden)
		f.Forward(y, x, x, m, nil, ws)
		d.Forward(merged, x, x, m, nil, ws)
		runtimetest.Near(t, s.Name(), merged, runtimetest.Wide(y), 4*runtimetest.Tolerance(s.Hidden+s.FFN))
	})
}
