package pending

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A file that is replaced has the permissions of one that is made, whichever way
// it is written.
func TestPermissions(t *testing.T) {
	dir := t.TempDir()
	plain, whole, begun := filepath.Join(dir, "plain"), filepath.Join(dir, "whole"), filepath.Join(dir, "begun")
	if err := os.WriteFile(plain, nil, permissions); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := WriteFile(whole, []byte("text")); err != nil {
			t.Fatal(err)
		}
		f, err := New(begun)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprint(f, "text"); err != nil {
			t.Fatal(err)
		}
		if err := f.CloseAtomicallyReplace(); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.Stat(plain)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{whole, begun} {
		got, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if got.Mode() != want.Mode() || got.Size() != 4 {
			t.Errorf("%s has %v and %d bytes, want %v and 4", name, got.Mode(), got.Size(), want.Mode())
		}
	}
}

// What is no file stays what it is.
func TestNoFile(t *testing.T) {
	dir := t.TempDir()
	_, err := New(dir)
	if err == nil || !strings.Contains(err.Error(), "is a folder, want the name of a file") {
		t.Errorf("a folder: %v", err)
	}
	if err := WriteFile(dir, nil); err == nil {
		t.Error("a folder is written")
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	for name, want := range map[string]string{fmt.Sprintf("/dev/fd/%d", w.Fd()): "is a pipe", os.DevNull: "is a device"} {
		if _, err := os.Stat(name); err != nil {
			continue // a system without such names
		}
		if _, err := New(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want it to say %q", name, err, want)
		}
	}
}

// A link stays one: what it leads to is replaced.
func TestLink(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := os.WriteFile(file, []byte("old"), permissions); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(link, []byte("new")); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "new" {
		t.Errorf("the file has %q, %v", text, err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode().IsRegular() {
		t.Errorf("the link is %v, %v", info, err)
	}
	if _, err := New(""); err == nil {
		t.Error("an empty name is taken")
	}
}
