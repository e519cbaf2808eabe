//go:build unix

package guard

import (
	"strings"
	"testing"
	"unsafe"
)

// What lies next to a buffer faults, on the side that was asked for, and the
// fault is an error.
func TestPages(t *testing.T) {
	p := NewPages(t)
	for _, n := range []int{1, 7, 1024, 3000} {
		for _, side := range Sides {
			x := p.Floats(n, side)
			if len(x) != n || x[0] == x[0] || x[n-1] == x[n-1] {
				t.Fatalf("%d entries at the %v: %d, or not all NaN", n, side, len(x))
			}
			if err := Catch(func() { x[0], x[n-1] = 1, 1 }); err != nil {
				t.Errorf("%d entries at the %v: %v", n, side, err)
			}
			at := -4
			if side == End {
				at = 4 * n
			}
			next := (*float32)(unsafe.Add(unsafe.Pointer(&x[0]), at))
			for what, f := range map[string]func(){"write": func() { *next = 1 }, "read": func() { x[0] = *next }} {
				if err := Catch(f); err == nil || !strings.Contains(err.Error(), "outside of the buffers") {
					t.Errorf("%d entries at the %v: a %s next to them: %v", n, side, what, err)
				}
			}
		}
	}
}
