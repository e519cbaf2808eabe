package disk

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// LockFile is there while a process holds a folder, or after one that was
// killed.
const LockFile = ".lock"

// Lock is the hold of a folder.
type Lock struct{ f *os.File }

// holder is what the file says of who holds the folder.
type holder struct {
	PID   int       `json:"pid"`
	Host  string    `json:"host"`
	Since time.Time `json:"since"`
}

// Held says that another process holds a folder.
type Held struct {
	Dir string
	// Holder names it: its number, host, and since when.
	Holder string
}

func (h *Held) Error() string {
	return fmt.Sprintf("%s is in use by %s; wait for it, end it, or choose another folder", h.Dir, h.Holder)
}

// Hold locks a folder against other processes, and other holders in this one. The
// system lets go of it when the process ends, however that comes about. Where the
// system cannot lock, the error is an [errors.ErrUnsupported]. What has the name of
// the lock's file and is none, such as a link to another one, is an error, and
// stays as it is.
func Hold(dir string) (*Lock, error) {
	name := filepath.Join(dir, LockFile)
	for {
		if info, err := os.Lstat(name); err == nil && !info.Mode().IsRegular() {
			return nil, fmt.Errorf("%s is %s, where sffn writes who uses the folder; move it away", name, Kind(info.Mode()))
		}
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|NoFollow, 0o666)
		if err != nil {
			return nil, err
		}
		free, err := lock(f)
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("%s: locking: %w", name, err)
		}
		if !free {
			err := &Held{dir, describe(f)}
			f.Close()
			return nil, err
		}
		// The one before may have removed the file since it was opened.
		if same(f, name) {
			if !isOurs(f) {
				f.Close()
				return nil, fmt.Errorf("%s: another program's file, where sffn writes who uses the folder; move it away", name)
			}
			l := &Lock{f}
			if err := l.sign(); err != nil {
				l.Release()
				return nil, err
			}
			return l, nil
		}
		f.Close()
	}
}

func same(f *os.File, name string) bool {
	mine, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(name)
	return err == nil && os.SameFile(mine, there)
}

// isOurs says that a file is new, or was signed by a holder.
func isOurs(f *os.File) bool {
	signed := []byte(`{"pid":`)
	b := make([]byte, len(signed))
	n, err := f.ReadAt(b, 0)
	return n == 0 && errors.Is(err, io.EOF) || bytes.Equal(b[:n], signed)
}

// sign writes who holds the folder.
func (l *Lock) sign() error {
	host, _ := os.Hostname() // one without a name is no reason to stop
	b, err := json.Marshal(holder{os.Getpid(), host, time.Now().Round(time.Second)})
	if err != nil {
		return err
	}
	_, err = l.f.WriteAt(append(b, '\n'), 0)
	return errors.Join(l.f.Truncate(int64(len(b)+1)), err)
}

// describe reads what the holder wrote, which it may not have done yet.
func describe(f *os.File) string {
	b := make([]byte, 4096)
	n, _ := f.ReadAt(b, 0)
	var h holder
	if json.Unmarshal(b[:n], &h) != nil || h.PID == 0 {
		return "another process"
	}
	return fmt.Sprintf("process %d on %s, since %s", h.PID, h.Host, h.Since.Local().Format("2006-01-02 15:04:05"))
}

// Release lets go of the folder. A nil Lock holds none.
func (l *Lock) Release() {
	if l == nil {
		return
	}
	if same(l.f, l.f.Name()) { // nobody else's
		os.Remove(l.f.Name()) // left behind, it does no harm
	}
	l.f.Close()
}
