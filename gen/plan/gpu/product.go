// Package gpu plans kernels for NVIDIA GPUs: tiles, stages, where every entry of a
// row lies, what each launch reads and writes, and the roofline. Like all of the plan
// it is a pure function of the spec, never of the machine that it runs on.
package gpu

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// Depth of a stage of the pipeline, and of one tensor-core instruction.
const (
	StageDepth = 32
	mmaM       = 16
	mmaN       = 8
	mmaK       = 16
)

// chunk is the number of bf16 that one 16-byte copy moves.
const chunk = 8

// Sides of tiles: a high one, or a low one where that leaves less of a tile
// empty; and the rows of a tile for few tokens.
const (
	lowSide  = 64
	highSide = 128
	fewTile  = 16
)

// Product plans a matrix product. Every number but the count of tokens is a constant
// of the kernel.
type Product struct {
	table.Product
	Tile table.Tile
	// Stages of the pipeline of asynchronous copies.
	Stages int
	// BlocksPerSM is how many thread blocks share a multiprocessor: it bounds
	// registers and shared memory.
	BlocksPerSM int
}

// Factor is one factor with its kernels and the order of its packed
// weights.
type Factor struct {
	spec.Factor
	// Out and In list, for each block, the canonical row and column of every
	// row and column of the pack.
	Out, In [][]int
	// Forward and BackwardData run any number of tokens, Few and FewBackward
	// best up to FewTokens of them.
	Forward, Few, BackwardData, FewBackward, BackwardWeight Product
}

// Products lists the factor's products.
func (f Factor) Products() []Product {
	return []Product{f.Forward, f.Few, f.BackwardData, f.FewBackward, f.BackwardWeight}
}

// Numbers of rows at which the engine runs other kernels, or the same ones
// several times.
const (
	// FewTokens is the number of tokens up to which the Few kernels run.
	FewTokens = 64
	// PromptRows bounds the rows of one pass over a prompt, HeadRows the
	// logits that exist at one time.
	PromptRows = 512
	HeadRows   = 4096
)

// Layer is a planned linear layer; Bias maps each stored output before the
// activation to its entry of the bias.
type Layer struct {
	Spec      spec.Linear
	Precision table.Precision
	Factors   []Factor
	Bias      []int
}

// FFN is a planned network. Output lists the stored place of each output: a
// last shuffle is left out, and they lie block by block, because whoever adds the residual
// reads each row once and can do so in any order.
type FFN struct {
	Spec      spec.FFN
	Precision table.Precision
	// Why is what bf16 refused, where float32 was chosen for that.
	Why      error
	FC1, FC2 Layer
	Output   []int
}

// NewBF16 plans a network in bf16, or says which of its widths the tensor cores
// cannot serve.
func NewBF16(f spec.FFN) (FFN, error) {
	hidden := blockMajor(f.FC1(), f.FFN)
	var pre []int // the columns of an activation lie side by side
	for column := range f.Act.Columns() {
		for _, s := range hidden {
			pre = append(pre, f.Act.Columns()*s+column)
		}
	}
	p := FFN{Spec: f, Precision: table.BF16, Output: blockMajor(f.FC2(), f.Hidden)}
	forward, backward := table.EpiloguesOf(string(f.Act))
	var err error
	if p.FC1, err = newBF16(plan.NewStoredLayer(f.FC1(), plan.Identity(f.Hidden), pre, ""), forward, ""); err != nil {
		return p, fmt.Errorf("%s: fc1: %w", f.Name(), err)
	}
	if p.FC2, err = newBF16(plan.NewStoredLayer(f.FC2(), hidden, p.Output, ""), "", backward); err != nil {
		return p, fmt.Errorf("%s: fc2: %w", f.Name(), err)
	}
	return p, nil
}

// blockMajor is the place of each of the first n outputs where the last
// factor's blocks store them one after the other.
func blockMajor(l spec.Linear, n int) []int {
	places := make([]int, n)
	chain := l.Chain()
	last := chain[len(chain)-1]
	next := 0
	for i := range l.Out {
		if j := last.Shuffled(i); j < n {
			places[j] = next
			next++
		}
	}
	return places
}

var errKind = errors.New("layers of this kind have no GPU kernels yet; the CPU runs them")

var errGuided = errors.New("guided layers have no GPU kernels")

func newBF16(l plan.Layer, forward, backward table.Epilogue) (Layer, error) {
	g := Layer{Spec: l.Spec, Precision: table.BF16, Bias: l.Bias}
	if l.Spec.Guide {
		return g, errGuided
	}
	for i, f := range l.Factors {
		gf := Factor{Factor: f.Factor}
		var ins, outs [][]int
		for _, b := range f.Blocks {
			in, inCanon := flatten(b.In)
			out, outCanon := flatten(b.Out)
			ins, outs = append(ins, in), append(outs, out)
			gf.In, gf.Out = append(gf.In, inCanon), append(gf.Out, outCanon)
		}
		in, err := placesOf(ins)
		if err != nil {
			return g, fmt.Errorf("inputs of %s: %w", f.Param, err)
		}
		out, err := placesOf(outs)
		if err != nil {
			return g, fmt.Errorf("outputs of %s: %w", f.Param, err)
		}
		first, last := i == 0, i == len(l.Factors)-1
		x := table.Operand{Pitch: f.InWidth, Cols: in}
		w := table.Operand{Rows: f.Out, Pitch: f.In, BlockRows: f.Out, Cols: table.Places{Len: f.In, Run: f.In, Step: f.In}}
		y := table.Operand{Pitch: f.OutWidth, Cols: out}
		k := Product{Product: table.Product{Pass: table.Forward, Precision: table.BF16, Blocks: f.Factor.Blocks, A: x, B: w, C: y}}
		if last {
			k.Epilogue, k.Bias = forward, l.Spec.Bias
		}
		if k.Epilogue.Activates() && k.Epilogue.Gated() && out.Run%(2*chunk) != 0 {
			return g, fmt.Errorf("outputs of %s: runs of %d gates and ups, want a multiple of %d", f.Param, out.Run, 2*chunk)
		}
		gf.Forward, gf.Few = k.tiled(), k.few()
		k = Product{Product: table.Product{Pass: table.BackwardData, Precision: table.BF16, Blocks: f.Factor.Blocks, A: y, B: summed(w), C: x}}
		if first {
			k.Epilogue = backward
		}
		gf.BackwardData, gf.FewBackward = k.tiled(), k.few()
		gf.BackwardWeight = Product{Product: table.Product{Pass: table.BackwardWeight, Precision: table.BF16, Blocks: f.Factor.Blocks, A: summed(y), B: summed(x), C: w}}.tiled()
		g.Factors = append(g.Factors, gf)
	}
	return g, nil
}

func summed(o table.Operand) table.Operand {
	o.Summed = true
	return o
}

// flatten lists the stored and the canonical place of each entry.
func flatten(segs []plan.Seg) (store, canon []int) {
	for _, s := range segs {
		for i := range s.Store.Len {
			store, canon = append(store, s.Store.At(i)), append(canon, s.Canon.At(i))
		}
	}
	return store, canon
}

// placesOf describes the places of all blocks, or says why 16-byte copies
// cannot reach them.
func placesOf(blocks [][]int) (table.Places, error) {
	p := table.Contiguous(len(blocks[0]))
	at := blocks[0]
	for i := 1; i < len(at); i++ {
		if at[i] != at[i-1]+1 {
			p.Run, p.Step = i, at[i]-at[0]
			break
		}
	}
	if len(blocks) > 1 {
		p.Block = blocks[1][0] - blocks[0][0]
	}
	if n := cmp.Or(p.Len%chunk, p.Run%chunk, p.Step%chunk, p.Block%chunk); n != 0 {
		return p, fmt.Errorf("blocks of %d in runs of %d: GPU kernels copy %d neighbours at a time and need multiples of that", p.Len, p.Run, chunk)
	}
	for b, at := range blocks {
		for i, a := range at {
			if a != p.At(b, i) {
				return p, fmt.Errorf("blocks of %d in runs of unequal length: GPU kernels need equal ones", p.Len)
			}
		}
	}
	return p, nil
}

// tiled chooses the tile of a kernel that has tokens enough: high sides for 256
// threads, or low ones where that leaves less of a tile empty.
func (k Product) tiled() Product {
	k.Tile = table.Tile{M: highSide, N: side(k.Cols()), WarpsM: 2, WarpsN: 4}
	if k.A.Summed {
		k.Tile.M = side(k.A.Cols.Len)
	}
	k.Stages, k.BlocksPerSM = 3, 2
	return k
}

// few chooses a low tile for few tokens: the weights pass once, and narrow
// tiles, or parts of their sums, fill the chip. The number of parts is the one
// with the shortest modelled time for a tile of tokens; a part has no fewer
// stages than the pipeline.
func (k Product) few() Product {
	k.Tile = table.Tile{M: fewTile, N: lowSide, WarpsM: 1, WarpsN: 4}
	k.Stages, k.BlocksPerSM = 4, 4
	best, least := k, k.seconds(Chips[0], k.Tile.M)
	for k.Parts = 2; k.PartSteps() >= k.Stages; k.Parts++ {
		if s := k.seconds(Chips[0], k.Tile.M); s < least && (k.Parts-1)*k.PartSteps() < k.Steps() {
			best, least = k, s
		}
	}
	return best
}

// Steps counts the stages of a sum of constant length, PartSteps those of each
// part but the last, which has what is left.
func (k Product) Steps() int     { return up(k.Depth(), StageDepth) / StageDepth }
func (k Product) PartSteps() int { return up(k.Steps(), k.Parts) / k.Parts }

func side(n int) int {
	if up(n, lowSide) < up(n, highSide) {
		return lowSide
	}
	return highSide
}

func up(n, to int) int { return (n + to - 1) / to * to }

// StageBytes is the shared memory of the two operands of one stage.
func (k Product) StageBytes() int { return 2 * StageDepth * (k.Tile.M + k.Tile.N) }

// StagingPitch is the distance in bytes of the rows of float32 sums that wait
// in shared memory for 16-byte stores. It is 8 banks off a multiple of all.
func (k Product) StagingPitch() int { return 4*k.Tile.N + 32 }

// SharedBytes is the dynamic shared memory of a thread block: the stages, and
// later the sums in their place.
func (k Product) SharedBytes() int {
	return max(k.Stages*k.StageBytes(), k.Tile.M*k.StagingPitch())
}

// TilesM and TilesN count 16x8 tensor-core tiles of a warp; MMA counts the
// tensor-core instructions of one stage.
func (k Product) TilesM() int { return k.Tile.M / k.Tile.WarpsM / mmaM }
func (k Product) TilesN() int { return k.Tile.N / k.Tile.WarpsN / mmaN }
func (k Product) MMA() int    { return k.TilesM() * k.TilesN() * StageDepth / mmaK }

// LDMatrix counts the loads of four 8x8 fragments in one stage.
func (k Product) LDMatrix() int { return (k.TilesM() + k.TilesN()/2) * StageDepth / mmaK }

// Copies counts the 16-byte asynchronous copies that a thread issues for one
// operand's stage of n rows or columns.
func (k Product) Copies(n int) int {
	return (n*StageDepth/chunk + k.Tile.Threads() - 1) / k.Tile.Threads()
}

// StaticCopies counts the copies in the text of the kernel: those of the
// stages that fill the pipeline, and of one more in the loop where the sum is
// long enough.
func (k Product) StaticCopies() int {
	stages := k.Stages
	if k.Depth() > 0 {
		stages = min(stages, k.Steps())
	}
	return stages * (k.Copies(k.Tile.M) + k.Copies(k.Tile.N))
}

// Stores counts the 16-byte stores of the epilogue in the text of a kernel.
func (k Product) Stores() int {
	n := 1
	if k.Epilogue.Activates() {
		n++ // what is saved
	}
	if k.Epilogue.Gated() {
		n++ // gates and ups
	}
	return n
}

// base is the name of the kernel's row but for the end:
//
//	gemm_<precision>_<pass>_<blocks>x<in>x<out>[_i<places>][_o<places>]_<M>x<N>x<depth>_s<stages>[_p<parts>][_bias][_<epilogue>][_sums]_r<row>
//
// Places other than one block after the other are <run>s<step>b<block>w<width>,
// or the name of a shuffle. Depth is that of a stage of the pipeline. The bias, the
// epilogue and sums of a product in parts are left to the kernel that adds them up.
func (k Product) base() string {
	x, y := k.A, k.C
	switch k.Pass {
	case table.BackwardData:
		x, y = k.C, k.A
	case table.BackwardWeight:
		x, y = k.B, k.A
	}
	var b strings.Builder
	fmt.Fprintf(&b, "gemm_%s_%s_%dx%dx%d", k.Precision, k.Pass, k.Blocks, x.Cols.Len, y.Cols.Len)
	for _, o := range []struct {
		name string
		table.Operand
	}{{"i", x}, {"o", y}} {
		p := o.Cols
		if p.Then != table.NoShuffle {
			fmt.Fprintf(&b, "_%s%s", o.name, p.Then)
		} else if p != table.Contiguous(p.Len) || o.Pitch != k.Blocks*p.Len {
			fmt.Fprintf(&b, "_%s%ds%db%dw%d", o.name, p.Run, p.Step, p.Block, o.Pitch)
		}
	}
	depth := StageDepth
	if k.Precision == table.Float32s {
		depth = Float32Depth
	}
	fmt.Fprintf(&b, "_%dx%dx%d_s%d", k.Tile.M, k.Tile.N, depth, k.Stages)
	if k.Split() {
		fmt.Fprintf(&b, "_p%d", k.Parts)
		return b.String()
	}
	return b.String() + k.suffix()
}

// suffix names the epilogue.
func (k Product) suffix() string {
	s := ""
	if k.Bias {
		s += "_bias"
	}
	if k.Epilogue != "" {
		s += "_" + string(k.Epilogue)
	}
	if k.Sums {
		s += "_sums"
	}
	return s
}

// Layers lists the network's layers.
func (f FFN) Layers() []Layer { return []Layer{f.FC1, f.FC2} }
