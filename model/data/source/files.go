package source

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/structuredffn/sffn/internal/disk"
)

// Format is how a file holds documents.
type Format string

// Auto goes by the names of files; a name that says nothing is that of a text file.
// Streams hold text, or JSON lines where a field is named.
const (
	Auto    Format = "auto"
	Text    Format = "text"
	JSONL   Format = "jsonl"
	Parquet Format = "parquet"
)

// Formats are the names of all formats.
var Formats = []string{string(Auto), string(Text), string(JSONL), string(Parquet)}

// DefaultField is the name of the field or column that has the text.
const DefaultField = "text"

// Files is a source of files, of those below folders, and of streams.
type Files struct {
	Named string
	// Paths are files, folders, pipes and Stdin.
	Paths []string
	// Format is Auto where empty.
	Format Format
	// Field has the text in JSONL and Parquet; DefaultField where empty.
	Field string
	// Except, where not empty, is a folder that is left out of the others, such as
	// the one to which the documents go.
	Except string
}

// except is the folder that is left out, nil where there is none.
func (s *Files) except() fs.FileInfo {
	info, err := os.Stat(s.Except)
	if err != nil {
		return nil
	}
	return info
}

// Name implements Source.
func (s *Files) Name() string { return s.Named }

func (s *Files) field() string {
	if s.Field == "" {
		return DefaultField
	}
	return s.Field
}

// format of a file; below a folder it may turn out to be none.
func (s *Files) format(f file) (Format, error) {
	switch {
	case s.Format != Auto && s.Format != "":
		return s.Format, nil
	case f.stream && s.Field != "":
		return JSONL, nil
	case !f.stream && isJSON(f.name):
		return s.lines(f)
	}
	return formatOf(f.name), nil
}

// lines tells what a .json file is, by its first line: JSON lines, if that is an object, which
// below a folder has the field. There any other is text, as source code has them.
func (s *Files) lines(f file) (Format, error) {
	c, err := openFile(f.name, 0)
	if err != nil {
		return "", err
	}
	defer c.Close()
	line, err := newJSONL(c, "", Position{}).line()
	line = bytes.TrimSpace(bytes.TrimPrefix(line, []byte("\xef\xbb\xbf")))
	object := err == nil && json.Valid(line) && line[0] == '{'
	if object && f.inFolder {
		_, err := textField(line, s.field())
		object = err == nil || err == errNull
	}
	switch {
	case object:
		return JSONL, nil
	case f.inFolder:
		return Text, nil
	}
	return "", fmt.Errorf("%s: the first line is no whole JSON object: name the format, jsonl or text", f.name)
}

// file is a file of the source.
type file struct {
	found
	stream, inFolder bool
}

// list lists the files of a source, one after the other.
type list struct {
	ctx    context.Context
	paths  []string
	except fs.FileInfo // nil for none
	walk   *walker
	links  int // that were passed over
}

func (l *list) next() (file, error) {
	for {
		if err := l.ctx.Err(); err != nil {
			return file{}, err
		}
		if l.walk != nil {
			f, err := l.walk.next()
			if err != io.EOF {
				return file{found: f, inFolder: true}, err
			}
			l.links += l.walk.links
			l.walk = nil
		}
		if len(l.paths) == 0 {
			return file{}, io.EOF
		}
		p := l.paths[0]
		l.paths = l.paths[1:]
		if p == Stdin {
			info, err := os.Stdin.Stat()
			return file{found: found{name: p, path: p, info: info}, stream: true}, err
		}
		info, err := os.Stat(p)
		switch {
		case err != nil:
			return file{}, err
		case info.IsDir():
			if l.walk, err = newWalker(l.ctx, p); err != nil {
				return file{}, err
			}
			l.walk.except = l.except
		case info.Mode().IsRegular():
			return file{found: found{name: p, path: filepath.Base(p), info: info}}, nil
		case isStream(info.Mode()):
			return file{found: found{name: p, path: p, info: info}, stream: true}, nil
		default:
			return file{}, fmt.Errorf("%s is %s, want a file, a folder or a pipe", p, disk.Kind(info.Mode()))
		}
	}
}

// fingerprint sums up what tells files from others.
type fingerprint struct{ hash.Hash }

func newFingerprint() fingerprint { return fingerprint{sha256.New()} }

func (f fingerprint) add(name string, info fs.FileInfo) {
	fmt.Fprintf(f, "%q %d %d\n", name, info.Size(), info.ModTime().UnixNano())
}

func (f fingerprint) sum() string { return hex.EncodeToString(f.Sum(nil)[:16]) }

// Scan implements Source.
func (s *Files) Scan(ctx context.Context) (Inventory, error) {
	inv := Inventory{Field: s.Field}
	print := newFingerprint()
	fmt.Fprintf(print, "%s %q\n", s.Format, s.field())
	l := &list{ctx: ctx, paths: s.Paths, except: s.except()}
	for {
		f, err := l.next()
		if err == io.EOF {
			inv.Fingerprint = print.sum()
			return inv, nil
		}
		if err != nil {
			return inv, err
		}
		format, err := s.format(f)
		if err != nil {
			return inv, err
		}
		inv.Fields = inv.Fields || format != Text
		if f.stream {
			inv.Stream = true
			if format == Text && inv.Files < FewFiles {
				inv.Files++
			}
			continue
		}
		inv.Bytes += f.info.Size()
		print.add(f.name, f.info)
		if format == Text && inv.Files < FewFiles {
			ok, err := s.isOne(f)
			if err != nil {
				return inv, err
			}
			if ok {
				inv.Files++
			}
		}
	}
}

// isOne tells whether a text file counts: one below a folder may be none, and empty
// ones are no documents.
func (s *Files) isOne(f file) (bool, error) {
	if !f.inFolder {
		return true, nil
	}
	c, err := openFile(f.name, 0)
	if err != nil {
		return false, err
	}
	defer c.Close()
	what, err := c.binary()
	if err != nil {
		return false, fmt.Errorf("%s: %w", f.name, c.explain(err))
	}
	_, err = c.Peek(1)
	return what == "" && err == nil, nil
}

// Open implements Source.
func (s *Files) Open(ctx context.Context, from Position, cut bool) (Reader, error) {
	r := &files{ctx: ctx, s: s, cut: cut, list: list{ctx: ctx, paths: s.Paths, except: s.except()}, at: from, number: -1}
	for r.number+1 < from.File {
		f, err := r.list.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		r.number++
		if !f.stream {
			r.behind += f.info.Size()
		}
	}
	return r, nil
}

// files reads one file after the other.
type files struct {
	ctx    context.Context
	s      *Files
	cut    bool
	list   list
	number int64 // of the file at work
	file   file
	open   *content // nil between files
	recs   records
	at     Position
	behind int64 // bytes of the files before
	found  bool  // some file had the format
}

func (r *files) Next() (Piece, error) {
	for {
		if r.recs == nil {
			if err := r.begin(); err != nil {
				return Piece{}, err
			}
			continue
		}
		if err := r.ctx.Err(); err != nil && !r.file.stream {
			return Piece{}, err
		}
		p, err := r.recs.next()
		if err == nil {
			r.at = r.recs.position()
			r.at.File = r.number
			return p, nil
		}
		if err != io.EOF {
			return Piece{}, fmt.Errorf("%s: %w", r.name(), err)
		}
		if err := r.end(); err != nil {
			return Piece{}, err
		}
	}
}

func (r *files) name() string { return streamName(r.file.name) }

// begin opens the next file.
func (r *files) begin() error {
	f, err := r.list.next()
	if err == io.EOF && !r.found && r.list.links > 0 && r.number < 0 {
		return fmt.Errorf("%s: there are %d links, which are not followed, and no files", r.s.Paths[0], r.list.links)
	}
	if err != nil {
		return err
	}
	r.number++
	r.file = f
	at := r.at
	if at.File != r.number {
		at = Position{File: r.number}
	}
	r.at = at
	format, err := r.s.format(f)
	if err != nil {
		return err
	}
	if format == Parquet {
		if f.stream {
			return fmt.Errorf("%s: Parquet is read from its end, a stream has none; save it to a file first", r.name())
		}
		p, err := openParquet(f.name, r.s.field(), at, f.inFolder && r.s.Format == Parquet)
		if err == errOther {
			return r.end()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		r.recs, r.found = p, true
		return nil
	}
	if f.stream {
		r.open, err = openStream(r.ctx, f.name)
	} else {
		r.open, err = openFile(f.name, at.Offset+textInner(format, at))
	}
	if err != nil {
		return err
	}
	if at.Offset == 0 && at.Inner == 0 && (f.inFolder || format == Text && r.s.Format != Text) {
		what, err := r.open.binary()
		if err != nil && !r.open.cut() {
			return fmt.Errorf("%s: %w", r.name(), r.open.explain(err))
		}
		if what != "" && f.inFolder {
			return r.end()
		}
		if what != "" {
			return fmt.Errorf("%s is %s; or name the format text to take it as it is", r.name(), what)
		}
	}
	r.found = true
	if format == JSONL {
		r.recs = newJSONL(r.open, r.s.field(), at)
	} else {
		r.recs = newText(r.open, r.cut, at)
	}
	return nil
}

// textInner is the place in a text file's only record, which may be sought.
func textInner(f Format, at Position) int64 {
	if f == Text {
		return at.Inner
	}
	return 0
}

// end closes the file.
func (r *files) end() error {
	if !r.file.stream {
		r.behind += r.file.info.Size()
	}
	r.at = Position{File: r.number + 1}
	return r.close()
}

func (r *files) close() error {
	var err error
	if c, ok := r.recs.(io.Closer); ok {
		err = c.Close()
	}
	if r.open != nil {
		err = errors.Join(err, r.open.Close())
	}
	r.open, r.recs = nil, nil
	return err
}

func (r *files) Position() Position { return r.at }

func (r *files) Read() int64 {
	n := r.behind
	if r.open != nil && !r.file.stream {
		n += min(r.open.bytes.n.Load(), r.file.info.Size())
	} else if p, ok := r.recs.(*parquet); ok {
		n += p.read
	}
	return n
}

func (r *files) Close() error { return r.close() }
