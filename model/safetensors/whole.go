package safetensors

import (
	"cmp"
	"fmt"
	"hash/crc32"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/structuredffn/sffn/internal/narrow"
)

// Castagnoli is the polynomial of the checksums, for which processors have an
// instruction.
var Castagnoli = crc32.MakeTable(crc32.Castagnoli)

// pieceSize is what one goroutine reads at a time: it is still in its cache when
// it is summed.
const pieceSize = 256 << 10

// piece is a stretch of the file and where it goes.
type piece struct {
	at, size int64
	dst      []byte // nil where nobody wants it
	sum      uint32
}

// ReadAll reads the whole file, in pieces on all cores, and returns its CRC-32C:
// of the very bytes that came, without reading any twice. The tensors of values
// go to their Data; the others are read for the sum only.
func (s *File) ReadAll(values []Value) (sum uint32, err error) {
	wanted := map[string][]byte{}
	for _, v := range values {
		if err := s.expect(v.Name, v.Shape); err != nil {
			return 0, err
		}
		wanted[v.Name] = narrow.Bytes(v.Data)
	}
	pieces := cut(nil, 0, s.data, nil)
	for _, t := range inOrder(s.tensors) {
		pieces = cut(pieces, s.data+t.begin, t.end-t.begin, wanted[t.Name])
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	workers := min(runtime.GOMAXPROCS(0), len(pieces))
	errs := make([]error, workers)
	for w := range workers {
		wg.Go(func() {
			var scratch []byte
			for i := next.Add(1) - 1; i < int64(len(pieces)) && errs[w] == nil; i = next.Add(1) - 1 {
				p := &pieces[i]
				b := p.dst
				if b == nil {
					if scratch == nil {
						scratch = make([]byte, min(pieceSize, s.size))
					}
					b = scratch[:p.size]
				}
				if n, err := s.f.ReadAt(b, p.at); n < len(b) {
					errs[w] = fmt.Errorf("%s: at byte %d: %w", s.name, p.at+int64(n), err)
				}
				p.sum = crc32.Checksum(b, Castagnoli)
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return 0, err
		}
	}
	for _, p := range pieces {
		sum = combine(sum, p.sum, p.size)
	}
	return sum, nil
}

// cut appends the pieces of a stretch.
func cut(pieces []piece, at, size int64, dst []byte) []piece {
	for size > 0 {
		n := min(size, pieceSize)
		p := piece{at: at, size: n}
		if dst != nil {
			p.dst, dst = dst[:n], dst[n:]
		}
		pieces = append(pieces, p)
		at, size = at+n, size-n
	}
	return pieces
}

// inOrder are the tensors as they lie in the file.
func inOrder(ts []Tensor) []Tensor {
	order := slices.Clone(ts)
	slices.SortFunc(order, func(a, b Tensor) int {
		return cmp.Or(cmp.Compare(a.begin, b.begin), cmp.Compare(a.end, b.end))
	})
	return order
}

// combine is the CRC-32C of two texts one after the other, by those of each, the
// second of which has n bytes: the first remainder moves up by 8 n powers of x.
func combine(a, b uint32, n int64) uint32 {
	shift, power := uint32(1)<<31, uint32(1)<<23 // 1 and x^8, the highest bit is x^0
	for ; n > 0; n >>= 1 {
		if n&1 != 0 {
			shift = multiply(shift, power)
		}
		power = multiply(power, power)
	}
	return multiply(a, shift) ^ b
}

// multiply is the product of two polynomials modulo that of the checksum.
func multiply(a, b uint32) (product uint32) {
	for bit := uint32(1) << 31; bit != 0; bit >>= 1 {
		if a&bit != 0 {
			product ^= b
		}
		b = b>>1 ^ b&1*crc32.Castagnoli
	}
	return product
}
