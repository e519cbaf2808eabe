package decode_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/structuredffn/sffn/internal/modeltest"
	"github.com/structuredffn/sffn/model/decode"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// The logits of every token, in one pass or through the cache, are those of a
// trace and of a decoder that is fed token by token, bit for bit.
func TestLogits(t *testing.T) {
	for _, isa := range kernel.Available() {
		for _, s := range modeltest.Forms {
			t.Run(fmt.Sprintf("%s/%s", isa, s.Name), func(t *testing.T) {
				m := decode.Of(modeltest.Build(t, s, isa, 2))
				ids := modeltest.Tokens(rand.New(rand.NewPCG(8, 8)), 290, s.Vocab) // more than one block of keys, and of the head's rows
				for _, n := range []int{1, 2, 3, 17, 290} {
					ids := ids[:n]
					want := make([]float32, n*s.Vocab)
					tr := m.NewTrace(n)
					defer tr.Close()
					if err := tr.Logits(want, ids, 1); err != nil {
						t.Fatal(err)
					}
					dec, err := m.NewDecoder(1, n)
					if err != nil {
						t.Fatal(err)
					}
					defer dec.Close()
					for i := range ids {
						row, err := dec.Feed([]int{0}, [][]int32{ids[i : i+1]})
						if err != nil || !slices.Equal(row, want[i*s.Vocab:(i+1)*s.Vocab]) {
							t.Fatalf("%d tokens: the decoder gives other logits after token %d; %v", n, i, err)
						}
					}
					for _, cached := range []bool{false, true} {
						var got []float32
						err := m.Logits(ids, cached, func(rows []float32) error {
							got = append(got, rows...)
							return nil
						})
						if err != nil || !slices.Equal(got, want) {
							t.Errorf("%d tokens, cached %v: other logits than the trace's, %d of %d; %v", n, cached, len(got), len(want), err)
						}
					}
				}
			})
		}
	}
}

func TestLogitsErrors(t *testing.T) {
	m := decode.Of(modeltest.Build(t, modeltest.Forms[0], "", 1))
	full := errors.New("disk full")
	for _, cached := range []bool{false, true} {
		for want, ids := range map[string][]int32{
			"a sequence of 0 tokens, the model takes 1 to 300":   nil,
			"a sequence of 301 tokens, the model takes 1 to 300": make([]int32, 301),
			"token 1 is 50, want 0 to 49":                        {0, 50},
		} {
			err := m.Logits(ids, cached, func([]float32) error { return nil })
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("cached %v: got %v, want it to contain %q", cached, err, want)
			}
		}
		if err := m.Logits([]int32{1, 2}, cached, func([]float32) error { return full }); err != full {
			t.Errorf("cached %v: got %v, want the error of emit", cached, err)
		}
	}
}

// Several goroutines may compute with one model, each on what it made itself.
func TestConcurrentLogits(t *testing.T) {
	m := decode.Of(modeltest.Build(t, modeltest.Forms[0], "", 2))
	ids := modeltest.Tokens(rand.New(rand.NewPCG(1, 1)), 40, modeltest.Forms[0].Vocab)
	all := func() (rows []float32) {
		if err := m.Logits(ids, len(rows) == 0, func(logits []float32) error {
			rows = append(rows, logits...)
			return nil
		}); err != nil {
			t.Error(err)
		}
		return rows
	}
	want := all()
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for range 3 {
				if !slices.Equal(all(), want) {
					t.Error("a concurrent call gives other logits")
				}
			}
		})
	}
	wg.Wait()
}
