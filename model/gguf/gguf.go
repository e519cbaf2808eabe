// Package gguf writes and reads the format of llama.cpp's models, version 3: a
// header of metadata and of tensors' names, types and shapes, then the tensors, each
// aligned. Of the types of tensors it has those of floats that are not quantised.
//
// Shapes are row-major here, [rows, columns]; the file has them the other way round.
// The writer never holds a second copy of the weights, and the reader trusts no number
// of the file.
package gguf

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/structuredffn/sffn/internal/narrow"
)

// Entry is a piece of metadata: a uint8, int8, uint16, int16, uint32, int32, uint64,
// int64, float32, float64, bool or string, or a slice of one of these.
type Entry struct {
	Key   string
	Value any
}

// Metadata are entries in the order of the file.
type Metadata []Entry

// Add adds an entry.
func (m *Metadata) Add(key string, value any) { *m = append(*m, Entry{key, value}) }

// Tensor is a tensor to write: Stream passes its entries to write, in row-major order.
type Tensor struct {
	Name   string
	Shape  []int
	Type   narrow.Type
	Stream func(write func(x []float32) error) error
}

const (
	magic   = "GGUF"
	version = 3
	// alignment is that of tensors where general.alignment does not say another.
	alignment = 32
)

// kind is a type of metadata; the numbers are the file's.
type kind uint32

const (
	kindUint8 kind = iota
	kindInt8
	kindUint16
	kindInt16
	kindUint32
	kindInt32
	kindFloat32
	kindBool
	kindString
	kindArray
	kindUint64
	kindInt64
	kindFloat64
)

// types are the file's numbers of the types of tensors.
var types = map[narrow.Type]uint32{narrow.F32: 0, narrow.F16: 1, narrow.BF16: 30}

// writer keeps the first error, and counts.
type writer struct {
	b   *bufio.Writer
	n   int64
	err error
}

func (w *writer) Write(b []byte) (int, error) {
	if w.err == nil {
		_, w.err = w.b.Write(b)
		w.n += int64(len(b))
	}
	return len(b), w.err
}

// fixed writes numbers, and flags as a byte.
func (w *writer) fixed(v any) {
	if w.err == nil {
		w.err = binary.Write(w, binary.LittleEndian, v)
	}
}

func (w *writer) text(s string) {
	w.fixed(uint64(len(s)))
	io.WriteString(w, s)
}

// align fills up to the next tensor.
func (w *writer) align() {
	w.Write(make([]byte, padding(w.n)))
}

func padding(n int64) int64 { return (alignment - n%alignment) % alignment }

// Write writes a file. The same input gives the same bytes.
func Write(out io.Writer, metadata Metadata, tensors []Tensor) error {
	w := &writer{b: bufio.NewWriterSize(out, 1<<16)}
	io.WriteString(w, magic)
	w.fixed(uint32(version))
	w.fixed(uint64(len(tensors)))
	w.fixed(uint64(len(metadata)))
	for _, e := range metadata {
		w.text(e.Key)
		if err := w.value(e.Value); err != nil {
			return fmt.Errorf("%s: %w", e.Key, err)
		}
	}
	at := int64(0)
	for _, t := range tensors {
		number, ok := types[t.Type]
		if !ok {
			return fmt.Errorf("%s: unknown type %q", t.Name, t.Type)
		}
		w.text(t.Name)
		w.fixed(uint32(len(t.Shape)))
		for i := range t.Shape {
			w.fixed(uint64(t.Shape[len(t.Shape)-1-i]))
		}
		w.fixed(number)
		w.fixed(uint64(at))
		size := t.size() * int64(t.Type.Size())
		at += size + padding(size)
	}
	w.align()
	for _, t := range tensors {
		if err := t.write(w); err != nil {
			return fmt.Errorf("%s: %w", t.Name, err)
		}
		w.align()
	}
	return errors.Join(w.err, w.b.Flush())
}

// value writes the type of an entry and the entry.
func (w *writer) value(v any) error {
	switch v := v.(type) {
	case string:
		w.fixed(kindString)
		w.text(v)
	case []string:
		w.fixed(kindArray)
		w.fixed(kindString)
		w.fixed(uint64(len(v)))
		for _, s := range v {
			w.text(s)
		}
	default:
		k, n := kindOf(v)
		if k == kindArray {
			return fmt.Errorf("%T is no type of metadata", v)
		}
		if n >= 0 {
			w.fixed(kindArray)
		}
		w.fixed(k)
		if n >= 0 {
			w.fixed(uint64(n))
		}
		w.fixed(v)
	}
	return w.err
}

// kindOf is the type of a number or flag, or of those of a slice, which has n; n is -1
// of one alone. It is kindArray for what is neither.
func kindOf(v any) (k kind, n int) {
	switch v := v.(type) {
	case uint8:
		return kindUint8, -1
	case int8:
		return kindInt8, -1
	case uint16:
		return kindUint16, -1
	case int16:
		return kindInt16, -1
	case uint32:
		return kindUint32, -1
	case int32:
		return kindInt32, -1
	case float32:
		return kindFloat32, -1
	case bool:
		return kindBool, -1
	case uint64:
		return kindUint64, -1
	case int64:
		return kindInt64, -1
	case float64:
		return kindFloat64, -1
	case []uint8:
		return kindUint8, len(v)
	case []int8:
		return kindInt8, len(v)
	case []uint16:
		return kindUint16, len(v)
	case []int16:
		return kindInt16, len(v)
	case []uint32:
		return kindUint32, len(v)
	case []int32:
		return kindInt32, len(v)
	case []float32:
		return kindFloat32, len(v)
	case []bool:
		return kindBool, len(v)
	case []uint64:
		return kindUint64, len(v)
	case []int64:
		return kindInt64, len(v)
	case []float64:
		return kindFloat64, len(v)
	}
	return kindArray, 0
}

// size is the number of entries that the shape asks for.
func (t Tensor) size() int64 {
	n := int64(1)
	for _, d := range t.Shape {
		n *= int64(d)
	}
	return n
}

// write writes the entries as they come: as many as the header says.
func (t Tensor) write(w *writer) error {
	left := t.size()
	var scratch []byte
	err := t.Stream(func(x []float32) (err error) {
		if left -= int64(len(x)); left < 0 {
			return fmt.Errorf("more than the %d entries of shape %v", t.size(), t.Shape)
		}
		if scratch, err = t.Type.Append(scratch[:0], x); err != nil {
			return err
		}
		_, err = w.Write(scratch)
		return err
	})
	if err == nil && left > 0 {
		err = fmt.Errorf("%d of the %d entries of shape %v are missing", left, t.size(), t.Shape)
	}
	return err
}

// Limits of a header. The largest vocabularies that are in use have some 300,000
// tokens, and the largest models some thousands of tensors.
const (
	maxEntries = 1 << 16
	maxTensors = 1 << 16
	maxDims    = 4
	maxText    = 16 << 20 // bytes of a string
	maxHeader  = 1 << 30  // bytes of the whole header
)

// Info describes a tensor of a file.
type Info struct {
	Name  string
	Shape []int
	Type  narrow.Type // empty for one that is not read here
	// Number is the type's in the file.
	Number uint32
	offset int64 // from the first tensor
}

// Size is the number of entries.
func (t Info) Size() int { return int(Tensor{Shape: t.Shape}.size()) }

// bytes is how many the entries take, at least: of a type that is not read, nothing is
// known.
func (t Info) bytes() int64 { return int64(t.Size() * t.Type.Size()) }

// File is a file that is open.
type File struct {
	r        io.ReaderAt
	data     int64
	metadata Metadata
	values   map[string]any
	tensors  []Info
	index    map[string]int
}

// Metadata lists the entries in the order of the file.
func (f *File) Metadata() Metadata { return f.metadata }

// Value is that of an entry, nil where there is none.
func (f *File) Value(key string) any { return f.values[key] }

// Tensors lists the tensors in the order of the file.
func (f *File) Tensors() []Info { return f.tensors }

// Lookup finds a tensor.
func (f *File) Lookup(name string) (Info, bool) {
	i, ok := f.index[name]
	if !ok {
		return Info{}, false
	}
	return f.tensors[i], true
}

// Float32s reads a tensor of F32, F16 or BF16.
func (f *File) Float32s(name string) ([]float32, error) {
	t, ok := f.Lookup(name)
	switch {
	case !ok:
		return nil, fmt.Errorf("no tensor %.100q", name)
	case t.Type == "":
		return nil, fmt.Errorf("%.100q has type %d, want F32, F16 or BF16", name, t.Number)
	}
	b := make([]byte, t.Size()*t.Type.Size())
	if n, err := f.r.ReadAt(b, f.data+t.offset); n < len(b) {
		return nil, fmt.Errorf("%.100q: %w", name, err)
	}
	x := make([]float32, t.Size())
	t.Type.Widen(x, b)
	return x, nil
}

// Read reads the header of a file of so many bytes: every tensor must lie within it.
func Read(r io.ReaderAt, size int64) (*File, error) {
	h := &header{b: bufio.NewReader(io.NewSectionReader(r, 0, min(size, maxHeader))), size: size}
	f := &File{r: r, values: map[string]any{}, index: map[string]int{}}
	if err := f.read(h, size); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *File) read(h *header, size int64) error {
	if begin := h.bytes(4); h.err != nil || string(begin) != magic {
		return errors.New("no GGUF file: it does not begin with GGUF")
	}
	if v := h.uint32(); h.err == nil && v != version {
		return fmt.Errorf("version %d, want %d", v, version)
	}
	tensors, entries := h.uint64(), h.uint64()
	switch {
	case h.err != nil:
		return h.err
	case tensors > maxTensors:
		return fmt.Errorf("%d tensors, want at most %d", tensors, maxTensors)
	case entries > maxEntries:
		return fmt.Errorf("%d pieces of metadata, want at most %d", entries, maxEntries)
	}
	for range entries {
		key := h.text()
		v := h.value()
		if h.err != nil {
			return fmt.Errorf("metadata %.100q: %w", key, h.err)
		}
		if _, ok := f.values[key]; ok {
			return fmt.Errorf("metadata %.100q comes twice", key)
		}
		f.metadata = append(f.metadata, Entry{key, v})
		f.values[key] = v
	}
	for range tensors {
		t := Info{Name: h.text()}
		dims := h.uint32()
		if h.err == nil && dims > maxDims {
			return fmt.Errorf("tensor %.100q: %d dimensions, want at most %d", t.Name, dims, maxDims)
		}
		entries := int64(1)
		for range dims {
			if h.err != nil {
				break
			}
			d := h.uint64()
			if d > math.MaxInt64/4 || d > 0 && entries > math.MaxInt64/4/int64(d) {
				return fmt.Errorf("tensor %.100q: a dimension of %d is impossible", t.Name, d)
			}
			entries *= int64(d)
			t.Shape = append([]int{int(d)}, t.Shape...)
		}
		t.Number = h.uint32()
		offset := h.uint64()
		if h.err != nil {
			return fmt.Errorf("tensor %.100q: %w", t.Name, h.err)
		}
		for typ, number := range types {
			if number == t.Number {
				t.Type = typ
			}
		}
		if _, ok := f.index[t.Name]; ok {
			return fmt.Errorf("tensor %.100q comes twice", t.Name)
		}
		if offset > uint64(size) {
			return fmt.Errorf("tensor %.100q begins at %d in a file of %d bytes", t.Name, offset, size)
		}
		t.offset = int64(offset)
		f.index[t.Name] = len(f.tensors)
		f.tensors = append(f.tensors, t)
	}
	align := int64(alignment)
	switch v := f.values["general.alignment"].(type) {
	case nil:
	case uint32:
		if align = int64(v); align == 0 || align&(align-1) != 0 || align > 1<<20 {
			return fmt.Errorf("general.alignment is %d, want a power of two", v)
		}
	default:
		return fmt.Errorf("general.alignment is %T, want uint32", v)
	}
	f.data = (h.n + align - 1) / align * align
	order := slices.Clone(f.tensors)
	slices.SortStableFunc(order, func(a, b Info) int { return cmp.Compare(a.offset, b.offset) })
	last := Info{}
	for _, t := range order {
		switch end := f.data + t.offset + t.bytes(); {
		case t.offset%align != 0:
			return fmt.Errorf("tensor %.100q begins at %d, want a multiple of %d", t.Name, t.offset, align)
		case t.offset < last.offset+last.bytes():
			return fmt.Errorf("tensors %.100q and %.100q overlap", last.Name, t.Name)
		case end > size || t.offset > size-f.data:
			return fmt.Errorf("tensor %.100q ends at %d in a file of %d bytes: cut off", t.Name, end, size)
		}
		last = t
	}
	return nil
}

// header reads on, and keeps the first error.
type header struct {
	b    *bufio.Reader
	n    int64
	size int64 // of the file
	err  error
}

// bytes reads so many. What a file merely claims is not allocated.
func (h *header) bytes(n uint64) []byte {
	if h.err == nil && n > uint64(max(0, h.size-h.n)) {
		h.err = fmt.Errorf("%d bytes are announced, and %d are left: cut off", n, h.size-h.n)
	}
	if h.err != nil {
		return nil
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(h.b, b); err != nil {
		h.err = errors.New("cut off")
		return nil
	}
	h.n += int64(n)
	return b
}

func (h *header) uint32() uint32 {
	if b := h.bytes(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (h *header) uint64() uint64 {
	if b := h.bytes(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (h *header) text() string {
	n := h.uint64()
	if h.err == nil && n > maxText {
		h.err = fmt.Errorf("a string of %d bytes, want at most %d", n, maxText)
	}
	return string(h.bytes(n))
}

// value reads the type of an entry and the entry.
func (h *header) value() any {
	switch k := kind(h.uint32()); k {
	case kindString:
		return h.text()
	case kindArray:
		of, n := kind(h.uint32()), h.uint64()
		if of != kindString {
			return h.numbers(of, n, true)
		}
		var all []string
		for i := uint64(0); i < n && h.err == nil; i++ {
			all = append(all, h.text())
		}
		return all
	default:
		return h.numbers(k, 1, false)
	}
}

// numbers reads a number or flag, or a slice of them.
func (h *header) numbers(k kind, n uint64, slice bool) any {
	switch k {
	case kindUint8:
		return some[uint8](h, n, slice)
	case kindInt8:
		return some[int8](h, n, slice)
	case kindUint16:
		return some[uint16](h, n, slice)
	case kindInt16:
		return some[int16](h, n, slice)
	case kindUint32:
		return some[uint32](h, n, slice)
	case kindInt32:
		return some[int32](h, n, slice)
	case kindFloat32:
		return some[float32](h, n, slice)
	case kindBool:
		return some[bool](h, n, slice)
	case kindUint64:
		return some[uint64](h, n, slice)
	case kindInt64:
		return some[int64](h, n, slice)
	case kindFloat64:
		return some[float64](h, n, slice)
	}
	if h.err == nil {
		h.err = fmt.Errorf("unknown type %d", k)
	}
	return nil
}

func some[T any](h *header, n uint64, slice bool) any {
	var zero T
	size := uint64(binary.Size(zero))
	if n > math.MaxUint64/size {
		n = math.MaxUint64 / size // more than any file has
	}
	b := h.bytes(n * size)
	if h.err != nil {
		return nil
	}
	all := make([]T, n)
	if _, err := binary.Decode(b, binary.LittleEndian, all); err != nil {
		h.err = err
		return nil
	}
	if slice {
		return all
	}
	return all[0]
}
