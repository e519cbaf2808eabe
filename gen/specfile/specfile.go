// Package specfile reads the YAML files that describe a model, and carries the
// presets: the paper's configurations and the demo. The same files say how the
// model is trained, which is model/config's to read.
package specfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/structuredffn/sffn/gen/spec"
)

// document is the file's schema. Of the section train only one thing concerns the
// model: whether it has guides.
type document struct {
	Model *Section `yaml:"model"`
	Train ast.Node `yaml:"train"`
}

// Load reads the model of a file, or of the preset of that name.
func Load(name string) (spec.Model, error) {
	src, err := Source(name)
	if err != nil {
		return spec.Model{}, err
	}
	return Parse(name, src)
}

// Parse reads the model of a file's text; name is for messages and the model's
// name. Unknown fields, duplicate keys, values of the wrong kind (see
// [CheckValues]) and values out of range are errors with line and column, but of
// the section train only what no section may have.
func Parse(name string, src []byte) (spec.Model, error) {
	src, err := Check(name, src)
	if err != nil {
		return spec.Model{}, err
	}
	section := NewSection()
	d := document{Model: &section}
	if err := CheckValues(name, src, d); err != nil {
		return spec.Model{}, err
	}
	if err := Decode(name, src, &d); err != nil {
		return spec.Model{}, err
	}
	m, err := d.Model.Spec(ModelName(name))
	m.Guided = hasKey(d.Train, "guide")
	return m, Locate(name, src, err)
}

// ModelName is the name of the model in a file of that name.
func ModelName(name string) string {
	return strings.TrimSuffix(filepath.Base(name), filepath.Ext(name))
}

func hasKey(n ast.Node, key string) bool {
	m, ok := n.(ast.MapNode)
	if !ok {
		return false
	}
	for at := m.MapRange(); at.Next(); {
		if keyOf(at.Key()) == key {
			return true
		}
	}
	return false
}

// Decode reads a text that Check has let pass into v. What v has no field for is
// an error.
func Decode(name string, src []byte, v any) error {
	err := yaml.NewDecoder(bytes.NewReader(src), yaml.Strict()).Decode(v)
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: the file is empty, want a section model: and, to train, a section train: in it", name)
	} else if err != nil {
		return SyntaxError(name, err)
	}
	return nil
}

// SyntaxError puts the file's name before the line and column of an error of the
// YAML library.
func SyntaxError(name string, err error) error {
	msg := strings.TrimSpace(yaml.FormatError(err, false, true))
	if len(msg) > 2000 {
		msg = msg[:2000] + " ..." // the source's lines are in it
	}
	if rest, ok := strings.CutPrefix(msg, "["); ok {
		return errors.New(name + ":" + strings.Replace(rest, "]", ":", 1))
	}
	return fmt.Errorf("%s: %s", name, msg)
}

// Locate puts file, line and column before each of joined field errors: those of
// the field, or of its section where the field is left out.
func Locate(name string, src []byte, err error) error {
	if err == nil {
		return nil
	}
	doc, perr := parser.ParseBytes(src, 0)
	var out []error
	for _, e := range flatten(err) {
		fe := (*spec.FieldError)(nil)
		if perr != nil || !errors.As(e, &fe) {
			out = append(out, fmt.Errorf("%s: %w", name, e))
			continue
		}
		line, column := position(doc, fe.Field)
		out = append(out, fmt.Errorf("%s:%d:%d: %w", name, line, column, e))
	}
	return errors.Join(out...)
}

func flatten(err error) []error {
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		var out []error
		for _, e := range j.Unwrap() {
			out = append(out, flatten(e)...)
		}
		return out
	}
	return []error{err}
}

func position(doc *ast.File, field string) (line, column int) {
	paths := []string{"$.model.mlp." + field, "$.model." + field, "$.train." + field}
	if entry, _, ok := strings.Cut(field, "]"); ok { // that has the field or leaves it out
		paths = append(paths, "$.model."+entry+"]")
	}
	for _, path := range append(paths, "$.model.mlp", "$.model") {
		p, err := yaml.PathString(path)
		if err != nil {
			continue // a field that is no key, such as fc1's output
		}
		if n, err := p.FilterFile(doc); err == nil && n != nil {
			pos := n.GetToken().Position
			return pos.Line, pos.Column
		}
	}
	return 1, 1
}
