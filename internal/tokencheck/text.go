package main

import (
	"go/build"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// texts yields some 25 MB of hostile documents, all of them UTF-8, the same ones
// at each run with the same version of Go.
func texts(yield func(string)) error {
	if err := source(6<<20, yield); err != nil {
		return err
	}
	r := rand.New(rand.NewPCG(20, 23))
	g := generator{r: r}
	for _, part := range []struct {
		bytes, document int
		make            func(*strings.Builder)
	}{
		{1500 << 10, 20 << 10, g.cjk},
		{1 << 20, 10 << 10, g.emoji},
		{1500 << 10, 10 << 10, g.marks},
		{500 << 10, 5 << 10, g.broken},
		{1 << 20, 4 << 10, g.spaces},
		{1 << 20, 50 << 10, g.longRuns},
		{1 << 20, 3 << 10, g.special},
		{1 << 20, 20 << 10, g.rightToLeft},
		{500 << 10, 2 << 10, g.controls},
		{2 << 20, 8 << 10, g.anything},
		{500 << 10, 1 << 10, g.decomposed},
		{3 << 20, 1 << 20, g.line}, // three lines of 1 MB
	} {
		for done := 0; done < part.bytes; {
			var b strings.Builder
			for b.Len() < part.document {
				part.make(&b)
			}
			yield(b.String())
			done += b.Len()
		}
	}
	for _, s := range []string{"a", " ", "\n", "7", "字", "🙂", "\u0301", "<"} {
		yield(strings.Repeat(s, 200<<10/len(s)))
	}
	// Every code point, alone between letters and as it may come.
	var b strings.Builder
	for c := rune(0); c <= unicode.MaxRune; c++ {
		if !utf8.ValidRune(c) || c >= 0x30000 && c < 0xe0000 && c%64 != 0 || c >= 0xf0000 && c%64 != 0 {
			continue
		}
		b.WriteString("a")
		b.WriteRune(c)
		b.WriteString("b ")
		b.WriteRune(c)
		b.WriteRune(c)
		b.WriteString("1e\u0301")
		b.WriteRune(c)
		b.WriteString("\u0323\n")
		if b.Len() > 32<<10 {
			yield(b.String())
			b.Reset()
		}
	}
	yield(b.String())
	return nil
}

// source yields Go's source and English, as far as the bytes go.
func source(bytes int, yield func(string)) error {
	root := filepath.Join(build.Default.GOROOT, "src")
	english, err := os.ReadFile(filepath.Join(root, "testdata", "Isaac.Newton-Opticks.txt"))
	if err != nil {
		return err
	}
	yield(string(english))
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() || filepath.Ext(path) != ".go" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		yield(replaced(text))
		if bytes -= len(text); bytes < 0 {
			return fs.SkipAll
		}
		return nil
	})
}

// replaced is a text in which each byte that is not UTF-8 is U+FFFD.
func replaced(text []byte) string { return string([]rune(string(text))) }

// generator makes pieces of documents.
type generator struct{ r *rand.Rand }

func (g generator) pick(list []string) string { return list[g.r.IntN(len(list))] }

func (g generator) from(low, high rune) rune { return low + g.r.Int32N(high-low+1) }

// runes writes some of a range.
func (g generator) runes(b *strings.Builder, low, high rune, most int) {
	for range 1 + g.r.IntN(most) {
		b.WriteRune(g.from(low, high))
	}
}

func (g generator) word(b *strings.Builder) {
	g.runes(b, 'a', 'z', 9)
	b.WriteString(g.pick([]string{" ", " ", " ", ", ", ".\n", "'s ", "'LL ", "'ſ ", "-", "_", " 12", "(", "  "}))
}

func (g generator) cjk(b *strings.Builder) {
	switch g.r.IntN(8) {
	case 0:
		g.runes(b, 0x3041, 0x30ff, 8)
	case 1:
		g.runes(b, 0xac00, 0xd7a3, 6)
	case 2:
		b.WriteString(g.pick([]string{"。", "、", "「", "」", "！", "\n", " ", "　", "1", "２", "ｱ", "ﾞ"}))
	case 3:
		g.runes(b, 0x20000, 0x2a6df, 3)
	default:
		g.runes(b, 0x4e00, 0x9fff, 12)
	}
}

func (g generator) emoji(b *strings.Builder) {
	switch g.r.IntN(7) {
	case 0:
		b.WriteString(g.pick([]string{"👩‍👩‍👧‍👦", "👍🏽", "🏳️‍🌈", "1️⃣", "🇩🇪🇫🇷", "❤️‍🔥", "🧑🏿‍🚀", "\u200d", "\ufe0f"}))
	case 1:
		g.runes(b, 0x1f3fb, 0x1f3ff, 1)
	case 2:
		g.runes(b, 0x1f1e6, 0x1f1ff, 4)
	case 3:
		g.word(b)
	case 4:
		g.runes(b, 0x2600, 0x27bf, 3)
	default:
		g.runes(b, 0x1f300, 0x1faff, 4)
		if g.r.IntN(2) == 0 {
			b.WriteRune('\u200d')
		}
	}
}

// marks writes combining marks in any order, up to 70 in a row.
func (g generator) marks(b *strings.Builder) {
	b.WriteRune([]rune{'a', 'e', 'ö', 'ậ', '字', ' ', 'ก', 'か', '\n', 'ക', 0x1100, 0xac00, 0x1d157}[g.r.IntN(13)])
	n := g.r.IntN(4)
	if g.r.IntN(20) == 0 {
		n = g.r.IntN(70)
	}
	for range n {
		switch g.r.IntN(10) {
		case 0:
			b.WriteRune(g.from(0x1ab0, 0x1aff))
		case 1:
			b.WriteRune(g.from(0x20d0, 0x20f0))
		case 2:
			b.WriteRune([]rune{0x0344, 0x05b0, 0x0e38, 0x3099, 0x1161, 0x11a8, 0x0d57, 0x1d165, 0x1e136, 0x11930, 0x034f, 0x200d}[g.r.IntN(12)])
		default:
			b.WriteRune(g.from(0x0300, 0x036f))
		}
	}
}

// broken writes what bytes become that are not UTF-8.
func (g generator) broken(b *strings.Builder) {
	text := make([]byte, 1+g.r.IntN(20))
	for i := range text {
		text[i] = byte(g.r.IntN(256))
	}
	b.WriteString(replaced(text))
	g.word(b)
}

func (g generator) spaces(b *strings.Builder) {
	n := 1 + g.r.IntN(4)
	if g.r.IntN(8) == 0 {
		n = 1 + g.r.IntN(200)
	}
	b.WriteString(strings.Repeat(g.pick([]string{" ", " ", " ", "\t", "\n", "\r\n", "\n\n", " \n", "\n ", "\t ", "\u00a0", "\u0085", "\u2028", "\u3000", "\v", "\f", "\u200b", "\u180e", "\ufeff", "▁", "▁ "}), n))
	switch g.r.IntN(4) {
	case 0:
		g.word(b)
	case 1:
		b.WriteString(g.pick([]string{"(", "x", "9", "!", "字", "'s", "\u0301"}))
	}
}

func (g generator) longRuns(b *strings.Builder) {
	b.WriteString(strings.Repeat(g.pick([]string{" ", "\n", "\t", "=", "-", "a", "ab", "0", "9", "\r\n", "é", "\u0301", "//", "▁", "🙂", "#", "_", "字", "　"}), 1+g.r.IntN(3000)))
	g.word(b)
}

// specials are spelled in texts, whole and in part.
var specials = []string{
	"<|endoftext|>", "<|end_of_text|>", "<|begin_of_text|>", "<s>", "</s>", "<unk>", "<pad>", "<eos>", "<bos>",
	"<|im_start|>", "<|im_end|>", "<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜fim▁hole｜>", "<|EOT|>",
	"<EOT>", "<META>", "<META_START>", "[INST]", "[/INST]", "[EOS]", "[PAD]", "<|eot_id|>", "<|start_header_id|>", "<|reserved_special_token_7|>",
	"<|python_tag|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|file_sep|>", "<0x0A>", "<0x41>", "<|endof", "text|>", "<|", "|>", "<", "</", "<｜", "<s", "s>",
}

func (g generator) special(b *strings.Builder) {
	switch g.r.IntN(5) {
	case 0:
		g.word(b)
	case 1:
		b.WriteString(strings.Repeat(g.pick([]string{" ", "\n", "\t", "▁"}), g.r.IntN(4)))
	case 2:
		s := []rune(g.pick(specials))
		b.WriteString(string(s[:len(s)-1])) // cut off
		b.WriteString(g.pick([]string{"", "x", ">"}))
	default:
		b.WriteString(g.pick(specials))
	}
}

func (g generator) rightToLeft(b *strings.Builder) {
	switch g.r.IntN(6) {
	case 0:
		g.runes(b, 0x05d0, 0x05ea, 8)
	case 1:
		b.WriteRune(g.from(0x064b, 0x0655))
	case 2:
		b.WriteRune([]rune{0x200f, 0x200e, 0x202b, 0x202c, 0x2067, 0x2069, 0x061c, 0x0640, 0x06d4, 0x060c, 0x0661, 0x06f1}[g.r.IntN(12)])
	case 3:
		b.WriteString(g.pick([]string{" ", " ", "\n", "، ", "؟ ", "3", "ﷺ", "ﻼ"}))
	case 4:
		g.runes(b, 0x0591, 0x05c7, 3)
	default:
		g.runes(b, 0x0621, 0x064a, 8)
	}
}

func (g generator) controls(b *strings.Builder) {
	switch g.r.IntN(4) {
	case 0:
		g.runes(b, 0, 0x1f, 5)
	case 1:
		b.WriteString(g.pick([]string{"\x00", "\x00\x00", "\x7f", "\u0080", "\u009f", "\ud7ff", "\ue000", "\ufffd", "\ufffe", "\uffff", "\U0010ffff", "\U00010000", "\ufdd0"}))
	case 2:
		g.runes(b, 0x7f, 0xff, 5)
	default:
		g.word(b)
	}
}

// anything writes code points from all over, assigned or not.
func (g generator) anything(b *strings.Builder) {
	for {
		high := []rune{0x7f, 0x7ff, 0x2fff, 0xffff, 0x1ffff, 0x10ffff}[g.r.IntN(6)]
		if c := g.from(0, high); utf8.ValidRune(c) {
			b.WriteRune(c)
			break
		}
	}
	if g.r.IntN(3) == 0 {
		b.WriteString(g.pick([]string{" ", "a", "B", "1", "'s", "'S", "\n", ".", "\u0301", "'", "ſ", "K"}))
	}
}

// decomposed writes letters whose normal forms differ.
func (g generator) decomposed(b *strings.Builder) {
	var s strings.Builder
	g.runes(&s, 0xc0, 0x24f, 6)
	g.runes(&s, 0x1e00, 0x1fff, 4)
	g.runes(&s, 0xac00, 0xd7a3, 2)
	g.runes(&s, 0xf900, 0xfaff, 2)
	g.runes(&s, 0xfb00, 0xfdff, 2)
	b.WriteString([]norm.Form{norm.NFC, norm.NFD, norm.NFKC, norm.NFKD}[g.r.IntN(4)].String(s.String()))
	b.WriteString(s.String())
	g.word(b)
}

// line writes a word of a line that has no end.
func (g generator) line(b *strings.Builder) {
	g.runes(b, 'a', 'z', 9)
	b.WriteString(g.pick([]string{" ", " ", " ", "", ",", ";", "0", "1", "字", "é"}))
}
