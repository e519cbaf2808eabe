package hub

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/gen/specfile"
	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/model/config"
	"github.com/structuredffn/sffn/model/safetensors"
)

// family is a row of the table of models that others have.
type family struct {
	// model is what config.json calls it, architecture the class with a head, and
	// title its name for people.
	model, architecture, title string
	// section reads a config.json. Of a dense model, fits says whether the family
	// expresses it, and write is the config.json, but for what all families have alike.
	section func(f *fields) specfile.Section
	fits    func(s spec.Model) bool
	write   func(s spec.Model) object
	// fields are what config.json calls fields of a model, by their names here.
	fields map[string]string
	// prefix stands before the names of tensors but for the head's, where the whole
	// model was saved and not its body alone.
	prefix, head, embedding string
	// names are those of tensors, without .weight and .bias, by the parameters that they
	// are stretches of; a layer's without the layer's own prefix, layer with its number
	// for %d.
	names map[string][]string
	layer string
	// transposed are the parameters' names whose weights lie [in, out].
	transposed []string
	// ignored are the ends of names of tensors that hold what follows from the
	// configuration.
	ignored []string
}

// families is the table.
var families = []*family{gpt2, llama, mistral, qwen2, qwen3}

// part is a tensor that is a stretch of a parameter's rows.
type part struct {
	name       string
	shape      []int
	transposed bool
	// lo is its first row in the parameter.
	lo int
}

// silent are fields of any config.json that say nothing of what the model computes.
var silent = []string{"_name_or_path", "architectures", "transformers_version", "torch_dtype", "dtype", "use_cache",
	"bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id", "task_specific_params",
	"initializer_range", "output_attentions", "output_hidden_states", "return_dict", "id2label", "label2id", "num_labels", "problem_type",
	"gradient_checkpointing", "_attn_implementation*", "attn_implementation"}

// maxConfig bounds a config.json.
const maxConfig = 1 << 20

// readConfig reads the config.json of a folder.
func (m *Model) readConfig(dir string) (*family, error) {
	name := filepath.Join(dir, hubConfig)
	text, err := disk.ReadText(name, maxConfig, " for a configuration")
	if err != nil {
		return nil, err
	}
	fam, section, f, err := parseConfig(text)
	if err == nil {
		m.Format = fam.title
		for _, name := range f.unread(silent) {
			m.Notes = append(m.Notes, name+" is not read: it says nothing that a model of this type computes")
		}
		m.Config, err = config.Of(modelName(dir), section)
		err = f.translate(err)
	}
	if err != nil {
		return nil, within(name, err)
	}
	return fam, nil
}

// within puts the name of a file before each of joined errors.
func within(name string, err error) error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return fmt.Errorf("%s: %w", name, err)
	}
	var errs []error
	for _, err := range joined.Unwrap() {
		errs = append(errs, within(name, err))
	}
	return errors.Join(errs...)
}

// parseConfig reads a config.json, of which f are the fields.
func parseConfig(text []byte) (fam *family, s specfile.Section, f *fields, err error) {
	f, err = parseFields(text)
	if err != nil {
		return nil, s, nil, err
	}
	kind := must[string](f, "model_type")
	if len(f.errs) > 0 {
		return nil, s, nil, f.errs[0]
	}
	i := slices.IndexFunc(families, func(fam *family) bool { return fam.model == kind })
	if i < 0 {
		var known []string
		for _, fam := range families {
			known = append(known, fam.model)
		}
		return nil, s, nil, fmt.Errorf("model_type: unknown model %.100q; known are %s", kind, strings.Join(known, ", "))
	}
	fam = families[i]
	maps.Copy(f.names, fam.fields)
	for _, field := range []string{"quantization_config", "auto_map"} {
		if f.has(field) {
			f.fail(field, "a model that has one cannot be expressed")
		}
	}
	only(f, "is_encoder_decoder", false)
	only(f, "add_cross_attention", false)
	s = fam.section(f)
	if err := errors.Join(f.errs...); err != nil {
		return nil, s, nil, err
	}
	return fam, s, f, nil
}

// translate gives the errors of a model's fields the names of config.json's.
func (f *fields) translate(err error) error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		fe := (*spec.FieldError)(nil)
		if name := ""; errors.As(err, &fe) {
			if name = f.names[fe.Field]; name != "" {
				return fmt.Errorf("%s: %s", name, fe.Msg)
			}
		}
		return err
	}
	var errs []error
	for _, err := range joined.Unwrap() {
		errs = append(errs, f.translate(err))
	}
	return errors.Join(errs...)
}

// layout says of each parameter of a dense model which tensors it is made of.
func (fam *family) layout(s spec.Model) map[string][]part {
	layout := map[string][]part{}
	for _, q := range s.Params() {
		base, end := q.Name[:strings.LastIndexByte(q.Name, '.')], q.Name[strings.LastIndexByte(q.Name, '.'):]
		prefix := ""
		if rest, ok := strings.CutPrefix(base, "model.layers."); ok {
			number, inner, _ := strings.Cut(rest, ".")
			prefix, base = strings.Replace(fam.layer, "%d", number, 1), inner
		}
		transposed := end == ".weight" && slices.Contains(fam.transposed, base)
		names, lo := fam.names[base], 0
		for i, rows := range stretches(s, base, q.Shape[0], len(names)) {
			shape := slices.Clone(q.Shape)
			if shape[0] = rows; transposed {
				slices.Reverse(shape)
			}
			layout[q.Name] = append(layout[q.Name], part{prefix + names[i] + end, shape, transposed, lo})
			lo += rows
		}
	}
	return layout
}

// stretches are the rows of a parameter that lie in each of n tensors.
func stretches(s spec.Model, base string, rows, n int) []int {
	switch {
	case n == 3: // of queries, keys and values
		kv := s.KVHeads * s.HeadDim()
		return []int{rows - 2*kv, kv, kv}
	case n > 1: // of gates and ups
		return slices.Repeat([]int{rows / n}, n)
	case n == 1:
		return []int{rows}
	}
	return nil
}

// prefixIn is what stands before the names of a folder's tensors: nothing where the
// body of a model was saved without its head.
func (fam *family) prefixIn(d *safetensors.Folder) string {
	if _, _, ok := d.Lookup(fam.embedding); ok {
		return ""
	}
	return fam.prefix
}

// spell is the name of a tensor in a folder.
func (fam *family) spell(prefix, name string) string {
	if fam == nil || name == fam.head {
		return name
	}
	return prefix + name
}

// ignores says that a tensor holds what follows from the configuration.
func (fam *family) ignores(name string) bool {
	return slices.ContainsFunc(fam.ignored, func(end string) bool { return strings.HasSuffix(name, end) })
}

// Known lists the families, as people call them.
func Known() string {
	var titles []string
	for _, fam := range families {
		titles = append(titles, fam.title)
	}
	return spec.Names(titles, "and")
}
