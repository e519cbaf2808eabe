package hf

import (
	_ "embed"
	"fmt"
	"sync"

	"github.com/structuredffn/sffn/internal/gz"
)

// gpt2Merges are the 50,000 merges of GPT-2 (OpenAI, MIT licence), made from its
// published ranks with `go run ./internal/tokencheck merges`: the low bytes of all
// left ids, their high bytes, then those of the right ids.
//
//go:embed gpt2.merges.gz
var gpt2Merges []byte

// GPT2Model returns the vocabulary of GPT-2: 50,256 tokens and <|endoftext|>.
func GPT2Model() Model {
	data, err := gz.Unpack(gpt2Merges)
	if err != nil {
		panic(fmt.Sprintf("hf: gpt2.merges.gz: %v", err)) // it is part of the program
	}
	n := len(data) / 4
	m := Model{Merges: make([][2]int32, n), Special: []string{"<|endoftext|>"}}
	for i := range m.Merges {
		m.Merges[i] = [2]int32{
			int32(data[i]) | int32(data[n+i])<<8,
			int32(data[2*n+i]) | int32(data[3*n+i])<<8,
		}
	}
	return m
}

// GPT2 returns GPT-2's own tokenizer, whose name is gpt2.
var GPT2 = sync.OnceValue(func() *Tokenizer {
	t, err := Parse("gpt2", GPT2Model().JSON())
	if err != nil {
		panic("hf: " + err.Error())
	}
	return t
})
