// Package hf reads Hugging Face's tokenizer.json files of byte-pair encoding, and
// encodes as the library they come from does (tokenizers 0.23), id for id. What
// a file asks for and is not supported is an error that names it and its place.
//
// Where the library cannot go, this one goes on: bytes that are not UTF-8 stay
// what they are in byte-level vocabularies, and are U+FFFD in others; ids decode
// one by one.
package hf

import (
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/structuredffn/sffn/model/token/pattern"
)

// MaxFile is the largest file that is read: twice that of the largest vocabularies
// there are.
const MaxFile = 64 << 20

// Tokenizer is a tokenizer.json.
type Tokenizer struct {
	name    string
	content []byte
	hash    [32]byte

	keepsBytes  bool    // that are not UTF-8
	raw         *finder // added tokens that are looked for in the text
	normalizers []normalizer
	normalized  *finder // and those that are looked for behind the normalizers
	stages      []stage
	model       *model

	vocab         int
	endOfDocument int32
	before, after []int32
	special       map[int32]string
	prefixed      bool
	// The bytes of id i are decoded[ends[i-1]:ends[i]].
	decoded []byte
	ends    []uint32

	works sync.Pool
}

// EndsOfDocument are the usual spellings of the token that ends a text.
var EndsOfDocument = []string{
	"<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<｜end▁of▁sentence｜>",
	"<EOT>", "[EOS]", "<|eos|>", "<EOS_TOKEN>", "<|endofdocument|>",
}

// gpt2Pattern is the expression by which ByteLevel cuts.
var gpt2Pattern = sync.OnceValue(func() *pattern.Pattern {
	p, err := pattern.Compile(`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`)
	if err != nil {
		panic(err) // it is part of the program
	}
	return p
})

// Parse reads a tokenizer.json. The name is the tokenizer's, and stands before
// errors. The content is kept and not to be changed.
func Parse(name string, content []byte) (*Tokenizer, error) {
	t := &Tokenizer{name: filepath.Base(name), content: content, hash: sha256.Sum256(content)}
	if err := t.parse(content); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	t.works.New = func() any { return &work{t: t, buffers: make([][]byte, len(t.stages))} }
	return t, nil
}

func (t *Tokenizer) parse(content []byte) error {
	if len(content) > MaxFile {
		return fmt.Errorf("%d bytes are too many for a tokenizer, want at most %d", len(content), MaxFile)
	}
	if err := checkText(content); err != nil {
		return err
	}
	o, err := value{"", content}.object("version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", "model")
	if err != nil {
		return err
	}
	if version, err := o.text("version", "1.0"); err != nil {
		return err
	} else if version != "1.0" {
		return o.get("version").errorf("is %.60q, want 1.0", version)
	}
	if t.model, err = newModel(o.get("model")); err != nil {
		return err
	}
	var starts, bytes bool
	if t.normalizers, starts, err = normalizers(o.get("normalizer")); err != nil {
		return err
	}
	if t.stages, bytes, err = stages(o.get("pre_tokenizer")); err != nil {
		return err
	}
	if m, ok := firstMetaspace(t.stages); ok && m.prepend == prependFirst && !starts {
		return o.get("pre_tokenizer").errorf("Metaspace with prepend_scheme first, behind a normalizer that may change how a text begins, is not supported")
	}
	if bytes {
		t.model.takeBytes()
	}
	t.keepsBytes = t.spells() || slices.ContainsFunc(t.stages, func(s stage) bool { _, ok := s.(byteLevel); return ok })
	t.model.listWords()
	added, err := addedTokens(o.get("added_tokens"), t.model.vocab)
	if err != nil {
		return err
	}
	if err := t.addTokens(o.get("added_tokens"), added); err != nil {
		return err
	}
	d, err := newDecoder(o.get("decoder"))
	if err != nil {
		return err
	}
	t.prefixed = d.prefixed
	if err := t.makeTable(added, d); err != nil {
		return err
	}
	if t.before, t.after, err = frame(o.get("post_processor")); err != nil {
		return err
	}
	for _, id := range slices.Concat(t.before, t.after) {
		if int(id) >= t.vocab {
			return o.get("post_processor").errorf("id %d is not in the vocabulary of %d", id, t.vocab)
		}
	}
	return t.findEnd(added)
}

func firstMetaspace(stages []stage) (metaspace, bool) {
	for _, s := range stages {
		if m, ok := s.(metaspace); ok {
			return m, true
		}
	}
	return metaspace{}, false
}

// addTokens makes the finders of the added tokens.
func (t *Tokenizer) addTokens(v value, added []*addedToken) error {
	var tokens [2][]*addedToken
	var spellings [2][][]byte
	t.special = map[int32]string{}
	for _, a := range added {
		kind, spelling := 0, []byte(a.content)
		if a.normalized {
			kind = 1
			spelling = slices.Clone((&work{t: t}).normalize(spelling))
		}
		tokens[kind] = append(tokens[kind], a)
		spellings[kind] = append(spellings[kind], spelling)
		if a.special {
			t.special[a.id] = a.content
		}
	}
	for kind, f := range []**finder{&t.raw, &t.normalized} {
		var wrong *addedToken
		if *f, wrong = newFinder(tokens[kind], spellings[kind]); wrong != nil {
			return v.errorf("%.60q, as it is when normalized, is empty, too long or that of another", wrong.content)
		}
	}
	return nil
}

// makeTable decodes all ids.
func (t *Tokenizer) makeTable(added []*addedToken, d *decoder) error {
	byID := make(map[int32]*addedToken, len(added))
	last := none
	for id := range t.model.tokens {
		last = max(last, id)
	}
	for _, a := range added {
		byID[a.id] = a
		last = max(last, a.id)
	}
	t.vocab = int(last) + 1
	if count := len(t.model.vocab) + len(added); t.vocab > 4*count+1<<16 {
		return fmt.Errorf("model.vocab: the largest id is %d, which is too far above the number of tokens, %d", last, count)
	}
	t.ends = make([]uint32, t.vocab)
	for id := range int32(t.vocab) {
		text, inModel := t.model.tokens[id]
		a := byID[id]
		if a != nil {
			text = a.content
			if a.normalized {
				text = string((&work{t: t}).normalize([]byte(text)))
			}
		}
		switch {
		case a != nil && a.special:
		case a != nil && !inModel && d.byteLevel && !(a.normalized && t.spells()):
			// It is text, and spells no bytes; the library decodes it as if it did.
			t.decoded = append(t.decoded, text...)
		case a != nil || inModel:
			t.decoded = append(t.decoded, d.decode(text)...)
		}
		if len(t.decoded) > 2*MaxFile {
			return fmt.Errorf("decoder: the tokens are too long in all")
		}
		t.ends[id] = uint32(len(t.decoded))
	}
	return nil
}

// spells tells whether the normalizers spell bytes as characters.
func (t *Tokenizer) spells() bool {
	return slices.Contains(t.normalizers, normalizer(byteSpelling{}))
}

// findEnd finds the token that ends a document.
func (t *Tokenizer) findEnd(added []*addedToken) error {
	for _, spelling := range EndsOfDocument {
		for _, a := range added {
			if a.special && a.content == spelling {
				t.endOfDocument = a.id
				return nil
			}
		}
	}
	return fmt.Errorf("added_tokens: no special token ends a document; one of these is needed: %s", strings.Join(EndsOfDocument, " "))
}

// Name implements the Tokenizer of package token.
func (t *Tokenizer) Name() string { return t.name }

// Hash implements the Tokenizer of package token. It is the SHA-256 of the file.
func (t *Tokenizer) Hash() [32]byte { return t.hash }

// Vocab implements the Tokenizer of package token.
func (t *Tokenizer) Vocab() int { return t.vocab }

// EndOfDocument implements the Tokenizer of package token. It is the first that there is of the
// usual spellings.
func (t *Tokenizer) EndOfDocument() int32 { return t.endOfDocument }

// Frame implements the Tokenizer of package token: what the post-processor adds to one text.
func (t *Tokenizer) Frame() (before, after []int32) { return t.before, t.after }

// Special implements the Tokenizer of package token.
func (t *Tokenizer) Special(id int32) string { return t.special[id] }

// Prefixed implements the Tokenizer of package token. It goes by the decoder, which is what
// leaves the space out.
func (t *Tokenizer) Prefixed() bool { return t.prefixed }

// File implements the Tokenizer of package token.
func (t *Tokenizer) File() (name string, content []byte) { return "tokenizer.json", t.content }

// Decode implements the Tokenizer of package token.
func (t *Tokenizer) Decode(dst []byte, id int32) []byte {
	if id < 0 || int(id) >= t.vocab {
		return dst
	}
	start := uint32(0)
	if id > 0 {
		start = t.ends[id-1]
	}
	return append(dst, t.decoded[start:t.ends[id]]...)
}

// Encode implements the Tokenizer of package token. Added tokens that are not special are found
// by it and by EncodeOrdinary.
func (t *Tokenizer) Encode(dst []int32, text []byte) []int32 { return t.encode(dst, text, false) }

// EncodeOrdinary implements the Tokenizer of package token.
func (t *Tokenizer) EncodeOrdinary(dst []int32, text []byte) []int32 {
	return t.encode(dst, text, true)
}

// work is what one call of Encode needs.
type work struct {
	t        *Tokenizer
	dst      []int32
	ordinary bool
	// Buffers, kept for the next call: of the text as UTF-8, of normalizers in
	// turn, of each stage, and of bytes as they are spelled.
	valid   []byte
	norm    [2][]byte
	buffers [][]byte
	spelled []byte
}

// maxKept bounds a buffer that is kept.
const maxKept = 1 << 20

func (t *Tokenizer) encode(dst []int32, text []byte, ordinary bool) []int32 {
	w := t.works.Get().(*work)
	w.dst, w.ordinary = dst, ordinary
	if !t.keepsBytes && !utf8.Valid(text) {
		w.valid = w.valid[:0]
		for _, r := range string(text) {
			w.valid = utf8.AppendRune(w.valid, r)
		}
		text = w.valid
	}
	if t.raw == nil {
		w.between(text, true)
	} else {
		t.raw.pieces(text, ordinary, func(start, end int, token *addedToken) {
			if token != nil {
				w.dst = append(w.dst, token.id)
			} else {
				w.between(text[start:end], start == 0)
			}
		})
	}
	dst, w.dst = w.dst, nil
	for _, b := range []*[]byte{&w.valid, &w.norm[0], &w.norm[1], &w.spelled} {
		if cap(*b) > maxKept {
			*b = nil
		}
	}
	for i := range w.buffers {
		if cap(w.buffers[i]) > maxKept {
			w.buffers[i] = nil
		}
	}
	t.works.Put(w)
	return dst
}

// between encodes what is between the added tokens that the text has.
func (w *work) between(text []byte, first bool) {
	text = w.normalize(text)
	if w.t.normalized == nil {
		w.next(-1, text, first)
		return
	}
	w.t.normalized.pieces(text, w.ordinary, func(start, end int, token *addedToken) {
		if token != nil {
			w.dst = append(w.dst, token.id)
		} else {
			w.next(-1, text[start:end], first && start == 0)
		}
	})
}

// normalize returns the text behind the normalizers.
func (w *work) normalize(text []byte) []byte {
	free := 0
	for _, n := range w.t.normalizers {
		if len(text) == 0 {
			break
		}
		out, changed := n.normalize(w.norm[free][:0], text)
		if changed {
			w.norm[free] = out
			free = 1 - free
		}
		text = out
	}
	return text
}

// next hands a piece on from a stage.
func (w *work) next(at int, piece []byte, first bool) {
	switch at++; {
	case len(piece) == 0:
	case at == len(w.t.stages):
		w.dst = w.t.model.word(w.dst, piece)
	default:
		w.t.stages[at].apply(w, at, piece, first)
	}
}

// buffer returns the empty buffer of a stage, and keep takes it back.
func (w *work) buffer(at int) []byte       { return w.buffers[at][:0] }
func (w *work) keep(at int, buffer []byte) { w.buffers[at] = buffer }
