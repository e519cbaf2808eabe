package hf

import (
	"fmt"
	"maps"
	"slices"
)

// Parts are what a tokenizer is made of, for formats that have the same in another
// form.
type Parts struct {
	// Tokens are by id. One without text is an id that no token has.
	Tokens []Token
	// Merges are pairs of tokens' texts, in order of rank.
	Merges [][2]string
	// ByteLevel says that tokens spell bytes, ByteFallback that a character which is
	// no token becomes the tokens of its bytes, <0x0A>.
	ByteLevel, ByteFallback bool
	// IgnoreMerges says that a word which is a token is taken as it is. Unmerged is
	// a token that merges do not give: where it is empty, there is no difference.
	IgnoreMerges bool
	Unmerged     string
	// Unknown is the id of what stands for unknown characters, -1 for none.
	Unknown int32
	// Normalizers and Stages are the components of these fields in their order, each
	// with its values: of Split and ByteLevel, the expression that cuts; none for
	// what does not cut.
	Normalizers, Stages []string
}

// Token is a token of a vocabulary. Special ones and Added ones are found in a text
// before anything is cut, special ones alone are not text; Strips says that white space
// beside it belongs to it, or that it is found as a whole word only.
type Token struct {
	Text                   string
	Special, Added, Strips bool
}

// The components that Parts names, beside those with values of their own.
const (
	NormalNFC = "NFC"
	// Digits1 cuts each digit off.
	Digits1 = "Digits one by one"
	// SpacePrefix puts a space before each piece of text between special tokens. The
	// others put none before a piece that begins with one, and the last puts it only
	// where the text begins.
	SpacePrefix      = "a space before each piece of text"
	SpaceBefore      = "a space before each piece of text that begins with none"
	SpaceBeforeFirst = "a space before a text that begins with none"
	// Spaces writes ▁ for the space.
	Spaces = "spaces as ▁"
)

// Parts returns what the tokenizer is made of.
func (t *Tokenizer) Parts() (*Parts, error) {
	var file object
	file.value = value{"", t.content}
	if err := file.decode(&file.fields, "an object"); err != nil {
		return nil, err
	}
	p := &Parts{Tokens: make([]Token, t.vocab), ByteLevel: t.model.bytes, ByteFallback: t.model.fallback != nil, Unknown: t.model.unknown, IgnoreMerges: t.model.ignoreMerges}
	for id, text := range t.model.tokens {
		p.Tokens[id].Text = text
	}
	added, err := addedTokens(file.get("added_tokens"), t.model.vocab)
	if err != nil {
		return nil, err
	}
	for _, a := range added {
		p.Tokens[a.id] = Token{Text: a.content, Special: a.special, Added: true, Strips: a.left || a.right || a.singleWord}
	}
	var model object
	model.value = file.get("model")
	if err := model.decode(&model.fields, "an object"); err != nil {
		return nil, err
	}
	pairs, err := mergePairs(model.get("merges"))
	if err != nil {
		return nil, err
	}
	for _, pair := range pairs {
		p.Merges = append(p.Merges, [2]string(pair))
	}
	p.Unmerged = t.model.unmerged()
	if p.Normalizers, err = describe(file.get("normalizer"), "normalizers", describeNormalizer); err != nil {
		return nil, err
	}
	p.Stages, err = describe(file.get("pre_tokenizer"), "pretokenizers", describeStage)
	return p, err
}

// unmerged finds a token that its characters do not merge to, that of the lowest id.
func (m *model) unmerged() string {
	for _, id := range slices.Sorted(maps.Keys(m.tokens)) {
		word := []byte(m.tokens[id])
		if m.bytes {
			var ok bool
			if word, ok = unspell(word); !ok {
				continue // no word spells it
			}
		}
		if ids := m.merges.Apply(m.symbols(nil, word)); len(ids) != 1 || ids[0] != id {
			return m.tokens[id]
		}
	}
	return ""
}

// describe names the components of a field.
func describe(v value, list string, name func(v value, kind string) ([]string, error)) ([]string, error) {
	parts, err := v.flatten(list)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, part := range parts {
		kind, err := part.kind()
		if err != nil {
			return nil, err
		}
		more, err := name(part, kind)
		if err != nil {
			return nil, err
		}
		names = append(names, more...)
	}
	return names, nil
}

// named is a component by what its type alone does not say.
func named(v value, kind string) []string {
	return []string{fmt.Sprintf("%s %s", kind, excerpt(v.raw))}
}

func describeNormalizer(v value, kind string) ([]string, error) {
	n, _, err := newNormalizer(v)
	if err != nil {
		return nil, err
	}
	switch n := n.(type) {
	case prepend:
		if string(n) == string(space) {
			return []string{SpacePrefix}, nil
		}
	case replace:
		if n.expr == nil && string(n.text) == " " && string(n.content) == string(space) {
			return []string{Spaces}, nil
		}
	case form, lowercase:
		return []string{kind}, nil
	}
	return named(v, kind), nil
}

func describeStage(v value, kind string) ([]string, error) {
	s, err := newStage(v)
	if err != nil {
		return nil, err
	}
	switch s := s.(type) {
	case byteLevel:
		var names []string
		if s.prefixSpace {
			names = append(names, SpaceBefore)
		}
		if s.expr != nil {
			names = append(names, s.expr.String())
		}
		return names, nil
	case split:
		if s.expr != nil && s.behavior == isolated {
			return []string{s.expr.String()}, nil
		}
	case splitFunc:
		if kind == "Digits" && s.behavior == isolated {
			return []string{Digits1}, nil
		}
	case metaspace:
		if string(s.replacement) != string(space) {
			break
		}
		names := map[int][]string{prependAlways: {SpaceBefore}, prependFirst: {SpaceBeforeFirst}}[s.prepend]
		if s.split {
			names = append(names, "cuts before ▁")
		}
		return append(names, Spaces), nil
	}
	return named(v, kind), nil
}
