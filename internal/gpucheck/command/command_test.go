package command

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

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
var small = []string{"-kernels", "tiny", "-trained", "tiny", "-timed", "tiny", "-rows", "1,17,129", "-timed-rows", "16,65", "-contexts", "24", "-steps", "2", "-repeats", "1", "-python", "none"}

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

// What is interrupted leaves what it had, and says so.
func TestInterrupted(t *testing.T) {
	fake, launches := fakecuda.New(), 0
	fake.TamperLaunch = func(string, *[3]int) {
		if launches++; launches == 20 {
			syscall.Kill(os.Getpid(), syscall.SIGTERM)
			time.Sleep(50 * time.Millisecond) // it is delivered meanwhile; later is as well
		}
	}
	code, page, log, r := run(t, fake, append(small, "kernels", "decode")...)
	if code != 128+int(syscall.SIGTERM) || r == nil || r.Complete || r.Passed || !strings.Contains(log, "gpucheck: terminated: ends with the launch at work") {
		t.Fatalf("exit code %d\n%s\n%s", code, page, log)
	}
	if len(r.Kernels) == 0 || len(r.Parts) != 2 || r.Parts[0].Verdict != gpucheck.Cut || r.Parts[1].Verdict != gpucheck.Cut {
		t.Errorf("%d kernels, parts %+v\n%s", len(r.Kernels), r.Parts, page)
	}
	if !strings.HasPrefix(page, "# gpucheck: cut short on PTX interpreter\n") {
		t.Error(page)
	}
}

// Times of torch.matmul stand beside those of the products of the same shape, of
// any Python that answers; one that does not is a note.
func TestTorch(t *testing.T) {
	python := func(script string) string {
		t.Helper()
		name := filepath.Join(t.TempDir(), "python")
		if err := os.WriteFile(name, []byte("#!/bin/sh\n"+script), 0o777); err != nil {
			t.Fatal(err)
		}
		return name
	}
	args := []string{"-kernels", "golden-dense", "-match", "gemm_bf16", "-timed-rows", "16,65", "-repeats", "1", "speed"}
	code, page, log, r := run(t, fakecuda.New(), append([]string{"-python", python(`echo '{"torch": "9.9", "device": "fake"}'
while read line; do echo "$line" >>"$0.asked"; echo 125000.5; done
`)}, args...)...)
	if code != good || len(r.Products) < 10 {
		t.Fatalf("exit code %d, %d products\n%s\n%s", code, len(r.Products), page, log)
	}
	for _, p := range r.Products {
		if p.Torch != 125000.5 || p.Ratio != p.Torch/p.Time.Median {
			t.Errorf("%+v", p)
		}
	}
	if !strings.Contains(page, "torch 9.9 on fake") || !strings.Contains(page, "Farthest behind torch.matmul") {
		t.Error(page)
	}
	for script, want := range map[string]string{
		"echo 'ModuleNotFoundError: no torch' >&2; exit 1":                     "torch.matmul was not timed: ",
		`echo '{"torch": "9.9", "device": "fake"}'; read line; echo "no time"`: "torch.matmul was not timed: ",
	} {
		code, page, _, r := run(t, fakecuda.New(), append([]string{"-python", python(script)}, args...)...)
		if code != good || !strings.Contains(page, want) || r.Products[0].Torch != 0 {
			t.Errorf("%s: exit code %d\n%s", script, code, page)
		}
	}
	if code, page, _, _ := run(t, fakecuda.New(), append([]string{"-python", "no/such/python"}, args...)...); code != good || !strings.Contains(page, "no/such/python") {
		t.Errorf("exit code %d\n%s", code, page)
	}
}

// What keeps it from running is one line, and leaves nothing.
func TestErrors(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	absent := fakecuda.New()
	absent.Absent = true
	for _, c := range []struct {
		load func() (*driver.API, error)
		args []string
		code int
		want string
	}{
		{func() (*driver.API, error) { return nil, errors.New("no driver") }, nil, failed, "gpucheck: no driver\n"},
		{func() (*driver.API, error) { return absent.API(), nil }, nil, failed, "gpucheck: the CUDA driver finds no device\n"},
		{func() (*driver.API, error) { return fakecuda.New().API(), nil }, []string{"-device", "7"}, failed, "device 7"},
		{func() (*driver.API, error) { return fakecuda.New().API(), nil }, []string{"-match", "nothing", "kernels"}, failed, "no kernel is to be checked"},
		{nil, []string{"-steps", "-3"}, usage, "-steps: want 2 or more"},
		{nil, []string{"-no-such-flag"}, usage, "flag provided but not defined: -no-such-flag"},
		{nil, []string{"-h"}, good, "usage: gpucheck [flags] [part ...]"},
	} {
		var out, errs bytes.Buffer
		if code := Run(append([]string{"-out", dir}, c.args...), c.load, &out, &errs); code != c.code || !strings.Contains(errs.String(), c.want) {
			t.Errorf("%v: exit code %d, want %d and %q\n%s", c.args, code, c.code, c.want, errs.String())
		}
	}
}
