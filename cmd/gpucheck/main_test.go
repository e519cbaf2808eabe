package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// maxSize is what can be carried to a machine with a GPU at once.
const maxSize = 60 << 20

// The program in an empty folder, without Go, the repository, a driver or an
// environment: one clear line, and exit code 1.
func TestBare(t *testing.T) {
	dir := t.TempDir()
	bin := filepath.Join(dir, "gpucheck")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	info, err := os.Stat(bin)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > maxSize {
		t.Errorf("the program has %d bytes, want at most %d", info.Size(), maxSize)
	}
	t.Logf("%d bytes", info.Size())
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"device"}, 1, "gpucheck: no CUDA driver"},
		{[]string{"speed", "-quick"}, 1, "gpucheck: SFFN_CUDA_DRIVER="},
		{[]string{"memory"}, 2, `gpucheck: unknown part "memory"; there are device, kernels, golden, train, decode, speed, models`},
		{[]string{"-rows", "0"}, 2, `gpucheck: -rows: "0", want whole numbers of 1 to `},
		{[]string{"-kernels", "gpt9"}, 2, "gpt9"},
		{[]string{"-match", "("}, 2, "gpucheck: -match: "},
		{[]string{"-steps", "1"}, 2, "gpucheck: -steps 1: want 2 to "},
	} {
		cmd := exec.Command(bin, c.args...)
		cmd.Dir, cmd.Env = t.TempDir(), []string{"SFFN_CUDA_DRIVER=" + filepath.Join(dir, "no-driver.so")}
		search := c.args[0] == "device"
		if search {
			cmd.Env = []string{} // the search of a machine that may have one
		}
		var errs bytes.Buffer
		cmd.Stderr = &errs
		err := cmd.Run()
		if search && err == nil {
			continue // this machine has a GPU
		}
		text := errs.String()
		if cmd.ProcessState.ExitCode() != c.code || !strings.Contains(text, c.want) || c.code == 1 && strings.Count(text, "\n") != 1 {
			t.Errorf("gpucheck %v: exit code %d, want %d and %q\n%s", c.args, cmd.ProcessState.ExitCode(), c.code, c.want, text)
		}
		if left, err := os.ReadDir(cmd.Dir); err != nil || len(left) > 0 {
			t.Errorf("gpucheck %v left %v, %v", c.args, left, err)
		}
	}
}
