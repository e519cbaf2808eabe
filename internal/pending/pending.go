// Package pending writes files that appear whole or not at all, with the
// permissions that the user's umask leaves.
package pending

import (
	"fmt"
	"io/fs"
	"os"

	"github.com/google/renameio/v2"
)

const permissions = 0o666 // before the umask

// New begins a file that will take the place of the one of that name. Only files
// are replaced: a rename would put one where a device or a pipe was.
func New(name string) (*renameio.PendingFile, error) {
	if err := check(name); err != nil {
		return nil, err
	}
	return renameio.NewPendingFile(name, renameio.WithPermissions(permissions))
}

// WriteFile writes a whole file.
func WriteFile(name string, data []byte) error {
	if err := check(name); err != nil {
		return err
	}
	return renameio.WriteFile(name, data, permissions)
}

func check(name string) error {
	info, err := os.Stat(name)
	if err != nil || info.Mode().IsRegular() {
		return nil
	}
	return fmt.Errorf("%s is %s, want the name of a file", name, Kind(info.Mode()))
}

// Kind names what is no regular file.
func Kind(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "a folder"
	case m&fs.ModeNamedPipe != 0:
		return "a pipe"
	case m&fs.ModeSocket != 0:
		return "a socket"
	}
	return "a device"
}
