// Package guard gives tests buffers that fault when anything reads or writes
// outside of them.
package guard

import (
	"fmt"
	"runtime/debug"
	"testing"
)

// Side is the end of a buffer that borders on memory that faults.
type Side int

// Buffers end, or begin, at a protected page.
const (
	End Side = iota
	Start
)

// Sides lists both.
var Sides = []Side{End, Start}

func (s Side) String() string { return [...]string{"end", "start"}[s] }

// Pages are memory between two protected pages, lent to one buffer at a time.
type Pages struct {
	t   testing.TB
	mem []float32
}

// NewPages returns pages that grow with the buffers.
func NewPages(t testing.TB) *Pages { return &Pages{t: t} }

// Floats returns n entries, filled with NaN, that border on a protected page
// at the given side. They take the place of those of the call before.
func (p *Pages) Floats(n int, side Side) []float32 {
	p.t.Helper()
	if p.mem == nil || len(p.mem) < n {
		p.mem = floats(p.t, n)
	}
	x := p.mem[:n:n]
	if side == End {
		x = p.mem[len(p.mem)-n:]
	}
	for i := range x {
		x[i] = nan
	}
	return x
}

// Floats returns n entries of their own whose end borders on memory that
// faults on any access. They are filled with NaN.
func Floats(t testing.TB, n int) []float32 {
	t.Helper()
	return NewPages(t).Floats(n, End)
}

// Catch runs f and returns as an error what would end the process: an access
// to a protected page.
func Catch(f func()) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			if fault, ok := r.(interface{ Addr() uintptr }); ok {
				err = fmt.Errorf("a read or write outside of the buffers, at %#x", fault.Addr())
				return
			}
			panic(r)
		}
	}()
	f()
	return nil
}
