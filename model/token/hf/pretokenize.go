package hf

import (
	"bytes"
	"unicode"
	"unicode/utf8"

	"github.com/structuredffn/sffn/model/token/pattern"
)

// A stage is a pre-tokenizer: it cuts or changes a piece of text, which is never
// empty, and hands what comes out to the next stage (w.next), in order. first
// says that the piece begins where the text began. A stage may use its buffer of
// w for what it hands on.
type stage interface {
	apply(w *work, at int, piece []byte, first bool)
}

// behavior is what becomes of the matches by which a text is cut.
type behavior int

const (
	isolated       behavior = iota // each is a piece
	removed                        // they are left out
	mergedPrevious                 // they belong to the piece before
	mergedNext                     // or to the piece behind
	contiguous                     // those in a row are one piece
)

var behaviors = []string{"Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"}

// cutter makes pieces of a text that is cut into matches and what is between.
type cutter struct {
	w        *work
	at       int
	text     []byte
	first    bool
	behavior behavior
	// The piece that may still grow, and whether its last part was a match.
	start, end int
	open       bool
	match      bool
}

func (w *work) cutter(at int, text []byte, first bool, b behavior) cutter {
	return cutter{w: w, at: at, text: text, first: first, behavior: b}
}

// part adds the next part.
func (c *cutter) part(start, end int, match bool) {
	if start == end {
		return
	}
	grow := false
	switch c.behavior {
	case isolated:
	case removed:
		if match {
			return
		}
	case contiguous:
		grow = c.open && match == c.match
	case mergedPrevious:
		grow = c.open && match && !c.match
	case mergedNext:
		grow = c.open && !match && c.match
	}
	c.match = match
	if grow {
		c.end = end
		return
	}
	c.flush()
	c.start, c.end, c.open = start, end, true
}

// flush hands the open piece on.
func (c *cutter) flush() {
	if c.open {
		c.w.next(c.at, c.text[c.start:c.end], c.first && c.start == 0)
		c.open = false
	}
}

// split cuts at what a text or an expression matches.
type split struct {
	text     []byte
	expr     *pattern.Pattern
	behavior behavior
	invert   bool // what is between counts as the matches
}

func (s split) apply(w *work, at int, piece []byte, first bool) {
	c := w.cutter(at, piece, first, s.behavior)
	done := 0
	if s.expr != nil {
		for start, end := range s.expr.All(piece) {
			c.part(done, start, s.invert)
			c.part(start, end, !s.invert)
			done = end
		}
	} else {
		for {
			i := bytes.Index(piece[done:], s.text)
			if i < 0 {
				break
			}
			start := done + i
			c.part(done, start, s.invert)
			done = start + len(s.text)
			c.part(start, done, !s.invert)
		}
	}
	c.part(done, len(piece), s.invert)
	c.flush()
}

// splitFunc cuts at characters of a kind.
type splitFunc struct {
	is       func(rune) bool
	behavior behavior
}

func (s splitFunc) apply(w *work, at int, piece []byte, first bool) {
	c := w.cutter(at, piece, first, s.behavior)
	done := 0
	for i := 0; i < len(piece); {
		r, n := utf8.DecodeRune(piece[i:])
		if s.is(r) {
			c.part(done, i, false)
			c.part(i, i+n, true)
			done = i + n
		}
		i += n
	}
	c.part(done, len(piece), false)
	c.flush()
}

// words leaves runs of word characters and runs of what is neither that nor
// space.
type words struct{}

func (words) apply(w *work, at int, piece []byte, first bool) {
	const space, word, other = 0, 1, 2
	kind, start := space, 0
	flush := func(end int) {
		if kind != space {
			w.next(at, piece[start:end], first && start == 0)
		}
		start = end
	}
	for i := 0; i < len(piece); {
		r, n := utf8.DecodeRune(piece[i:])
		k := other
		if isWord(r) {
			k = word
		} else if unicode.IsSpace(r) {
			k = space
		}
		if k != kind {
			flush(i)
			kind = k
		}
		i += n
	}
	flush(len(piece))
}

// metaspace writes a character for the space, and cuts before it.
type metaspace struct {
	replacement []byte
	prepend     int
	split       bool
}

const (
	prependAlways = iota
	prependFirst
	prependNever
)

var prependSchemes = []string{"always", "first", "never"}

func (m metaspace) apply(w *work, at int, piece []byte, first bool) {
	text := w.buffer(at)
	starts := piece[0] == ' ' || bytes.HasPrefix(piece, m.replacement)
	if !starts && (m.prepend == prependAlways || m.prepend == prependFirst && first) {
		text = append(text, m.replacement...)
	}
	for {
		i := bytes.IndexByte(piece, ' ')
		if i < 0 {
			break
		}
		text = append(append(text, piece[:i]...), m.replacement...)
		piece = piece[i+1:]
	}
	text = append(text, piece...)
	w.keep(at, text)
	if !m.split {
		w.next(at, text, first)
		return
	}
	split{text: m.replacement, behavior: mergedNext}.apply(w, at, text, first)
}

// byteLevel cuts by GPT-2's expression, or not at all, and spells bytes as
// characters: the last stage leaves that to the model, which takes bytes.
type byteLevel struct {
	prefixSpace bool
	expr        *pattern.Pattern
	last        bool
}

func (b byteLevel) apply(w *work, at int, piece []byte, first bool) {
	if b.prefixSpace && piece[0] != ' ' {
		piece = append(append(w.buffer(at), ' '), piece...)
		w.keep(at, piece)
	}
	if b.expr == nil {
		b.hand(w, at, piece, first)
		return
	}
	done := 0
	for start, end := range b.expr.All(piece) {
		if start > done {
			b.hand(w, at, piece[done:start], first && done == 0)
		}
		b.hand(w, at, piece[start:end], first && start == 0)
		done = end
	}
	if done < len(piece) {
		b.hand(w, at, piece[done:], first && done == 0)
	}
}

func (b byteLevel) hand(w *work, at int, piece []byte, first bool) {
	if !b.last {
		w.spelled = spell(w.spelled[:0], piece)
		piece = w.spelled
	}
	w.next(at, piece, first)
}

// stages reads the field pre_tokenizer. bytes says that the words that come out
// are bytes.
func stages(v value) (out []stage, bytes bool, err error) {
	parts, err := v.flatten("pretokenizers")
	if err != nil {
		return nil, false, err
	}
	spells := 0
	for i, part := range parts {
		s, err := newStage(part)
		if err != nil {
			return nil, false, err
		}
		if b, ok := s.(byteLevel); ok {
			if spells++; spells > 1 {
				return nil, false, part.errorf("ByteLevel comes twice, which is not supported")
			}
			b.last = i == len(parts)-1
			bytes = b.last
			s = b
		}
		out = append(out, s)
	}
	return out, bytes, nil
}

func newStage(v value) (stage, error) {
	kind, err := v.kind()
	if err != nil {
		return nil, err
	}
	switch kind {
	case "ByteLevel":
		o, err := v.object("type", "add_prefix_space", "trim_offsets", "use_regex")
		if err != nil {
			return nil, err
		}
		var b byteLevel
		if b.prefixSpace, err = o.flag("add_prefix_space"); err != nil {
			return nil, err
		}
		regex, err := o.flag("use_regex", true)
		if err != nil {
			return nil, err
		}
		if regex {
			b.expr = gpt2Pattern()
		}
		return b, nil
	case "Split":
		o, err := v.object("type", "pattern", "behavior", "invert")
		if err != nil {
			return nil, err
		}
		var s split
		if s.text, s.expr, err = newPattern(o.get("pattern")); err != nil {
			return nil, err
		}
		if s.behavior, err = o.behavior(); err != nil {
			return nil, err
		}
		s.invert, err = o.flag("invert")
		return s, err
	case "Digits":
		o, err := v.object("type", "individual_digits")
		if err != nil {
			return nil, err
		}
		individual, err := o.flag("individual_digits")
		if individual {
			return splitFunc{isNumber, isolated}, err
		}
		return splitFunc{isNumber, contiguous}, err
	case "Punctuation":
		o, err := v.object("type", "behavior")
		if err != nil {
			return nil, err
		}
		b, err := o.behavior("Isolated")
		return splitFunc{isPunctuation, b}, err
	case "WhitespaceSplit":
		_, err := v.object("type")
		return splitFunc{unicode.IsSpace, removed}, err
	case "Whitespace":
		_, err := v.object("type")
		return words{}, err
	case "Metaspace":
		return newMetaspace(v)
	}
	return nil, v.errorf("pre-tokenizer %.60q is not supported; these are: Sequence, ByteLevel, Split, Digits, Punctuation, Whitespace, WhitespaceSplit, Metaspace", kind)
}

func (o object) behavior(otherwise ...string) (behavior, error) {
	i, err := o.choice("behavior", behaviors, otherwise...)
	return behavior(i), err
}

// newMetaspace reads a pre-tokenizer or a decoder.
func newMetaspace(v value) (m metaspace, err error) {
	o, err := v.object("type", "replacement", "add_prefix_space", "prepend_scheme", "split", "str_rep")
	if err != nil {
		return m, err
	}
	r, err := o.char("replacement")
	if err != nil {
		return m, err
	}
	m.replacement = utf8.AppendRune(nil, r)
	if m.prepend, err = o.choice("prepend_scheme", prependSchemes, "always"); err != nil {
		return m, err
	}
	if m.split, err = o.flag("split", true); err != nil {
		return m, err
	}
	// Older files have this flag, which only says the same.
	if prefix, err := o.flag("add_prefix_space", true); err != nil {
		return m, err
	} else if !prefix && m.prepend != prependNever {
		return m, o.get("add_prefix_space").errorf("is false, which does not fit prepend_scheme %q", prependSchemes[m.prepend])
	}
	return m, nil
}
