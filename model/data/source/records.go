package source

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// records are the documents of one file.
type records interface {
	next() (Piece, error)
	// position is where the next piece begins, but for the number of the file.
	position() Position
}

// text is a text file: one document, or with cut many.
type text struct {
	r     *content
	cut   bool
	limit int
	buf   []byte // of limit and one: whether there is more decides where it ends
	have  int    // bytes in buf
	used  int    // bytes of buf that were returned
	at    Position
	done  bool
}

func newText(r *content, cut bool, at Position) *text {
	t := &text{r: r, cut: cut, limit: MaxPiece, at: at}
	if cut {
		t.limit = CutSize
	}
	t.buf = make([]byte, t.limit+1)
	return t
}

func (t *text) next() (Piece, error) {
	if t.done {
		return Piece{}, io.EOF
	}
	t.have = copy(t.buf, t.buf[t.used:t.have])
	t.used = 0
	end := false
	for t.have < len(t.buf) && !end {
		n, err := t.r.Read(t.buf[t.have:])
		t.have += n
		if end = err != nil; end && err != io.EOF && !t.r.cut() {
			return Piece{}, t.r.explain(err)
		}
	}
	p := Piece{Text: t.buf[:t.have], First: t.at.Inner == 0, Last: true}
	if !end || t.have > t.limit {
		n := cutAt(t.buf[:t.have], t.limit)
		p.Text, p.Last = t.buf[:n], false
	}
	t.used = len(p.Text)
	t.done = p.Last
	if t.cut {
		p.First, p.Last = true, true
		t.at.Offset += int64(t.used)
	} else if t.at.Inner += int64(t.used); p.Last {
		t.at = Position{Offset: t.at.Offset + t.at.Inner}
	}
	return p, nil
}

func (t *text) position() Position { return t.at }

// maxLine bounds a line of JSONL.
const maxLine = 64 << 20

// jsonl is a file of JSON lines.
type jsonl struct {
	r     *content
	field string
	long  []byte // a line that does not fit the reader's buffer
	at    Position
	size  int64 // of the line at work
	rest  pieces
	busy  bool // with rest
	inner int64
}

func newJSONL(r *content, field string, at Position) *jsonl {
	j := &jsonl{r: r, field: field, at: at, inner: at.Inner}
	j.at.Inner = 0
	return j
}

func (j *jsonl) next() (Piece, error) {
	for !j.busy {
		line, err := j.line()
		if err == io.EOF {
			return Piece{}, err
		}
		if err != nil {
			return Piece{}, fmt.Errorf("line %d: %w", j.at.Record+1, err)
		}
		j.size = int64(len(line))
		if j.at.Record == 0 {
			line = bytes.TrimPrefix(line, []byte("\xef\xbb\xbf"))
		}
		if len(bytes.TrimSpace(line)) == 0 {
			j.advance()
			continue
		}
		value, err := textField(line, j.field)
		if err != nil && err != errNull {
			return Piece{}, fmt.Errorf("line %d: %w", j.at.Record+1, err)
		}
		if j.inner > int64(len(value)) {
			return Piece{}, fmt.Errorf("line %d has another text than before", j.at.Record+1)
		}
		j.rest, j.busy = pieces{value[j.inner:], j.inner}, true
		j.inner = 0
	}
	p := j.rest.next()
	j.at.Inner = j.rest.inner
	if p.Last {
		j.busy = false
		j.advance()
	}
	return p, nil
}

func (j *jsonl) advance() {
	j.at = Position{Record: j.at.Record + 1, Offset: j.at.Offset + j.size}
}

// line is the next line with its end, which the last one may lack. The end of a stream
// that was cut is no line.
func (j *jsonl) line() ([]byte, error) {
	line, err := j.r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		long := append(j.long[:0], line...)
		for errors.Is(err, bufio.ErrBufferFull) {
			if len(long) > maxLine {
				return nil, fmt.Errorf("longer than %d MiB", maxLine>>20)
			}
			line, err = j.r.ReadSlice('\n')
			if need := len(long) + len(line); need > cap(long) {
				grown := make([]byte, len(long), min(4*need, maxLine+2*j.r.Size()))
				copy(grown, long)
				long = grown
			}
			long = append(long, line...)
		}
		j.long, line = long, long
	}
	switch {
	case err == nil:
		return line, nil
	case j.r.cut():
		return nil, io.EOF
	case err != io.EOF:
		return nil, j.r.explain(err)
	case len(line) == 0:
		return nil, io.EOF
	}
	return line, nil
}

func (j *jsonl) position() Position { return j.at }
