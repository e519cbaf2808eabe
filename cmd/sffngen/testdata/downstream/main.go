// A trainer of its own that links a generated package: it teaches one layer to
// copy another.
package main

import (
	"fmt"
	"log"
	"math/rand/v2"

	"example.com/trainer/ffn96"
	rt "github.com/structuredffn/sffn/runtime"
)

//go:generate go tool sffngen --kind lowrank --hidden 96 --ffn 384 --rank 24 --act gelu --bias --out ffn96

const tokens, steps, rate = 64, 60, 0.5

func main() {
	teacher, student, grads := draw(1), draw(2), draw(3)
	target, err := ffn96.New(teacher, rt.Options{})
	if err != nil {
		log.Fatal(err)
	}
	layer, err := ffn96.New(student, rt.Options{Train: true})
	if err != nil {
		log.Fatal(err)
	}
	ws, saved := layer.NewWorkspace(), layer.NewSaved(tokens)
	h := ffn96.Spec.Hidden
	x, want, y, dy := normal(rand.New(rand.NewPCG(4, 4)), tokens*h), make([]float32, tokens*h), make([]float32, tokens*h), make([]float32, tokens*h)
	target.Forward(want, x, nil, tokens, nil, ws)
	for step := range steps {
		layer.Forward(y, x, nil, tokens, saved, ws)
		loss := 0.0
		for i := range y {
			dy[i] = (y[i] - want[i]) / tokens
			loss += float64(dy[i]) * float64(y[i]-want[i]) / 2
		}
		layer.Backward(nil, grads, dy, x, tokens, saved, false, ws)
		descend(student.FC1, grads.FC1)
		descend(student.FC2, grads.FC2)
		layer.Repack()
		fmt.Printf("step %d loss %.4f\n", step+1, loss)
	}
}

// descend is one step of gradient descent.
func descend(w, g rt.Weights) {
	for i, f := range append(w.Factors, w.Bias) {
		for j, d := range append(g.Factors, g.Bias)[i] {
			f[j] -= rate * d
		}
	}
}

// draw makes the weights of a layer of this shape.
func draw(seed uint64) rt.FFNWeights {
	r := rand.New(rand.NewPCG(seed, seed))
	s := ffn96.Spec
	return rt.FFNWeights{
		FC1: rt.Weights{Factors: [][]float32{normal(r, s.Rank*s.Hidden), normal(r, s.FFN*s.Rank)}, Bias: make([]float32, s.FFN)},
		FC2: rt.Weights{Factors: [][]float32{normal(r, s.Rank*s.FFN), normal(r, s.Hidden*s.Rank)}, Bias: make([]float32, s.Hidden)},
	}
}

func normal(r *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64() / 8)
	}
	return x
}
