package eval

import (
	"fmt"
	"math"
)

// counts predict a token from the tokens before it, by contexts of up to order
// of them, from counts to which the next shorter context adds one more, spread
// as it predicts:
//
//	P(w | c) = (count(c w) + P(w | c')) / (count(c) + 1)
//
// where c' is c without its oldest token; below the empty context lies
// 1/vocab.
//
// They hold counts of what predictions of one text ask for only, so that memory
// is bounded by that text, not by the one that is counted. Contexts are told
// apart by hashes of 64 bits.
type counts struct {
	order, vocab int
	ids, targets []int32
	seq          int
	contexts     tally
	follow       tally   // of a context and a token
	before       []int32 // the last tokens that were counted
}

// newCounts makes counts for predictions of targets after ids, sequences of seq
// tokens; contexts do not reach across sequences. Targets of -1 are left out.
func newCounts(order, vocab int, ids, targets []int32, seq int) (*counts, error) {
	if order < 0 {
		return nil, fmt.Errorf("counts of order %d, want 0 or more", order)
	}
	m := &counts{order: min(order, seq), vocab: vocab, ids: ids, targets: targets, seq: seq}
	m.contexts.grow()
	m.follow.grow()
	m.each(m.order, func(context []int32, w int32) {
		key := emptyContext
		for k := 0; ; k++ {
			m.contexts.ask(key)
			m.follow.ask(extend(key, w))
			if k == len(context) {
				break
			}
			key = extend(key, older(context[len(context)-1-k]))
		}
	})
	return m, nil
}

// each calls f for the targets and what is before them, up to order tokens.
func (m *counts) each(order int, f func(context []int32, w int32)) {
	for i, w := range m.targets {
		if w >= 0 {
			known := min(i%m.seq+1, order)
			f(m.ids[i+1-known:i+1], w)
		}
	}
}

// emptyContext is the hash of the context of no tokens.
const emptyContext uint64 = 0x9e3779b97f4a7c15

// extend hashes a context with one token more: the next older one, or the one
// that follows, by the finalizer of SplitMix64 (Steele et al. 2014).
func extend(hash uint64, token int32) uint64 {
	x := hash ^ uint64(uint32(token))*0xd1342543de82ef95
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// older tells a token of a context from the one that follows it.
func older(token int32) int32 { return ^token }

// add counts tokens of a training text, behind those of the call before.
func (m *counts) add(text []int32) {
	known := len(m.before)
	text = append(m.before, text...)
	for i := known; i < len(text); i++ {
		key := emptyContext
		for k := 0; ; k++ {
			if !m.contexts.add(key) {
				break // nor were the longer ones asked for, each of which asks for this one
			}
			m.follow.add(extend(key, text[i]))
			if k == m.order || k == i {
				break
			}
			key = extend(key, older(text[i-1-k]))
		}
	}
	m.before = append([]int32(nil), text[max(0, len(text)-m.order):]...)
}

// loss is the mean cross entropy, in nats, of the targets by contexts of up to
// order tokens.
func (m *counts) loss(order int) float64 {
	sum, counted := 0.0, 0
	m.each(min(order, m.order), func(context []int32, w int32) {
		sum -= math.Log(m.prob(context, w))
		counted++
	})
	return sum / float64(max(1, counted))
}

// prob is the probability of a token that predictions ask for in a context.
func (m *counts) prob(context []int32, w int32) float64 {
	p := 1 / float64(m.vocab)
	key := emptyContext
	for k := 0; ; k++ {
		n := float64(m.follow.count(extend(key, w)))
		p = (n + p) / (float64(m.contexts.count(key)) + 1)
		if k == len(context) {
			return p
		}
		key = extend(key, older(context[len(context)-1-k]))
	}
}

// tally counts the keys that were asked for, none of which is 0: an open-addressed
// table, at most half full, which a map of the language is several times slower
// than.
type tally struct {
	slots []slot // a power of two of them
	used  int
}

type slot struct {
	key uint64 // 0 where it is free
	n   uint32
}

// find returns the slot of a key, or the free one where it would be.
func (t *tally) find(key uint64) *slot {
	for i := key; ; i++ {
		if s := &t.slots[i&uint64(len(t.slots)-1)]; s.key == key || s.key == 0 {
			return s
		}
	}
}

func (t *tally) grow() {
	old := t.slots
	t.slots = make([]slot, max(16, 2*len(old)))
	for _, s := range old {
		if s.key != 0 {
			*t.find(s.key) = s
		}
	}
}

// ask has a key counted from now on.
func (t *tally) ask(key uint64) {
	if 2*t.used >= len(t.slots) {
		t.grow()
	}
	if s := t.find(key); s.key == 0 {
		s.key = key
		t.used++
	}
}

// add counts a key once more, and tells whether it was asked for.
func (t *tally) add(key uint64) bool {
	s := t.find(key)
	if s.key == 0 {
		return false
	}
	s.n++
	return true
}

func (t *tally) count(key uint64) uint32 { return t.find(key).n }
