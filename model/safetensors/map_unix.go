//go:build unix

package safetensors

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// mapFile maps a whole file to read, or returns nil where that cannot be done: then
// it is read.
func mapFile(f *os.File, size int64) []byte {
	if size < 1 || size > math.MaxInt {
		return nil
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil
	}
	return b
}

func unmap(b []byte) error {
	if b == nil {
		return nil
	}
	return unix.Munmap(b)
}

// keepMapped is how many bytes that were read stay in the process's memory.
const keepMapped = 1 << 20

// forget gives back the memory of what was read: the system has the file's pages, and
// brings them again where they are read again.
func (s *File) forget(at, size int64) {
	page := int64(os.Getpagesize())
	lo, hi := (at+page-1)/page*page, (at+size)/page*page
	if hi-lo >= keepMapped {
		_ = unix.Madvise(s.mapped[lo:hi], unix.MADV_DONTNEED) // it was advice
	}
}

// guard runs what reads the mapping. A page that is not there any more, since the
// file shrank or its disk failed, is an error and not the end of the process.
func (s *File) guard(tensor string, read func()) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch r := recover().(type) {
		case nil:
		case interface {
			runtime.Error
			Addr() uintptr
		}:
			err = fmt.Errorf("%s: %s cannot be read: the file has become shorter, or its disk fails", s.name, tensor)
		default:
			panic(r)
		}
	}()
	read()
	return nil
}
