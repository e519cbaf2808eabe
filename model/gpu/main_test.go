package gpu

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	gencuda "github.com/structuredffn/sffn/gen/cuda"
	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/internal/fakecuda"
	"github.com/structuredffn/sffn/internal/goldenkernels"
	"github.com/structuredffn/sffn/runtime/cuda"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

var update = flag.Bool("update", false, "compile the kernels of golden models again; needs the CUDA toolkit")

// kernelsDir holds the kernels of models, which [goldenkernels] embeds.
var (
	kernelsDir = filepath.Join("..", "..", "internal", "goldenkernels", "models")
	models     = goldenkernels.Models
)

func TestMain(m *testing.M) {
	flag.Parse()
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// prepare registers the kernels of the models, which must be fresh, and compiles
// them before with -update.
func prepare() error {
	ks, err := testKernels()
	if err != nil {
		return err
	}
	files, err := gencuda.Sources(ks)
	if err != nil {
		return err
	}
	if *update {
		if files, err = gencuda.Proven(kernelsDir, ks); err != nil {
			return err
		}
		for name, data := range files {
			if name == gencuda.Manifest || name == gencuda.Rows || strings.HasSuffix(name, gencuda.PTX) {
				if err := os.WriteFile(filepath.Join(kernelsDir, name), data, 0o644); err != nil {
					return err
				}
			}
		}
	} else if err := gencuda.Fresh(kernelsDir, files, gencuda.PTX); err != nil {
		return fmt.Errorf("%w\nrun go test ./model/gpu -update with the CUDA toolkit", err)
	}
	cuda.Register(os.DirFS(kernelsDir))
	return nil
}

// testKernels are those of all models, and of the networks that the tests of
// single ones use.
func testKernels() ([]gpu.Kernel, error) {
	var ks []gpu.Kernel
	for _, name := range models {
		c, err := goldenkernels.Config(name)
		if err != nil {
			return nil, err
		}
		p, err := newPlans(c.Model)
		if err != nil {
			return nil, err
		}
		ks = append(append(ks, p.Model.Kernels()...), p.Passes.Kernels()...)
	}
	return gpu.Unique(ks), nil
}

// open opens a fake device and demands that nothing is left of it at the end.
func open(t *testing.T) (*cuda.Device, *fakecuda.Device) {
	t.Helper()
	fake := fakecuda.New()
	d, err := cuda.Open(fake.API(), "")
	must(t, err)
	t.Cleanup(func() {
		must(t, d.Close())
		if left := fake.Left(); left != "" {
			t.Error(left)
		}
	})
	return d, fake
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Every family of kernels is compared with the CPU's before anybody uses it, and
// what computes something else is refused.
func TestSelfTest(t *testing.T) {
	planned, err := testKernels()
	must(t, err)
	ks := gpu.Rows(planned)
	d, _ := open(t)
	must(t, d.Load(ks))
	byTemplate := map[table.Role][]table.Kernel{}
	for _, k := range ks {
		byTemplate[k.Role] = append(byTemplate[k.Role], k)
	}
	files, err := filepath.Glob("../../templates/*.cu.tmpl")
	must(t, err)
	for _, f := range files {
		name := filepath.Base(f)
		name = name[:len(name)-len(".cu.tmpl")]
		of := byTemplate[table.Role(name)]
		if name == "epilogue" { // a part of others
			continue
		}
		if len(of) == 0 {
			t.Errorf("no model has a kernel of %s", name)
			continue
		}
		changeAll(t, of[0])
		changeAll(t, of[len(of)-1])
	}
}

// changeAll makes each change of a kernel's text that has something to change.
func changeAll(t *testing.T, k table.Kernel) {
	t.Helper()
	noticed := 0
	for _, c := range tampers {
		fake := fakecuda.New()
		changed := false
		fake.Tamper = func(ptx string) string {
			s := c.ReplaceAllString(ptx, c.to)
			changed = s != ptx
			return s
		}
		d, err := cuda.Open(fake.API(), "")
		must(t, err)
		if err = d.Load([]table.Kernel{k}); changed && err != nil {
			noticed++
		} else if changed {
			t.Errorf("%s: %s for %s is not noticed", k.Name, c.to, c)
		}
	}
	if noticed == 0 {
		t.Errorf("%s: no change was noticed", k.Name)
	}
}
