package memory

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// mapMemory panics when the system is out of memory, as the Go heap does, but with
// the system's error, so that a program can end in words.
func mapMemory(size int) []byte {
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		panic(fmt.Errorf("memory: cannot map %d bytes: %w", size, err))
	}
	return b
}

// adviseHuge asks for huge pages; a kernel without them says no, which only
// costs speed.
func adviseHuge(b []byte) { _ = unix.Madvise(b, unix.MADV_HUGEPAGE) }

func unmapMemory(b []byte) { _ = unix.Munmap(b) }
