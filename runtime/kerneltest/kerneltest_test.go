package kerneltest

import (
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
	rt "github.com/structuredffn/sffn/runtime"
)

func TestRegistered(t *testing.T) { Registered(t) }

// Networks of several blocks of k, with products of two results, shuffles and
// guides are right; with one weight a little off they are not.
func TestFFN(t *testing.T) {
	for _, s := range []spec.FFN{
		{Kind: spec.Dense, Hidden: 1537, FFN: 48, Act: spec.SwiGLU, Bias: true},
		{Kind: spec.LowRank, Hidden: 100, FFN: 300, Rank: 13, Act: spec.GELU, Guide: true},
		{Kind: spec.BlockDense, Hidden: 96, FFN: 1600, Rank: 32, Blocks: 2, Act: spec.SwiGLU, Bias: true, Guide: true},
		{Kind: spec.BlockShuffle, Hidden: 96, FFN: 192, Blocks: 3, Act: spec.GELU, Bias: true},
	} {
		FFN(t, s)
		if err := checkFormats(s, func(y []float32) { y[len(y)-1]++ }); err == nil {
			t.Errorf("%s: the last entry is off in another format, and nobody notices", s.Name())
		}
		factors := len(s.FC1().Chain())
		for name, spoil := range map[string]func(rt.FFNWeights){
			"first weight":   func(w rt.FFNWeights) { w.FC1.Factors[0][0] += 0x1p-10 },
			"last weight":    func(w rt.FFNWeights) { f := w.FC2.Factors[factors-1]; f[len(f)-1] += 0x1p-10 },
			"last bias":      func(w rt.FFNWeights) { w.FC2.Bias[s.Hidden-1] += 0x1p-10 },
			"last of guide":  func(w rt.FFNWeights) { w.FC2.Guide[len(w.FC2.Guide)-1] += 0x1p-10 },
			"first of guide": func(w rt.FFNWeights) { w.FC1.Guide[0] += 0x1p-10 },
		} {
			if name == "last bias" && !s.Bias || name[len(name)-5:] == "guide" && !s.Guide {
				continue
			}
			if err := checkFFN(s, spoil); err == nil {
				t.Errorf("%s: %s is off, and nobody notices", s.Name(), name)
			}
		}
	}
}
