package sentencepiece

// Parts are what a model file is made of, for formats that have the same in another
// form.
type Parts struct {
	Algorithm string // unigram, bpe, word or char
	Tokens    []Token
	// ByteFallback says that a character that is no piece becomes the pieces of its
	// bytes.
	ByteFallback bool
	Unknown      int32 // -1 for none
	// Charsmap are the rules by which text is normalized, none where it stays as it
	// is.
	Charsmap []byte
	// DummyPrefix puts a space before a text, RemoveExtra takes spaces at its ends
	// and beside others away, Escape writes ▁ for them, and Suffix says that they
	// belong to the word before.
	DummyPrefix, RemoveExtra, Escape, Suffix bool
}

// Token is a piece. Kind is the file's number: 1 normal, 2 unknown, 3 control, 4
// user-defined, 5 unused, 6 a byte.
type Token struct {
	Text  string
	Score float32
	Kind  int
}

// Parts returns what the tokenizer is made of.
func (t *Tokenizer) Parts() (*Parts, error) {
	s, err := parse(t.content)
	if err != nil {
		return nil, err
	}
	p := &Parts{Algorithm: s.algorithm.String(), ByteFallback: s.byteFallback, Unknown: t.unknown,
		Charsmap: s.normalizer.charsmap, DummyPrefix: s.normalizer.dummyPrefix, RemoveExtra: s.normalizer.removeExtra, Escape: s.normalizer.escape, Suffix: s.suffix}
	for _, piece := range t.pieces {
		p.Tokens = append(p.Tokens, Token{piece.text, piece.score, int(piece.kind)})
	}
	return p, nil
}
