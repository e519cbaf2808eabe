package data

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// hold keeps the first documents until there is one for each split.
type hold struct {
	limit      int // of text
	docs       []held
	validation int // of docs, by their hashes
	text       int
	tokens     int64
}

// held is a document.
type held struct {
	parts []heldPart
	size  int // of its text
	key   uint64
}

type heldPart struct {
	text    []byte
	ids     []int32
	decoded int64
	last    bool
}

// The documents that are held have no more than holdText bytes of text, and are no more
// than holdDocuments, with holdTokens ids: together about 50 MiB.
const (
	holdText      = 8 << 20
	holdDocuments = 64 << 10
	holdTokens    = 8 << 20
)

func (h *hold) add(text []byte, ids []int32, p part) {
	if p.first {
		h.docs = append(h.docs, held{key: p.key})
		if side(p.key) == Validation {
			h.validation++
		}
	}
	d := &h.docs[len(h.docs)-1]
	d.parts = append(d.parts, heldPart{bytes.Clone(text), slices.Clone(ids), p.decoded, p.last})
	d.size += len(text)
	h.text += len(text)
	h.tokens += int64(len(ids))
}

// settle writes the documents that are held once their splits are known, which they are
// at the end of the input at the latest.
func (r *run) settle(end bool) error {
	h := r.hold
	if h == nil {
		return nil
	}
	both := h.validation > 0 && h.validation < len(h.docs)
	if !both && !end && h.text < h.limit && len(h.docs) < holdDocuments && h.tokens < holdTokens {
		return nil
	}
	change, stretched := -1, -1
	switch {
	case both:
	case len(h.docs) == 0:
		return fmt.Errorf("no text in %s", r.names())
	case end && h.text < minText:
		return tooFew(h.text, len(h.docs))
	default:
		least, longest := 0, 0
		for i, d := range h.docs {
			if d.key < h.docs[least].key {
				least = i
			}
			if d.size > h.docs[longest].size {
				longest = i
			}
		}
		// Without the document that has half of all text, or with nothing else, a split
		// would have next to nothing.
		if 2*h.docs[longest].size >= h.text {
			stretched = longest
		} else {
			change = least
		}
	}
	r.hold = nil
	for i, d := range h.docs {
		r.side = side(d.key)
		switch {
		case i == change && r.side == Train:
			r.side = Validation
		case i == change || stretched >= 0:
			r.side = Train
		}
		if i == stretched {
			var text []byte
			for _, p := range d.parts {
				text = append(text, p.text...)
			}
			if err := r.stretch(text, h.text); err != nil {
				return err
			}
			continue
		}
		for _, p := range d.parts {
			if err := r.splits[r.side].add(p.ids, int64(len(p.text)), p.decoded, p.last); err != nil {
				return err
			}
		}
	}
	return nil
}

func tooFew(text, documents int) error {
	return fmt.Errorf("%d bytes of text in %d documents are too few to hold some out, want %d or more", text, documents, minText)
}

// stretch holds out the end of a document: a twentieth of all text, if it has that.
func (r *run) stretch(text []byte, all int) error {
	n := min(max(all/validationShare, minStretch), len(text)/2)
	at := len(text) - n
	at += lineEnd(text[at:])
	for _, half := range []struct {
		split string
		text  []byte
	}{{Train, text[:at]}, {Validation, text[at:]}} {
		ids := r.encodePiece(nil, half.text, true, true)
		decoded, err := r.decoded(ids)
		if err != nil {
			return err
		}
		if err := r.splits[half.split].add(ids, int64(len(half.text)), decoded, true); err != nil {
			return err
		}
	}
	return nil
}

// A text of minText bytes is the smallest that is split. A stretch of minStretch
// has room for a sequence of most runs.
const (
	minText    = 64
	minStretch = 2 << 10
)

// lineEnd is the place behind the first line of a text, or, where that is more
// than half of it, where a rune begins.
func lineEnd(text []byte) int {
	if i := bytes.IndexByte(text, '\n') + 1; i > 0 && i <= len(text)/2 {
		return i
	}
	for i := range min(utf8.UTFMax, len(text)) {
		if utf8.RuneStart(text[i]) {
			return i
		}
	}
	return 0
}

// names are those of the sources.
func (r *run) names() string {
	var all []string
	for _, s := range r.Sources {
		all = append(all, s.Name())
	}
	return strings.Join(all, ", ")
}
