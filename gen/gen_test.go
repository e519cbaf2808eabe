package gen

import (
	"flag"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write generated/anyshape and testdata")

// TestAnyShapeFresh holds the committed any-shape kernels to their emitters.
func TestAnyShapeFresh(t *testing.T) {
	files, err := AnyShape()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join("..", "generated", "anyshape")
	if *update {
		if err := Write(dir, files); err != nil {
			t.Fatal(err)
		}
	}
	changed, err := Diff(dir, files)
	if err != nil {
		t.Fatal(err)
	}
	if len(changed) > 0 {
		t.Errorf("stale files %v: run make generate", changed)
	}
}
