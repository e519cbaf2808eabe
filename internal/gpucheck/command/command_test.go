package command

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/internal/fakecuda"
	"github.com/structuredffn/sffn/internal/gpucheck"
	"github.com/structuredffn/sffn/runtime/cuda/driver"
)

// run runs the command on a fake driver and returns its exit code, what it prints
// and the report that it leaves.
func run(t *testing.T, fake *fakecuda.Device, args ...string) (code int, stdout, stderr string, r *gpucheck.Report) {
	t.Helper()
	dir := t.TempDir()
	var out, errs bytes.Buffer
	code = Run(append([]string{"-out", dir}, args...), func() (*driver.API, error) { return fake.API(), nil }, &out, &errs)
	data, err := os.ReadFile(filepath.Join(dir, "gpucheck.json"))
	if errors.Is(err, os.ErrNotExist) {
		return code, out.String(), errs.String(), nil
	}
	if err != nil {
		t.Fatal(err)
	}
	r = &gpucheck.Report{}
	if err := json.Unmarshal(data, r); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(dir, "gpucheck.md"))
	if err != nil || string(page) != out.String() {
		t.Errorf("the page in the folder is not the one that is printed (%v)", err)
	}
	return code, out.String(), errs.String(), r
}

// small bounds what the interpreter has to do.
var small = []string{"-kernels", "tiny", "-trained", "tiny", "-timed", "tiny", "-rows", "1,17,129", "-timed-rows", "16,65", "-contexts", "24", "-steps", "4", "-repeats", "1", "-python", "none"}

// All parts pass on a device that computes what kernels say, and leave their
// figures.
func TestAll(t *testing.T) {
	code, page, log, r := run(t, fakecuda.New(), small...)
	if code != good || r == nil || !r.Passed || !r.Complete {
		t.Fatalf("exit code %d\n%s\n%s", code, page, log)
	}
	if len(r.Parts) != len(gpucheck.Parts()) {
		t.Errorf("%d parts, want %d", len(r.Parts), len(gpucheck.Parts()))
	}
	for _, p := range r.Parts {
		if p.Checks == 0 || p.Verdict != gpucheck.Passed {
			t.Errorf("%s: %d checks, %s", p.Name, p.Checks, p.Verdict)
		}
		if !strings.Contains(page, "| "+p.Name+" | passed |") {
			t.Errorf("%s is not on the page", p.Name)
		}
	}
	for _, k := range r.Kernels {
		if len(k.Rows) != 3 || k.Problem != "" {
			t.Errorf("%+v", k)
		}
	}
	if len(r.Kernels) < 30 || len(r.Products) < 10 || len(r.Passes) < 10 || len(r.Models) < 6 {
		t.Errorf("%d kernels, %d products, %d passes, %d models", len(r.Kernels), len(r.Products), len(r.Passes), len(r.Models))
	}
	for _, p := range r.Products {
		if p.Time.Median <= 0 || p.TFLOPS <= 0 || p.Time.Buffers < 2 {
			t.Errorf("%+v", p)
		}
	}
	t.Log(page)
	t.Log(log)
}
