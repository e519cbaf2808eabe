package decode_test

import (
	"context"
	"fmt"
	"log"
	"strings"

	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/config"
	"github.com/structuredffn/sffn/model/decode"
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
train: {steps: 40, batch: 2, seq: 16, lr: 0.02}
`

// letters are sequences of the text abcdabcd...
type letters struct{}

func (letters) Read(ids, targets []int32, _ uint64, _ int) error {
	for i := range ids { // a target is the token that follows
		ids[i], targets[i] = int32(i%4), int32((i+1)%4)
	}
	return nil
}

// Greedy decoding continues two texts at a time, by a model that has learned the
// alphabet. The model that decodes has packs of the weights, and not the weights.
func ExampleDecoder_Generate() {
	pool := rt.NewPool(0) // a thread for each core
	defer pool.Close()
	c, err := config.Parse("tiny", []byte(tiny))
	if err != nil {
		log.Fatal(err)
	}
	params := model.NewParams(c.Model)
	initial.Model(params, c.Model, 1, initial.Merged, pool)
	run := train.Run{Config: c, Options: rt.Options{Pool: pool}}
	loop, err := run.NewLoop(params, letters{}, nil)
	if err != nil {
		log.Fatal(err)
	}
	for range c.Train.Steps {
		if _, err := loop.Step(context.Background()); err != nil {
			log.Fatal(err)
		}
	}
	m, err := decode.Load(c.Model, params.Read, rt.Options{Pool: pool})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	loop.Close()                  // with parameters, gradients and moments
	d, err := m.NewDecoder(2, 16) // two sequences of up to 16 tokens
	if err != nil {
		log.Fatal(err)
	}
	defer d.Close()
	texts := []string{"ab", "dab"}
	var prompts [][]int32
	for _, text := range texts {
		var ids []int32
		for _, letter := range text {
			ids = append(ids, letter-'a')
		}
		prompts = append(prompts, ids)
	}
	var greedy decode.Sampling // the zero value takes the likeliest token
	err = d.Generate(prompts, 8, -1, greedy, func(seq int, token int32) bool {
		texts[seq] += string('a' + token)
		return true
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(strings.Join(texts, "\n"))
	// Output:
	// abcdabcdab
	// dabcdabcdab
}
