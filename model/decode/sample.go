package decode

import (
	"fmt"
	"math"
	"math/rand/v2"
)

// Sampling says how the next token is chosen. The zero value is greedy.
type Sampling struct {
	// Temperature divides the logits; 0 takes the likeliest token.
	Temperature float64
	// TopK keeps the k likeliest tokens, 0 all of them.
	TopK int
	// TopP keeps the likeliest tokens that together reach this probability,
	// 0 or 1 all of them.
	TopP float64
	Seed uint64
}

// Validate reports a setting out of range.
func (s Sampling) Validate() error {
	switch {
	case !(s.Temperature >= 0) || math.IsInf(s.Temperature, 0):
		return fmt.Errorf("temperature: %v is out of range, want 0 (greedy) or more", s.Temperature)
	case s.TopK < 0:
		return fmt.Errorf("top-k: %d is out of range, want 0 (all) or more", s.TopK)
	case !(s.TopP >= 0 && s.TopP <= 1):
		return fmt.Errorf("top-p: %v is out of range, want 0 (all) to 1", s.TopP)
	}
	return nil
}

// sampler chooses the tokens of one sequence. Each has its own generator, so
// that a batch draws what single sequences would.
//
// Every token takes one uniform number u. It is the first of the candidates
// whose probabilities, summed in float64 up to its own, exceed u times the sum
// of all candidates'. Without top-k and top-p the candidates are all tokens in
// the order of their ids; otherwise those that are kept, the likeliest first,
// equal ones by id. Nothing sorts the whole vocabulary.
type sampler struct {
	Sampling
	rng *rand.Rand
	// ids are the candidates and probs their probabilities, relative to the
	// likeliest token's; all are those of the vocabulary.
	ids        []int32
	probs, all []float64
	heap       likeliest
}

// newSampler returns the sampler of a sequence, with room for a vocabulary.
func newSampler(s Sampling, seq, vocab int) *sampler {
	return &sampler{Sampling: s, rng: rand.New(rand.NewPCG(s.Seed, uint64(seq))),
		ids: make([]int32, 0, vocab), probs: make([]float64, 0, vocab), all: make([]float64, 0, vocab),
		heap: likeliest{ids: make([]int32, 0, vocab)}}
}

func (s *sampler) next(logits []float32) int32 {
	if s.Temperature == 0 || s.TopK == 1 {
		return int32(argmax(logits))
	}
	return s.pick(logits, s.rng.Float64())
}

// pick chooses the token of the number u in [0, 1).
func (s *sampler) pick(logits []float32, u float64) int32 {
	top := argmax(logits)
	prob := func(id int32) float64 {
		return math.Exp((float64(logits[id]) - float64(logits[top])) / s.Temperature)
	}
	s.ids, s.probs = s.ids[:0], s.probs[:0]
	s.heap.reset(logits)
	if s.TopK > 0 && s.TopK < len(logits) {
		for id := range logits {
			s.heap.ids = append(s.heap.ids, int32(id))
		}
		s.heap.order()
		for range s.TopK {
			id := s.heap.pop()
			s.ids, s.probs = append(s.ids, id), append(s.probs, prob(id))
		}
		sum := total(s.probs)
		if s.nucleus() {
			n, kept := 0, 0.0
			for n < len(s.probs) && (n == 0 || kept < s.TopP*sum) {
				kept += s.probs[n]
				n++
			}
			s.ids, s.probs = s.ids[:n], s.probs[:n]
		}
		return s.ids[draw(s.probs, u)]
	}
	s.all = s.all[:0]
	for id := range logits {
		s.all = append(s.all, prob(int32(id)))
	}
	if !s.nucleus() {
		return int32(draw(s.all, u))
	}
	// A token is kept if those before it sum to less than TopP of all: then it
	// and those after it make up more than 1-TopP. Unless it is the first, these
	// are at most n-1, none more probable than itself, so that its probability
	// is above (1-TopP)/(n-1) of the sum; all others need no order.
	sum := total(s.all)
	least := (1 - s.TopP) * sum / float64(len(logits)-1)
	for id, p := range s.all {
		if p >= least || id == top {
			s.heap.ids = append(s.heap.ids, int32(id))
		}
	}
	s.heap.order()
	for kept := 0.0; len(s.heap.ids) > 0 && (len(s.ids) == 0 || kept < s.TopP*sum); {
		id := s.heap.pop()
		kept += s.all[id]
		s.ids, s.probs = append(s.ids, id), append(s.probs, s.all[id])
	}
	return s.ids[draw(s.probs, u)]
}

// nucleus reports whether TopP leaves out anything.
func (s *sampler) nucleus() bool { return s.TopP > 0 && s.TopP < 1 }

// draw is the first entry up to which p sums to more than u times all of it.
// There is one, because u*sum rounds to less than the sum, which was summed in
// the same order; the last one serves for what is not finite.
func draw(p []float64, u float64) int {
	at, sum := u*total(p), 0.0
	for i, v := range p {
		if sum += v; sum > at {
			return i
		}
	}
	return len(p) - 1
}

func total(p []float64) float64 {
	sum := 0.0
	for _, v := range p {
		sum += v
	}
	return sum
}

// likeliest is a heap of tokens, from which the likeliest comes first.
type likeliest struct {
	logits []float32
	ids    []int32
}

func (h *likeliest) reset(logits []float32) { h.logits, h.ids = logits, h.ids[:0] }

// order makes a heap of the ids.
func (h *likeliest) order() {
	for i := len(h.ids)/2 - 1; i >= 0; i-- {
		h.down(i)
	}
}

func (h *likeliest) pop() int32 {
	id, last := h.ids[0], len(h.ids)-1
	h.ids[0] = h.ids[last]
	h.ids = h.ids[:last]
	h.down(0)
	return id
}

// down moves the token at i below all that come before it.
func (h *likeliest) down(i int) {
	for {
		first := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(h.ids); child++ {
			if h.before(h.ids[child], h.ids[first]) {
				first = child
			}
		}
		if first == i {
			return
		}
		h.ids[i], h.ids[first] = h.ids[first], h.ids[i]
		i = first
	}
}

func (h *likeliest) before(a, b int32) bool {
	x, y := h.logits[a], h.logits[b]
	return x > y || x == y && a < b
}

func argmax(x []float32) int {
	best := 0
	for i, v := range x {
		if v > x[best] {
			best = i
		}
	}
	return best
}
