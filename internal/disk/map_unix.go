//go:build unix && !solaris && !aix

package disk

import (
	"errors"
	"math"
	"os"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// Map maps a whole file to read, or returns nil where that cannot be done: then it
// is to be read.
func Map(f *os.File, size int64) []byte {
	if size < 1 || size > math.MaxInt {
		return nil
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil
	}
	return b
}

// Unmap ends a mapping; nil is none.
func Unmap(b []byte) error {
	if b == nil {
		return nil
	}
	return unix.Munmap(b)
}

// keepMapped is the least number of bytes that Forget gives back.
const keepMapped = 1 << 20

// Forget gives back the memory of a stretch of a mapping that was read: the system
// has the file's pages, and brings them again where they are read again.
func Forget(mapped []byte, at, size int64) {
	page := int64(os.Getpagesize())
	lo, hi := (at+page-1)/page*page, (at+size)/page*page
	if hi-lo >= keepMapped {
		_ = unix.Madvise(mapped[lo:hi], unix.MADV_DONTNEED) // it was advice
	}
}

var errGone = errors.New("it was cut off since it was opened, or its disk has failed")

// ReadMapped runs what reads a mapping. A page that is not there any more, since the
// file shrank or its disk failed, is an error and not the end of the process.
func ReadMapped(read func()) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch r := recover().(type) {
		case nil:
		case interface {
			runtime.Error
			Addr() uintptr
		}:
			err = errGone
		default:
			panic(r)
		}
	}()
	read()
	return nil
}
