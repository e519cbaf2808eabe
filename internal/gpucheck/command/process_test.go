package command

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/structuredffn/sffn/internal/gpucheck"
)

// few are kernels of which columns_bf16 is not the last.
var few = []string{"-kernels", "golden-dense", "-rows", "17", "-match", "^(columns_bf16_(64|192)|sum|norm)", "-limit", "3s"}

// A kernel that loses the context, hangs or ends its process is named, and ends no
// proof of the others, nor another part.
func TestEnded(t *testing.T) {
	for fault, want := range map[string]string{
		"a kernel that loses the context": "CUDA_ERROR_LAUNCH_FAILED",
		"a kernel that hangs":             "17 rows: no sign of life for 3s: its process was ended",
		"a kernel that ends the process":  "17 rows: its process ended: ",
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			code, page, log, r := run(t, fault, append(few, "kernels", "golden", "-golden=false")...)
			if code != failed || !r.Complete || len(r.Parts) != 2 || r.Parts[0].Verdict != gpucheck.Failed || r.Parts[1].Verdict != gpucheck.Nothing {
				t.Fatalf("exit code %d\n%s\n%s", code, page, log)
			}
			wrong, right, last := 0, 0, ""
			for _, k := range r.Kernels {
				switch isWrong := strings.HasPrefix(k.Kernel, "columns_bf16"); {
				case isWrong && strings.Contains(k.Problem, want):
					wrong++
				case !isWrong && k.Problem == "" && len(k.Rows) == 1:
					right++
					last = k.Kernel
				default:
					t.Errorf("%+v", k)
				}
			}
			if _, _, _, all := run(t, "", append(few, "kernels")...); len(all.Kernels) != len(r.Kernels) || last != all.Kernels[len(all.Kernels)-1].Kernel {
				t.Errorf("%d kernels, %d without the fault", len(r.Kernels), len(all.Kernels))
			}
			if wrong != 2 || wrong != len(r.Parts[0].Problems) || r.Parts[0].Checks < right {
				t.Errorf("%d kernels failed, %d went on\n%s", wrong, right, page)
			}
		})
	}
}

// Where it is the last one, nothing is left to go on with.
func TestEndedLast(t *testing.T) {
	t.Parallel()
	code, page, log, r := run(t, "a kernel that loses the context", append(few, "-match", "^columns_bf16_64_", "kernels")...)
	if p := r.Parts[0]; code != failed || !r.Complete || len(r.Kernels) != 1 || p.Checks != 1 || len(p.Problems) != 1 || len(p.Notes) > 0 {
		t.Errorf("exit code %d, %+v\n%s\n%s", code, p, page, log)
	}
}

// A device that runs nothing does not take a process for each of its kernels.
func TestEndedAll(t *testing.T) {
	t.Parallel()
	code, page, log, r := run(t, "every kernel ends the process", "-kernels", "golden-dense", "-rows", "1", "kernels")
	p := r.Parts[0]
	if code != failed || p.Verdict != gpucheck.Failed || len(r.Kernels) != 20 || len(p.Problems) != 21 || !strings.Contains(page, "20 kernels have ended their process; those behind them were not run") {
		t.Errorf("exit code %d, %d kernels, %+v\n%s\n%s", code, len(r.Kernels), p, page, log)
	}
}

// In the other parts, too, such a kernel is named, and the next part runs.
func TestEndedPart(t *testing.T) {
	for fault, want := range map[string]string{
		"a kernel that loses the context": "the device's context is lost; the rest of the part was not run",
		"a kernel that hangs":             "no sign of life for 3s: its process was ended; the rest of the part was not run",
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			code, page, log, r := run(t, fault, append(few, "device", "golden", "-golden=false")...)
			if code != failed || r.Parts[0].Verdict != gpucheck.Failed || r.Parts[1].Verdict != gpucheck.Nothing {
				t.Fatalf("exit code %d\n%s\n%s", code, page, log)
			}
			problems := r.Parts[0].Problems
			if last := problems[len(problems)-1]; !strings.Contains(last, "after the launch of columns_bf16") || !strings.Contains(last, want) {
				t.Errorf("%q", problems)
			}
		})
	}
}

// What is interrupted leaves what it had, and says so, also where something had
// failed, and where a launch does not come back.
func TestInterrupted(t *testing.T) {
	for _, c := range []struct {
		fault   string
		signal  syscall.Signal
		verdict string
		page    string
	}{
		{"interrupted", syscall.SIGTERM, gpucheck.Cut, "cut short"},
		{"interrupted after a mistake", syscall.SIGTERM, gpucheck.Failed, "failed, cut short"},
		{"interrupted while a kernel hangs", syscall.SIGINT, gpucheck.Cut, "cut short"},
	} {
		t.Run(c.fault, func(t *testing.T) {
			code, page, log, r := run(t, c.fault, append(few, "-rows", "17,65,129", "kernels", "decode")...)
			if code != 128+int(c.signal) || r == nil || r.Complete || r.Passed || !strings.Contains(log, "gpucheck: "+c.signal.String()+": ends with the launch at work") {
				t.Fatalf("exit code %d\n%s\n%s", code, page, log)
			}
			if len(r.Kernels) == 0 || len(r.Parts) != 2 || r.Parts[0].Verdict != c.verdict || !r.Parts[0].Cut || r.Parts[1].Verdict != gpucheck.Cut || !r.Parts[1].Cut {
				t.Errorf("%d kernels, parts %+v %+v\n%s", len(r.Kernels), r.Parts[0], r.Parts[1], page)
			}
			if !strings.HasPrefix(page, "# gpucheck: "+c.page+" on PTX interpreter\n") || !strings.Contains(page, "- cut short: "+c.signal.String()) {
				t.Error(page)
			}
			if strings.HasSuffix(c.fault, "hangs") && !strings.Contains(page, "- cut short: interrupt; killed columns_bf16") {
				t.Error(page)
			}
		})
	}
}

// A part whose time is over is cut short, and the next one runs.
func TestPartLimit(t *testing.T) {
	t.Parallel()
	code, page, log, r := run(t, "a kernel that hangs", append(few, "-limit", "1m", "-part-limit", "4s", "kernels", "golden", "-golden=false")...)
	if code != failed || r.Complete || r.Parts[0].Verdict != gpucheck.Cut || r.Parts[1].Verdict != gpucheck.Nothing || !strings.Contains(page, "- cut short: over its 4s; killed columns_bf16") {
		t.Errorf("exit code %d\n%s\n%s", code, page, log)
	}
}

// A part that has nothing to check has not passed.
func TestNothing(t *testing.T) {
	for _, c := range []struct {
		args []string
		why  string
	}{
		{[]string{"-golden=false", "golden"}, "nothing was checked: the golden cases are left out"},
		{[]string{"-match", "nothing", "kernels"}, "nothing was checked: no kernel is left"},
		{[]string{"-kernels", "golden-dense", "-timed-rows", "1000", "-match", "gemm_bf16.*16x64", "-python", "none", "speed"}, "nothing was checked"},
	} {
		code, page, log, r := run(t, "", c.args...)
		if code != failed || r.Passed || !r.Complete || r.Parts[0].Verdict != gpucheck.Nothing || !strings.Contains(page, "- "+c.why) || !strings.HasPrefix(page, "# gpucheck: nothing checked in a part on") {
			t.Errorf("%v: exit code %d\n%s\n%s", c.args, code, page, log)
		}
	}
}

// A folder that takes no report ends nothing: the report is printed behind the
// page.
func TestUnsaved(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	code := parent(append(few, "-out", filepath.Join(file, "folder"), "-match", "^sum_8", "kernels"), environment(""), &out, &errs)
	at := strings.Index(out.String(), "\n{")
	if code != failed || strings.Count(errs.String(), "the report is not saved: ") != 1 || at < 0 {
		t.Fatalf("exit code %d\n%s\n%s", code, out.String(), errs.String())
	}
	// The first save is before the first part.
	if log := errs.String(); strings.Index(log, "not saved") > strings.Index(log, "== kernels") {
		t.Error(log)
	}
	var r gpucheck.Report
	if err := json.Unmarshal(out.Bytes()[at:], &r); err != nil || !r.Passed || len(r.Kernels) == 0 {
		t.Errorf("%v: %+v", err, r)
	}
}

// A child whose parent is gone ends, even in the middle of a launch that does not
// come back.
func TestOrphan(t *testing.T) {
	t.Parallel()
	child := exec.Command(os.Args[0], append([]string{childArg, `{"part":"kernels"}`}, append(few, "-match", "^columns_bf16")...)...)
	child.Env = environment("a kernel that hangs")
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.Contains(lines.Text(), `"launched":"columns_bf16`) {
	}
	if err := errors.Join(lines.Err(), in.Close()); err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, out)
	child.Wait()
	if code := child.ProcessState.ExitCode(); code != failed {
		t.Errorf("%v", child.ProcessState)
	}
}
