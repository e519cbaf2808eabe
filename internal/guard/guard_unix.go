//go:build unix

package guard

import (
	"math"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

var nan = float32(math.NaN())

// floats maps whole pages for n entries or more, between two protected ones.
func floats(t testing.TB, n int) []float32 {
	page := unix.Getpagesize()
	size := max(1, (4*n+page-1)/page) * page
	b, err := unix.Mmap(-1, 0, size+2*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatalf("mapping %d bytes: %v", size+2*page, err)
	}
	t.Cleanup(func() { _ = unix.Munmap(b) })
	for _, p := range [][]byte{b[:page], b[page+size:]} {
		if err := unix.Mprotect(p, unix.PROT_NONE); err != nil {
			t.Fatalf("protecting a page: %v", err)
		}
	}
	return unsafe.Slice((*float32)(unsafe.Pointer(&b[page])), size/4)
}
