package gpu

import (
	"testing"

	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/gen/spec"
)

// The room for sums in parts of so many rows holds those of fewer rows, too: the
// head sums goes of GPUHeadRows of them. Fewer rows can mean more parts.
func TestPartBytes(t *testing.T) {
	p, err := gpu.NewLayer(spec.Linear{Kind: spec.Dense, In: 64, Out: 264}, "")
	must(t, err)
	f := p.Factors[0]
	l := &linear{plan: p, factors: []factor{{Factor: f, few: newProduct(f.Few), fewData: newProduct(f.FewBackward), weight: newProduct(f.BackwardWeight)}},
		columns: gpu.Columns{Width: 4096, Precision: gpu.BF16}}
	need := 0
	for rows := 1; rows <= 3*gpu.HeadRows; rows++ {
		need = max(need, 4*f.Weights()*f.BackwardWeight.WeightParts(rows), 4*l.columns.Width*l.columns.Parts(rows))
		if room := l.partBytes(rows, true); room < need {
			t.Fatalf("room of %d bytes for %d rows, some number of fewer rows needs %d", room, rows, need)
		}
	}
}
