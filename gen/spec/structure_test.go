package spec_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/structuredffn/sffn/gen/spec"
)

func small(layers int) spec.Model {
	return spec.Model{Vocab: 11, Hidden: 12, FFN: 24, Layers: layers, AttnDim: 12, QHeads: 2, KVHeads: 1, MaxPositions: 8, Kind: spec.LowRank, Rank: 5,
		Act: spec.GELU, Norm: spec.LayerNorm, NormEps: 1e-5, Position: spec.RoPE, RotaryBase: 1e4, InitStd: 0.02}
}

// Layers have the structure that they were given last, in whatever order, and
// models whose layers are equal are equal.
func TestStructures(t *testing.T) {
	some := []spec.Structure{{Kind: spec.LowRank, Rank: 5}, {Kind: spec.Dense}, {Kind: spec.LowRank, Rank: 7},
		{Kind: spec.BlockDense, Rank: 6, Blocks: 3}, {Kind: spec.BlockShuffle, Blocks: 4},
		{Kind: spec.BTT, Rank: 2}, {Kind: spec.BTT, Rank: 2, HiddenSplit: 3, FFNSplit: 4}, {Kind: spec.BLAST, Rank: 5, Blocks: 4, FFNSplit: 3}}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 9).Draw(t, "layers")
		m, want := small(n), make([]spec.Structure, n)
		for i := range want {
			want[i] = some[0]
		}
		for range rapid.IntRange(0, 12).Draw(t, "changes") {
			lo := rapid.IntRange(0, n-1).Draw(t, "lo")
			hi, s := rapid.IntRange(lo, n-1).Draw(t, "hi"), rapid.SampledFrom(some).Draw(t, "structure")
			m.SetStructure(lo, hi, s)
			for i := lo; i <= hi; i++ {
				want[i] = s
			}
		}
		again := small(n)
		for i := n - 1; i >= 0; i-- { // one by one, from the end
			again.SetStructure(i, i, want[i])
		}
		if m != again || m.Validate() != nil {
			t.Fatalf("%q, layer by layer %q, %v", m.Except, again.Except, m.Validate())
		}
		at, structured := 0, false
		for _, s := range m.Stretches() {
			if s.First != at || s.First > 0 && m.LayerFFN(at-1) == s.FFN {
				t.Fatalf("%+v begins at %d", s, at)
			}
			for at = s.First; at <= s.Last; at++ {
				f := m.LayerFFN(at)
				if got := f.Structure(); got != want[at] || s.FFN != f || m.Structure(at) != got {
					t.Fatalf("layer %d is %v, want %v, of %q", at, got, want[at], m.Except)
				}
				structured = structured || f.Kind != spec.Dense
			}
		}
		if at != n || m.Structured() != structured {
			t.Fatalf("%d layers of %d, structured %v", at, n, m.Structured())
		}
		// The same layers, with another structure as the model's own.
		other := small(n)
		other.Kind, other.Rank, other.Blocks = want[n-1].Kind, want[n-1].Rank, want[n-1].Blocks
		for i, s := range want {
			other.SetStructure(i, i, s)
		}
		if !m.SameLayers(other) || !other.SameLayers(m) {
			t.Fatalf("%q and %q of %s differ", m.Except, other.Except, other.Kind)
		}
		other.SetStructure(0, 0, spec.Structure{Kind: spec.LowRank, Rank: 4})
		if m.SameLayers(other) {
			t.Fatalf("%q and %q are the same", m.Except, other.Except)
		}
		other = m
		if other.FFN++; m.SameLayers(other) {
			t.Fatal("another width is the same")
		}
	})
}

// Exceptions that SetStructure would not write are refused.
func TestExceptions(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "0:dense": "", "0:dense 2:lowrank_r7": "", "1-2:blockdense_r6_b3": "",
		"3:dense": "layers 3-3 are out of range, the model has 0 to 2", "2-3:dense": "out of range", "1-0:dense": "out of range", "-1:dense": "except: ",
		"0:lowrank_r5": "is not written as", "0:dense 1:dense": `is not written as "0-1:dense"`, "1:dense 0:lowrank_r7": "is not written as",
		"00:dense": "is not written as", "0:dense ": "is not written as", "0:dense  1:lowrank_r7": "is not written as", "0": "is not written as", "x:dense": "is not written as",
		"0:lowrank_r13": "layer 0: rank: 13 is out of range for a 12 -> 24 lowrank layer, want 1 to 12", "1:other": `layer 1: kind: unknown kind "other"`,
		"1:blockshuffle_b5": "layer 1: blocks: 5 does not divide", "0-1:dense 1-2:lowrank_r7": "is not written as",
	} {
		m := small(3)
		m.Except = spec.Exceptions(text)
		err := m.Validate()
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "except: ")) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

// Each layer is counted as what it is.
func TestCountsPerLayer(t *testing.T) {
	m, sum, guides := small(3), int64(0), int64(0)
	m.SetStructure(0, 0, spec.Structure{Kind: spec.Dense})
	m.SetStructure(1, 1, spec.Structure{Kind: spec.BlockDense, Rank: 6, Blocks: 3})
	for i, kind := range []spec.Structure{{Kind: spec.Dense}, {Kind: spec.BlockDense, Rank: 6, Blocks: 3}, {Kind: spec.LowRank, Rank: 5}} {
		one := small(3)
		one.Kind, one.Rank, one.Blocks = kind.Kind, kind.Rank, kind.Blocks
		sum += one.Count().MLPWeights / 3
		guides += one.GuideParams() / 3
		if m.LayerFFN(i) != one.LayerFFN(0) {
			t.Errorf("layer %d is %+v", i, m.LayerFFN(i))
		}
	}
	if got := m.Count().MLPWeights; got != sum || m.GuideParams() != guides || len(m.FFNs()) != 3 {
		t.Errorf("%d weights and %d of guides, want %d and %d; networks %v", got, m.GuideParams(), sum, guides, m.FFNs())
	}
}
