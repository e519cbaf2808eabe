package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A folder has one holder, which the others are told; one that is gone leaves
// nothing in the way, whether it could say good-bye or not.
func TestLock(t *testing.T) {
	dir := t.TempDir()
	first, err := Hold(dir)
	if err != nil {
		t.Fatal(err)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("%s is in use by process %d on %s, since 2", dir, os.Getpid(), host)
	var held *Held
	if l, err := Hold(dir); !errors.As(err, &held) || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("held twice: %v, %v; want %q", l, err, want)
	}
	if err := os.WriteFile(filepath.Join(dir, LockFile), []byte("{"), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Hold(dir); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("by one that has not signed: %v", err)
	}
	first.Release()
	first.Release()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left %v, %v", entries, err)
	}
	// As after a kill: the file says a process that does not hold it any more.
	if err := os.WriteFile(filepath.Join(dir, LockFile), []byte(`{"pid":1,"host":"gone","since":"2020-01-01T00:00:00Z"}`+strings.Repeat(" ", 100)), 0o666); err != nil {
		t.Fatal(err)
	}
	second, err := Hold(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Release()
	if _, err := Hold(dir); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("after one that was killed: %v", err)
	}
	if _, err := Hold(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
}

// What has the name of the lock's file and is none is named, and stays as it is.
func TestLockOfOthers(t *testing.T) {
	dir, elsewhere := t.TempDir(), filepath.Join(t.TempDir(), "file")
	name := filepath.Join(dir, LockFile)
	if err := os.WriteFile(elsewhere, []byte("mine"), 0o666); err != nil {
		t.Fatal(err)
	}
	for want, make := range map[string]func() error{
		"is a link, where sffn writes":                    func() error { return os.Symlink(elsewhere, name) },
		"is a folder, where":                              func() error { return os.Mkdir(name, 0o777) },
		": another program's file, where sffn writes who": func() error { return os.Link(elsewhere, name) },
	} {
		if err := make(); err != nil {
			t.Fatal(err)
		}
		if l, err := Hold(dir); err == nil || !strings.HasPrefix(err.Error(), name) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, %v; want it to say %q", l, err, want)
		}
		if err := os.Remove(name); err != nil {
			t.Fatalf("what had its name is gone: %v", err)
		}
		reads(t, elsewhere, "mine")
	}
	// A link that leads nowhere makes no file there.
	nowhere := filepath.Join(filepath.Dir(elsewhere), "nowhere")
	if err := os.Symlink(nowhere, name); err != nil {
		t.Fatal(err)
	}
	if _, err := Hold(dir); err == nil {
		t.Error("a link that leads nowhere is followed")
	}
	if _, err := os.Lstat(nowhere); err == nil {
		t.Error("it has made a file")
	}
}
