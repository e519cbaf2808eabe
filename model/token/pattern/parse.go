package pattern

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of what an expression may be.
const (
	maxLength  = 1 << 16 // bytes of an expression
	maxDepth   = 100     // of groups in groups and classes in classes
	maxRepeats = 1000    // times that {m,n} repeats something
	maxSpans   = 1 << 18 // ranges of code points in all sets of an expression
)

type kind uint8

const (
	kindEmpty kind = iota
	kindSet
	kindConcat
	kindAlternate
	kindRepeat
	kindLook
)

// node is a part of an expression.
type node struct {
	kind kind
	subs []*node
	// Of kindSet, and of kindLook, which holds where the next character (the one
	// before, if behind) is in the set, or, if edge, where there is none.
	set          set
	edge, behind bool
	// Of kindRepeat.
	min, max int // max < 0: any number
	lazy     bool
	literal  rune  // of a set that one character spells, or -1
	index    int32 // of the set in the program and one, or 0
}

// Error says what an expression has that is wrong or not supported.
type Error struct {
	Expr   string
	Offset int // in bytes; -1 where it is about the whole
	Reason string
}

func (e *Error) Error() string {
	expr := e.Expr
	if len(expr) > 80 {
		expr = strings.ToValidUTF8(expr[:80], "") + "..."
	}
	if e.Offset < 0 {
		return fmt.Sprintf("regular expression %q: %s", expr, e.Reason)
	}
	return fmt.Sprintf("regular expression %q: %s at byte %d", expr, e.Reason, e.Offset)
}

type parser struct {
	expr  string
	at    int
	depth int
	spans int
}

// flags are those of a group.
type flags struct {
	ignoreCase bool
	dotAll     bool
}

// fail ends parsing; parse recovers it.
func (p *parser) fail(at int, format string, args ...any) {
	panic(&Error{p.expr, at, fmt.Sprintf(format, args...)})
}

func parse(expr string) (n *node, err error) {
	defer func() {
		if r := recover(); r != nil {
			e, ok := r.(*Error)
			if !ok {
				panic(r)
			}
			err = e
		}
	}()
	p := &parser{expr: expr}
	if len(expr) > maxLength {
		p.fail(-1, "%d bytes are too long, want at most %d", len(expr), maxLength)
	}
	if !utf8.ValidString(expr) {
		p.fail(-1, "it is no valid UTF-8")
	}
	n = p.alternation(flags{})
	if p.at < len(p.expr) {
		p.fail(p.at, "a closing parenthesis without an opening one")
	}
	return n, nil
}

func (p *parser) more() bool { return p.at < len(p.expr) }

func (p *parser) has(prefix string) bool { return strings.HasPrefix(p.expr[p.at:], prefix) }

func (p *parser) accept(prefix string) bool {
	if !p.has(prefix) {
		return false
	}
	p.at += len(prefix)
	return true
}

func (p *parser) rune() rune {
	r, n := utf8.DecodeRuneInString(p.expr[p.at:])
	p.at += n
	return r
}

func (p *parser) deeper(at int) {
	if p.depth++; p.depth > maxDepth {
		p.fail(at, "more than %d groups or classes in each other", maxDepth)
	}
}

func (p *parser) countSpans(at int, s set) {
	if p.spans += len(s); p.spans > maxSpans {
		p.fail(at, "sets of more than %d ranges of characters in all", maxSpans)
	}
}

func (p *parser) setNode(at int, s set, literal rune) *node {
	p.countSpans(at, s)
	return &node{kind: kindSet, set: s, literal: literal}
}

// alternation reads up to the end of a group.
func (p *parser) alternation(f flags) *node {
	// (?i) at the start of a group is for the whole of it. Elsewhere dialects
	// differ in how far it reaches.
	for p.has("(?") {
		at := p.at
		p.at += 2
		g, ok := p.options(f)
		if !ok || !p.accept(")") {
			p.at = at
			break
		}
		f = g
	}
	n := &node{kind: kindAlternate, subs: []*node{p.concatenation(f)}}
	for p.accept("|") {
		n.subs = append(n.subs, p.concatenation(f))
	}
	if len(n.subs) == 1 {
		return n.subs[0]
	}
	return n
}

func (p *parser) concatenation(f flags) *node {
	n := &node{kind: kindConcat}
	for p.more() && !p.has("|") && !p.has(")") {
		at := p.at
		x := p.repeated(f)
		if f.ignoreCase {
			p.checkFolds(at, n.subs, x)
		}
		n.subs = append(n.subs, x)
	}
	switch len(n.subs) {
	case 0:
		return &node{kind: kindEmpty}
	case 1:
		return n.subs[0]
	}
	return n
}

// checkFolds refuses what another letter stands for when case is ignored: a
// match of ß by ss, say.
func (p *parser) checkFolds(at int, before []*node, x *node) {
	if x.kind == kindRepeat && x.subs[0].kind == kindSet && (x.max < 0 || x.max > 1) {
		p.checkFold(at, x.subs[0].literal, x.subs[0].literal)
	}
	if len(before) == 0 {
		return
	}
	p.checkFold(at, last(before[len(before)-1]), first(x))
}

// first and last are the literals at the ends of a node, or -1.
func first(n *node) rune { return end(n, func(subs []*node) *node { return subs[0] }) }

func last(n *node) rune { return end(n, func(subs []*node) *node { return subs[len(subs)-1] }) }

func end(n *node, pick func([]*node) *node) rune {
	for len(n.subs) > 0 && n.kind != kindAlternate {
		n = pick(n.subs)
	}
	if n.kind == kindSet {
		return n.literal
	}
	return -1
}

func (p *parser) checkFold(at int, a, b rune) {
	if a < 0 || b < 0 {
		return
	}
	if strings.ContainsRune(expansions[unicode.ToLower(a)], unicode.ToLower(b)) {
		p.fail(at, "%q where case is ignored, for which one letter may stand, is not supported", string(a)+string(b))
	}
}

// repeated reads one item and what repeats it.
func (p *parser) repeated(f flags) *node {
	x := p.item(f)
	for p.more() {
		from := p.at
		least, most, ok := p.repeats()
		if !ok {
			break
		}
		if x.kind == kindLook {
			p.fail(from, "a repeated assertion is not supported")
		}
		interval := p.expr[p.at-1] == '}'
		r := &node{kind: kindRepeat, subs: []*node{x}, min: least, max: most}
		switch {
		case interval && least == most && p.accept("?"):
			// {n}? is (?:{n})? in this dialect.
			r = &node{kind: kindRepeat, subs: []*node{r}, max: 1}
		case p.accept("?"):
			r.lazy = true
		case !interval && p.accept("+"):
			if x.kind != kindSet {
				p.fail(from, "the possessive %q behind anything but one character is not supported", p.expr[from:p.at])
			}
			r = possessive(r)
		}
		x = r
	}
	return x
}

// possessive says that no character may follow that would have been taken.
func possessive(r *node) *node {
	x := r.subs[0]
	stop := &node{kind: kindLook, set: x.set.negate(), edge: true}
	if r.max < 0 {
		return &node{kind: kindConcat, subs: []*node{r, stop}}
	}
	return &node{kind: kindAlternate, subs: []*node{x, stop}}
}

// repeats reads a quantifier. A brace that begins none is a character.
func (p *parser) repeats() (least, most int, ok bool) {
	switch {
	case p.accept("?"):
		return 0, 1, true
	case p.accept("*"):
		return 0, -1, true
	case p.accept("+"):
		return 1, -1, true
	case !p.has("{"):
		return 0, 0, false
	}
	at := p.at
	inside, _, closed := strings.Cut(p.expr[at+1:], "}")
	low, high, comma := strings.Cut(inside, ",")
	if !closed || !digits(low) || !digits(high) || low == "" && high == "" {
		return 0, 0, false
	}
	number := func(s string, empty int) int {
		if s == "" {
			return empty
		}
		n, err := strconv.Atoi(s)
		if err != nil || n > maxRepeats {
			p.fail(at, "{%s} repeats more than %d times", inside, maxRepeats)
		}
		return n
	}
	least = number(low, 0)
	most = least
	if comma {
		most = number(high, -1)
	}
	if most >= 0 && most < least {
		p.fail(at, "{%s} has its larger number first", inside)
	}
	p.at += len(inside) + 2
	return least, most, true
}

func digits(s string) bool { return strings.Trim(s, "0123456789") == "" }

func (p *parser) item(f flags) *node {
	at := p.at
	switch r := p.rune(); r {
	case '(':
		return p.group(at, f)
	case '[':
		return p.setNode(at, p.class(at, f), -1)
	case '\\':
		return p.escape(at, f)
	case '.':
		if f.dotAll {
			return p.setNode(at, everything, -1)
		}
		return p.setNode(at, single('\n').negate(), -1)
	case '^':
		return lineStart()
	case '$':
		return &node{kind: kindLook, set: single('\n'), edge: true}
	case '*', '+', '?':
		p.fail(at, "%q with nothing to repeat", string(r))
		return nil
	default:
		return p.character(at, r, f)
	}
}

func (p *parser) character(at int, r rune, f flags) *node {
	s := single(r)
	if f.ignoreCase {
		for x := unicode.SimpleFold(r); x != r; x = unicode.SimpleFold(x) {
			s = append(s, span{x, x})
		}
		s = normal(s)
		p.checkExpanding(at, s)
	}
	return p.setNode(at, s, r)
}

// checkExpanding refuses letters of which another case is several letters.
func (p *parser) checkExpanding(at int, s set) {
	if len(intersect(s, expanding)) > 0 {
		p.fail(at, "a letter where case is ignored that several letters stand for is not supported")
	}
}

// lineStart holds at the start of the text, and behind a newline but for the
// last.
func lineStart() *node {
	return &node{kind: kindAlternate, subs: []*node{
		{kind: kindLook, behind: true, edge: true},
		{kind: kindConcat, subs: []*node{
			{kind: kindLook, behind: true, set: single('\n')},
			{kind: kindLook, set: everything},
		}},
	}}
}

// boundary holds between a character of words and another, or else where there
// is none.
func boundary(is bool) *node {
	word, other := wordOutside(), wordOutside().negate()
	pair := func(a set, edgeA bool, b set, edgeB bool) *node {
		return &node{kind: kindConcat, subs: []*node{
			{kind: kindLook, behind: true, set: a, edge: edgeA},
			{kind: kindLook, set: b, edge: edgeB},
		}}
	}
	if is {
		return &node{kind: kindAlternate, subs: []*node{pair(word, false, other, true), pair(other, true, word, false)}}
	}
	return &node{kind: kindAlternate, subs: []*node{pair(word, false, word, false), pair(other, true, other, true)}}
}

// options reads the letters between (? and : or ). It says no where there are none.
func (p *parser) options(f flags) (flags, bool) {
	at, on := p.at, true
	for p.more() {
		switch p.expr[p.at] {
		case '-':
			on = false
		case 'i':
			f.ignoreCase = on
		case 'm':
			f.dotAll = on
		case ':', ')':
			return f, p.at > at
		default:
			p.at = at
			return f, false
		}
		p.at++
	}
	return f, false
}

func (p *parser) group(at int, f flags) *node {
	p.deeper(at)
	defer func() { p.depth-- }()
	closed := func(n *node) *node {
		if !p.accept(")") {
			p.fail(at, "a parenthesis that is not closed")
		}
		return n
	}
	if !p.accept("?") {
		return closed(p.alternation(f))
	}
	for _, look := range []struct {
		sign            string
		behind, negated bool
	}{{"=", false, false}, {"!", false, true}, {"<=", true, false}, {"<!", true, true}} {
		if p.accept(look.sign) {
			return p.look(at, closed(p.alternation(f)), look.behind, look.negated)
		}
	}
	switch {
	case p.accept(":"):
		return closed(p.alternation(f))
	case p.accept("#"):
		i := strings.IndexByte(p.expr[p.at:], ')')
		if i < 0 {
			p.fail(at, "a comment that is not closed")
		}
		p.at += i + 1
		return &node{kind: kindEmpty}
	case p.accept(">"):
		n := closed(p.alternation(f))
		switch x := n; {
		case x.kind == kindSet:
			return x
		case x.kind == kindRepeat && !x.lazy && x.subs[0].kind == kindSet && (x.max < 0 || x.min == 0 && x.max == 1):
			return possessive(x)
		}
		p.fail(at, "an atomic group (?>...) of anything but one character, repeated or not, is not supported")
	case p.accept("<"):
		i := strings.IndexByte(p.expr[p.at:], '>')
		if i < 1 {
			p.fail(at, "a group whose name is not closed")
		}
		p.at += i + 1
		return closed(p.alternation(f))
	}
	if g, ok := p.options(f); ok {
		if p.accept(":") {
			return closed(p.alternation(g))
		}
		p.fail(at, "%q anywhere but at the start of a group is not supported", p.expr[at:p.at]+")")
	}
	p.fail(at, "%q is not supported", p.expr[at:min(len(p.expr), p.at+1)])
	return nil
}

// look makes an assertion about one character.
func (p *parser) look(at int, n *node, behind, negated bool) *node {
	s, edge, ok := oneCharacter(n, behind)
	if !ok {
		p.fail(at, "a look-ahead or look-behind at more than one character is not supported")
	}
	if negated {
		s, edge = s.negate(), !edge
	}
	return &node{kind: kindLook, set: s, edge: edge, behind: behind}
}

// oneCharacter tells whether a node matches somewhere by the next character
// alone (the one before, if behind) or the lack of one.
func oneCharacter(n *node, behind bool) (s set, edge, ok bool) {
	switch n.kind {
	case kindSet:
		return n.set, false, true
	case kindLook:
		return n.set, n.edge, n.behind == behind
	case kindRepeat:
		if n.min < 1 {
			return nil, false, false
		}
		// More of them are there or are not needed, unless they have to be.
		s, edge, ok = oneCharacter(n.subs[0], behind)
		return s, edge, ok && n.min == 1 && n.subs[0].kind == kindSet
	case kindAlternate:
		for _, x := range n.subs {
			t, e, ok := oneCharacter(x, behind)
			if !ok {
				return nil, false, false
			}
			s, edge = union(s, t), edge || e
		}
		return s, edge, true
	}
	return nil, false, false
}

// escape reads what is behind a backslash, outside of a class.
func (p *parser) escape(at int, f flags) *node {
	if !p.more() {
		p.fail(at, "a backslash with nothing behind it")
	}
	switch p.expr[p.at] {
	case 'A':
		p.at++
		return &node{kind: kindLook, behind: true, edge: true}
	case 'z':
		p.at++
		return &node{kind: kindLook, edge: true}
	case 'b', 'B':
		p.at++
		p.countSpans(at, wordOutside())
		return boundary(p.expr[p.at-1] == 'b')
	case 'w', 'W':
		p.at++
		if p.expr[p.at-1] == 'w' {
			return p.setNode(at, wordOutside(), -1)
		}
		return p.setNode(at, wordOutside().negate(), -1)
	case 'N':
		p.at++
		return p.setNode(at, single('\n').negate(), -1)
	case 'O':
		p.at++
		return p.setNode(at, everything, -1)
	}
	s, r := p.escaped(at)
	if r >= 0 {
		return p.character(at, r, f)
	}
	return p.setNode(at, s, -1)
}

// escaped reads what is behind a backslash anywhere: a set, or one character.
func (p *parser) escaped(at int) (s set, r rune) {
	if !p.more() {
		p.fail(at, "a backslash with nothing behind it")
	}
	switch r = p.rune(); r {
	case 't':
		return nil, '\t'
	case 'n':
		return nil, '\n'
	case 'r':
		return nil, '\r'
	case 'f':
		return nil, '\f'
	case 'v':
		return nil, '\v'
	case 'a':
		return nil, '\a'
	case 'e':
		return nil, '\x1b'
	case 'x':
		if p.accept("{") {
			return nil, p.hex(at, strings.IndexByte(p.expr[p.at:], '}'), 1)
		}
		if r = p.hex(at, 2, 0); r > 0x7f {
			p.fail(at, `%q is a byte and no character; write \x{%x}`, p.expr[at:p.at], r)
		}
		return nil, r
	case 'u':
		return nil, p.hex(at, 4, 0)
	case 'p', 'P':
		s := p.property(at)
		if r == 'P' {
			s = s.negate()
		}
		return s, -1
	}
	if s, ok := perlClasses()[unicode.ToLower(r)]; ok && r < utf8.RuneSelf {
		if unicode.IsUpper(r) {
			s = s.negate()
		}
		return s, -1
	}
	if r < utf8.RuneSelf && (unicode.IsLetter(r) || unicode.IsDigit(r)) {
		p.fail(at, `"\%c" is not supported`, r)
	}
	return nil, r
}

// hex reads so many digits, and what closes them.
func (p *parser) hex(at, digits, closing int) rune {
	if digits >= 0 && p.at+digits <= len(p.expr) {
		n, err := strconv.ParseUint(p.expr[p.at:p.at+digits], 16, 32)
		if err == nil && utf8.ValidRune(rune(n)) && n <= unicode.MaxRune {
			p.at += digits + closing
			return rune(n)
		}
	}
	p.fail(at, "%q is no character", p.expr[at:min(len(p.expr), at+10)])
	return 0
}

// property reads what is behind \p.
func (p *parser) property(at int) set {
	name, _, ok := strings.Cut(p.expr[p.at:], "}")
	if !ok || name == "" || name[0] != '{' {
		p.fail(at, `\p without a property in braces`)
	}
	p.at += len(name) + 1
	name, negated := strings.CutPrefix(name[1:], "^")
	s, ok := properties(name)
	if !ok {
		p.fail(at, `the property \p{%s} is not known`, name)
	}
	if negated {
		return s.negate()
	}
	return s
}

// class reads the rest of a bracketed class.
func (p *parser) class(at int, f flags) set {
	p.deeper(at)
	defer func() { p.depth-- }()
	negated := p.accept("^")
	var s set           // what stands since the last &&
	var whole []set     // what stands before each &&
	from := rune(-1)    // a character that may begin a range
	afterRange := false // the item before was a range
	afterSet := false   // the item before was a set
	add := func(x set) {
		p.countSpans(at, x)
		s = append(s, x...)
	}
	for begin := true; ; begin = false {
		if !p.more() {
			p.fail(at, "a class that is not closed")
		}
		here := p.at
		switch {
		case p.has("]") && !begin:
			p.at++
			for _, w := range whole {
				s = intersect(normal(s), w)
			}
			s = normal(s)
			if f.ignoreCase {
				s = s.fold()
				p.checkExpanding(at, s)
			}
			if negated {
				s = s.negate()
			}
			return s
		case p.accept("&&"):
			whole, s = append(whole, normal(s)), nil
			from, afterRange, afterSet = -1, false, false
			continue
		case p.has("[:"):
			if x, ok := p.posix(); ok {
				add(x)
				from, afterRange, afterSet = -1, false, true
				continue
			}
			fallthrough
		case p.has("["):
			p.at++
			add(p.class(here, f))
			from, afterRange, afterSet = -1, false, true
			continue
		case p.has("-") && !begin && !p.has("-]") && !p.has("-&&"):
			p.at++
			switch {
			case from >= 0:
				to := p.classCharacter(p.at)
				if to < from {
					p.fail(here, "the range %q has its larger end first", string(from)+"-"+string(to))
				}
				add(set{{from, to}})
				from, afterRange, afterSet = -1, true, false
				continue
			case afterRange:
				add(single('-'))
				from, afterRange = -1, false
				continue
			case afterSet:
				p.fail(here, "a range that begins with a set")
			}
			p.at = here
		}
		x, r := p.classItem(here)
		if r >= 0 {
			add(single(r))
			from, afterRange, afterSet = r, false, false
		} else {
			add(x)
			from, afterRange, afterSet = -1, false, true
		}
	}
}

// classCharacter reads the upper end of a range.
func (p *parser) classCharacter(at int) rune {
	if p.more() && !p.has("[") {
		if _, r := p.classItem(at); r >= 0 {
			return r
		}
	}
	p.fail(at, "a range that ends with no character")
	return 0
}

// classItem reads one item of a class: a set, or one character.
func (p *parser) classItem(at int) (set, rune) {
	if !p.accept(`\`) {
		return nil, p.rune()
	}
	if p.accept("b") {
		return nil, '\b'
	}
	return p.escaped(at)
}

// posix reads a class such as [:alpha:].
func (p *parser) posix() (set, bool) {
	at := p.at
	name, _, ok := strings.Cut(p.expr[p.at+2:], ":]")
	if !ok || strings.Trim(strings.TrimPrefix(name, "^"), "abcdefghijklmnopqrstuvwxyz") != "" {
		return nil, false
	}
	bare, negated := strings.CutPrefix(name, "^")
	s, ok := posixClasses(bare)
	if !ok {
		p.fail(at, "the class [:%s:] is not known", name)
	}
	p.at += len(name) + 4
	if negated {
		s = s.negate()
	}
	return s, true
}
