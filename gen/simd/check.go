package simd

import (
	"fmt"
	"slices"

	"github.com/mmcloughlin/avo/ir"
	"github.com/mmcloughlin/avo/reg"

	"github.com/structuredffn/sffn/runtime/kernel"
)

// features lists what kernels of an instruction set may use: exactly what
// the runtime looks for before it calls them. MMX+ is avo's word for the
// prefetches, which every amd64 processor has.
var features = map[kernel.ISA][]string{
	kernel.AVX2:   {"MMX+", "AVX", "AVX2", "FMA3"},
	kernel.AVX512: {"MMX+", "AVX", "AVX2", "FMA3", "AVX512F", "AVX512DQ", "AVX512BW", "AVX512VL"},
}

// check rejects, after register allocation, what would fault or be slow on
// the machines that the kernels are dispatched to: instructions and registers
// outside the instruction set (avo may allocate Y16 to Y31 in AVX2 code), a
// return with dirty upper halves, and a changed base or stack pointer.
func check(f *ir.File, isa kernel.ISA) error {
	for _, fn := range f.Functions() {
		if err := checkFunction(fn, isa); err != nil {
			return fmt.Errorf("simd: %s: %w", fn.Name, err)
		}
	}
	return nil
}

func checkFunction(fn *ir.Function, isa kernel.ISA) error {
	vectors := false
	var last *ir.Instruction
	for _, i := range fn.Instructions() {
		for _, x := range i.ISA {
			if !slices.Contains(features[isa], x) {
				return fmt.Errorf("%s needs %s, which %s does not promise", i.Opcode, x, isa)
			}
		}
		for _, r := range append(i.InputRegisters(), i.OutputRegisters()...) {
			p, ok := r.(reg.Physical)
			if !ok {
				return fmt.Errorf("%s has the unallocated register %v", i.Opcode, r)
			}
			if p.Kind() == reg.KindVector {
				vectors = vectors || p.Size() > 16
				if p.PhysicalIndex() >= 16 && isa != kernel.AVX512 {
					return fmt.Errorf("%s uses %s, which needs AVX-512", i.Opcode, p.Asm())
				}
			}
		}
		for _, r := range i.OutputRegisters() {
			if p := r.(reg.Physical); p.Kind() == reg.KindGP && (p.PhysicalIndex() == reg.RBP.PhysicalIndex() || p.PhysicalIndex() == reg.RSP.PhysicalIndex()) {
				return fmt.Errorf("%s changes %s", i.Opcode, p.Asm())
			}
		}
		if i.Opcode == "RET" && vectors && (last == nil || last.Opcode != "VZEROUPPER") {
			return fmt.Errorf("RET without VZEROUPPER")
		}
		last = i
	}
	return nil
}
