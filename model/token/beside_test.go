package token

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/model/token/hf"
)

// The byte tokenizer's file has its ids, and is taken for it again.
func TestBytesFile(t *testing.T) {
	tok, err := hf.Parse("tokenizer.json", BytesFile())
	if err != nil {
		t.Fatal(err)
	}
	var text []byte
	for a := range 256 {
		for b := range 256 {
			text = append(text, byte(a), byte(b))
		}
	}
	text = append(text, "it's 1234 words,\n\n and more   \t"...)
	if got, want := tok.Encode(nil, text), (Bytes{}).Encode(nil, text); !slices.Equal(got, want) {
		t.Error("the file gives other ids")
	}
	if tok.Vocab() != 257 || tok.EndOfDocument() != 256 || tok.Special(256) != (Bytes{}).Special(256) {
		t.Errorf("%d ids, %d ends a document", tok.Vocab(), tok.EndOfDocument())
	}
	for id := range int32(257) {
		if got, want := tok.Decode(nil, id), (Bytes{}).Decode(nil, id); !bytes.Equal(got, want) {
			t.Errorf("%d decodes as %q, want %q", id, got, want)
		}
	}
	again, err := Parse("tokenizer.json", BytesFile())
	if _, ok := again.(Bytes); !ok || err != nil {
		t.Errorf("it is read as %T, %v", again, err)
	}
}

// Files beside a tokenizer go with it, and change nothing of it.
func TestBeside(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"tokenizer_config.json", "chat_template.jinja", "other.json"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	files, err := ReadBeside(dir)
	if err != nil || len(files) != 2 || files[0].Name != "tokenizer_config.json" || string(files[1].Content) != "chat_template.jinja" {
		t.Fatalf("%q, %v", files, err)
	}
	tok := With(With(hf.GPT2(), files), files[:1])
	if Plain(tok) != Tokenizer(hf.GPT2()) || len(Files(tok)) != 1 || tok.Hash() != hf.GPT2().Hash() || Files(hf.GPT2()) != nil || With(hf.GPT2(), nil) != Tokenizer(hf.GPT2()) {
		t.Error("the tokenizer is not what it was")
	}
	large := filepath.Join(dir, "generation_config.json")
	if err := os.WriteFile(large, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(large, 10<<30); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadBeside(dir); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Error(err)
	}
}
