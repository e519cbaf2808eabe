package hf

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/internal/frugal"
)

// small is a tokenizer.json of a few tokens, with fields replaced.
func small(fields map[string]string) []byte {
	all := map[string]string{
		"version": `"1.0"`, "truncation": "null", "padding": "null", "normalizer": "null", "pre_tokenizer": "null", "post_processor": "null", "decoder": `{"type": "Fuse"}`,
		"added_tokens": `[{"id": 4, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}]`,
		"model":        `{"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "▁": 3}, "merges": ["a b"]}`,
	}
	for key, value := range fields {
		all[key] = value
	}
	var b bytes.Buffer
	b.WriteByte('{')
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if b.Len() > 1 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%q: %s", key, all[key])
	}
	b.WriteByte('}')
	return b.Bytes()
}

// What is not supported, or wrong, is an error that names it and its place.
func TestUnsupported(t *testing.T) {
	if _, err := Parse("x", small(nil)); err != nil {
		t.Fatal(err)
	}
	added := func(more string) string {
		return `[{"id": 4, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}` + more + `]`
	}
	for _, c := range []struct{ field, value, want string }{
		{"version", `"2.0"`, `version: is "2.0", want 1.0`},
		{"more", `1`, `unknown field "more"; valid are version`},
		{"truncation", `{"max_length": 5}`, ""},

		{"normalizer", `{"type": "Precompiled", "precompiled_charsmap": ""}`, `normalizer: normalizer "Precompiled" is not supported; these are: Sequence, NFC`},
		{"normalizer", `{"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "BertNormalizer"}]}`, `normalizer.normalizers[1]: normalizer "BertNormalizer" is not supported`},
		{"normalizer", `{"type": "NFC", "version": 2}`, `normalizer: unknown field "version"; valid are type`},
		{"normalizer", `{"type": "Replace", "pattern": {"Regex": "(a)\\1"}, "content": ""}`, `normalizer.pattern.Regex: `},
		{"normalizer", `{"type": "Replace", "pattern": {"String": ""}, "content": ""}`, `normalizer.pattern.String: is empty`},
		{"normalizer", `{"type": "Replace", "pattern": {"Glob": ""}, "content": ""}`, `normalizer.pattern: unknown field "Glob"`},
		{"normalizer", `{"type": "Replace", "content": ""}`, `normalizer.pattern: is missing`},
		{"normalizer", `{"prepend": "x"}`, `normalizer.type: is missing, want a string`},
		{"normalizer", `[1]`, `normalizer: is [1], want an object`},

		{"pre_tokenizer", `{"type": "UnicodeScripts"}`, `pre_tokenizer: pre-tokenizer "UnicodeScripts" is not supported`},
		{"pre_tokenizer", `{"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"String": "x"}, "behavior": "Joined", "invert": false}]}`, `pre_tokenizer.pretokenizers[0].behavior: is "Joined"; valid are Isolated`},
		{"pre_tokenizer", `{"type": "Split", "pattern": {"String": "x"}, "behavior": "Removed"}`, `pre_tokenizer.invert: is missing, want true or false`},
		{"pre_tokenizer", `{"type": "Split", "pattern": {"Regex": "a*"}, "behavior": "Removed", "invert": false}`, `matches the empty text`},
		{"pre_tokenizer", `{"type": "Metaspace", "replacement": "ab"}`, `pre_tokenizer.replacement: is "ab", want one character`},
		{"pre_tokenizer", `{"type": "Metaspace", "replacement": "▁", "add_prefix_space": false}`, `pre_tokenizer.add_prefix_space: is false, which does not fit`},
		{"pre_tokenizer", `{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "last"}`, `pre_tokenizer.prepend_scheme: is "last"; valid are always, first, never`},
		{"pre_tokenizer", `{"type": "ByteLevel", "add_prefix_space": 1}`, `pre_tokenizer.add_prefix_space: is 1, want true or false`},
		{"pre_tokenizer", `{"type": "Sequence", "pretokenizers": [{"type": "ByteLevel", "add_prefix_space": false}, {"type": "ByteLevel", "add_prefix_space": false}]}`, `pre_tokenizer.pretokenizers[1]: ByteLevel comes twice`},

		{"decoder", `{"type": "WordPiece", "prefix": "##"}`, `decoder: decoder "WordPiece" is not supported`},
		{"decoder", `{"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 2, "stop": 0}]}`, `decoder.decoders[1]: Strip behind what joins tokens`},
		{"decoder", `{"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "ByteFallback"}]}`, `decoder.decoders[1]: ByteFallback behind`},

		{"post_processor", `{"type": "Other"}`, `post_processor: post-processor "Other" is not supported`},
		{"post_processor", `{"type": "TemplateProcessing", "single": [{"Sequence": {"id": "B", "type_id": 0}}], "pair": [], "special_tokens": {}}`, `post_processor.single[0].Sequence: the template of one text has it once`},
		{"post_processor", `{"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}}], "pair": [], "special_tokens": {}}`, `token "x" is missing in special_tokens`},
		{"post_processor", `{"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}`, `post_processor.single: lacks the text`},
		{"post_processor", `{"type": "BertProcessing", "sep": ["x", 5], "cls": ["y", 1]}`, `post_processor: id 5 is not in the vocabulary of 5`},

		{"model", `{"type": "Unigram", "vocab": [["a", 0.5]]}`, `model: model "Unigram" is not supported, only BPE is`},
		{"model", `{"type": "BPE", "vocab": {"a": 0}, "merges": [], "dropout": 0.1}`, `model.dropout: is 0.1`},
		{"model", `{"type": "BPE", "vocab": {"a": 0}, "merges": [], "end_of_word_suffix": "</w>"}`, `model.end_of_word_suffix: is "</w>"`},
		{"model", `{"type": "BPE", "vocab": {"a": 0}, "merges": [], "continuing_subword_prefix": "##"}`, `model.continuing_subword_prefix: is "##"`},
		{"model", `{"type": "BPE", "vocab": {"a": 0}, "merges": [], "new": 1}`, `model: unknown field "new"`},
		{"model", `{"type": "BPE", "merges": []}`, `model.vocab: is missing`},
		{"model", `{"type": "BPE", "vocab": {"a": 0}}`, `model.merges: is missing`},
		{"model", `{"type": "BPE", "vocab": {"a": 0}, "merges": ["a"]}`, `model.merges: [0] is "a", want two tokens`},
		{"model", `{"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "a", "a"]]}`, `model.merges: [0] has 3 tokens, want 2`},
		{"model", `{"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}`, `model.merges: [0] is of "a" and "b", but "b" is not in the vocabulary`},
		{"model", `{"type": "BPE", "vocab": {"a": 0}, "merges": ["a a"]}`, `but "aa" is not in the vocabulary`},
		{"model", `{"type": "BPE", "vocab": {"a": 0, "b": 0}, "merges": []}`, `model.vocab: "a" and "b" have the same id, 0`},
		{"model", `{"type": "BPE", "vocab": {"a": -1}, "merges": []}`, `model.vocab: "a" has id -1`},
		{"model", `{"type": "BPE", "vocab": {"a": 99999999}, "merges": []}`, `model.vocab: "a" has id 99999999`},
		{"model", `{"type": "BPE", "vocab": {"a": 99999999999}, "merges": []}`, `model.vocab: is {"a": 99999999999}`},
		{"model", `{"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "d": 9000000}, "merges": []}`, `model.vocab: the largest id is 9000000, which is too far above the number of tokens, 5`},
		{"model", `{"type": "BPE", "vocab": {"a": 0}, "merges": [], "unk_token": "u"}`, `model.unk_token: is "u", which the vocabulary lacks`},

		{"added_tokens", added(`, {"id": 6, "content": "x", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}`), `added_tokens[1].id: is 6, but "x" gets id 5`},
		{"added_tokens", added(`, {"id": 5, "content": "a", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}`), `added_tokens[1].id: is 5, but "a" gets id 0`},
		{"added_tokens", added(`, {"id": 5, "content": "x"}`), `is missing, want true or false`},
		{"added_tokens", added(`, {"id": 5, "content": "` + strings.Repeat("x", 2000) + `", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}`), `has 2000 bytes, want at most 1024`},
		{"added_tokens", `[]`, `added_tokens: no special token ends a document; one of these is needed: <|endoftext|> `},
		{"added_tokens", `null`, `added_tokens: no special token ends a document`},
	} {
		_, err := Parse("x", small(map[string]string{c.field: c.value}))
		switch {
		case c.want == "":
			if err != nil {
				t.Errorf("%s: %.200s: %v", c.field, c.value, err)
			}
		case err == nil || !strings.HasPrefix(err.Error(), "x: ") || !strings.Contains(err.Error(), c.want):
			t.Errorf("%s: %.200s: %v, want %q", c.field, c.value, err, c.want)
		case len(err.Error()) > 500:
			t.Errorf("%s: an error of %d bytes", c.field, len(err.Error()))
		}
	}
	first := `{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"}`
	for normalizer, pre := range map[string]string{
		`{"type": "Strip", "strip_left": true, "strip_right": false}`: first,
		`{"type": "NFKD"}`: `{"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, ` + first + `]}`,
	} {
		both := small(map[string]string{"normalizer": normalizer, "pre_tokenizer": pre})
		if _, err := Parse("x", both); err == nil || !strings.Contains(err.Error(), "pre_tokenizer: Metaspace with prepend_scheme first") {
			t.Errorf("%s: %v", normalizer, err)
		}
	}
	same := small(map[string]string{
		"normalizer": `{"type": "Lowercase"}`,
		"added_tokens": added(`, {"id": 5, "content": "X", "single_word": false, "lstrip": false, "rstrip": false, "normalized": true, "special": false},
			{"id": 6, "content": "x", "single_word": false, "lstrip": false, "rstrip": false, "normalized": true, "special": false}`),
	})
	if _, err := Parse("x", same); err == nil || !strings.Contains(err.Error(), "as it is when normalized, is empty, too long or that of another") {
		t.Errorf("%v", err)
	}
}

// Files that ask for much are refused, or read, at little cost.
func TestHostileFiles(t *testing.T) {
	many := func(n int, f func(i int) string) string {
		var b strings.Builder
		for i := range n {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(f(i))
		}
		return b.String()
	}
	for name, c := range map[string]struct {
		file []byte
		want string
	}{
		"empty":            {nil, "x: is missing, want an object"},
		"no JSON":          {[]byte("hello"), "x: byte 1: invalid character"},
		"cut off":          {small(nil)[:30], "byte 30: unexpected end of JSON input"},
		"not UTF-8":        {[]byte("{\n\"a\": \"\xff\"}"), "line 2: byte 0xff is not UTF-8"},
		"half a pair":      {[]byte("{\n\n\"a\\\\u\": \"\\ud800x\"}"), `line 3: half of a surrogate pair, \ud800`},
		"another half":     {[]byte(`{"a": "\udc00"}`), `line 1: half of a surrogate pair, \udc00`},
		"too long":         {make([]byte, MaxFile+1), "too many for a tokenizer"},
		"deep":             {[]byte(strings.Repeat(`{"normalizer":`, 1_000_000)), "exceeded max depth"},
		"deep sequence":    {small(map[string]string{"normalizer": strings.Repeat(`{"type":"Sequence","normalizers":[`, 3000) + strings.Repeat("]}", 3000)}), "too many components"},
		"long sequence":    {small(map[string]string{"pre_tokenizer": `{"type":"Sequence","pretokenizers":[` + strings.TrimSuffix(strings.Repeat(`{"type":"WhitespaceSplit"},`, 100_000), ",") + `]}`}), "too many components"},
		"empty sequences":  {small(map[string]string{"decoder": `{"type":"Sequence","decoders":[` + strings.TrimSuffix(strings.Repeat(`{"type":"Sequence","decoders":[]},`, 100_000), ",") + `]}`}), "too many components"},
		"a million merges": {small(map[string]string{"model": `{"vocab": {"a": 0, "b": 1, "ab": 2, "▁": 3}, "merges": [` + many(1_000_000, func(int) string { return `"a b"` }) + `]}`}), ""},
		"many tokens":      {small(map[string]string{"model": `{"vocab": {` + many(200_000, func(i int) string { return fmt.Sprintf(`"t%d": %d`, i, i) }) + `}, "merges": []}`}), `added_tokens[0].id: is 4, but "</s>" gets id 200000`},
		"exploding":        {small(map[string]string{"pre_tokenizer": `{"type": "Split", "pattern": {"Regex": "((a{0,99}){0,99}){0,99}b"}, "behavior": "Isolated", "invert": false}`}), "pre_tokenizer.pattern.Regex: "},
		"much decoded":     {small(map[string]string{"decoder": `{"type": "Sequence", "decoders": [` + strings.TrimSuffix(strings.Repeat(`{"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaaaaaaaaaa"},`, 20), ",") + `]}`}), "decoder.decoders[2]: makes a text more than 1024 times as long"},
		"much prepended":   {small(map[string]string{"normalizer": `{"type": "Sequence", "normalizers": [` + strings.TrimSuffix(strings.Repeat(`{"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaaaaaaaaaa"},`, 20), ",") + `]}`}), "normalizer.normalizers[2]: makes a text more than 1024 times as long"},
		"long token":       {small(map[string]string{"model": `{"vocab": {"` + strings.Repeat("a", 1<<20) + `": 0}, "merges": []}`}), "has 1048576 bytes, want at most 65536"},
	} {
		t.Run(name, func(t *testing.T) {
			frugal.Run(t, 1<<30, func() {
				tok, err := Parse("x", c.file)
				if c.want == "" && err == nil {
					tok.Encode(nil, []byte("abab"))
					return
				}
				if c.want == "" || err == nil || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 500 {
					t.Errorf("%.600v, want %q", err, c.want)
				}
			})
		})
	}
}

// Merges may go in circles only by strings that get longer; a pair that comes
// twice has its last rank.
func TestRepeatedMerges(t *testing.T) {
	tok, err := Parse("x", small(map[string]string{"model": `{"vocab": {"a": 0, "b": 1, "ab": 2, "▁": 3, "ba": 4}, "merges": ["a b", "b a", "a b"]}`, "added_tokens": `[{"id": 5, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}]`}))
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(tok.Encode(nil, []byte("aba"))); got != "[0 4]" {
		t.Errorf("%s, want [0 4]", got)
	}
}

// No text costs more than its share: words of a million characters.
func TestHostileTexts(t *testing.T) {
	g := readGolden(t)
	for i, c := range g.Cases {
		switch c.Name {
		case "Llama 3", "Llama 2 with many tokens", "NFKC", "Falcon", "added tokens", "metaspace always False":
		default:
			continue
		}
		tok, err := Parse(c.Name, g.file(i))
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []string{"a", " ", "\n", "🙂", "\u0301", "e\u0323\u0302", "<s", "the "} {
			text := []byte(strings.Repeat(s, 1<<19/len(s)))
			frugal.Run(t, 256<<20, func() { tok.Encode(nil, text) })
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(small(nil), "ab </s>")
	g := readGolden(f)
	for i, c := range g.Cases {
		if i%4 == 0 && !strings.Contains(c.Model, "merges") {
			var file map[string]json.RawMessage
			if err := json.Unmarshal(g.file(i), &file); err != nil {
				f.Fatal(err)
			}
			// The parts, around a small model.
			fields := map[string]string{}
			for key, value := range file {
				if key != "model" && key != "added_tokens" {
					fields[key] = string(value)
				}
			}
			f.Add(small(fields), g.Texts[i%len(g.Texts)])
		}
	}
	f.Fuzz(func(t *testing.T, file []byte, text string) {
		tok, err := Parse("x", file)
		if err != nil {
			if len(err.Error()) > 2000 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		check(t, tok, text)
		name, content := tok.File()
		again, err := Parse(name, content)
		if err != nil || again.Hash() != tok.Hash() {
			t.Errorf("its own file: %v", err)
		}
	})
}

// check tests what holds for any tokenizer and text.
func check(t *testing.T, tok *Tokenizer, text string) {
	for _, ids := range [][]int32{tok.Encode(nil, []byte(text)), tok.EncodeOrdinary(nil, []byte(text))} {
		for _, id := range ids {
			if id < 0 || int(id) >= tok.Vocab() {
				t.Fatalf("%q: id %d of a vocabulary of %d", text, id, tok.Vocab())
			}
		}
	}
	for _, id := range tok.EncodeOrdinary(nil, []byte(text)) {
		if s := tok.Special(id); s != "" && tok.model.id(s) == none {
			t.Errorf("%q has the special token %q in ordinary text", text, s)
		}
	}
	if e := tok.EndOfDocument(); tok.Special(e) == "" || len(tok.Decode(nil, e)) > 0 {
		t.Errorf("the end of a document is %q", tok.Special(e))
	}
	for _, id := range []int32{-1, int32(tok.Vocab()), 1 << 30} {
		if len(tok.Decode(nil, id)) > 0 || tok.Special(id) != "" {
			t.Errorf("id %d is %q", id, tok.Decode(nil, id))
		}
	}
}

// Byte-level tokenizers give back any bytes.
func FuzzRoundTrip(f *testing.F) {
	g := readGolden(f)
	for _, text := range g.Texts {
		f.Add([]byte(text))
	}
	f.Add([]byte("\xff\x00\xe2\x82 \xf0\x9f\x99"))
	var toks []*Tokenizer
	for i, c := range g.Cases {
		switch c.Name {
		case "Llama 3", "DeepSeek", "GPT-2, bytes", "GPT-2, bytes, ignoring merges", "Falcon", "added tokens", "no pre-tokenizer", "single digits":
			tok, err := Parse(c.Name, g.file(i))
			if err != nil {
				f.Fatal(err)
			}
			toks = append(toks, tok)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, tok := range toks {
			if tok.Name() == "no pre-tokenizer" {
				check(t, tok, string(text))
				continue
			}
			var back []byte
			for _, id := range tok.Encode(nil, text) {
				back = append(tok.Decode(back, id), tok.Special(id)...)
			}
			// Tokens that take the space beside them do not give it back.
			if !bytes.Equal(back, text) && tok.Name() != "added tokens" {
				t.Errorf("%s: %q came back as %q", tok.Name(), text, back)
			}
			check(t, tok, string(text))
		}
	})
}
