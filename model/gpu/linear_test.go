package gpu

import (
	"testing"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/spec"
)

// The room for sums in parts of so many rows holds those of fewer rows, too: the
// head sums goes of GPUHeadRows of them. Fewer rows can mean more parts.
func TestPartBytes(t *testing.T) {
	p, err := plan.NewGPULayer(spec.Linear{Kind: spec.Dense, In: 64, Out: 264}, "")
	must(t, err)
	f := p.Factors[0]
	l := &linear{plan: p, factors: []factor{{GPUFactor: f, few: newProduct(f.Few), fewData: newProduct(f.FewBackward), weight: newProduct(f.BackwardWeight)}},
		columns: plan.GPUColumns{Width: 4096, Precision: plan.BF16}}
	need := 0
	for rows := 1; rows <= 3*plan.GPUHeadRows; rows++ {
		need = max(need, 4*f.Weights()*f.BackwardWeight.WeightParts(rows), 4*l.columns.Width*l.columns.Parts(rows))
		if room := l.partBytes(rows, true); room < need {
			t.Fatalf("room of %d bytes for %d rows, some number of fewer rows needs %d", room, rows, need)
		}
	}
}
