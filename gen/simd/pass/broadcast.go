package pass

import (
	"fmt"
	"slices"

	"github.com/mmcloughlin/avo/ir"
	"github.com/mmcloughlin/avo/operand"
)

// lanewise are the instructions that repeat an operand of 32 bits in memory for every
// lane (EVEX, embedded broadcast).
var lanewise = []string{"VADDPS", "VSUBPS", "VMULPS", "VDIVPS", "VMINPS", "VMAXPS", "VANDPS", "VCMPPS",
	"VFMADD213PS", "VFMADD231PS", "VFNMADD231PS"}

// Broadcast makes instructions repeat their operand in a pool of constants of 32 bits for
// every lane. A pool of whole registers would be twice as slow wherever the linker, which
// aligns data to 32 bytes at most, puts each across two cache lines.
func Broadcast(f *ir.File, pool operand.Symbol) error {
	for _, fn := range f.Functions() {
		for _, i := range fn.Instructions() {
			if !slices.ContainsFunc(i.Operands, func(op operand.Op) bool {
				m, ok := op.(operand.Mem)
				return ok && m.Symbol == pool
			}) {
				continue
			}
			switch {
			case i.Opcode == "VMOVUPS":
				i.Opcode = "VBROADCASTSS"
			case slices.Contains(lanewise, i.Opcode):
				i.Suffixes = append([]string{"BCST"}, i.Suffixes...)
			default:
				return fmt.Errorf("pass: %s: %s cannot repeat a constant for every lane", fn.Name, i.Opcode)
			}
		}
	}
	return nil
}
