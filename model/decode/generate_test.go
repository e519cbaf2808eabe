package decode_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/internal/modeltest"
	"github.com/structuredffn/sffn/model/decode"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// Decoding with the cache, in pieces of any length, equals one full pass; and
// a batch equals its sequences one by one.
func TestDecoder(t *testing.T) {
	for _, isa := range kernel.Available() {
		for _, s := range modeltest.Forms {
			t.Run(fmt.Sprintf("%s/%s", isa, s.Name), func(t *testing.T) {
				m := modeltest.Build(t, s, isa, 2)
				r := rand.New(rand.NewPCG(8, 8))
				const n, seqs = 290, 3 // more than one block of keys
				tr := m.NewTrace(n)
				defer tr.Close()
				dec, err := decode.Of(m).NewDecoder(seqs, n)
				if err != nil {
					t.Fatal(err)
				}
				defer dec.Close()
				var ids [seqs][]int32
				var full [seqs][]float32
				for i := range ids {
					ids[i] = modeltest.Tokens(r, n, s.Vocab)
					full[i] = make([]float32, n*s.Vocab)
					if err := tr.Logits(full[i], ids[i], 1); err != nil {
						t.Fatal(err)
					}
				}
				var at [seqs]int
				for at[0] < n || at[1] < n || at[2] < n {
					var who []int
					var next [][]int32
					for i := range ids {
						if left := n - at[i]; left > 0 && r.IntN(3) > 0 {
							k := 1 + r.IntN(min(left, 1+at[i]))
							who, next = append(who, i), append(next, ids[i][at[i]:at[i]+k])
							at[i] += k
						}
					}
					logits, err := dec.Feed(who, next)
					if err != nil {
						t.Fatal(err)
					}
					for j, i := range who {
						modeltest.Near(t, fmt.Sprintf("sequence %d at %d", i, at[i]), logits[j*s.Vocab:(j+1)*s.Vocab], full[i][(at[i]-1)*s.Vocab:at[i]*s.Vocab])
						if dec.Len(i) != at[i] {
							t.Fatalf("the decoder holds %d tokens, want %d", dec.Len(i), at[i])
						}
					}
				}
				// What is truncated leaves no trace.
				dec.Truncate(1, 20)
				logits, err := dec.Feed([]int{1}, [][]int32{ids[1][20:25]})
				if err != nil {
					t.Fatal(err)
				}
				modeltest.Near(t, "truncated", logits, full[1][24*s.Vocab:25*s.Vocab])
				if _, err := dec.Feed([]int{0}, [][]int32{{1}}); err == nil || !strings.Contains(err.Error(), "there is room for 290") {
					t.Errorf("a full decoder: %v", err)
				}
			})
		}
	}
}

// Generating a batch gives what its prompts give alone, greedy or sampled.
func TestGenerateBatch(t *testing.T) {
	m := modeltest.Build(t, modeltest.Forms[0], kernel.Available()[0], 2)
	r := rand.New(rand.NewPCG(8, 8))
	prompts := [][]int32{modeltest.Tokens(r, 3, 50), modeltest.Tokens(r, 17, 50), modeltest.Tokens(r, 1, 50)}
	generate := func(prompts [][]int32, s decode.Sampling) [][]int32 {
		dec, err := decode.Of(m).NewDecoder(len(prompts), 17+40-1) // the last token takes no room
		if err != nil {
			t.Fatal(err)
		}
		defer dec.Close()
		out := make([][]int32, len(prompts))
		if err := dec.Generate(prompts, 40, -1, s, func(i int, id int32) bool {
			out[i] = append(out[i], id)
			return true
		}); err != nil {
			t.Fatal(err)
		}
		return out
	}
	all := generate(prompts, decode.Sampling{})
	for i := range prompts {
		if one := generate(prompts[i:i+1], decode.Sampling{})[0]; !slices.Equal(one, all[i]) || len(one) != 40 {
			t.Errorf("prompt %d alone gives %v, in a batch %v", i, one, all[i])
		}
	}
	s := decode.Sampling{Temperature: 1, TopK: 20, TopP: 0.9, Seed: 4}
	a := generate(prompts, s)
	if !slices.EqualFunc(a, generate(prompts, s), slices.Equal) {
		t.Error("the same seed gives two texts")
	}
	if one := generate(prompts[:1], s)[0]; !slices.Equal(one, a[0]) {
		t.Error("sampling depends on the rest of the batch")
	}
	s.Seed = 5
	if slices.EqualFunc(a, generate(prompts, s), slices.Equal) {
		t.Error("two seeds give the same text")
	}
	if slices.EqualFunc(a, all, slices.Equal) {
		t.Error("sampling is greedy")
	}
	if top1 := generate(prompts, decode.Sampling{Temperature: 2, TopK: 1}); !slices.EqualFunc(top1, all, slices.Equal) {
		t.Error("top-k 1 is not greedy")
	}
	if tiny := generate(prompts, decode.Sampling{Temperature: 2, TopP: 1e-9}); !slices.EqualFunc(tiny, all, slices.Equal) {
		t.Error("a vanishing top-p is not greedy")
	}
}

// A copy of a sequence goes on as the sequence itself would, and apart from it.
func TestFork(t *testing.T) {
	for _, s := range modeltest.Forms {
		m := modeltest.Build(t, s, "", 2)
		r := rand.New(rand.NewPCG(8, 8))
		const n = 270 // more than one block of keys
		ids := modeltest.Tokens(r, n+20, s.Vocab)
		dec, err := decode.Of(m).NewDecoder(3, n+20)
		if err != nil {
			t.Fatal(err)
		}
		defer dec.Close()
		feed := func(seqs []int, ids ...[]int32) []float32 {
			logits, err := dec.Feed(seqs, ids)
			if err != nil {
				t.Fatal(err)
			}
			return slices.Clone(logits)
		}
		for _, held := range []int{n, 40, 1, 0} {
			for i := range 3 {
				dec.Truncate(i, 0)
			}
			feed([]int{1}, modeltest.Tokens(r, held+11, s.Vocab)) // what the copy replaces
			if held > 0 {
				feed([]int{2}, ids[:held])
			}
			if err := dec.Fork(1, 2); err != nil || dec.Len(1) != held {
				t.Fatalf("the copy holds %d tokens, want %d; %v", dec.Len(1), held, err)
			}
			both := feed([]int{1, 2}, ids[held:held+5], ids[held:held+5])
			if !slices.Equal(both[:s.Vocab], both[s.Vocab:]) {
				t.Errorf("%s, %d tokens: the copy goes on otherwise", s.Name, held)
			}
			feed([]int{1}, modeltest.Tokens(r, 5, s.Vocab)) // changes nothing of the other
			after := feed([]int{2}, ids[held+5:held+10])
			feed([]int{0}, ids[:held+5])
			modeltest.Near(t, s.Name+": the origin of a copy that went on", after, feed([]int{0}, ids[held+5:held+10]))
		}
		// Into a sequence that never held anything.
		fresh, err := decode.Of(m).NewDecoder(2, n)
		if err != nil {
			t.Fatal(err)
		}
		defer fresh.Close()
		if _, err := fresh.Feed([]int{0}, [][]int32{ids[:40]}); err != nil {
			t.Fatal(err)
		}
		if err := fresh.Fork(1, 0); err != nil {
			t.Fatal(err)
		}
		both, err := fresh.Feed([]int{0, 1}, [][]int32{ids[40:45], ids[40:45]})
		if err != nil || !slices.Equal(both[:s.Vocab], both[s.Vocab:]) {
			t.Errorf("%s: a fresh sequence goes on otherwise than what it is a copy of: %v", s.Name, err)
		}
		if _, err := fresh.Feed([]int{0, 1}, [][]int32{{1}}); err == nil {
			t.Error("tokens of one sequence are taken for two")
		}
		if err := dec.Fork(0, 3); err == nil || !strings.Contains(err.Error(), "sequence 3 of a batch of 3") {
			t.Errorf("a sequence that is not there: %v", err)
		}
	}
}

// Decoding allocates nothing for a token, and generating no more for a long
// text than for a short one.
func TestDecodingAllocatesNothing(t *testing.T) {
	for _, s := range modeltest.Forms {
		for _, threads := range []int{1, 2} {
			m := modeltest.Build(t, s, "", threads)
			const batch, room = 3, 280
			dec, err := decode.Of(m).NewDecoder(batch, room)
			if err != nil {
				t.Fatal(err)
			}
			defer dec.Close()
			seqs, one := []int{2, 0, 1}, [][]int32{{1}, {2}, {3}}
			feed := func() {
				if _, err := dec.Feed(seqs, one); err != nil {
					t.Fatal(err)
				}
			}
			feed()
			if n := testing.AllocsPerRun(room-10, feed); n != 0 {
				t.Errorf("%s, %d threads: a token makes %v allocations", s.Name, threads, n)
			}
			for _, how := range []decode.Sampling{{}, {Temperature: 1}, {Temperature: 1, TopK: 7}, {Temperature: 1, TopP: 0.9}} {
				allocs := func(n int) float64 {
					return testing.AllocsPerRun(3, func() {
						for i := range batch {
							dec.Truncate(i, 0)
						}
						if err := dec.Generate(one, n, -1, how, func(int, int32) bool { return true }); err != nil {
							t.Fatal(err)
						}
					})
				}
				if short, long := allocs(10), allocs(250); long != short {
					t.Errorf("%s, %d threads, %+v: a text of 250 tokens makes %v allocations, one of 10 %v", s.Name, threads, how, long, short)
				}
			}
		}
	}
}

func TestBadInput(t *testing.T) {
	m := decode.Of(modeltest.Build(t, modeltest.Forms[0], "", 1))
	for want, f := range map[string]func() error{
		"a batch of 0 sequences":   func() error { _, err := m.NewDecoder(0, 10); return err },
		"the model takes 1 to 300": func() error { _, err := m.NewDecoder(1, 301); return err },
	} {
		if err := f(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to contain %q", err, want)
		}
	}
	for _, bad := range []decode.Sampling{{Temperature: -1}, {Temperature: math.NaN()}, {TopK: -1}, {TopP: 1.5}} {
		if bad.Validate() == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}
