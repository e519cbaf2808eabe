package data

import (
	"context"
	"io"
	"iter"

	"github.com/structuredffn/sffn/model/data/source"
)

// Texts reads the documents of sources that a Preparation of them does not hold out
// by their hash: what a tokenizer may learn from.
type Texts struct {
	// Total is the size of the sources' files, 0 where there is a stream.
	Total int64
	mix   *mixer
}

// NewTexts looks at the sources. What is read ends early with ctx.
func NewTexts(ctx context.Context, sources []source.Source) (*Texts, error) {
	t := &Texts{mix: &mixer{ctx: ctx, sources: sources, open: make([]source.Reader, len(sources))}}
	t.mix.Places = make([]place, len(sources))
	files, stream := 0, false
	for _, s := range sources {
		inv, err := s.Scan(ctx)
		if err != nil {
			return nil, err
		}
		t.mix.have = append(t.mix.have, inv)
		t.Total += inv.Bytes
		files, stream = files+inv.Files, stream || inv.Stream
	}
	if err := checkField(t.mix.have); err != nil {
		return nil, err
	}
	if stream {
		t.Total = 0
	}
	t.mix.cut = files < source.FewFiles
	return t, nil
}

// All returns the documents, or the pieces of long ones, once. Each is valid until
// the next is taken.
func (t *Texts) All() iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		defer t.mix.close()
		trains := false
		for {
			_, p, err := t.mix.next()
			if err == io.EOF {
				return
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if p.First {
				key := p.Key
				if !p.Keyed {
					key = textKey(p.Text)
				}
				trains = side(key) == Train
			}
			if trains && !yield(p.Text, nil) {
				return
			}
		}
	}
}

// Read is the number of bytes of the sources' files that are behind it.
func (t *Texts) Read() int64 { return t.mix.progress() }
