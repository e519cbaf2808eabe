package runtime_test

import (
	"fmt"
	"log"
	"math/rand/v2"

	"github.com/structuredffn/sffn/gen/spec"
	rt "github.com/structuredffn/sffn/runtime"
)

// A feed-forward network of lowrank layers learns to give zeros: ten steps of
// gradient descent on the loss sum(y^2)/2.
func ExampleFFN() {
	s := spec.FFN{Kind: spec.LowRank, Hidden: 8, FFN: 32, Rank: 4, Act: spec.GELU, Bias: true}
	r := rand.New(rand.NewPCG(1, 2))
	floats := func(n int, scale float64) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(scale * r.NormFloat64())
		}
		return x
	}
	// Factors in chain order, each row-major [out, in]; gradients alike.
	parameters := func(scale float64) rt.FFNWeights {
		return rt.FFNWeights{
			FC1: rt.Weights{Factors: [][]float32{floats(s.Rank*s.Hidden, scale), floats(s.FFN*s.Rank, scale)}, Bias: make([]float32, s.FFN)},
			FC2: rt.Weights{Factors: [][]float32{floats(s.Rank*s.FFN, scale), floats(s.Hidden*s.Rank, scale)}, Bias: make([]float32, s.Hidden)},
		}
	}
	weights, grads := parameters(0.3), parameters(0)
	layer, err := rt.NewFFN(s, weights, rt.Options{Train: true})
	if err != nil {
		log.Fatal(err)
	}
	defer layer.Close()

	const m = 6 // rows: tokens
	ws, saved := layer.NewWorkspace(), layer.NewSaved(m)
	defer ws.Close()
	defer saved.Close()
	x, y, dx := floats(m*s.Hidden, 1), make([]float32, m*s.Hidden), make([]float32, m*s.Hidden)
	for step := range 11 {
		layer.Forward(y, x, nil, m, saved, ws)
		loss := 0.0
		for _, v := range y {
			loss += float64(v) * float64(v) / 2
		}
		if step%5 == 0 {
			fmt.Printf("step %d: loss %.2f\n", step, loss)
		}
		layer.Backward(dx, grads, y, x, m, saved, false, ws) // the gradient of the loss by y is y
		descend(weights.FC1, grads.FC1)
		descend(weights.FC2, grads.FC2)
		layer.Repack()
	}
	// Output:
	// step 0: loss 1.23
	// step 5: loss 0.13
	// step 10: loss 0.06
}

// descend is one step of gradient descent.
func descend(w, g rt.Weights) {
	const rate = 0.02
	for i, factor := range append(w.Factors, w.Bias) {
		for j, d := range append(g.Factors, g.Bias)[i] {
			factor[j] -= rate * d
		}
	}
}
