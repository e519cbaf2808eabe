package decode_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
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

// Windows just below, at and above blocks of keys, of heads that are wider than their
// share of the residual stream: the bits of a full pass come from the cache, row by row
// and in pieces, and a window as long as the text sees all of it.
func TestWindows(t *testing.T) {
	s := spec.Model{Name: "windows", Vocab: 31, Hidden: 64, FFN: 48, Layers: 3, AttnDim: 128, QHeads: 4, KVHeads: 2, MaxPositions: 300, Kind: spec.Dense,
		Act: spec.SwiGLU, Norm: spec.RMSNorm, NormEps: 1e-6, QKNorm: true, Position: spec.RoPE, RotaryBase: 1e4, InitStd: 0.2}
	const n = 2*kernel.KeyBlock + 30
	ids := modeltest.Tokens(rand.New(rand.NewPCG(8, 8)), n, s.Vocab)
	logits := func(window int, layers spec.Layers) []float32 {
		s := s
		s.Window, s.WindowLayers = window, layers
		m := decode.Of(modeltest.Build(t, s, "", 2))
		want := make([]float32, n*s.Vocab)
		tr := m.NewTrace(n)
		defer tr.Close()
		if err := tr.Logits(want, ids, 1); err != nil {
			t.Fatal(err)
		}
		for _, piece := range []int{1, 50} {
			dec, err := m.NewDecoder(1, n)
			if err != nil {
				t.Fatal(err)
			}
			defer dec.Close()
			for at := 0; at < n; at += piece {
				end := min(n, at+piece)
				row, err := dec.Feed([]int{0}, [][]int32{ids[at:end]})
				if err != nil || !slices.Equal(row, want[(end-1)*s.Vocab:end*s.Vocab]) {
					t.Fatalf("a window of %d, %d tokens at a time: other logits after token %d; %v", window, piece, end-1, err)
				}
			}
		}
		return want
	}
	all := logits(0, "")
	for _, window := range []int{1, kernel.KeyBlock - 1, kernel.KeyBlock, kernel.KeyBlock + 1, 2*kernel.KeyBlock - 1, 2 * kernel.KeyBlock, 2*kernel.KeyBlock + 1, n} {
		got := logits(window, "")
		same := min(n, window) * s.Vocab // before the window leaves anything behind
		if !slices.Equal(got[:same], all[:same]) {
			t.Errorf("a window of %d: other logits where it sees everything", window)
		}
		if window < n && slices.Equal(got[same:same+s.Vocab], all[same:same+s.Vocab]) {
			t.Errorf("a window of %d: the same logits as without one", window)
		}
	}
	// In some layers only: neither the one nor the other.
	const window = kernel.KeyBlock + 1
	some, every := logits(window, "0 2"), logits(window, "")
	if slices.Equal(some[window*s.Vocab:], every[window*s.Vocab:]) || slices.Equal(some[window*s.Vocab:], all[window*s.Vocab:]) {
		t.Error("a window in two of three layers: the logits of one in all, or in none")
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
