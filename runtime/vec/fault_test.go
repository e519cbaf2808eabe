package vec

import (
	"fmt"
	"testing"
	"unsafe"

	"github.com/structuredffn/sffn/runtime/kernel"
)

// fault is a deliberate one: it runs the right kernel and spoils something.
type fault struct {
	name string
	run  func(a *kernel.VecArgs, f kernel.VecFunc)
}

// entryAt is an entry of operand p.
func entryAt(a *kernel.VecArgs, p, at int) *float32 {
	return (*float32)(unsafe.Add(a.P[p], 4*at))
}

// faults lists what can be wrong with an operation.
func (w *row) faults() (fs []fault) {
	add := func(name string, run func(a *kernel.VecArgs, f kernel.VecFunc)) {
		fs = append(fs, fault{name, run})
	}
	places := func(a *kernel.VecArgs, p int) []int {
		return w.placesOf(shape{a.N, a.Rows, a.Groups, a.Stride / 4, a.Step / 4, a.GroupStep/4 - a.Rows*a.N}, p)
	}
	end := func(at []int) int {
		n := 0
		for _, i := range at {
			n = max(n, i+1)
		}
		return n
	}
	for p, kind := range w.operands {
		name := func(s string) string { return fmt.Sprintf("operand %d: %s", p, s) }
		if kind == 'i' || kind == 'u' {
			add(name("read past its end"), func(a *kernel.VecArgs, f kernel.VecFunc) {
				f(a)
				sink += *entryAt(a, p, end(places(a, p)))
			})
			add(name("read before its start"), func(a *kernel.VecArgs, f kernel.VecFunc) {
				f(a)
				sink += *entryAt(a, p, -1)
			})
		}
		if kind != 'o' && kind != 'u' {
			continue
		}
		add(name("last entry skipped"), func(a *kernel.VecArgs, f kernel.VecFunc) {
			if at := places(a, p); len(at) > 0 {
				last := entryAt(a, p, at[len(at)-1])
				defer func(old float32) { *last = old }(*last)
			}
			f(a)
		})
		add(name("an entry a little off"), func(a *kernel.VecArgs, f kernel.VecFunc) {
			f(a)
			if at := places(a, p); len(at) > 0 {
				x := entryAt(a, p, at[len(at)/2])
				*x += 0x1p-16 * (1 + max(*x, -*x))
			}
		})
		add(name("two entries swapped"), func(a *kernel.VecArgs, f kernel.VecFunc) {
			f(a)
			if at := places(a, p); len(at) > 1 {
				x, y := entryAt(a, p, at[0]), entryAt(a, p, at[len(at)-1])
				*x, *y = *y, *x
			}
		})
		add(name("written past its end"), func(a *kernel.VecArgs, f kernel.VecFunc) {
			f(a)
			*entryAt(a, p, end(places(a, p))) = 1
		})
		add(name("written before its start"), func(a *kernel.VecArgs, f kernel.VecFunc) {
			f(a)
			*entryAt(a, p, -1) = 1
		})
		if kind == 'u' {
			add(name("what it held is forgotten"), func(a *kernel.VecArgs, f kernel.VecFunc) {
				for _, at := range places(a, p) {
					*entryAt(a, p, at) = 0
				}
				f(a)
			})
		}
		if w.shapes != nil {
			add(name("written between its entries"), func(a *kernel.VecArgs, f kernel.VecFunc) {
				f(a)
				for i, at := range places(a, p) {
					if at > i {
						*entryAt(a, p, at-1) = 1
						return
					}
				}
				*entryAt(a, p, -1) = 1 // there is nothing between them
			})
		}
	}
	if w.terms != nil || w.largest != nil {
		add("the last entry left out of the sum", func(a *kernel.VecArgs, f kernel.VecFunc) {
			if a.N == 0 {
				f(a)
				return
			}
			a.N--
			f(a)
			a.N++
			if w.entry != nil {
				r := a.R
				f(a) // for what it writes
				a.R = r
			}
		})
		add("a sum a little off", func(a *kernel.VecArgs, f kernel.VecFunc) {
			f(a)
			a.R[0] *= 1 + 0x1p-16
		})
	}
	if w.rate {
		add("no operations", func(a *kernel.VecArgs, _ kernel.VecFunc) { a.R[0] = 0 })
	}
	return fs
}

var sink float32

// A test of the test: each fault of each operation is noticed.
func TestFaults(t *testing.T) {
	m := newRoom(t)
	for op := range kernel.NumVecOps {
		w := rows[op]
		fs := w.faults()
		if len(fs) == 0 {
			t.Errorf("%s: no fault to be noticed", op)
		}
		for _, isa := range kernel.Available() {
			right := For(isa).fns[op]
			for _, fault := range fs {
				if _, err := m.check(w, isa, func(a *kernel.VecArgs) { fault.run(a, right) }); err == nil {
					t.Errorf("%s, %s: %s: nobody notices", op, isa, fault.name)
				}
			}
		}
	}
}
