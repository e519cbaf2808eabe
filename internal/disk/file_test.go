package disk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// With dieEnv the test binary is another process, which writes a file of that
// name and is killed before it takes its place.
const dieEnv = "SFFN_TEST_DIE"

func TestMain(m *testing.M) {
	name := os.Getenv(dieEnv)
	if name == "" {
		os.Exit(m.Run())
	}
	Before = func(op, _ string) {
		if op != "rename" {
			return
		}
		if self, err := os.FindProcess(os.Getpid()); err == nil {
			self.Kill()
		}
		select {} // until the signal is here
	}
	fmt.Fprintln(os.Stderr, put(name, strings.Repeat("never ", 1<<16)))
	os.Exit(1)
}

// put writes a file that a user named.
func put(name, text string) error {
	f, err := New(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.WriteString(f, text); err != nil {
		return err
	}
	return f.Commit()
}

// replace writes one of a folder of one's own.
func replace(name, text string) error {
	return Replace(name, func(w io.Writer) error {
		_, err := io.WriteString(w, text)
		return err
	})
}

func die(t *testing.T, name string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), dieEnv+"="+name)
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() == 1 {
		t.Fatalf("the process was to be killed: %v\n%s", err, out)
	}
}

// has compares the names in a folder.
func has(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if !slices.Equal(got, want) {
		t.Errorf("the folder has %q, want %q", got, want)
	}
}

func reads(t *testing.T, name, want string) {
	t.Helper()
	if b, err := os.ReadFile(name); err != nil || string(b) != want {
		t.Errorf("%s has %.100q, %v, want %q", name, b, err, want)
	}
}

// What killed processes left is gone once the same file is written again, in
// either way, or cleaned up.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "a")
	for i, again := range []func() error{
		func() error { return put(name, "whole") },
		func() error { return replace(name, "whole") },
		func() error { return Clean(name) },
	} {
		var whole []string
		if i > 0 {
			whole = []string{"a"}
		}
		die(t, name)
		has(t, dir, append([]string{".unfinished-a"}, whole...)...)
		living, err := New(name) // takes the place of the dead one
		if err != nil {
			t.Fatal(err)
		}
		die(t, name) // in the second place
		has(t, dir, append([]string{".unfinished-a", ".unfinished2-a"}, whole...)...)
		if err := living.Close(); err != nil {
			t.Fatal(err)
		}
		has(t, dir, append([]string{".unfinished2-a"}, whole...)...)
		if err := again(); err != nil {
			t.Fatal(err)
		}
		has(t, dir, "a")
	}
	reads(t, name, "whole")
}

// Processes that write the same file at the same time do not disturb each other.
func TestTogether(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "a")
	var files []*File
	for i := range writers {
		f, err := New(name)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(f, i)
		files = append(files, f)
	}
	if _, err := New(name); err == nil || !strings.Contains(err.Error(), "16 processes are writing it") {
		t.Errorf("one more: %v", err)
	}
	if err := Clean(name); err != nil {
		t.Error(err)
	}
	for i, f := range files {
		if err := f.Commit(); err != nil {
			t.Fatal(err)
		}
		reads(t, name, fmt.Sprint(i))
	}
	has(t, dir, "a")
}

// A file that cannot be written leaves the one before, and nothing else.
func TestFailed(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "a")
	if err := replace(name, "one"); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	err := Replace(name, func(w io.Writer) error {
		io.WriteString(w, strings.Repeat("two", 1<<16))
		return broken
	})
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	f, err := New(name)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(f, "three")
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	reads(t, name, "one")
	has(t, dir, "a")
}

// A file that is replaced has the permissions of one that is made, whichever way
// it is written.
func TestPermissions(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	want, err := os.Stat(plain)
	if err != nil {
		t.Fatal(err)
	}
	for way, write := range map[string]func(string, string) error{"put": put, "replace": replace} {
		name := filepath.Join(dir, way)
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := write(name, "text"); err != nil {
				t.Fatal(err)
			}
			got, err := os.Stat(name)
			if err != nil {
				t.Fatal(err)
			}
			if got.Mode() != want.Mode() || got.Size() != 4 {
				t.Errorf("%s has %v and %d bytes, want %v and 4", name, got.Mode(), got.Size(), want.Mode())
			}
		}
	}
}

// What is no file stays what it is.
func TestNoFile(t *testing.T) {
	dir := t.TempDir()
	for way, write := range map[string]func(string, string) error{"put": put, "replace": replace} {
		if err := write(dir, ""); err == nil || !strings.Contains(err.Error(), "is a folder, want") {
			t.Errorf("%s: a folder: %v", way, err)
		}
		if err := write("", ""); err == nil {
			t.Errorf("%s: an empty name is taken", way)
		}
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

// A link that a user names stays one: what it leads to is replaced. In a folder
// of one's own nothing is written through one, whatever it is called.
func TestLink(t *testing.T) {
	dir, own := t.TempDir(), t.TempDir()
	file, link := filepath.Join(dir, "file"), filepath.Join(own, "link")
	if err := os.WriteFile(file, []byte("old"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	if err := put(link, "new"); err != nil {
		t.Fatal(err)
	}
	reads(t, file, "new")
	if info, err := os.Lstat(link); err != nil || info.Mode().IsRegular() {
		t.Errorf("the link is %v, %v", info, err)
	}
	// The names of unfinished files: a link, and another name of a file, which a
	// writer may remove and not overwrite.
	if err := os.Symlink(file, filepath.Join(own, ".unfinished-link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(file, filepath.Join(own, ".unfinished2-link")); err != nil {
		t.Fatal(err)
	}
	if err := replace(link, "own"); err != nil {
		t.Fatal(err)
	}
	reads(t, link, "own")
	reads(t, file, "new")
	has(t, own, ".unfinished-link", "link")
	has(t, dir, "file")
}
