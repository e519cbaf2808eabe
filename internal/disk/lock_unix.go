//go:build unix && !solaris && !aix

package disk

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// NoFollow, for os.OpenFile, makes opening a link an error.
const NoFollow = unix.O_NOFOLLOW

// lock takes the file where it is free.
func lock(f *os.File) (free bool, err error) {
	for {
		switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EWOULDBLOCK):
			return false, nil
		case errors.Is(err, unix.ENOLCK): // a network's file system without locks
			return false, fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
		default:
			return err == nil, err
		}
	}
}
