package decode

import (
	"errors"
	"slices"

	"github.com/structuredffn/sffn/model/token"
	rt "github.com/structuredffn/sffn/runtime"
)

// Text is a prompt, and what continues it.
type Text struct {
	Prompt    string  `json:"prompt"`
	Text      string  `json:"text"` // what was added
	PromptIDs []int32 `json:"prompt_ids"`
	IDs       []int32 `json:"ids"`
	// Limit is the number of tokens to add, at most.
	Limit  int `json:"-"`
	stream *token.Stream
}

// NewText encodes a prompt, with what the tokenizer has stand before any text; an
// empty one begins a document.
func NewText(tok token.Tokenizer, prompt string) *Text {
	before, _ := tok.Frame()
	ids := slices.Clone(before)
	if prompt != "" {
		ids = tok.Encode(ids, []byte(prompt))
	}
	if len(ids) == 0 {
		ids = []int32{tok.EndOfDocument()}
	}
	return &Text{Prompt: prompt, PromptIDs: ids, IDs: []int32{}, stream: token.NewStream(tok, prompt == "")}
}

// Room is the number of tokens that a model of so many positions can add. The last
// one takes no position: nothing is computed from it.
func (t *Text) Room(positions int) int { return positions - len(t.PromptIDs) + 1 }

// Positions are those that the texts take at most.
func Positions(texts []*Text) int {
	n := 0
	for _, t := range texts {
		n = max(n, len(t.PromptIDs)+t.Limit-1)
	}
	return n
}

// Reach is the number of positions that the text has come to take.
func (t *Text) Reach() int { return len(t.PromptIDs) + min(len(t.IDs), t.Limit-1) }

// Continue adds tokens to texts, the sequences of f from number 0, and calls show
// with each piece that is whole runes. An error of show ends all texts.
func Continue(f Feeder, vocab int, pool *rt.Pool, tok token.Tokenizer, texts []*Text, s Sampling, show func(i int, piece string) error) error {
	prompts, tokens := make([][]int32, len(texts)), 0
	for i, t := range texts {
		prompts[i], tokens = t.PromptIDs, max(tokens, t.Limit)
	}
	var shown error
	add := func(i int, piece string) {
		texts[i].Text += piece
		if shown == nil {
			shown = show(i, piece)
		}
	}
	err := Generate(f, vocab, pool, prompts, tokens, tok.EndOfDocument(), s, func(i int, id int32) bool {
		t := texts[i]
		t.IDs = append(t.IDs, id)
		add(i, t.stream.Next(id))
		return len(t.IDs) < t.Limit && shown == nil
	})
	for i, t := range texts {
		add(i, t.stream.End())
	}
	return errors.Join(err, shown)
}
