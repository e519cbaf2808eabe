package simd

import (
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/structuredffn/sffn/runtime/kernel"
)

// step is a row of the table of inner steps: how the products of a format are made.
// A group of k of a column is so many bytes of the panel ([kernel.Format]); a
// vector of the panel holds one group of each lane's column.
type step struct {
	// k is the number of products that one multiplication adds to each lane: a
	// divisor of the format's group. A group that the depth cuts short is
	// multiplied as far as it goes. What is multiplied at once of the left operand
	// lies side by side.
	k int
	// load makes b what is multiplied of the vector of a panel at m: the d-th k of
	// its groups, or the d-th few of them.
	load func(e *asm, m operand.Mem, d int, b reg.VecVirtual)
	// left makes x what is multiplied of the left operand at m, in every lane: ks k,
	// fewer than k where the depth ends.
	left func(e *asm, m operand.Mem, ks int, x reg.VecVirtual)
	// multiply adds the products of x and b to sum.
	multiply func(e *asm, x, b, sum reg.VecVirtual)
}

// steps has a row for each format with kernels.
var steps = map[kernel.FormatName]step{
	kernel.F32: {
		k:        1,
		load:     func(e *asm, m operand.Mem, _ int, b reg.VecVirtual) { e.VMOVUPS(m, b) },
		left:     broadcast,
		multiply: fma,
	},
}

func broadcast(e *asm, m operand.Mem, _ int, x reg.VecVirtual) { e.VBROADCASTSS(m, x) }

func fma(e *asm, x, b, sum reg.VecVirtual) { e.VFMADD231PS(b, x, sum) }
