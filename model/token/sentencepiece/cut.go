package sentencepiece

import (
	"math/bits"
	"unicode/utf8"
)

// cutter finds places of a normalized text that no piece reaches across: pieces
// on one side do not depend on the other side, so that the text may be cut there,
// and the same words are encoded once. A piece reaches across two characters only
// where some piece has these two beside each other.
type cutter struct {
	ascii [128][128 / 64]uint64
	// others are pairs of which one is no ASCII, by their hash. Where a pair that
	// is in no piece has the hash of one that is, no cut is made: that is never
	// wrong.
	others []uint64
	shift  int
	words  bool // a word begins before each space: the word model
}

func newCutter(pieces []piece, a algorithm) *cutter {
	c := &cutter{words: a == word}
	if c.words {
		return c
	}
	n := 0
	each := func(f func(a, b rune)) {
		for _, p := range pieces {
			if p.kind.reserved() || a == char && p.kind != userDefined {
				continue
			}
			before := rune(-1)
			for _, r := range p.text {
				if before >= 0 {
					f(before, r)
				}
				before = r
			}
		}
	}
	each(func(a, b rune) {
		if a|b < utf8.RuneSelf {
			c.ascii[a][b>>6] |= 1 << (b & 63)
		} else {
			n++
		}
	})
	log := min(max(bits.Len(uint(16*n)), 6), 24)
	c.others = make([]uint64, 1<<log/64)
	c.shift = 64 - log
	each(func(a, b rune) {
		if a|b >= utf8.RuneSelf {
			h := c.hash(a, b)
			c.others[h>>6] |= 1 << (h & 63)
		}
	})
	return c
}

func (c *cutter) hash(a, b rune) uint64 {
	return (uint64(a)<<21 | uint64(b)) * 0x9e3779b97f4a7c15 >> c.shift
}

// joined says that a piece may have both characters.
func (c *cutter) joined(a, b rune) bool {
	switch {
	case c.words:
		return b != '\u2581'
	case a|b < utf8.RuneSelf:
		return c.ascii[a][b>>6]>>(b&63)&1 != 0
	}
	h := c.hash(a, b)
	return c.others[h>>6]>>(h&63)&1 != 0
}

// first returns where the first word of text ends. The text is valid UTF-8.
func (c *cutter) first(text []byte) int {
	before, n := decode(text)
	for n < len(text) {
		r, size := rune(text[n]), 1
		if r >= utf8.RuneSelf {
			r, size = decode(text[n:])
		}
		if !c.joined(before, r) {
			break
		}
		before = r
		n += size
	}
	return n
}

// last returns where the last word of text begins, 0 for a text of one word.
func (c *cutter) last(text []byte) int {
	end := len(text)
	behind := rune(-1)
	for end > 0 {
		r, size := utf8.DecodeLastRune(text[:end])
		if behind >= 0 && !c.joined(r, behind) {
			return end
		}
		behind = r
		end -= size
	}
	return 0
}

// decode is [utf8.DecodeRune] for valid UTF-8.
func decode(text []byte) (r rune, size int) {
	switch a := rune(text[0]); {
	case a < 0x80:
		return a, 1
	case a < 0xe0:
		return a&0x1f<<6 | rune(text[1])&0x3f, 2
	case a < 0xf0:
		return a&0xf<<12 | rune(text[1])&0x3f<<6 | rune(text[2])&0x3f, 3
	default:
		return a&7<<18 | rune(text[1])&0x3f<<12 | rune(text[2])&0x3f<<6 | rune(text[3])&0x3f, 4
	}
}
