package plan

import (
	"slices"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// A factor of many narrow blocks runs with its lanes across them: neighbouring
// blocks lie side by side, input d of block s at d*n + s of a row and output c at
// c*n + s, n being the number of blocks. A vector then holds one entry of each of
// [kernel.LaneGroup] blocks, and a product of small matrices is one of vectors. The
// last group of lanes begins so early that it is full: it computes some blocks again
// that the one before has computed, with the same bits, and nothing is padded.

// AcrossWidth is the most inputs, or outputs, of a block whose factor may run across
// blocks: wider ones fill the lanes of ordinary products.
const AcrossWidth = 32

// eligible says whether a factor is one of many narrow blocks. Fewer than a group of
// lanes cannot run across.
func eligible(f spec.Factor) bool {
	return f.Blocks >= kernel.LaneGroup && f.In <= AcrossWidth && f.Out <= AcrossWidth
}

// sideBySide is the order in which entry e of block s lies at e*blocks + s.
func sideBySide(blocks, entries int) []int {
	p := make([]int, blocks*entries)
	for s := range blocks {
		for e := range entries {
			p[s*entries+e] = e*blocks + s
		}
	}
	return p
}

// after is the order of a factor's outputs as the next factor counts them, where that
// of the outputs as the factor itself counts them is p.
func after(f spec.Factor, p []int) []int {
	q := make([]int, len(p))
	for i, at := range p {
		q[f.Shuffled(i)] = at
	}
	return q
}

// across decides whether factor i of a chain runs across its blocks. What lies before
// and behind it is then stored in its order: in is that of its inputs and out that of
// its outputs, by the numbers that they have after their shuffles. It must not be the
// first or last of the chain, whose inputs and outputs have a place already and whose
// outputs may meet others, and both of its neighbours must go on storing what they
// make in stretches.
func across(chain []spec.Factor, i int) (in, out []int, ok bool) {
	f := chain[i]
	if i == 0 || i == len(chain)-1 || !eligible(f) {
		return nil, nil, false
	}
	in, out = sideBySide(f.Blocks, f.In), after(f, sideBySide(f.Blocks, f.Out))
	before, behind := chain[i-1], chain[i+1]
	scattered := func(p Product) bool { return !p.Direct }
	ok = !slices.ContainsFunc(newFactor(before, Identity(before.Blocks*before.In), in, "").Forward(), scattered) &&
		!slices.ContainsFunc(newFactor(behind, out, Identity(behind.Blocks*behind.Out), "").BackwardData(), scattered)
	return in, out, ok
}

// groups counts the groups of lanes.
func groups(blocks int) int { return (blocks + kernel.LaneGroup - 1) / kernel.LaneGroup }

// FirstLane is the first block of a group of lanes.
func FirstLane(blocks, group int) int {
	return min(group*kernel.LaneGroup, blocks-kernel.LaneGroup)
}

// lanes is the product of a factor that runs across: its K and N list the places of
// the first block's entries, each followed by those of the others.
func (f Factor) lanes(transposed bool) []Product {
	n := f.Factor.Blocks
	every := func(entries int) []Seg { return []Seg{{Run{0, n, entries}, Run{0, 1, entries}}} }
	p := Product{Lanes: n, Direct: true, Transposed: transposed, K: every(f.In), N: every(f.Out), SrcWidth: f.InWidth, DstWidth: f.OutWidth, PreWidth: f.PreWidth}
	if transposed {
		p.K, p.N = p.N, p.K
		p.SrcWidth, p.DstWidth, p.PreWidth = p.DstWidth, p.SrcWidth, p.SrcWidth
	}
	p.KBlocks = KBlocks(Len(p.K), kernel.F32)
	return []Product{p}
}
