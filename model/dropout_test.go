package model_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/structuredffn/sffn/internal/modeltest"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// Gradients are those of the loss with the same entries dropped.
func TestDropoutGradients(t *testing.T) {
	isas := kernel.Available()
	for seed := range 10 {
		s := rapid.Custom(drawSpec).Example(seed + 40)
		t.Run(fmt.Sprintf("%d_%s_%s_%s", seed, s.Kind, s.Act, s.Norm), func(t *testing.T) {
			testGradients(t, s, isas[seed%len(isas)], 2, 9, model.Dropout{P: 0.3, Seed: uint64(seed), Step: 5, Micro: 1})
		})
	}
}

// What is dropped is the same for any number of threads and with recomputation, and
// other with another seed, step or micro-batch; a loss without a backward pass drops
// nothing.
func TestDropout(t *testing.T) {
	for _, s := range modeltest.Forms {
		r := rand.New(rand.NewPCG(6, 6))
		const batch, seq = 4, 70
		ids, targets := modeltest.Tokens(r, batch*seq, s.Vocab), modeltest.Tokens(r, batch*seq, s.Vocab)
		run := func(d model.Dropout, threads int, recompute bool) (loss, whole float64, data []float32) {
			m := modeltest.Build(t, s, "", threads)
			tr := m.NewTrace(batch * seq)
			if recompute {
				tr.Close()
				tr = m.NewRecomputingTrace(batch * seq)
			}
			defer tr.Close()
			grads := model.NewParams(s)
			defer grads.Close()
			tr.SetDropout(d)
			loss, err := tr.Backward(grads, ids, targets, batch, 1, false)
			if err == nil {
				whole, err = tr.Loss(ids, targets, batch)
			}
			if err != nil {
				t.Fatal(err)
			}
			return loss, whole, slices.Clone(grads.Data)
		}
		d := model.Dropout{P: 0.1, Seed: 1, Step: 2, Micro: 3}
		plain, undropped, _ := run(model.Dropout{}, 1, false)
		loss, whole, grads := run(d, 1, false)
		if plain != undropped || whole != plain || loss == plain {
			t.Errorf("%s: the loss is %v, with dropout %v, then without a backward pass %v", s.Name, plain, loss, whole)
		}
		for _, threads := range []int{1, 2, 3, 16} {
			for _, recompute := range []bool{false, true} {
				if again, _, g := run(d, threads, recompute); again != loss || !slices.Equal(g, grads) {
					t.Errorf("%s: %d threads, recomputed %v: other bits", s.Name, threads, recompute)
				}
			}
		}
		for _, other := range []model.Dropout{{P: 0.1, Seed: 2, Step: 2, Micro: 3}, {P: 0.1, Seed: 1, Step: 3, Micro: 3}, {P: 0.1, Seed: 1, Step: 2, Micro: 2}, {P: 0.2, Seed: 1, Step: 2, Micro: 3}, {P: 0.1, Seed: 1, Step: 2 + 1<<32, Micro: 3}} {
			if again, _, _ := run(other, 1, false); again == loss {
				t.Errorf("%s: %+v drops what %+v does", s.Name, other, d)
			}
		}
	}
}
