package token

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/structuredffn/sffn/internal/disk"
)

// A file of ids has at least minIDsFile bytes' room, and no more than maxIDsFile:
// some bytes for each position.
const (
	minIDsFile = 16 << 20
	maxIDsFile = 1 << 30
)

// ReadIDs reads token ids of so large a vocabulary from a JSON file, at least and
// at most so many: an array, or an object that has it as "ids".
func ReadIDs(name string, vocab, least, most int) ([]int32, error) {
	text, err := disk.ReadText(name, min(max(minIDsFile, 16*most), maxIDsFile), " for token ids")
	if err != nil {
		return nil, err
	}
	return parseIDs(name, text, vocab, least, most)
}

// idsForm is what a file of ids looks like.
const idsForm = `want an array of token ids, [76, 105], or an object {"ids": [76, 105]}`

// parseIDs reads the text of such a file. It keeps no more ids than it is to return.
func parseIDs(name string, text []byte, vocab, least, most int) ([]int32, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	// wrong puts a place before a message: so many bytes before the end of the
	// last token.
	wrong := func(back int, format string, args ...any) error {
		return fmt.Errorf("%s:%s: %w", name, disk.Place(text, int(dec.InputOffset())-back), fmt.Errorf(format, args...))
	}
	next := func() (json.Token, error) {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, wrong(0, "the text ends here, %s", idsForm)
		} else if err != nil {
			return nil, wrong(0, "%w, %s", err, idsForm)
		}
		return tok, nil
	}
	var ids []int32
	array := func(tok json.Token) error {
		if tok != json.Delim('[') {
			return wrong(1, "%s", idsForm)
		}
		for dec.More() {
			tok, err := next()
			if err != nil {
				return err
			}
			number, ok := tok.(json.Number)
			if !ok {
				return wrong(1, "ids[%d] is no number, %s", len(ids), idsForm)
			}
			id, err := strconv.ParseInt(number.String(), 10, 32)
			if err != nil || id < 0 || id >= int64(vocab) {
				return wrong(len(number), "ids[%d] is %.20s, want an id of the vocabulary, a whole number from 0 to %d", len(ids), number, vocab-1)
			}
			if len(ids) == most {
				return wrong(len(number), "ids[%d] is one too many, want at most %d, the positions there are", len(ids), most)
			}
			ids = append(ids, int32(id))
		}
		_, err := next() // the array's end
		return err
	}
	tok, err := next()
	if err != nil {
		return nil, err
	}
	if tok == json.Delim('{') {
		found := false
		for dec.More() {
			key, err := next()
			if err != nil {
				return nil, err
			}
			if key != "ids" {
				var other json.RawMessage
				if err := dec.Decode(&other); err != nil {
					return nil, wrong(0, "%v: %w", key, err)
				}
				continue
			}
			if found {
				return nil, wrong(1, "ids comes twice")
			}
			found = true
			if tok, err = next(); err != nil {
				return nil, err
			}
			if err := array(tok); err != nil {
				return nil, err
			}
		}
		if _, err := next(); err != nil {
			return nil, err
		}
		if !found {
			return nil, wrong(1, "the object has no ids, %s", idsForm)
		}
	} else if err := array(tok); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, wrong(0, "there is more behind the ids, %s", idsForm)
	}
	if len(ids) < least {
		return nil, wrong(1, "%d ids, want %d to %d", len(ids), least, most)
	}
	return ids, nil
}
