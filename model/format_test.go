package model_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/structuredffn/sffn/internal/modeltest"
	"github.com/structuredffn/sffn/model"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// The gradients of a model in bf16 are those in float32 but for its roundings: each of the
// products on the way rounds what it multiplies by at most 2^-9 of it. They have the same
// bits for any number of threads.
func TestFormatGradients(t *testing.T) {
	for _, s := range modeltest.Forms {
		r := rand.New(rand.NewPCG(6, 6))
		const batch, seq = 2, 70
		ids, targets := modeltest.Tokens(r, batch*seq, s.Vocab), modeltest.Tokens(r, batch*seq, s.Vocab)
		gradients := func(opt rt.Options, threads int) (loss float64, grads *model.Params) {
			m := modeltest.BuildIn(t, s, opt, threads)
			tr := m.NewTrace(batch * seq)
			defer tr.Close()
			grads = model.NewParams(s)
			t.Cleanup(grads.Close)
			loss, err := tr.Backward(grads, ids, targets, batch, 1, false)
			if err != nil {
				t.Fatal(err)
			}
			return loss, grads
		}
		exact, want := gradients(rt.Options{}, 2)
		for _, isa := range kernel.Available() {
			loss, got := gradients(rt.Options{ISA: isa, Format: kernel.BF16}, 1)
			if _, other := gradients(rt.Options{ISA: isa, Format: kernel.BF16}, 3); !slices.Equal(got.Data, other.Data) {
				t.Errorf("%s on %s: 3 threads give other gradients than 1", s.Name, isa)
			}
			if d := math.Abs(loss - exact); d > 0.02 || d == 0 {
				t.Errorf("%s on %s: a loss of %v, %v in float32", s.Name, isa, loss, exact)
			}
			// Two operands of forward and backward products: four linears a layer, of at
			// most two factors, and the head.
			tolerance := float64(2*2*(8*s.Layers+1)) * 0x1p-9
			for _, q := range want.List() {
				a, b := got.Get(q.Name), want.Get(q.Name)
				var off, size float64
				for i := range a {
					off += math.Pow(float64(a[i]-b[i]), 2)
					size += math.Pow(float64(b[i]), 2)
				}
				if off, size = math.Sqrt(off), math.Sqrt(size); off > tolerance*size+1e-6 || off == 0 && size > 0 {
					t.Errorf("%s on %s: the gradient of %s is off by %v, its length is %v", s.Name, isa, q.Name, off, size)
				}
			}
		}
	}
}
