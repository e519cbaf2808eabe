package command

import (
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/structuredffn/sffn/internal/fakecuda"
	"github.com/structuredffn/sffn/internal/goldenkernels"
	"github.com/structuredffn/sffn/internal/gpucheck"
	"github.com/structuredffn/sffn/model/gpu"
	"github.com/structuredffn/sffn/runtime/cuda"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// attention is the kernel of attention on tensor cores that mistakes are put in.
const attention = "attend_forward_4x2x32"

// large is that of the attention's output.
const large = "gemm_bf16_forward_1x128x128_128x128x32"

// faults are what may be wrong with a driver and its device, by the names that a
// child process is given.
var faults = map[string]func(f *fakecuda.Device){
	"":          func(*fakecuda.Device) {},
	"no device": func(f *fakecuda.Device) { f.Absent = true },
	"the second tile of keys dropped": func(f *fakecuda.Device) {
		f.Tamper = inKernel(attention, onlyFirstTile)
	},
	"sums that are not scaled where the maximum grows": func(f *fakecuda.Device) {
		f.Tamper = inKernel(attention, noRescale)
	},
	"the last tile of 8,192 rows not launched": func(f *fakecuda.Device) {
		f.TamperLaunch = func(kernel string, grid *[3]int) {
			if strings.HasPrefix(kernel, large) && grid[1] == 64 {
				grid[1]--
			}
		}
	},
	"the last tile of 8,192 rows wrong": func(f *fakecuda.Device) {
		// Of large copies the end does not arrive, and what was there stays.
		f.TamperCopy = func(to []byte) {
			if len(to) > 1<<20 {
				clear(to[len(to)-1<<16:])
			}
		}
	},
	"a tile too many": func(f *fakecuda.Device) {
		f.Tamper = func(ptx string) string { return strings.ReplaceAll(ptx, "setp.ge.u32", "setp.gt.u32") }
	},
	"a kernel that loses the context": inLaunch("columns_bf16", func(grid *[3]int) { grid[0] = 0 }),
	"a kernel that hangs":             inLaunch("columns_bf16", func(*[3]int) { select {} }),
	"a kernel that ends the process": inLaunch("columns_bf16", func(*[3]int) {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}),
	"every kernel ends the process": inLaunch("", func(*[3]int) {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}),
	// A signal to the parent, and launches that take long enough for it to arrive.
	"interrupted": func(f *fakecuda.Device) {
		launches := 0
		f.TamperLaunch = func(string, *[3]int) {
			if launches++; launches == 20 {
				syscall.Kill(os.Getppid(), syscall.SIGTERM)
			}
			if launches >= 20 {
				time.Sleep(20 * time.Millisecond)
			}
		}
	},
	"interrupted while a kernel hangs": inLaunch("columns_bf16", func(*[3]int) {
		syscall.Kill(os.Getppid(), syscall.SIGINT)
		select {}
	}),
	"interrupted after a mistake": inLaunch("columns_bf16", func(grid *[3]int) {
		grid[0] = 0
		syscall.Kill(os.Getppid(), syscall.SIGTERM)
		time.Sleep(200 * time.Millisecond)
	}),
}

// inLaunch is a fault in the launches of some kernels.
func inLaunch(prefix string, change func(grid *[3]int)) func(f *fakecuda.Device) {
	return func(f *fakecuda.Device) {
		f.TamperLaunch = func(kernel string, grid *[3]int) {
			if strings.HasPrefix(kernel, prefix) {
				change(grid)
			}
		}
	}
}

// inKernel changes the text of one kernel of a module.
func inKernel(name string, change func(body string) string) func(ptx string) string {
	return func(ptx string) string {
		at := strings.Index(ptx, ".entry "+name)
		if at < 0 {
			return ptx
		}
		end := at + strings.Index(ptx[at:], "\n}\n")
		return ptx[:at] + change(ptx[at:end]) + ptx[end:]
	}
}

var keyTiles = regexp.MustCompile(`(?s)(min\.u32 .*?shr\.u32 \t(%r\d+), %r\d+, 6;)`)

// onlyFirstTile ends the loop over keys after one tile.
func onlyFirstTile(body string) string {
	m := keyTiles.FindStringSubmatchIndex(body)
	if m == nil {
		return body
	}
	r := body[m[4]:m[5]]
	return body[:m[1]] + "\n\tmin.u32 \t" + r + ", " + r + ", 1;" + body[m[1]:]
}

var exponential = regexp.MustCompile(`ex2\.approx\.f32 (%f\d+), %f\d+;`)

// noRescale leaves sums as they are where a row's maximum grows: the first
// exponential after maxima is that of the difference.
func noRescale(body string) string {
	lines := strings.Split(body, "\n")
	after := false
	for i, line := range lines {
		switch {
		case strings.Contains(line, "max.f32"):
			after = true
		case after && exponential.MatchString(line):
			lines[i] = exponential.ReplaceAllString(line, "mov.f32 $1, 0f3F800000;")
			after = false
		}
	}
	return strings.Join(lines, "\n")
}

// Mistakes in kernels, launches and copies that show at some size only are noticed
// there by gpucheck, with the kernel's name, and those that the size of the
// self-test reaches by that, too. Smaller sizes are right.
func TestFaults(t *testing.T) {
	for _, c := range []struct {
		fault, kernel string
		good, bad     string // rows
		selfTest      bool
		problem       string
	}{
		{"the second tile of keys dropped", attention, "17,64", "65", true, " of o is "},
		{"sums that are not scaled where the maximum grows", attention, "17,64", "129", true, " of o is "},
		{"the last tile of 8,192 rows not launched", large, "129,1000", "8192", false, "entries of c were not written"},
		{"the last tile of 8,192 rows wrong", large, "129,1000", "8192", false, "a has changed, which is only read"},
		{"a tile too many", "gemm_bf16_forward", "", "17", true, ""},
	} {
		t.Run(c.fault, func(t *testing.T) {
			args := []string{"-kernels", "tiny", "-match", "^" + c.kernel, "-python", "none"}
			if c.good != "" {
				if code, page, log, _ := run(t, c.fault, append(args, "-rows", c.good, "kernels")...); code != good {
					t.Errorf("%s rows: exit code %d\n%s%s", c.good, code, page, log)
				}
			}
			code, page, _, r := run(t, c.fault, append(args, "-rows", c.bad, "kernels")...)
			if code != failed || r.Passed || len(r.Parts) != 1 {
				t.Fatalf("%s rows: exit code %d\n%s", c.bad, code, page)
			}
			if !slices.ContainsFunc(r.Kernels, func(k gpucheck.KernelProof) bool {
				return strings.HasPrefix(k.Kernel, c.kernel) && strings.Contains(k.Problem, c.problem)
			}) || !strings.Contains(page, "rows: "+c.kernel) {
				t.Errorf("no problem of %s with %q\n%s", c.kernel, c.problem, page)
			}
			t.Log(r.Parts[0].Problems[0])
			if !c.selfTest {
				return
			}
			fake := fakecuda.New()
			faults[c.fault](fake)
			d, err := cuda.Open(fake.API(), "")
			if err != nil {
				t.Fatal(err)
			}
			var wrong *cuda.MismatchError
			if err := d.Load(kernelsOf(t, "tiny", c.kernel)); !errors.As(err, &wrong) || !strings.HasPrefix(wrong.Kernel, c.kernel) {
				t.Errorf("the self-test says %v", err)
			}
		})
	}
}

func kernelsOf(t *testing.T, model, prefix string) []table.Kernel {
	t.Helper()
	goldenkernels.Register()
	cfg, err := goldenkernels.Config(model)
	if err != nil {
		t.Fatal(err)
	}
	ks, err := gpu.Kernels(cfg.Model)
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(ks, func(k table.Kernel) bool { return !strings.HasPrefix(k.Name, prefix) })
}
