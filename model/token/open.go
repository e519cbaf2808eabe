package token

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Names are those of the tokenizers that need no file.
var Names = []string{"byte"}

// FileNames are what a tokenizer's file is called by custom: Hugging Face's and
// SentencePiece's.
var FileNames = []string{"tokenizer.json", "tokenizer.model"}

// Open returns the tokenizer of that name, of a file, or of a folder that has a
// tokenizer's file by its usual name.
func Open(name string) (Tokenizer, error) {
	if t := named(name); t != nil {
		return t, nil
	}
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("unknown tokenizer %q: no file has that name; valid are byte, gpt2, a tokenizer.json of Hugging Face and a tokenizer.model of SentencePiece", name)
	} else if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return openFile(name)
	}
	for _, file := range FileNames {
		if _, err := os.Stat(filepath.Join(name, file)); err == nil {
			return openFile(filepath.Join(name, file))
		}
	}
	return nil, fmt.Errorf("%s: no tokenizer.json and no tokenizer.model in this folder", name)
}

// InFolder returns the tokenizer of that name which a folder of data or a
// checkpoint was made with: of the file that travels with it, if it needs one.
func InFolder(dir, name string) (Tokenizer, error) {
	if t := named(name); t != nil {
		return t, nil
	}
	return Open(dir)
}

func named(name string) Tokenizer {
	if name == "byte" {
		return Bytes{}
	}
	return nil
}

func openFile(name string) (Tokenizer, error) {
	return nil, fmt.Errorf("%s: no tokenizer", name)
}
