package data

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/model/data/source"
	"github.com/structuredffn/sffn/model/token"
	"github.com/structuredffn/sffn/model/token/hf"
)

// llama is a tokenizer that puts a space before texts, as Llama 2's does.
func llama(t *testing.T) token.Tokenizer {
	vocab := map[string]int{"<unk>": 0, "<s>": 1, "</s>": 2}
	for b := range 256 {
		vocab[fmt.Sprintf("<0x%02X>", b)] = 3 + b
	}
	for _, s := range []string{"▁", "a", "▁a"} {
		vocab[s] = len(vocab)
	}
	special := func(id int, s string) map[string]any {
		return map[string]any{"id": id, "content": s, "special": true, "normalized": false, "lstrip": false, "rstrip": false, "single_word": false}
	}
	text, err := json.Marshal(map[string]any{
		"version":      "1.0",
		"added_tokens": []any{special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")},
		"normalizer": map[string]any{"type": "Sequence", "normalizers": []any{
			map[string]any{"type": "Prepend", "prepend": "▁"}, map[string]any{"type": "Replace", "pattern": map[string]any{"String": " "}, "content": "▁"}}},
		"decoder": map[string]any{"type": "Sequence", "decoders": []any{
			map[string]any{"type": "Replace", "pattern": map[string]any{"String": "▁"}, "content": " "}, map[string]any{"type": "ByteFallback"},
			map[string]any{"type": "Fuse"}, map[string]any{"type": "Strip", "content": " ", "start": 1, "stop": 0}}},
		"model": map[string]any{"type": "BPE", "unk_token": "<unk>", "byte_fallback": true, "fuse_unk": true, "vocab": vocab, "merges": []string{"▁ a"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	tok, err := hf.Parse("llama", text)
	if err != nil {
		t.Fatal(err)
	}
	if !tok.Prefixed() {
		t.Fatal("the tokenizer puts nothing before a text")
	}
	return tok
}

// A document that passes in pieces has the ids that it has as a whole, where they are
// cut at the ends of lines: the space that a tokenizer puts before a text is put
// before no piece but the first.
func TestPiecesAreNoTexts(t *testing.T) {
	tok := llama(t)
	long := strings.Repeat("a a\nab a\n a\n", 3*source.MaxPiece/12)
	d := &source.Documents{Named: "d", Texts: [][]byte{[]byte(long), []byte(long + "b\n"), []byte(long + "a\n")}} // none has half of the text
	dir := t.TempDir()
	p := Preparation{Sources: []source.Source{d}, Tokenizer: tok}
	if _, err := p.Run(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	want := append(tok.Encode(nil, []byte(long)), tok.EndOfDocument())
	for _, split := range []*Split{s.Train, s.Validation} {
		got, err := split.ReadAll(1 << 30)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) >= len(want) && slices.Equal(got[:len(want)], want) {
			return
		}
	}
	t.Error("the ids of the long document are in neither split as they are of the whole")
}

// The folder to which data go takes no part in a corpus that it lies in.
func TestOutInside(t *testing.T) {
	dir := t.TempDir()
	for i := range 30 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.txt", i)), []byte(strings.Repeat("some text\n", i+9)), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(dir, "data")
	var first *Result
	for range 2 {
		p := Preparation{Sources: []source.Source{&source.Files{Named: "d", Paths: []string{dir}, Except: out}}, Tokenizer: token.Bytes{}}
		res, err := p.Run(t.Context(), out)
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = res
		}
		if n := res.Sources[0].Documents; n != 30 || res.Train != first.Train {
			t.Errorf("%d documents, %+v, want 30 and %+v", n, res.Train, first.Train)
		}
	}
}
