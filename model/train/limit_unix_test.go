//go:build unix

package train

import (
	"os/signal"

	"golang.org/x/sys/unix"
)

// limitFiles makes writes beyond so many bytes of a file fail.
func limitFiles(bytes uint64) error {
	signal.Ignore(unix.SIGXFSZ)
	return unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: bytes, Max: bytes})
}
