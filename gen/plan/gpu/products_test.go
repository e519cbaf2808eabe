package gpu

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// Parts of a sum are never empty, cover it, and are no shorter than the pipeline;
// splitting is worth its second launch by the model.
func TestParts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := spec.Linear{Kind: spec.Dense, In: 8 * rapid.IntRange(1, 2000).Draw(t, "in"), Out: 8 * rapid.IntRange(1, 2000).Draw(t, "out")}
		g, err := NewLayer(l, table.BF16)
		if err != nil {
			t.Fatal(err)
		}
		f := g.Factors[0]
		for _, k := range []Product{f.Few, f.FewBackward} {
			whole := k
			whole.Parts = 0
			if k.Split() {
				if k.PartSteps() < k.Stages || (k.Parts-1)*k.PartSteps() >= k.Steps() || k.Parts*k.PartSteps() < k.Steps() {
					t.Errorf("%s: %d parts of %d of %d stages", k.Kernel().Name, k.Parts, k.PartSteps(), k.Steps())
				}
				if k.seconds(Chips[0], 16) >= whole.seconds(Chips[0], 16) {
					t.Errorf("%s: slower than in one part", k.Kernel().Name)
				}
			}
			if n := len(k.Kernels()); k.Split() != (n == 2) {
				t.Errorf("%s: %d launches", k.Kernel().Name, n)
			}
		}
		tokens := rapid.IntRange(1, 40000).Draw(t, "tokens")
		k := f.BackwardWeight
		weight := k.Kernel().Cut
		n := weight.Parts(tokens)
		if per := weight.Units(tokens) * StageDepth; n < 1 || n*per < tokens || (n-1)*per >= tokens {
			t.Errorf("%s: %d tokens in %d parts of %d", k.Kernel().Name, tokens, n, per)
		}
		fewer := rapid.IntRange(1, tokens).Draw(t, "fewer")
		if n, most := weight.Parts(fewer), weight.MostParts(tokens); n > most {
			t.Errorf("%s: %d tokens in %d parts, %d and fewer in %d at most", k.Kernel().Name, fewer, n, tokens, most)
		}
		c := Columns{Columns: table.Columns{Width: l.Out, Precision: table.BF16}}.Kernel().Cut
		if n, most := c.Parts(fewer), c.MostParts(tokens); n > most {
			t.Errorf("%d tokens in %d parts, %d and fewer in %d at most", fewer, n, tokens, most)
		}
		if n, rows := c.Parts(tokens), c.Units(tokens)*c.Unit; n > 32 || n*rows < tokens || (n-1)*rows >= tokens {
			t.Errorf("%d tokens in %d parts of %d rows", tokens, n, rows)
		}
	})
}

// The plan's choices where they are known: 12 tiles of 96 stages leave most of a
// chip idle, 500 do not; a sum of seven stages is too short for two parts.
func TestPartsKnown(t *testing.T) {
	for _, c := range []struct{ in, out, parts int }{{3072, 768, 9}, {768, 32000, 0}, {224, 768, 0}} {
		g, err := NewLayer(spec.Linear{Kind: spec.Dense, In: c.in, Out: c.out}, table.BF16)
		if err != nil {
			t.Fatal(err)
		}
		if k := g.Factors[0].Few; k.Parts != c.parts {
			t.Errorf("%s: %d parts, want %d", k.Kernel().Name, k.Parts, c.parts)
		}
	}
}

// In float32 every width has a plan, and every place of a row belongs to one
// entry, gates and ups by turns included.
func TestFloat32Places(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := drawFFN(t, 1)
		p, err := NewFloat32(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range p.Layers() {
			for _, g := range l.Factors {
				for _, o := range []table.Operand{g.Forward.A, g.Forward.C, g.BackwardData.A, g.BackwardData.C} {
					seen := make([]int, o.Pitch)
					for b := range g.Blocks {
						for i := range o.Cols.Len {
							seen[o.Cols.At(b, i)]++
						}
					}
					if slices.ContainsFunc(seen, func(n int) bool { return n != 1 }) {
						t.Fatalf("%s: %+v does not cover its row once: %v", f.Name(), o, seen)
					}
				}
			}
		}
	})
}

// A model's table has every product: grouped keys and values, the head padded,
// logits in float32 for few tokens; networks that bf16 refuses are in float32.
func TestModel(t *testing.T) {
	m := spec.Model{Vocab: 131, Hidden: 64, FFN: 128, Layers: 3, AttnDim: 48, QHeads: 6, KVHeads: 2, Kind: spec.LowRank, Rank: 12, Except: "0:dense", Act: spec.GELU}
	g, err := NewModel(m, "")
	if err != nil {
		t.Fatal(err)
	}
	if g.Logits != 136 || g.QKV.Spec.Out != 48+2*2*8 || !g.Head.Factors[0].Few.Sums || g.Head.Factors[0].Forward.Float32() {
		t.Errorf("%+v", g)
	}
	if !slices.Equal(g.FFN, []int{0, 1, 1}) || g.FFNs[0].Precision != table.BF16 || g.FFNs[1].Precision != table.Float32s || g.FFNs[1].Why == nil {
		t.Errorf("networks %v: %v", g.FFN, g.FFNs)
	}
	if _, err := NewModel(m, table.BF16); err == nil {
		t.Error("a rank of 12 in bf16")
	}
	m.AttnDim, m.QHeads = 60, 6
	if _, err := NewModel(m, ""); err == nil || err.Error() == "" {
		t.Error("attention of 60 columns")
	}
}
