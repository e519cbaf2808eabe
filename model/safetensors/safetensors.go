// Package safetensors reads and writes the safetensors format: an 8-byte
// length, a JSON header, raw little-endian tensors. It is our own because
// checkpoints need what the small libraries for it lack: a writer that never
// holds a second copy of the weights, and a reader that trusts no number of
// the file, maps it where it can, and reads any part of a tensor as float32.
package safetensors

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"

	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/internal/narrow"
)

// Tensor describes one tensor of a file.
type Tensor struct {
	Name  string
	DType string // F32, F16, BF16 and I64 can be read; others are listed only
	Shape []int
	begin int64
	end   int64
}

// Size is the number of entries.
func (t Tensor) Size() int {
	n := 1
	for _, d := range t.Shape {
		n *= d
	}
	return n
}

// File is an open file. Its tensors are read on demand.
type File struct {
	name     string
	f        io.ReaderAt
	size     int64
	close    func() error
	mapped   []byte // the whole file, nil where it is not mapped
	data     int64  // offset of the first tensor
	tensors  []Tensor
	index    map[string]int // of each name in tensors
	metadata map[string]string
}

// maxArchived bounds a file of an archive, which is read as a whole.
const maxArchived = 256 << 20

// Limits of a header. The format's own library takes 100 MB; the largest models
// have some thousands of tensors, at some hundred bytes each.
const (
	maxHeader  = 16 << 20
	maxTensors = 1 << 16
	maxDims    = 16
)

var sizes = map[string]int64{"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1}

// Open reads and checks the header: every tensor must lie within the file,
// have the size of its shape, and follow the one before it without a gap.
func Open(name string) (*File, error) {
	f, err := disk.Open(name)
	if err != nil {
		return nil, err
	}
	return open(name, f)
}

// OpenFS opens a file of fsys.
func OpenFS(fsys fs.FS, name string) (*File, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	return open(name, f)
}

// open reads on demand what can be read anywhere, and everything at once from
// an archive.
func open(name string, f fs.File) (*File, error) {
	s := &File{name: name, close: f.Close}
	info, err := f.Stat()
	if err == nil {
		s.size = info.Size()
		if at, ok := f.(io.ReaderAt); ok {
			s.f = at
			if file, ok := f.(*os.File); ok {
				s.mapped = disk.Map(file, s.size)
			}
		} else if s.size > maxArchived {
			err = fmt.Errorf("%d bytes in an archive, want at most %d", s.size, maxArchived)
		} else {
			// The archive's word on the size is not what it holds.
			var all []byte
			if all, err = io.ReadAll(io.LimitReader(f, s.size+1)); int64(len(all)) != s.size && err == nil {
				err = io.ErrUnexpectedEOF
			}
			s.f = bytes.NewReader(all)
		}
	}
	if err == nil {
		err = s.readHeader()
	}
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return s, nil
}

func (s *File) readHeader() error {
	var head [8]byte
	if _, err := s.f.ReadAt(head[:], 0); err != nil {
		return fmt.Errorf("%d bytes are no safetensors file, want at least the header's length", s.size)
	}
	n := binary.LittleEndian.Uint64(head[:])
	if n > uint64(max(0, s.size-8)) {
		return fmt.Errorf("header of %d bytes in a file of %d: cut off, or not a safetensors file", n, s.size)
	}
	if n > maxHeader {
		return fmt.Errorf("header of %d bytes, want at most %d", n, maxHeader)
	}
	header := make([]byte, n)
	if _, err := s.f.ReadAt(header, 8); err != nil && !(errors.Is(err, io.EOF) && int64(n) == s.size-8) {
		return err
	}
	s.data = 8 + int64(n)
	var err error
	if s.tensors, s.metadata, err = parseHeader(header); err != nil {
		return err
	}
	s.index = make(map[string]int, len(s.tensors))
	for i, t := range s.tensors {
		s.index[t.Name] = i
	}
	return checkLayout(s.tensors, s.size-s.data)
}

// parseHeader reads the JSON object key by key, so that a name that comes
// twice is noticed.
func parseHeader(header []byte) (ts []Tensor, meta map[string]string, err error) {
	dec := json.NewDecoder(bytes.NewReader(header))
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		return nil, nil, errors.New("the header is no JSON object")
	}
	seen := map[string]bool{}
	for dec.More() {
		if len(ts) == maxTensors {
			return nil, nil, fmt.Errorf("header: more than %d tensors", maxTensors)
		}
		tok, err := dec.Token()
		if err != nil {
			return nil, nil, fmt.Errorf("header: %w", err)
		}
		name := tok.(string)
		if seen[name] {
			return nil, nil, fmt.Errorf("header: %q comes twice", name)
		}
		seen[name] = true
		if name == "__metadata__" {
			if err := dec.Decode(&meta); err != nil {
				return nil, nil, fmt.Errorf("header: metadata: %w", err)
			}
			continue
		}
		var e struct {
			DType   string  `json:"dtype"`
			Shape   []int64 `json:"shape"`
			Offsets []int64 `json:"data_offsets"`
		}
		if err := dec.Decode(&e); err != nil {
			return nil, nil, fmt.Errorf("header: %s: %w", name, err)
		}
		size, ok := sizes[e.DType]
		if !ok {
			return nil, nil, fmt.Errorf("header: %s: unknown dtype %q", name, e.DType)
		}
		if len(e.Offsets) != 2 || e.Offsets[0] < 0 || e.Offsets[1] < e.Offsets[0] {
			return nil, nil, fmt.Errorf("header: %s: data_offsets %v, want a begin and an end", name, e.Offsets)
		}
		t := Tensor{Name: name, DType: e.DType, begin: e.Offsets[0], end: e.Offsets[1]}
		if len(e.Shape) > maxDims {
			return nil, nil, fmt.Errorf("header: %s: a shape of %d dimensions, want at most %d", name, len(e.Shape), maxDims)
		}
		for _, d := range e.Shape {
			if d < 0 || d > 0 && size > math.MaxInt64/d {
				return nil, nil, fmt.Errorf("header: %s: shape %v is impossible", name, e.Shape)
			}
			size *= d
			t.Shape = append(t.Shape, int(d))
		}
		if size != t.end-t.begin {
			return nil, nil, fmt.Errorf("header: %s: %s %v has %d bytes, data_offsets give %d", name, e.DType, e.Shape, size, t.end-t.begin)
		}
		ts = append(ts, t)
	}
	if _, err := dec.Token(); err != nil {
		return nil, nil, fmt.Errorf("header: %w", err)
	}
	return ts, meta, nil
}

func checkLayout(ts []Tensor, size int64) error {
	at := int64(0)
	for _, t := range inOrder(ts) {
		if t.begin != at {
			return fmt.Errorf("header: %s begins at %d, want %d: tensors overlap or leave a gap", t.Name, t.begin, at)
		}
		at = t.end
	}
	if at != size {
		return fmt.Errorf("tensors take %d bytes, the file has %d: cut off or damaged", at, size)
	}
	return nil
}

// Close closes the file.
func (s *File) Close() error {
	err := disk.Unmap(s.mapped)
	s.mapped = nil
	return errors.Join(err, s.close())
}

// Tensors lists the tensors in the order of the header.
func (s *File) Tensors() []Tensor { return s.tensors }

// Metadata is the header's free-form text, which may be nil.
func (s *File) Metadata() map[string]string { return s.metadata }

// Lookup finds a tensor.
func (s *File) Lookup(name string) (Tensor, bool) {
	i, ok := s.index[name]
	if !ok {
		return Tensor{}, false
	}
	return s.tensors[i], true
}

func (s *File) find(name, dtype string) (Tensor, error) {
	t, ok := s.Lookup(name)
	if !ok {
		return t, fmt.Errorf("%s: no tensor %s", s.name, name)
	}
	if t.DType != dtype {
		return t, fmt.Errorf("%s: %s is %s, want %s", s.name, name, t.DType, dtype)
	}
	return t, nil
}

func (s *File) read(t Tensor, dst []byte) error {
	if _, err := s.f.ReadAt(dst, s.data+t.begin); err != nil {
		return fmt.Errorf("%s: %s: %w", s.name, t.Name, err)
	}
	return nil
}

// expect checks that there is a tensor of type F32 and the given shape.
func (s *File) expect(name string, shape []int) error {
	t, err := s.find(name, "F32")
	if err != nil {
		return err
	}
	return s.shaped(t, shape)
}

func (s *File) shaped(t Tensor, shape []int) error {
	if !slices.Equal(t.Shape, shape) {
		return fmt.Errorf("%s: %s has shape %v, want %v", s.name, t.Name, t.Shape, shape)
	}
	return nil
}

// Int64s reads a tensor of type I64.
func (s *File) Int64s(name string) ([]int64, error) {
	t, err := s.find(name, "I64")
	if err != nil {
		return nil, err
	}
	b := make([]byte, 8*t.Size())
	if err := s.read(t, b); err != nil {
		return nil, err
	}
	x := make([]int64, t.Size())
	for i := range x {
		x[i] = int64(binary.LittleEndian.Uint64(b[8*i:]))
	}
	return x, nil
}

// Expect checks that there is a tensor of a type and shape.
func (s *File) Expect(name, dtype string, shape []int) error {
	t, err := s.find(name, dtype)
	if err != nil {
		return err
	}
	return s.shaped(t, shape)
}

// Bytes reads a tensor of a type and shape as its bytes.
func (s *File) Bytes(name, dtype string, shape []int) ([]byte, error) {
	t, err := s.find(name, dtype)
	if err == nil {
		err = s.shaped(t, shape)
	}
	if err != nil {
		return nil, err
	}
	b := make([]byte, t.end-t.begin)
	return b, s.read(t, b)
}

// Value is a tensor to write: Data, or, where Stream is not nil, the entries that
// it passes to write, in order; the file has them as Type, F32 where it is empty. Where
// DType is not empty, the tensor is of that type, and Raw gives its bytes when its turn
// comes.
type Value struct {
	Name   string
	Shape  []int
	Type   narrow.Type
	DType  string
	Raw    func() ([]byte, error)
	Data   []float32
	Stream func(write func(x []float32) error) error
}

// Write writes the tensors in the order given. The same input gives the same
// bytes.
func Write(w io.Writer, values []Value, metadata map[string]string) error {
	var b bytes.Buffer
	b.WriteByte('{')
	sep := ""
	if metadata != nil {
		j, err := json.Marshal(metadata)
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, `"__metadata__":%s`, j)
		sep = ","
	}
	at := int64(0)
	for _, v := range values {
		name, err := json.Marshal(v.Name)
		if err != nil {
			return err
		}
		shape, err := json.Marshal(append([]int{}, v.Shape...))
		if err != nil {
			return err
		}
		end := at + v.Bytes()
		fmt.Fprintf(&b, `%s%s:{"dtype":"%s","shape":%s,"data_offsets":[%d,%d]}`, sep, name, v.dtype(), shape, at, end)
		at, sep = end, ","
	}
	b.WriteByte('}')
	for b.Len()%8 != 0 {
		b.WriteByte(' ')
	}
	if err := binary.Write(w, binary.LittleEndian, uint64(b.Len())); err != nil {
		return err
	}
	if _, err := w.Write(b.Bytes()); err != nil {
		return err
	}
	for _, v := range values {
		if err := v.write(w); err != nil {
			return err
		}
	}
	return nil
}

// size is the number of entries that the shape asks for.
func (v Value) size() int64 { return int64(Tensor{Shape: v.Shape}.Size()) }

func (v Value) dtype() string { return cmp.Or(v.DType, string(v.Type), string(narrow.F32)) }

// Bytes is how many bytes the entries take in the file.
func (v Value) Bytes() int64 { return v.size() * sizes[v.dtype()] }

// write writes the entries as they come: as many as the header says.
func (v Value) write(w io.Writer) error {
	left := v.size()
	var scratch []byte
	if v.DType != "" {
		b, err := v.Raw()
		if err == nil && int64(len(b)) != v.Bytes() {
			err = fmt.Errorf("%s: %d bytes, %s of shape %v has %d", v.Name, len(b), v.DType, v.Shape, v.Bytes())
		}
		if err == nil {
			_, err = w.Write(b)
		}
		return err
	}
	write := func(x []float32) error {
		if left -= int64(len(x)); left < 0 {
			return fmt.Errorf("%s: more than the %d entries of shape %v", v.Name, v.size(), v.Shape)
		}
		b := narrow.Bytes(x)
		if v.dtype() != string(narrow.F32) {
			var err error
			if scratch, err = v.Type.Append(scratch[:0], x); err != nil {
				return fmt.Errorf("%s: %w", v.Name, err)
			}
			b = scratch
		}
		_, err := w.Write(b)
		return err
	}
	stream := v.Stream
	if stream == nil {
		stream = func(write func([]float32) error) error { return write(v.Data) }
	}
	if err := stream(write); err != nil {
		return err
	}
	if left > 0 {
		return fmt.Errorf("%s: %d of the %d entries of shape %v are missing", v.Name, left, v.size(), v.Shape)
	}
	return nil
}
