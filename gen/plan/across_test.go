package plan

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/structuredffn/sffn/gen/spec"
)

func block(n, in, out int, then spec.Shuffle) spec.Factor {
	return spec.Factor{Param: "w", Shape: []int{n, out, in}, Blocks: n, In: in, Out: out, Then: then}
}

// narrow is a chain with many narrow blocks between two transpositions.
func narrow(blocks, in, out, q, p int) []spec.Factor {
	return []spec.Factor{block(in, q, blocks, spec.Riffle(in, blocks)), block(blocks, in, out, spec.Riffle(blocks, out)), block(out, blocks, p, spec.Shuffle{})}
}

func newChain(chain []spec.Factor) Layer {
	last := chain[len(chain)-1]
	in, out := chain[0].Blocks*chain[0].In, last.Blocks*last.Out
	return NewChain(spec.Linear{In: in, Out: out}, chain, Identity(in), Identity(out), "")
}

// A factor across blocks reads and writes, for each block, the places that the plan
// gives its entries, once each; its neighbours store what they make in stretches.
func TestAcrossCoversFactors(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := func(name string, lo, hi int) int { return rapid.IntRange(lo, hi).Draw(t, name) }
		l := newChain(narrow(n("blocks", 16, 90), n("in", 1, AcrossWidth), n("out", 1, AcrossWidth), n("q", 1, 9), n("p", 1, 9)))
		for i, f := range l.Factors {
			if f.Across != (i == 1) {
				t.Fatalf("factor %d runs across: %v", i, f.Across)
			}
			for _, p := range append(f.Forward(), f.BackwardData()...) {
				if !p.Direct {
					t.Fatalf("factor %d scatters what it makes", i)
				}
			}
		}
		f := l.Factors[1]
		for _, p := range append(f.Forward(), f.BackwardData()...) {
			reads, writes := make([]int, p.SrcWidth), make([]int, p.DstWidth)
			for s, b := range f.Blocks {
				ins, outs := b.In, b.Out
				if p.Transposed {
					ins, outs = outs, ins
				}
				for _, c := range []struct {
					of, at []Seg
					seen   []int
				}{{p.K, ins, reads}, {p.N, outs, writes}} {
					places := map[int]int{}
					for _, g := range c.at {
						for i := range g.Store.Len {
							places[g.Canon.At(i)] = g.Store.At(i)
						}
					}
					for _, g := range c.of {
						for i := range g.Store.Len {
							at := g.Store.At(i) + s
							if at != places[g.Canon.At(i)] {
								t.Fatalf("entry %d of block %d is taken to be at %d and lies at %d", g.Canon.At(i), s, at, places[g.Canon.At(i)])
							}
							c.seen[at]++
						}
					}
				}
			}
			once(t, "places read", reads)
			once(t, "places written", writes)
			lanes := make([]int, p.Lanes)
			for g := range p.Panels() {
				for l := range 16 {
					lanes[FirstLane(p.Lanes, g)+l]++
				}
			}
			if slices.Min(lanes) < 1 || p.Columns() != p.Panels()*16*Len(p.N) || p.LastPanel() != p.PanelColumns() {
				t.Fatalf("%d groups of %d blocks, %d columns: lanes %v", p.Panels(), p.Lanes, p.Columns(), lanes)
			}
		}
	})
}

// What may not run across blocks does not, and is stored as ever.
func TestAcrossRule(t *testing.T) {
	for _, c := range []struct {
		name  string
		chain []spec.Factor
		want  []bool
	}{
		{"narrow", narrow(16, 32, 32, 3, 3), []bool{false, true, false}},
		{"few blocks", narrow(15, 4, 4, 3, 3), []bool{false, false, false}},
		{"wide inputs", narrow(16, 33, 4, 3, 3), []bool{false, false, false}},
		{"wide outputs", narrow(16, 4, 33, 3, 3), []bool{false, false, false}},
		{"first and last", []spec.Factor{block(20, 4, 4, spec.Shuffle{}), block(20, 4, 4, spec.Shuffle{})}, []bool{false, false}},
		// Blocks that meet no others: the middle one's order would scatter its neighbours'.
		{"no regroup", []spec.Factor{block(20, 50, 4, spec.Shuffle{}), block(20, 4, 4, spec.Shuffle{}), block(20, 4, 50, spec.Shuffle{})}, []bool{false, false, false}},
		{"regroup before", []spec.Factor{block(4, 5, 20, spec.Riffle(4, 20)), block(20, 4, 4, spec.Shuffle{}), block(20, 4, 50, spec.Shuffle{})}, []bool{false, false, false}},
		{"two in a row", []spec.Factor{block(4, 5, 20, spec.Riffle(4, 20)), block(20, 4, 4, spec.Shuffle{}), block(20, 4, 4, spec.Riffle(20, 4)), block(4, 20, 9, spec.Shuffle{})}, []bool{false, false, false, false}},
	} {
		l := newChain(c.chain)
		for i, f := range l.Factors {
			if f.Across != c.want[i] {
				t.Errorf("%s: factor %d runs across: %v", c.name, i, f.Across)
			}
		}
		if !slices.Contains(c.want, true) {
			for i, f := range l.Factors[1:] {
				for s, b := range f.Blocks {
					if len(b.In) != 1 || b.In[0] != (Seg{Run{s * f.In, 1, f.In}, Run{0, 1, f.In}}) {
						t.Fatalf("%s: block %d of factor %d reads %v", c.name, s, i+1, b.In)
					}
				}
			}
		}
	}
}
