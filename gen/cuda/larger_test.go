package cuda

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/gen/specfile"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// larger are the packages of the paper's M and L shapes, which have kernels for
// GPUs only.
var larger = []string{"gpt2m", "gpt2l"}

func largerKernels(t *testing.T, pkg string) (dir string, ks []gpu.Kernel) {
	t.Helper()
	var models []spec.Model
	for _, name := range specfile.GPUShapes(pkg) {
		m, err := specfile.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		p, err := gpu.NewModel(m, "")
		if err != nil {
			t.Fatal(err)
		}
		ks, models = append(ks, p.Kernels()...), append(models, m)
	}
	passes, err := passTable(models)
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join("..", "..", "generated", pkg), gpu.Unique(append(ks, passes...))
}

// The committed kernels of the M and L shapes are those of the plan, within its
// gates.
func TestLargerGates(t *testing.T) {
	for _, pkg := range larger {
		dir, ks := largerKernels(t, pkg)
		files, err := Sources(ks)
		if err != nil {
			t.Fatal(err)
		}
		if err := Fresh(dir, files, PTX, Fatbin); err != nil {
			t.Errorf("%v\nrun make generate with the CUDA toolkit", err)
		}
		m, _ := manifest(t, dir)
		if len(m.Kernels) != len(ks) {
			t.Errorf("%s: %d kernels in the manifest, %d in the plan", dir, len(m.Kernels), len(ks))
		}
		if err := m.Check(ks); err != nil {
			t.Error(err)
		}
	}
}

// largest are the bytes of an array from which on only -full runs a product: they
// take seconds to draw.
const largest = 8 << 20

// Every product of the M and L shapes that is not among the S shapes', whose passes
// are of the same templates, too: three blocks at 17 tokens, or with -full all of
// them at 17 and 129.
func TestLargerKernels(t *testing.T) {
	counts, known := []int{17}, map[string]bool{}
	if *full {
		counts = append(counts, 129)
	}
	for _, k := range shipped(t) {
		known[k.Name] = true
	}
	for _, pkg := range larger {
		dir, ks := largerKernels(t, pkg)
		kernels := loadPTX(t, dir, ks)
		for i, k := range ks {
			p, ok := k.Plan.(gpu.Product)
			if !ok || known[k.Name] || !*full && slices.ContainsFunc(k.Params, func(p table.Param) bool { return p.Bytes(table.Counts{table.Tokens: 17, table.Parts: 1}) > largest }) {
				continue
			}
			known[k.Name] = true
			t.Run(k.Name, func(t *testing.T) {
				t.Parallel()
				for _, m := range counts {
					if p.Tile.M == 16 {
						m = min(m, gpu.FewTokens)
					}
					d, r := newProver(kernels, uint64(m), uint64(i), 100)
					if grid := k.Blocks(table.Counts{table.Tokens: m, table.Parts: 1}); !*full {
						each := max(1, grid[0]*grid[1]/3)
						d.Only = func(at [3]int) bool { return (at[0]*grid[1]+at[1]+i)%each == 0 }
						r.Only = d.Only
					}
					if err := d.Prove(k.Kernel, m); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
}
