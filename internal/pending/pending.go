// Package pending writes files that appear whole or not at all, with the
// permissions that the user's umask leaves.
package pending

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

const permissions = 0o666 // before the umask

// New begins a file that will take the place of the one of that name. Only files
// are replaced: a rename would put one where a device or a pipe was.
func New(name string) (*renameio.PendingFile, error) {
	name, err := target(name)
	if err != nil {
		return nil, err
	}
	return renameio.NewPendingFile(name, renameio.WithPermissions(permissions))
}

// WriteFile writes a whole file.
func WriteFile(name string, data []byte) error {
	name, err := target(name)
	if err != nil {
		return err
	}
	return renameio.WriteFile(name, data, permissions)
}

// target is the file that a name stands for: where a link leads, if it is one.
func target(name string) (string, error) {
	if name == "" {
		return "", errors.New("an empty name, want that of a file")
	}
	info, err := os.Stat(name)
	if err == nil && !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is %s, want the name of a file", name, Kind(info.Mode()))
	}
	if end, err := filepath.EvalSymlinks(name); err == nil {
		return end, nil
	}
	return name, nil
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
