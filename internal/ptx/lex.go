package ptx

import "fmt"

// token is a word, a number or one character of punctuation.
type token struct {
	text string
	line int
}

// Error is a mistake in PTX text, or an instruction outside the subset that
// this package runs.
type Error struct {
	Line int
	Msg  string
}

func (e *Error) Error() string { return fmt.Sprintf("ptx: line %d: %s", e.Line, e.Msg) }

func errorf(line int, format string, args ...any) error {
	return &Error{line, fmt.Sprintf(format, args...)}
}

func inWord(c byte) bool {
	return c == '_' || c == '$' || c == '%' || c == '.' ||
		'0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// lex cuts the text into tokens and leaves comments out.
func lex(src string) ([]token, error) {
	var ts []token
	line := 1
	for i := 0; i < len(src); {
		c := src[i]
		rest := src[i:]
		switch {
		case c == '\n':
			line++
			i++
		case c == ' ' || c == '\t' || c == '\r':
			i++
		case len(rest) > 1 && rest[:2] == "//":
			for i < len(src) && src[i] != '\n' {
				i++
			}
		case c == '"':
			n := 1
			for n < len(rest) && rest[n] != '"' && rest[n] != '\n' {
				n++
			}
			if n == len(rest) || rest[n] != '"' {
				return nil, errorf(line, "string without an end")
			}
			ts = append(ts, token{rest[:n+1], line})
			i += n + 1
		case inWord(c):
			n := 1
			for n < len(rest) && inWord(rest[n]) {
				n++
			}
			ts = append(ts, token{rest[:n], line})
			i += n
		default:
			const punctuation = "{}[]()<>,;:@!|+-"
			known := false
			for j := range len(punctuation) {
				known = known || punctuation[j] == c
			}
			if !known {
				return nil, errorf(line, "character %q is not PTX", c)
			}
			ts = append(ts, token{rest[:1], line})
			i++
		}
	}
	return ts, nil
}
