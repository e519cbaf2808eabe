package decode

import (
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model"
	rt "github.com/structuredffn/sffn/runtime"
)

// A prompt needs the logits of its sequences' last rows, not of all its rows: with
// 1024 tokens and a vocabulary of 50257, that would be 206 MB.
func TestDecoderLogits(t *testing.T) {
	s := spec.Model{Vocab: 1000, Hidden: 8, FFN: 16, Layers: 1, AttnDim: 8, QHeads: 1, KVHeads: 1, MaxPositions: 64, Kind: spec.Dense, Act: spec.GELU, Norm: spec.LayerNorm, NormEps: 1e-5, Position: spec.RoPE, InitStd: 0.02, RotaryBase: 10000}
	opt := rt.Options{Pool: rt.NewPool(1)}
	defer opt.Pool.Close()
	p := model.NewParams(s)
	defer p.Close()
	m, err := model.New(s, p, opt)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	d, err := Of(m).NewDecoder(2, 64)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	logits, err := d.Feed([]int{0, 1}, [][]int32{make([]int32, 60), make([]int32, 30)})
	if err != nil {
		t.Fatal(err)
	}
	if len(logits) != 2*s.Vocab || len(d.logits) != 2*s.Vocab {
		t.Errorf("%d logits of %d, want %d: one row a sequence", len(logits), len(d.logits), 2*s.Vocab)
	}
}
