package eval

import (
	"fmt"
	"math"
	"math/bits"
)

// counts predict a token from the order tokens before it, from counts to which
// the next shorter context adds one more, spread as it predicts:
//
//	P(w | c) = (count(c w) + P(w | c')) / (count(c) + 1)
//
// where c' is c without its oldest token; below the empty context lies
// 1/vocab.
type counts struct {
	order, vocab int
	width        uint // bits a token
	levels       []level
}

// level holds the counts of contexts of one length.
type level struct {
	follow   map[uint64]uint32 // of context and token
	contexts map[uint64]uint32
}

// newCounts counts the tokens of a training text.
func newCounts(order, vocab int, text []int32) (*counts, error) {
	m := &counts{order: order, vocab: vocab, width: uint(bits.Len(uint(vocab - 1)))}
	if need := m.width * uint(order+1); order < 0 || need > 64 {
		return nil, fmt.Errorf("a table of order %d over %d tokens has keys of %d bits, want at most 64", order, vocab, need)
	}
	for k := range order + 1 {
		l := level{map[uint64]uint32{}, map[uint64]uint32{}}
		mask := uint64(1)<<(m.width*uint(k)) - 1
		var context uint64
		for i, w := range text {
			if i >= k {
				l.follow[context<<m.width|uint64(w)]++
				l.contexts[context]++
			}
			context = (context<<m.width | uint64(w)) & mask
		}
		m.levels = append(m.levels, l)
	}
	return m, nil
}

// loss is the mean cross entropy in nats of targets after ids, sequences of
// seq tokens; the context does not reach across sequences. Targets of -1 are
// left out.
func (m *counts) loss(ids, targets []int32, seq int) float64 {
	sum, counted := 0.0, 0
	for i, w := range targets {
		if w < 0 {
			continue
		}
		known := min(i%seq+1, m.order)
		sum -= math.Log(m.prob(ids[i+1-known:i+1], w))
		counted++
	}
	return sum / float64(max(1, counted))
}

func (m *counts) prob(context []int32, w int32) float64 {
	p := 1 / float64(m.vocab)
	for k := 0; k <= len(context); k++ {
		var key uint64
		for _, t := range context[len(context)-k:] {
			key = key<<m.width | uint64(t)
		}
		n := float64(m.levels[k].follow[key<<m.width|uint64(w)])
		p = (n + p) / (float64(m.levels[k].contexts[key]) + 1)
	}
	return p
}
