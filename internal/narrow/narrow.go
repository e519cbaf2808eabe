// Package narrow converts float32 to the types that files of weights have, and back:
// F32, F16 (IEEE binary16) and BF16, little-endian.
package narrow

import (
	"encoding/binary"
	"fmt"
	"math"
	"unsafe"
)

// Type is a type of entries, by the name that safetensors gives it.
type Type string

// The types.
const (
	F32  Type = "F32"
	F16  Type = "F16"
	BF16 Type = "BF16"
)

// Size is the bytes of an entry, 0 of an unknown type.
func (t Type) Size() int {
	switch t {
	case F32:
		return 4
	case F16, BF16:
		return 2
	}
	return 0
}

// Bytes views x as the bytes of F32. Every architecture that the project builds for
// is little-endian.
func Bytes(x []float32) []byte {
	if len(x) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&x[0])), 4*len(x))
}

// Widen fills dst from the entries of b, exactly.
func (t Type) Widen(dst []float32, b []byte) {
	switch t {
	case F32:
		copy(Bytes(dst), b)
	case BF16:
		for i := range dst {
			dst[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(b[2*i:])) << 16)
		}
	case F16:
		for i := range dst {
			dst[i] = fromHalf(binary.LittleEndian.Uint16(b[2*i:]))
		}
	}
}

// Append appends the entries of x to b, each rounded to the nearest value of the
// type, of two that are as near to the even one. A finite entry that the type has no
// finite value for is an error.
func (t Type) Append(b []byte, x []float32) ([]byte, error) {
	switch t {
	case F32:
		return append(b, Bytes(x)...), nil
	case BF16:
		for _, v := range x {
			h := toBrain(v)
			if h&0x7fff == 0x7f80 && !math.IsInf(float64(v), 0) {
				return b, t.tooLarge(v)
			}
			b = binary.LittleEndian.AppendUint16(b, h)
		}
		return b, nil
	case F16:
		for _, v := range x {
			h := toHalf(v)
			if h&0x7fff == 0x7c00 && !math.IsInf(float64(v), 0) {
				return b, t.tooLarge(v)
			}
			b = binary.LittleEndian.AppendUint16(b, h)
		}
		return b, nil
	}
	return b, fmt.Errorf("unknown type %q", string(t))
}

func (t Type) tooLarge(v float32) error { return fmt.Errorf("%v is too large for %s", v, t) }

// fromHalf is the value of a binary16: a sign, 5 bits of exponent, 10 of fraction.
func fromHalf(h uint16) float32 {
	sign, exponent, fraction := uint32(h&0x8000)<<16, uint32(h>>10)&31, uint32(h)&0x3ff
	switch exponent {
	case 0: // zero or denormal, in units of 2^-24
		x := float32(fraction) * (1.0 / (1 << 24))
		return math.Float32frombits(math.Float32bits(x) | sign)
	case 31: // infinite, or not a number
		return math.Float32frombits(sign | 0xff<<23 | fraction<<13)
	}
	return math.Float32frombits(sign | (exponent+127-15)<<23 | fraction<<13)
}

// toHalf is the binary16 that is nearest.
func toHalf(v float32) uint16 {
	bits := math.Float32bits(v)
	sign, size := uint16(bits>>16)&0x8000, bits&0x7fffffff
	switch {
	case size > 0xff<<23: // not a number
		return sign | 0x7e00
	case size >= (127+16)<<23:
		return sign | 0x7c00
	case size < (127-14)<<23: // denormal, in units of 2^-24
		return sign | uint16(math.RoundToEven(math.Abs(float64(v))*(1<<24)))
	}
	// What rounds up carries into the exponent, and past the largest into infinity.
	return sign | uint16(roundBits(size, 13)-(127-15)<<10)
}

// toBrain is the BF16 that is nearest.
func toBrain(v float32) uint16 {
	bits := math.Float32bits(v)
	if bits&0x7fffffff > 0xff<<23 { // not a number, and it stays one
		return uint16(bits>>16) | 0x40
	}
	return uint16(roundBits(bits, 16))
}

// roundBits drops so many low bits, rounding to nearest, ties to even.
func roundBits(bits uint32, drop int) uint32 {
	return (bits + 1<<(drop-1) - 1 + bits>>drop&1) >> drop
}
