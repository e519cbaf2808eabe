package safetensors

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/structuredffn/sffn/internal/disk"
)

// The names that the tensors of a model have by custom: of one file, and of what
// lists several.
const (
	WholeFile = "model.safetensors"
	IndexFile = "model.safetensors.index.json"
)

// Limits of an index.
const (
	maxIndex  = 16 << 20
	maxShards = 4096
)

// Shard is a file of a folder's tensors.
type Shard struct {
	Name   string
	Values []Value
}

// Split shares tensors out, in their order, to files of at most so many bytes of
// tensors, but for a tensor that is larger: to model.safetensors where one is enough, or
// else to several by their usual names.
func Split(values []Value, most int64) []Shard {
	shards := []Shard{{}}
	room := most
	for _, v := range values {
		last := &shards[len(shards)-1]
		if v.Bytes() > room && len(last.Values) > 0 {
			shards = append(shards, Shard{})
			last, room = &shards[len(shards)-1], most
		}
		last.Values = append(last.Values, v)
		room -= v.Bytes()
	}
	for i := range shards {
		shards[i].Name = fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, len(shards))
	}
	if len(shards) == 1 {
		shards[0].Name = WholeFile
	}
	return shards
}

// Index is the text of model.safetensors.index.json: which file has which tensor.
func Index(shards []Shard) ([]byte, error) {
	var index struct {
		Metadata struct {
			TotalSize int64 `json:"total_size"`
		} `json:"metadata"`
		WeightMap map[string]string `json:"weight_map"`
	}
	index.WeightMap = map[string]string{}
	for _, s := range shards {
		for _, v := range s.Values {
			index.WeightMap[v.Name] = s.Name
			index.Metadata.TotalSize += v.Bytes()
		}
	}
	text, err := json.MarshalIndent(index, "", "  ")
	return append(text, '\n'), err
}

// Folder are the tensors of a model, which lie in one file of a folder or in several.
type Folder struct {
	files []*File
	names []string
	at    map[string]*File
}

// OpenFolder opens the tensors of a folder: those of model.safetensors, or else of
// the files that model.safetensors.index.json names.
func OpenFolder(dir string) (*Folder, error) {
	d := &Folder{at: map[string]*File{}}
	f, err := Open(filepath.Join(dir, WholeFile))
	if err == nil {
		d.files = []*File{f}
		for _, t := range f.tensors {
			d.names, d.at[t.Name] = append(d.names, t.Name), f
		}
		return d, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	name := filepath.Join(dir, IndexFile)
	text, err := disk.ReadText(name, maxIndex, " for an index of tensors")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: neither %s nor %s is in this folder%s", dir, WholeFile, IndexFile, otherWeights(dir))
	} else if err != nil {
		return nil, err
	}
	if err := d.openIndex(dir, text); err != nil {
		d.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return d, nil
}

// otherWeights names what is there in the place of tensors that can be read.
func otherWeights(dir string) string {
	for _, name := range []string{"pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return fmt.Sprintf("; %s holds the weights as a program, which is not run: save the model as safetensors", name)
		}
	}
	return ""
}

// openIndex opens the files of an index. The files say which tensors there are, and
// the index says of each which file's counts.
func (d *Folder) openIndex(dir string, text []byte) error {
	shards := map[string]*File{}
	total := 0
	err := weightMap(text, func(tensor, file string) error {
		if d.at[tensor] != nil {
			return fmt.Errorf("weight_map: %.100q comes twice", tensor)
		}
		if len(d.names) == maxTensors {
			return fmt.Errorf("weight_map: more than %d tensors", maxTensors)
		}
		if filepath.Base(file) != file || !filepath.IsLocal(file) {
			return fmt.Errorf("weight_map: %.100q is in %.100q, want the name of a file in this folder", tensor, file)
		}
		f := shards[file]
		if f == nil {
			if len(shards) == maxShards {
				return fmt.Errorf("weight_map: more than %d files", maxShards)
			}
			var err error
			if f, err = Open(filepath.Join(dir, file)); err != nil {
				return err
			}
			shards[file] = f
			d.files = append(d.files, f)
			if total += len(f.tensors); total > maxTensors {
				return fmt.Errorf("weight_map: files of more than %d tensors", maxTensors)
			}
		}
		if _, ok := f.Lookup(tensor); !ok {
			return fmt.Errorf("weight_map: %.100q is not in %s", tensor, file)
		}
		d.names, d.at[tensor] = append(d.names, tensor), f
		return nil
	})
	if err != nil {
		return err
	}
	for file, f := range shards {
		for _, t := range f.tensors {
			if d.at[t.Name] == nil {
				return fmt.Errorf("weight_map: %.100q of %s is not listed", t.Name, file)
			}
		}
	}
	return nil
}

// weightMap calls add for each tensor of an index and the file that it is in.
func weightMap(text []byte, add func(tensor, file string) error) error {
	var index struct {
		WeightMap json.RawMessage `json:"weight_map"`
	}
	if err := json.Unmarshal(text, &index); err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(index.WeightMap))
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		return errors.New("weight_map is missing: want an object of tensors and the files that they are in")
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return err
		}
		var file string
		if err := dec.Decode(&file); err != nil {
			return fmt.Errorf("weight_map: %.100q: %w", key, err)
		}
		if err := add(key.(string), file); err != nil {
			return err
		}
	}
	return nil
}

// Names lists the tensors.
func (d *Folder) Names() []string { return d.names }

// Lookup finds a tensor, and the file that it is in.
func (d *Folder) Lookup(name string) (*File, Tensor, bool) {
	f := d.at[name]
	if f == nil {
		return nil, Tensor{}, false
	}
	t, ok := f.Lookup(name)
	return f, t, ok
}

// Close closes the files.
func (d *Folder) Close() error {
	var errs []error
	for _, f := range d.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
