package checkpoint

import (
	"os"
	"path/filepath"
	"slices"
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
