package learn

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/structuredffn/sffn/model/token/hf"
	"github.com/structuredffn/sffn/model/token/pattern"
)

// naive learns by counting all pairs anew for each merge.
func naive(expr string, texts [][]byte, ids int) (merges [][2]int32) {
	p, err := pattern.Compile(expr)
	if err != nil {
		panic(err)
	}
	var words [][]int32
	add := func(word []byte) {
		var w []int32
		for _, b := range word {
			w = append(w, int32(slices.Index(order(), b)))
		}
		words = append(words, w)
	}
	for _, text := range texts {
		at := 0
		for start, end := range p.All(text) {
			add(text[at:start])
			add(text[start:end])
			at = end
		}
		add(text[at:])
	}
	for len(merges) < ids-256 {
		counts := map[[2]int32]int{}
		for _, w := range words {
			for i := range len(w) - 1 {
				counts[[2]int32{w[i], w[i+1]}]++
			}
		}
		// Of three equal ones in a row the second pair counts too.
		var best [2]int32
		for p, n := range counts {
			if n > counts[best] || n == counts[best] && slices.Compare(p[:], best[:]) < 0 {
				best = p
			}
		}
		if counts[best] == 0 {
			break
		}
		for j, w := range words {
			out := w[:0]
			for i := 0; i < len(w); i++ {
				if i+1 < len(w) && w[i] == best[0] && w[i+1] == best[1] {
					out = append(out, int32(256+len(merges)))
					i++
				} else {
					out = append(out, w[i])
				}
			}
			words[j] = out
		}
		merges = append(merges, best)
	}
	return merges
}

func order() []byte {
	o := hf.ByteOrder()
	return o[:]
}

func each(texts [][]byte) func(func([]byte, error) bool) {
	return func(yield func([]byte, error) bool) {
		var buffer []byte
		for _, text := range texts {
			buffer = append(buffer[:0], text...)
			if !yield(buffer, nil) {
				return
			}
		}
	}
}

func TestNaive(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	for range 150 {
		alphabet := []string{"ab", "abc", "abcd ", "aé ", "aab\n ", "\xff\xfea "}[rng.IntN(6)]
		var texts [][]byte
		for range 1 + rng.IntN(8) {
			var text []byte
			for range rng.IntN(80) {
				text = append(text, bytes.Repeat([]byte{alphabet[rng.IntN(len(alphabet))]}, 1+rng.IntN(4)*rng.IntN(2))...)
			}
			texts = append(texts, text)
		}
		texts = append(texts, []byte("a"))
		ids := 256 + rng.IntN(60)
		r, err := Train(context.Background(), each(texts), Options{Vocab: ids + 1, Threads: 2})
		if err != nil {
			t.Fatal(err)
		}
		want := naive(pattern.GPT2, texts, ids)
		if fmt.Sprint(r.Model.Merges) != fmt.Sprint(want) {
			t.Fatalf("the merges of %q are %v, want %v", texts, r.Model.Merges, want)
		}
		if r.Vocab != 257+len(want) {
			t.Fatalf("%d ids with %d merges", r.Vocab, len(want))
		}
	}
}
