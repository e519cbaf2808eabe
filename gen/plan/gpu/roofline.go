package gpu

import (
	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// Chip describes a chip for the roofline. Nothing of it is measured.
type Chip struct {
	Name string
	// Multiprocessors that a launch must fill, and their Clock in Hz under load, as
	// the data sheet's peaks have it.
	Multiprocessors int
	Clock           float64
	// MMA are the dense bf16 operations of a multiprocessor in a clock, the data
	// sheet's peak by the two numbers above, and Reached the part of them that
	// mma.sync is assumed to reach.
	MMA, Reached float64
	// Bandwidth is what streams of global memory are assumed to reach, in bytes a
	// second, Launch the seconds that a kernel is assumed to take at least.
	Bandwidth, Launch float64
}

// Chips lists the chips that plans are shown for: the A100 with 312 TFLOP/s by its
// data sheet, and the H100 SXM with 989, of which only wgmma reaches more than
// 62 to 65 %.
var Chips = []Chip{
	{"A100", 108, 1.41e9, 2048, 0.77, 1.7e12, 1.5e-6},
	{"H100", 132, 1.83e9, 4096, 0.63, 2.9e12, 1.5e-6},
}

// tensor are the operations a second that the tensor cores are assumed to reach,
// shared those for which shared memory has the operands of a tile.
func (g Chip) tensor() float64             { return g.Reached * g.perSecond(g.MMA) }
func (g Chip) shared(t table.Tile) float64 { return g.perSecond(SharedFLOPs(t)) }

// perSecond is a number of a clock and multiprocessor for the chip and a second.
func (g Chip) perSecond(n float64) float64 { return n * g.Clock * float64(g.Multiprocessors) }

// sharedClock are the bytes that a multiprocessor's shared memory moves in a clock,
// on all chips: 32 banks of 4.
const sharedClock = 128

// SharedFLOPs are the operations in a clock for which shared memory has the
// operands: each warp reads its rows and columns of a stage, and the block's copies
// have written all of them before. Both are as long as the stage is deep, in bf16.
func SharedFLOPs(t table.Tile) float64 {
	reads := t.WarpsM * t.WarpsN * (t.M/t.WarpsM + t.N/t.WarpsN)
	writes := t.M + t.N
	return sharedClock * 2 * float64(t.M*t.N) / float64(2*(reads+writes))
}

// Variant is a way to run a layer forward.
type Variant string

// The variants: one launch a factor, one launch for all factors with the
// intermediate in shared memory, or one dense matrix.
const (
	OneByOne Variant = "one by one"
	Fused    Variant = "fused"
	Merged   Variant = "merged"
)

// Estimate is the roofline of one variant for a number of tokens: the longest
// of arithmetic, its operands in shared memory and global traffic of each launch,
// all slowed down by the multiprocessors that stay empty, and the launches.
type Estimate struct {
	Variant      Variant
	Launches     int
	FLOPs, Bytes float64 // Bytes are those of global memory.
	Seconds      float64
	// What each would take alone.
	tensor, shared, global float64
}

// add adds a launch with so many operations, the seconds of their operands in shared
// memory, and bytes of global memory.
func (e *Estimate) add(g Chip, flops, shared, bytes float64, blocks int) {
	fill := min(1, float64(blocks)/float64(g.Multiprocessors))
	e.Launches++
	e.FLOPs += flops
	e.Bytes += bytes
	tensor, global := flops/g.tensor(), bytes/g.Bandwidth
	e.tensor, e.shared, e.global = e.tensor+tensor, e.shared+shared, e.global+global
	e.Seconds += g.Launch + max(tensor, shared, global)/fill
}

// product adds the launches of a product: its own, whose parts of sums go
// through memory where it is split, and then the one that adds them up.
func (e *Estimate) product(g Chip, k Product, tokens int) {
	blocks := func(k Kernel) int {
		n := k.Blocks(table.Counts{table.Tokens: tokens, table.Parts: 1})
		return n[0] * n[1] * n[2]
	}
	m := float64(tokens)
	w := float64(k.Blocks) * float64(k.Cols()) * float64(k.Depth())
	in, out := 2*m*float64(k.Blocks*k.Depth()), 2*m*float64(k.Blocks*k.Cols())
	shared := 2 * m * w / g.shared(k.Tile)
	if !k.Split() {
		e.add(g, 2*m*w, shared, 2*w+in+out, blocks(k.Kernel()))
		return
	}
	parts := 2 * float64(k.Parts) * out
	e.add(g, 2*m*w, shared, 2*w+in+parts, blocks(k.Kernel()))
	e.add(g, 0, 0, parts+out, blocks(Finish{k}.Kernel()))
}

// seconds is the modelled time of a product.
func (k Product) seconds(g Chip, tokens int) float64 {
	var e Estimate
	e.product(g, k, tokens)
	return e.Seconds
}

// fusedRows and fusedRank bound what a fused kernel holds in shared memory:
// 64 rows of an intermediate of 256. Its warps are taken to have the tiles that each
// factor has by itself.
const (
	fusedRows = 64
	fusedRank = 256
)

// Estimates lists the variants that a layer has. Only OneByOne has kernels
// so far.
func (l Layer) Estimates(g Chip, tokens int) []Estimate {
	e := Estimate{Variant: OneByOne}
	for _, f := range l.Factors {
		k := f.Forward
		if tokens <= FewTokens {
			k = f.Few
		}
		e.product(g, k, tokens)
	}
	es := []Estimate{e}
	if len(l.Factors) == 1 {
		return es
	}
	s := l.Spec
	m, w, rows := float64(tokens), float64(s.Weights()), up(tokens, fusedRows)/fusedRows
	if mid := l.Factors[0].Blocks * l.Factors[0].Factor.Out; mid <= fusedRank {
		f := Estimate{Variant: Fused}
		shared := 0.0
		for _, k := range l.Factors {
			shared += 2 * m * float64(k.Factor.Weights()) / g.shared(k.Forward.Tile)
		}
		f.add(g, 2*m*w, shared, 2*(w+m*float64(s.In+s.Out)), rows)
		es = append(es, f)
	}
	dense, err := newBF16(plan.NewLayer(spec.Linear{Kind: spec.Dense, In: s.In, Out: s.Out}), "", "")
	if err == nil {
		d := dense.Estimates(g, tokens)[0]
		d.Variant = Merged
		es = append(es, d)
	}
	return es
}

// Fastest is the estimate with the least time.
func Fastest(es []Estimate) Estimate {
	best := es[0]
	for _, e := range es[1:] {
		if e.Seconds < best.Seconds {
			best = e
		}
	}
	return best
}

// Why says what bounds the choice.
func (e Estimate) Why(g Chip) string {
	switch {
	case e.Seconds < 2*g.Launch*float64(e.Launches):
		return "launches"
	case e.global >= max(e.tensor, e.shared):
		return "memory"
	case e.shared > e.tensor:
		return "shared memory"
	}
	return "tensor cores"
}
