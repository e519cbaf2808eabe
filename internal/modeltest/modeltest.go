// Package modeltest has the models that tests of training and of decoding share.
package modeltest

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/initial"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// The activation that has a gate, and the kind whose chains have shuffles.
var (
	gated    = spec.Acts()[slices.IndexFunc(spec.Acts(), spec.Act.Gated)]
	shuffled = spec.Kinds()[slices.IndexFunc(spec.Kinds(), func(k spec.Kind) bool {
		chain := spec.Linear{Kind: k, In: 12, Out: 12, Rank: 4, Blocks: 2}.Chain()
		return chain[0].Then.Moves()
	})]
)

// Forms are small models which between them have each of what a model chooses.
var Forms = []spec.Model{
	{Name: "rope", Vocab: 50, Hidden: 24, FFN: 60, Layers: 2, AttnDim: 24, QHeads: 2, KVHeads: 2, MaxPositions: 300, Kind: spec.LowRank, Rank: 5,
		Except: "0:dense", Act: spec.GELU, QKVBias: true, OutputBias: true, FFNBias: true, Norm: spec.LayerNorm, NormEps: 1e-5, Position: spec.RoPE, RotaryBase: 1e4,
		RotaryScaling: spec.RotaryScaling{Type: spec.Llama3Scaling, Factor: 4, LowFreqFactor: 1, HighFreqFactor: 4, OriginalPositions: 100}, TieEmbeddings: true, InitStd: 0.2},
	{Name: "mqa", Vocab: 33, Hidden: 24, FFN: 60, Layers: 2, AttnDim: 48, QHeads: 6, KVHeads: 1, MaxPositions: 300, Kind: shuffled, Blocks: 3,
		Act: gated, QKVBias: true, Norm: spec.RMSNorm, NormEps: 1e-6, QKNorm: true, Position: spec.Absolute, Window: 40, InitStd: 0.2},
}

// Build makes a model with parameters far from any symmetric start.
func Build(t testing.TB, s spec.Model, isa kernel.ISA, threads int) *model.Model {
	t.Helper()
	return BuildIn(t, s, rt.Options{ISA: isa}, threads)
}

// BuildIn is Build with options beside the pool.
func BuildIn(t testing.TB, s spec.Model, opt rt.Options, threads int) *model.Model {
	t.Helper()
	pool := rt.NewPool(threads)
	t.Cleanup(pool.Close)
	p := model.NewParams(s)
	t.Cleanup(p.Close)
	initial.Model(p, s, 3, initial.Merged, pool)
	r := rand.New(rand.NewPCG(1, 2))
	for _, q := range slices.Concat(p.List(), p.Guides()) {
		for i, w := range p.Get(q.Name) {
			p.Get(q.Name)[i] = w + float32(0.1*r.NormFloat64())
		}
	}
	opt.Pool, opt.Train = pool, true
	m, err := model.New(s, p, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	var guides []rt.Guide
	for i := range p.Guides() {
		guides = append(guides, rt.Guide{On: i%3 != 2, Ratio: float32(r.Float64())})
	}
	m.SetGuides(guides)
	return m
}

// Tokens draws n tokens of a vocabulary.
func Tokens(r *rand.Rand, n, vocab int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(r.IntN(vocab))
	}
	return ids
}

// Near allows the rounding of sums taken in another order.
func Near(t testing.TB, what string, got, want []float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d entries, want %d", what, len(got), len(want))
	}
	for i, w := range want {
		if !(math.Abs(float64(got[i]-w)) <= 2e-5*(1+math.Abs(float64(w)))) {
			t.Fatalf("%s: [%d] = %v, want %v", what, i, got[i], w)
		}
	}
}
