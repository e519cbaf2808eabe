// Package pattern matches the regular expressions by which tokenizers cut text
// into words.
//
// The dialect is that of tokenizer.json files, which is Oniguruma's: \s, \d and \w
// and the like are Unicode's, in classes too; $ is also before a newline, ^
// behind one; {n,m}+ repeats {n,m}, while ?+, *+ and ++ are possessive.
// Assertions look at one character (\s+(?!\S), \b), and what is possessive is
// one character, repeated. What is not supported is an error that names it,
// and so is an expression that matches the empty text.
//
// An expression becomes a deterministic automaton, of bounded size, which
// prefers what a backtracking matcher would find first. It reads each character
// once, or a bounded number of times where it has to give up what it tried.
package pattern

import (
	"iter"
	"unicode/utf8"
)

// The expressions of GPT-2 and of Llama 3.
const (
	GPT2   = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
	Llama3 = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
)

// Pattern is a compiled expression. Its methods are safe from several
// goroutines.
type Pattern struct {
	expr      string
	classes   *classes
	automaton *automaton
}

// Compile compiles an expression. An error is an *Error.
func Compile(expr string) (*Pattern, error) {
	tree, err := parse(expr)
	if err != nil {
		return nil, err
	}
	large := &Error{expr, -1, "it is too large: its automaton has too many states"}
	prog, ok := compile(tree)
	if !ok {
		return nil, large
	}
	classes, members := partition(prog.sets)
	a, ok := determinise(prog, classes.n, members)
	if !ok {
		return nil, large
	}
	for _, s := range a.start {
		for _, t := range a.transitions[s:][:a.size] {
			if t&matchBit != 0 {
				return nil, &Error{expr, -1, "it matches the empty text, which is not supported"}
			}
		}
	}
	return &Pattern{expr, classes, a}, nil
}

// String is the expression.
func (p *Pattern) String() string { return p.expr }

// All returns where the matches of a text begin and end, from the left. Each is
// the one of those that begin there that alternatives and quantifiers prefer; none is
// empty, and they do not overlap. Assertions look at the whole text. A byte that is
// not UTF-8 counts as U+FFFD. All of them take time linear in the length of the text.
func (p *Pattern) All(text []byte) iter.Seq2[int, int] {
	return func(yield func(start, end int) bool) {
		s := search{p: p, text: text}
		for at := 0; ; {
			start, end, ok := s.next(at)
			if !ok || !yield(start, end) {
				return
			}
			at = end
		}
	}
}

// search is the search for matches in one text.
//
// An attempt may read far behind its last match, in vain, and so may the next
// ones: a*b|a reads all of aaaa... for each a. The states that such an attempt has
// at every 64th byte are remembered, so that others that come to one of them
// there stop (Reps, "Maximal-munch" tokenization in linear time, 1998).
type search struct {
	p    *Pattern
	text []byte
	vain map[vain]struct{}
	path []vain // of the attempt, since its last match
}

// vain is a state and place behind which no match ends.
type vain struct {
	state uint32
	mark  int // the place is the first character at or behind mark*stride
}

const stride = 64

// next finds the first match that begins at a place or behind it.
func (s *search) next(from int) (start, end int, ok bool) {
	a, c := s.p.automaton, s.p.classes
	for at := from; at < len(s.text); {
		b := s.text[at]
		if b < utf8.RuneSelf && !a.behind && a.transitions[a.start[0]+uint32(c.ascii[b])] == 0 {
			at++
			continue
		}
		if end := s.match(at); end > at {
			return at, end, true
		}
		if b < utf8.RuneSelf {
			at++
		} else {
			_, n := utf8.DecodeRune(s.text[at:])
			at += n
		}
	}
	return 0, 0, false
}

// match returns the end of the match that begins at a place, or the place.
func (s *search) match(at int) (end int) {
	a, c, text := s.p.automaton, s.p.classes, s.text
	state := a.start[0]
	if a.behind {
		before := uint16(c.n)
		if at > 0 {
			r, _ := utf8.DecodeLastRune(text[:at])
			before = c.class(r)
		}
		state = a.start[before]
	}
	end = at
	for at < len(text) {
		for limit := min(len(text), at+stride); at < limit; {
			var class uint16
			size := 1
			if b := text[at]; b < utf8.RuneSelf {
				class = c.ascii[b]
			} else {
				var r rune
				r, size = utf8.DecodeRune(text[at:])
				class = c.of(r)
			}
			t := a.transitions[state+uint32(class)]
			if t&matchBit != 0 {
				end = at
			}
			if state = t >> 1; state == 0 {
				return end
			}
			at += size
		}
		if at-end < stride {
			continue
		}
		// Marks are left where a stretch without a match is long only.
		var more bool
		if at, end, state, more = s.far(at, end, state); !more {
			return end
		}
	}
	if a.transitions[state+uint32(c.n)]&matchBit != 0 {
		end = len(text)
	}
	return end
}

// far goes on from a place up to the next match, and tells whether there may
// be more.
func (s *search) far(at, end int, state uint32) (int, int, uint32, bool) {
	a, c, text := s.p.automaton, s.p.classes, s.text
	s.path = s.path[:0]
	remember := func() {
		if len(s.path) > 0 && s.vain == nil {
			s.vain = map[vain]struct{}{}
		}
		for _, v := range s.path {
			s.vain[v] = struct{}{}
		}
	}
	mark := (at - 1) / stride
	for at < len(text) {
		// The place is the first behind a mark.
		if m := at / stride; m != mark {
			mark = m
			v := vain{state, m}
			if _, known := s.vain[v]; known {
				remember()
				return at, end, 0, false
			}
			s.path = append(s.path, v)
		}
		r, size := utf8.DecodeRune(text[at:])
		t := a.transitions[state+uint32(c.class(r))]
		if t&matchBit != 0 {
			return at + size, at, t >> 1, t>>1 != 0
		}
		if state = t >> 1; state == 0 {
			remember()
			return at, end, 0, false
		}
		at += size
	}
	if a.transitions[state+uint32(c.n)]&matchBit != 0 {
		return at, at, 0, false
	}
	remember()
	return at, end, 0, false
}
