package hf

import (
	"bytes"
	"slices"
	"unicode"
	"unicode/utf8"
)

// addedToken is a token that is looked for in the text before anything is cut
// into words.
type addedToken struct {
	id      int32
	content string
	// Only whole words are it; white space beside it belongs to it; it is not text.
	singleWord, left, right, special bool
	// It is looked for behind the normalizers.
	normalized bool
}

// maxAdded bounds the text of an added token: each place of a text may cost as
// much to look at.
const maxAdded = 1 << 10

// addedTokens reads the field added_tokens. vocab is the model's: a token that is
// not in it must have the next free id, for that is what the library gives it.
func addedTokens(v value, vocab map[string]int32) ([]*addedToken, error) {
	if v.null() {
		return nil, nil
	}
	list, err := v.list()
	if err != nil {
		return nil, err
	}
	var out []*addedToken
	byContent := map[string]*addedToken{}
	next := int32(len(vocab))
	for _, v := range list {
		o, err := v.object("id", "content", "single_word", "lstrip", "rstrip", "normalized", "special")
		if err != nil {
			return nil, err
		}
		var t addedToken
		if t.id, err = o.number("id"); err != nil {
			return nil, err
		}
		if t.content, err = o.text("content"); err != nil {
			return nil, err
		}
		for key, flag := range map[string]*bool{"single_word": &t.singleWord, "lstrip": &t.left, "rstrip": &t.right, "normalized": &t.normalized, "special": &t.special} {
			if *flag, err = o.flag(key); err != nil {
				return nil, err
			}
		}
		if t.content == "" {
			continue // as the library does
		}
		if len(t.content) > maxAdded {
			return nil, o.get("content").errorf("has %d bytes, want at most %d", len(t.content), maxAdded)
		}
		earlier := byContent[t.content]
		id, known := vocab[t.content]
		switch {
		case earlier != nil:
			id = earlier.id
		case !known:
			id = next
			next++
		}
		if t.id != id {
			return nil, o.get("id").errorf("is %d, but %.60q gets id %d: that of the vocabulary, or the next free one behind it", t.id, t.content, id)
		}
		if earlier != nil {
			*earlier = t
			continue
		}
		byContent[t.content] = &t
		out = append(out, &t)
	}
	return out, nil
}

// finder finds added tokens in a text: the first, and of several that begin
// there the longest.
type finder struct {
	spellings [][]byte // in order
	tokens    []*addedToken
	// span is which of them begin with a byte.
	span [256][2]int32
	// only is the byte that all begin with, -1 where there are several.
	only int
}

// newFinder returns a finder of tokens as they are spelled; nil for none.
func newFinder(tokens []*addedToken, spellings [][]byte) (*finder, *addedToken) {
	if len(tokens) == 0 {
		return nil, nil
	}
	order := make([]int, len(tokens))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return bytes.Compare(spellings[a], spellings[b]) })
	f := &finder{}
	for i, at := range order {
		s := spellings[at]
		if len(s) == 0 || len(s) > 4*maxAdded || i > 0 && bytes.Equal(s, f.spellings[i-1]) {
			return nil, tokens[at]
		}
		f.spellings = append(f.spellings, s)
		f.tokens = append(f.tokens, tokens[at])
		span := &f.span[s[0]]
		if span[1] == 0 {
			span[0] = int32(i)
		}
		span[1] = int32(i + 1)
	}
	f.only = int(f.spellings[0][0])
	if int(f.spellings[len(order)-1][0]) != f.only {
		f.only = -1
	}
	return f, nil
}

// find returns the first token at from or behind it, nil for none.
func (f *finder) find(text []byte, from int) (start, end int, token *addedToken) {
	for at := from; at < len(text); at++ {
		if f.only >= 0 {
			i := bytes.IndexByte(text[at:], byte(f.only))
			if i < 0 {
				break
			}
			at += i
		}
		span := f.span[text[at]]
		lo, hi := int(span[0]), int(span[1])
		for n := 1; lo < hi; n++ {
			if len(f.spellings[lo]) == n { // the shortest comes first
				end, token = at+n, f.tokens[lo]
				lo++
			}
			if at+n == len(text) || lo == hi {
				break
			}
			// Those left are longer, and in the order of their next byte.
			c := text[at+n]
			lo += search(f.spellings[lo:hi], n, c)
			if c == 255 {
				continue
			}
			hi = lo + search(f.spellings[lo:hi], n, c+1)
		}
		if token != nil {
			return at, end, token
		}
	}
	return len(text), len(text), nil
}

// search returns how many spellings have a byte below c at n.
func search(spellings [][]byte, n int, c byte) int {
	lo, hi := 0, len(spellings)
	for lo < hi {
		if mid := int(uint(lo+hi) >> 1); spellings[mid][n] < c {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// pieces yields the parts of a text in order: added tokens, and what is between
// them. In ordinary text special tokens are not tokens, but what overlaps one is
// none either, as in the library.
func (f *finder) pieces(text []byte, ordinary bool, yield func(start, end int, token *addedToken)) {
	// spaceEnd is the end of the white space that was last looked through.
	done, spaceEnd := 0, 0
	for from := 0; from < len(text); {
		start, end, token := f.find(text, from)
		if token == nil {
			break
		}
		from = end
		if ordinary && token.special {
			continue
		}
		if token.singleWord && (endsWithWord(text[:start]) || startsWithWord(text[end:])) {
			continue
		}
		if token.left {
			// What the last token took is not taken again.
			start = done + len(bytes.TrimRightFunc(text[done:max(done, start)], unicode.IsSpace))
		}
		if token.right {
			if end >= spaceEnd {
				spaceEnd = len(text) - len(bytes.TrimLeftFunc(text[end:], unicode.IsSpace))
			}
			end = spaceEnd
		}
		if done < start {
			yield(done, start, nil)
		}
		if start < end { // the last one may have taken all of it
			yield(start, end, token)
		}
		done = end
	}
	if done < len(text) {
		yield(done, len(text), nil)
	}
}

func endsWithWord(text []byte) bool {
	r, _ := utf8.DecodeLastRune(text)
	return len(text) > 0 && isWord(r)
}

func startsWithWord(text []byte) bool {
	r, _ := utf8.DecodeRune(text)
	return len(text) > 0 && isWord(r)
}
