// Package contract checks what callers owe the layers, where that is cheap. A breach
// is a mistake in the program, which would otherwise give wrong numbers or overwrite
// memory: it panics with the layer's name and what would be right.
package contract

import (
	"fmt"
	"unsafe"

	"github.com/structuredffn/sffn/runtime/kernel"
)

// Rows checks an operand of m rows.
func Rows(layer, name string, x []float32, m, width int) {
	if m < 0 || len(x) < m*width {
		panic(fmt.Sprintf("runtime: %s: %s has %d entries, want [%d, %d] = %d", layer, name, len(x), m, width, m*width))
	}
}

// Operand is a buffer by the name that the documentation gives it; only the
// entries that the call uses.
type Operand struct {
	Name string
	Data []float32
}

// Apart checks that a result shares no memory with what the call still
// reads when it stores the first of it.
func Apart(layer string, result Operand, sources ...Operand) {
	for _, s := range sources {
		if Overlap(result.Data, s.Data) {
			panic(fmt.Sprintf("runtime: %s: %s lies in the memory of %s, which is still read; give it a buffer of its own", layer, result.Name, s.Name))
		}
	}
}

// Overlap reports whether two buffers share memory.
func Overlap(a, b []float32) bool {
	if len(a) == 0 || len(b) == 0 {
		return false
	}
	first := func(x []float32) uintptr { return uintptr(unsafe.Pointer(&x[0])) }
	end := func(x []float32) uintptr { return first(x) + uintptr(kernel.EntryBytes*len(x)) }
	return first(a) < end(b) && first(b) < end(a)
}
