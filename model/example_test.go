package model_test

import (
	"fmt"
	"log"

	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/config"
	"github.com/structuredffn/sffn/model/initial"
	"github.com/structuredffn/sffn/model/train"
	rt "github.com/structuredffn/sffn/runtime"
)

// tiny is a model of four token ids, which stand for the letters a to d.
const tiny = `
model:
  vocab: 4
  hidden: 16
  ffn: 64
  layers: 2
  q_heads: 2
  max_positions: 32
  mlp: {kind: blockshuffle, blocks: 4}
`

// learn trains the tiny model on the text abcdabcd..., for some steps.
func learn(pool *rt.Pool, steps int, report func(step int, loss float64)) (*model.Model, error) {
	c, err := config.Parse("tiny", []byte(tiny))
	if err != nil {
		return nil, err
	}
	params, grads := model.NewParams(c.Model), model.NewParams(c.Model)
	defer grads.Close()
	initial.Model(params, c.Model, 1, initial.Merged, pool)
	m, err := model.New(c.Model, params, rt.Options{Pool: pool, Train: true})
	if err != nil {
		return nil, err
	}
	const seq, batch = 16, 2
	trace := m.NewTrace(seq * batch)
	defer trace.Close()
	t := c.Train
	optimizer := train.NewAdamW(m, t.Beta1, t.Beta2, t.Eps, t.WeightDecay, t.Clip)
	defer optimizer.Close()

	ids, targets := make([]int32, seq*batch), make([]int32, seq*batch)
	for i := range ids { // a target is the token that follows
		ids[i], targets[i] = int32(i%4), int32((i+1)%4)
	}
	for step := range steps {
		loss, err := trace.Backward(grads, ids, targets, batch, 1, false)
		if err != nil {
			return nil, err
		}
		report(step, loss)
		optimizer.Step(grads, 0.02)
		m.Repack() // the kernels read packed copies of the weights
	}
	return m, nil
}

// A model of two layers learns that b follows a. Its first layer is dense, as the
// defaults have it, its second a blockshuffle one.
func ExampleModel() {
	pool := rt.NewPool(0) // a thread for each core
	defer pool.Close()
	m, err := learn(pool, 21, func(step int, loss float64) {
		if step%10 == 0 {
			fmt.Printf("step %d: loss %.1f\n", step, loss)
		}
	})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Params.Close()
	defer m.Close()
	// Output:
	// step 0: loss 1.4
	// step 10: loss 0.2
	// step 20: loss 0.0
}
