package model_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/plan/cpu"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/modeltest"
	"github.com/structuredffn/sffn/model/decode"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// A model below, at and above the thresholds that are its own: every gradient
// against differences of losses, the loss against the logits, and the bits of
// the logits through the cache and on other numbers of threads.
func TestThresholds(t *testing.T) {
	isa := kernel.Available()[0]
	walked := 0
	for _, threshold := range cpu.Thresholds(kernel.For(isa), 2) {
		for n := threshold.At - 1; n <= threshold.At+1; n++ {
			for _, s := range modeltest.Forms {
				s.Layers, s.WindowLayers = 1, ""
				seq := 7
				switch threshold.Axis {
				case plan.AxisTokens:
					seq = n
				case plan.AxisWidth:
					s.Hidden, s.FFN, s.Rank, s.Blocks = n, n, min(s.Rank, n), min(s.Blocks, 1)
				default:
					continue
				}
				walked++
				t.Run(fmt.Sprintf("%s_%d/%s", threshold.Axis, n, s.Name), func(t *testing.T) {
					testGradients(t, s, isa, 1, seq)
					testPasses(t, s, seq)
				})
			}
		}
	}
	if walked == 0 {
		t.Error("no threshold is a model's")
	}
}

// testPasses compares the ways of computing logits and losses of one sequence.
func testPasses(t *testing.T, s spec.Model, seq int) {
	t.Helper()
	r := rand.New(rand.NewPCG(4, uint64(seq)))
	ids, targets := modeltest.Tokens(r, seq, s.Vocab), modeltest.Tokens(r, seq, s.Vocab)
	var first []float32
	var loss float64
	for _, threads := range []int{1, 2, 3} {
		m := modeltest.Build(t, s, "", threads)
		logits := fullLogits(t, m, ids)
		tr := m.NewTrace(seq)
		defer tr.Close()
		got, err := tr.Loss(ids, targets, 1)
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first, loss = logits, got
			want := 0.0
			for i, target := range targets {
				row := logits[i*s.Vocab:][:s.Vocab]
				sum := 0.0
				for _, v := range row {
					sum += math.Exp(float64(v))
				}
				want += (math.Log(sum) - float64(row[target])) / float64(seq)
			}
			// Each of vocab terms of a row's sum is good to 2e-6.
			if math.Abs(got-want) > 4e-6*(1+want) {
				t.Errorf("the loss of %d tokens is %v, the logits say %v", seq, got, want)
			}
		}
		equalBits(t, fmt.Sprintf("logits of %d tokens, %d threads", seq, threads), logits, first)
		if got != loss {
			t.Errorf("the loss of %d tokens is %v with %d threads, %v with 1", seq, got, threads, loss)
		}
		at := 0
		if err := decode.Of(m).Logits(ids, true, func(rows []float32) error {
			equalBits(t, fmt.Sprintf("logits from token %d of %d, cached, %d threads", at/s.Vocab, seq, threads), rows, first[at:at+len(rows)])
			at += len(rows)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
}
