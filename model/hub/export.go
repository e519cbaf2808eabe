package hub

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/model/checkpoint"
	"github.com/structuredffn/sffn/model/config"
	"github.com/structuredffn/sffn/model/safetensors"
	"github.com/structuredffn/sffn/model/token"
)

// Formats are what Export writes: a folder that transformers reads, and one of the
// project's own names.
var Formats = []string{"hf", "reference"}

// Export writes the model of a checkpoint, whose configuration and tokenizer these are,
// into a folder of its own, which appears whole; tok may be nil. Its tensors go through
// one by one, a piece at a time; progress, where not nil, is told how many
// parameters are done.
func Export(dir string, c *config.Config, tok token.Tokenizer, format, out string, progress func(done int)) error {
	s := c.Model
	s.Guided = false
	var files []file
	var layout map[string][]part
	var fam *family
	prefix := ""
	switch format {
	case "reference":
		layout = ownLayout(s)
		files = append(files, text(ownConfig, c.Source))
	case "hf":
		fam = familyOf(s)
		layout, prefix = fam.layout(s), fam.prefix
		if fam == structured {
			layout = ownLayout(s)
			files = append(files, text(modelingFile, modeling), text(ownConfig, c.Source))
		}
		config, err := json.MarshalIndent(fam.config(s, tok), "", "  ")
		if err != nil {
			return err
		}
		files = append(files, text(hubConfig, append(config, '\n')))
	default:
		return fmt.Errorf("unknown format %q; valid are %s", format, strings.Join(Formats, ", "))
	}
	if tok != nil {
		if name, content := tok.File(); name != "" {
			files = append(files, text(name, content))
		}
	}
	if _, state, err := checkpoint.Describe(dir); err != nil {
		return err
	} else if err := state.Trainable(dir); err != nil {
		return err
	}
	w, err := checkpoint.OpenWeights(dir)
	if err != nil {
		return err
	}
	defer w.Close()
	var values []safetensors.Value
	for i, q := range s.Params() {
		for _, p := range layout[q.Name] {
			values = append(values, safetensors.Value{Name: fam.spell(prefix, p.name), Shape: p.shape, Stream: func(write func([]float32) error) error {
				if progress != nil {
					defer progress(i + 1)
				}
				if p.transposed {
					return stream(w.File(), q.Name, 0, q.Shape, true, write)
				}
				return stream(w.File(), q.Name, p.lo*q.Size()/max(1, q.Shape[0]), p.shape, false, write)
			}})
		}
	}
	files = append(files, file{safetensors.WholeFile, func(w io.Writer) error { return safetensors.Write(w, values, map[string]string{"format": "pt"}) }})
	return create(out, files)
}

// file is a file to write.
type file struct {
	name  string
	write func(w io.Writer) error
}

func text(name string, content []byte) file {
	return file{name, func(w io.Writer) error { _, err := w.Write(content); return err }}
}

// create writes a folder of these files, which may be there already if it is empty. It
// appears with all of them, or not at all.
func create(dir string, files []file) (err error) {
	entries, err := os.ReadDir(dir)
	there := err == nil
	if len(entries) > 0 {
		return fmt.Errorf("%s is there already, and not empty; choose another folder", dir)
	} else if !there && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	tmp := disk.Unfinished(filepath.Clean(dir))
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(tmp), 0o777); err != nil {
		return err
	}
	if err := disk.Mkdir(tmp); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("%s: %w", dir, err), os.RemoveAll(tmp))
		}
	}()
	for _, f := range files {
		if err := disk.Create(filepath.Join(tmp, f.name), f.write); err != nil {
			return err
		}
	}
	if err := disk.Sync(tmp); err != nil {
		return err
	}
	if there {
		if err := disk.Remove(dir); err != nil { // an empty folder
			return err
		}
	}
	if err := disk.Rename(tmp, dir); err != nil {
		return err
	}
	return disk.Sync(filepath.Dir(tmp))
}

// familyOf is the family that expresses a model: one that transformers has where there
// is one.
func familyOf(s spec.Model) *family {
	if !s.Structured() {
		for _, fam := range families {
			if fam.fits(s) {
				return fam
			}
		}
	}
	return structured
}

// object is what a config.json has.
type object map[string]any

// config is the config.json of a model that the family expresses.
func (fam *family) config(s spec.Model, tok token.Tokenizer) object {
	c := fam.write(s)
	c["model_type"], c["architectures"] = fam.model, []string{fam.architecture}
	c["vocab_size"], c["tie_word_embeddings"] = s.Vocab, s.TieEmbeddings
	c["initializer_range"], c["torch_dtype"] = s.InitStd, "float32"
	c["bos_token_id"], c["eos_token_id"] = nil, nil
	if tok != nil {
		c["eos_token_id"] = tok.EndOfDocument()
		if before, _ := tok.Frame(); len(before) == 1 {
			c["bos_token_id"] = before[0]
		}
	}
	return c
}
