// Package kernel is the leaf that kernels and their callers share: the
// argument structs, the instruction sets, the keys and the registry. It
// imports nothing of this module, so that generated packages can register
// themselves without dragging the runtime in.
package kernel

import (
	"fmt"
	"os"
	"sync"
)

// ISA is an instruction set that kernels are written for.
type ISA string

// The instruction sets, best first.
const (
	AVX512   ISA = "avx512"   // F, DQ, BW, VL and FMA
	AVX2     ISA = "avx2"     // AVX2 and FMA
	Portable ISA = "portable" // Go
)

// ISAs lists every instruction set, best first.
var ISAs = []ISA{AVX512, AVX2, Portable}

// EnvISA is the environment variable that forces an instruction set.
const EnvISA = "SFFN_ISA"

// Available lists the instruction sets of this machine and build, best first.
// Portable is always among them.
func Available() []ISA {
	var a []ISA
	for _, isa := range ISAs {
		if isa == Portable || cpuHas(isa) {
			a = append(a, isa)
		}
	}
	return a
}

// Parse returns the instruction set named s if this machine has it, and an
// error that lists the available ones otherwise.
func Parse(s string) (ISA, error) {
	for _, isa := range Available() {
		if string(isa) == s {
			return isa, nil
		}
	}
	for _, isa := range ISAs {
		if string(isa) == s {
			return "", fmt.Errorf("%s is not available on this machine or in this build; available: %v", s, Available())
		}
	}
	return "", fmt.Errorf("unknown instruction set %q; valid: %v", s, ISAs)
}

var selected = sync.OnceValues(func() (ISA, error) {
	if s := os.Getenv(EnvISA); s != "" {
		isa, err := Parse(s)
		if err != nil {
			return "", fmt.Errorf("%s: %w", EnvISA, err)
		}
		return isa, nil
	}
	return Available()[0], nil
})

// Default is the instruction set that SFFN_ISA names, or else the best one of
// this machine. The environment is read once.
func Default() (ISA, error) { return selected() }
