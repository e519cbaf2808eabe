package model

import (
	"fmt"
	"slices"

	"github.com/structuredffn/sffn/gen/plan"
)

// Logits calls emit with the logits after every token of a sequence, in order:
// a few rows [rows, vocab] at a time, valid until emit returns. One pass over
// all tokens computes them. cached takes them through a [Decoder] instead: about
// the first half of the tokens in pieces of 1, 2, 3, .., the rest one by one.
// Both give the same bits.
func (t *Model) Logits(ids []int32, cached bool, emit func(logits []float32) error) error {
	if n := len(ids); n < 1 || n > t.Spec.MaxPositions {
		return fmt.Errorf("model: a sequence of %d tokens, the model takes 1 to %d", n, t.Spec.MaxPositions)
	}
	if cached {
		return t.cachedLogits(ids, emit)
	}
	tr := t.NewRecomputingTrace(len(ids)) // the layers share one set of activations
	defer tr.Close()
	if _, err := tr.check(ids, nil, 1); err != nil {
		return err
	}
	tr.forward(ids, 1, len(ids))
	h := t.Spec.Hidden
	for r := 0; r < len(ids); r += plan.HeadRows {
		n := min(plan.HeadRows, len(ids)-r)
		t.head.Forward(tr.logits, tr.final[r*h:(r+n)*h], nil, n, nil, tr.ws)
		if err := emit(tr.logits[:n*t.Spec.Vocab]); err != nil {
			return err
		}
	}
	return nil
}

func (t *Model) cachedLogits(ids []int32, emit func([]float32) error) error {
	d, err := t.NewDecoder(1, len(ids))
	if err != nil {
		return err
	}
	defer d.Close()
	if err := t.CheckTokens(ids); err != nil {
		return fmt.Errorf("model: input %w", err)
	}
	var all []float32
	for at, n := 0, 1; at < len(ids); at, n = at+n, n+1 {
		if at+n > len(ids)/2 {
			n = 1
		}
		logits, err := d.Feed([]int{0}, [][]int32{ids[at : at+n]})
		if err != nil {
			return err
		}
		if n > 1 { // Feed has those of the last row; the norms of all are still there
			all = slices.Grow(all[:0], n*t.Spec.Vocab)
			logits = all[:n*t.Spec.Vocab]
			t.head.Forward(logits, d.norm, nil, n, nil, d.ws)
		}
		if err := emit(logits); err != nil {
			return err
		}
	}
	return nil
}
