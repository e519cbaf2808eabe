package gpu

import (
	"flag"
	"testing"

	"github.com/structuredffn/sffn/gen/specfile"
	_ "github.com/structuredffn/sffn/generated/gpt2s"
)

var full = flag.Bool("full", false, "load all shipped kernels, which takes a minute or two")

// The kernels of the shipped S models pass the test that they get when a device
// first loads them.
func TestShipped(t *testing.T) {
	if !*full {
		t.Skip("skipped: only with -full")
	}
	d, fake := open(t)
	fake.Memory = 16 << 30
	for _, kind := range []string{"dense", "lowrank-63", "lowrank-32", "blockdense-63", "blockdense-32", "blockshuffle-63", "blockshuffle-32"} {
		c, err := specfile.Load("gpt2s-" + kind)
		must(t, err)
		ks, err := Kernels(c.Model)
		must(t, err)
		must(t, d.Load(ks))
	}
}
