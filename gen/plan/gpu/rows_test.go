package gpu

import (
	"reflect"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/gen/specfile"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// Kernels of one name have one row, shape and all, and no two names stand for the same
// purpose: what asks for a role and a shape finds the kernel that was planned for it.
func TestRowsByName(t *testing.T) {
	var all []Kernel
	for _, shape := range []string{"gpt2s", "gpt2m", "gpt2l"} {
		for _, name := range specfile.GPUShapes(shape) {
			c, err := specfile.Load(name)
			if err != nil {
				t.Fatal(err)
			}
			m, err := NewModel(c, "")
			if err != nil {
				t.Fatal(err)
			}
			p, err := NewPasses(c)
			if err != nil {
				t.Fatal(err)
			}
			all = append(append(all, m.Kernels()...), p.Kernels()...)
		}
	}
	all = append(all, gpuKernels(t)...)
	byName, byPurpose := map[string]table.Kernel{}, map[string]string{}
	for _, k := range all {
		if o, ok := byName[k.Name]; ok && !reflect.DeepEqual(o, k.Kernel) {
			t.Fatalf("%s has the rows\n%+v %s\nand\n%+v %s", k.Name, o, o.Purpose(), k.Kernel, k.Purpose())
		}
		byName[k.Name] = k.Kernel
		if o, ok := byPurpose[k.Purpose()]; ok && o != k.Name {
			t.Errorf("%s and %s are for the same: %s", o, k.Name, k.Purpose())
		}
		byPurpose[k.Purpose()] = k.Name
	}
	if len(byName) < 100 {
		t.Errorf("only %d kernels", len(byName))
	}
}

// The shuffles of rows are those of factors.
func TestShuffles(t *testing.T) {
	for blocks := 1; blocks < 6; blocks++ {
		for n := 1; n < 8; n++ {
			for _, then := range []spec.Shuffle{spec.Deal(blocks, n), spec.Riffle(blocks, n)} {
				f := spec.Factor{Blocks: blocks, Out: n, Then: then}
				p := table.Places{Len: n, Run: n, Block: n, Of: blocks, Then: shuffle(f)}
				for i := range blocks * n {
					if got, want := p.At(i/n, i%n), f.Shuffled(i); got != want {
						t.Errorf("%v of %d blocks of %d: entry %d is at %d, want %d", then, blocks, n, i, got, want)
					}
				}
			}
		}
	}
}
