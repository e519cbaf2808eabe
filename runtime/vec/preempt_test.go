package vec

import (
	"testing"

	"github.com/structuredffn/sffn/internal/preempt"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// The scheduler can stop a loop of kernels between any two of them, and none
// takes more than a stretch of its operands.
func TestPreemption(t *testing.T) {
	table := Table{columnRows: 256}
	calls := 0
	for op := range kernel.NumVecOps {
		table.fns[op] = func(a *kernel.VecArgs) {
			calls++
			if err := preempt.Point(); err != nil {
				t.Errorf("%s: who calls a kernel cannot be preempted: %v", op, err)
			}
			if n := a.N * max(1, a.Rows); n > chunk {
				t.Errorf("%s: a call takes %d entries, want %d at most", op, n, chunk)
			}
		}
	}
	const n = 3*chunk + 5
	x := make([]float32, n)
	table.Activate(kernel.GELU, x, x, n)
	table.ActivationBackward(kernel.GELU, x, x, x, n)
	table.Activate(kernel.GELUErf, x, x, n)
	table.ActivationBackward(kernel.GELUErf, x, x, x, n)
	table.Activate(kernel.SwiGLU, x[:n/2], x, n/2)
	table.ActivationBackward(kernel.SwiGLU, x[:n/2], x, x, n/2)
	table.LayerNorm(x, x, x, x, x, x, 1, n, 1e-5)
	table.RMSNorm(x, x, x, x, x, 1, n, 1e-5)
	table.Max(x)
	table.ExpSum(x, x, 1, 0)
	table.SoftmaxBackward(x, x, x, 0, 1)
	table.Dot(x, x)
	table.SumSquares(x)
	table.Scale(x, 1)
	table.Axpy(x, 1, x)
	table.ColSum(x, x, n/64, 64, 64)
	table.AdamW(x, x, x, x, AdamWStep{})
	if calls < 15*4 {
		t.Errorf("%d calls", calls)
	}
}
