//go:build !unix || solaris || aix

package disk

import "os"

// Map maps nothing on this system: files are read.
func Map(*os.File, int64) []byte { return nil }

// Unmap has nothing to end.
func Unmap([]byte) error { return nil }

// ReadMapped runs what reads.
func ReadMapped(read func()) error {
	read()
	return nil
}

// Forget does nothing: there are no mappings.
func Forget([]byte, int64, int64) {}
