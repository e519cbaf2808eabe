// Package pass is what follows the emission of kernels: registers are allocated,
// what came out is checked, and instructions that neither avo nor Go's assembler has
// are encoded as bytes.
package pass

import (
	"fmt"
	"slices"

	"github.com/mmcloughlin/avo/ir"
	avo "github.com/mmcloughlin/avo/pass"
	"github.com/mmcloughlin/avo/reg"

	"github.com/structuredffn/sffn/runtime/kernel"
)

// Needs are, by the name of a function, the features that it may use: exactly what
// the runtime looks for before it calls it.
type Needs map[string][]kernel.Feature

// Compile makes a file ready to be printed, or says why it must not be.
func Compile(f *ir.File, needs Needs) error {
	if err := avo.Compile.Execute(f); err != nil {
		return err
	}
	if err := check(f, needs); err != nil {
		return err
	}
	return encode(f)
}

// check rejects what would fault or be slow on the machines that the kernels are
// dispatched to: instructions and registers beyond the features (avo may allocate
// Y16 to Y31 in AVX2 code), a return with dirty upper halves, and a changed base or
// stack pointer.
func check(f *ir.File, needs Needs) error {
	for _, fn := range f.Functions() {
		if err := checkFunction(fn, needs[fn.Name]); err != nil {
			return fmt.Errorf("pass: %s: %w", fn.Name, err)
		}
	}
	return nil
}

// always is what every processor has that is asked for a kernel at all: MMX+ is
// avo's word for the prefetches, and AVX comes with every feature of vectors.
var always = []string{"MMX+", "AVX"}

func checkFunction(fn *ir.Function, features []kernel.Feature) error {
	vectors := false
	var last *ir.Instruction
	for _, i := range fn.Instructions() {
		for _, x := range i.ISA {
			if !slices.Contains(always, x) && !slices.Contains(features, kernel.Feature(x)) {
				return fmt.Errorf("%s needs %s, which is not among %v", i.Opcode, x, features)
			}
		}
		for _, r := range append(i.InputRegisters(), i.OutputRegisters()...) {
			p, ok := r.(reg.Physical)
			if !ok {
				return fmt.Errorf("%s has the unallocated register %v", i.Opcode, r)
			}
			if p.Kind() != reg.KindVector {
				continue
			}
			vectors = vectors || p.Size() > 16
			for _, need := range registerNeeds(p) {
				if !slices.Contains(features, need) {
					return fmt.Errorf("%s uses %s, which needs %s", i.Opcode, p.Asm(), need)
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

// registerNeeds are the features that a vector register takes, whatever the
// instruction: the upper sixteen and the widest are of AVX-512, and narrower views
// of the upper ones are of VL.
func registerNeeds(p reg.Physical) []kernel.Feature {
	switch {
	case p.Size() == 64:
		return []kernel.Feature{kernel.HasAVX512F}
	case p.PhysicalIndex() >= 16:
		return []kernel.Feature{kernel.HasAVX512F, kernel.HasAVX512VL}
	}
	return nil
}
