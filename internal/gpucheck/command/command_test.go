package command

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/internal/fakecuda"
	"github.com/structuredffn/sffn/internal/gpucheck"
	"github.com/structuredffn/sffn/runtime/cuda/driver"
)

// faultEnv names the fault of the driver that child processes find.
const faultEnv = "GPUCHECK_TEST_FAULT"

// TestMain is the command where the tests start it as a child process.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == childArg {
		os.Exit(Run(os.Args[1:], loadFake, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

func loadFake() (*driver.API, error) {
	name := os.Getenv(faultEnv)
	if name == "no driver" {
		return nil, errors.New("no driver")
	}
	fault, ok := faults[name]
	if !ok {
		return nil, fmt.Errorf("%s=%s: there is no such fault", faultEnv, name)
	}
	fake := fakecuda.New()
	fault(fake)
	return fake.API(), nil
}

// environment is that of children whose driver has a fault.
func environment(fault string) []string { return append(os.Environ(), faultEnv+"="+fault) }

// run runs the command, whose children find a fake driver with a fault, and
// returns its exit code, what it prints and the report that it leaves.
func run(t *testing.T, fault string, args ...string) (code int, stdout, stderr string, r *gpucheck.Report) {
	t.Helper()
	dir := t.TempDir()
	var out, errs bytes.Buffer
	code = parent(append([]string{"-out", dir}, args...), environment(fault), &out, &errs)
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
	code, page, log, r := run(t, "", small...)
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
	code, page, log, r := run(t, "", append([]string{"-python", python(`echo '{"torch": "9.9", "device": "fake"}'
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
		code, page, _, r := run(t, "", append([]string{"-python", python(script)}, args...)...)
		if code != good || !strings.Contains(page, want) || r.Products[0].Torch != 0 {
			t.Errorf("%s: exit code %d\n%s", script, code, page)
		}
	}
	if code, page, _, _ := run(t, "", append([]string{"-python", "no/such/python"}, args...)...); code != good || !strings.Contains(page, "no/such/python") {
		t.Errorf("exit code %d\n%s", code, page)
	}
}

// What keeps it from running is one line, and leaves nothing.
func TestErrors(t *testing.T) {
	for _, c := range []struct {
		fault string
		args  []string
		code  int
		want  string
	}{
		{"no driver", nil, failed, "gpucheck: no driver\n"},
		{"no device", nil, failed, "gpucheck: the CUDA driver finds no device\n"},
		{"", []string{"-device", "7"}, failed, "device 7"},
		{"", []string{"-device", "foo"}, usage, `gpucheck: -device: device "foo": want a number from 0`},
		{"", []string{"kernels", "-steps", "-3"}, usage, "-steps -3: want 2 to 1000000"},
		{"", []string{"-steps", "1"}, usage, "gpucheck: -steps 1: want 2 to 1000000, or 0 for as many as usual\n"},
		{"", []string{"-repeats", "-1"}, usage, "gpucheck: -repeats -1: want 1 to 10000, or 0 for as many as usual\n"},
		{"", []string{"-rows", "17,1000000000"}, usage, `-rows: "1000000000", want whole numbers of 1 to 131072`},
		{"", []string{"-contexts", "999999"}, usage, `-contexts: "999999", want whole numbers of 1 to 131072`},
		{"", []string{"-trained", ""}, usage, "for flag -trained: want values with commas between them, and nothing empty"},
		{"", []string{"-limit", "1ms"}, usage, "-limit 1ms: want 1s or more"},
		{"", []string{"-part-limit", "-1s"}, usage, "-part-limit -1s: want 0 or more"},
		{"", []string{"kernels", "memory", "-quick"}, usage, `gpucheck: unknown part "memory"; there are device`},
		{"", []string{"-no-such-flag"}, usage, "flag provided but not defined: -no-such-flag"},
		{"", []string{"-h"}, good, "usage: gpucheck [flags] [part ...]"},
	} {
		code, page, log, r := run(t, c.fault, c.args...)
		if code != c.code || !strings.Contains(log, c.want) || page != "" || r != nil {
			t.Errorf("%v: exit code %d, want %d and %q\n%s%s", c.args, code, c.code, c.want, log, page)
		}
		if c.code == failed && strings.Count(log, "\n") != 1 {
			t.Errorf("%v: more than a line\n%s", c.args, log)
		}
	}
}
