package gpu

import (
	"bytes"
	"flag"
	"os"
	"testing"

	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/gen/specfile"
	_ "github.com/structuredffn/sffn/generated/gpt2s"
	"github.com/structuredffn/sffn/internal/gz"
	"github.com/structuredffn/sffn/model/config"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

var full = flag.Bool("full", false, "load all shipped kernels, which takes a minute or two")

// Where the driver takes it, machine code that the shipped package brings is what
// runs: embedded or, with the tag cuda, linked.
func TestShippedMachineCode(t *testing.T) {
	d, fake := open(t)
	fake.Compute = [2]int{9, 0}
	taken := 0
	fake.Assembled = func(fatbin []byte) string {
		taken++
		if want, err := os.ReadFile("../../generated/gpt2s/z_passes.fatbin"); err != nil || !bytes.Equal(fatbin, want) {
			t.Errorf("the image is not z_passes.fatbin (%v)", err)
		}
		data, err := os.ReadFile("../../generated/gpt2s/z_passes.ptx.gz")
		must(t, err)
		src, err := gz.Unpack(data)
		must(t, err)
		return string(src)
	}
	must(t, d.Load([]table.Kernel{gpu.PackBF16.Kernel().Kernel}))
	if taken != 1 || d.FromPTX != nil {
		t.Errorf("%d images were loaded; from PTX because of %v", taken, d.FromPTX)
	}
}

// The kernels of the shipped S models pass the test that they get when a device
// first loads them.
func TestShipped(t *testing.T) {
	if !*full {
		t.Skip("skipped: only with -full")
	}
	d, fake := open(t)
	fake.Memory = 16 << 30
	for _, name := range specfile.GPUShapes("gpt2s") {
		c, err := config.Load(name)
		must(t, err)
		ks, err := Kernels(c.Model)
		must(t, err)
		must(t, d.Load(ks))
	}
}
