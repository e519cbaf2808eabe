// Package token turns text into token ids and back: bytes, GPT-2's vocabulary,
// and the tokenizer files of others.
package token

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/structuredffn/sffn/model/token/hf"
)

// Tokenizer maps text to ids in [0, Vocab) and back. Its methods are safe from
// several goroutines.
type Tokenizer interface {
	// Name is what --tokenizer takes, or the name of the file.
	Name() string
	// Hash tells one tokenizer from any other; data files carry it.
	Hash() [32]byte
	// Vocab is the largest id and one.
	Vocab() int
	// EndOfDocument is the id that follows every document.
	EndOfDocument() int32
	// Frame returns the ids that stand before and behind a whole text by the
	// tokenizer's own rule, such as the one that begins a text. They are not to be
	// changed.
	Frame() (before, after []int32)
	// Encode appends the ids of text to dst, without its frame. What spells a
	// special token is that token.
	Encode(dst []int32, text []byte) []int32
	// EncodeOrdinary is Encode for text in which nothing is a special token.
	EncodeOrdinary(dst []int32, text []byte) []int32
	// Decode appends the bytes of one id to dst; those of a special token, and
	// of an id outside the vocabulary, are none.
	Decode(dst []byte, id int32) []byte
	// Special is how a special token is spelled, empty for any other id.
	Special(id int32) string
	// Prefixed says that encoding puts a space before a text, which decoding
	// leaves out again.
	Prefixed() bool
	// File is what travels with data and checkpoints: the name that such a file
	// has by custom, and its content. The name is empty where no file is needed.
	File() (name string, content []byte)
}

// Described is a tokenizer that says what it is made of: names and values, in
// order.
type Described interface {
	Describe() [][2]string
}

// New returns the tokenizer of that name, for which no file is needed.
func New(name string) (Tokenizer, error) {
	switch name {
	case "byte":
		return Bytes{}, nil
	case "gpt2":
		return hf.GPT2(), nil
	}
	return nil, fmt.Errorf("%w %q: valid are %s", ErrUnknown, name, strings.Join(Names, " and "))
}

// ByHash returns the tokenizer that made a data file.
func ByHash(h [32]byte) (Tokenizer, error) {
	if h == (Bytes{}).Hash() {
		return Bytes{}, nil
	}
	return nil, fmt.Errorf("made with an unknown tokenizer (hash %x...)", h[:4])
}

// Bytes is the byte tokenizer: ids 0 to 255 are the bytes, 256 ends a
// document.
type Bytes struct{}

// Name implements Tokenizer.
func (Bytes) Name() string { return "byte" }

// Hash implements Tokenizer.
func (Bytes) Hash() [32]byte {
	return sha256.Sum256([]byte("byte tokenizer: 256 bytes, end of document 256"))
}

// Vocab implements Tokenizer.
func (Bytes) Vocab() int { return 257 }

// EndOfDocument implements Tokenizer.
func (Bytes) EndOfDocument() int32 { return 256 }

// Frame implements Tokenizer.
func (Bytes) Frame() (before, after []int32) { return nil, nil }

// Encode implements Tokenizer.
func (Bytes) Encode(dst []int32, text []byte) []int32 {
	for _, b := range text {
		dst = append(dst, int32(b))
	}
	return dst
}

// EncodeOrdinary implements Tokenizer.
func (b Bytes) EncodeOrdinary(dst []int32, text []byte) []int32 { return b.Encode(dst, text) }

// Decode implements Tokenizer.
func (Bytes) Decode(dst []byte, id int32) []byte {
	if id < 0 || id > 255 {
		return dst
	}
	return append(dst, byte(id))
}

// Special implements Tokenizer.
func (Bytes) Special(id int32) string {
	if id == 256 {
		return "<|endoftext|>"
	}
	return ""
}

// Prefixed implements Tokenizer.
func (Bytes) Prefixed() bool { return false }

// File implements Tokenizer.
func (Bytes) File() (name string, content []byte) { return "", nil }

// BytesFile is a tokenizer.json of the byte tokenizer's ids, for programs that know no
// tokenizer without a file. Parse takes it for [Bytes] again.
func BytesFile() []byte { return hf.BytesJSON(Bytes{}.Special(Bytes{}.EndOfDocument())) }

// Stream turns ids into text as they come, in whole runes.
type Stream struct {
	tok     Tokenizer
	prefix  bool // the space that encoding put before the text is still to come
	pending []byte
}

// NewStream returns a stream of text: of one from its beginning, or of what
// continues it.
func NewStream(t Tokenizer, begins bool) *Stream {
	return &Stream{tok: t, prefix: begins && t.Prefixed()}
}

// Next adds an id and returns the text that is complete. Bytes that are no
// UTF-8 come out as U+FFFD.
func (s *Stream) Next(id int32) string {
	s.add(id)
	return s.take(false)
}

func (s *Stream) add(id int32) {
	had := len(s.pending)
	s.pending = s.tok.Decode(s.pending, id)
	if s.prefix && len(s.pending) > had {
		s.pending = append(s.pending[:had], bytes.TrimPrefix(s.pending[had:], []byte(" "))...)
		s.prefix = false
	}
}

// Text is the bytes that the ids of a whole text stand for. Special tokens are
// left out, or written as they are spelled.
func Text(t Tokenizer, ids []int32, special bool) []byte {
	s := NewStream(t, true)
	for _, id := range ids {
		if special {
			s.pending = append(s.pending, t.Special(id)...)
		}
		s.add(id)
	}
	return s.pending
}

// End returns what is left.
func (s *Stream) End() string { return s.take(true) }

func (s *Stream) take(all bool) string {
	var out []byte
	for len(s.pending) > 0 && (all || utf8.FullRune(s.pending)) {
		r, n := utf8.DecodeRune(s.pending)
		out = utf8.AppendRune(out, r)
		s.pending = s.pending[n:]
	}
	return string(out)
}
