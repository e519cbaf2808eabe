package eval

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// The probabilities of all tokens sum to 1 in any context, seen or not.
func TestSumsToOne(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	const vocab, seq = 7, 4
	text := make([]int32, 500)
	for i := range text {
		text[i] = int32(rng.IntN(5) * rng.IntN(2))
	}
	for range 100 {
		// One sequence for each token, of the same ids.
		c := make([]int32, seq)
		for i := range c {
			c[i] = int32(rng.IntN(vocab))
		}
		ids, targets := slices.Repeat(c, vocab), slices.Repeat([]int32{-1}, seq*vocab)
		at := rng.IntN(seq)
		for w := range int32(vocab) {
			targets[int(w)*seq+at] = w
		}
		m, err := newCounts(3, vocab, ids, targets, seq)
		if err != nil {
			t.Fatal(err)
		}
		m.add(text)
		sum := 0.0
		m.each(3, func(context []int32, w int32) { sum += m.prob(context, w) })
		if math.Abs(sum-1) > 1e-12 {
			t.Fatalf("after %v the probabilities sum to %v", c[:at+1], sum)
		}
	}
}

// By hand: in "0 1 0 1 0", order 1, after 0 came 1 twice. The empty context
// has 5 tokens, 2 of them 1.
func TestByHand(t *testing.T) {
	unigram := (2 + 0.25) / 6
	want := -math.Log((2 + unigram) / 3)
	for _, c := range []struct{ ids, targets []int32 }{
		{[]int32{0}, []int32{1}},
		{[]int32{0, 1, 0}, []int32{1, -1, -1}},
	} {
		m, err := newCounts(1, 4, c.ids, c.targets, len(c.ids))
		if err != nil {
			t.Fatal(err)
		}
		m.add([]int32{0, 1, 0, 1, 0})
		if got := m.loss(1); math.Abs(got-want) > 1e-15 {
			t.Errorf("the loss of %v after %v is %v, want %v", c.targets, c.ids, got, want)
		}
		if got, want := m.loss(0), -math.Log(unigram); math.Abs(got-want) > 1e-15 {
			t.Errorf("the loss of %v without context is %v, want %v", c.targets, got, want)
		}
	}
	if _, err := newCounts(-1, 257, nil, nil, 1); err == nil {
		t.Error("a negative order is no error")
	}
	if m, err := newCounts(2, 257, nil, nil, 1); err != nil || m.loss(2) != 0 {
		t.Errorf("the loss of nothing is %v, %v", m.loss(2), err)
	}
}

// mapped are the counts of all contexts of a text, by what they spell.
type mapped struct {
	order, vocab     int
	contexts, follow map[string]int
}

func newMapped(order, vocab int, text []int32) *mapped {
	m := &mapped{order, vocab, map[string]int{}, map[string]int{}}
	for i, w := range text {
		for k := range min(order, i) + 1 {
			c := fmt.Sprint(text[i-k : i])
			m.contexts[c]++
			m.follow[fmt.Sprint(c, w)]++
		}
	}
	return m
}

func (m *mapped) loss(ids, targets []int32, seq int) float64 {
	sum, counted := 0.0, 0
	for i, w := range targets {
		if w < 0 {
			continue
		}
		p := 1 / float64(m.vocab)
		for k := range min(i%seq+1, m.order) + 1 {
			c := fmt.Sprint(ids[i+1-k : i+1])
			p = (float64(m.follow[fmt.Sprint(c, w)]) + p) / (float64(m.contexts[c]) + 1)
		}
		sum -= math.Log(p)
		counted++
	}
	return sum / float64(max(1, counted))
}

// The losses are those of counts of everything, for any vocabulary and order and
// however the text comes in pieces.
func TestLikeMaps(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	for _, vocab := range []int{1, 2, 257, 50257, 1 << 24} {
		for _, order := range []int{0, 1, 2, 5, 9} {
			draw := func(n int) []int32 {
				text := make([]int32, n)
				for i := range text {
					// Few tokens, from all of the vocabulary.
					text[i] = int32(rng.IntN(1+rng.IntN(4)) * 0x3f1d7 % vocab)
				}
				return text
			}
			const seq = 16
			text, ids, targets := draw(3000), draw(10*seq), draw(10*seq)
			targets[rng.IntN(len(targets))] = -1
			m, err := newCounts(order+rng.IntN(2), vocab, ids, targets, seq)
			if err != nil {
				t.Fatal(err)
			}
			for left := text; len(left) > 0; {
				n := min(len(left), rng.IntN(20)*rng.IntN(20))
				m.add(left[:n])
				left = left[n:]
			}
			if got, want := m.loss(order), newMapped(order, vocab, text).loss(ids, targets, seq); got != want {
				t.Errorf("vocabulary %d, order %d: the loss is %v, want %v", vocab, order, got, want)
			}
		}
	}
}
