package source

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// errNull says that a field is null: a document without text.
var errNull = errors.New("null")

// textField returns the string that a line of JSON, an object, has under a name. It is
// decoded where it lies: the line is not the same afterwards. Bytes that are no UTF-8
// stay as they are. Of a name that comes twice the last one counts.
func textField(line []byte, field string) ([]byte, error) {
	line = bytes.TrimSpace(line)
	if !json.Valid(line) {
		return nil, syntaxError(line)
	}
	if line[0] != '{' {
		return nil, errors.New("want a JSON object in each line")
	}
	var value []byte
	var names []string
	for at := 1; ; {
		at = skipSpace(line, at)
		if line[at] == '}' {
			break
		}
		if line[at] == ',' {
			at = skipSpace(line, at+1)
		}
		end := skipString(line, at)
		name := line[at+1 : end-1]
		at = skipSpace(line, end) + 1 // the colon
		at = skipSpace(line, at)
		end = skipValue(line, at)
		if string(name) == field || bytes.IndexByte(name, '\\') >= 0 && string(unquote(bytes.Clone(name))) == field {
			value = line[at:end]
		} else if len(names) < 8 {
			names = append(names, string(name))
		}
		at = end
	}
	switch {
	case value == nil:
		return nil, fmt.Errorf("no field %q; there are: %s", field, strings.Join(names, ", "))
	case value[0] == 'n':
		return nil, errNull
	case value[0] != '"':
		return nil, fmt.Errorf("field %q is %.20s, want a string", field, value)
	}
	return unquote(value[1 : len(value)-1]), nil
}

// syntaxError says what is wrong with a line.
func syntaxError(line []byte) error {
	if len(line) > 1<<20 { // no copy of much
		return errors.New("no JSON")
	}
	var v json.RawMessage
	if err := json.Unmarshal(line, &v); err != nil {
		if at := (*json.SyntaxError)(nil); errors.As(err, &at) {
			return fmt.Errorf("no JSON: byte %d: %w", at.Offset, err)
		}
		return fmt.Errorf("no JSON: %w", err)
	}
	return errors.New("no JSON")
}

// What follows runs on valid JSON only.

func skipSpace(b []byte, at int) int {
	for b[at] == ' ' || b[at] == '\t' || b[at] == '\n' || b[at] == '\r' {
		at++
	}
	return at
}

// skipString is behind the string that begins at a place.
func skipString(b []byte, at int) int {
	for at++; ; {
		i := bytes.IndexByte(b[at:], '"')
		// It is escaped by an odd number of backslashes.
		n := 0
		for n < i && b[at+i-1-n] == '\\' {
			n++
		}
		at += i + 1
		if n%2 == 0 {
			return at
		}
	}
}

// skipValue is behind the value that begins at a place.
func skipValue(b []byte, at int) int {
	depth := 0
	for {
		switch b[at] {
		case '"':
			at = skipString(b, at) - 1
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 { // of what is around it
				return at
			}
			depth--
		case ',', ' ', '\t', '\n', '\r':
			if depth == 0 {
				return at
			}
		}
		at++
		if depth == 0 && (b[at-1] == '"' || b[at-1] == '}' || b[at-1] == ']') {
			return at
		}
	}
}

// unquote decodes the escapes of a string in its place; it never grows. Half of a
// surrogate pair is U+FFFD.
func unquote(s []byte) []byte {
	from := bytes.IndexByte(s, '\\')
	if from < 0 {
		return s
	}
	out := s[:from]
	for {
		// s[from] is a backslash.
		c := s[from+1]
		n := 2
		switch c {
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		}
		if c == 'u' {
			n = 6
			r := hex4(s[from+2:])
			if utf16.IsSurrogate(r) {
				pair := utf8.RuneError
				if rest := s[from+6:]; len(rest) >= 6 && rest[0] == '\\' && rest[1] == 'u' {
					pair = utf16.DecodeRune(r, hex4(rest[2:]))
				}
				if r = pair; pair != utf8.RuneError {
					n = 12
				}
			}
			out = utf8.AppendRune(out, r)
		} else {
			out = append(out, c)
		}
		from += n
		i := bytes.IndexByte(s[from:], '\\')
		if i < 0 {
			return append(out, s[from:]...)
		}
		out = append(out, s[from:from+i]...)
		from += i
	}
}

func hex4(s []byte) (r rune) {
	for _, c := range s[:4] {
		switch {
		case c <= '9':
			c -= '0'
		case c <= 'F':
			c -= 'A' - 10
		default:
			c -= 'a' - 10
		}
		r = r<<4 | rune(c)
	}
	return r
}
