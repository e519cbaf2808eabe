package hub

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// fields are those of a config.json. A field that is null counts as one that is not
// there, but for those few of which null says something.
type fields struct {
	// at is where the object lies: empty, or the field that has it, and a point.
	at   string
	raw  map[string]json.RawMessage
	null map[string]bool
	read map[string]bool
	errs []error
	// names are what config.json calls fields of a model, by their names here.
	names map[string]string
}

func parseFields(text []byte) (*fields, error) {
	f := &fields{null: map[string]bool{}, read: map[string]bool{}, names: map[string]string{}}
	if err := json.Unmarshal(text, &f.raw); err != nil {
		if bad := (*json.UnmarshalTypeError)(nil); errors.As(err, &bad) {
			return nil, fmt.Errorf("want a JSON object, there is a JSON %s", bad.Value)
		}
		return nil, err
	}
	if f.raw == nil {
		return nil, errors.New("want a JSON object, there is null")
	}
	maps.DeleteFunc(f.raw, func(name string, v json.RawMessage) bool {
		f.null[name] = string(v) == "null"
		return f.null[name]
	})
	return f, nil
}

func (f *fields) fail(field, format string, args ...any) {
	f.errs = append(f.errs, fmt.Errorf("%s%s: %w", f.at, field, fmt.Errorf(format, args...)))
}

// cannot says that a model here cannot express a value, and what it can.
func (f *fields) cannot(field, want string) {
	f.fail(field, "%.100s cannot be expressed, want %s", f.raw[field], want)
}

func (f *fields) has(field string) bool {
	f.read[field] = true
	_, ok := f.raw[field]
	return ok
}

// value reads a field; where it is not there, it is otherwise.
func value[T any](f *fields, field string, otherwise T) T {
	if !f.has(field) {
		return otherwise
	}
	v := otherwise
	if err := json.Unmarshal(f.raw[field], &v); err != nil {
		f.fail(field, "%.100s is no %s", f.raw[field], kindOf(v))
		return otherwise
	}
	return v
}

// must reads a field that has to be there.
func must[T any](f *fields, field string) (v T) {
	if !f.has(field) {
		f.fail(field, "is missing, want a %s", kindOf(v))
		return v
	}
	return value(f, field, v)
}

func kindOf(v any) string {
	switch v.(type) {
	case int:
		return "whole number"
	case float64:
		return "number"
	case bool:
		return "true or false"
	case string:
		return "text"
	case []string:
		return "list of texts"
	}
	return "object"
}

// only demands that a field is what is wanted, or not there.
func only[T comparable](f *fields, field string, want T) {
	if value(f, field, want) != want {
		f.cannot(field, fmt.Sprintf("%v", want))
	}
}

// object reads a field that is an object; it is nil where it is not there.
func (f *fields) object(field string) *fields {
	if !f.has(field) {
		return nil
	}
	o, err := parseFields(f.raw[field])
	if err != nil {
		f.fail(field, "%w", err)
		return nil
	}
	o.at = f.at + field + "."
	return o
}

// join takes the errors of an object over.
func (f *fields) join(o *fields) { f.errs = append(f.errs, o.errs...) }

// unread lists the fields that nobody has read, but for those of silent.
func (f *fields) unread(silent []string) []string {
	var names []string
	for name := range f.raw {
		if !f.read[name] && !slices.ContainsFunc(silent, func(s string) bool {
			prefix, cut := strings.CutSuffix(s, "*")
			return name == s || cut && strings.HasPrefix(name, prefix)
		}) {
			names = append(names, f.at+name)
		}
	}
	slices.Sort(names)
	return names
}
