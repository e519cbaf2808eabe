package command

import (
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/internal/fakecuda"
	"github.com/structuredffn/sffn/internal/goldenkernels"
	"github.com/structuredffn/sffn/internal/gpucheck"
	"github.com/structuredffn/sffn/model/gpu"
	"github.com/structuredffn/sffn/runtime/cuda"
)

// attention is the kernel of attention on tensor cores that mistakes are put in.
const attention = "attend_forward_4x2x32"

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
	const large = "gemm_bf16_forward_1x128x128_128x128x32" // the attention's output
	for _, c := range []struct {
		name, kernel string
		broken       func(fake *fakecuda.Device)
		good, bad    string // rows
		selfTest     bool
		problem      string
	}{
		{"the second tile of keys dropped", attention, func(f *fakecuda.Device) { f.Tamper = inKernel(attention, onlyFirstTile) }, "17,64", "65", true, " of o is "},
		{"sums that are not scaled where the maximum grows", attention, func(f *fakecuda.Device) { f.Tamper = inKernel(attention, noRescale) }, "17,64", "129", true, " of o is "},
		{"the last tile of 8,192 rows not launched", large, func(f *fakecuda.Device) {
			f.TamperLaunch = func(kernel string, grid *[3]int) {
				if strings.HasPrefix(kernel, large) && grid[1] == 64 {
					grid[1]--
				}
			}
		}, "129,1000", "8192", false, "entries of c were not written"},
		{"the last tile of 8,192 rows wrong", large, func(f *fakecuda.Device) {
			// Of large copies the end does not arrive, and what was there stays.
			f.TamperCopy = func(to []byte) {
				if len(to) > 1<<20 {
					clear(to[len(to)-1<<16:])
				}
			}
		}, "129,1000", "8192", false, " of c is "},
		{"a tile too many", "gemm_bf16_forward", func(f *fakecuda.Device) {
			f.Tamper = func(ptx string) string { return strings.ReplaceAll(ptx, "setp.ge.u32", "setp.gt.u32") }
		}, "", "17", true, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := []string{"-kernels", "tiny", "-match", "^" + c.kernel, "-python", "none"}
			if c.good != "" {
				fake := fakecuda.New()
				c.broken(fake)
				if code, page, log, _ := run(t, fake, append(args, "-rows", c.good, "kernels")...); code != good {
					t.Errorf("%s rows: exit code %d\n%s%s", c.good, code, page, log)
				}
			}
			fake := fakecuda.New()
			c.broken(fake)
			code, page, _, r := run(t, fake, append(args, "-rows", c.bad, "kernels")...)
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
			fake = fakecuda.New()
			c.broken(fake)
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

func kernelsOf(t *testing.T, model, prefix string) []plan.GPUKernel {
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
	return slices.DeleteFunc(ks, func(k plan.GPUKernel) bool { return !strings.HasPrefix(k.Name, prefix) })
}

// A kernel that loses the context does not end the proofs of the others.
func TestLost(t *testing.T) {
	fake := fakecuda.New()
	lost := "columns_bf16"
	fake.TamperLaunch = func(kernel string, grid *[3]int) {
		if strings.HasPrefix(kernel, lost) {
			grid[0] = 0
		}
	}
	code, page, _, r := run(t, fake, "-kernels", "golden-dense", "-rows", "17", "-match", "^(columns|sum|cast|norm)", "kernels")
	if code != failed {
		t.Fatalf("exit code %d\n%s", code, page)
	}
	wrong, right := 0, 0
	for _, k := range r.Kernels {
		switch {
		case k.Problem == "":
			right++
		case strings.HasPrefix(k.Kernel, lost):
			wrong++
		default:
			t.Errorf("%s: %s", k.Kernel, k.Problem)
		}
	}
	if wrong == 0 || right < 3 {
		t.Errorf("%d kernels failed, %d went on\n%s", wrong, right, page)
	}
}
