package cuda

import (
	"path/filepath"

	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/gen/spec"
)

// goldenDir holds the kernels of the reference's golden layers and networks,
// without guides: gpucheck runs them on the reference's numbers.
var goldenDir = filepath.Join("..", "..", "internal", "goldenkernels", "layers")

var (
	goldenLayers = []spec.Linear{
		{Kind: spec.Dense, In: 33, Out: 47, Bias: true},
		{Kind: spec.Dense, In: 64, Out: 32},
		{Kind: spec.LowRank, In: 48, Out: 96, Rank: 16, Bias: true},
		{Kind: spec.LowRank, In: 96, Out: 48, Rank: 16, Bias: true},
		{Kind: spec.LowRank, In: 37, Out: 53, Rank: 11, Bias: true},
		{Kind: spec.LowRank, In: 40, Out: 40, Rank: 8},
		{Kind: spec.BlockDense, In: 48, Out: 96, Rank: 24, Blocks: 4, Bias: true},
		{Kind: spec.BlockDense, In: 96, Out: 48, Rank: 24, Blocks: 2, Bias: true},
		{Kind: spec.BlockDense, In: 35, Out: 51, Rank: 15, Blocks: 5, Bias: true},
		{Kind: spec.BlockDense, In: 54, Out: 33, Rank: 27, Blocks: 3},
		{Kind: spec.BlockDense, In: 20, Out: 30, Rank: 10, Blocks: 1, Bias: true},
		{Kind: spec.BlockShuffle, In: 48, Out: 96, Blocks: 4, Bias: true},
		{Kind: spec.BlockShuffle, In: 96, Out: 48, Blocks: 4, Bias: true},
		{Kind: spec.BlockShuffle, In: 30, Out: 42, Blocks: 3, Bias: true},
		{Kind: spec.BlockShuffle, In: 42, Out: 30, Blocks: 6},
		{Kind: spec.BlockShuffle, In: 40, Out: 40, Blocks: 2, Bias: true},
		{Kind: spec.BlockShuffle, In: 24, Out: 36, Blocks: 1, Bias: true},
		{Kind: spec.BlockShuffle, In: 12, Out: 48, Blocks: 4, Bias: true},
	}
	goldenFFNs = []spec.FFN{
		{Kind: spec.Dense, Hidden: 24, FFN: 66, Act: spec.GELU, Bias: true},
		{Kind: spec.Dense, Hidden: 20, FFN: 50, Act: spec.GELU},
		{Kind: spec.Dense, Hidden: 24, FFN: 42, Act: spec.SwiGLU},
		{Kind: spec.LowRank, Hidden: 24, FFN: 66, Rank: 10, Act: spec.GELU, Bias: true},
		{Kind: spec.Dense, Hidden: 24, FFN: 66, Act: spec.GELUErf, Bias: true},
		{Kind: spec.LowRank, Hidden: 24, FFN: 66, Rank: 10, Act: spec.GELUErf, Bias: true},
		{Kind: spec.LowRank, Hidden: 37, FFN: 53, Rank: 11, Act: spec.GELUErf},
		{Kind: spec.LowRank, Hidden: 24, FFN: 42, Rank: 10, Act: spec.SwiGLU},
		{Kind: spec.LowRank, Hidden: 30, FFN: 36, Rank: 10, Act: spec.SwiGLU, Bias: true},
		{Kind: spec.BlockDense, Hidden: 24, FFN: 66, Rank: 12, Blocks: 3, Act: spec.GELU, Bias: true},
		{Kind: spec.BlockDense, Hidden: 24, FFN: 42, Rank: 12, Blocks: 3, Act: spec.SwiGLU},
		{Kind: spec.BlockDense, Hidden: 30, FFN: 36, Rank: 12, Blocks: 3, Act: spec.SwiGLU, Bias: true},
		{Kind: spec.BlockShuffle, Hidden: 24, FFN: 66, Blocks: 3, Act: spec.GELU, Bias: true},
		{Kind: spec.BlockShuffle, Hidden: 24, FFN: 42, Blocks: 3, Act: spec.SwiGLU},
		{Kind: spec.BlockShuffle, Hidden: 30, FFN: 36, Blocks: 3, Act: spec.SwiGLU, Bias: true},
	}
)

// goldenTable lists them.
func goldenTable() ([]gpu.Kernel, error) {
	var of []interface{ Kernels() []gpu.Kernel }
	for _, l := range goldenLayers {
		p, err := gpu.NewLayer(l, "")
		if err != nil {
			return nil, err
		}
		of = append(of, p)
	}
	for _, f := range goldenFFNs {
		p, err := gpu.NewFFN(f, "")
		if err != nil {
			return nil, err
		}
		of = append(of, p)
	}
	return gpu.Table(of...), nil
}
