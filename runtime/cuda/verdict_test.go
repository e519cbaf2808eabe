package cuda

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/fakecuda"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// What has passed the self-test on a device with a driver is not tried again,
// anything else is: another kernel, device or driver, and what a damaged file says.
func TestVerdicts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache", "sffn")
	ks := kernels(t, small[0])
	load := func(change func(fake *fakecuda.Device), folder string) *Device {
		t.Helper()
		fake := fakecuda.New()
		change(fake)
		d := open(t, fake)
		d.Verdicts = folder
		must(t, d.Load(ks))
		ran := 0
		for _, n := range fake.Launches() {
			ran += n
		}
		if ran < d.Tested || ran > 4*d.Tested {
			t.Errorf("%d launches for %d kernels that were tried", ran, d.Tested)
		}
		return d
	}
	same := func(*fakecuda.Device) {}
	if d := load(same, dir); d.Tested != len(ks) || d.VerdictError != nil {
		t.Errorf("%d of %d kernels were tried, %v", d.Tested, len(ks), d.VerdictError)
	}
	if d := load(same, dir); d.Tested != 0 {
		t.Errorf("%d kernels were tried again", d.Tested)
	}
	if d := load(func(f *fakecuda.Device) { f.Version += 10 }, dir); d.Tested != len(ks) {
		t.Errorf("another driver: %d kernels were tried", d.Tested)
	}
	if d := load(func(f *fakecuda.Device) { f.UUIDs[0][0]++ }, dir); d.Tested != len(ks) {
		t.Errorf("another device: %d kernels were tried", d.Tested)
	}
	// One kernel of another text.
	name := ks[0].Name
	old := sources.kernels[name]
	changed := old
	changed.text.Body = strings.Replace(old.text.Body, "{", "{\n// another", 1)
	changed.Hash = changed.Sum(changed.text)
	sources.kernels[name] = changed
	if d := load(same, dir); d.Tested != 1 {
		t.Errorf("another text of one kernel: %d kernels were tried", d.Tested)
	}
	sources.kernels[name] = old
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	must(t, err)
	for _, f := range files {
		must(t, os.WriteFile(f, []byte(`{"device":`), 0o666))
	}
	if d := load(same, dir); d.Tested != len(ks) {
		t.Errorf("a damaged file: %d kernels were tried", d.Tested)
	}
	if d := load(same, dir); d.Tested != 0 {
		t.Errorf("after a damaged file: %d kernels were tried again", d.Tested)
	}
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o666))
	if d := load(same, filepath.Join(file, "folder")); d.Tested != len(ks) || d.VerdictError == nil {
		t.Errorf("nowhere to keep them: %d kernels were tried, %v", d.Tested, d.VerdictError)
	}
	// What fails is not kept.
	fake := fakecuda.New()
	fake.Tamper = func(ptx string) string { return strings.ReplaceAll(ptx, "add.f32", "sub.f32") }
	d := open(t, fake)
	d.Verdicts = t.TempDir()
	for range 2 {
		if err := d.Load(ks); err == nil {
			t.Error("a wrong kernel passed")
		}
	}
}

// The self-test takes every way in which models launch a kernel: sums that are
// added to what is there and in its place, rotations forward and back, with and
// without what is optional.
func TestVariants(t *testing.T) {
	p, err := gpu.NewPasses(spec.Model{Hidden: 136, FFN: 64, Vocab: 101, QHeads: 4, KVHeads: 2, AttnDim: 64, Layers: 2, MaxPositions: 40, Kind: spec.Dense, Norm: spec.LayerNorm, Position: spec.RoPE})
	must(t, err)
	kernels(t) // registers the PTX
	for _, c := range []struct {
		kernel table.Kernel
		number string
		value  Uint32
	}{
		{gpu.SumRows.Kernel().Kernel, "accumulate", 0}, {gpu.SumRows.Kernel().Kernel, "accumulate", 1},
		{p.EmbedBackward.Kernel, "accumulate", 0}, {p.EmbedBackward.Kernel, "accumulate", 1},
		{p.Rotate.Kernel, "sign", Uint32(math.Float32bits(1))}, {p.Rotate.Kernel, "sign", Uint32(math.Float32bits(-1))},
		{p.Final.Forward.Kernel, "eps", Uint32(math.Float32bits(1e-5))}, {p.Final.Forward.Kernel, "eps", Uint32(math.Float32bits(0.5))},
		{p.Loss.Kernel, "gradient", 0}, {p.Loss.Kernel, "gradient", 1},
	} {
		at := slices.IndexFunc(c.kernel.Params, func(q table.Param) bool { return q.Name == c.number })
		fake := fakecuda.New()
		forced := false
		// The parameter is read as a constant.
		load := regexp.MustCompile(`ld\.param\.(\w+) \t(%\w+), \[` + regexp.QuoteMeta(c.kernel.Name) + `_param_` + strconv.Itoa(at) + `\];`)
		fake.Tamper = func(ptx string) string {
			return load.ReplaceAllStringFunc(ptx, func(line string) string {
				m := load.FindStringSubmatch(line)
				forced = true
				if m[1] == "f32" {
					return fmt.Sprintf("mov.f32 \t%s, 0f%08X;", m[2], uint32(c.value))
				}
				return fmt.Sprintf("mov.u32 \t%s, %d;", m[2], c.value)
			})
		}
		err := open(t, fake).Load([]table.Kernel{c.kernel})
		if !forced {
			t.Fatalf("%s: no load of %s", c.kernel.Name, c.number)
		}
		var wrong *MismatchError
		if !errors.As(err, &wrong) {
			t.Errorf("%s, %s always %d: %v", c.kernel.Name, c.number, c.value, err)
		}
	}
}
