// Package disk writes the files of a folder that one process at a time holds.
// Whenever that process dies, each file is the old one or the new one, and what
// it left unfinished has a name by which the next one removes it.
package disk

import (
	"bufio"
	"errors"
	"io"
	"os"
	"path/filepath"
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

// file is a file whose writes are operations.
type file struct{ *os.File }

func (f file) Write(b []byte) (int, error) {
	At("write", f.Name())
	return f.File.Write(b)
}

// Create writes a file and makes it last.
func Create(name string, write func(w io.Writer) error) error {
	At("create", name)
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	err = write(file{f})
	if err == nil {
		At("sync", name)
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// UnfinishedPrefix precedes the name of what is not whole.
const UnfinishedPrefix = ".unfinished-"

// Unfinished is where Replace writes what becomes a file.
func Unfinished(name string) string {
	return filepath.Join(filepath.Dir(name), UnfinishedPrefix+filepath.Base(name))
}

// Replace writes a file that appears whole, in place of the one before, or not
// at all. Writes are buffered.
func Replace(name string, write func(w io.Writer) error) error {
	tmp := Unfinished(name)
	err := Create(tmp, func(w io.Writer) error {
		b := bufio.NewWriterSize(w, 1<<16)
		if err := write(b); err != nil {
			return err
		}
		return b.Flush()
	})
	if err == nil {
		err = Rename(tmp, name)
	}
	if err != nil {
		return errors.Join(err, Clean(name))
	}
	return nil
}

// Clean removes what a process that died in Replace left of the files.
func Clean(names ...string) error {
	for _, name := range names {
		if err := Remove(Unfinished(name)); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return nil
}
