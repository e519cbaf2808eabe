package cuda

import (
	"path/filepath"
	"testing"

	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/gen/spec"
)

// passDir holds the kernels around the products of models that reach every
// variant of their templates.
var passDir = filepath.Join("testdata", "passes")

// passModels differ in what the passes depend on: norm, positions, heads, the
// order of the networks' outputs, rows that are no whole number of blocks' pieces.
var passModels = []spec.Model{
	{Hidden: 136, FFN: 64, Vocab: 101, QHeads: 4, KVHeads: 2, AttnDim: 64, Kind: spec.Dense, Norm: spec.LayerNorm, Position: spec.RoPE},
	{Hidden: 128, FFN: 256, Vocab: 257, QHeads: 4, KVHeads: 4, AttnDim: 32, Kind: spec.BlockShuffle, Blocks: 4, Norm: spec.RMSNorm, Position: spec.Absolute},
	{Hidden: 192, FFN: 384, Vocab: 2600, QHeads: 3, KVHeads: 1, AttnDim: 96, Kind: spec.BlockShuffle, Blocks: 2, Norm: spec.LayerNorm, Position: spec.RoPE},
	{Hidden: 24, FFN: 48, Vocab: 104, QHeads: 4, KVHeads: 4, AttnDim: 24, Kind: spec.Dense, Norm: spec.RMSNorm, Position: spec.RoPE},
	{Hidden: 48, FFN: 144, Vocab: 101, QHeads: 4, KVHeads: 1, AttnDim: 48, Kind: spec.BlockShuffle, Blocks: 3, Norm: spec.RMSNorm, Position: spec.RoPE},
	{Hidden: 2056, FFN: 64, Vocab: 101, QHeads: 2, KVHeads: 1, AttnDim: 128, Kind: spec.Dense, Norm: spec.LayerNorm, Position: spec.Absolute},
	{Hidden: 2080, FFN: 64, Vocab: 101, QHeads: 2, KVHeads: 2, AttnDim: 256, Kind: spec.Dense, Norm: spec.RMSNorm, Position: spec.RoPE},
}

func passTable(models []spec.Model) ([]gpu.Kernel, error) {
	var ks []gpu.Kernel
	for _, m := range models {
		if m.Layers == 0 {
			m.Layers, m.MaxPositions = 2, 40
		}
		p, err := gpu.NewPasses(m)
		if err != nil {
			return nil, err
		}
		ks = append(ks, p.Kernels()...)
	}
	return gpu.Unique(ks), nil
}

// Every kernel around the products, at every size, three schedules each, all
// results.
func TestPasses(t *testing.T) {
	ks := tableOf(t, passDir)
	kernels := loadPTX(t, passDir, ks)
	for _, k := range ks {
		t.Run(k.Name, func(t *testing.T) {
			t.Parallel()
			for _, n := range tokenCounts {
				for seed := range uint64(3) {
					d, _ := newProver(kernels, seed, 1000*seed, 0)
					if err := d.Prove(k.Kernel, n); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	}
}
