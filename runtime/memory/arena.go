// Package memory hands out large aligned buffers outside the Go heap.
package memory

import (
	"sync/atomic"
	"unsafe"

	"github.com/structuredffn/sffn/runtime/kernel"
)

// Arena hands out 64-byte-aligned float32 buffers from anonymous memory
// outside the Go heap, on huge pages where the system grants them. Row
// strides of weights and activations touch a new page at every step, so huge
// pages are worth several per cent. Close frees all of its buffers at once.
type Arena struct {
	maps [][]byte
	rest []byte
	size int64
}

const (
	hugePage  = 2 << 20
	smallPage = 16 << 10 // a multiple of the systems' pages
	cacheLine = 64
)

// Floats returns n zeroed entries, 64-byte aligned. They are valid until
// Close.
func (a *Arena) Floats(n int) []float32 { return kernel.Floats(a.Bytes(kernel.EntryBytes * n)) }

// Bytes returns n zeroed bytes, 64-byte aligned. They are valid until Close.
func (a *Arena) Bytes(n int) []byte {
	if n == 0 {
		return nil
	}
	size := (n + cacheLine - 1) &^ (cacheLine - 1)
	if size > len(a.rest) {
		a.grow(size)
	}
	b := a.rest[:n]
	a.rest = a.rest[size:]
	return b
}

func (a *Arena) grow(size int) {
	if size < hugePage/2 {
		size = (size + smallPage - 1) &^ (smallPage - 1)
		a.rest = mapMemory(size)
		a.maps = append(a.maps, a.rest)
	} else {
		size = (size + hugePage - 1) &^ (hugePage - 1)
		b := mapMemory(size + hugePage)
		a.maps = append(a.maps, b)
		skip := -int(uintptr(unsafe.Pointer(&b[0]))) & (hugePage - 1)
		a.rest = b[skip : skip+size]
		adviseHuge(a.rest)
	}
	a.size += int64(size)
	mapped.Add(int64(size))
}

// mapped counts the bytes that arenas hold.
var mapped atomic.Int64

// Held is the memory that all open arenas hold, in bytes.
func Held() int64 { return mapped.Load() }

// Close frees the arena. Its buffers must not be used afterwards.
func (a *Arena) Close() {
	for _, b := range a.maps {
		unmapMemory(b)
	}
	mapped.Add(-a.size)
	a.maps, a.rest, a.size = nil, nil, 0
}
