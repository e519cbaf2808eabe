package decode_test

import (
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/modeltest"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/decode"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/memory"
)

// A model that was loaded holds its packs, and beside them embeddings and norms:
// no weight twice, whether its networks are factors or merged.
func TestWeightsAreHeldOnce(t *testing.T) {
	pool := rt.NewPool(2)
	defer pool.Close()
	for i, s := range modeltest.Forms {
		format := kernel.Formats()[i] // that of the other form has packs of half the size
		s.Vocab, s.Hidden, s.FFN, s.AttnDim, s.QHeads, s.KVHeads, s.Layers = 2000, 1024, 4096, 1024, 8, 8, 2
		s.Except = ""
		if s.Kind == spec.LowRank {
			s.Rank = 512
		} else {
			s.Blocks = 2
		}
		p := model.NewParams(s)
		defer p.Close()
		for i := range p.Data {
			p.Data[i] = 0.01
		}
		before := memory.Held()
		m, err := decode.Load(s, p.Read, rt.Options{Pool: pool, Format: format})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		holds := func(what string, s spec.Model) {
			t.Helper()
			want := model.PredictMemory(s, format, false, false, 1)
			got := memory.Held() - before
			// Every layer's packs round up to huge pages of 2 MiB.
			if ratio := float64(got) / float64(want.Weights+want.Packs); ratio < 1 || ratio > 1.15 {
				t.Errorf("%s, %s: %d bytes, want %d of packs and %d of embeddings and norms", s.Name, what, got, want.Packs, want.Weights)
			}
		}
		holds("loaded", s)
		if _, err := m.Merge(false, nil); err != nil {
			t.Fatal(err)
		}
		s.Kind, s.Rank, s.Blocks = spec.Dense, 0, 0 // as which it is held now
		holds("merged", s)
		m.Close()
		if left := memory.Held() - before; left != 0 {
			t.Errorf("%s: %d bytes are left after Close", s.Name, left)
		}
	}
}
