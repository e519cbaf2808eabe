package hf

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// value is a part of the file and where it is.
type value struct {
	place string // such as pre_tokenizer.pretokenizers[1]
	raw   json.RawMessage
}

// errorf puts the place before a message.
func (v value) errorf(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	if v.place == "" {
		return err
	}
	return fmt.Errorf("%s: %w", v.place, err)
}

// null tells whether there is nothing.
func (v value) null() bool { return len(v.raw) == 0 || string(v.raw) == "null" }

func (v value) sub(key string) string {
	if v.place == "" {
		return key
	}
	return v.place + "." + key
}

// decode decodes the part.
func (v value) decode(into any, want string) error {
	if v.null() {
		return v.errorf("is missing, want %s", want)
	}
	err := json.Unmarshal(v.raw, into)
	if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) {
		return v.errorf("byte %d: %w", syntax.Offset, err)
	}
	if inside := (*json.UnmarshalTypeError)(nil); errors.As(err, &inside) && len(v.raw) > most {
		return v.errorf("has a %s at byte %d of it, want %s", inside.Value, inside.Offset, want)
	}
	if err != nil {
		return v.errorf("is %s, want %s", excerpt(v.raw), want)
	}
	return nil
}

// most is how many bytes of a text messages show.
const most = 60

// excerpt is the beginning of a text, for messages.
func excerpt(raw []byte) string {
	if len(raw) <= most {
		return string(raw)
	}
	return strings.ToValidUTF8(string(raw[:most]), "") + "..."
}

// object is the fields of a part.
type object struct {
	value
	fields map[string]json.RawMessage
}

// object returns the fields, of which there are no others than these.
func (v value) object(valid ...string) (object, error) {
	o := object{value: v}
	if err := v.decode(&o.fields, "an object"); err != nil {
		return o, err
	}
	for _, key := range slices.Sorted(maps.Keys(o.fields)) {
		if !slices.Contains(valid, key) {
			return o, v.errorf("unknown field %.60q; valid are %s", key, strings.Join(valid, ", "))
		}
	}
	return o, nil
}

// get returns a field, null where it is missing.
func (o object) get(key string) value { return value{o.sub(key), o.fields[key]} }

// text, flag, number and char return a field; what is missing or null is an error,
// or the alternative where there is one.

func (o object) text(key string, otherwise ...string) (s string, err error) {
	v := o.get(key)
	if v.null() && len(otherwise) > 0 {
		return otherwise[0], nil
	}
	return s, v.decode(&s, "a string")
}

func (o object) flag(key string, otherwise ...bool) (b bool, err error) {
	v := o.get(key)
	if v.null() && len(otherwise) > 0 {
		return otherwise[0], nil
	}
	return b, v.decode(&b, "true or false")
}

// maxIDs bounds ids, and so the tables of ids.
const maxIDs = 1 << 24

func (o object) number(key string) (n int32, err error) {
	v := o.get(key)
	want := fmt.Sprintf("a whole number from 0 to %d", maxIDs-1)
	if err := v.decode(&n, want); err != nil {
		return 0, err
	}
	if n < 0 || n >= maxIDs {
		return 0, v.errorf("is %d, want %s", n, want)
	}
	return n, nil
}

func (o object) char(key string) (r rune, err error) {
	s, err := o.text(key)
	if err != nil {
		return 0, err
	}
	r, n := utf8.DecodeRuneInString(s)
	if n == 0 || n != len(s) {
		return 0, o.get(key).errorf("is %.60q, want one character", s)
	}
	return r, nil
}

// choice returns which of the values a string is.
func (o object) choice(key string, valid []string, otherwise ...string) (int, error) {
	s, err := o.text(key, otherwise...)
	if err != nil {
		return 0, err
	}
	i := slices.Index(valid, s)
	if i < 0 {
		return 0, o.get(key).errorf("is %.60q; valid are %s", s, strings.Join(valid, ", "))
	}
	return i, nil
}

// list returns the elements of an array.
func (v value) list() ([]value, error) {
	var raws []json.RawMessage
	if err := v.decode(&raws, "an array"); err != nil {
		return nil, err
	}
	out := make([]value, len(raws))
	for i, raw := range raws {
		out[i] = value{fmt.Sprintf("%s[%d]", v.place, i), raw}
	}
	return out, nil
}

// kind returns the type of a component.
func (v value) kind() (string, error) {
	var fields map[string]json.RawMessage
	if err := v.decode(&fields, "an object"); err != nil {
		return "", err
	}
	return object{v, fields}.text("type")
}

// maxParts bounds the components of one kind in a file, nested ones too.
const maxParts = 64

// flatten returns the components of v, those of sequences in their order.
func (v value) flatten(list string) ([]value, error) {
	var out []value
	seen := 0
	var add func(v value, depth int) error
	add = func(v value, depth int) error {
		if seen++; seen > maxParts || depth > 8 {
			return v.errorf("too many components, want at most %d, and 8 within each other", maxParts)
		}
		kind, err := v.kind()
		if err != nil {
			return err
		}
		if kind != "Sequence" {
			out = append(out, v)
			return nil
		}
		o, err := v.object("type", list)
		if err != nil {
			return err
		}
		parts, err := o.get(list).list()
		if err != nil {
			return err
		}
		for _, part := range parts {
			if err := add(part, depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	if v.null() {
		return nil, nil
	}
	return out, add(v, 0)
}

// checkText refuses what encoding/json would read as U+FFFD: bytes that are not
// UTF-8, and halves of surrogate pairs.
func checkText(content []byte) error {
	at := func(i int) int { return 1 + bytes.Count(content[:i], []byte("\n")) }
	if !utf8.Valid(content) {
		i := 0
		for i < len(content) {
			r, n := utf8.DecodeRune(content[i:])
			if r == utf8.RuneError && n == 1 {
				break
			}
			i += n
		}
		return fmt.Errorf("line %d: byte 0x%02x is not UTF-8", at(i), content[i])
	}
	surrogate := func(i int) (high, low bool) {
		if i+6 > len(content) || content[i] != '\\' || content[i+1] != 'u' || content[i+2]|0x20 != 'd' {
			return false, false
		}
		switch content[i+3] | 0x20 {
		case '8' | 0x20, '9' | 0x20, 'a', 'b':
			return true, false
		case 'c', 'd', 'e', 'f':
			return false, true
		}
		return false, false
	}
	for i := 0; ; i += 2 {
		next := bytes.IndexByte(content[i:], '\\')
		if next < 0 {
			return nil
		}
		i += next
		if i+1 >= len(content) {
			return nil
		}
		if high, low := surrogate(i); low {
			return fmt.Errorf("line %d: half of a surrogate pair, %s", at(i), content[i:i+6])
		} else if high {
			if _, low := surrogate(i + 6); !low {
				return fmt.Errorf("line %d: half of a surrogate pair, %s", at(i), content[i:i+6])
			}
			i += 10
		}
	}
}
