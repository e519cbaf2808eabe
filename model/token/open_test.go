package token

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/internal/frugal"
	"github.com/structuredffn/sffn/model/token/hf"
)

// tiny is byte-level BPE of one merge.
var tiny = hf.Model{Merges: [][2]int32{{'l' - '!', 'i' - '!'}}, Special: []string{"<|endoftext|>"}}.JSON()

// A tokenizer is found by its name, its file, or the folder that has one, and the
// file that it gives makes it again.
func TestOpen(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "tokenizer.json")
	if err := os.WriteFile(file, tiny, 0o666); err != nil {
		t.Fatal(err)
	}
	for _, name := range append([]string{file, dir}, Names...) {
		a, err := Open(name)
		if err != nil {
			t.Fatal(err)
		}
		fileName, content := a.File()
		if a.Name() == "byte" {
			if fileName != "" {
				t.Errorf("bytes have a file %q", fileName)
			}
			continue
		}
		b, err := Parse(fileName, content)
		if err != nil || b.Hash() != a.Hash() || b.Name() != a.Name() || b.Vocab() != a.Vocab() || fmt.Sprintf("%x", a.Hash()) == "" {
			t.Errorf("%s: %v, %v", name, b, err)
		}
	}
	tok, err := Open(dir)
	if err != nil || tok.Name() != "tokenizer.json" || tok.Vocab() != 258 || tok.EndOfDocument() != 257 {
		t.Errorf("%v, %v", tok, err)
	}
	if got := fmt.Sprintf("%x", hf.GPT2().Hash()); got != gpt2Hash {
		t.Errorf("GPT-2's hash is %s, want %s", got, gpt2Hash)
	}
	// In a folder of data the name decides: no file, or the one that is there.
	if tok, err := InFolder(dir, "byte"); err != nil || tok.Name() != "byte" {
		t.Errorf("%v, %v", tok, err)
	}
	if tok, err := InFolder(dir, "mine"); err != nil || tok.Vocab() != 258 {
		t.Errorf("%v, %v", tok, err)
	}
}

// Files that are no tokenizers are refused by what they are, at little cost.
func TestOpenOthers(t *testing.T) {
	dir := t.TempDir()
	for name, f := range map[string]struct {
		content []byte
		want    string
	}{
		"ranks":  {[]byte("IQ== 0\nIg== 1\n"), "a vocabulary of tiktoken"},
		"text":   {[]byte("Some text, of which nobody can make a tokenizer.\n"), "no SentencePiece model"},
		"empty":  {nil, "empty: the file is empty"},
		"object": {[]byte(`{"version": "1.0"}`), "object:"},
		"cut":    {tiny[:len(tiny)/2], "unexpected end of JSON input"},
		"nested": {[]byte(strings.Repeat(`{"model":`, 1_000_000)), "exceeded max depth"},
		"lists":  {[]byte(`{"model":` + strings.Repeat(`[`, 1_000_000)), "exceeded max depth"},
		"zeros":  {make([]byte, 1<<20), "zeros:"},
		"key":    {append([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f}, bytes.Repeat([]byte{7}, 1000)...), "key:"},
	} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, f.content, 0o666); err != nil {
			t.Fatal(err)
		}
		frugal.Run(t, 256<<20, func() {
			if tok, err := Open(file); err == nil || !strings.Contains(err.Error(), f.want) || !strings.Contains(err.Error(), file) || len(err.Error()) > 2000 {
				t.Errorf("%s: %v, %.300v, want %q", name, tok, err, f.want)
			}
		})
	}
	huge := filepath.Join(dir, "huge")
	if err := os.WriteFile(huge, tiny, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(huge, 1<<40); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(huge); err == nil || !strings.Contains(err.Error(), "too long for a tokenizer, want at most 67108864 bytes") {
		t.Errorf("a huge file: %v", err)
	}
	for _, name := range []string{"words", filepath.Join(dir, "nowhere")} {
		if _, err := Open(name); !errors.Is(err, ErrUnknown) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "none"), 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(filepath.Join(dir, "none")); err == nil || !strings.Contains(err.Error(), "neither tokenizer.json nor tokenizer.model") {
		t.Errorf("an empty folder: %v", err)
	}
}

// The space that a tokenizer puts before a text is none of the text that comes
// back, whole or streamed; in what continues a text it is.
func TestPrefixed(t *testing.T) {
	tok := prefixed{}
	ids := []int32{256, ' ', 'a', ' ', 'b'}
	if got := Text(tok, ids, false); string(got) != "a b" {
		t.Errorf("%q", got)
	}
	if got := Text(tok, ids, true); string(got) != "<|endoftext|>a b" {
		t.Errorf("%q", got)
	}
	for begins, want := range map[bool]string{true: "a b", false: " a b"} {
		s, got := NewStream(tok, begins), ""
		for _, id := range ids {
			got += s.Next(id)
		}
		if got += s.End(); got != want {
			t.Errorf("begins %v: %q, want %q", begins, got, want)
		}
	}
}

type prefixed struct{ Bytes }

func (prefixed) Prefixed() bool { return true }
