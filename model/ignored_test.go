package model_test

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/internal/modeltest"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// Positions without a target have neither loss nor gradient: those of two
// halves of the targets, weighted by how many each counts, add up to those of
// all. The mean is over what counts; where nothing does, it and the gradients
// are 0.
func TestIgnoredTargets(t *testing.T) {
	for i, isa := range kernel.Available() {
		s := modeltest.Forms[i%len(modeltest.Forms)]
		m := modeltest.Build(t, s, isa, 2)
		const batch, seq = 2, 150 // more rows than the head takes at a time
		r := rand.New(rand.NewPCG(4, 4))
		ids, targets := modeltest.Tokens(r, batch*seq, s.Vocab), modeltest.Tokens(r, batch*seq, s.Vocab)
		var halves [2][]int32
		var counted [2]float64
		for _, w := range targets {
			h := r.IntN(3) / 2
			counted[h]++
			halves[h] = append(halves[h], w)
			halves[1-h] = append(halves[1-h], model.Ignored)
		}
		tr := m.NewTrace(batch * seq)
		defer tr.Close()
		all, sum := model.NewParams(s), model.NewParams(s)
		defer all.Close()
		defer sum.Close()
		want, err := tr.Backward(all, ids, targets, batch, 1, false)
		if err != nil {
			t.Fatal(err)
		}
		got := 0.0
		for h, half := range halves {
			share := counted[h] / (batch * seq)
			loss, err := tr.Backward(sum, ids, half, batch, share, h > 0)
			if err != nil {
				t.Fatal(err)
			}
			if alone, err := tr.Loss(ids, half, batch); err != nil || alone != loss {
				t.Errorf("%s: loss %v, %v, with gradients %v", isa, alone, err, loss)
			}
			got += share * loss
		}
		if !(math.Abs(got-want) <= 1e-6*want) {
			t.Errorf("%s: the halves' losses make %v, want %v", isa, got, want)
		}
		var diff, norm float64
		for i, g := range all.Data {
			diff += math.Pow(float64(sum.Data[i]-g), 2)
			norm += math.Pow(float64(g), 2)
		}
		if !(diff <= 1e-10*norm) {
			t.Errorf("%s: the halves' gradients are %v of their size away from those of all targets", isa, math.Sqrt(diff/norm))
		}

		none := make([]int32, batch*seq)
		for i := range none {
			none[i] = model.Ignored
		}
		loss, err := tr.Backward(sum, ids, none, batch, 1, false)
		if err != nil || loss != 0 {
			t.Errorf("%s: no target: loss %v, %v, want 0", isa, loss, err)
		}
		for i, g := range sum.Data {
			if g != 0 {
				t.Fatalf("%s: no target: gradient %d is %v", isa, i, g)
			}
		}
		if _, err := tr.Backward(sum, ids, append(none[1:], -2), batch, 1, false); err == nil || !strings.Contains(err.Error(), "-1 where there is none") {
			t.Errorf("a target of -2: %v", err)
		}
	}
}
