package eval

import (
	"math"
	"math/rand/v2"
	"testing"
)

// The probabilities of all tokens sum to 1 in any context, seen or not.
func TestSumsToOne(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	text := make([]int32, 500)
	for i := range text {
		text[i] = int32(rng.IntN(5) * rng.IntN(2))
	}
	m, err := newCounts(3, 7, text)
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		c := []int32{int32(rng.IntN(7)), int32(rng.IntN(7)), int32(rng.IntN(7))}[:rng.IntN(4)]
		sum := 0.0
		for w := range int32(7) {
			sum += m.prob(c, w)
		}
		if math.Abs(sum-1) > 1e-12 {
			t.Fatalf("after %v the probabilities sum to %v", c, sum)
		}
	}
}

// By hand: in "0 1 0 1 0", order 1, after 0 came 1 twice. The empty context
// has 5 tokens, 2 of them 1.
func TestByHand(t *testing.T) {
	m, err := newCounts(1, 4, []int32{0, 1, 0, 1, 0})
	if err != nil {
		t.Fatal(err)
	}
	unigram := (2 + 0.25) / 6
	if got, want := m.prob([]int32{0}, 1), (2+unigram)/3; math.Abs(got-want) > 1e-15 {
		t.Errorf("P(1|0) = %v, want %v", got, want)
	}
	if got, want := m.loss([]int32{0}, []int32{1}, 1), -math.Log((2+unigram)/3); math.Abs(got-want) > 1e-15 {
		t.Errorf("loss %v, want %v", got, want)
	}
	if got, want := m.loss([]int32{0, 1, 0}, []int32{1, -1, -1}, 1), -math.Log((2+unigram)/3); math.Abs(got-want) > 1e-15 {
		t.Errorf("loss %v with two targets left out, want %v", got, want)
	}
	if _, err := newCounts(9, 257, nil); err == nil {
		t.Error("keys that do not fit are no error")
	}
}
