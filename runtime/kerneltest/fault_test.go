package kerneltest

import (
	"fmt"
	"slices"
	"testing"
	"unsafe"

	_ "github.com/structuredffn/sffn/generated/demo" // specialised kernels
	"github.com/structuredffn/sffn/runtime/kernel"
)

// at is an entry of an operand, off bytes from its start.
func at(p unsafe.Pointer, off int) *float32 { return (*float32)(unsafe.Add(p, off)) }

// stored is the number of columns that a call stores.
func stored(a *kernel.Args) int {
	if a.Epilogue == kernel.SwiGLU {
		return a.NTiles * a.NR / 2
	}
	return a.NTiles * a.NR
}

// keeping runs f and puts back what the n entries found, step bytes apart.
func keeping(p unsafe.Pointer, off, n, step int, f func()) {
	old := make([]float32, n)
	for i := range old {
		old[i] = *at(p, off+i*step)
	}
	f()
	for i, v := range old {
		*at(p, off+i*step) = v
	}
}

// fault is a deliberate one: it runs the right kernel and spoils something. concerns
// says which kernels can have it, all where it is nil.
type fault struct {
	name     string
	concerns func(k kernel.Info) bool
	run      func(a *kernel.Args, f kernel.Func)
}

var faults = []fault{
	{"a sum that leaves out its last product", func(k kernel.Info) bool { return k.Shape == nil }, func(a *kernel.Args, f kernel.Func) {
		segs := slices.Clone(unsafe.Slice((*kernel.Segment)(a.Segs), a.NSegs))
		if last := &segs[len(segs)-1]; last.Len > 1 {
			last.Len--
		}
		a.Segs = unsafe.Pointer(&segs[0])
		f(a)
	}},
	{"a sum a little off", nil, func(a *kernel.Args, f kernel.Func) {
		f(a)
		x := at(a.C, (a.MR-1)*a.LDC+4*(stored(a)-1))
		*x += 0x1p-17 * (1 + max(*x, -*x))
	}},
	{"the last column skipped", nil, func(a *kernel.Args, f kernel.Func) {
		keeping(a.C, 4*(stored(a)-1), a.MR, a.LDC, func() { f(a) })
	}},
	{"the last row skipped", nil, func(a *kernel.Args, f kernel.Func) {
		keeping(a.C, (a.MR-1)*a.LDC, stored(a), 4, func() { f(a) })
	}},
	{"two rows swapped", func(k kernel.Info) bool { return k.MR > 1 }, func(a *kernel.Args, f kernel.Func) {
		f(a)
		for j := range stored(a) {
			x, y := at(a.C, 4*j), at(a.C, (a.MR-1)*a.LDC+4*j)
			*x, *y = *y, *x
		}
	}},
	{"two columns swapped", nil, func(a *kernel.Args, f kernel.Func) {
		f(a)
		for i := range a.MR {
			x, y := at(a.C, i*a.LDC), at(a.C, i*a.LDC+4*(stored(a)-1))
			*x, *y = *y, *x
		}
	}},
	{"earlier blocks of k forgotten", nil, func(a *kernel.Args, f kernel.Func) {
		a.Flags &^= kernel.Accumulate
		f(a)
	}},
	{"earlier blocks of k added where there are none", func(k kernel.Info) bool { return k.Epilogue != kernel.SwiGLU }, func(a *kernel.Args, f kernel.Func) {
		a.Flags |= kernel.Accumulate
		f(a)
	}},
	{"no scale", nil, func(a *kernel.Args, f kernel.Func) { a.Flags &^= kernel.Scale; f(a) }},
	{"no bias", nil, func(a *kernel.Args, f kernel.Func) { a.Bias = nil; f(a) }},
	{"no residual", func(k kernel.Info) bool { return k.Epilogue != kernel.SwiGLU }, func(a *kernel.Args, f kernel.Func) {
		a.Residual = nil
		f(a)
	}},
	{"no values before the activation", func(k kernel.Info) bool { return k.Epilogue == kernel.GELU }, func(a *kernel.Args, f kernel.Func) {
		a.Aux = nil
		f(a)
	}},
	{"a value before the activation a little off", activated, func(a *kernel.Args, f kernel.Func) {
		f(a)
		if a.Aux != nil {
			x := at(a.Aux, (a.MR-1)*a.LDAux+4*(stored(a)-1))
			*x += 0x1p-17 * (1 + max(*x, -*x))
		}
	}},
	{"values before the activation that nobody asked for", func(k kernel.Info) bool { return k.Epilogue == kernel.Linear }, func(a *kernel.Args, f kernel.Func) {
		f(a)
		if a.Aux != nil {
			*at(a.Aux, 0) = *at(a.C, 0)
		}
	}},
	{"an activation where it is to be left out", func(k kernel.Info) bool { return k.Epilogue == kernel.SwiGLU }, func(a *kernel.Args, f kernel.Func) {
		a.Flags &^= kernel.PreOnly
		f(a)
	}},
	{"the sum stored for its activation", func(k kernel.Info) bool { return k.Epilogue == kernel.GELU }, func(a *kernel.Args, f kernel.Func) {
		f(a)
		if a.Aux != nil {
			*at(a.C, 0) = *at(a.Aux, 0)
		}
	}},
	{"a write past the first row", nil, func(a *kernel.Args, f kernel.Func) {
		f(a)
		*at(a.C, 4*stored(a)) = 0
	}},
	{"a write past the end", nil, func(a *kernel.Args, f kernel.Func) {
		f(a)
		*at(a.C, (a.MR-1)*a.LDC+4*stored(a)) = 0
	}},
	{"a write before the start", nil, func(a *kernel.Args, f kernel.Func) {
		f(a)
		*at(a.C, -4) = 0
	}},
	{"a write between the values before the activation", activated, func(a *kernel.Args, f kernel.Func) {
		f(a)
		if a.Aux != nil {
			*at(a.Aux, 4*stored(a)) = 0
		}
	}},
	{"a read before B", nil, func(a *kernel.Args, f kernel.Func) {
		f(a)
		sink += *at(a.B, -4)
	}},
	{"a read before A", nil, func(a *kernel.Args, f kernel.Func) {
		f(a)
		sink += *at(a.A, -4)
	}},
	{"a read past the bias", nil, func(a *kernel.Args, f kernel.Func) {
		f(a)
		if a.Bias != nil {
			sink += *at(a.Bias, 4*a.NTiles*a.NR)
		}
	}},
}

var sink float32

func activated(k kernel.Info) bool { return k.Epilogue != kernel.Linear }

// family groups kernels that one emitter makes in one way.
func family(k kernel.Info) string {
	rows := "tile"
	if k.MR == 1 {
		rows = "row"
	}
	how := "any shape"
	switch {
	case k.Strip:
		how = "strip"
	case k.Across:
		how = "across blocks"
	case k.Shape != nil:
		how = "one shape"
	}
	return fmt.Sprint(k.ISA, k.With, " ", k.Format, " ", how, " ", rows, " of ", k.NR, " ", k.Epilogue)
}

// A test of the test: in a kernel of each family, each fault is noticed.
func TestFaults(t *testing.T) {
	room := newRoom(t)
	tallest := map[string]kernel.Info{}
	for _, k := range kernel.Registered() {
		f := family(k)
		if o, ok := tallest[f]; k.Runs() && (!ok || o.MR < k.MR) {
			tallest[f] = k
		}
	}
	for f, k := range tallest {
		t.Run(f, func(t *testing.T) {
			right, list := k.Func, faults
			if k.Across {
				list = acrossFaults
			}
			if k.Format.Quantized() {
				list = integerFaults
			}
			for _, fault := range list {
				if fault.concerns != nil && !fault.concerns(k) {
					continue
				}
				k.Func = func(a *kernel.Args) { fault.run(a, right) }
				if err := room.check(k); err == nil {
					t.Errorf("%s: %s: nobody notices", k.Name, fault.name)
				}
			}
		})
	}
	if kernel.Available()[0] != kernel.Portable && !slices.ContainsFunc(kernel.Registered(), func(k kernel.Info) bool { return k.Shape != nil }) {
		t.Error("no specialised kernel was tried")
	}
}
