package specfile

import (
	"bytes"
	"fmt"
	"io"

	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/token"

	"github.com/structuredffn/sffn/internal/disk"
)

// Limits of a YAML file. What the YAML library parses takes time by the square
// of the number of keys, memory by the power of the nesting, and both without
// bound for aliases; its lexer takes neither, so that Check looks at tokens.
const (
	maxSize   = 64 << 10
	maxTokens = 4096
	maxDepth  = 16
)

// ReadText reads a file of YAML, and of no more than such a file may have.
func ReadText(name string) ([]byte, error) {
	f, err := disk.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// The size is that of what is read: a shell's pipe tells none.
	src, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, err
	}
	return src, checkSize(name, src)
}

func checkSize(name string, src []byte) error {
	if len(src) > maxSize {
		return fmt.Errorf("%s: too long for a configuration, want at most %d bytes", name, maxSize)
	}
	return nil
}

// Check returns the text to parse, without a byte-order mark, or says what keeps
// it from being parsed: what would take the YAML library long, and what it reads
// past without a word.
func Check(name string, src []byte) ([]byte, error) {
	if err := checkSize(name, src); err != nil {
		return nil, err
	}
	if bytes.HasPrefix(src, []byte("\xff\xfe")) || bytes.HasPrefix(src, []byte("\xfe\xff")) {
		return nil, fmt.Errorf("%s: the text is UTF-16, want UTF-8", name)
	}
	src = bytes.TrimPrefix(src, []byte("\ufeff"))
	c := checker{name: name}
	tokens := lexer.Tokenize(string(src))
	if len(tokens) > maxTokens {
		return nil, c.errorf(tokens[maxTokens], "too many keys and values for a configuration: want at most %d words and signs", maxTokens)
	}
	for _, t := range tokens {
		if err := c.next(t); err != nil {
			return nil, err
		}
	}
	return src, nil
}

// checker walks through the tokens of a text.
type checker struct {
	name string
	// flow counts the brackets that are open, entries the signs of lists and keys
	// that follow one another.
	flow, entries int
	// began says that the document has content, ended that it is over.
	began, ended bool
}

func (c *checker) next(t *token.Token) error {
	switch t.Type {
	case token.CommentType, token.DirectiveType:
		return nil
	case token.AnchorType, token.AliasType:
		return c.errorf(t, "anchors and aliases (&, *) are not taken; write the values where they are wanted")
	case token.TagType:
		return c.errorf(t, "tags (%.20s) are not taken; the keys say what their values are", t.Value)
	case token.DocumentHeaderType:
		if c.began {
			return c.errorf(t, "a second document begins; want one")
		}
		return nil
	case token.DocumentEndType:
		c.ended = true
		return nil
	}
	if c.ended {
		return c.errorf(t, "there is more after the document's end")
	}
	c.began = true
	switch t.Type {
	case token.SequenceStartType, token.MappingStartType:
		c.flow++
	case token.SequenceEndType, token.MappingEndType:
		c.flow--
	}
	if t.Type == token.SequenceEntryType || t.Type == token.MappingKeyType {
		c.entries++
	} else {
		c.entries = 0
	}
	if c.flow > maxDepth || c.entries > maxDepth {
		return c.errorf(t, "nested too deep, want at most %d levels", maxDepth)
	}
	return nil
}

func (c *checker) errorf(t *token.Token, format string, args ...any) error {
	return fmt.Errorf("%s:%d:%d: %w", c.name, t.Position.Line, t.Position.Column, fmt.Errorf(format, args...))
}
