package source

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strings"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/structuredffn/sffn/internal/disk"
)

// parquet reads a column of strings of a Parquet file, row by row. Pages may be larger
// than there is memory for: they are decompressed and decoded as streams, and
// what a file claims about sizes is never allocated. The format:
// https://github.com/apache/parquet-format
type parquet struct {
	file   *os.File
	size   int64
	column string
	maxDef int // levels of null above a value
	groups []rowGroup
	group  int // at work, once chunk is open
	chunk  *chunk
	at     Position
	skip   int64 // rows to skip, and then bytes of the row
	inner  int64
	read   int64 // bytes of the file that are behind it, about

	value io.Reader // the rest of the value at work
	left  int64     // bytes of it
	buf   []byte
	have  int // bytes in buf
	used  int // bytes of buf that were returned
	busy  bool
}

// rowGroup is the column's part of a row group.
type rowGroup struct {
	rows, values       int64
	offset, compressed int64
	codec              int64
}

// The limits of what a reader holds.
const (
	maxFooter      = 32 << 20
	maxRowGroups   = 1 << 20
	maxPageHeader  = 1 << 20
	maxDictionary  = 64 << 20
	maxWholePage   = 64 << 20 // where a codec cannot stream
	maxLevels      = 16 << 20
	maxDeltaValues = 4 << 20
	maxDeltaValue  = 64 << 20
)

// errOther says that a file is none of Parquet.
var errOther = errors.New("no Parquet")

const parquetMagic = "PAR1"

// openParquet opens a file at a place. With probe a file of another kind is
// errOther.
func openParquet(name, column string, at Position, probe bool) (*parquet, error) {
	f, err := disk.Open(name)
	if err != nil {
		return nil, err
	}
	p := &parquet{file: f, column: column, at: Position{Record: at.Record}, skip: at.Record, inner: at.Inner}
	if err := p.open(); err != nil {
		f.Close()
		if err == errOther && !probe {
			err = fmt.Errorf("%w: it does not begin and end with %q", errOther, parquetMagic)
		}
		return nil, err
	}
	return p, nil
}

func (p *parquet) Close() error {
	if p.chunk != nil {
		p.chunk.close()
	}
	return p.file.Close()
}

func (p *parquet) open() error {
	info, err := p.file.Stat()
	if err != nil {
		return err
	}
	p.size = info.Size()
	head, tail := make([]byte, 4), make([]byte, 8)
	if p.size < 12 {
		return errOther
	}
	if _, err := p.file.ReadAt(head, 0); err != nil {
		return err
	}
	if _, err := p.file.ReadAt(tail, p.size-8); err != nil {
		return err
	}
	if string(head) == "PARE" || string(tail[4:]) == "PARE" {
		return errors.New("the file is encrypted")
	}
	if string(head) != parquetMagic || string(tail[4:]) != parquetMagic {
		return errOther
	}
	n := int64(binary.LittleEndian.Uint32(tail))
	if n > p.size-12 || n > maxFooter {
		return fmt.Errorf("a footer of %d bytes in a file of %d, want at most %d", n, p.size, min(maxFooter, p.size-12))
	}
	footer := make([]byte, n)
	if _, err := p.file.ReadAt(footer, p.size-8-n); err != nil {
		return err
	}
	return p.metadata(footer)
}

// leaf is a column that holds values.
type leaf struct {
	path     string
	kind     int64
	def, rep int
}

// Of the metadata.
const (
	kindByteArray = 6
	optional      = 1
	repeated      = 2
)

var kindNames = []string{"BOOLEAN", "INT32", "INT64", "INT96", "FLOAT", "DOUBLE", "BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY"}

// schema finds the leaves among the elements, which are in the order of a walk.
type schema struct {
	left   []int64  // children that are left, of each element above
	names  []string // of those
	def    []int
	rep    []int
	leaves int
	// What is looked for, and what there is.
	column string
	found  *leaf
	index  int // of found
	others []string
	root   bool
}

func (s *schema) add(name []byte, kind, repetition, children int64, isLeaf bool) bool {
	if !s.root {
		s.root = true
		s.left, s.names, s.def, s.rep = []int64{children}, []string{""}, []int{0}, []int{0}
		return true
	}
	for len(s.left) > 0 && s.left[len(s.left)-1] <= 0 {
		n := len(s.left) - 1
		s.left, s.names, s.def, s.rep = s.left[:n], s.names[:n], s.def[:n], s.rep[:n]
	}
	if len(s.left) == 0 || len(s.left) > maxThriftDepth || len(name) > 1<<10 {
		return false
	}
	top := len(s.left) - 1
	s.left[top]--
	def, rep := s.def[top], s.rep[top]
	if repetition == optional || repetition == repeated {
		def++
	}
	if repetition == repeated {
		rep++
	}
	path := string(name)
	if above := s.names[top]; above != "" {
		path = above + "." + path
	}
	if !isLeaf {
		s.left, s.names, s.def, s.rep = append(s.left, children), append(s.names, path), append(s.def, def), append(s.rep, rep)
		return true
	}
	if path == s.column && s.found == nil {
		s.found, s.index = &leaf{path, kind, def, rep}, s.leaves
	} else if len(s.others) < 8 {
		s.others = append(s.others, path)
	}
	s.leaves++
	return true
}

func (p *parquet) metadata(footer []byte) error {
	s := &schema{column: p.column}
	t := &thrift{b: footer}
	t.fields(0, func(id int64, kind byte) bool {
		if id != 2 || kind != thriftList {
			return false
		}
		t.list(func(byte) {
			var name []byte
			var typ, repetition, children int64
			isLeaf := false
			t.fields(1, func(id int64, kind byte) bool {
				switch {
				case id == 1 && kind == thriftI32:
					typ, isLeaf = t.int(), true
				case id == 3 && kind == thriftI32:
					repetition = t.int()
				case id == 4 && kind == thriftBinary:
					name = t.binary()
				case id == 5 && kind == thriftI32:
					children = t.int()
				default:
					return false
				}
				return true
			})
			if t.err == nil && !s.add(name, typ, repetition, children, isLeaf) {
				t.fail(errThrift)
			}
		})
		return true
	})
	if t.err != nil {
		return t.err
	}
	switch c := s.found; {
	case c == nil:
		return fmt.Errorf("no column %q; there are: %s", p.column, strings.Join(s.others, ", "))
	case c.rep > 0:
		return fmt.Errorf("column %q is a list, want one string a row", p.column)
	case c.kind != kindByteArray:
		name := fmt.Sprint(c.kind)
		if c.kind >= 0 && c.kind < int64(len(kindNames)) {
			name = kindNames[c.kind]
		}
		return fmt.Errorf("column %q has values of type %s, want strings (BYTE_ARRAY)", p.column, name)
	case c.def > 255:
		return errThrift
	}
	p.maxDef = s.found.def
	t = &thrift{b: footer}
	t.fields(0, func(id int64, kind byte) bool {
		if id != 4 || kind != thriftList {
			return false
		}
		t.list(func(byte) {
			if len(p.groups) == maxRowGroups {
				t.fail(fmt.Errorf("more than %d row groups", maxRowGroups))
				return
			}
			if g, ok := p.rowGroup(t, s.index); ok {
				p.groups = append(p.groups, g)
			}
		})
		return true
	})
	return t.err
}

// rowGroup reads a row group's metadata, of the column with a number.
func (p *parquet) rowGroup(t *thrift, column int) (g rowGroup, ok bool) {
	var data, dictionary int64
	encrypted, elsewhere := false, false
	t.fields(1, func(id int64, kind byte) bool {
		switch {
		case id == 3 && kind == thriftI64:
			g.rows = t.int()
			return true
		case id != 1 || kind != thriftList:
			return false
		}
		i := 0
		t.list(func(byte) {
			mine := i == column
			i++
			t.fields(2, func(id int64, kind byte) bool {
				switch {
				case !mine:
					return false
				case id == 1 && kind == thriftBinary:
					elsewhere = len(t.binary()) > 0
					return true
				case id == 8 || id == 9:
					encrypted = true
					return false
				case id != 3 || kind != thriftStruct:
					return false
				}
				ok = true
				t.fields(3, func(id int64, kind byte) bool {
					if kind != thriftI32 && kind != thriftI64 {
						return false
					}
					switch id {
					case 4:
						g.codec = t.int()
					case 5:
						g.values = t.int()
					case 7:
						g.compressed = t.int()
					case 9:
						data = t.int()
					case 11:
						dictionary = t.int()
					default:
						return false
					}
					return true
				})
				return true
			})
		})
		return true
	})
	if t.err != nil {
		return g, false
	}
	g.offset = data
	if dictionary > 0 && dictionary < data {
		g.offset = dictionary
	}
	switch {
	case encrypted:
		t.fail(errors.New("the column is encrypted"))
	case elsewhere:
		t.fail(errors.New("the column's data is in another file"))
	case !ok && g.rows != 0:
		t.fail(fmt.Errorf("row group %d lacks the column", len(p.groups)))
	case g.rows < 0 || g.rows != g.values:
		t.fail(fmt.Errorf("row group %d has %d rows and %d values", len(p.groups), g.rows, g.values))
	case g.rows > 0 && (g.offset < 4 || g.compressed < 0 || g.offset > p.size || g.compressed > p.size-g.offset):
		t.fail(fmt.Errorf("row group %d lies at byte %d and has %d, in a file of %d", len(p.groups), g.offset, g.compressed, p.size))
	}
	return g, t.err == nil
}

func (p *parquet) position() Position { return p.at }

func (p *parquet) next() (Piece, error) {
	piece, err := p.piece()
	if err != nil && err != io.EOF {
		err = fmt.Errorf("row %d: %w", p.at.Record+1, err)
	}
	return piece, err
}

func (p *parquet) piece() (Piece, error) {
	if !p.busy {
		if err := p.nextValue(); err != nil {
			return Piece{}, err
		}
		if _, err := io.CopyN(io.Discard, p.value, p.inner); err != nil {
			return Piece{}, err
		}
		p.left -= p.inner
		p.at.Inner, p.inner = p.inner, 0
		p.busy, p.have, p.used = true, 0, 0
	}
	if p.buf == nil {
		p.buf = make([]byte, MaxPiece+1)
	}
	p.have = copy(p.buf, p.buf[p.used:p.have])
	p.used = 0
	n := int(min(p.left, int64(len(p.buf)-p.have)))
	if _, err := io.ReadFull(p.value, p.buf[p.have:p.have+n]); err != nil {
		return Piece{}, fmt.Errorf("a value is cut off: %w", err)
	}
	p.have += n
	p.left -= int64(n)
	piece := Piece{Text: p.buf[:p.have], First: p.at.Inner == 0, Last: true}
	if p.have > MaxPiece {
		piece.Text, piece.Last = p.buf[:cutAt(p.buf[:p.have], MaxPiece)], false
	}
	p.used = len(piece.Text)
	p.at.Inner += int64(p.used)
	if piece.Last {
		p.busy = false
		p.at = Position{Record: p.at.Record + 1}
	}
	return piece, nil
}

// nextValue goes to the next row that has a value.
func (p *parquet) nextValue() error {
	for {
		if p.chunk == nil {
			if p.group == len(p.groups) {
				return io.EOF
			}
			g := p.groups[p.group]
			if p.skip >= g.rows {
				p.skip -= g.rows
				p.group++
				continue
			}
			p.read = g.offset
			p.chunk = newChunk(io.NewSectionReader(p.file, g.offset, g.compressed), g, p.maxDef)
		}
		if p.chunk.left == 0 {
			if err := p.chunk.endPage(); err != nil {
				return err
			}
			p.chunk.close()
			p.chunk = nil
			p.group++
			continue
		}
		var err error
		if p.skip, err = p.chunk.skip(p.skip); err != nil {
			return err
		}
		nulls, err := p.chunk.nulls(p.skip)
		if err != nil {
			return err
		}
		if p.skip > 0 {
			p.skip -= nulls
		} else {
			p.at.Record += nulls
		}
		p.read = p.groups[p.group].offset + p.chunk.behind
		if nulls > 0 {
			continue
		}
		if p.value, p.left, err = p.chunk.value(); err != nil {
			return err
		}
		if p.skip == 0 {
			return nil
		}
		p.skip--
		if _, err := io.CopyN(io.Discard, p.value, p.left); err != nil {
			return err
		}
	}
}

// chunk is the column in one row group: pages, of which the first may be a dictionary.
type chunk struct {
	r      *bufio.Reader
	codec  int64
	maxDef int
	left   int64 // values
	behind int64 // bytes before the page at work

	dictionary []byte
	ends       []uint32 // of its entries

	page     pageHeader
	rest     *io.LimitedReader // of the page, as it lies in the file
	sum      uint32            // of what was read of it
	levels   *hybrid
	values   *bufio.Reader
	inPage   int64 // values left in the page
	indices  *hybrid
	entry    bytes.Reader
	lengths  []int32 // of values, or of their ends
	prefixes []int32
	last     []byte // the value before

	zstd   *zstd.Decoder
	gzip   *gzip.Reader
	snappy snappy
}

func newChunk(r io.Reader, g rowGroup, maxDef int) *chunk {
	return &chunk{r: bufio.NewReaderSize(r, maxPageHeader), codec: g.codec, maxDef: maxDef, left: g.values}
}

func (c *chunk) close() {
	if c.zstd != nil {
		c.zstd.Close()
	}
}

// pageHeader is what is needed of it.
type pageHeader struct {
	kind, uncompressed, compressed int64
	crc                            int64
	hasCRC                         bool
	values, encoding, defEncoding  int64
	nulls, defSize, repSize        int64 // of version 2
	plain                          bool  // of version 2: not compressed
	size                           int   // of the header itself
}

// Kinds of pages, and encodings.
const (
	pageData       = 0
	pageIndex      = 1
	pageDictionary = 2
	pageData2      = 3

	encodingPlain           = 0
	encodingPlainDictionary = 2
	encodingRLE             = 3
	encodingDeltaLength     = 6
	encodingDelta           = 7
	encodingDictionary      = 8
)

var encodingNames = map[int64]string{4: "BIT_PACKED", 5: "DELTA_BINARY_PACKED", 9: "BYTE_STREAM_SPLIT"}

func (c *chunk) header() (h pageHeader, err error) {
	h = pageHeader{kind: -1, encoding: -1, defEncoding: encodingRLE}
	var t *thrift
	for room := 4 << 10; ; room = min(16*room, maxPageHeader) {
		b, err := c.r.Peek(room)
		if err != nil && err != io.EOF {
			return h, err
		}
		t = &thrift{b: b}
		h.read(t)
		if t.err != errThriftShort || len(b) < room || room == maxPageHeader {
			break
		}
	}
	if t.err != nil {
		return h, fmt.Errorf("the header of a page: %w", t.err)
	}
	h.size = t.at
	if min(h.uncompressed, h.compressed, h.values, h.nulls, h.defSize, h.repSize) < 0 || h.nulls > h.values {
		return h, fmt.Errorf("the header of a page: %w", errThrift)
	}
	_, err = c.r.Discard(h.size)
	return h, err
}

func (h *pageHeader) read(t *thrift) {
	number := func(to *int64) bool { *to = t.int(); return true }
	t.fields(0, func(id int64, kind byte) bool {
		if kind == thriftI32 {
			switch id {
			case 1:
				return number(&h.kind)
			case 2:
				return number(&h.uncompressed)
			case 3:
				return number(&h.compressed)
			case 4:
				h.hasCRC = true
				return number(&h.crc)
			}
		}
		if kind != thriftStruct || id != 5 && id != 7 && id != 8 {
			return false
		}
		t.fields(1, func(field int64, kind byte) bool {
			switch {
			case kind == thriftFalse && id == 8 && field == 7:
				h.plain = true
				return true
			case kind != thriftI32:
				return false
			case field == 1:
				return number(&h.values)
			case id != 8 && field == 2 || id == 8 && field == 4:
				return number(&h.encoding)
			case id == 5 && field == 3:
				return number(&h.defEncoding)
			case id == 8 && field == 2:
				return number(&h.nulls)
			case id == 8 && field == 5:
				return number(&h.defSize)
			case id == 8 && field == 6:
				return number(&h.repSize)
			}
			return false
		})
		return true
	})
}

// skip skips whole pages of n values; what is left lies in the page at work.
func (c *chunk) skip(n int64) (int64, error) {
	for n > 0 && c.inPage == 0 && c.left > 0 {
		if err := c.nextPage(); err != nil {
			return n, err
		}
		if c.inPage > n {
			break
		}
		n -= c.inPage
		c.left -= c.inPage
		c.inPage = 0
		if err := c.endPage(); err != nil {
			return n, err
		}
	}
	return n, nil
}

// nulls goes behind the nulls that come next, at most so many, or 0 for all of them that are
// known; it returns their number.
func (c *chunk) nulls(most int64) (int64, error) {
	for c.inPage == 0 && c.left > 0 {
		if err := c.endPage(); err != nil {
			return 0, err
		}
		if err := c.nextPage(); err != nil {
			return 0, err
		}
	}
	if c.levels == nil {
		return 0, nil
	}
	def, n, err := c.levels.peek()
	if err != nil || int(def) >= c.maxDef {
		return 0, err
	}
	n = min(n, uint64(c.inPage))
	if most > 0 {
		n = min(n, uint64(most))
	}
	c.levels.take(n)
	c.inPage -= int64(n)
	c.left -= int64(n)
	return int64(n), nil
}

// value is the next value, where there are no nulls before it. It has to be read whole
// before the one after it.
func (c *chunk) value() (io.Reader, int64, error) {
	c.inPage--
	c.left--
	if c.levels != nil {
		c.levels.take(1)
	}
	switch {
	case c.indices != nil:
		i, _, err := c.indices.peek()
		if err != nil {
			return nil, 0, err
		}
		c.indices.take(1)
		if int64(i) >= int64(len(c.ends)) {
			return nil, 0, fmt.Errorf("entry %d of a dictionary of %d", i, len(c.ends))
		}
		from := uint32(0)
		if i > 0 {
			from = c.ends[i-1]
		}
		c.entry.Reset(c.dictionary[from:c.ends[i]])
		return &c.entry, int64(c.ends[i] - from), nil
	case c.page.encoding == encodingPlain:
		var n [4]byte
		if _, err := io.ReadFull(c.values, n[:]); err != nil {
			return nil, 0, fmt.Errorf("a page is cut off: %w", err)
		}
		return c.values, int64(binary.LittleEndian.Uint32(n[:])), nil
	}
	if len(c.lengths) == 0 {
		return nil, 0, errors.New("a page has fewer values than it says")
	}
	n := c.lengths[0]
	c.lengths = c.lengths[1:]
	if c.page.encoding == encodingDeltaLength {
		return c.values, int64(n), nil
	}
	shared := c.prefixes[0]
	c.prefixes = c.prefixes[1:]
	if int(shared) > len(c.last) || int64(shared)+int64(n) > maxDeltaValue {
		return nil, 0, fmt.Errorf("a value of %d bytes shares %d with one of %d", n, shared, len(c.last))
	}
	c.last = c.last[:shared]
	// The value is read as it comes, whatever length is claimed.
	for left := int(n); left > 0; {
		step := min(left, 64<<10)
		c.last = append(c.last, make([]byte, step)...)
		if _, err := io.ReadFull(c.values, c.last[len(c.last)-step:]); err != nil {
			return nil, 0, fmt.Errorf("a page is cut off: %w", err)
		}
		left -= step
	}
	c.entry.Reset(c.last)
	return &c.entry, int64(len(c.last)), nil
}

// endPage goes to the end of the page, which has to be what its checksum says.
func (c *chunk) endPage() error {
	if c.rest == nil {
		return nil
	}
	if _, err := io.Copy(io.Discard, c.tee(c.rest)); err != nil {
		return err
	}
	c.behind += int64(c.page.size) + c.page.compressed
	if c.rest.N > 0 {
		return errors.New("a page is cut off")
	}
	if c.page.hasCRC && c.sum != uint32(c.page.crc) {
		return fmt.Errorf("a page is damaged: checksum %08x, want %08x", c.sum, uint32(c.page.crc))
	}
	c.rest = nil
	return nil
}

// summed is a page's content, as it lies in the file, whose checksum is made on the way.
type summed struct {
	c *chunk
	r io.Reader
}

func (s summed) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	s.c.sum = crc32.Update(s.c.sum, crc32.IEEETable, b[:n])
	return n, err
}

func (c *chunk) tee(r io.Reader) io.Reader {
	if !c.page.hasCRC {
		return r
	}
	return summed{c, r}
}

// nextPage begins the next page of values.
func (c *chunk) nextPage() error {
	for {
		h, err := c.header()
		if err != nil {
			return err
		}
		c.page, c.sum, c.rest = h, 0, &io.LimitedReader{R: c.r, N: h.compressed}
		switch h.kind {
		case pageIndex:
		case pageDictionary:
			if err := c.readDictionary(); err != nil {
				return fmt.Errorf("the dictionary: %w", err)
			}
		case pageData, pageData2:
			if h.values > c.left {
				return fmt.Errorf("a page has %d values, of the %d that are left", h.values, c.left)
			}
			if h.values == 0 {
				break
			}
			c.inPage = h.values
			return c.beginPage()
		default:
			return fmt.Errorf("a page of the unknown kind %d", h.kind)
		}
		if err := c.endPage(); err != nil {
			return err
		}
	}
}

// beginPage reads up to the values.
func (c *chunk) beginPage() error {
	h := c.page
	c.levels, c.indices = nil, nil
	raw := c.tee(c.rest)
	if h.kind == pageData2 {
		if h.repSize > 0 {
			return errors.New("a page has repetition levels, the column is no list")
		}
		if c.maxDef > 0 {
			if err := c.readLevels(raw, h.defSize); err != nil {
				return err
			}
		} else if h.defSize > 0 {
			return errors.New("a page has definition levels, the column has no nulls")
		}
		codec := c.codec
		if h.plain {
			codec = 0
		}
		if err := c.decompress(raw, codec, h.uncompressed-h.defSize); err != nil {
			return err
		}
	} else {
		if err := c.decompress(raw, c.codec, h.uncompressed); err != nil {
			return err
		}
		if c.maxDef > 0 {
			if h.defEncoding != encodingRLE {
				return fmt.Errorf("definition levels of the encoding %s are not read", encodingName(h.defEncoding))
			}
			var n [4]byte
			if _, err := io.ReadFull(c.values, n[:]); err != nil {
				return fmt.Errorf("a page is cut off: %w", err)
			}
			if err := c.readLevels(c.values, int64(binary.LittleEndian.Uint32(n[:]))); err != nil {
				return err
			}
		}
	}
	switch h.encoding {
	case encodingPlain:
	case encodingPlainDictionary, encodingDictionary:
		if c.ends == nil {
			return errors.New("a page of a dictionary that is not there")
		}
		width, err := c.values.ReadByte()
		if err == io.EOF && h.kind == pageData2 && h.nulls == h.values || err == io.EOF && c.maxDef > 0 {
			width = 0 // nothing but nulls
		} else if err != nil {
			return fmt.Errorf("a page is cut off: %w", err)
		}
		if width > 32 {
			return fmt.Errorf("numbers of %d bits", width)
		}
		c.indices = &hybrid{r: c.values, width: int(width)}
	case encodingDeltaLength, encodingDelta:
		var err error
		c.last = c.last[:0]
		if h.encoding == encodingDelta {
			if c.prefixes, err = readDeltas(c.values, c.prefixes[:0], h.values); err != nil {
				return err
			}
		}
		if c.lengths, err = readDeltas(c.values, c.lengths[:0], h.values); err != nil {
			return err
		}
		if h.encoding == encodingDelta && len(c.prefixes) != len(c.lengths) {
			return fmt.Errorf("%d values share a beginning, of %d", len(c.prefixes), len(c.lengths))
		}
	default:
		return fmt.Errorf("values of the encoding %s are not read", encodingName(h.encoding))
	}
	return nil
}

func encodingName(e int64) string {
	if name, ok := encodingNames[e]; ok {
		return name
	}
	return fmt.Sprint(e)
}

func (c *chunk) readLevels(r io.Reader, size int64) error {
	if size > maxLevels {
		return fmt.Errorf("definition levels of %d bytes, want at most %d", size, maxLevels)
	}
	var b bytes.Buffer // grows with what there is
	if n, err := io.Copy(&b, io.LimitReader(r, size)); err != nil || n < size {
		return errors.Join(errors.New("the definition levels are cut off"), err)
	}
	width := 0
	for 1<<width <= c.maxDef {
		width++
	}
	c.levels = &hybrid{r: &b, width: width}
	return nil
}

// decompress makes a reader of at most size bytes of values.
func (c *chunk) decompress(raw io.Reader, codec, size int64) error {
	if size < 0 {
		return errThrift
	}
	r := raw
	var err error
	switch codec {
	case 0:
	case 1:
		err = c.snappy.reset(bufio.NewReaderSize(raw, 32<<10), size)
		r = &c.snappy
	case 2:
		if c.gzip == nil {
			c.gzip, err = gzip.NewReader(raw)
		} else {
			err = c.gzip.Reset(raw)
		}
		r = c.gzip
	case 4:
		r = brotli.NewReader(raw)
	case 6:
		if c.zstd == nil {
			c.zstd, err = zstd.NewReader(raw, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		} else {
			err = c.zstd.Reset(raw)
		}
		r = c.zstd
	case 7:
		if max(c.page.compressed, size) > maxWholePage {
			return fmt.Errorf("a page of %d bytes, compressed by LZ4, want at most %d", max(c.page.compressed, size), maxWholePage)
		}
		var from bytes.Buffer
		if _, err := io.Copy(&from, raw); err != nil {
			return err
		}
		if size > 255*int64(from.Len()) { // more than LZ4 can say
			return errors.New("the LZ4 data is damaged")
		}
		to := make([]byte, size)
		n, err := lz4.UncompressBlock(from.Bytes(), to)
		if err != nil {
			return fmt.Errorf("lz4: %w", err)
		}
		r = bytes.NewReader(to[:n])
	case 3:
		return errors.New("pages compressed by LZO are not read")
	case 5:
		return errors.New("pages in Hadoop's old LZ4 framing are not read; write them with LZ4_RAW, zstd or snappy")
	default:
		return fmt.Errorf("pages of the unknown compression %d", codec)
	}
	if err != nil {
		return fmt.Errorf("a page cannot be decompressed: %w", err)
	}
	r = io.LimitReader(r, size)
	if c.values == nil {
		c.values = bufio.NewReaderSize(r, 64<<10)
	} else {
		c.values.Reset(r)
	}
	return nil
}

// readDictionary reads a page of values that others name by number.
func (c *chunk) readDictionary() error {
	h := c.page
	if h.encoding != encodingPlain && h.encoding != encodingPlainDictionary {
		return fmt.Errorf("values of the encoding %s are not read", encodingName(h.encoding))
	}
	if h.uncompressed > maxDictionary || h.values > h.uncompressed/4 {
		return fmt.Errorf("%d values in %d bytes, want at most %d bytes", h.values, h.uncompressed, maxDictionary)
	}
	if err := c.decompress(c.tee(c.rest), c.codec, h.uncompressed); err != nil {
		return err
	}
	var all bytes.Buffer
	if _, err := io.Copy(&all, c.values); err != nil {
		return err
	}
	b := all.Bytes()
	c.dictionary, c.ends = b[:0], []uint32{}
	for range h.values {
		if len(b) < 4 {
			return errors.New("cut off")
		}
		n := binary.LittleEndian.Uint32(b)
		if b = b[4:]; uint64(n) > uint64(len(b)) {
			return errors.New("cut off")
		}
		c.dictionary = append(c.dictionary, b[:n]...) // it moves to the left
		b = b[n:]
		c.ends = append(c.ends, uint32(len(c.dictionary)))
	}
	return nil
}

// hybrid reads small numbers: runs of equal ones, and groups of 8 packed in bits.
type hybrid struct {
	r      io.ByteReader
	width  int
	equal  uint64 // left of a run
	value  uint32
	groups uint64 // left
	packed [8]uint32
	left   int // in packed
}

// peek is the next number, and how often it is known to come.
func (h *hybrid) peek() (v uint32, n uint64, err error) {
	for {
		switch {
		case h.equal > 0:
			return h.value, h.equal, nil
		case h.left > 0:
			return h.packed[8-h.left], 1, nil
		case h.groups > 0:
			h.groups--
			h.left = 8
			var bits uint64
			have := 0
			for i := range h.packed {
				for have < h.width {
					b, err := h.r.ReadByte()
					if err != nil {
						return 0, 0, cutOff(err)
					}
					bits |= uint64(b) << have
					have += 8
				}
				h.packed[i] = uint32(bits & (1<<h.width - 1))
				bits >>= h.width
				have -= h.width
			}
			continue
		}
		if h.width == 0 {
			return 0, 1, nil // without runs
		}
		head, err := binary.ReadUvarint(h.r)
		if err != nil {
			return 0, 0, cutOff(err)
		}
		if head&1 == 1 {
			h.groups = head >> 1
			continue
		}
		h.equal, h.value = head>>1, 0
		for i := 0; i < h.width; i += 8 {
			b, err := h.r.ReadByte()
			if err != nil {
				return 0, 0, cutOff(err)
			}
			h.value |= uint32(b) << i
		}
	}
}

// take goes behind n numbers, of those that peek knows.
func (h *hybrid) take(n uint64) {
	if h.equal > 0 {
		h.equal -= n
	} else if h.left > 0 {
		h.left -= int(n)
	}
}

func cutOff(err error) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("a page is cut off: %w", err)
}

// readDeltas reads lengths, at most so many, each as its difference to the one before.
func readDeltas(r *bufio.Reader, to []int32, most int64) ([]int32, error) {
	var head [3]uint64
	for i := range head {
		v, err := binary.ReadUvarint(r)
		if err != nil {
			return to, cutOff(err)
		}
		head[i] = v
	}
	block, minis, count := head[0], head[1], head[2]
	value, err := binary.ReadVarint(r)
	if err != nil {
		return to, cutOff(err)
	}
	if count > uint64(most) || count > maxDeltaValues || block == 0 || block > 1<<20 || minis == 0 || minis > 1<<10 || block%minis != 0 || block/minis%8 != 0 {
		return to, fmt.Errorf("%d lengths in blocks of %d and %d parts, want at most %d", count, block, minis, min(most, maxDeltaValues))
	}
	add := func() error {
		if value < 0 || value > 1<<31-1 {
			return fmt.Errorf("a length of %d", value)
		}
		to = append(to, int32(value))
		return nil
	}
	if count > 0 {
		if err := add(); err != nil {
			return to, err
		}
	}
	widths := make([]byte, minis)
	for uint64(len(to)) < count {
		least, err := binary.ReadVarint(r)
		if err == nil {
			_, err = io.ReadFull(r, widths)
		}
		if err != nil {
			return to, cutOff(err)
		}
		for _, width := range widths {
			if uint64(len(to)) == count {
				break
			}
			if width > 64 {
				return to, fmt.Errorf("numbers of %d bits", width)
			}
			var bits bitReader
			for range block / minis {
				delta, err := bits.read(r, int(width))
				if err != nil {
					return to, cutOff(err)
				}
				if uint64(len(to)) == count {
					continue // the part is filled up
				}
				value += least + int64(delta)
				if err := add(); err != nil {
					return to, err
				}
			}
		}
	}
	return to, nil
}

// bitReader reads numbers of up to 64 bits, the lowest ones first.
type bitReader struct {
	bits uint64
	have int
}

func (b *bitReader) read(r io.ByteReader, width int) (v uint64, err error) {
	for got := 0; got < width; {
		if b.have == 0 {
			c, err := r.ReadByte()
			if err != nil {
				return 0, err
			}
			b.bits, b.have = uint64(c), 8
		}
		n := min(width-got, b.have)
		v |= b.bits & (1<<n - 1) << got
		b.bits >>= n
		b.have -= n
		got += n
	}
	return v, nil
}
