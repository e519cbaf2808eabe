package gpuproof

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"

	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// values are the numbers of an array, as kernels have them.
type values struct {
	typ  byte // 'b' bf16, 'f' float32, 'i' int32
	data []byte
}

var types = map[table.Type]byte{table.ArrayBF16: 'b', table.ArrayFloat32: 'f', table.ArrayInt32: 'i'}

func newValues(t table.Type, n int) values { return values{types[t], make([]byte, n*t.Bytes())} }

func (v values) size() int {
	if v.typ == 'b' {
		return 2
	}
	return 4
}

func (v values) len() int { return len(v.data) / v.size() }

func (v values) at(i int) float64 {
	switch v.typ {
	case 'b':
		return float64(math.Float32frombits(uint32(binary.LittleEndian.Uint16(v.data[2*i:])) << 16))
	case 'f':
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(v.data[4*i:])))
	}
	return float64(int32(binary.LittleEndian.Uint32(v.data[4*i:])))
}

// dot multiplies n entries from i on with as many of w from j on.
func (v values) dot(i int, w values, j, n int) (s float64) {
	if v.typ != 'b' || w.typ != 'b' {
		for k := range n {
			s += v.at(i+k) * w.at(j+k)
		}
		return s
	}
	x, y := v.data[2*i:2*(i+n)], w.data[2*j:2*(j+n)]
	for len(x) >= 2 && len(y) >= 2 {
		a, b := uint32(binary.LittleEndian.Uint16(x)), uint32(binary.LittleEndian.Uint16(y))
		s += float64(math.Float32frombits(a<<16)) * float64(math.Float32frombits(b<<16))
		x, y = x[2:], y[2:]
	}
	return s
}

// set stores a number, rounded to the array's type.
func (v values) set(i int, x float64) {
	switch v.typ {
	case 'b':
		binary.LittleEndian.PutUint16(v.data[2*i:], roundBits(x))
	case 'f':
		binary.LittleEndian.PutUint32(v.data[4*i:], math.Float32bits(float32(x)))
	default:
		binary.LittleEndian.PutUint32(v.data[4*i:], uint32(int32(x)))
	}
}

// roundBits rounds to the nearest bf16, ties to even.
func roundBits(x float64) uint16 {
	u := math.Float32bits(float32(x))
	return uint16((u + 0x7fff + u>>16&1) >> 16)
}

// Rounded is x as a bf16.
func Rounded(x float64) float64 {
	return float64(math.Float32frombits(uint32(roundBits(x)) << 16))
}

// within is how far a number that float32 arithmetic leaves within tol may be
// off where it is stored: bf16 rounds it once more.
func (v values) within(want, tol float64) float64 {
	if v.typ == 'b' {
		tol += (math.Abs(want) + tol) * roundoff
	}
	return tol
}

// differs is the first entry that is not the same bits, -1 where there is none.
func (v values) differs(w values) int {
	if bytes.Equal(v.data, w.data) {
		return -1
	}
	for i := range v.len() {
		if at := i * v.size(); !bytes.Equal(v.data[at:at+v.size()], w.data[at:at+v.size()]) {
			return i
		}
	}
	return v.len()
}

// unwritten counts the entries that hold what the runner put there.
func (v values) unwritten() (n int) {
	if v.typ == 'b' {
		for i := 0; i < len(v.data); i += 2 {
			if v.data[i] == 0xff && v.data[i+1] == 0xff {
				n++
			}
		}
		return n
	}
	for i := 0; i < len(v.data); i += 4 {
		if binary.LittleEndian.Uint32(v.data[i:]) == math.MaxUint32 {
			n++
		}
	}
	return n
}

// stretch is how many neighbours a kernel that changes them may leave with the same
// bits, less one: of two random bf16 one in some hundred is the same, six in a row
// are not in any array. Heads have six entries and more.
const stretch = 6

// changes demands that an updated array differs from what was there where it is to
// be changed, in every stretch, and is the same where it stays.
func changes(name string, before, after values, stays func(i int) bool) error {
	size := before.size()
	workers := runtime.GOMAXPROCS(0)
	n := before.len()
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			same := 0
			for i := w * n / workers; i < (w+1)*n/workers; i++ {
				equal := bytes.Equal(before.data[i*size:(i+1)*size], after.data[i*size:(i+1)*size])
				switch stay := stays != nil && stays(i); {
				case stay && !equal:
					errs[w] = fmt.Errorf("entry %d of %s was changed from %v to %v, and is none of the kernel's", i, name, before.at(i), after.at(i))
					return
				case stay:
				case !equal:
					same = 0
				default:
					if same++; same == stretch {
						errs[w] = fmt.Errorf("entries %d to %d of %s were not changed", i-stretch+1, i, name)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// drawn is how many numbers normal draws; all of an array are among them. An
// array of a large launch has a hundred million entries.
const drawn = 1 << 13

// normal makes n numbers of a normal distribution, rounded to the type.
func normal(rng *rand.Rand, typ table.Type, n int, scale float64) values {
	table := newValues(typ, min(n, drawn))
	for i := range table.len() {
		table.set(i, scale*rng.NormFloat64())
	}
	if n <= drawn {
		return table
	}
	v := newValues(typ, n)
	bits := uint64(0)
	next := func(i int) int { // of four in a word of random bits
		if i%4 == 0 {
			bits = rng.Uint64()
		}
		at := int(bits % drawn)
		bits >>= 13
		return at
	}
	if v.typ == 'b' {
		for i := range n {
			at := next(i)
			binary.LittleEndian.PutUint16(v.data[2*i:], binary.LittleEndian.Uint16(table.data[2*at:]))
		}
		return v
	}
	for i := range n {
		at := next(i)
		binary.LittleEndian.PutUint32(v.data[4*i:], binary.LittleEndian.Uint32(table.data[4*at:]))
	}
	return v
}
