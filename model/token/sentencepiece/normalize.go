package sentencepiece

import (
	"bytes"
	"unicode/utf8"
)

// space stands for a space in pieces.
const space = "\u2581"

// normalizer makes of a text what is cut into pieces.
type normalizer struct {
	charsmap *charsmap // nil where characters stay as they are
	// symbols are the user-defined ones, which stay as they are; nil where there
	// are none.
	symbols     *trie
	space       string // what a space becomes
	removeExtra bool
	prefix      bool // a space is put before the text
	suffix      bool // a space is put behind the text
	// begins has the bytes that a rule or a symbol begins with, and of what
	// follows the first byte pairs has the second.
	begins [256]bool
	pairs  [256][256 / 64]uint64
}

func newNormalizer(r rules, suffix bool, symbols *trie) (*normalizer, error) {
	m, err := newCharsmap(r.charsmap)
	if err != nil {
		return nil, err
	}
	n := &normalizer{charsmap: m, symbols: symbols, space: " ", removeExtra: r.removeExtra, prefix: r.dummyPrefix && !suffix, suffix: r.dummyPrefix && suffix}
	if r.escape {
		n.space = space
	}
	for a := range 256 {
		if m != nil {
			at := unitOffset(m.units[0]) ^ uint32(a)
			if u := m.units[at]; unitLabel(u) == uint32(a) {
				n.begins[a] = n.begins[a] || u>>8&1 != 0
				base := at ^ unitOffset(u)
				for b := range 256 {
					if unitLabel(m.units[base^uint32(b)]) == uint32(b) {
						n.pairs[a][b>>6] |= 1 << (b & 63)
					}
				}
			}
		}
		if symbols != nil {
			if base, value, ok := symbols.step(symbols.root, byte(a)); ok {
				n.begins[a] = n.begins[a] || value >= 0
				for b := range 256 {
					if _, _, ok := symbols.step(base, byte(b)); ok {
						n.pairs[a][b>>6] |= 1 << (b & 63)
					}
				}
			}
		}
	}
	return n, nil
}

// plain says that no rule and no symbol begins where text does.
func (n *normalizer) plain(text []byte) bool {
	a := text[0]
	if n.begins[a] {
		return false
	}
	return len(text) == 1 || n.pairs[a][text[1]>>6]>>(text[1]&63)&1 == 0
}

// one returns what the beginning of text becomes, and its length. It is a part of
// text or of the rules.
func (n *normalizer) one(text []byte, replaced []byte) ([]byte, int) {
	if !n.plain(text) {
		if n.symbols != nil {
			if size, _ := n.symbols.longest(text, maxSymbols); size > 0 {
				return text[:size], size
			}
		}
		if n.charsmap != nil {
			if size, replacement := n.charsmap.find(text); size > 0 {
				return append(replaced[:0], replacement...), size
			}
		}
	}
	if text[0] < utf8.RuneSelf {
		return text[:1], 1
	}
	r, size := utf8.DecodeRune(text)
	if r == utf8.RuneError && size == 1 {
		return append(replaced[:0], "\ufffd"...), 1
	}
	return text[:size], size
}

// maxSymbols is how many user-defined symbols may match at a place: the library
// looks no further.
const maxSymbols = 64

// A reader normalizes one text piece by piece.
type reader struct {
	*normalizer
	text     []byte // what is left
	begun    bool
	ended    bool
	spaced   bool // spaces that follow are extra ones
	replaced [maxReplacement]byte
}

// fill appends what the text becomes to dst, until there are so many bytes or the
// text ends, when r.ended is set. Spaces at the end of dst may be taken away
// again by the next call.
func (r *reader) fill(dst []byte, size int) []byte {
	if !r.begun {
		r.begun = true
		r.spaced = r.removeExtra
		if r.removeExtra {
			for len(r.text) > 0 {
				s, n := r.one(r.text, r.replaced[:])
				if len(s) != 1 || s[0] != ' ' {
					break
				}
				r.text = r.text[n:]
			}
		}
		if len(r.text) == 0 {
			r.ended = true
			return dst
		}
		if r.prefix {
			dst = append(dst, r.space...)
		}
	}
	text := r.text
	for len(text) > 0 && len(dst) < size {
		// Most of a text is characters that stay as they are.
		n := 0
		for n < len(text) && text[n]-'!' <= '~'-'!' && r.plain(text[n:]) {
			n++
		}
		if n > 0 {
			dst = append(dst, text[:n]...)
			text = text[n:]
			r.spaced = false
			continue
		}
		if text[0] == ' ' && r.plain(text) {
			if !r.spaced {
				dst = append(dst, r.space...)
				r.spaced = r.removeExtra
			}
			text = text[1:]
			continue
		}
		s, n := r.one(text, r.replaced[:])
		text = text[n:]
		for r.spaced && len(s) > 0 && s[0] == ' ' {
			s = s[1:]
		}
		if len(s) == 0 {
			continue
		}
		r.spaced = r.removeExtra && s[len(s)-1] == ' '
		for {
			i := bytes.IndexByte(s, ' ')
			if i < 0 {
				break
			}
			dst = append(append(dst, s[:i]...), r.space...)
			s = s[i+1:]
		}
		dst = append(dst, s...)
	}
	r.text = text
	if len(text) == 0 {
		r.ended = true
		if r.removeExtra {
			for bytes.HasSuffix(dst, []byte(r.space)) {
				dst = dst[:len(dst)-len(r.space)]
			}
		}
		if r.suffix {
			dst = append(dst, r.space...)
		}
	}
	return dst
}
