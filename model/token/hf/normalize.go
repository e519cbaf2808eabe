package hf

import (
	"bytes"
	"slices"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/structuredffn/sffn/model/token/pattern"
)

// A normalizer changes a text, which is never empty. It returns a part of the
// text, or dst, which is empty, with the new one and true.
type normalizer interface {
	normalize(dst, text []byte) (out []byte, changed bool)
	// growth is how many times as long a text gets at most.
	growth() int
}

// maxGrowth bounds how many times as long components may make a text, all of them
// together.
const maxGrowth = 1 << 10

// growth is a number of times.
type growth int

// by is what comes of another component.
func (g *growth) by(v value, n int) error {
	if *g *= growth(min(n, maxGrowth+1)); *g > maxGrowth {
		return v.errorf("makes a text more than %d times as long", maxGrowth)
	}
	return nil
}

// normalizers reads the field normalizer.
func normalizers(v value) (out []normalizer, starts bool, err error) {
	parts, err := v.flatten("normalizers")
	if err != nil {
		return nil, false, err
	}
	starts = true
	times := growth(1)
	for _, part := range parts {
		n, keeps, err := newNormalizer(part)
		if err != nil {
			return nil, false, err
		}
		if err := times.by(part, n.growth()); err != nil {
			return nil, false, err
		}
		out = append(out, n)
		starts = starts && keeps
	}
	return out, starts, nil
}

// newNormalizer reads one. starts says that the first character of what it gives
// comes from the first of the text.
func newNormalizer(v value) (n normalizer, starts bool, err error) {
	kind, err := v.kind()
	if err != nil {
		return nil, false, err
	}
	simple := map[string]normalizer{
		"NFC":       form{norm.NFC, norm.NFD},
		"NFKC":      form{norm.NFKC, norm.NFKD},
		"NFD":       form{norm.NFD, norm.NFD},
		"NFKD":      form{norm.NFKD, norm.NFKD},
		"Lowercase": lowercase{},
		"ByteLevel": byteSpelling{},
	}
	if n, ok := simple[kind]; ok {
		_, err := v.object("type")
		return n, true, err
	}
	switch kind {
	case "Prepend":
		o, err := v.object("type", "prepend")
		if err != nil {
			return nil, false, err
		}
		s, err := o.text("prepend")
		return prepend(s), false, err
	case "Replace":
		r, err := newReplace(v)
		if err != nil {
			return nil, false, err
		}
		return r, r.expr == nil && utf8.RuneCount(r.text) == 1 && len(r.content) > 0, nil
	case "Strip":
		o, err := v.object("type", "strip_left", "strip_right")
		if err != nil {
			return nil, false, err
		}
		var s strip
		if s.left, err = o.flag("strip_left"); err != nil {
			return nil, false, err
		}
		if s.right, err = o.flag("strip_right"); err != nil {
			return nil, false, err
		}
		return s, false, nil
	}
	return nil, false, v.errorf("normalizer %.60q is not supported; these are: Sequence, NFC, NFD, NFKC, NFKD, Prepend, Replace, Lowercase, Strip, ByteLevel", kind)
}

// prepend puts a text before.
type prepend []byte

func (p prepend) normalize(dst, text []byte) ([]byte, bool) {
	return append(append(dst, p...), text...), true
}

func (p prepend) growth() int { return 1 + len(p) }

// replace puts content where the text is, or where the expression matches.
type replace struct {
	text    []byte
	expr    *pattern.Pattern // nil for the text
	content []byte
}

// newReplace reads a normalizer or a decoder.
func newReplace(v value) (r replace, err error) {
	o, err := v.object("type", "pattern", "content")
	if err != nil {
		return r, err
	}
	content, err := o.text("content")
	if err != nil {
		return r, err
	}
	r.content = []byte(content)
	r.text, r.expr, err = newPattern(o.get("pattern"))
	return r, err
}

// newPattern reads {"String": "..."} or {"Regex": "..."}.
func newPattern(v value) (text []byte, expr *pattern.Pattern, err error) {
	o, err := v.object("String", "Regex")
	if err != nil {
		return nil, nil, err
	}
	if len(o.fields) != 1 {
		return nil, nil, v.errorf("has %d fields, want one of String and Regex", len(o.fields))
	}
	if _, ok := o.fields["String"]; ok {
		s, err := o.text("String")
		if err == nil && s == "" {
			err = o.get("String").errorf("is empty")
		}
		return []byte(s), nil, err
	}
	s, err := o.text("Regex")
	if err != nil {
		return nil, nil, err
	}
	if expr, err = pattern.Compile(s); err != nil {
		return nil, nil, o.get("Regex").errorf("%v", err)
	}
	return nil, expr, nil
}

func (r replace) growth() int { return 1 + len(r.content)/max(1, len(r.text)) }

func (r replace) normalize(dst, text []byte) ([]byte, bool) {
	at := 0
	if r.expr != nil {
		for start, end := range r.expr.All(text) {
			dst = append(append(dst, text[at:start]...), r.content...)
			at = end
		}
	} else {
		for {
			i := bytes.Index(text[at:], r.text)
			if i < 0 {
				break
			}
			dst = append(append(dst, text[at:at+i]...), r.content...)
			at += i + len(r.text)
		}
	}
	if at == 0 {
		return text, false
	}
	return append(dst, text[at:]...), true
}

// lowercase is by character, as Unicode maps them without context.
type lowercase struct{}

func (lowercase) normalize(dst, text []byte) ([]byte, bool) {
	for i := 0; i < len(text); {
		c := text[i]
		switch {
		case 'A' <= c && c <= 'Z':
			dst = append(dst, c+'a'-'A')
			i++
		case c < utf8.RuneSelf:
			dst = append(dst, c)
			i++
		default:
			r, n := utf8.DecodeRune(text[i:])
			switch lower := toLower(r); {
			case r == 'İ': // the one that becomes two
				dst = append(dst, "i̇"...)
			case lower != r:
				dst = utf8.AppendRune(dst, lower)
			default:
				dst = append(dst, text[i:i+n]...)
			}
			i += n
		}
	}
	return dst, true
}

func (lowercase) growth() int { return 2 }

// strip takes white space from the ends.
type strip struct{ left, right bool }

func (s strip) normalize(_, text []byte) ([]byte, bool) {
	if s.left {
		text = bytes.TrimLeftFunc(text, unicode.IsSpace)
	}
	if s.right {
		text = bytes.TrimRightFunc(text, unicode.IsSpace)
	}
	return text, false
}

func (strip) growth() int { return 1 }

// byteSpelling spells each byte as the character that stands for it.
type byteSpelling struct{}

func (byteSpelling) normalize(dst, text []byte) ([]byte, bool) {
	return spell(dst, text), true
}

func (byteSpelling) growth() int { return 2 }

// form is a normalization form, as of Unicode 9, of texts with any number of
// combining characters in a row.
type form struct {
	form, decomposed norm.Form
}

func (f form) normalize(dst, text []byte) ([]byte, bool) {
	if f.form.QuickSpan(text) == len(text) {
		return text, false
	}
	return f.append(dst, text), true
}

// Of one character of three bytes, U+FDFA, come eighteen, of 33 bytes in all.
func (form) growth() int { return 11 }

// append appends the normalized text. What QuickSpan calls normal is so by
// Unicode 9 too: characters that came later only part what is around them.
func (f form) append(dst, text []byte) []byte {
	for len(text) > 0 {
		i := f.form.QuickSpan(text)
		dst = append(dst, text[:i]...)
		text = text[i:]
		if len(text) == 0 {
			break
		}
		// A segment is what may interact: up to the next character that neither
		// moves nor combines with what is before it.
		end, plain, marks := 0, true, 0
		for end < len(text) {
			p := f.form.Properties(text[end:])
			if end > 0 && p.BoundaryBefore() {
				break
			}
			if p.CCC() != 0 {
				marks++
			} else if end > 0 && !jamo(text[end:]) {
				plain = false
			}
			size := p.Size()
			if size == 0 {
				size = 1 // the beginning of a character at the end of the text
			}
			if r, _ := utf8.DecodeRune(text[end:]); r > 0xffff || newer.has(r) {
				plain = false
			}
			end += size
		}
		// Package norm puts U+034F into what has more than 30 marks in a row,
		// composes across a character of class 0 that could combine but does not, and
		// composes by the low 16 bits of characters.
		if plain && marks < 8 {
			dst = append(dst, f.form.Bytes(text[:end])...)
		} else {
			dst = f.appendSegment(dst, text[:end])
		}
		text = text[end:]
	}
	return dst
}

// jamo tells whether a text begins with a vowel or a final consonant of Hangul.
func jamo(text []byte) bool {
	r, _ := utf8.DecodeRune(text)
	return 0x1161 <= r && r <= 0x11ff
}

// mark is a character and its combining class.
type mark struct {
	r     rune
	class uint8
}

// appendSegment is the definition of the forms: decompose, order marks by their
// class, compose.
func (f form) appendSegment(dst, text []byte) []byte {
	var marks []mark
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		if r == utf8.RuneError && n == 1 {
			// What is not UTF-8 stays, and nothing goes across it.
			dst = f.appendMarks(dst, marks)
			dst = append(dst, text[0])
			marks = marks[:0]
			text = text[1:]
			continue
		}
		if newer.has(r) {
			marks = append(marks, mark{r, 0})
		} else {
			for _, d := range string(f.decomposed.Bytes(text[:n])) {
				marks = append(marks, mark{d, f.decomposed.PropertiesString(string(d)).CCC()})
			}
		}
		text = text[n:]
	}
	return f.appendMarks(dst, marks)
}

func (f form) appendMarks(dst []byte, marks []mark) []byte {
	for i := 0; i < len(marks); {
		j := i
		for j < len(marks) && marks[j].class != 0 {
			j++
		}
		slices.SortStableFunc(marks[i:j], func(a, b mark) int { return int(a.class) - int(b.class) })
		i = max(j, i+1)
	}
	if f.form == f.decomposed {
		for _, m := range marks {
			dst = utf8.AppendRune(dst, m.r)
		}
		return dst
	}
	// starter is where in kept the last character of class 0 is, and last the
	// class of what was kept behind it, -1 for nothing.
	kept, starter, last := marks[:0], -1, -1
	for _, m := range marks {
		if starter >= 0 && last < int(m.class) {
			if r, ok := f.compose(kept[starter].r, m.r); ok {
				kept[starter].r = r
				continue
			}
		}
		if m.class == 0 {
			starter, last = len(kept), -1
		} else {
			last = int(m.class)
		}
		kept = append(kept, m)
	}
	for _, m := range kept {
		dst = utf8.AppendRune(dst, m.r)
	}
	return dst
}

// compose returns the one character that two are.
func (f form) compose(a, b rune) (rune, bool) {
	if newer.has(a) || newer.has(b) {
		return 0, false
	}
	both := utf8.AppendRune(utf8.AppendRune(nil, a), b)
	out := norm.NFC.Bytes(both)
	r, n := utf8.DecodeRune(out)
	return r, n == len(out) && !newer.has(r) && bytes.Equal(norm.NFD.Bytes(out), norm.NFD.Bytes(both))
}
