package runtime

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/runtimetest"
)

// Several goroutines may use one layer, each with its own workspace; a busy
// pool runs the second one's work inline.
func TestConcurrentForward(t *testing.T) {
	pool := NewPool(2)
	defer pool.Close()
	s := spec.FFN{Kind: spec.LowRank, Hidden: 64, FFN: 256, Rank: 16, Act: spec.GELU, Bias: true}
	r := rand.New(rand.NewPCG(1, 1))
	f, err := NewFFN(s, FFNWeights{randomWeights(r, s.FC1()), randomWeights(r, s.FC2())}, Options{Pool: pool})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const m = 50
	x := runtimetest.Random(r, m*s.Hidden, 1)
	forward := func() []float32 {
		ws := f.NewWorkspace()
		defer ws.Close()
		y := runtimetest.Poisoned(m * s.Hidden)
		f.Forward(y, x, nil, m, nil, ws)
		return y
	}
	want := forward()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				if !slices.Equal(forward(), want) {
					t.Error("a concurrent call gives another result")
				}
			}
		})
	}
	wg.Wait()
}
