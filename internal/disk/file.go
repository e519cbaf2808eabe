package disk

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// File becomes another file, whole, when it is committed. Until then it lies
// beside that one, under a name that goes with it, and is locked: whoever finds
// it unlocked knows that its process is dead. Several processes may write the
// same file at the same time; the last one to commit has it.
type File struct {
	f    *os.File
	b    *bufio.Writer
	name string
	done bool
}

// UnfinishedPrefix precedes the name of what is not whole.
const UnfinishedPrefix = ".unfinished-"

// writers is how many processes may write the same file at the same time.
const writers = 16

// Unfinished is where a file is written until it is whole: by the first process,
// where several write it.
func Unfinished(name string) string { return unfinished(name, 0) }

func unfinished(name string, writer int) string {
	prefix := UnfinishedPrefix
	if writer > 0 {
		prefix = fmt.Sprintf(".unfinished%d-", writer+1)
	}
	return filepath.Join(filepath.Dir(name), prefix+filepath.Base(name))
}

// New begins a file that will take the place of the one that a user names: where
// a link leads, if it is one. Only files are replaced: a rename would put one
// where a device or a pipe was.
func New(name string) (*File, error) {
	if name == "" {
		return nil, errors.New("an empty name, want that of a file")
	}
	info, err := os.Stat(name)
	if err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is %s, want the name of a file", name, Kind(info.Mode()))
	}
	if end, err := filepath.EvalSymlinks(name); err == nil {
		name = end
	}
	return begin(name)
}

// begin makes the unfinished file of a name, and removes those that dead
// processes left.
func begin(name string) (*File, error) {
	for writer := range writers {
		tmp := unfinished(name, writer)
		for {
			At("create", tmp)
			f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
			if errors.Is(err, fs.ErrExist) {
				if gone, err := clean(tmp); gone && err == nil {
					continue
				}
				break // another process writes here, or this is none of ours
			}
			if err != nil {
				return nil, err
			}
			free, err := lock(f)
			if err != nil && !errors.Is(err, errors.ErrUnsupported) {
				return nil, errors.Join(fmt.Errorf("%s: locking: %w", tmp, err), os.Remove(tmp), f.Close())
			}
			// One that cleans may have come between.
			if err != nil || free && same(f, tmp) {
				for other := range writers {
					if other != writer {
						clean(unfinished(name, other)) // what is left does no harm
					}
				}
				return &File{f: f, b: bufio.NewWriterSize(watched{f}, 1<<16), name: name}, nil
			}
			f.Close()
		}
	}
	return nil, fmt.Errorf("%s: %d processes are writing it; see %s beside it", name, writers, UnfinishedPrefix+filepath.Base(name))
}

// clean removes an unfinished file whose process is dead, and says whether
// there is none. Where the system cannot lock, all processes are taken for dead.
func clean(tmp string) (gone bool, err error) {
	info, err := os.Lstat(tmp)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil || !info.Mode().IsRegular() { // links and the like are none of ours
		return false, err
	}
	f, err := os.Open(tmp)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	free, err := lock(f)
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return false, fmt.Errorf("%s: locking: %w", tmp, err)
	}
	if err == nil && (!free || !same(f, tmp)) {
		return false, nil
	}
	return true, Remove(tmp)
}

// Write is buffered.
func (f *File) Write(b []byte) (int, error) { return f.b.Write(b) }

// Commit makes the file last and puts it in its place.
func (f *File) Commit() error {
	err := f.b.Flush()
	if err == nil {
		At("sync", f.f.Name())
		err = f.f.Sync()
	}
	if err == nil {
		err = Rename(f.f.Name(), f.name)
	}
	if err == nil {
		f.done = true
	}
	return errors.Join(err, f.Close())
}

// Close removes the file, unless it is committed.
func (f *File) Close() error {
	var err error
	if !f.done {
		err = Remove(f.f.Name())
		f.done = true
	}
	if cerr := f.f.Close(); !errors.Is(cerr, os.ErrClosed) {
		err = errors.Join(err, cerr)
	}
	return err
}

// Replace writes a file of a folder of one's own: it appears whole, in place of
// what had its name before, or not at all. A link is replaced, not followed.
// Writes are buffered.
func Replace(name string, write func(w io.Writer) error) error {
	if info, err := os.Lstat(name); err == nil && !info.Mode().IsRegular() && info.Mode()&fs.ModeSymlink == 0 {
		return fmt.Errorf("%s is %s, want a file or nothing there", name, Kind(info.Mode()))
	}
	f, err := begin(name)
	if err != nil {
		return err
	}
	if err := write(f); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Commit()
}

// Clean removes what processes that died in Replace left of the files.
func Clean(names ...string) error {
	for _, name := range names {
		for writer := range writers {
			if _, err := clean(unfinished(name, writer)); err != nil {
				return err
			}
		}
	}
	return nil
}

// Kind names what is no regular file.
func Kind(m fs.FileMode) string {
	switch {
	case m.IsRegular():
		return "a file"
	case m.IsDir():
		return "a folder"
	case m&fs.ModeSymlink != 0:
		return "a link"
	case m&fs.ModeNamedPipe != 0:
		return "a pipe"
	case m&fs.ModeSocket != 0:
		return "a socket"
	}
	return "a device"
}

// Open opens a file to read. What is no file is refused: a pipe would be waited
// for, and a device read, for ever. Taken as they are is what a shell hands over,
// /dev/stdin and /dev/fd/N.
func Open(name string) (*os.File, error) {
	info, err := os.Stat(name)
	if clean := filepath.Clean(name); err == nil && !info.Mode().IsRegular() && clean != "/dev/stdin" && !strings.HasPrefix(clean, "/dev/fd/") {
		return nil, fmt.Errorf("%s is %s, want a file", name, Kind(info.Mode()))
	}
	return os.Open(name)
}
