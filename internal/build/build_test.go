package build

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/structuredffn/sffn/gen/specfile"
)

// A module is written into a new folder, again into its own, and into no other
// person's. The scripts of sffn build what it describes.
func TestModule(t *testing.T) {
	c, err := specfile.Source("demo")
	if err != nil {
		t.Fatal(err)
	}
	p := Program{Configs: [][]byte{c, c}, Dir: filepath.Join(t.TempDir(), "module")}
	if p.Source, err = source(""); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if files, err := p.writeModule(); err != nil || len(files) != 2 || files[1] != "config1.yaml" {
			t.Fatalf("%v, %v", files, err)
		}
	}
	if text, err := os.ReadFile(filepath.Join(p.Dir, "config1.yaml")); err != nil || string(text) != string(c) {
		t.Errorf("the configuration is %q, %v", text, err)
	}
	other := filepath.Join(t.TempDir(), "notes.txt")
	if err := os.WriteFile(other, []byte("mine"), 0o666); err != nil {
		t.Fatal(err)
	}
	p.Dir = filepath.Dir(other)
	taken := (*OccupiedError)(nil)
	if _, err := p.writeModule(); !errors.As(err, &taken) || taken.Dir != p.Dir {
		t.Errorf("somebody else's folder: %v", err)
	}
	if entries, err := os.ReadDir(p.Dir); err != nil || len(entries) != 1 {
		t.Errorf("it holds %v now, %v", entries, err)
	}
}
