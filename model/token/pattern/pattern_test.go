package pattern

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/dlclark/regexp2/v2"
)

// published are the expressions of tokenizers that are in use.
var published = map[string]string{
	"gpt2":             GPT2,
	"gpt2 possessive":  `'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s`,
	"cl100k":           `'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s`,
	"llama3":           Llama3,
	"qwen2":            `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
	"o200k":            `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
	"deepseek digits":  `\p{N}{1,3}`,
	"deepseek cjk":     "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
	"deepseek":         "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
	"deepseek coder":   "\\s?\\p{P}+",
	"kimi":             `[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
	"bloom":            ` ?[^(\s|[.,!?…。，、।۔،])]+`,
	"falcon":           `[0-9][0-9][0-9]`,
	"digits, reversed": `\d{1,3}(?=\d)|\d`,
	"newlines":         `\n+`,
}

// translated spells expressions in the dialect of the package they are compared
// with, which has no possessive quantifiers and no nested classes.
func translated(name, expr string) string {
	switch name {
	case "gpt2 possessive":
		return `'(?:[sdmt]|ll|ve|re)| ?(?>\p{L}+)| ?(?>\p{N}+)| ?(?>[^\s\p{L}\p{N}]+)|(?>\s+)(?=\n|\z)|\s+(?!\S)|\s`
	case "cl100k":
		return `'(?i:[sdmt\u017f]|ll|ve|re)|(?>[^\r\n\p{L}\p{N}]?)(?>\p{L}+)|\p{N}{1,3}| ?(?>[^\s\p{L}\p{N}]+)(?>[\r\n]*)|(?>\s+)(?=\n|\z)|\s*[\r\n]|\s+(?!\S)|\s`
	case "kimi":
		expr = strings.NewReplacer(`&&[^\p{Han}]`, `-[\p{Han}]`).Replace(expr)
	case "bloom":
		return ` ?[^(\s|.,!?…。，、।۔،)]+`
	}
	return strings.ReplaceAll(expr, "(?i:'s|", "(?i:'s|'\u017f|")
}

// interesting are the characters that texts are made of: those that tokenizers
// treat each in its own way, and the neighbours of the ends of ranges.
var interesting = []rune("aabbzAZsSſdDmtTlLvVeErREKkﬆß'''’      \n\n\r\n\t\v\f\u0085\u00a0\u1680\u2003\u200b\u200d\u2028\u3000\ufeff" +
	"0123٣²½Ⅷ一龥龦ぁゟ゠ヿ가é\u0301\u0300ǅʰªࠀ.,!?…。()[]{}|/\\_-+=$€<>😀👩\u200d💻\U0001f3fd\x00\x1c\x7f\ufffd\U0010ffff\u0378\ue000")

func randomText(rng *rand.Rand, n int) []byte {
	var text []byte
	for range n {
		r := interesting[rng.IntN(len(interesting))]
		times := 1
		if rng.IntN(4) == 0 {
			times += rng.IntN(5)
		}
		for range times {
			text = utf8.AppendRune(text, r)
		}
		if rng.IntN(30) == 0 {
			text = append(text, byte(0x80+rng.IntN(128)))
		}
	}
	return text
}

// backtracked returns the matches that the other package finds, none of which
// is empty, as places in bytes.
func backtracked(re *regexp2.Regexp, text []byte) (spans [][2]int) {
	var runes []rune
	var places []int
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRune(text[i:])
		runes, places = append(runes, r), append(places, i)
		i += n
	}
	places = append(places, len(text))
	m, err := re.FindRunesMatch(runes)
	for ; m != nil && err == nil; m, err = re.FindNextMatch(m) {
		if m.RuneLength > 0 {
			spans = append(spans, [2]int{places[m.RuneIndex], places[m.RuneIndex+m.RuneLength]})
		}
	}
	if err != nil {
		panic(err)
	}
	return spans
}

func all(p *Pattern, text []byte) (spans [][2]int) {
	for start, end := range p.All(text) {
		spans = append(spans, [2]int{start, end})
	}
	return spans
}

func compare(t *testing.T, p *Pattern, re *regexp2.Regexp, text []byte) {
	t.Helper()
	got, want := all(p, text), backtracked(re, text)
	if fmt.Sprint(got) != fmt.Sprint(want) {
		for i := range min(len(got), len(want)) {
			if got[i] != want[i] {
				t.Fatalf("in %q match %d is %q at %v, want %q at %v", text, i, text[got[i][0]:got[i][1]], got[i], text[want[i][0]:want[i][1]], want[i])
			}
		}
		t.Fatalf("in %q there are %d matches %v, want %d %v", text, len(got), got, len(want), want)
	}
}

func TestPublished(t *testing.T) {
	for name, expr := range published {
		t.Run(name, func(t *testing.T) {
			p, err := Compile(expr)
			if err != nil {
				t.Fatal(err)
			}
			re := regexp2.MustCompile(translated(name, expr), regexp2.None)
			rng := rand.New(rand.NewPCG(7, 11))
			for i := range 400 {
				compare(t, p, re, randomText(rng, 1+i/4))
			}
			t.Logf("%d states of %d classes, %d blocks", len(p.automaton.transitions)/p.automaton.size, p.classes.n, len(p.classes.table)/blockSize)
		})
	}
}

// randomExpression has the operators that both packages have.
func randomExpression(rng *rand.Rand, depth int) string {
	if depth == 0 || rng.IntN(4) == 0 {
		return []string{"a", "b", "c", "ab", "[ab]", "[^a]", ".", `\s`, `\S`, `\w`, " ", "é", `\p{L}`}[rng.IntN(13)]
	}
	sub := func() string { return randomExpression(rng, depth-1) }
	switch rng.IntN(9) {
	case 0, 1:
		return "(?:" + sub() + "|" + sub() + ")"
	case 2, 3:
		return sub() + sub()
	case 4, 5:
		return "(?:" + sub() + ")" + []string{"*", "+", "?", "*?", "+?", "??", "{2}", "{1,3}", "{0,2}?", "{2,}"}[rng.IntN(10)]
	case 6:
		return sub() + []string{"(?=a)", "(?!a)", `(?!\S)`, `(?=[ab])`, `(?=\s|\z)`, `\z`}[rng.IntN(6)] + sub()
	case 7:
		return []string{"(?<=a)", "(?<!a)", `(?<!\S)`, `(?<=[ab])`, `\A`, `(?<=\A|b)`}[rng.IntN(6)] + sub()
	default:
		return sub() + "|" + sub()
	}
}

func TestRandomExpressions(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 5))
	compiled := 0
	for range 2500 {
		expr := randomExpression(rng, 1+rng.IntN(4))
		p, err := Compile(expr)
		if err != nil {
			if !strings.Contains(err.Error(), "matches the empty text") {
				t.Fatal(err)
			}
			continue
		}
		compiled++
		re := regexp2.MustCompile(expr, regexp2.None)
		for range 20 {
			var text []byte
			for range rng.IntN(14) {
				text = utf8.AppendRune(text, []rune("aaabbc é")[rng.IntN(8)])
			}
			got, want := all(p, text), backtracked(re, text)
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s in %q: matches %v, want %v", expr, text, got, want)
				break
			}
		}
	}
	if compiled < 1000 {
		t.Errorf("only %d expressions were compared", compiled)
	}
}

// A million attempts of up to a million characters each would not end.
func TestLinear(t *testing.T) {
	for _, c := range []struct {
		expr, text string
		matches    int
	}{
		{`a*b|a`, strings.Repeat("a", 1<<20), 1 << 20},
		{`(?:a|aa)*c|b`, strings.Repeat("a", 1<<18) + "b", 1},
		{`\s+x`, strings.Repeat(" ", 1<<18), 0},
		{`(?:.*)x`, strings.Repeat("é", 1<<17), 0},
		{`[^c]*d|ab|ba`, strings.Repeat("ab", 1<<17), 1 << 17},
		{`(?:a{1,7}b)*c|a`, strings.Repeat("aab", 1<<16) + "a", 1<<17 + 1},
	} {
		p, err := Compile(c.expr)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(all(p, []byte(c.text))); n != c.matches {
			t.Errorf("%s: %d matches, want %d", c.expr, n, c.matches)
		}
	}
}

// What is remembered of attempts in vain does not change what is found: long
// overruns beside the matcher that backtracks.
func TestLongOverruns(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 9))
	for _, expr := range []string{`a*b|a`, `(?:ab)*c|a|b`, `é*b|é`, `[^c]*cc|a+|é`, `(?<=a)a*b|a|é`, `(?:aa)*b|a`, `(?:aaa)*b|(?:éé)*b|a|é`} {
		p, err := Compile(expr)
		if err != nil {
			t.Fatal(err)
		}
		re := regexp2.MustCompile(expr, regexp2.None)
		for range 15 {
			var text []byte
			for len(text) < 1500 {
				text = append(text, bytes.Repeat([]byte([]string{"a", "é", "ab", "b", "c", "aé"}[rng.IntN(6)]), 1+rng.IntN(1+rng.IntN(400)))...)
			}
			compare(t, p, re, text)
		}
	}
}

func TestErrors(t *testing.T) {
	for expr, want := range map[string]string{
		"(a":                                 "parenthesis that is not closed at byte 0",
		"a)":                                 "closing parenthesis without",
		"ab[a":                               "class that is not closed at byte 2",
		"*a":                                 "nothing to repeat",
		"a|*":                                "nothing to repeat at byte 2",
		`(a)\1`:                              `"\1" is not supported at byte 3`,
		`\Ka`:                                `"\K" is not supported`,
		`\X`:                                 `"\X" is not supported`,
		`a(?=bc)`:                            "look-ahead or look-behind at more than one character",
		`a(?!b*)`:                            "look-ahead or look-behind at more than one character",
		`(?<=ab)c`:                           "look-ahead or look-behind at more than one character",
		`(?P<n>a)`:                           `"(?P" is not supported`,
		`(?s)a`:                              `"(?s" is not supported`,
		`a(?i)b`:                             "anywhere but at the start of a group",
		`(?:ab)++`:                           "possessive",
		`(?>ab|a)b`:                          "atomic group",
		`\p{Klingon}`:                        `\p{Klingon} is not known`,
		`\pL`:                                "without a property in braces",
		`[[:alhpa:]]`:                        "[:alhpa:] is not known",
		`[b-a]`:                              "larger end first",
		`[a-\d]`:                             "ends with no character",
		`[\d-a]`:                             "begins with a set",
		`a{3,1}`:                             "larger number first",
		`a{1001}`:                            "repeats more than 1000 times",
		`\xe4`:                               "is a byte and no character",
		`(?i:ss)`:                            "one letter may stand",
		`(?i:\u00df)`:                        "several letters",
		`(?i:f{2})`:                          "one letter may stand",
		`a*`:                                 "matches the empty text",
		`a|`:                                 "matches the empty text",
		`(?=a)`:                              "matches the empty text",
		`\b`:                                 "matches the empty text",
		"\xff":                               "no valid UTF-8",
		`a\`:                                 "nothing behind it",
		strings.Repeat("(", 1000):            "more than 100 groups",
		strings.Repeat("[", 1000):            "more than 100 groups",
		strings.Repeat("a", 1<<17):           "too long",
		strings.Repeat(`\b`, 1000) + "a":     "ranges of characters",
		`(?:a{1000}){1000}`:                  "too large",
		`(?:a|b)*a(?:a|b){30}`:               "too large",
		`(?:(?:(?:x{1,9}){1,9}){1,9}){1,9}y`: "too large",
	} {
		_, err := Compile(expr)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", expr, err, want)
		}
	}
}

// Compiling ends, and so does matching, with matches that are in order.
func FuzzCompile(f *testing.F) {
	for _, expr := range published {
		f.Add(expr, "It's 1234 \u00e9\u4e00\t\n\xff  x")
	}
	for _, expr := range []string{`(?i:[a-f]|k)+`, `(?:a{1,3}b?){2,}(?<!x)`, `\b\w++\B.`, `[^[a-c]&&\w]`, `^a|b$`, `(?#x)(?>a+)\x{41}\u0041`} {
		f.Add(expr, "aabbccAx\nb")
	}
	f.Fuzz(func(t *testing.T, expr, text string) {
		p, err := Compile(expr)
		if err != nil {
			return
		}
		at := 0
		for start, end := range p.All([]byte(text)) {
			if start < at || end <= start || end > len(text) {
				t.Fatalf("%q in %q: a match from %d to %d behind %d", expr, text, start, end, at)
			}
			at = end
		}
	})
}

func BenchmarkAll(b *testing.B) {
	text := bytes.Repeat([]byte("func (p *Pattern) All(text []byte) {\n\t\tfor i := range 1000 { return nil, fmt.Errorf(\"the words\") }\n}\n"), 1<<13)
	for _, name := range []string{"gpt2", "llama3", "o200k", "deepseek digits"} {
		p, err := Compile(published[name])
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				for range p.All(text) {
				}
			}
		})
	}
}
