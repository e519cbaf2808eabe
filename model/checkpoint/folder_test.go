package checkpoint

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
}

// What others put into a run's folder is no checkpoint, and stays.
func TestForeign(t *testing.T) {
	run := t.TempDir()
	first := save(t, run, 1, 2)
	if err := os.CopyFS(first+"-best", os.DirFS(first)); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(run, "step-9"), os.DirFS(first)); err != nil {
		t.Fatal(err)
	}
	foreign := []string{
		"step-notes/notes.txt", "step-00000001-best/state.json", "step-00000077/mine.txt", "step-00000002/notes.txt", "step-9/state.json",
		".unfinished-ideas/a.txt", ".replaced-ideas/a.txt", "step-00000008",
	}
	for _, name := range []string{unfinished + "crossover.json", ".crossover.json4321"} { // what processes left that were killed
		write(t, filepath.Join(first, name), "{")
	}
	for step := 2; step <= 5; step++ {
		save(t, run, step, 2)
		for _, name := range foreign {
			if _, err := os.Stat(filepath.Join(run, name)); err != nil {
				write(t, filepath.Join(run, name), "mine")
				if step > 2 {
					t.Errorf("step %d: %s was removed", step, name)
				}
			}
		}
		if at, err := Find(run); err != nil || filepath.Base(at) != stepName(step) {
			t.Errorf("step %d: the newest is %s, %v", step, at, err)
		}
	}
	all, err := list(run)
	if want := []string{filepath.Join(run, stepName(4)), filepath.Join(run, stepName(5))}; err != nil || !slices.Equal(all, want) {
		t.Errorf("kept %v, %v, want %v", all, err, want)
	}
	if _, err := os.Stat(first); err == nil {
		t.Errorf("%s is still there", first)
	}
	// Of a checkpoint with something else in it, that is left.
	entries, err := os.ReadDir(filepath.Join(run, stepName(2)))
	if err != nil || len(entries) != 1 {
		t.Errorf("left of step 2: %v, %v", entries, err)
	}
}

// Checkpoints go by number, however many digits it has.
func TestManySteps(t *testing.T) {
	run := t.TempDir()
	for _, step := range []int{99_999_999, 100_000_000, 100_000_001} {
		want := save(t, run, step, 2)
		if at, err := Find(run); err != nil || at != want {
			t.Errorf("found %s, %v, want %s", at, err, want)
		}
	}
	if all, err := list(run); err != nil || len(all) != 2 {
		t.Errorf("kept %v, %v", all, err)
	}
}

// A checkpoint that a killed process moved out of its successor's way is found.
func TestReplaced(t *testing.T) {
	run := t.TempDir()
	save(t, run, 2, 2)
	dir := save(t, run, 3, 2)
	if err := os.Rename(dir, filepath.Join(run, replaced+stepName(3))); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(run, unfinished+stepName(3), stateFile), "{")
	at, err := Find(run)
	if err != nil {
		t.Fatal(err)
	}
	if _, s, err := Describe(at); err != nil || s.Step != 3 {
		t.Errorf("%s: step %d, %v", at, s.Step, err)
	}
	if err := Recover(run); err != nil {
		t.Fatal(err)
	}
	if at, err := Find(run); err != nil || at != dir {
		t.Errorf("found %s, %v, want %s", at, err, dir)
	}
	if entries, err := os.ReadDir(run); err != nil || len(entries) != 2 {
		t.Errorf("%v, %v", entries, err)
	}
	// Where the successor is there, the replaced one goes.
	if err := os.CopyFS(filepath.Join(run, replaced+stepName(3)), os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	save(t, run, 4, 2)
	if entries, err := os.ReadDir(run); err != nil || len(entries) != 2 {
		t.Errorf("%v, %v", entries, err)
	}
}

// files lists what is below a folder, with its size.
func files(t *testing.T, dir string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		text, err := os.ReadFile(name)
		all = append(all, name+": "+string(text))
		if e.IsDir() {
			return nil
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// A checkpoint that a link leads to is read, and neither changed nor removed: not
// when it is the oldest, nor when the same step is saved again.
func TestLinks(t *testing.T) {
	run, elsewhere := t.TempDir(), t.TempDir()
	for _, step := range []int{1, 5} {
		dir := save(t, run, step, 9)
		moved := filepath.Join(elsewhere, stepName(step))
		if err := os.CopyFS(moved, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(moved, dir); err != nil {
			t.Fatal(err)
		}
	}
	before := files(t, elsewhere)
	at, err := Find(run)
	if err != nil || at != filepath.Join(run, stepName(5)) {
		t.Fatalf("found %s, %v, want the link of step 5", at, err)
	}
	if _, s, err := Describe(at); err != nil || s.Step != 5 {
		t.Errorf("step %d, %v", s.Step, err)
	}
	for step := 3; step <= 7; step++ {
		if dir := save(t, run, step, 1); isLink(dir) {
			t.Errorf("step %d is written through a link", step)
		}
	}
	if after := files(t, elsewhere); !slices.Equal(after, before) {
		t.Errorf("elsewhere there is\n%q, want\n%q", after, before)
	}
	entries, err := os.ReadDir(run)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if want := []string{stepName(1), stepName(5) + "-left-1", stepName(7)}; err != nil || !slices.Equal(names, want) {
		t.Errorf("the run has %q, %v, want %q", names, err, want)
	}
}

// A link or file where a checkpoint is written, or moved out of the way, is an error
// that names it, before anything is changed.
func TestInTheWay(t *testing.T) {
	run, elsewhere := t.TempDir(), t.TempDir()
	write(t, filepath.Join(elsewhere, stateFile), "mine")
	before := files(t, elsewhere)
	for _, prefix := range []string{unfinished, replaced} {
		name := filepath.Join(run, prefix+stepName(3))
		if err := os.Symlink(elsewhere, name); err != nil {
			t.Fatal(err)
		}
		if err := Recover(run); err == nil || !strings.HasPrefix(err.Error(), name+" is a link, where sffn keeps a checkpoint for a while") {
			t.Errorf("%s: %v", prefix, err)
		}
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		write(t, name, "mine")
		if err := Recover(run); err == nil || !strings.HasPrefix(err.Error(), name+" is a file") {
			t.Errorf("%s: %v", prefix, err)
		}
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	if after := files(t, elsewhere); !slices.Equal(after, before) {
		t.Errorf("elsewhere there is\n%q, want\n%q", after, before)
	}
}
