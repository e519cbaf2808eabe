package token

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/model/token/hf"
	"github.com/structuredffn/sffn/model/token/sentencepiece"
)

// Names are those of the tokenizers that New makes.
var Names = []string{"byte", "gpt2"}

// FileNames are what a tokenizer's file is called by custom: Hugging Face's and
// SentencePiece's.
var FileNames = []string{"tokenizer.json", "tokenizer.model"}

// MaxFile bounds a tokenizer's file, in bytes.
const MaxFile = 64 << 20

// ErrUnknown says that a name is that of no tokenizer and of no file.
var ErrUnknown = errors.New("unknown tokenizer")

// Open returns the tokenizer of that name, of a file, or of a folder that has a
// tokenizer's file by its usual name: then with the files beside it.
func Open(name string) (Tokenizer, error) {
	if t, err := New(name); err == nil {
		return t, nil
	}
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w %q: no file has that name; valid are byte, gpt2, a tokenizer.json of Hugging Face and a tokenizer.model of SentencePiece", ErrUnknown, name)
	} else if err != nil {
		return nil, err
	}
	var beside []File
	if info.IsDir() {
		if beside, err = ReadBeside(name); err != nil {
			return nil, err
		}
		if name, err = fileIn(name); err != nil {
			return nil, err
		}
	}
	content, err := disk.ReadText(name, MaxFile, " for a tokenizer")
	if err != nil {
		return nil, err
	}
	t, err := Parse(name, content)
	if err != nil {
		return nil, err
	}
	return With(t, beside), nil
}

// InFolder returns the tokenizer of that name which a folder of data was made
// with: of the file that travels with it, if it needs one.
func InFolder(dir, name string) (Tokenizer, error) {
	if t, err := New(name); err == nil {
		return t, nil
	}
	return Open(dir)
}

func fileIn(dir string) (string, error) {
	for _, file := range FileNames {
		name := filepath.Join(dir, file)
		if _, err := os.Stat(name); err == nil {
			return name, nil
		}
	}
	return "", fmt.Errorf("%s: neither tokenizer.json nor tokenizer.model is in this folder", dir)
}

// Parse reads a tokenizer's file, whose content says what it is. name is what
// errors call it.
func Parse(name string, content []byte) (Tokenizer, error) {
	if len(content) == 0 {
		return nil, fmt.Errorf("%s: the file is empty, want a tokenizer's", name)
	}
	switch begin := bytes.TrimLeft(content[:min(len(content), 64)], " \t\r\n"); {
	case bytes.HasPrefix(begin, []byte("{")):
		if fmt.Sprintf("%x", sha256.Sum256(content)) == gpt2Hash {
			return hf.GPT2(), nil
		}
		if bytes.Equal(content, BytesFile()) {
			return Bytes{}, nil
		}
		t, err := hf.Parse(name, content)
		if err != nil { // a nil *Tokenizer would be no nil Tokenizer
			return nil, err
		}
		return t, nil
	case tiktoken.Match(begin):
		return nil, fmt.Errorf("%s: a vocabulary of tiktoken, which has no rule for cutting text; want the tokenizer.json of the same model", name)
	default:
		t, err := sentencepiece.Parse(name, content)
		if err != nil {
			return nil, err
		}
		return t, nil
	}
}

// gpt2Hash is that of GPT-2's own tokenizer, the file of which has its name.
const gpt2Hash = "9c4d3bdfa33e2a1aaf8d4009e69cbd1b9302cf379910716753d376baadecabe2"

// tiktoken is how a vocabulary of tiktoken begins: a token in base 64, and its rank.
var tiktoken = regexp.MustCompile(`^[A-Za-z0-9+/]+=* [0-9]+\n`)

// HashText is the beginning of a tokenizer's hash, as messages and files of text
// have it.
func HashText(t Tokenizer) string {
	h := t.Hash()
	return fmt.Sprintf("%x", h[:8])
}
