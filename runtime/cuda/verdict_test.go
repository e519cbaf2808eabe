package cuda

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/internal/fakecuda"
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
		if ran != d.Tested {
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
	sources.kernels[name] = text{old.head, strings.Replace(old.body, "{", "{\n// another", 1)}
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
