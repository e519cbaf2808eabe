package safetensors

import (
	"fmt"

	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/internal/narrow"
)

// Float says that a tensor is read as float32, which holds every value of its
// type: F32, F16 or BF16.
func (t Tensor) Float() bool { return narrow.Type(t.DType).Size() > 0 }

// Float32s reads a tensor of F32, F16 or BF16.
func (s *File) Float32s(name string) ([]float32, error) {
	t, err := s.floats(name)
	if err != nil {
		return nil, err
	}
	x := make([]float32, t.Size())
	return x, s.readPart(x, t, 0)
}

// ReadFloat32s reads a tensor of F32, F16 or BF16 and of the given shape into dst.
func (s *File) ReadFloat32s(dst []float32, name string, shape []int) error {
	t, err := s.floats(name)
	if err == nil {
		err = s.shaped(t, shape)
	}
	if err == nil && len(dst) != t.Size() {
		err = fmt.Errorf("%s: %s has %d entries, there is room for %d", s.name, name, t.Size(), len(dst))
	}
	if err != nil {
		return err
	}
	return s.readPart(dst, t, 0)
}

// ReadPart reads the entries of a tensor of F32, F16 or BF16 from entry from on, in
// row-major order, as many as dst has.
func (s *File) ReadPart(dst []float32, name string, from int) error {
	t, err := s.floats(name)
	if err != nil {
		return err
	}
	if from < 0 || len(dst) > t.Size()-from {
		return fmt.Errorf("%s: entries %d to %d of %s, which has %d", s.name, from, from+len(dst), name, t.Size())
	}
	return s.readPart(dst, t, from)
}

// ReadColumns reads columns [lo, hi) of a matrix [rows, columns] of F32, F16 or
// BF16 as the rows of dst, [hi - lo, rows].
func (s *File) ReadColumns(dst []float32, name string, lo, hi int) error {
	t, err := s.floats(name)
	if err != nil {
		return err
	}
	if len(t.Shape) != 2 || lo < 0 || lo > hi || hi > t.Shape[1] || len(dst) != t.Shape[0]*(hi-lo) {
		return fmt.Errorf("%s: columns %d to %d of %s, which has shape %v, as %d entries", s.name, lo, hi, name, t.Shape, len(dst))
	}
	if s.mapped != nil {
		defer disk.Forget(s.mapped, s.data+t.begin, t.end-t.begin)
	}
	rows, row := t.Shape[0], make([]float32, hi-lo)
	for r := range rows {
		if err := s.readPart(row, t, r*t.Shape[1]+lo); err != nil {
			return err
		}
		for c, x := range row {
			dst[c*rows+r] = x
		}
	}
	return nil
}

func (s *File) floats(name string) (Tensor, error) {
	t, ok := s.Lookup(name)
	if !ok {
		return t, fmt.Errorf("%s: no tensor %s", s.name, name)
	}
	if !t.Float() {
		return t, fmt.Errorf("%s: %s is %s, want F32, F16 or BF16", s.name, name, t.DType)
	}
	return t, nil
}

// stretch is how many bytes are converted at a time where the file is not mapped.
const stretch = 64 << 10

// readPart reads entries of a tensor of a float type, which it has.
func (s *File) readPart(dst []float32, t Tensor, from int) error {
	size := int(sizes[t.DType])
	at := s.data + t.begin + int64(from)*int64(size)
	if n := int64(len(dst) * size); s.mapped != nil {
		defer disk.Forget(s.mapped, at, n)
		if err := disk.ReadMapped(func() { narrow.Type(t.DType).Widen(dst, s.mapped[at:at+n]) }); err != nil {
			return fmt.Errorf("%s: %s cannot be read: %w", s.name, t.Name, err)
		}
		return nil
	}
	if t.DType == "F32" {
		return s.readAt(narrow.Bytes(dst), at, t.Name)
	}
	scratch := make([]byte, min(stretch, size*len(dst)))
	for len(dst) > 0 {
		n := min(len(dst), len(scratch)/size)
		if err := s.readAt(scratch[:n*size], at, t.Name); err != nil {
			return err
		}
		narrow.Type(t.DType).Widen(dst[:n], scratch[:n*size])
		dst, at = dst[n:], at+int64(n*size)
	}
	return nil
}

func (s *File) readAt(b []byte, at int64, tensor string) error {
	if n, err := s.f.ReadAt(b, at); n < len(b) {
		return fmt.Errorf("%s: %s: %w", s.name, tensor, err)
	}
	return nil
}
