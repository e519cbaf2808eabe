package decode

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// byDefinition chooses with the whole vocabulary sorted: the likeliest token
// first, equal ones by id. Where every token stays, they are summed by id. It
// also tells how far, as a share of the sum, any decision is from going the
// other way: what the order of summation can change.
func byDefinition(logits []float32, s Sampling, u float64) (token int32, margin float64) {
	order := make([]int, len(logits))
	for i := range order {
		order[i] = i
	}
	topP := s.TopP > 0 && s.TopP < 1
	top := float64(slices.Max(logits))
	if topP || s.TopK > 0 && s.TopK < len(logits) {
		slices.SortStableFunc(order, func(a, b int) int {
			switch {
			case logits[a] > logits[b]:
				return -1
			case logits[a] < logits[b]:
				return 1
			}
			return 0
		})
		if s.TopK > 0 && s.TopK < len(order) {
			order = order[:s.TopK]
		}
	}
	var probs []float64
	sum := 0.0
	for _, i := range order {
		p := math.Exp((float64(logits[i]) - top) / s.Temperature)
		probs = append(probs, p)
		sum += p
	}
	margin = 1
	if topP {
		kept := 0.0
		for n, p := range probs {
			kept += p
			margin = min(margin, math.Abs(kept-s.TopP*sum)/sum)
			if kept >= s.TopP*sum {
				probs, sum = probs[:n+1], kept
				break
			}
		}
	}
	left := u * sum
	for n, p := range probs {
		left -= p
		margin = min(margin, math.Abs(left)/sum)
		if left < 0 {
			return int32(order[n]), margin
		}
	}
	return int32(order[len(probs)-1]), margin
}

// Choosing without sorting gives what the sorted vocabulary gives.
func TestSamplingDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 400).Draw(t, "n")
		r := rand.New(rand.NewPCG(1, rapid.Uint64().Draw(t, "seed")))
		spread := rapid.SampledFrom([]float64{0, 0.1, 3, 30, 1000}).Draw(t, "spread")
		steps := rapid.SampledFrom([]float64{1, 1 << 20}).Draw(t, "steps") // few give equal logits
		logits := make([]float32, n)
		for i := range logits {
			logits[i] = float32(math.Round(steps*spread*r.NormFloat64()) / steps)
		}
		s := Sampling{
			Temperature: rapid.SampledFrom([]float64{1e-300, 0.1, 1, 5, 1e300}).Draw(t, "temperature"),
			TopK:        rapid.SampledFrom([]int{0, 2, 3, 17, 399, 1000}).Draw(t, "top-k"),
			TopP:        rapid.SampledFrom([]float64{0, 1e-9, 0.1, 0.5, 0.9, 0.999, 1 - 0x1p-53, 1}).Draw(t, "top-p"),
		}
		sampler := newSampler(s, 0, len(logits))
		for range 5 {
			u := r.Float64()
			want, margin := byDefinition(logits, s, u)
			// A sum of 400 terms is good to 400 roundings.
			if got := sampler.pick(logits, u); got != want && margin > 400*0x1p-53 {
				t.Fatalf("%+v, u = %v: token %d, want %d (margin %v)", s, u, got, want, margin)
			}
		}
	})
}

// Frequencies are the probabilities: the draw itself is sound.
func TestSamplingFrequencies(t *testing.T) {
	logits := []float32{0, 1, -1, 2, 1}
	for _, tt := range []struct {
		s    Sampling
		keep []int // tokens that can come
	}{
		{Sampling{Temperature: 0.8}, []int{0, 1, 2, 3, 4}},
		{Sampling{Temperature: 0.8, TopK: 3}, []int{1, 3, 4}},
		{Sampling{Temperature: 0.8, TopK: 2}, []int{1, 3}},
		{Sampling{Temperature: 0.8, TopP: 0.6}, []int{1, 3}},
		{Sampling{Temperature: 0.8, TopK: 4, TopP: 0.9}, []int{1, 3, 4}},
	} {
		sum := 0.0
		for _, i := range tt.keep {
			sum += math.Exp(float64(logits[i]) / 0.8)
		}
		const draws = 20000
		count := make([]float64, len(logits))
		s := newSampler(tt.s, 3, len(logits))
		for range draws {
			count[s.next(logits)]++
		}
		for i, c := range count {
			p := 0.0
			if slices.Contains(tt.keep, i) {
				p = math.Exp(float64(logits[i])/0.8) / sum
			}
			if d := math.Abs(c - draws*p); d > 5*math.Sqrt(draws*p*(1-p)) {
				t.Errorf("%+v: token %d came %v times of %d, want about %.0f", tt.s, i, c, draws, draws*p)
			}
		}
	}
}

// Logits that are not finite choose some token of the vocabulary.
func TestSamplingNaN(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, logits := range [][]float32{{nan, nan}, {1, nan, 2}, {nan, 1}, {inf, 1, inf}, {-inf, -inf}, {0}} {
		for _, s := range []Sampling{{Temperature: 1}, {Temperature: 1, TopK: 2}, {Temperature: 1, TopP: 0.5}, {Temperature: 1, TopK: 2, TopP: 0.5}} {
			if got := newSampler(s, 0, len(logits)).next(logits); got < 0 || int(got) >= len(logits) {
				t.Errorf("%v, %+v: token %d", logits, s, got)
			}
		}
	}
}

func BenchmarkSampling(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	logits := make([]float32, 32000)
	for i := range logits {
		logits[i] = float32(2 * r.NormFloat64())
	}
	for name, s := range map[string]Sampling{"plain": {Temperature: 1}, "top-k 40": {Temperature: 1, TopK: 40}, "top-p 0.9": {Temperature: 1, TopP: 0.9}} {
		b.Run(name, func(b *testing.B) {
			sampler := newSampler(s, 0, len(logits))
			for b.Loop() {
				sampler.next(logits)
			}
		})
		b.Run(name+", sorted", func(b *testing.B) {
			for b.Loop() {
				byDefinition(logits, s, 0.5)
			}
		})
	}
}
