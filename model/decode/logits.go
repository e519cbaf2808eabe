package decode

import (
	"fmt"
	"slices"
)

// Logits calls emit with the logits after every token of a sequence, in order:
// a few rows [rows, vocab] at a time, valid until emit returns. One pass over
// all tokens computes them. cached takes them through a [Decoder] instead: about
// the first half of the tokens in pieces of 1, 2, 3, .., the rest one by one.
// Both give the same bits.
func (m *Model) Logits(ids []int32, cached bool, emit func(logits []float32) error) error {
	if n := len(ids); n < 1 || n > m.Spec.MaxPositions {
		return fmt.Errorf("decode: a sequence of %d tokens, the model takes 1 to %d", n, m.Spec.MaxPositions)
	}
	if cached {
		return m.cachedLogits(ids, emit)
	}
	tr := m.NewRecomputingTrace(len(ids)) // the layers share one set of activations
	defer tr.Close()
	return tr.EachLogits(ids, emit)
}

func (m *Model) cachedLogits(ids []int32, emit func([]float32) error) error {
	d, err := m.NewDecoder(1, len(ids))
	if err != nil {
		return err
	}
	defer d.Close()
	if err := m.CheckTokens(ids); err != nil {
		return fmt.Errorf("decode: input %w", err)
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
			all = slices.Grow(all[:0], n*m.Spec.Vocab)
			logits = all[:n*m.Spec.Vocab]
			d.pass.Head(logits, d.act.Norm1, n)
		}
		if err := emit(logits); err != nil {
			return err
		}
	}
	return nil
}
