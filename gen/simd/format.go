package simd

import (
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/structuredffn/sffn/gen/simd/pass"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// step is a row of the table of inner steps: how the products of a format are made.
// A group of k of a column is so many bytes of the panel ([kernel.Format]); a
// vector of the panel holds one group of each lane's column.
type step struct {
	// k is the number of products that one multiplication adds to each lane: a
	// divisor of the format's group. What is multiplied at once of the left operand
	// lies side by side.
	k int
	// load makes b what is multiplied of the vector of a panel at m: the d-th k of
	// its groups, or the d-th few of them.
	load func(e *asm, m operand.Mem, d int, b reg.VecVirtual)
	// left makes x what is multiplied of the left operand at m, in every lane.
	left func(e *asm, m operand.Mem, x reg.VecVirtual)
	// multiply adds the products of x and b to sum.
	multiply func(e *asm, x, b, sum reg.VecVirtual)
}

// steps has a row for each format and instruction set with kernels.
var steps = map[kernel.FormatName]map[kernel.ISA]step{
	kernel.F32:   {kernel.AVX512: float32Step, kernel.AVX2: float32Step},
	kernel.BF16W: {kernel.AVX512: widenedStep, kernel.AVX2: widenedStep},
	kernel.BF16:  {kernel.AVX512: pairStep},
	kernel.Int8W: {kernel.AVX512: bytesStep, kernel.AVX2: bytesStep},
}

var float32Step = step{
	k:        1,
	load:     func(e *asm, m operand.Mem, _ int, b reg.VecVirtual) { e.VMOVUPS(m, b) },
	left:     broadcast,
	multiply: fma,
}

// pairStep multiplies a pair of bfloat16 at a time, of which each lane of the panel and
// each entry of the left operand holds one.
var pairStep = step{
	k:        2,
	load:     func(e *asm, m operand.Mem, _ int, b reg.VecVirtual) { e.VMOVUPS(m, b) },
	left:     broadcast,
	multiply: func(e *asm, x, b, sum reg.VecVirtual) { e.Instruction(pass.VDPBF16PS(b, x, sum)) },
}

// widenedStep takes bfloat16 apart: lane c of a vector holds w[2p][c] | w[2p+1][c] << 16,
// and a bfloat16 is the upper half of a float32.
var widenedStep = step{
	k: 1,
	load: func(e *asm, m operand.Mem, d int, b reg.VecVirtual) {
		e.VMOVUPS(m, b)
		if d == 0 {
			e.VPSLLD(operand.U8(16), b, b)
			return
		}
		e.VANDPS(e.bits(0xffff0000), b, b)
	},
	left:     broadcast,
	multiply: fma,
}

// bytesStep makes float32 of as many bytes as a vector has lanes.
var bytesStep = step{
	k: 1,
	load: func(e *asm, m operand.Mem, _ int, b reg.VecVirtual) {
		e.VPMOVSXBD(m, b)
		e.VCVTDQ2PS(b, b)
	},
	left:     broadcast,
	multiply: fma,
}

func broadcast(e *asm, m operand.Mem, x reg.VecVirtual) { e.VBROADCASTSS(m, x) }

func fma(e *asm, x, b, sum reg.VecVirtual) { e.VFMADD231PS(b, x, sum) }
