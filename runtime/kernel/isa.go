// Package kernel is the leaf that kernels and their callers share: the
// argument structs, the instruction sets and targets, the keys and the registry.
// It imports nothing of this module, so that generated packages can register
// themselves without dragging the runtime in.
package kernel

import (
	"fmt"
	"slices"
)

// ISA is an instruction set that kernels are written for.
type ISA string

// The instruction sets, best first.
const (
	AVX512   ISA = "avx512"
	AVX2     ISA = "avx2"
	Portable ISA = "portable" // Go
)

// ISAs lists every instruction set, best first.
var ISAs = []ISA{AVX512, AVX2, Portable}

// Feature is something that a processor and its operating system have or have not,
// by the name that the assembler's tables give it.
type Feature string

// The features that kernels are chosen by, one by one.
const (
	HasAVX2       Feature = "AVX2"
	HasFMA        Feature = "FMA3"
	HasF16C       Feature = "F16C"
	HasAVXVNNI    Feature = "AVXVNNI"
	HasAVX512F    Feature = "AVX512F"
	HasAVX512DQ   Feature = "AVX512DQ"
	HasAVX512BW   Feature = "AVX512BW"
	HasAVX512VL   Feature = "AVX512VL"
	HasAVX512BF16 Feature = "AVX512BF16"
	HasAVX512VNNI Feature = "AVX512VNNI"
)

// Needs are the features that every kernel of an instruction set may use.
func (isa ISA) Needs() []Feature {
	switch isa {
	case AVX512:
		return []Feature{HasAVX2, HasFMA, HasAVX512F, HasAVX512DQ, HasAVX512BW, HasAVX512VL}
	case AVX2:
		return []Feature{HasAVX2, HasFMA}
	}
	return nil
}

// Lanes is the number of float32 entries that the widest registers hold.
func (isa ISA) Lanes() int {
	switch isa {
	case AVX512:
		return 16
	case AVX2:
		return 8
	}
	return 1
}

// Available lists the instruction sets of this machine and build, best first.
// Portable is always among them.
func Available() []ISA {
	var a []ISA
	for _, isa := range ISAs {
		if isa == Portable || assembly && Has(isa.Needs()...) {
			a = append(a, isa)
		}
	}
	return a
}

// Parse returns the instruction set named s if this machine has it, and an
// error that lists the available ones otherwise.
func Parse(s string) (ISA, error) {
	switch isa := ISA(s); {
	case slices.Contains(Available(), isa):
		return isa, nil
	case slices.Contains(ISAs, isa):
		return "", fmt.Errorf("%s is not available on this machine or in this build; available: %v", s, Available())
	}
	return "", fmt.Errorf("unknown instruction set %q; valid: %v", s, ISAs)
}
