package hf

import (
	"slices"
	"testing"
)

func TestGPT2(t *testing.T) {
	tok := GPT2()
	if tok.Vocab() != 50257 || tok.EndOfDocument() != 50256 || tok.Special(50256) != "<|endoftext|>" {
		t.Errorf("vocabulary %d, end %d, %q", tok.Vocab(), tok.EndOfDocument(), tok.Special(50256))
	}
	// The ids of the published vocabulary.
	for text, want := range map[string][]int32{
		"Hello world":          {15496, 995},
		" the":                 {262},
		"<|endoftext|>":        {50256},
		"func main() {\n\t\n}": nil,
	} {
		got := tok.Encode(nil, []byte(text))
		if want != nil && !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
		var back []byte
		for _, id := range got {
			back = tok.Decode(back, id)
		}
		if string(back) != text && text != "<|endoftext|>" {
			t.Errorf("%q came back as %q", text, back)
		}
	}
}
