package cuda

import (
	"path/filepath"
	"testing"

	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/gen/specfile"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// shippedDir holds the kernels of the paper's S shapes.
var shippedDir = filepath.Join("..", "..", "generated", "gpt2s")

func shippedModels(t *testing.T) (ms []spec.Model) {
	for _, name := range specfile.GPUShapes("gpt2s") {
		m, err := specfile.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		ms = append(ms, m)
	}
	return ms
}

func shipped(t *testing.T) []gpu.Kernel {
	var ks []gpu.Kernel
	models := shippedModels(t)
	for _, m := range models {
		p, err := gpu.NewModel(m, "")
		if err != nil {
			t.Fatal(err)
		}
		ks = append(ks, p.Kernels()...)
	}
	passes, err := passTable(models)
	if err != nil {
		t.Fatal(err)
	}
	return gpu.Unique(append(ks, passes...))
}

// Every shipped kernel with one number of tokens each, in turn, and one
// schedule; with -full, as .ci/run has it, all six numbers and, of products, three
// schedules. The kernels of TestNetworks, from the same templates, always run them
// all. One entry of each tile and 500 others of each launch are compared; findings
// and unwritten outputs count everywhere. With -full all thread blocks of products
// run once and a share of them, down to an eighth, in the other seventeen runs:
// another one each time.
func TestShippedKernels(t *testing.T) {
	ks := shipped(t)
	kernels := loadPTX(t, shippedDir, ks)
	if len(ks) != len(kernels) {
		t.Errorf("%d kernels are planned, %d are in the PTX", len(ks), len(kernels))
	}
	for i, k := range ks {
		p, isProduct := k.Plan.(gpu.Product)
		counts, seeds := tokenCounts[i%len(tokenCounts):][:1], 1
		if *full {
			counts = tokenCounts
			if isProduct {
				seeds = 3
			}
		}
		t.Run(k.Name, func(t *testing.T) {
			t.Parallel()
			for seed := range seeds {
				for _, m := range counts {
					if isProduct && p.Tile.M == 16 {
						m = min(m, gpu.FewTokens)
					}
					d, r := newProver(kernels, uint64(seed), uint64(seed), 500)
					if *full && isProduct && (seed > 0 || m != 17) {
						n := share(k.Blocks(table.Counts{table.Tokens: m, table.Parts: 1}))
						d.Only = func(at [3]int) bool { return (at[0]+3*at[1]+m+seed)%n == 0 }
						r.Only = d.Only
					}
					if err := d.Prove(k.Kernel, m); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
}

// share is the n of which one nth of a grid is enough: 8, or what leaves four
// blocks. It is a power of two, so that no sum of x and 3y misses them all.
func share(grid [3]int) int {
	n := 8
	for n > 1 && grid[0]*grid[1] < 4*n {
		n /= 2
	}
	return n
}

// Every small kernel and every golden one, all outputs, within the tolerance of
// each.
func TestSmallKernels(t *testing.T) {
	for _, dir := range []string{smallDir, goldenDir} {
		ks := tableOf(t, dir)
		kernels := loadPTX(t, dir, ks)
		for i, k := range ks {
			for _, m := range tokenCounts[3*(i%2):][:2] {
				d, _ := newProver(kernels, 1, uint64(i), 0)
				if err := d.Prove(k.Kernel, m); err != nil {
					t.Error(err)
				}
			}
		}
	}
}
