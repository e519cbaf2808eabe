package config

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/gen/specfile"
)

// keysOf lists the keys of the schema by the kind of their values, with the
// section that they are in.
func keysOf(t reflect.Type, section string, keys map[reflect.Kind][]string) {
	for i := range t.NumField() {
		f := t.Field(i)
		key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		of := f.Type
		if of.Kind() == reflect.Pointer {
			of = of.Elem()
		}
		switch {
		case of.Kind() == reflect.Struct:
			keysOf(of, section+key+": {", keys)
		case of == reflect.TypeFor[specfile.Layers](): // text that may be a number: TestConfigRanges has what it takes
		default:
			keys[of.Kind()] = append(keys[of.Kind()], section+key)
		}
	}
}

// Every key of the schema takes what its kind is written as, and nothing else:
// what it does not take is an error at its line and column that says what would
// be right.
func TestValues(t *testing.T) {
	keys := map[reflect.Kind][]string{}
	keysOf(reflect.TypeFor[file](), "", keys)
	whole := []string{"010", "0x10", "0o10", "0b1", "1_000", "+5", `"60"`, "'60'", "08", "5.9", "1.5e0", "true", "yes", "[1]", "{a: 1}", ".inf", ".nan", "many", "1:30"}
	none := []string{"", "null", "~"}
	for kind, tt := range map[reflect.Kind]struct {
		right, wrong []string
		want         string
	}{
		reflect.Int:     {[]string{"60", "0", "-1", "1e3", "10.0", "9223372036854775807"}, append(whole, "9223372036854775808", "1e30"), "want a number such as 60"},
		reflect.Uint64:  {[]string{"60", "0", "1e3", "18446744073709551615"}, append(whole, "18446744073709551616", "-1", "1e17"), "want a number such as 60"},
		reflect.Float64: {[]string{"1", "0.5", ".5", "5.", "1e-3", "1E-3", "-2", "6.0e-4"}, []string{"010", "01.5", "0x10", "1_0.5", `"0.1"`, "'1e-3'", "true", ".nan", ".inf", "1e400", "+.5", "[0.5]"}, "want a number such as 0.5 or 6e-4"},
		reflect.Bool:    {[]string{"true", "false", "True"}, []string{"yes", "on", "1", `"true"`, "tRue", "[true]"}, "want true or false"},
		reflect.String:  {[]string{"cosine", `"cosine"`, "'5'"}, []string{"5", "010", "1.5", "1e3", "true", "[gelu]"}, "want text"},
	} {
		if len(keys[kind]) == 0 {
			t.Fatalf("the schema has no key of kind %v", kind)
		}
		for _, key := range keys[kind] {
			end := strings.Repeat("}", strings.Count(key, "{"))
			name := key[strings.LastIndexByte(key, ' ')+1:]
			name = name[strings.LastIndexByte(name, '{')+1:]
			for _, v := range tt.right {
				if err := specfile.CheckValues("f.yaml", fmt.Appendf(nil, "%s: %s%s\n", key, v, end), file{}); err != nil {
					t.Errorf("%s: %s: %v", key, v, err)
				}
			}
			for _, v := range append(none, tt.wrong...) {
				column, want := strings.LastIndex(key, name)+1, tt.want
				if v != "" && v != "null" && v != "~" {
					column += len(name) + 2
				} else {
					want = "is empty, " + want
				}
				err := specfile.CheckValues("f.yaml", fmt.Appendf(nil, "%s: %s%s\n", key, v, end), file{})
				if err == nil || !strings.HasPrefix(err.Error(), fmt.Sprintf("f.yaml:1:%d: %s: ", column, name)) || !strings.Contains(err.Error(), want) {
					t.Errorf("%s: %s: got %v, want it at column %d and to say %q", key, v, err, column, want)
				}
			}
		}
	}
}

// Sections may be empty only where nothing is said of them.
func TestEmptySections(t *testing.T) {
	for src, want := range map[string]string{
		"model:\n":                         "f.yaml:1:1: model: is empty, want a section; leave the key out for its default",
		good + "train:\n":                  "f.yaml:8:1: train: is empty",
		good + "train: null\n":             "f.yaml:8:1: train: is empty",
		good + "train: {guide: }\n":        "f.yaml:8:9: guide: is empty",
		good + "train:\n  steps:\n":        "f.yaml:9:3: steps: is empty",
		good + "? train\n: {steps: 010}\n": "f.yaml:9:11: steps: 010 is no whole number",
	} {
		if _, err := Parse("f.yaml", []byte(src)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", src, err, want)
		}
	}
	if _, err := Parse("f.yaml", []byte(good+"train: {}\n")); err != nil {
		t.Error(err)
	}
}

// What an earlier version took is read as it was.
func TestSavedValues(t *testing.T) {
	src := good + "train: {steps: \"60\", batch: 010, seed: }\n"
	if _, err := Parse("f.yaml", []byte(src)); err == nil {
		t.Error("taken from a user")
	}
	d := NewDraft()
	d.model.Vocab, d.model.Hidden, d.model.FFN, d.model.Layers, d.model.QHeads = 10, 8, 8, 1, 1
	written, err := d.Config("draft")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Parse("draft.yaml", written.Source); err != nil || !again.SameRun(written) {
		t.Errorf("what a draft is written as: %v\n%s", err, written.Source)
	}
	c, err := ParseSaved("f.yaml", []byte(src), Edition)
	if err != nil || c.Train.Steps != 60 || c.Train.Batch != 8 || c.Train.Seed != 1 {
		t.Errorf("%+v, %v", c, err)
	}
}
