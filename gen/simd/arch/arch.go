// Package arch knows the register files: how many lanes a vector register has, how
// lanes are masked, and what each has an instruction for that another one has not.
// Emitters ask a [File] and name no instruction set.
package arch

import (
	"fmt"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/structuredffn/sffn/runtime/kernel"
)

// File emits what differs from one register file to the next. Operands come in the
// order of Go's assembler, what is written last. A lane is a float32.
type File interface {
	// Lanes is the number of lanes of a vector register, Bytes its size.
	Lanes() int
	Bytes() int
	// Constant is the size of a constant in memory: that of a register, or of one lane
	// where instructions repeat it for the others.
	Constant() int
	// Registers is the number of vector registers.
	Registers() int
	// Vec allocates a vector register.
	Vec() reg.VecVirtual
	// Zero clears v.
	Zero(v reg.VecVirtual)
	// Round rounds x to the nearest integer, ties to even.
	Round(x, dst operand.Op)
	// Scale2 multiplies p by 2^n, n being integers as floats; n is destroyed.
	Scale2(n, p reg.VecVirtual)
	// ZeroBelow clears the lanes of p where x < limit; NaN is not less.
	ZeroBelow(x reg.VecVirtual, limit operand.Mem, p reg.VecVirtual)

	// FirstLanes is the mask of the first n lanes, 0 < n <= Lanes.
	FirstLanes(n reg.GPVirtual) Mask
	// LoadMasked loads the lanes of the mask and clears the others.
	LoadMasked(m operand.Mem, k Mask, v reg.VecVirtual)
	// StoreMasked stores the lanes of the mask.
	StoreMasked(v reg.VecVirtual, k Mask, m operand.Mem)
	// Keep clears the lanes of v beside those of the mask.
	Keep(k Mask, v reg.VecVirtual)
	// Fill puts those of c into the lanes of v beside those of the mask.
	Fill(c operand.Mem, k Mask, v reg.VecVirtual)

	// StoreLower stores the lower half of each lane, one behind the other, half a vector in
	// all; v is destroyed.
	StoreLower(v reg.VecVirtual, m operand.Mem)

	// Fold folds the lanes of v with op, halves first, into lane 0 of what it
	// returns.
	Fold(v reg.VecVirtual, op func(...operand.Op)) reg.Register
	// Narrow stores the int32 of vectors, 32 in all, each within int8, as bytes.
	Narrow(vs []reg.VecVirtual, m operand.Mem)
	// Spread stores the next entries of a row with a distance between neighbours.
	Spread(s Spread)
	// Weaver makes ready to deal out the entries of n vectors in turn, n being 2 or 4: the
	// first of each, then the second of each, and so on, n vectors again. Those given are
	// destroyed.
	Weaver(n int) func(vs []reg.VecVirtual) []reg.VecVirtual
}

// Mask is a set of lanes: a mask register, or the sign bits of a vector.
type Mask struct {
	k    reg.OpmaskVirtual
	bits reg.VecVirtual
}

// Spread are the operands of [File.Spread].
type Spread struct {
	// Dst, Src and At are where the row is stored, where its next entry lies, and
	// how far the row has come, in bytes. Res, where not nil, is what is added.
	Dst, Src, At, Res reg.GPVirtual
	// N counts the entries left, and decides the flags.
	N reg.GPVirtual
	// Step holds the distance of neighbours in bytes, Table the address of the
	// entries of vec.spreadTable.
	Step, Table operand.Mem
}

// New is the register file of an instruction set, which emits into c. label makes
// names that are unique there, and vector is where a vector of such lanes lies.
func New(isa kernel.ISA, c *build.Context, label func(string) string, vector func(lanes []uint32) operand.Mem) File {
	switch isa {
	case kernel.AVX512:
		return &zmm{c, label, vector}
	case kernel.AVX2:
		return &ymm{Context: c}
	}
	panic(fmt.Sprintf("arch: no register file of %q", isa))
}

// foldY folds the lanes of the lower 256 bits.
func foldY(c *build.Context, v reg.VecVirtual, op func(...operand.Op)) reg.Register {
	x, t := v.AsX(), c.XMM()
	c.VEXTRACTF128(operand.U8(1), v.AsY(), t)
	op(t, x, x)
	c.VMOVHLPS(x, x, t)
	op(t, x, x)
	c.VMOVSHDUP(x, t)
	op(t, x, x)
	return x
}

const (
	nearest = 8 // rounding: to nearest, ties to even, and no exception
	notLess = 5 // comparison: NLT, for which unordered counts
)

func at(base reg.Register) operand.Mem { return operand.Mem{Base: base} }

func indexed(base, index reg.Register, scale uint8) operand.Mem {
	return operand.Mem{Base: base, Index: index, Scale: scale}
}
