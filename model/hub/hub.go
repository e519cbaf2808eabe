// Package hub brings models of others here and takes ours there: folders as Hugging
// Face's transformers writes them, config.json and safetensors, and folders of the
// project's own names; to llama.cpp they go as GGUF files.
//
// A family is a row of a table: what its config.json says of the model, and where
// its tensors lie in the model's parameters. Both directions read the same rows.
// What a model here cannot express is an error that names the field.
package hub

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/model/checkpoint"
	"github.com/structuredffn/sffn/model/config"
	"github.com/structuredffn/sffn/model/safetensors"
	"github.com/structuredffn/sffn/model/token"
)

// The files of a folder: that of Hugging Face's configuration, and of the project's
// own.
const (
	hubConfig = "config.json"
	ownConfig = "config.yaml"
)

// Model is a model in a folder of others.
type Model struct {
	Config *config.Config
	// Format is how the folder has the model: a family's name, or reference for the
	// project's own names.
	Format string
	// Notes say what of the folder is left out.
	Notes   []string
	folder  *safetensors.Folder
	sources map[string][]source // of each parameter, in order
}

// source is a tensor that is a stretch of a parameter's rows.
type source struct {
	file *safetensors.File
	part
}

// Open reads the configuration of a model, and checks that each of its tensors is
// there with its shape, and no other that would have a meaning.
func Open(dir string) (*Model, error) {
	m := &Model{}
	own, err := isOwn(dir)
	if err != nil {
		return nil, err
	}
	var f *family
	if own {
		m.Format = "reference"
		if m.Config, err = config.Load(filepath.Join(dir, ownConfig)); err == nil {
			m.Config.Model.Name = modelName(dir)
		}
	} else {
		f, err = m.readConfig(dir)
	}
	if err != nil {
		return nil, err
	}
	if m.folder, err = safetensors.OpenFolder(dir); err != nil {
		return nil, err
	}
	if err := m.find(f); err != nil {
		m.Close()
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return m, nil
}

// Close closes the files.
func (m *Model) Close() error { return m.folder.Close() }

// isOwn says that a folder has a configuration of the project's own, and not one of
// Hugging Face's.
func isOwn(dir string) (bool, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return false, err
	}
	has := func(name string) bool {
		_, err := os.Stat(filepath.Join(dir, name))
		return err == nil
	}
	switch {
	case !info.IsDir():
		return false, fmt.Errorf("%s is %s, want the folder that has %s and %s", dir, disk.Kind(info.Mode()), hubConfig, safetensors.WholeFile)
	case has(hubConfig):
		return has(ownConfig) && modelType(filepath.Join(dir, hubConfig)) == ownType, nil
	case checkpoint.Is(dir):
		return false, fmt.Errorf("%s is a checkpoint already", dir)
	case has(ownConfig):
		return true, nil
	}
	return false, fmt.Errorf("%s: neither %s nor %s is in this folder", dir, hubConfig, ownConfig)
}

// modelType is what a config.json calls the model, empty where it cannot be read.
func modelType(name string) string {
	text, err := disk.ReadText(name, maxConfig, "")
	if err != nil {
		return ""
	}
	f, err := parseFields(text)
	if err != nil {
		return ""
	}
	return value(f, "model_type", "")
}

// find gives each parameter its tensors. f is nil of a folder of the project's names.
func (m *Model) find(f *family) error {
	m.Config.Model.Guided = false // guides are for training only
	s := m.Config.Model
	layout, prefix := ownLayout(s), ""
	if f != nil {
		layout = f.layout(s)
		prefix = f.prefixIn(m.folder)
	}
	m.sources = map[string][]source{}
	taken := map[string]bool{}
	var errs []error
	for _, q := range s.Params() {
		for _, p := range layout[q.Name] {
			p.name = f.spell(prefix, p.name)
			src, err := m.source(p)
			errs = append(errs, err)
			m.sources[q.Name] = append(m.sources[q.Name], src)
			taken[p.name] = true
		}
	}
	if err := first(errs); err != nil {
		return err
	}
	for _, name := range m.folder.Names() {
		switch {
		case taken[name]:
		case f != nil && f.ignores(name):
			m.Notes = append(m.Notes, name+" is not read: what it holds follows from the configuration")
		case f != nil && s.TieEmbeddings && name == f.head:
			if err := m.checkTied(f.spell(prefix, f.embedding), name); err != nil {
				return err
			}
		default:
			return fmt.Errorf("the tensor %s has no place in a model of this configuration", name)
		}
	}
	return nil
}

// first joins some errors, and counts the others.
func first(errs []error) error {
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	const some = 5
	if n := len(errs); n > some {
		errs = append(errs[:some:some], fmt.Errorf("and %d more", n-some))
	}
	return errors.Join(errs...)
}

// source looks a tensor up, and compares its shape.
func (m *Model) source(p part) (source, error) {
	f, t, ok := m.folder.Lookup(p.name)
	switch {
	case !ok:
		return source{}, fmt.Errorf("the tensor %s %v is missing", p.name, p.shape)
	case !slices.Equal(t.Shape, p.shape):
		return source{}, fmt.Errorf("the tensor %s has shape %v, the configuration says %v", p.name, t.Shape, p.shape)
	case !t.Float():
		return source{}, fmt.Errorf("the tensor %s is %s, want F32, F16 or BF16", p.name, t.DType)
	}
	return source{f, p}, nil
}

// checkTied demands that the head which a file has, although the configuration says
// that it is the embedding, is the embedding.
func (m *Model) checkTied(embedding, head string) error {
	f, t, _ := m.folder.Lookup(head)
	g, u, _ := m.folder.Lookup(embedding)
	differ := fmt.Errorf("the tensors %s and %s differ, which tie_word_embeddings says are one: set it to false, or leave %[1]s out", head, embedding)
	if !t.Float() || !slices.Equal(t.Shape, u.Shape) {
		return differ
	}
	a, b := make([]float32, piece), make([]float32, piece)
	for at, n := 0, t.Size(); at < n; at += piece {
		x, y := a[:min(piece, n-at)], b[:min(piece, n-at)]
		if err := errors.Join(f.ReadPart(x, head, at), g.ReadPart(y, embedding, at)); err != nil {
			return err
		}
		if !slices.Equal(x, y) {
			return differ
		}
	}
	return nil
}

// Save writes the model as a checkpoint of step 0 into the folder of a run. tok is
// nil where the model comes without a tokenizer. The tensors go through one by one, a
// piece at a time; progress, where not nil, is told how many parameters are done.
func (m *Model) Save(run string, tok token.Tokenizer, progress func(done int)) (dir string, err error) {
	c := m.Config
	if tok != nil && tok.Vocab() > c.Model.Vocab {
		return "", fmt.Errorf("the tokenizer %s has %d ids, the model takes %d", tok.Name(), tok.Vocab(), c.Model.Vocab)
	}
	var values []safetensors.Value
	for i, q := range c.Model.Params() {
		values = append(values, safetensors.Value{Name: q.Name, Shape: q.Shape, Stream: func(write func([]float32) error) error {
			for _, s := range m.sources[q.Name] {
				if err := s.stream(finite(s.name, write)); err != nil {
					return err
				}
			}
			if progress != nil {
				progress(i + 1)
			}
			return nil
		}})
	}
	state := checkpoint.State{Name: c.Model.Name, Steps: c.Train.Steps}
	return checkpoint.SaveWeights(run, c.Source, state, tok, values)
}

// finite passes on what write takes, and refuses what is not finite.
func finite(name string, write func([]float32) error) func([]float32) error {
	at := 0
	return func(x []float32) error {
		for i, v := range x {
			if v-v != 0 {
				return fmt.Errorf("the tensor %s is not finite: %v, %d entries from its beginning", name, v, at+i)
			}
		}
		at += len(x)
		return write(x)
	}
}

// piece is how many entries of a tensor go through at a time.
const piece = 1 << 20

// stream passes the entries of the tensor to write, in the order of the parameter.
func (s source) stream(write func([]float32) error) error {
	return stream(s.file, s.name, 0, s.shape, s.transposed, write)
}

// stream passes entries of a tensor to write, from entry from on as many as a tensor
// of the shape has; or, transposed, those of a whole matrix column by column.
func stream(f *safetensors.File, name string, from int, shape []int, transposed bool, write func([]float32) error) error {
	n := safetensors.Tensor{Shape: shape}.Size()
	buffer := make([]float32, min(n, piece))
	if transposed {
		rows, columns := shape[0], shape[1]
		several := max(1, piece/max(1, rows))
		for lo := 0; lo < columns; lo += several {
			hi := min(columns, lo+several)
			if m := rows * (hi - lo); m > len(buffer) {
				buffer = make([]float32, m) // one column is longer than a piece
			}
			x := buffer[:rows*(hi-lo)]
			if err := f.ReadColumns(x, name, lo, hi); err != nil {
				return err
			}
			if err := write(x); err != nil {
				return err
			}
		}
		return nil
	}
	for at := 0; at < n; at += piece {
		x := buffer[:min(piece, n-at)]
		if err := f.ReadPart(x, name, from+at); err != nil {
			return err
		}
		if err := write(x); err != nil {
			return err
		}
	}
	return nil
}

// ownLayout is that of the project's own names: each parameter is a tensor.
func ownLayout(s spec.Model) map[string][]part {
	layout := map[string][]part{}
	for _, q := range s.Params() {
		layout[q.Name] = []part{{name: q.Name, shape: q.Shape}}
	}
	return layout
}

// modelName is what a model is called that lies in a folder.
func modelName(dir string) string {
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	return strings.TrimSuffix(filepath.Base(dir), string(filepath.Separator))
}
