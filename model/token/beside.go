package token

import (
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/structuredffn/sffn/internal/disk"
)

// Beside are the files of Hugging Face's that lie beside a tokenizer's and say how
// text is put together for its model, and how its ids are drawn: chat templates, which
// tokens have which part, when generation ends. Nothing here reads them; they travel
// with the tokenizer.
var Beside = []string{"tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "generation_config.json"}

// MaxBeside bounds each of these files, in bytes.
const MaxBeside = 16 << 20

// File is a file that travels with a tokenizer.
type File struct {
	Name    string
	Content []byte
}

// accompanied is a tokenizer and the files beside it.
type accompanied struct {
	Tokenizer
	files []File
}

// Describe implements Described.
func (a *accompanied) Describe() [][2]string {
	if d, ok := a.Tokenizer.(Described); ok {
		return d.Describe()
	}
	return nil
}

// With is a tokenizer with the files that lie beside it, in place of those that it
// had. It encodes as it did, and has the same hash.
func With(t Tokenizer, files []File) Tokenizer {
	t = Plain(t)
	if len(files) == 0 {
		return t
	}
	return &accompanied{t, files}
}

// Plain is the tokenizer without the files beside it.
func Plain(t Tokenizer) Tokenizer {
	if a, ok := t.(*accompanied); ok {
		return a.Tokenizer
	}
	return t
}

// Files are those that lie beside a tokenizer.
func Files(t Tokenizer) []File {
	if a, ok := t.(*accompanied); ok {
		return a.files
	}
	return nil
}

// ReadBeside reads the files beside the tokenizer of a folder.
func ReadBeside(dir string) (files []File, err error) {
	for _, name := range Beside {
		content, err := disk.ReadText(filepath.Join(dir, name), MaxBeside, " for a file beside a tokenizer")
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		files = append(files, File{name, content})
	}
	return files, nil
}
