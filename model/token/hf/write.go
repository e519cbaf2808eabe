package hf

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// Model is byte-level BPE: what training gives, and what GPT-2's vocabulary is.
// The ids 0 to 255 are the bytes in the order of ByteOrder. Each merge adds the
// next id, except where its text is a token already: then it makes that one.
// Behind them come the special tokens.
type Model struct {
	// Pattern is the regular expression whose matches are the words of a text;
	// empty stands for GPT-2's.
	Pattern string
	// Merges are pairs of ids, in order of rank.
	Merges [][2]int32
	// Special tokens have ids of their own, behind all others.
	Special []string
}

// ByteOrder returns the byte of each of the ids 0 to 255: first the bytes that
// are visible characters of Latin-1, then the others.
func ByteOrder() [256]byte {
	var order [256]byte
	n := 0
	for _, visible := range []bool{true, false} {
		for b := range 256 {
			if (b >= '!' && b <= '~' || b >= 0xa1 && b != 0xad) == visible {
				order[n] = byte(b)
				n++
			}
		}
	}
	return order
}

// byteRunes are the characters by which byte-level vocabularies spell bytes, and
// runeBytes the way back: visible characters of Latin-1 stand for themselves, the
// others for those from U+0100, in order.
var byteRunes, runeBytes = func() (to [256]rune, from map[rune]byte) {
	from = make(map[rune]byte, 256)
	for i, b := range ByteOrder() {
		to[b] = rune(b)
		if i >= 188 { // the bytes that are not visible
			to[b] = rune(256 + i - 188)
		}
		from[to[b]] = b
	}
	return to, from
}()

// Tokens returns the bytes of each id but the special tokens', and an error for
// a merge of ids that do not come before it.
func (m Model) Tokens() ([][]byte, error) {
	tokens := make([][]byte, 0, 256+len(m.Merges))
	ids := make(map[string]int32, cap(tokens))
	add := func(token []byte) {
		if _, ok := ids[string(token)]; !ok {
			ids[string(token)] = int32(len(tokens))
			tokens = append(tokens, token)
		}
	}
	for _, b := range ByteOrder() {
		add([]byte{b})
	}
	for i, pair := range m.Merges {
		if min(pair[0], pair[1]) < 0 || int(max(pair[0], pair[1])) >= len(tokens) {
			return nil, fmt.Errorf("merge %d is of ids %d and %d, want ids below %d", i, pair[0], pair[1], len(tokens))
		}
		add(bytes.Join([][]byte{tokens[pair[0]], tokens[pair[1]]}, nil))
	}
	return tokens, nil
}

// JSON returns the model as a tokenizer.json. It panics on merges of ids that do
// not come before them.
func (m Model) JSON() []byte {
	tokens, err := m.Tokens()
	if err != nil {
		panic("hf: " + err.Error())
	}
	return m.json(tokens)
}

// BytesJSON returns the tokenizer.json of a vocabulary of bytes, whose ids are the
// bytes, and of a special token behind them.
func BytesJSON(special string) []byte {
	tokens := make([][]byte, 256)
	for b := range tokens {
		tokens[b] = []byte{byte(b)}
	}
	return Model{Special: []string{special}}.json(tokens)
}

// json is the file of the model, whose tokens these are.
func (m Model) json(tokens [][]byte) []byte {
	spelled := make([]string, len(tokens))
	for i, token := range tokens {
		spelled[i] = string(spell(nil, token))
	}
	var b bytes.Buffer
	b.WriteString("{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [")
	for i, s := range m.Special {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "\n    {\"id\": %d, \"content\": %s, \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, \"special\": true}", len(tokens)+i, quote(s))
	}
	b.WriteString("\n  ],\n  \"normalizer\": null,\n  \"pre_tokenizer\": ")
	if m.Pattern == "" {
		b.WriteString(`{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}`)
	} else {
		fmt.Fprintf(&b, `{"type": "Sequence", "pretokenizers": [
    {"type": "Split", "pattern": {"Regex": %s}, "behavior": "Isolated", "invert": false},
    {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}
  ]}`, quote(m.Pattern))
	}
	b.WriteString(`,
  "post_processor": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true},
  "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
  "model": {
    "type": "BPE",
    "dropout": null,
    "unk_token": null,
    "continuing_subword_prefix": null,
    "end_of_word_suffix": null,
    "fuse_unk": false,
    "byte_fallback": false,
    "ignore_merges": false,
    "vocab": {`)
	for i, s := range append(spelled, m.Special...) {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString("\n      ")
		b.WriteString(quote(s))
		b.WriteString(": ")
		b.WriteString(strconv.Itoa(i))
	}
	b.WriteString("\n    },\n    \"merges\": [")
	for i, pair := range m.Merges {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString("\n      ")
		b.WriteString(quote(spelled[pair[0]] + " " + spelled[pair[1]]))
	}
	b.WriteString("\n    ]\n  }\n}\n")
	return b.Bytes()
}

// spell appends the characters that stand for bytes.
func spell(dst, text []byte) []byte {
	for _, b := range text {
		dst = utf8.AppendRune(dst, byteRunes[b])
	}
	return dst
}

// quote returns a JSON string.
func quote(s string) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		panic(err) // strings have an encoding
	}
	return string(bytes.TrimSuffix(b.Bytes(), []byte("\n")))
}
