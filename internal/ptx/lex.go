package ptx

import (
	"fmt"
	"strings"
)

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

// fail ends [Parse] with an error.
func fail(line int, format string, args ...any) {
	panic(&Error{line, fmt.Sprintf(format, args...)})
}

func inWord(c byte) bool {
	return c == '_' || c == '$' || c == '%' || c == '.' ||
		'0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// lex cuts the text into tokens and leaves comments out.
func lex(src string) []token {
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
			n := strings.IndexAny(rest[1:], "\"\n")
			if n < 0 || rest[1+n] != '"' {
				fail(line, "string without an end")
			}
			ts = append(ts, token{rest[:n+2], line})
			i += n + 2
		case inWord(c):
			n := 1
			for n < len(rest) && inWord(rest[n]) {
				n++
			}
			ts = append(ts, token{rest[:n], line})
			i += n
		default:
			const punctuation = "{}[]()<>,;:@!|+-"
			if strings.IndexByte(punctuation, c) < 0 {
				fail(line, "character %q is not PTX", c)
			}
			ts = append(ts, token{rest[:1], line})
			i++
		}
	}
	return ts
}
