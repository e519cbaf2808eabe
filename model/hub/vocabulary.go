package hub

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/structuredffn/sffn/model/gguf"
	"github.com/structuredffn/sffn/model/token"
	"github.com/structuredffn/sffn/model/token/hf"
	"github.com/structuredffn/sffn/model/token/pattern"
	"github.com/structuredffn/sffn/model/token/sentencepiece"
)

// The types of tokens in a GGUF file, which are SentencePiece's.
const (
	normalToken  int32 = 1
	unknownToken int32 = 2
	controlToken int32 = 3
	userToken    int32 = 4
	unusedToken  int32 = 5
	byteToken    int32 = 6
)

// vocabulary is a tokenizer as llama.cpp has it.
type vocabulary struct {
	model   string // llama.cpp's way of encoding
	tokens  []string
	types   []int32
	scores  []float32     // nil where merges have ranks
	rules   gguf.Metadata // what that way needs beside them
	unknown int32         // -1 for none
	notes   []string
}

// pre is a way of cutting text into words that llama.cpp knows, by its name there.
type pre struct {
	name   string
	stages string
	// ignoreMerges says that a word that is a token is taken as it is.
	ignoreMerges bool
}

// qwen2Pattern is the expression of Qwen 2 and 3.
var qwen2Pattern = strings.Replace(pattern.Llama3, `\p{N}{1,3}`, `\p{N}`, 1)

// pres are those that cut as an expression of a tokenizer.json does, on any text.
var pres = []pre{
	{"gpt-2", pattern.GPT2, false},
	{"llama-bpe", pattern.Llama3, true},
	{"dbrx", pattern.Llama3, false},
	{"qwen2", qwen2Pattern, false},
	{"smollm", hf.Digits1 + "\n" + pattern.GPT2, false},
}

// unfit says what of a tokenizer llama.cpp does not have.
func unfit(format string, args ...any) error {
	return fmt.Errorf("llama.cpp cannot encode as this tokenizer does: %w; --no-tokenizer writes a file without one, which takes ids", fmt.Errorf(format, args...))
}

// newVocabulary is the vocabulary of a tokenizer for a model of so many ids.
func newVocabulary(tok token.Tokenizer, ids int) (v *vocabulary, err error) {
	switch t := token.Plain(tok).(type) {
	case token.Bytes:
		bytes, err := hf.Parse(t.Name(), token.BytesFile())
		if err != nil {
			return nil, err
		}
		return newVocabulary(bytes, ids)
	case *hf.Tokenizer:
		p, err := t.Parts()
		if err != nil {
			return nil, err
		}
		if v, err = bytePairs(p); err != nil {
			return nil, err
		}
	case *sentencepiece.Tokenizer:
		p, err := t.Parts()
		if err != nil {
			return nil, err
		}
		if v, err = pieces(p); err != nil {
			return nil, err
		}
	default:
		return nil, unfit("it is of no kind that has a form there")
	}
	// llama.cpp wants a token for each id of the model, all of them different.
	taken := map[string]bool{}
	for _, text := range v.tokens {
		taken[text] = true
	}
	for id := range ids {
		if id == len(v.tokens) {
			v.tokens, v.types = append(v.tokens, ""), append(v.types, unusedToken)
			if v.scores != nil {
				v.scores = append(v.scores, 0)
			}
		}
		if v.tokens[id] != "" {
			continue
		}
		v.types[id] = unusedToken
		for v.tokens[id] = fmt.Sprintf("[PAD%d]", id); taken[v.tokens[id]]; {
			v.tokens[id] += "]"
		}
		taken[v.tokens[id]] = true
	}
	return v, nil
}

// bytePairs is the vocabulary of a tokenizer.json: bytes, merged in words that an
// expression cuts, or what was a SentencePiece model.
func bytePairs(p *hf.Parts) (*vocabulary, error) {
	v := &vocabulary{unknown: p.Unknown}
	strips := false
	for id, t := range p.Tokens {
		kind := normalToken
		switch {
		case int32(id) == p.Unknown:
			kind = unknownToken
		case t.Special:
			kind = controlToken
		case t.Added:
			kind = userToken
		}
		strips = strips || t.Strips
		v.tokens, v.types = append(v.tokens, t.Text), append(v.types, kind)
	}
	if strips {
		v.notes = append(v.notes, "llama.cpp takes tokens that are found in a text as they are spelled: not as whole words only, and without white space beside them")
	}
	if !p.ByteLevel {
		return v, v.rank(p)
	}
	for _, n := range p.Normalizers {
		if n != hf.NormalNFC {
			return nil, unfit("its normalizer %s", n)
		}
		v.notes = append(v.notes, "llama.cpp does not bring text into the form NFC: text that is not in it gets other ids")
	}
	stages := strings.Join(p.Stages, "\n")
	at := slices.IndexFunc(pres, func(x pre) bool { return x.stages == stages && x.ignoreMerges == p.IgnoreMerges })
	if at < 0 && p.Unmerged == "" { // it makes no difference
		at = slices.IndexFunc(pres, func(x pre) bool { return x.stages == stages })
	}
	if at < 0 {
		if slices.ContainsFunc(pres, func(x pre) bool { return x.stages == stages }) {
			return nil, unfit("words that are tokens are taken as they are (ignore_merges is %t), and no merges give %.60q", p.IgnoreMerges, p.Unmerged)
		}
		var known []string
		for _, x := range pres {
			known = append(known, x.name)
		}
		return nil, unfit("it cuts text by %.300q, known are the ways of %s", stages, strings.Join(known, ", "))
	}
	v.model = "gpt2"
	merges := make([]string, len(p.Merges))
	for i, m := range p.Merges {
		merges[i] = m[0] + " " + m[1]
	}
	v.rules.Add("tokenizer.ggml.pre", pres[at].name)
	v.rules.Add("tokenizer.ggml.merges", merges)
	return v, nil
}

// rank makes a SentencePiece vocabulary of one that a tokenizer.json has: there the
// pair that makes the token of the best score is joined first, whatever its halves are.
func (v *vocabulary) rank(p *hf.Parts) error {
	prefix, spaces := false, false
	for _, s := range slices.Concat(p.Normalizers, p.Stages) {
		switch s {
		case hf.SpacePrefix:
			prefix = true
		case hf.SpaceBefore, hf.SpaceBeforeFirst:
			prefix = true
			v.notes = append(v.notes, fmt.Sprintf("llama.cpp puts %s, this tokenizer %s", hf.SpacePrefix, s))
		case hf.Spaces:
			spaces = true
		default:
			return unfit("its component %s", s)
		}
	}
	if !spaces {
		return unfit("it has neither bytes as characters nor ▁ for the space")
	}
	ids := map[string]int{}
	bytes := 0
	for id, text := range v.tokens {
		ids[text] = id
		if len(text) == len("<0x00>") && strings.HasPrefix(text, "<0x") && v.types[id] == normalToken {
			v.types[id] = byteToken
			bytes++
		}
	}
	if !p.ByteFallback || bytes != 256 {
		return unfit("characters that are no tokens do not become tokens of bytes")
	}
	merged := map[[2]string]bool{}
	last := map[int]int{} // the last merge that makes a token
	for i, m := range p.Merges {
		merged[m] = true
		last[ids[m[0]+m[1]]] = i
	}
	// The merges of a token follow each other. Where those of several are mixed, which
	// is what becomes of equal scores, they get the same again.
	scores := make([]float32, len(v.tokens))
	score, end := float32(0), -1
	for i, m := range p.Merges {
		id := ids[m[0]+m[1]]
		if i > end {
			score--
		}
		end = max(end, last[id])
		scores[id] = score
	}
	for id, text := range v.tokens {
		if v.types[id] != normalToken {
			continue
		}
		for i := range text {
			halves := [2]string{text[:i], text[i:]}
			_, left := ids[halves[0]]
			_, right := ids[halves[1]]
			if i > 0 && left && right && !merged[halves] {
				return unfit("%.60q and %.60q make a token, and no merge joins them", halves[0], halves[1])
			}
		}
	}
	v.model = "llama"
	v.scores = scores
	v.rules.Add("tokenizer.ggml.add_space_prefix", prefix)
	return nil
}

// pieces is the vocabulary of a SentencePiece model.
func pieces(p *sentencepiece.Parts) (*vocabulary, error) {
	v := &vocabulary{unknown: p.Unknown}
	for _, t := range p.Tokens {
		v.tokens, v.types, v.scores = append(v.tokens, t.Text), append(v.types, int32(t.Kind)), append(v.scores, t.Score)
	}
	switch {
	case p.Algorithm != "bpe":
		return nil, unfit("its algorithm is %s, want bpe", p.Algorithm)
	case !p.ByteFallback:
		return nil, unfit("characters that are no pieces do not become pieces of bytes (byte_fallback)")
	case len(p.Charsmap) > 0:
		return nil, unfit("its rules of normalization (precompiled_charsmap)")
	case p.RemoveExtra:
		return nil, unfit("it takes spaces away (remove_extra_whitespaces)")
	case !p.Escape:
		return nil, unfit("it leaves spaces as they are (escape_whitespaces)")
	case p.Suffix:
		return nil, unfit("spaces belong to the word before (treat_whitespace_as_suffix)")
	}
	v.model = "llama"
	v.rules.Add("tokenizer.ggml.add_space_prefix", p.DummyPrefix)
	return v, nil
}

// addTokenizer adds what a GGUF file says of a tokenizer, which may be nil.
func addTokenizer(m *gguf.Metadata, tok token.Tokenizer, ids int) (notes []string, err error) {
	if tok == nil {
		m.Add("tokenizer.ggml.model", "none")
		return nil, nil
	}
	v, err := newVocabulary(tok, ids)
	if err != nil {
		return nil, err
	}
	m.Add("tokenizer.ggml.model", v.model)
	m.Add("tokenizer.ggml.tokens", v.tokens)
	m.Add("tokenizer.ggml.token_type", v.types)
	if v.scores != nil {
		m.Add("tokenizer.ggml.scores", v.scores)
	}
	*m = append(*m, v.rules...)
	before, after := tok.Frame()
	if len(before) > 1 || len(after) > 1 {
		return nil, unfit("%d ids before a text and %d behind it, want at most one", len(before), len(after))
	}
	side := sideOf(tok)
	end := side.id(v, "eos_token", tok.EndOfDocument())
	if len(after) == 1 && after[0] != end {
		return nil, unfit("behind a text comes id %d, and the one that ends texts is %d", after[0], end)
	}
	begin := side.id(v, "bos_token", end)
	if len(before) == 1 {
		begin = before[0]
	}
	m.Add("tokenizer.ggml.bos_token_id", uint32(begin))
	m.Add("tokenizer.ggml.eos_token_id", uint32(end))
	m.Add("tokenizer.ggml.add_bos_token", len(before) == 1)
	m.Add("tokenizer.ggml.add_eos_token", len(after) == 1)
	if v.unknown >= 0 {
		m.Add("tokenizer.ggml.unknown_token_id", uint32(v.unknown))
	}
	if pad := side.id(v, "pad_token", -1); pad >= 0 {
		m.Add("tokenizer.ggml.padding_token_id", uint32(pad))
	}
	if side.template != "" {
		m.Add("tokenizer.chat_template", side.template)
	}
	return v.notes, nil
}

// side is what the files beside a tokenizer say.
type side struct {
	tokens   map[string]string // the texts of tokens, by their part
	template string
}

// sideOf reads the files beside a tokenizer; what it does not understand it leaves out.
func sideOf(tok token.Tokenizer) side {
	s := side{tokens: map[string]string{}}
	template := ""
	for _, f := range token.Files(tok) {
		if f.Name == "chat_template.jinja" {
			template = string(f.Content)
			continue
		}
		if f.Name != configFile && f.Name != "special_tokens_map.json" {
			continue
		}
		fields, err := parseFields(f.Content)
		if err != nil {
			continue
		}
		for part, raw := range fields.raw {
			var text string
			var token struct {
				Content string `json:"content"`
			}
			if json.Unmarshal(raw, &text) != nil && json.Unmarshal(raw, &token) == nil {
				text = token.Content
			}
			if part == "chat_template" {
				var named []struct{ Name, Template string }
				if json.Unmarshal(raw, &named) == nil {
					for _, t := range named {
						if t.Name == "default" {
							text = t.Template
						}
					}
				}
				s.template = text
			} else if strings.HasSuffix(part, "_token") && text != "" && s.tokens[part] == "" {
				s.tokens[part] = text
			}
		}
	}
	if template != "" { // it counts where both are there
		s.template = template
	}
	return s
}

// id is that of the token with a part, or otherwise.
func (s side) id(v *vocabulary, part string, otherwise int32) int32 {
	if text := s.tokens[part]; text != "" {
		if i := slices.Index(v.tokens, text); i >= 0 {
			return int32(i)
		}
	}
	return otherwise
}
