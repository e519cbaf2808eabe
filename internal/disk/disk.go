// Package disk writes files that appear whole or not at all, and folders that
// one process at a time holds. Whenever a process dies, each file is the old one
// or the new one, and what it left unfinished is removed by the next that writes
// the same file. Files have the permissions that the user's umask leaves.
package disk

import (
	"errors"
	"io"
	"os"
)

// Before, where not nil, is called before each operation: tests of crashes end
// the process in it.
var Before func(op, name string)

// At says that an operation comes: those of this package do.
func At(op, name string) {
	if Before != nil {
		Before(op, name)
	}
}

// Mkdir is [os.Mkdir] for a folder of one's own.
func Mkdir(name string) error {
	At("mkdir", name)
	return os.Mkdir(name, 0o777)
}

// Rename is [os.Rename].
func Rename(from, to string) error {
	At("rename", to)
	return os.Rename(from, to)
}

// Remove is [os.Remove].
func Remove(name string) error {
	At("remove", name)
	return os.Remove(name)
}

// Sync makes what was written to a file or folder last.
func Sync(name string) error {
	At("sync", name)
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Create writes a file and makes it last.
func Create(name string, write func(w io.Writer) error) error {
	At("create", name)
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	err = write(watched{f})
	if err == nil {
		At("sync", name)
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// watched is a file whose writes are operations.
type watched struct{ *os.File }

func (f watched) Write(b []byte) (int, error) {
	At("write", f.Name())
	return f.File.Write(b)
}
