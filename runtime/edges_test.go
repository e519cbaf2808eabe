package runtime

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/runtimetest"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// The activations in the epilogues of the products, and their derivatives,
// have their true limits too.
func TestActivationLimits(t *testing.T) {
	const width = 32
	x := []float32{-math.MaxFloat32, -3e38, -2e19, -1e13, -1000, 1000, 1e13, 2e19, 3e38}
	for _, isa := range kernel.Available() {
		for _, act := range spec.Acts() {
			// One input, which every hidden entry has as its pre-activation (SwiGLU: as
			// its gate, and 1 as its up), and one output, the first hidden entry.
			s := spec.FFN{Kind: spec.Dense, Hidden: 1, FFN: width, Act: act, Bias: true}
			fc1, fc2 := s.FC1(), s.FC2()
			w := FFNWeights{FC1: randomWeights(rand.New(rand.NewPCG(1, 1)), fc1), FC2: randomWeights(rand.New(rand.NewPCG(1, 1)), fc2)}
			for i := range w.FC1.Bias {
				w.FC1.Bias[i], w.FC1.Factors[0][i] = 0, 1
				if i >= width {
					w.FC1.Bias[i], w.FC1.Factors[0][i] = 1, 0
				}
			}
			clear(w.FC2.Factors[0])
			clear(w.FC2.Bias)
			w.FC2.Factors[0][0] = 1
			l, err := NewFFN(s, w, Options{ISA: isa, Train: true})
			if err != nil {
				t.Fatal(err)
			}
			m := len(x)
			ws, saved := l.NewWorkspace(), l.NewSaved(m)
			y, dx, dy := runtimetest.Poisoned(m), runtimetest.Poisoned(m), make([]float32, m)
			for i := range dy {
				dy[i] = 1
			}
			grads := FFNWeights{emptyLike(w.FC1), emptyLike(w.FC2)}
			l.Forward(y, x, nil, m, saved, ws)
			l.Backward(dx, grads, dy, x, m, saved, false, ws)
			for i, v := range x {
				want, slope := v, float32(1)
				if v < 0 {
					want, slope = 0, 0
				}
				if y[i] != want || dx[i] != slope {
					t.Errorf("%s: %s(%v) = %v and its derivative %v, want %v and %v", isa, act, v, y[i], dx[i], want, slope)
				}
			}
			ws.Close()
			saved.Close()
		}
	}
}
