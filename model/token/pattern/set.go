package pattern

import (
	"cmp"
	"slices"
	"unicode"
)

// A set of code points is a list of ranges, in order, with gaps between them.
type set []span

// span is from lo to hi, both in it.
type span struct{ lo, hi rune }

var everything = set{{0, unicode.MaxRune}}

func single(r rune) set { return set{{r, r}} }

// normal sorts and joins ranges, in place.
func normal(s set) set {
	slices.SortFunc(s, func(a, b span) int { return cmp.Compare(a.lo, b.lo) })
	out := s[:0]
	for _, r := range s {
		if n := len(out); n > 0 && r.lo <= out[n-1].hi+1 {
			out[n-1].hi = max(out[n-1].hi, r.hi)
		} else {
			out = append(out, r)
		}
	}
	return out
}

func union(sets ...set) set { return normal(slices.Concat(sets...)) }

func (s set) negate() set {
	var out set
	next := rune(0)
	for _, r := range s {
		if r.lo > next {
			out = append(out, span{next, r.lo - 1})
		}
		next = r.hi + 1
	}
	if next <= unicode.MaxRune {
		out = append(out, span{next, unicode.MaxRune})
	}
	return out
}

func intersect(a, b set) set {
	var out set
	for len(a) > 0 && len(b) > 0 {
		if lo, hi := max(a[0].lo, b[0].lo), min(a[0].hi, b[0].hi); lo <= hi {
			out = append(out, span{lo, hi})
		}
		if a[0].hi < b[0].hi {
			a = a[1:]
		} else {
			b = b[1:]
		}
	}
	return out
}

func (s set) contains(r rune) bool {
	i, found := slices.BinarySearchFunc(s, r, func(x span, r rune) int { return cmp.Compare(x.lo, r) })
	return found || i > 0 && r <= s[i-1].hi
}

// fold adds the code points that differ in case only, one for one.
func (s set) fold() set {
	out := slices.Clone(s)
	for _, cased := range caseOrbits() {
		for _, r := range cased {
			if s.contains(r) {
				for _, x := range cased {
					out = append(out, span{x, x})
				}
				break
			}
		}
	}
	return normal(out)
}

// table makes a set of a table of the standard library.
func table(t *unicode.RangeTable) set {
	var out set
	add := func(lo, hi, stride rune) {
		if stride == 1 {
			out = append(out, span{lo, hi})
			return
		}
		for r := lo; r <= hi; r += stride {
			out = append(out, span{r, r})
		}
	}
	for _, r := range t.R16 {
		add(rune(r.Lo), rune(r.Hi), rune(r.Stride))
	}
	for _, r := range t.R32 {
		add(rune(r.Lo), rune(r.Hi), rune(r.Stride))
	}
	return normal(out)
}

// ranges makes a set of pairs of first and last code points.
func ranges(pairs ...rune) set {
	var out set
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, span{pairs[i], pairs[i+1]})
	}
	return normal(out)
}
