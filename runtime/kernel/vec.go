package kernel

import "unsafe"

// VecArgs is what every elementwise kernel takes. What the operands are is
// said at each operation's portable form, in runtime/vec.
type VecArgs struct {
	// P are the operands: up to six vectors of N entries.
	P [6]unsafe.Pointer
	N int
	// Rows and Stride (bytes) serve the operations over several rows, Step
	// (bytes) those whose entries do not lie side by side, Groups those that
	// take rows apart.
	Rows, Stride, Step, Groups int
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
	OpAxpy
	OpColSum
	OpRotate
	OpAdamW
	OpSpread
	OpSpreadAdd
	OpPackPanels
	OpPackStrips
	OpPackStripsStep
	OpRead
	OpPeak
	NumVecOps
)

var vecNames = [NumVecOps]string{"gelu", "gelubackward", "swiglu", "swiglubackward", "sum", "sumdeviations", "normalize", "normsums", "normapply", "max", "expsum", "softmaxbackward", "dot", "scale", "axpy", "colsum", "rotate", "adamw", "spread", "spreadadd", "packpanels", "packstrips", "packstripsstep", "read", "peak"}

func (op VecOp) String() string { return vecNames[op] }

// VecFunc is an elementwise kernel.
type VecFunc func(*VecArgs)

var vecRegistry = map[ISA]map[VecOp]VecFunc{}

// RegisterVec adds the elementwise kernels of an instruction set. It is for
// init functions only.
func RegisterVec(isa ISA, fs map[VecOp]VecFunc) { vecRegistry[isa] = fs }

// Vec returns the kernel of an operation, nil where the set has none.
func Vec(isa ISA, op VecOp) VecFunc { return vecRegistry[isa][op] }
