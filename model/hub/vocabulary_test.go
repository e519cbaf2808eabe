package hub

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/structuredffn/sffn/model/token"
	"github.com/structuredffn/sffn/model/token/hf"
	"github.com/structuredffn/sffn/model/token/pattern"
)

// hubTokenizer is a tokenizer.json of these fields, by their names.
func hubTokenizer(t *testing.T, fields map[string]string) token.Tokenizer {
	t.Helper()
	var all []string
	for name, v := range fields {
		all = append(all, fmt.Sprintf("%q: %s", name, v))
	}
	tok, err := token.Parse("tokenizer.json", []byte("{"+strings.Join(all, ", ")+"}"))
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

const endToken = `{"id": 3, "content": "<|endoftext|>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false}`

// byteLevel are the fields of a small tokenizer that spells bytes, with what replaces
// some.
func byteLevelFields(with map[string]string) map[string]string {
	expr, err := json.Marshal(pattern.Llama3)
	if err != nil {
		panic(err)
	}
	fields := map[string]string{
		"added_tokens":  "[" + endToken + "]",
		"pre_tokenizer": `{"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": ` + string(expr) + `}, "behavior": "Isolated", "invert": false}, {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]}`,
		"decoder":       `{"type": "ByteLevel"}`,
		"model":         `{"type": "BPE", "ignore_merges": false, "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}`,
	}
	for name, v := range with {
		fields[name] = v
	}
	return fields
}

// bytePieces are the entries of a vocabulary for the 256 bytes.
func bytePieces(from int) string {
	var s strings.Builder
	for b := range 256 {
		fmt.Fprintf(&s, `, "<0x%02X>": %d`, b, from+b)
	}
	return s.String()
}

// pieceFields are those of a small tokenizer that was a SentencePiece model.
func pieceFields(with map[string]string) map[string]string {
	fields := map[string]string{
		"added_tokens": `[{"id": 0, "content": "<unk>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false},
			{"id": 1, "content": "<s>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false},
			{"id": 2, "content": "</s>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false}]`,
		"normalizer":     `{"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}`,
		"post_processor": `{"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}`,
		"decoder":        `{"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}`,
		"model": `{"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true, "vocab": {"<unk>": 0, "<s>": 1, "</s>": 2` + bytePieces(3) +
			`, "▁": 259, "a": 260, "b": 261, "ab": 262, "▁a": 263, "▁ab": 264}, "merges": ["a b", "▁ a", "▁a b", "▁ ab"]}`,
	}
	for name, v := range with {
		fields[name] = v
	}
	return fields
}

// sentencePiece is a tokenizer.model: of an algorithm by its number, with bytes or
// without, and with rules that are on by their numbers in normalizer_spec.
func sentencePiece(t *testing.T, algorithm uint64, bytes, suffix bool, rules map[protowire.Number]uint64) token.Tokenizer {
	t.Helper()
	var model []byte
	message := func(to []byte, num protowire.Number, m []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(to, num, protowire.BytesType), m)
	}
	number := func(to []byte, num protowire.Number, v uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(to, num, protowire.VarintType), v)
	}
	add := func(text string, score float32, kind uint64) {
		p := message(nil, 1, []byte(text))
		p = protowire.AppendFixed32(protowire.AppendTag(p, 2, protowire.Fixed32Type), math.Float32bits(score))
		model = message(model, 1, number(p, 3, kind))
	}
	add("<unk>", 0, 2)
	add("<s>", 0, 3)
	add("</s>", 0, 3)
	for b := range 256 {
		if bytes {
			add(fmt.Sprintf("<0x%02X>", b), 0, 6)
		}
	}
	for i, text := range []string{"ab", "▁a", "▁", "a", "b"} {
		add(text, -1.5-float32(i), 1)
	}
	add("user", 0, 4)
	trainer := number(number(nil, 3, algorithm), 35, protowire.EncodeBool(bytes))
	model = message(model, 2, number(trainer, 24, protowire.EncodeBool(suffix)))
	spec := number(nil, 4, 0) // remove_extra_whitespaces
	for num, v := range rules {
		spec = number(spec, num, v)
	}
	tok, err := token.Parse("tokenizer.model", message(model, 3, spec))
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// The parts of a tokenizer are in the file as llama.cpp wants them.
func TestVocabulary(t *testing.T) {
	files := []token.File{
		{Name: "tokenizer_config.json", Content: []byte(`{"bos_token": {"content": "b", "lstrip": false}, "eos_token": "ab", "pad_token": null, "chat_template": [{"name": "tool", "template": "no"}, {"name": "default", "template": "{{ yes }}"}]}`)},
		{Name: "special_tokens_map.json", Content: []byte(`{"eos_token": "a", "pad_token": "<|endoftext|>"}`)},
	}
	small := func(with map[string]string) token.Tokenizer { return hubTokenizer(t, byteLevelFields(with)) }
	type want map[string]any
	for name, c := range map[string]struct {
		tok   token.Tokenizer
		ids   int
		want  want
		notes string
	}{
		"none": {nil, 5, want{"tokenizer.ggml.model": "none"}, ""},
		"bytes": {token.Bytes{}, 258, want{"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.merges": []string{}, "tokenizer.ggml.bos_token_id": uint32(256),
			"tokenizer.ggml.eos_token_id": uint32(256), "tokenizer.ggml.add_bos_token": false, "tokenizer.ggml.add_eos_token": false}, ""},
		"padded": {small(nil), 6, want{"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "dbrx", "tokenizer.ggml.merges": []string{"a b"}, "tokenizer.ggml.tokens": []string{"a", "b", "ab", "<|endoftext|>", "[PAD4]", "[PAD5]"},
			"tokenizer.ggml.token_type": []int32{1, 1, 1, 3, 5, 5}, "tokenizer.ggml.eos_token_id": uint32(3)}, ""},
		// A token that pads differs from those that are there, and a hole is one.
		"holes": {small(map[string]string{"model": `{"type": "BPE", "vocab": {"a": 0, "[PAD1]": 2, "<|endoftext|>": 3}, "merges": []}`}), 4,
			want{"tokenizer.ggml.tokens": []string{"a", "[PAD1]]", "[PAD1]", "<|endoftext|>"}, "tokenizer.ggml.token_type": []int32{1, 5, 1, 3}}, ""},
		"as they are": {small(map[string]string{"model": `{"type": "BPE", "ignore_merges": true, "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": []}`}), 4, want{"tokenizer.ggml.pre": "llama-bpe"}, ""},
		"NFC, added": {small(map[string]string{"normalizer": `{"type": "NFC"}`, "added_tokens": "[" + endToken + `, {"id": 4, "content": "ba", "special": false, "single_word": false, "lstrip": false, "rstrip": true, "normalized": false}]`}), 5,
			want{"tokenizer.ggml.token_type": []int32{1, 1, 1, 3, 4}}, "as they are spelled; the form NFC"},
		"files beside": {token.With(small(nil), files), 4, want{"tokenizer.ggml.bos_token_id": uint32(1), "tokenizer.ggml.eos_token_id": uint32(2), "tokenizer.ggml.padding_token_id": uint32(3), "tokenizer.chat_template": "{{ yes }}"}, ""},
		"jinja":        {token.With(small(nil), append(files[:1:1], token.File{Name: "chat_template.jinja", Content: []byte("{{ own }}")})), 4, want{"tokenizer.chat_template": "{{ own }}"}, ""},
		"broken files": {token.With(small(nil), []token.File{{Name: "tokenizer_config.json", Content: []byte(`{"eos_token": 7, "bos_token": "nowhere", "chat_template": {}`)}}), 4, want{"tokenizer.ggml.eos_token_id": uint32(3), "tokenizer.ggml.bos_token_id": uint32(3)}, ""},
		"pieces": {hubTokenizer(t, pieceFields(nil)), 266, want{"tokenizer.ggml.model": "llama", "tokenizer.ggml.add_space_prefix": true, "tokenizer.ggml.bos_token_id": uint32(1), "tokenizer.ggml.eos_token_id": uint32(2),
			"tokenizer.ggml.unknown_token_id": uint32(0), "tokenizer.ggml.add_bos_token": true}, ""},
		"first": {hubTokenizer(t, pieceFields(map[string]string{"normalizer": "null", "pre_tokenizer": `{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false}`})), 265,
			want{"tokenizer.ggml.model": "llama", "tokenizer.ggml.add_space_prefix": true}, hf.SpaceBeforeFirst},
		"SentencePiece": {sentencePiece(t, 2, true, false, nil), 266, want{"tokenizer.ggml.model": "llama", "tokenizer.ggml.add_space_prefix": true, "tokenizer.ggml.bos_token_id": uint32(1), "tokenizer.ggml.eos_token_id": uint32(2),
			"tokenizer.ggml.unknown_token_id": uint32(0), "tokenizer.ggml.add_bos_token": true, "tokenizer.ggml.add_eos_token": false}, ""},
		"no prefix": {sentencePiece(t, 2, true, false, map[protowire.Number]uint64{3: 0}), 265, want{"tokenizer.ggml.add_space_prefix": false}, ""},
	} {
		cp := drawn(t, "x", fmt.Sprintf("vocab: %d, hidden: 8, ffn: 8, layers: 1, q_heads: 1, max_positions: 8, norm: rmsnorm, act: swiglu, bias: false", c.ids), c.tok)
		if c.tok != nil {
			cp.Tokenizer = c.tok
		}
		file := filepath.Join(t.TempDir(), "x.gguf")
		notes := strings.Join(exportTo(t, cp, file, Options{Format: "gguf"}), "\n")
		for _, note := range strings.Split(c.notes, "; ") {
			if !strings.Contains(notes, note) || c.notes == "" && notes != "" {
				t.Errorf("%s: notes %q, want %q", name, notes, note)
			}
		}
		f := openGGUF(t, file).f
		for key, v := range c.want {
			if got := f.Value(key); fmt.Sprint(got) != fmt.Sprint(v) {
				t.Errorf("%s: %s is %v, want %v", name, key, got, v)
			}
		}
		if tokens, ok := f.Value("tokenizer.ggml.tokens").([]string); c.tok != nil && (!ok || len(tokens) != c.ids) {
			t.Errorf("%s: %d tokens, want %d", name, len(tokens), c.ids)
		}
		if name == "SentencePiece" {
			if got, want := fmt.Sprint(f.Value("tokenizer.ggml.scores").([]float32)[258:]), "[0 -1.5 -2.5 -3.5 -4.5 -5.5 0 0]"; got != want {
				t.Errorf("scores are %s, want %s", got, want)
			}
			if got, want := fmt.Sprint(f.Value("tokenizer.ggml.token_type").([]int32)[258:]), "[6 1 1 1 1 1 4 5]"; got != want {
				t.Errorf("types are %s, want %s", got, want)
			}
		}
		if name != "pieces" {
			continue
		}
		scores, types := f.Value("tokenizer.ggml.scores").([]float32), f.Value("tokenizer.ggml.token_type").([]int32)
		if !slices.Equal(scores[259:], []float32{0, 0, 0, -1, -2, -3, 0}) {
			t.Errorf("scores are %v", scores[259:])
		}
		if !slices.Equal(types[:4], []int32{2, 3, 3, 6}) || types[258] != 6 || types[259] != 1 || types[265] != 5 {
			t.Errorf("types are %v", types)
		}
	}
}

// What llama.cpp cannot encode is an error that names it.
func TestVocabularyErrors(t *testing.T) {
	twice := `{"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {"x": {"id": "x", "ids": [1, 1], "tokens": ["x"]}}}`
	behind := `{"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "x", "type_id": 0}}], "pair": [], "special_tokens": {"x": {"id": "x", "ids": [1], "tokens": ["x"]}}}`
	model := func(more string) string {
		return `{"type": "BPE", "unk_token": "<unk>", "byte_fallback": true, "vocab": {"<unk>": 0, "<s>": 1, "</s>": 2` + bytePieces(3) + `, "▁": 259, "a": 260, "b": 261, "ab": 262}, ` + more + "}"
	}
	toks := map[string]token.Tokenizer{
		"its algorithm is unigram, want bpe": sentencePiece(t, 1, true, false, nil),
		"(byte_fallback)":                    sentencePiece(t, 2, false, false, nil),
		"(remove_extra_whitespaces)":         sentencePiece(t, 2, true, false, map[protowire.Number]uint64{4: 1}),
		"(escape_whitespaces)":               sentencePiece(t, 2, true, false, map[protowire.Number]uint64{5: 0}),
		"(treat_whitespace_as_suffix)":       sentencePiece(t, 2, true, true, nil),
	}
	for want, fields := range map[string]map[string]string{
		"its normalizer Lowercase":                    byteLevelFields(map[string]string{"normalizer": `{"type": "Lowercase"}`}),
		"it cuts text by \"Punctuation {":             byteLevelFields(map[string]string{"pre_tokenizer": `{"type": "Sequence", "pretokenizers": [{"type": "Punctuation", "behavior": "Isolated"}, {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]}`}),
		"it cuts text by \"a space before each piece": byteLevelFields(map[string]string{"pre_tokenizer": `{"type": "ByteLevel", "add_prefix_space": true, "use_regex": true}`}),
		`words that are tokens are taken as they are (ignore_merges is true), and no merges give "ab"`: byteLevelFields(map[string]string{"pre_tokenizer": `{"type": "ByteLevel", "add_prefix_space": false, "use_regex": true}`,
			"model": `{"type": "BPE", "ignore_merges": true, "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": []}`}),
		"2 ids before a text and 0 behind it":                         byteLevelFields(map[string]string{"post_processor": twice}),
		"behind a text comes id 1, and the one that ends texts is 3":  byteLevelFields(map[string]string{"post_processor": behind}),
		"it has neither bytes as characters nor ▁ for the space":      byteLevelFields(map[string]string{"pre_tokenizer": "null", "decoder": `{"type": "Fuse"}`}),
		"characters that are no tokens do not become tokens of bytes": pieceFields(map[string]string{"model": strings.Replace(model(`"merges": ["a b"]`), `"byte_fallback": true`, `"byte_fallback": false`, 1)}),
		`"a" and "b" make a token, and no merge joins them`:           pieceFields(map[string]string{"model": model(`"merges": []`)}),
		"its component NFKC": pieceFields(map[string]string{"normalizer": `{"type": "NFKC"}`}),
	} {
		toks[want] = hubTokenizer(t, fields)
	}
	for want, tok := range toks {
		cp := drawn(t, "x", fmt.Sprintf("vocab: %d, hidden: 8, ffn: 8, layers: 1, q_heads: 1, max_positions: 8, norm: rmsnorm, act: swiglu, bias: false", tok.Vocab()), tok)
		out := filepath.Join(t.TempDir(), "x.gguf")
		if _, err := Export(cp.Dir, cp.Config, tok, out, Options{Format: "gguf"}); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "--no-tokenizer writes") {
			t.Errorf("got %v, want it to contain %q", err, want)
		}
		if _, err := os.Stat(out); err == nil {
			t.Errorf("%s: a file was made", want)
		}
	}
}
