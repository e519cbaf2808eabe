package hub

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/internal/narrow"
	"github.com/structuredffn/sffn/model/checkpoint"
	"github.com/structuredffn/sffn/model/config"
	"github.com/structuredffn/sffn/model/safetensors"
	"github.com/structuredffn/sffn/model/token"
)

// Formats are what Export writes: a folder that transformers reads, a file for
// llama.cpp, and a folder of the project's own names.
var Formats = []string{"hf", "gguf", "reference"}

// Types are those of the weights in what Export writes, by the names of flags.
var Types = []string{"f32", "f16", "bf16"}

// Options say what Export writes.
type Options struct {
	// Format is one of Formats, Type one of Types: empty stands for f32.
	Format, Type string
	// Shard is how many bytes of tensors a file of hf or reference has at most, but for
	// a tensor that is larger; 0 stands for DefaultShard.
	Shard int64
	// Progress, where not nil, is told how many parameters are done.
	Progress func(done int)
}

// DefaultShard is the size of files that transformers writes by default.
const DefaultShard = 5e9

// GGUFFile is what the file for llama.cpp is called in a folder.
const GGUFFile = "model.gguf"

// Export writes the model of a checkpoint, whose configuration and tokenizer these are;
// tok may be nil. What it writes is a folder of its own, or, for llama.cpp, the file
// [GGUFName]: it appears whole. Tensors go through one by one, a piece at a time. Notes
// say what others will do in another way.
func Export(dir string, c *config.Config, tok token.Tokenizer, out string, o Options) (notes []string, err error) {
	if !slices.Contains(Formats, o.Format) {
		return nil, fmt.Errorf("unknown format %q; valid are %s", o.Format, strings.Join(Formats, ", "))
	}
	t := narrow.Type(strings.ToUpper(cmp.Or(o.Type, Types[0])))
	if t.Size() == 0 {
		return nil, fmt.Errorf("unknown type %q; valid are %s", o.Type, strings.Join(Types, ", "))
	}
	s := c.Model
	s.Guided = false
	if _, state, err := checkpoint.Describe(dir); err != nil {
		return nil, err
	} else if err := state.Trainable(dir); err != nil {
		return nil, err
	}
	w, err := checkpoint.OpenWeights(dir)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	progress := o.Progress
	if progress == nil {
		progress = func(int) {}
	}
	if o.Format == "gguf" {
		if _, err := architectureOf(s); err != nil {
			return nil, fmt.Errorf("%w. --as hf takes any model", err)
		}
		part := func(name string, from int, shape []int, write func([]float32) error) error {
			return stream(w.File(), name, from, shape, false, write)
		}
		return writeGGUF(&merger{model: s, read: w.Read, part: part}, tok, out, t, progress)
	}
	var files []file
	var layout map[string][]part
	var fam *family
	prefix := ""
	if o.Format == "reference" {
		layout = ownLayout(s)
		files = append(files, text(ownConfig, c.Source))
	} else {
		fam = familyOf(s)
		layout, prefix = fam.layout(s), fam.prefix
		if fam == structured {
			layout = ownLayout(s)
			files = append(files, text(modelingFile, modeling), text(ownConfig, c.Source))
		}
		config, err := json.MarshalIndent(fam.config(s, tok, t), "", "  ")
		if err != nil {
			return nil, err
		}
		files = append(files, text(hubConfig, append(config, '\n')))
	}
	files = append(files, tokenizerFiles(tok, o.Format)...)
	var values []safetensors.Value
	for i, q := range s.Params() {
		for _, p := range layout[q.Name] {
			values = append(values, safetensors.Value{Name: fam.spell(prefix, p.name), Shape: p.shape, Type: t, Stream: func(write func([]float32) error) error {
				defer progress(i + 1)
				if p.transposed {
					return stream(w.File(), q.Name, 0, q.Shape, true, write)
				}
				return stream(w.File(), q.Name, p.lo*q.Size()/max(1, q.Shape[0]), p.shape, false, write)
			}})
		}
	}
	shards := safetensors.Split(values, cmp.Or(o.Shard, DefaultShard))
	for _, s := range shards {
		files = append(files, file{s.Name, func(w io.Writer) error { return safetensors.Write(w, s.Values, map[string]string{"format": "pt"}) }})
	}
	if len(shards) > 1 {
		index, err := safetensors.Index(shards)
		if err != nil {
			return nil, err
		}
		files = append(files, text(safetensors.IndexFile, index))
	}
	return nil, create(out, files)
}

// configFile is the file beside a tokenizer's that says which class reads it.
const configFile = "tokenizer_config.json"

// tokenizerFiles are those of a tokenizer, which may be nil, and what lies beside it.
// For transformers each has a file; and one that says that this file is all of it, where
// no other does: without it, the class that the type of the model has by custom would
// put its own rules in the place of the file's.
func tokenizerFiles(tok token.Tokenizer, format string) (files []file) {
	if tok == nil {
		return nil
	}
	name, content := tok.File()
	if name == "" && format == "hf" {
		name, content = token.FileNames[0], token.BytesFile()
	}
	if name != "" {
		files = append(files, text(name, content))
	}
	has := false
	for _, b := range token.Files(tok) {
		files = append(files, text(b.Name, b.Content))
		has = has || b.Name == configFile
	}
	if format == "hf" && !has && name == token.FileNames[0] {
		end := tok.Special(tok.EndOfDocument())
		begin := end
		if before, _ := tok.Frame(); len(before) == 1 {
			begin = tok.Special(before[0])
		}
		config, err := json.MarshalIndent(object{"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": begin, "eos_token": end, "clean_up_tokenization_spaces": false}, "", "  ")
		if err != nil {
			panic(err) // texts and flags have an encoding
		}
		files = append(files, text(configFile, append(config, '\n')))
	}
	return files
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

// torchTypes are the names of types in a config.json.
var torchTypes = map[narrow.Type]string{narrow.F32: "float32", narrow.F16: "float16", narrow.BF16: "bfloat16"}

// object is what a config.json has.
type object map[string]any

// config is the config.json of a model that the family expresses.
func (fam *family) config(s spec.Model, tok token.Tokenizer, t narrow.Type) object {
	c := fam.write(s)
	c["model_type"], c["architectures"] = fam.model, []string{fam.architecture}
	c["vocab_size"], c["tie_word_embeddings"] = s.Vocab, s.TieEmbeddings
	c["initializer_range"], c["torch_dtype"] = s.InitStd, torchTypes[t]
	c["bos_token_id"], c["eos_token_id"] = nil, nil
	if tok != nil {
		c["eos_token_id"] = tok.EndOfDocument()
		if before, _ := tok.Frame(); len(before) == 1 {
			c["bos_token_id"] = before[0]
		}
	}
	return c
}
