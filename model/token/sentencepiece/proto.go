package sentencepiece

import (
	"errors"
	"fmt"
	"math"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// Bounds of a model file. The largest vocabularies that are in use have a
// million pieces and 20 MB.
const (
	maxFile   = 64 << 20
	maxPieces = 1 << 20
	// maxPiece is the library's bound of bytes of a piece.
	maxPiece = 8000
)

// kind says what a piece is; the numbers are the file's.
type kind uint8

const (
	normal      kind = 1
	unknown     kind = 2
	control     kind = 3
	userDefined kind = 4
	unused      kind = 5
	byteValue   kind = 6
)

// reserved says that no text is encoded as such a piece by its spelling.
func (k kind) reserved() bool { return k == unknown || k == control || k == byteValue }

type piece struct {
	text  string
	score float32
	kind  kind
}

// algorithm is the file's model_type.
type algorithm uint8

const (
	unigram  algorithm = 1
	bytePair algorithm = 2
	word     algorithm = 3
	char     algorithm = 4
)

// String is the name that the library has for it.
func (a algorithm) String() string {
	return map[algorithm]string{unigram: "unigram", bytePair: "bpe", word: "word", char: "char"}[a]
}

// rules are a normalizer_spec.
type rules struct {
	charsmap    []byte
	dummyPrefix bool
	removeExtra bool
	escape      bool
}

// spec is what a model file says, as far as encoding and decoding depend on it.
type spec struct {
	pieces       []piece
	algorithm    algorithm
	byteFallback bool
	suffix       bool // spaces belong to the word before them
	unkSurface   string
	bos, eos     string
	normalizer   rules
	denormalizer rules
}

// message is a protocol buffer inside of a file, and its place there.
type message struct {
	bytes []byte
	at    int
}

// field is one field of a message: number is of a varint or the bits of a
// fixed32, message of what has a length.
type field struct {
	num    protowire.Number
	number uint64
	message
}

// wire says which encoding the known fields of a message have. Fields that are
// not listed are skipped.
type wire map[protowire.Number]protowire.Type

var (
	modelWire = wire{1: protowire.BytesType, 2: protowire.BytesType, 3: protowire.BytesType, 5: protowire.BytesType}
	pieceWire = wire{1: protowire.BytesType, 2: protowire.Fixed32Type, 3: protowire.VarintType}
	// trainerWire: model_type, treat_whitespace_as_suffix, byte_fallback,
	// unk_surface, bos_piece, eos_piece.
	trainerWire = wire{3: protowire.VarintType, 24: protowire.VarintType, 35: protowire.VarintType, 44: protowire.BytesType, 46: protowire.BytesType, 47: protowire.BytesType}
	// rulesWire: precompiled_charsmap, add_dummy_prefix,
	// remove_extra_whitespaces, escape_whitespaces.
	rulesWire = wire{2: protowire.BytesType, 3: protowire.VarintType, 4: protowire.VarintType, 5: protowire.VarintType}
)

// fields calls f for the known fields of m, in the order of the file.
func (m message) fields(known wire, f func(field) error) error {
	for rest := m.bytes; len(rest) > 0; {
		at := m.at + len(m.bytes) - len(rest)
		wrong := func(n int) error {
			return fmt.Errorf("byte %d: %w: the file is cut short or is no SentencePiece model", at, protowire.ParseError(n))
		}
		num, typ, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return wrong(n)
		}
		size := protowire.ConsumeFieldValue(num, typ, rest[n:])
		if size < 0 {
			return wrong(size)
		}
		value := rest[n : n+size]
		rest = rest[n+size:]
		want, ok := known[num]
		if !ok {
			continue
		}
		if typ != want {
			return fmt.Errorf("byte %d: field %d has wire type %d, want %d: the file is no SentencePiece model", at, num, typ, want)
		}
		fd := field{num: num}
		switch typ {
		case protowire.VarintType:
			fd.number, _ = protowire.ConsumeVarint(value)
		case protowire.Fixed32Type:
			bits, _ := protowire.ConsumeFixed32(value)
			fd.number = uint64(bits)
		case protowire.BytesType:
			fd.bytes, _ = protowire.ConsumeBytes(value)
			fd.at = at + n + size - len(fd.bytes)
		}
		if err := f(fd); err != nil {
			return err
		}
	}
	return nil
}

// parse reads a model file.
func parse(content []byte) (*spec, error) {
	if len(content) > maxFile {
		return nil, fmt.Errorf("%d bytes are too many for a SentencePiece model, want at most %d", len(content), maxFile)
	}
	spaces := rules{dummyPrefix: true, removeExtra: true, escape: true}
	s := &spec{algorithm: unigram, unkSurface: " \u2047 ", bos: "<s>", eos: "</s>", normalizer: spaces, denormalizer: spaces}
	file := string(content) // all pieces are parts of it
	err := message{content, 0}.fields(modelWire, func(f field) error {
		switch f.num {
		case 1:
			return s.piece(f.message, file)
		case 2:
			return s.trainer(f.message)
		case 3:
			return s.normalizer.read(f.message)
		default:
			return s.denormalizer.read(f.message)
		}
	})
	if err != nil {
		return nil, err
	}
	if len(s.pieces) == 0 {
		return nil, errors.New("there are no pieces: the file is no SentencePiece model")
	}
	return s, nil
}

func (s *spec) piece(m message, file string) error {
	id := len(s.pieces)
	if id == maxPieces {
		return fmt.Errorf("byte %d: more than %d pieces", m.at, maxPieces)
	}
	p := piece{kind: normal}
	err := m.fields(pieceWire, func(f field) error {
		switch f.num {
		case 1:
			p.text = file[f.at : f.at+len(f.bytes)]
		case 2:
			p.score = math.Float32frombits(uint32(f.number))
		case 3:
			if f.number < uint64(normal) || f.number > uint64(byteValue) {
				return fmt.Errorf("byte %d: piece %d has type %d, want %d to %d", m.at, id, f.number, normal, byteValue)
			}
			p.kind = kind(f.number)
		}
		return nil
	})
	if err != nil {
		return err
	}
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("byte %d: piece %d: %w", m.at, id, fmt.Errorf(format, args...))
	}
	switch {
	case p.text == "":
		return wrong("the piece is empty")
	case len(p.text) >= maxPiece:
		return wrong("%d bytes, want less than %d", len(p.text), maxPiece)
	case !utf8.ValidString(p.text):
		return wrong("%.40q is no UTF-8", p.text)
	case math.IsNaN(float64(p.score)) || math.IsInf(float64(p.score), 0):
		return wrong("the score of %.40q is %v, want a number", p.text, p.score)
	}
	s.pieces = append(s.pieces, p)
	return nil
}

func (s *spec) trainer(m message) error {
	return m.fields(trainerWire, func(f field) error {
		switch f.num {
		case 3:
			if f.number < uint64(unigram) || f.number > uint64(char) {
				return fmt.Errorf("byte %d: model_type is %d, want 1 (unigram), 2 (BPE), 3 (word) or 4 (char)", m.at, f.number)
			}
			s.algorithm = algorithm(f.number)
		case 24:
			s.suffix = f.number != 0
		case 35:
			s.byteFallback = f.number != 0
		case 44:
			s.unkSurface = string(f.bytes)
		case 46:
			s.bos = string(f.bytes)
		case 47:
			s.eos = string(f.bytes)
		}
		return nil
	})
}

func (r *rules) read(m message) error {
	return m.fields(rulesWire, func(f field) error {
		switch f.num {
		case 2:
			r.charsmap = f.bytes
		case 3:
			r.dummyPrefix = f.number != 0
		case 4:
			r.removeExtra = f.number != 0
		case 5:
			r.escape = f.number != 0
		}
		return nil
	})
}
