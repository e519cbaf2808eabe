package pattern

import (
	"strings"
	"sync"
	"unicode"
)

// properties returns the code points of a category, a script or another
// property of Unicode.
func properties(name string) (set, bool) {
	key := squeezed(name)
	s, ok := named()[key]
	if ok {
		return s(), true
	}
	if s, ok := posixClasses(key); ok {
		return s, true
	}
	return nil, false
}

// squeezed is a name without what does not tell it from others.
func squeezed(name string) string {
	return strings.ToLower(strings.NewReplacer(" ", "", "_", "", "-", "").Replace(name))
}

var named = sync.OnceValue(func() map[string]func() set {
	m := map[string]func() set{
		"any":        func() set { return everything },
		"assigned":   func() set { return category("Cn").negate() },
		"alphabetic": alphabetic,
		"uppercase":  uppercase,
		"lowercase":  lowercase,
	}
	m["whitespace"] = func() set { return table(unicode.White_Space) }
	for name := range unicode.Scripts {
		m[squeezed(name)] = func() set { return script(name) }
	}
	for _, n := range newer {
		m[squeezed(n.script)] = func() set { return script(n.script) }
	}
	for name := range unicode.Categories {
		m[squeezed(name)] = func() set { return category(name) }
	}
	for alias, name := range unicode.CategoryAliases {
		m[squeezed(alias)] = func() set { return category(name) }
	}
	return m
})

// category returns a general category, or all of those of a letter.
func category(name string) set {
	s := table(unicode.Categories[name])
	var added set
	for _, n := range newer {
		switch {
		case name == "C" || name == "Cn":
			added = append(added, span{n.lo, n.hi})
		case n.category == name || n.category[:1] == name, name == "LC" && strings.Contains("Lu Ll Lt", n.category):
			added = append(added, span{n.lo, n.hi})
		}
	}
	switch name {
	case "C", "Cn":
		return intersect(s, normal(added).negate())
	case "Mn":
		return intersect(union(s, added), single(markThatSpaces).negate())
	case "Mc":
		added = append(added, single(markThatSpaces)...)
	}
	return union(s, added)
}

// markThatSpaces changed its category from Mn to Mc in version 16.
const markThatSpaces = 0x1171e

func categories(names ...string) set {
	var s set
	for _, name := range names {
		s = append(s, category(name)...)
	}
	return normal(s)
}

func script(name string) set {
	var s set
	if t, ok := unicode.Scripts[name]; ok {
		s = table(t)
	}
	for _, n := range newer {
		if n.script == name {
			s = append(s, span{n.lo, n.hi})
		}
	}
	return normal(s)
}

func alphabetic() set {
	s := union(categories("L", "Nl"), table(unicode.Other_Alphabetic), alphabeticSince)
	for _, n := range newer {
		if n.alphabetic {
			s = append(s, span{n.lo, n.hi})
		}
	}
	return normal(s)
}

// alphabeticSince became alphabetic in version 16.
var alphabeticSince = ranges(0x363, 0x36f, 0x1dd3, 0x1df4)

func uppercase() set { return union(category("Lu"), table(unicode.Other_Uppercase)) }

func lowercase() set { return union(category("Ll"), table(unicode.Other_Lowercase)) }

var word = sync.OnceValue(func() set { return union(alphabetic(), categories("M", "Nd", "Pc")) })

// wordOutside is \w outside of classes, where Oniguruma counts these six of
// Latin-1 among the letters.
var wordOutside = sync.OnceValue(func() set {
	return union(word(), ranges(0xb2, 0xb3, 0xb9, 0xb9, 0xbc, 0xbe))
})

// perlClasses are those that a backslash and a letter name, in classes and
// elsewhere.
var perlClasses = sync.OnceValue(func() map[rune]set {
	return map[rune]set{
		's': table(unicode.White_Space),
		'd': category("Nd"),
		'w': word(),
		'h': hexDigits,
	}
})

var hexDigits = ranges('0', '9', 'A', 'F', 'a', 'f')

func posixClasses(name string) (set, bool) {
	switch name {
	case "alnum":
		return union(alphabetic(), category("Nd")), true
	case "alpha":
		return alphabetic(), true
	case "ascii":
		return ranges(0, 0x7f), true
	case "blank":
		return union(category("Zs"), single('\t')), true
	case "cntrl":
		return category("Cc"), true
	case "digit":
		return category("Nd"), true
	case "graph":
		return visible(), true
	case "print":
		return union(visible(), category("Zs")), true
	case "lower":
		return lowercase(), true
	case "punct":
		return categories("P", "S"), true
	case "space":
		return table(unicode.White_Space), true
	case "upper":
		return uppercase(), true
	case "word":
		return word(), true
	case "xdigit":
		return hexDigits, true
	}
	return nil, false
}

// visible are the characters that leave a mark on paper.
func visible() set {
	return union(table(unicode.White_Space), categories("Cc", "Cn", "Cs")).negate()
}

// caseOrbits are the sets of code points that differ in case only.
var caseOrbits = sync.OnceValue(func() [][]rune {
	var orbits [][]rune
	for _, c := range unicode.CaseRanges {
		for r := rune(c.Lo); r <= rune(c.Hi); r++ {
			orbit := []rune{r}
			for next := unicode.SimpleFold(r); next > r; next = unicode.SimpleFold(next) {
				orbit = append(orbit, next)
			}
			// Each orbit is found once, from its smallest.
			if n := len(orbit); n > 1 && unicode.SimpleFold(orbit[n-1]) == r {
				orbits = append(orbits, orbit)
			}
		}
	}
	return orbits
})

// expanding are the code points that are several when their case is folded
// (status F of Unicode's CaseFolding.txt).
var expanding = ranges(0xdf, 0xdf, 0x130, 0x130, 0x149, 0x149, 0x1f0, 0x1f0, 0x390, 0x390, 0x3b0, 0x3b0,
	0x587, 0x587, 0x1e96, 0x1e9a, 0x1e9e, 0x1e9e, 0x1f50, 0x1f50, 0x1f52, 0x1f52, 0x1f54, 0x1f54,
	0x1f56, 0x1f56, 0x1f80, 0x1faf, 0x1fb2, 0x1fb4, 0x1fb6, 0x1fb7, 0x1fbc, 0x1fbc, 0x1fc2, 0x1fc4,
	0x1fc6, 0x1fc7, 0x1fcc, 0x1fcc, 0x1fd2, 0x1fd3, 0x1fd6, 0x1fd7, 0x1fe2, 0x1fe4, 0x1fe6, 0x1fe7,
	0x1ff2, 0x1ff4, 0x1ff6, 0x1ff7, 0x1ffc, 0x1ffc, 0xfb00, 0xfb06, 0xfb13, 0xfb17)

// expansions are the first letters of what those are, and what may be second.
var expansions = func() map[rune]string {
	m := map[rune]string{
		'a': "\u02be", 'f': "fil", 'h': "\u0331", 'i': "\u0307", 'j': "\u030c", 's': "st", 't': "\u0308",
		'w': "\u030a", 'y': "\u030a", '\u02bc': "n",
		'\u03b1': "\u0342\u03b9", '\u03b7': "\u0342\u03b9", '\u03b9': "\u0308\u0342", '\u03c1': "\u0313",
		'\u03c5': "\u0308\u0313\u0342", '\u03c9': "\u0342\u03b9",
		'\u0565': "\u0582", '\u0574': "\u0565\u056b\u056d\u0576", '\u057e': "\u0576",
	}
	for _, r := range "\u03ac\u03ae\u03ce\u1f00\u1f01\u1f02\u1f03\u1f04\u1f05\u1f06\u1f07" +
		"\u1f20\u1f21\u1f22\u1f23\u1f24\u1f25\u1f26\u1f27\u1f60\u1f61\u1f62\u1f63\u1f64\u1f65\u1f66\u1f67\u1f70\u1f74\u1f7c" {
		m[r] = "\u03b9"
	}
	return m
}()
