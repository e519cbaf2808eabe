package cuda

import (
	"testing"

	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/fakecuda"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// The self-test knows the products of every precision, sums in parts before every
// epilogue, and the sums of gradients: a device that runs them right is taken.
func TestProducts(t *testing.T) {
	kernels(t) // registers the PTX
	var ks []table.Kernel
	for _, f := range []spec.FFN{
		{Kind: spec.Dense, Hidden: 520, FFN: 72, Act: spec.SwiGLU, Bias: true},
		{Kind: spec.Dense, Hidden: 67, FFN: 131, Act: spec.GELU, Bias: true},
		{Kind: spec.LowRank, Hidden: 30, FFN: 70, Rank: 13, Act: spec.SwiGLU, Bias: true},
		{Kind: spec.BlockShuffle, Hidden: 24, FFN: 42, Blocks: 3, Act: spec.SwiGLU},
	} {
		p, err := gpu.NewFFN(f, "")
		must(t, err)
		ks = append(ks, gpu.Rows(p.Kernels())...)
	}
	seen := map[string]bool{}
	for _, k := range ks {
		seen[string(k.Role)] = true
	}
	for _, want := range []string{"gemm", "sgemm", "finish", "sum", "columns", "cast"} {
		if !seen[want] {
			t.Errorf("no kernel of %s", want)
		}
	}
	must(t, open(t, fakecuda.New()).Load(ks))
}
