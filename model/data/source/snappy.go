package source

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// snappy decompresses one block of raw Snappy as a stream, with a window of what was
// written last: Parquet's pages may be larger than the memory there is for them.
type snappy struct {
	r     *bufio.Reader
	buf   []byte // the window, and what follows it
	given int    // bytes of buf that were returned
	left  uint64 // bytes of the block
	lit   uint64 // bytes of the literal at work
	size  int    // of the window
}

const (
	// snappyWindow bounds how far back copies may reach. Most compressors stay
	// within 64 KiB.
	snappyWindow = 16 << 20
	snappyStep   = 64 << 10
)

var errSnappy = errors.New("the snappy data is damaged")

// reset begins a block of at most so many bytes.
func (s *snappy) reset(r *bufio.Reader, most int64) error {
	n, err := binary.ReadUvarint(r)
	if err != nil {
		return fmt.Errorf("%w: %w", errSnappy, err)
	}
	if n > uint64(most) {
		return fmt.Errorf("%w: it promises %d bytes, its page %d", errSnappy, n, most)
	}
	s.r, s.left, s.lit, s.given, s.buf = r, n, 0, 0, s.buf[:0]
	return nil
}

func (s *snappy) Read(b []byte) (int, error) {
	for s.given == len(s.buf) {
		if s.left == 0 {
			return 0, io.EOF
		}
		if len(s.buf) >= 2*snappyWindow {
			n := copy(s.buf, s.buf[len(s.buf)-snappyWindow:])
			s.buf, s.given = s.buf[:n], n
		}
		if err := s.fill(min(len(s.buf)+snappyStep, 2*snappyWindow+snappyStep)); err != nil {
			if err == io.EOF || err == io.ErrUnexpectedEOF {
				err = fmt.Errorf("%w: cut off", errSnappy)
			}
			return 0, err
		}
	}
	n := copy(b, s.buf[s.given:])
	s.given += n
	return n, nil
}

// fill decodes until buf has so many bytes, or the block is at its end.
func (s *snappy) fill(until int) error {
	for len(s.buf) < until && s.left > 0 {
		if s.lit > 0 {
			n := int(min(s.lit, uint64(until-len(s.buf))))
			from := len(s.buf)
			s.buf = append(s.buf, make([]byte, n)...)
			if _, err := io.ReadFull(s.r, s.buf[from:]); err != nil {
				return err
			}
			s.lit -= uint64(n)
			s.left -= uint64(n)
			continue
		}
		tag, err := s.r.ReadByte()
		if err != nil {
			return err
		}
		var length, offset uint64
		switch tag & 3 {
		case 0:
			length = uint64(tag >> 2)
			if length >= 60 {
				if length, err = s.uint(int(length) - 59); err != nil {
					return err
				}
			}
			length++
			if length > s.left {
				return errSnappy
			}
			s.lit = length
			continue
		case 1:
			length = 4 + uint64(tag>>2&7)
			offset, err = s.uint(1)
			offset |= uint64(tag>>5) << 8
		case 2:
			length = 1 + uint64(tag>>2)
			offset, err = s.uint(2)
		case 3:
			length = 1 + uint64(tag>>2)
			offset, err = s.uint(4)
		}
		if err != nil {
			return err
		}
		switch {
		case offset == 0 || length > s.left:
			return errSnappy
		case offset > uint64(len(s.buf)) && len(s.buf) >= snappyWindow:
			return fmt.Errorf("the snappy data reaches %d bytes back, more than %d", offset, snappyWindow)
		case offset > uint64(len(s.buf)):
			return errSnappy
		}
		s.left -= length
		for length > 0 { // what is copied may be what was just written
			from := len(s.buf) - int(offset)
			n := min(length, offset)
			s.buf = append(s.buf, s.buf[from:from+int(n)]...)
			length -= n
		}
	}
	return nil
}

// uint reads so many bytes of a number.
func (s *snappy) uint(n int) (v uint64, err error) {
	for i := range n {
		b, err := s.r.ReadByte()
		if err != nil {
			return 0, err
		}
		v |= uint64(b) << (8 * i)
	}
	return v, nil
}
