package kernel

import (
	"fmt"
	"unsafe"
)

// VecArgs is what every elementwise kernel takes. What the operands are is
// said at each operation's portable form, in runtime/vec.
type VecArgs struct {
	// P are the operands: up to six vectors of N entries.
	P [6]unsafe.Pointer
	N int
	// Rows and Stride (bytes) serve the operations over several rows, Step
	// (bytes) those whose entries do not lie side by side, Groups those that
	// take rows apart, and GroupStep (bytes) leads from one of them to the next.
	Rows, Stride, Step, Groups, GroupStep int
	// S are scalar operands, R scalar results.
	S [10]float32
	R [2]float32
}

// VecOp is an elementwise operation.
type VecOp int

// The elementwise operations.
const (
	OpGELU VecOp = iota
	OpGELUBackward
	OpGELUErf
	OpGELUErfBackward
	OpSwiGLU
	OpSwiGLUBackward
	OpSum
	OpSumDeviations
	OpNormalize
	OpNormSums
	OpNormApply
	OpMax
	OpExpSum
	OpSoftmaxBackward
	OpDot
	OpScale
	OpMultiply
	OpAxpy
	OpColSum
	OpRotate
	OpAdamW
	OpSpread
	OpSpreadAdd
	OpWeave2
	OpWeave2Add
	OpWeave4
	OpWeave4Add
	OpPackPanels
	OpPackStrips
	OpPackStripsStep
	OpSumStrips
	OpSumStripsStep
	OpCopyRuns
	OpTranspose
	OpBF16
	OpBF16Pairs
	OpRoundBF16
	OpSwapBF16
	OpLargest
	OpQuantize
	OpRead
	OpPeak
	OpPeakBF16
	OpPeakInt8
	OpPeakInt4
	NumVecOps
)

// noOp is the operation of what has none.
const noOp VecOp = -1

// vecNames are the names of operations; those of activations have their epilogue's.
var vecNames = [NumVecOps]string{
	OpSum: "sum", OpSumDeviations: "sumdeviations", OpNormalize: "normalize", OpNormSums: "normsums", OpNormApply: "normapply", OpMax: "max",
	OpExpSum: "expsum", OpSoftmaxBackward: "softmaxbackward", OpDot: "dot", OpScale: "scale", OpMultiply: "multiply", OpAxpy: "axpy", OpColSum: "colsum", OpRotate: "rotate",
	OpAdamW: "adamw", OpSpread: "spread", OpSpreadAdd: "spreadadd", OpWeave2: "weave2", OpWeave2Add: "weave2add", OpWeave4: "weave4", OpWeave4Add: "weave4add", OpPackPanels: "packpanels", OpPackStrips: "packstrips",
	OpPackStripsStep: "packstripsstep", OpSumStrips: "sumstrips", OpSumStripsStep: "sumstripsstep", OpCopyRuns: "copyruns", OpTranspose: "transpose",
	OpBF16: "bf16", OpBF16Pairs: "bf16pairs", OpRoundBF16: "roundbf16", OpSwapBF16: "swapbf16", OpLargest: "largest", OpQuantize: "quantize", OpRead: "read",
	OpPeak: "peak", OpPeakBF16: "peakbf16", OpPeakInt8: "peakint8", OpPeakInt4: "peakint4",
}

func (op VecOp) String() string {
	for _, e := range epilogues {
		switch op {
		case e.forward:
			return string(e.name)
		case e.backward:
			return string(e.name) + "backward"
		}
	}
	return vecNames[op]
}

// Needs are the features beside those of an instruction set that its kernel of the
// operation may use: a format's peak, and what rounds to bfloat16, have the format's
// instructions.
func (op VecOp) Needs(isa ISA) []Feature {
	rounds := op == OpBF16 || op == OpBF16Pairs || op == OpRoundBF16 || op == OpSwapBF16
	for _, f := range formats {
		if f.Peak != op && !(rounds && f.Name == BF16) {
			continue
		}
		if feature := f.Native[isa]; feature != "" {
			return []Feature{feature}
		}
		return f.Needs[isa]
	}
	return nil
}

// VecFunc is an elementwise kernel.
type VecFunc func(*VecArgs)

// VecRow is what the emitters of an instruction set's elementwise kernels are
// given.
type VecRow struct {
	ISA ISA `json:"isa"`
	// StripRows is the width of the strips that are packed, PackAhead the number of
	// rows by which packing prefetches.
	StripRows int `json:"strip_rows"`
	PackAhead int `json:"pack_ahead"`
}

// Name is that of an operation's kernel.
func (r VecRow) Name(op VecOp) string { return fmt.Sprintf("vec_f32_%s_%s", op, r.ISA) }

// Validate says what of a row no kernels can be made of.
func (r VecRow) Validate() error {
	if len(r.ISA.Needs()) == 0 {
		return fmt.Errorf("isa: %q has no assembly", r.ISA)
	}
	if r.StripRows < 1 || r.StripRows > MaxMR || r.PackAhead < 1 || r.PackAhead > 1<<10 {
		return fmt.Errorf("strips of %d columns, %d rows ahead: want 1 to %d, and 1 to %d", r.StripRows, r.PackAhead, MaxMR, 1<<10)
	}
	return nil
}

type vecTable struct {
	row VecRow
	fs  map[VecOp]VecFunc
}

var vecRegistry = map[ISA]vecTable{}

// RegisterVec adds the elementwise kernels of an instruction set. It is for
// init functions only.
func RegisterVec(row VecRow, fs map[VecOp]VecFunc) { vecRegistry[row.ISA] = vecTable{row, fs} }

// Vec returns the kernel of an operation, nil where the set has none, or the processor
// lacks what it needs.
func Vec(isa ISA, op VecOp) VecFunc {
	if !Has(op.Needs(isa)...) {
		return nil
	}
	return vecRegistry[isa].fs[op]
}

// VecRowOf is what the elementwise kernels of an instruction set were made of.
func VecRowOf(isa ISA) VecRow { return vecRegistry[isa].row }
