package hf

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"github.com/structuredffn/sffn/model/token/bpe"
)

// model turns words into ids by byte-pair encoding.
type model struct {
	vocab  map[string]int32
	tokens map[int32]string
	merges *bpe.Table

	// Words are bytes, not yet the characters that stand for them.
	bytes   bool
	byteIDs [256]int32 // -1 where the vocabulary lacks one
	whole   bool       // it lacks none

	runes runeIDs // of the tokens of one character

	// What a character becomes that is no token: the tokens of its bytes if there
	// are all of them, the unknown token, or nothing.
	fallback    *[256]int32 // -1 where the vocabulary lacks one; nil for none
	unknown     int32       // -1 for none
	fuseUnknown bool

	// ignoreMerges takes words that are tokens as they are. words are the tokens,
	// as words are written.
	ignoreMerges bool
	words        map[string]int32

	// joined tells for the classes of two characters in a row whether a merge
	// joins the one to the other; between others a word may be cut. It is nil
	// where a word may not be cut.
	joined *[classes][classes]bool

	cache *cache
}

const none = int32(-1)

// newModel reads the field model.
func newModel(v value) (*model, error) {
	o, err := v.object("type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges")
	if err != nil {
		if kind, kindErr := v.kind(); kindErr == nil && kind != "BPE" {
			return nil, v.errorf("model %.60q is not supported, only BPE is", kind)
		}
		return nil, err
	}
	if kind, err := o.text("type", "BPE"); err != nil { // old files lack it
		return nil, err
	} else if kind != "BPE" {
		return nil, v.errorf("model %.60q is not supported, only BPE is", kind)
	}
	for _, key := range []string{"continuing_subword_prefix", "end_of_word_suffix"} {
		if s, err := o.text(key, ""); err != nil {
			return nil, err
		} else if s != "" {
			return nil, o.get(key).errorf("is %.60q; prefixes and suffixes are not supported", s)
		}
	}
	if d := o.get("dropout"); !d.null() {
		var p float64
		if err := d.decode(&p, "a number"); err != nil {
			return nil, err
		} else if p != 0 {
			return nil, d.errorf("is %v; dropout is not supported", p)
		}
	}
	m := &model{cache: newCache(), unknown: none}
	if err := m.readVocab(o.get("vocab")); err != nil {
		return nil, err
	}
	if m.fuseUnknown, err = o.flag("fuse_unk", false); err != nil {
		return nil, err
	}
	if m.ignoreMerges, err = o.flag("ignore_merges", false); err != nil {
		return nil, err
	}
	if unk := o.get("unk_token"); !unk.null() {
		s, err := o.text("unk_token")
		if err != nil {
			return nil, err
		}
		id, ok := m.vocab[s]
		if !ok {
			return nil, unk.errorf("is %.60q, which the vocabulary lacks", s)
		}
		m.unknown = id
	}
	falls, err := o.flag("byte_fallback", false)
	if err != nil {
		return nil, err
	}
	if falls {
		m.fallback = new([256]int32)
		for b := range m.fallback {
			m.fallback[b] = m.id(fmt.Sprintf("<0x%02X>", b))
		}
	}
	for token, id := range m.vocab {
		if r, n := utf8.DecodeRuneInString(token); n == len(token) && n > 0 {
			m.runes.set(r, id)
		}
	}
	return m, m.readMerges(o.get("merges"))
}

// id returns the id of a token, -1 where there is none.
func (m *model) id(token string) int32 {
	if id, ok := m.vocab[token]; ok {
		return id
	}
	return none
}

// maxToken bounds the text of a token.
const maxToken = 1 << 16

func (m *model) readVocab(v value) error {
	if err := v.decode(&m.vocab, "an object of tokens and ids"); err != nil {
		return err
	}
	m.tokens = make(map[int32]string, len(m.vocab))
	for _, token := range slices.Sorted(maps.Keys(m.vocab)) {
		id := m.vocab[token]
		if id < 0 || id >= maxIDs {
			return v.errorf("%.60q has id %d, want one from 0 to %d", token, id, maxIDs-1)
		}
		if other, ok := m.tokens[id]; ok {
			return v.errorf("%.60q and %.60q have the same id, %d", other, token, id)
		}
		if len(token) > maxToken {
			return v.errorf("%.60q... has %d bytes, want at most %d", token, len(token), maxToken)
		}
		m.tokens[id] = token
	}
	return nil
}

// mergePairs reads "a b" and ["a", "b"].
func mergePairs(v value) (pairs [][]string, err error) {
	if err := json.Unmarshal(v.raw, &pairs); err != nil || v.null() {
		var lines []string
		if err := v.decode(&lines, `an array of "left right" or of ["left", "right"]`); err != nil {
			return nil, err
		}
		pairs = make([][]string, 0, len(lines))
		for i, line := range lines {
			if strings.HasPrefix(line, "#version") {
				continue
			}
			pair := strings.Split(line, " ")
			if len(pair) != 2 {
				return nil, v.errorf("[%d] is %.60q, want two tokens and a space between", i, line)
			}
			pairs = append(pairs, pair)
		}
	}
	for i, pair := range pairs {
		if len(pair) != 2 {
			return nil, v.errorf("[%d] has %d tokens, want 2", i, len(pair))
		}
	}
	return pairs, nil
}

func (m *model) readMerges(v value) error {
	pairs, err := mergePairs(v)
	if err != nil {
		return err
	}
	merges := make([]bpe.Merge, len(pairs))
	var both []byte
	for i, pair := range pairs {
		both = append(append(both[:0], pair[0]...), pair[1]...)
		left, right, into := m.id(pair[0]), m.id(pair[1]), m.id(string(both))
		for j, token := range []string{pair[0], pair[1], string(both)} {
			if (&[3]int32{left, right, into})[j] == none {
				return v.errorf("[%d] is of %.60q and %.60q, but %.60q is not in the vocabulary", i, pair[0], pair[1], token)
			}
		}
		merges[i] = bpe.Merge{Left: left, Right: right, Into: into, Rank: int32(i)}
	}
	m.findCuts(pairs)
	if m.merges, err = bpe.New(merges); err != nil {
		return v.errorf("%v", err)
	}
	return nil
}

// takeBytes says that words are bytes.
func (m *model) takeBytes() {
	m.bytes, m.whole, m.joined = true, true, nil
	for b, r := range byteRunes {
		m.byteIDs[b] = m.runes.get(r)
		m.whole = m.whole && m.byteIDs[b] != none
	}
}

// listWords makes the table of words that are tokens.
func (m *model) listWords() {
	if !m.ignoreMerges {
		return
	}
	if m.words = m.vocab; m.bytes {
		m.words = make(map[string]int32, len(m.vocab))
		for token, id := range m.vocab {
			if word, ok := unspell([]byte(token)); ok {
				m.words[string(word)] = id
			}
		}
	}
}

// unspell returns the bytes that characters stand for; ok is false where one
// stands for none.
func unspell(token []byte) (text []byte, ok bool) {
	for _, r := range string(token) {
		b, ok := runeBytes[r]
		if !ok {
			return nil, false
		}
		text = append(text, b)
	}
	return text, true
}

// The classes of characters: those of ASCII, the one that stands for the space in
// vocabularies like SentencePiece's, and all others.
const (
	space   = '▁'
	other   = utf8.RuneSelf + 1
	classes = utf8.RuneSelf + 2
)

func class(r rune) int {
	switch {
	case r < utf8.RuneSelf:
		return int(r)
	case r == space:
		return utf8.RuneSelf
	}
	return other
}

// findCuts finds between which characters no merge reaches. A text without
// pre-tokenizer is one word, which is cut there: what is left and right of a cut
// does not depend on the other. Characters that are no tokens become others, or
// nothing, so that there is no cut beside them.
func (m *model) findCuts(pairs [][]string) {
	m.joined = new([classes][classes]bool)
	for _, pair := range pairs {
		last, _ := utf8.DecodeLastRuneInString(pair[0])
		first, _ := utf8.DecodeRuneInString(pair[1])
		m.joined[class(last)][class(first)] = true
	}
	for c := range other {
		r := rune(c)
		if c == utf8.RuneSelf {
			r = space
		}
		if m.runes.get(r) != none {
			continue
		}
		for d := range classes {
			m.joined[c][d], m.joined[d][c] = true, true
		}
	}
}

// word appends the ids of a word.
func (m *model) word(dst []int32, word []byte) []int32 {
	if m.joined == nil {
		return m.piece(dst, word)
	}
	if m.ignoreMerges {
		if id, ok := m.words[string(word)]; ok {
			return append(dst, id)
		}
	}
	start, before := 0, -1 // the class of the character before, if it is a token
	for i := 0; i < len(word); {
		r, n := rune(word[i]), 1
		if r >= utf8.RuneSelf {
			r, n = utf8.DecodeRune(word[i:])
		}
		c := class(r)
		if c == other && m.runes.get(r) == none {
			c = -1
		}
		if before >= 0 && c >= 0 && !m.joined[before][c] {
			dst = m.piece(dst, word[start:i])
			start = i
		}
		before = c
		i += n
	}
	return m.piece(dst, word[start:])
}

// piece appends the ids of a word, or of a part that nothing joins to the rest.
func (m *model) piece(dst []int32, word []byte) []int32 {
	if len(word) == 1 && m.bytes && m.byteIDs[word[0]] != none {
		return append(dst, m.byteIDs[word[0]])
	}
	if len(word) > maxCached {
		return m.merge(dst, word)
	}
	slot, e := m.cache.find(word)
	if e != nil {
		return append(dst, e.ids[:e.n]...)
	}
	n := len(dst)
	dst = m.merge(dst, word)
	m.cache.add(slot, word, dst[n:])
	return dst
}

// merge is piece without the cache.
func (m *model) merge(dst []int32, word []byte) []int32 {
	if m.ignoreMerges && m.joined == nil {
		if id, ok := m.words[string(word)]; ok {
			return append(dst, id)
		}
	}
	n := len(dst)
	dst = m.symbols(dst, word)
	return dst[:n+len(m.merges.Apply(dst[n:]))]
}

// symbols appends the ids of a word's bytes or characters.
func (m *model) symbols(dst []int32, word []byte) []int32 {
	if m.bytes && m.whole {
		for _, b := range word {
			dst = append(dst, m.byteIDs[b])
		}
		return dst
	}
	if m.bytes {
		word = spell(make([]byte, 0, 2*len(word)), word)
	}
	// An unknown character waits for the next that is known, or that is not one
	// with it. Bytes do not let it pass: that is the library's order.
	waits := false
	for i := 0; i < len(word); {
		r, n := utf8.DecodeRune(word[i:])
		char := word[i : i+n]
		i += n
		if id := m.runes.get(r); id != none {
			if waits {
				dst, waits = append(dst, m.unknown), false
			}
			dst = append(dst, id)
			continue
		}
		if m.fallback != nil {
			from := len(dst)
			for _, b := range char {
				dst = append(dst, m.fallback[b])
			}
			if !slices.Contains(dst[from:], none) {
				continue
			}
			dst = dst[:from]
		}
		if m.unknown != none {
			if waits && !m.fuseUnknown {
				dst = append(dst, m.unknown)
			}
			waits = true
		}
	}
	if waits {
		dst = append(dst, m.unknown)
	}
	return dst
}

// runeIDs maps characters to ids by pages.
type runeIDs [0x110000 >> 8]*[256]int32

func (t *runeIDs) set(r rune, id int32) {
	page := &t[r>>8]
	if *page == nil {
		*page = new([256]int32)
		for i := range *page {
			(*page)[i] = none
		}
	}
	(*page)[r&255] = id
}

func (t *runeIDs) get(r rune) int32 {
	if page := t[r>>8]; page != nil {
		return page[r&255]
	}
	return none
}

// cache keeps the ids of words. It has a place for each of two words with the
// same hash, and forgets the older where another comes.
type cache struct {
	seed  maphash.Seed
	slots []atomic.Pointer[cached]
}

const (
	cacheSlots = 1 << 16
	maxCached  = 30 // bytes
)

// cached is a word and its ids, 80 bytes.
type cached struct {
	length, n uint8
	word      [maxCached]byte
	ids       [12]int32
}

func newCache() *cache {
	return &cache{maphash.MakeSeed(), make([]atomic.Pointer[cached], cacheSlots)}
}

// find returns the entry of a word, nil for none, and where add would put it.
func (c *cache) find(word []byte) (slot int, e *cached) {
	slot = int(maphash.Bytes(c.seed, word) % cacheSlots)
	if e := c.slots[slot].Load(); e.is(word) {
		return slot, e
	}
	if e := c.slots[slot^1].Load(); e.is(word) {
		return slot, e
	}
	return slot, nil
}

// is tells whether there is an entry, and it is that of a word.
func (e *cached) is(word []byte) bool {
	return e != nil && int(e.length) == len(word) && bytes.Equal(e.word[:e.length], word)
}

// add adds a word whose ids are not too many.
func (c *cache) add(slot int, word []byte, ids []int32) {
	e := &cached{length: uint8(len(word)), n: uint8(len(ids))}
	if len(ids) > len(e.ids) {
		return
	}
	copy(e.word[:], word)
	copy(e.ids[:], ids)
	if old := c.slots[slot].Swap(e); old != nil {
		c.slots[slot^1].Store(old)
	}
}
