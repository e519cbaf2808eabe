// Package source reads the documents of a corpus one after the other, in memory
// that does not depend on its size: text files, JSON lines and Parquet files, plain
// or compressed, below folders or from a stream.
package source

import (
	"bytes"
	"context"
	"hash/fnv"
	"io"
	"strconv"
	"unicode/utf8"
)

// Source is a sequence of documents. It may be read several times, unless it is
// a stream.
type Source interface {
	// Name is what a mixture calls it.
	Name() string
	// Scan looks at what there is, without reading all of it.
	Scan(ctx context.Context) (Inventory, error)
	// Open returns a reader of the documents from a position on, the zero value of
	// which is the beginning. With cut, text files are cut into documents of
	// CutSize.
	Open(ctx context.Context, from Position, cut bool) (Reader, error)
}

// Inventory is what a source has.
type Inventory struct {
	// Files is the number of text files, each of which is a document, up to
	// FewFiles of them.
	Files int
	// Bytes is the size of all files, as they lie on the disk.
	Bytes int64
	// Stream says that there is something without an end or a beginning to return
	// to: its bytes are not counted.
	Stream bool
	// Field was named, and Fields says that something has any: JSON lines or Parquet.
	Field  string
	Fields bool
	// Fingerprint changes where a file does: its name, size or time.
	Fingerprint string
}

// Reader reads documents, each in one piece or, where it is longer than MaxPiece,
// in several.
type Reader interface {
	// Next returns the next piece, and [io.EOF] behind the last one.
	Next() (Piece, error)
	// Position is where the piece after the last one begins.
	Position() Position
	// Read is the number of bytes of the source's files that are behind it.
	Read() int64
	Close() error
}

// Piece is a document or a part of one.
type Piece struct {
	// Text is valid until the next call. It is empty only where a document is.
	Text []byte
	// First and Last say that the document begins and ends here.
	First, Last bool
	// Key decides about its split where Keyed, instead of its text.
	Key   uint64
	Keyed bool
}

// Position is a place in a source.
type Position struct {
	// File is the number of a file, from 0, of all that are looked at.
	File int64 `json:"file,omitempty"`
	// Record is the line of JSONL and the row of Parquet, from 0.
	Record int64 `json:"record,omitempty"`
	// Offset is where the record begins, in bytes of the file's decompressed content.
	Offset int64 `json:"offset,omitempty"`
	// Inner is the number of bytes of the record's text that lie before.
	Inner int64 `json:"inner,omitempty"`
}

const (
	// MaxPiece bounds the pieces of documents. A document is cut at the ends of lines,
	// or of runes where there are none.
	MaxPiece = 1 << 20
	// CutSize is the size of the documents into which text files are cut where there
	// are fewer than FewFiles of them, so that some can be held out.
	CutSize  = 32 << 10
	FewFiles = 200
)

// Key is a hash of a text, 64-bit FNV-1a.
func Key(text []byte) uint64 {
	h := fnv.New64a()
	h.Write(text)
	return h.Sum64()
}

// cutAt is where a text of more than limit bytes is cut: behind the last line that
// ends within the limit, or else before a rune.
func cutAt(text []byte, limit int) int {
	if i := bytes.LastIndexByte(text[:limit], '\n'); i > 0 {
		return i + 1
	}
	n := limit
	for n > limit-utf8.UTFMax && n > 1 && !utf8.RuneStart(text[n]) {
		n--
	}
	return n
}

// pieces cuts the text of one record.
type pieces struct {
	rest  []byte
	inner int64 // bytes that are behind it
}

// next is the next piece; the record is at its end where last.
func (p *pieces) next() Piece {
	n, last := len(p.rest), true
	if n > MaxPiece {
		n, last = cutAt(p.rest, MaxPiece), false
	}
	piece := Piece{Text: p.rest[:n], First: p.inner == 0, Last: last}
	p.rest = p.rest[n:]
	p.inner += int64(n)
	return piece
}

// Documents is a corpus in memory.
type Documents struct {
	Named string
	Texts [][]byte
}

// Name implements Source.
func (d *Documents) Name() string { return d.Named }

// Scan implements Source.
func (d *Documents) Scan(context.Context) (Inventory, error) {
	h := fnv.New64a()
	inv := Inventory{Files: FewFiles}
	for _, t := range d.Texts {
		inv.Bytes += int64(len(t))
		io.WriteString(h, strconv.Itoa(len(t))+" ")
		h.Write(t)
	}
	inv.Fingerprint = strconv.FormatUint(h.Sum64(), 16)
	return inv, nil
}

// Open implements Source.
func (d *Documents) Open(_ context.Context, from Position, _ bool) (Reader, error) {
	r := &documents{d: d, at: from}
	for _, t := range d.Texts[:min(from.Record, int64(len(d.Texts)))] {
		r.read += int64(len(t))
	}
	return r, nil
}

type documents struct {
	d    *Documents
	at   Position
	read int64
}

func (r *documents) Next() (Piece, error) {
	if r.at.Record >= int64(len(r.d.Texts)) {
		return Piece{}, io.EOF
	}
	text := r.d.Texts[r.at.Record]
	p := pieces{text[min(r.at.Inner, int64(len(text))):], r.at.Inner}
	piece := p.next()
	r.at.Inner = p.inner
	r.read += int64(len(piece.Text))
	if piece.Last {
		r.at = Position{Record: r.at.Record + 1}
	}
	return piece, nil
}

func (r *documents) Position() Position { return r.at }
func (r *documents) Read() int64        { return r.read }
func (r *documents) Close() error       { return nil }
