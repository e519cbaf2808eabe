package gpu

import (
	"testing"

	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/runtime/cuda"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// The room for sums in parts of so many rows holds those of fewer rows, too: the
// head sums goes of HeadRows of them. Fewer rows can mean more parts.
func TestPartBytes(t *testing.T) {
	p, err := gpu.NewLayer(spec.Linear{Kind: spec.Dense, In: 64, Out: 264}, "")
	must(t, err)
	f := p.Factors[0]
	planned := func(p gpu.Product) product {
		q := product{Product: p}
		for _, k := range p.Kernels() {
			q.kernels = append(q.kernels, &cuda.Kernel{Kernel: k.Kernel})
		}
		return q
	}
	columns := gpu.Columns{Columns: table.Columns{Width: 4096, Precision: table.BF16}}.Kernel().Kernel
	l := &linear{plan: p, factors: []factor{{Factor: f, few: planned(f.Few), fewData: planned(f.FewBackward), weight: planned(f.BackwardWeight)}},
		columns: &cuda.Kernel{Kernel: columns}}
	need := 0
	for rows := 1; rows <= 3*gpu.HeadRows; rows++ {
		need = max(need, 4*f.Weights()*l.factors[0].weight.kernels[0].Cut.Parts(rows), 4*4096*columns.Cut.Parts(rows))
		if room := l.partBytes(rows, true); room < need {
			t.Fatalf("room of %d bytes for %d rows, some number of fewer rows needs %d", room, rows, need)
		}
	}
}
