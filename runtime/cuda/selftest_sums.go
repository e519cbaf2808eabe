package cuda

import (
	"math"

	"github.com/structuredffn/sffn/gen/plan"
)

// written makes room for what a kernel writes.
func (t *trial) written() map[string][]float32 {
	want := map[string][]float32{}
	for _, p := range t.Params {
		if p.Type.Array() && p.Access != plan.Read {
			want[p.Name] = make([]float32, p.Len.In(t.counts))
		}
	}
	return want
}

func prepareFinish(t *trial) {
	k := t.Plan.(plan.GPUFinish)
	t.arrays["parts"] = t.draw(t.param("parts"), 1/math.Sqrt(float64(k.Parts)))
	t.leaveOut(k.GPUProduct)
}

// wantFinish adds the parts; rows are one block, in the order in which they are
// stored.
func wantFinish(t *trial) (map[string][]float32, error) {
	k, tokens := t.Plan.(plan.GPUFinish).GPUProduct, t.counts[plan.Tokens]
	n := k.C.Pitch
	k.C.Cols = plan.Places{Len: n, Run: n, Step: n, Block: n}
	want, row := t.written(), make([]float32, n)
	for i := range tokens {
		clear(row)
		for part := range k.Parts {
			for j := range row {
				row[j] += t.arrays["parts"][(part*tokens+i)*n+j]
			}
		}
		t.storeRow(k, want, 0, i, row)
	}
	return want, nil
}

// sumEntries and sumParts are the sizes of the trial of sums.
const (
	sumEntries = 1000
	sumParts   = 3
)

func prepareSum(t *trial) {
	t.counts[plan.Entries], t.counts[plan.Parts] = sumEntries, sumParts
	t.numbers["accumulate"] = Uint32(1)
	for _, name := range []string{"parts", "sum"} {
		t.arrays[name] = t.draw(t.param(name), 1)
	}
}

func wantSum(t *trial) (map[string][]float32, error) {
	want := t.written()
	for i := range want["sum"] {
		for part := range sumParts {
			want["sum"][i] += t.arrays["parts"][part*sumEntries+i]
		}
		want["sum"][i] += t.arrays["sum"][i]
	}
	return want, nil
}

func prepareColumns(t *trial) {
	k, tokens := t.Plan.(plan.GPUColumns), t.counts[plan.Tokens]
	t.counts[plan.Parts] = k.Parts(tokens)
	t.numbers["rows"] = Uint32(k.Rows(tokens))
}

func wantColumns(t *trial) (map[string][]float32, error) {
	k, want := t.Plan.(plan.GPUColumns), t.written()
	for r := range t.counts[plan.Tokens] {
		part := r / k.Rows(t.counts[plan.Tokens])
		for j := range k.Width {
			want["sums"][part*k.Width+j] += t.arrays["x"][r*k.Width+j]
		}
	}
	return want, nil
}

func prepareCast(t *trial) {
	t.counts[plan.Entries] = sumEntries
	t.arrays["x"] = t.draw(t.param("x"), 1)
}

func wantCast(t *trial) (map[string][]float32, error) {
	return map[string][]float32{"y": t.arrays["x"]}, nil
}
