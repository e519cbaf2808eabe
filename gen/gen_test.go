package gen

import (
	"bytes"
	"flag"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/gen/cuda"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/gen/specfile"
	"github.com/structuredffn/sffn/runtime/kernel"
)

var update = flag.Bool("update", false, "write generated/anyshape and testdata")

// TestAnyShapeFresh holds the committed any-shape kernels to their emitters.
func TestAnyShapeFresh(t *testing.T) {
	files, err := AnyShape().Files()
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

// A package for GPUs alone has nothing for CPUs, and needs no toolkit where its
// kernels are fresh: the committed ones are what is written.
func TestGPUPackage(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv(cuda.EnvHome, "")
	for _, name := range []string{"gpt2m", "gpt2l"} {
		var models []spec.Model
		for _, shape := range specfile.GPUShapes(name) {
			m, err := specfile.Load(shape)
			if err != nil {
				t.Fatal(err)
			}
			models = append(models, m)
		}
		p := Of(name, models...)
		p.ISAs, p.Dir = []kernel.ISA{CUDA}, filepath.Join("..", "generated", name)
		files, err := p.Files()
		if err != nil {
			t.Fatal(err)
		}
		changed, err := Diff(p.Dir, files)
		if err != nil {
			t.Fatal(err)
		}
		if len(changed) > 0 {
			t.Errorf("%s: stale files %v: run make generate", name, changed)
		}
		for _, f := range files {
			if strings.HasSuffix(f.Name, "_test.go") || strings.Contains(f.Name, "amd64") || bytes.Contains(f.Data, []byte("func New")) {
				t.Errorf("%s: %s is for CPUs", name, f.Name)
			}
		}
		if !slices.ContainsFunc(files, func(f File) bool { return f.Name == "z_ffn.go" && bytes.Contains(f.Data, []byte("var SpecDense =")) }) {
			t.Errorf("%s has no specs of its networks", name)
		}
	}
}
