// Package sentencepiece reads the tokenizer.model files of the SentencePiece
// library and encodes as it does: unigram and BPE models, and those of words and
// characters.
package sentencepiece

import (
	"crypto/sha256"
	"fmt"
	"math"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// FileName is what model files are called by custom.
const FileName = "tokenizer.model"

// Tokenizer is a SentencePiece model. It implements token.Tokenizer.
//
// As in the library, a text is normalized by the rules of the file before it is
// encoded, bytes that are no UTF-8 become U+FFFD, user-defined symbols are found
// wherever they are spelled, and the names of control symbols are text like any
// other.
type Tokenizer struct {
	name    string
	content []byte
	hash    [32]byte
	pieces  []piece
	surface [][]byte // what Decode appends
	end     int32
	before  []int32 // the frame
	unknown int32
	bytes   *[256]int32 // the ids of bytes, nil where unknown characters stay so
	norm    *normalizer
	cut     *cutter // nil where a text cannot be cut
	model   model
	prefix  bool
	chunk   int // bytes of normalized text that are encoded at a time
	free    chan *scratch
}

// model cuts words of normalized text into pieces. Words are what a cutter left
// together; they come in the order of the text.
type model interface {
	word(s *scratch, out *output, text []byte)
}

// scratch is what encoding one text needs.
type scratch struct {
	text  []byte // normalized
	cache *cache
	// of pairs
	run, own []int32
	// of unigrams: the sum of the scores before a word, and what best needs
	sum  float32
	back []int32
	sums []float32
	path []int32
}

// Bounds of what is kept of a scratch.
const (
	maxKeptText = 1 << 20
	maxKeptIDs  = 1 << 19
)

// output is where ids go.
type output struct {
	dst     []int32
	start   int // of the text in dst
	unknown int32
	bytes   *[256]int32
}

func (o *output) id(id int32) { o.dst = append(o.dst, id) }

// unknownChar appends a character that is no piece: its bytes, or the unknown
// piece, once for several in a row.
func (o *output) unknownChar(char []byte) {
	if o.bytes != nil {
		for _, b := range char {
			o.dst = append(o.dst, o.bytes[b])
		}
		return
	}
	if n := len(o.dst); n == o.start || o.dst[n-1] != o.unknown {
		o.dst = append(o.dst, o.unknown)
	}
}

// append appends what another output of the same text became.
func (o *output) append(ids []int32) {
	if n := len(o.dst); o.bytes == nil && n > o.start && len(ids) > 0 && ids[0] == o.unknown && o.dst[n-1] == o.unknown {
		ids = ids[1:]
	}
	o.dst = append(o.dst, ids...)
}

// Parse reads a model file; the tokenizer gets the name. The content is kept and
// not to be changed.
func Parse(name string, content []byte) (*Tokenizer, error) {
	t, err := newTokenizer(name, content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return t, nil
}

func newTokenizer(name string, content []byte) (*Tokenizer, error) {
	s, err := parse(content)
	if err != nil {
		return nil, err
	}
	if len(s.denormalizer.charsmap) > 0 {
		return nil, fmt.Errorf("denormalizer_spec: rules for decoded text are not supported")
	}
	t := &Tokenizer{
		name:    filepath.Base(name),
		content: content,
		hash:    sha256.Sum256(content),
		pieces:  s.pieces,
		end:     -1,
		unknown: -1,
		prefix:  s.normalizer.dummyPrefix && !s.suffix,
		chunk:   1 << 16,
		free:    make(chan *scratch, runtime.GOMAXPROCS(0)),
	}
	if err := t.readPieces(s); err != nil {
		return nil, err
	}
	normals, symbols, err := t.tries(s.algorithm)
	if err != nil {
		return nil, err
	}
	if t.norm, err = newNormalizer(s.normalizer, s.suffix, symbols); err != nil {
		return nil, fmt.Errorf("normalizer_spec: %w", err)
	}
	t.cut = newCutter(s.pieces, s.algorithm)
	switch s.algorithm {
	case unigram:
		t.model = newUnigramModel(s.pieces, normals)
	case bytePair, char:
		m, err := newPairModel(s.pieces, symbols, s.algorithm == bytePair)
		if err != nil {
			return nil, err
		}
		if m.ambiguous {
			t.cut = nil
		}
		t.model = m
	case word:
		t.model = newWordModel(s.pieces)
	}
	return t, nil
}

// readPieces checks the pieces together, and finds the special ones.
func (t *Tokenizer) readPieces(s *spec) error {
	if s.byteFallback {
		t.bytes = new([256]int32)
		for i := range t.bytes {
			t.bytes[i] = -1
		}
	}
	t.surface = make([][]byte, len(s.pieces))
	var bos int32 = -1
	for i := range s.pieces {
		p, id := &s.pieces[i], int32(i)
		wrong := func(format string, args ...any) error {
			return fmt.Errorf("piece %d %.40q: %w", i, p.text, fmt.Errorf(format, args...))
		}
		if p.text == "\x00" && (p.kind == unused || s.byteFallback) {
			p.kind = unused // some converters write it beside the byte 0
		} else if strings.IndexByte(p.text, 0) >= 0 {
			return wrong("pieces have no zero bytes")
		}
		t.surface[i] = []byte(strings.ReplaceAll(p.text, space, " "))
		switch p.kind {
		case unknown:
			if t.unknown >= 0 {
				return wrong("a second unknown piece after %d", t.unknown)
			}
			t.unknown = id
			t.surface[i] = []byte(s.unkSurface)
		case control:
			t.surface[i] = nil
			if p.text == s.bos {
				bos = id
			}
			if p.text == s.eos {
				t.end = id
			}
		case byteValue:
			if t.bytes == nil {
				return wrong("a byte piece in a model without byte_fallback")
			}
			var b byte
			if n, err := fmt.Sscanf(p.text, "<0x%02X>", &b); n != 1 || err != nil || p.text != fmt.Sprintf("<0x%02X>", b) {
				return wrong("want a byte as <0x00> to <0xFF>")
			}
			if t.bytes[b] >= 0 {
				return wrong("the same byte as piece %d", t.bytes[b])
			}
			t.bytes[b] = id
			t.surface[i] = []byte{b}
		}
	}
	switch {
	case t.unknown < 0 && t.bytes == nil:
		return fmt.Errorf("there is no unknown piece")
	case t.bytes != nil && slices.Min(t.bytes[:]) < 0:
		return fmt.Errorf("byte_fallback without a piece for the byte %#02x", slices.Index(t.bytes[:], -1))
	case t.end < 0:
		return fmt.Errorf("there is no control symbol %q, which ends documents: the model was made without one (eos_id -1)", s.eos)
	}
	if bos >= 0 {
		t.before = []int32{bos}
	}
	return nil
}

// tries returns tries of the pieces that texts consist of, for the unigram model,
// and of the user-defined ones, nil where there are none. Pieces that come twice
// are an error.
func (t *Tokenizer) tries(a algorithm) (normals, symbols *trie, err error) {
	order := make([]int32, 0, len(t.pieces))
	for i, p := range t.pieces {
		if p.text != "\x00" {
			order = append(order, int32(i))
		}
	}
	// In a BPE model all pieces differ; elsewhere those that texts consist of, and
	// the others, among themselves.
	apart := func(id int32) bool { return a != bytePair && t.pieces[id].kind.reserved() }
	slices.SortFunc(order, func(a, b int32) int {
		if c := strings.Compare(t.pieces[a].text, t.pieces[b].text); c != 0 {
			return c
		}
		switch {
		case apart(a) == apart(b):
			return 0
		case apart(a):
			return 1
		}
		return -1
	})
	var of [2]struct {
		texts []string
		ids   []int32
	}
	for i, id := range order {
		p := t.pieces[id]
		if i > 0 && t.pieces[order[i-1]].text == p.text && apart(order[i-1]) == apart(id) {
			return nil, nil, fmt.Errorf("pieces %d and %d are both %.40q", min(id, order[i-1]), max(id, order[i-1]), p.text)
		}
		if a == unigram && (p.kind == normal || p.kind == userDefined) {
			of[0].texts, of[0].ids = append(of[0].texts, p.text), append(of[0].ids, id)
		}
		if p.kind == userDefined {
			of[1].texts, of[1].ids = append(of[1].texts, p.text), append(of[1].ids, id)
		}
	}
	if normals, err = newTrie(of[0].texts, of[0].ids); err != nil {
		return nil, nil, err
	}
	if len(of[1].ids) > 0 {
		symbols, err = newTrie(of[1].texts, of[1].ids)
	}
	return normals, symbols, err
}

// wordModel knows whole words only.
type wordModel map[string]int32

func newWordModel(pieces []piece) wordModel {
	m := wordModel{}
	for i, p := range pieces {
		if p.kind == normal || p.kind == userDefined {
			m[p.text] = int32(i)
		}
	}
	return m
}

func (m wordModel) word(_ *scratch, out *output, text []byte) {
	if id, ok := m[string(text)]; ok {
		out.id(id)
	} else {
		out.unknownChar(text)
	}
}

// Name implements token.Tokenizer.
func (t *Tokenizer) Name() string { return t.name }

// Hash implements token.Tokenizer: it is the SHA-256 of the file.
func (t *Tokenizer) Hash() [32]byte { return t.hash }

// Vocab implements token.Tokenizer.
func (t *Tokenizer) Vocab() int { return len(t.pieces) }

// EndOfDocument implements token.Tokenizer: it is the end of a sentence, </s>.
func (t *Tokenizer) EndOfDocument() int32 { return t.end }

// Frame implements token.Tokenizer: the beginning of a sentence, <s>, stands
// before a text where the model has such a symbol, as the models that are made
// with these files expect it. The library itself adds it only when it is asked to.
func (t *Tokenizer) Frame() (before, after []int32) { return t.before, nil }

// Encode implements token.Tokenizer. The library finds user-defined symbols in
// every text and control symbols in none.
func (t *Tokenizer) Encode(dst []int32, text []byte) []int32 {
	s := t.take()
	out := output{dst, len(dst), t.unknown, t.bytes}
	s.sum = 0
	r := reader{normalizer: t.norm, text: text}
	buf := s.text[:0]
	size := t.chunk
	if t.cut == nil {
		size = math.MaxInt
	}
	for {
		buf = r.fill(buf, size)
		end := len(buf)
		if !r.ended {
			if end = t.whole(buf); end == 0 {
				size = max(size, 2*len(buf))
				continue
			}
		}
		for words := buf[:end]; len(words) > 0; {
			n := len(words)
			if t.cut != nil {
				n = t.cut.first(words)
			}
			t.model.word(s, &out, words[:n])
			words = words[n:]
		}
		if r.ended {
			break
		}
		buf = buf[:copy(buf, buf[end:])]
	}
	s.text = buf
	t.give(s)
	return out.dst
}

// whole returns how many bytes of a text that goes on are whole words. The last
// word is not, nor are spaces behind it that may be taken away again.
func (t *Tokenizer) whole(text []byte) int {
	if t.norm.removeExtra {
		for strings.HasSuffix(string(text[max(0, len(text)-3):]), t.norm.space) {
			text = text[:len(text)-len(t.norm.space)]
		}
	}
	return t.cut.last(text)
}

func (t *Tokenizer) take() *scratch {
	select {
	case s := <-t.free:
		return s
	default:
		return &scratch{cache: newCache()}
	}
}

func (t *Tokenizer) give(s *scratch) {
	if cap(s.text) > maxKeptText {
		s.text = nil
	}
	if cap(s.run) > maxKeptIDs {
		s.run = nil
	}
	if cap(s.back) > maxKeptIDs {
		s.back, s.path = nil, nil
	}
	select {
	case t.free <- s:
	default:
	}
}

// EncodeOrdinary implements token.Tokenizer: it is Encode.
func (t *Tokenizer) EncodeOrdinary(dst []int32, text []byte) []int32 { return t.Encode(dst, text) }

// Decode implements token.Tokenizer. The unknown piece has the text that the file
// gives it, " ⁇ " by custom.
func (t *Tokenizer) Decode(dst []byte, id int32) []byte {
	if id < 0 || int(id) >= len(t.surface) {
		return dst
	}
	return append(dst, t.surface[id]...)
}

// Special implements token.Tokenizer: the name of a control symbol.
func (t *Tokenizer) Special(id int32) string {
	if id < 0 || int(id) >= len(t.pieces) || t.pieces[id].kind != control {
		return ""
	}
	return t.pieces[id].text
}

// Prefixed implements token.Tokenizer.
func (t *Tokenizer) Prefixed() bool { return t.prefix }

// File implements token.Tokenizer.
func (t *Tokenizer) File() (name string, content []byte) { return FileName, t.content }
