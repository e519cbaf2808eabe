package vec

import (
	"encoding/binary"
	"math"
	"unsafe"

	"github.com/structuredffn/sffn/runtime/kernel"
)

// smallest is the largest magnitude below which a row counts as zeros: 127 over it would
// be no float32.
const smallest = 0x1p-110

// Quantize writes a row of the left operand of products of integers ([kernel.Int8]): x
// times f, in integers up to 127, with the scale that takes the largest to that. dst has
// [kernel.LeftRow] bytes, f whole groups of entries. Where any is not finite, the scale is
// NaN, and so are the products.
func (t *Table) Quantize(dst []byte, x, f []float32) {
	var a kernel.VecArgs
	n := len(x)
	f = f[:kernel.QuantGroups(n)*kernel.QuantGroup]
	dst = dst[:kernel.LeftHead+kernel.QuantGroups(n)*kernel.LeftGroupBytes]
	largest := uint32(0)
	for at := 0; at < n; at += chunk {
		a.N, a.P[0], a.P[1] = min(chunk, n-at), unsafe.Pointer(&x[at]), unsafe.Pointer(&f[at])
		t.call(kernel.OpLargest, &a)
		largest = max(largest, math.Float32bits(a.R[0]))
	}
	groups := dst[kernel.LeftHead:]
	top := math.Float32frombits(largest)
	switch {
	case !(top <= math.MaxFloat32):
		clear(groups)
		head(dst, float32(math.NaN()), 0)
		return
	case top < smallest:
		clear(groups)
		head(dst, 0, 0)
		return
	}
	a.S[0] = 127 / top
	whole := n / kernel.QuantGroup * kernel.QuantGroup
	run := func(at, n int, x []float32) {
		a.N = n
		a.P[0], a.P[1], a.P[2] = unsafe.Pointer(&groups[at/kernel.QuantGroup*kernel.LeftGroupBytes]), unsafe.Pointer(&x[0]), unsafe.Pointer(&f[at])
		t.call(kernel.OpQuantize, &a)
	}
	for at := 0; at < whole; at += chunk {
		run(at, min(chunk, whole-at), x[at:])
	}
	if whole < n {
		var tail [kernel.QuantGroup]float32
		copy(tail[:], x[whole:])
		run(whole, kernel.QuantGroup, tail[:])
	}
	sum := int32(0)
	for at := 0; at < len(groups); at += kernel.LeftGroupBytes {
		sum += int32(binary.NativeEndian.Uint32(groups[at:]))
	}
	head(dst, top/127, 16*sum)
}

// head writes what is in front of a row: its scale, and where its sums begin.
func head(dst []byte, scale float32, start int32) {
	binary.NativeEndian.PutUint32(dst, math.Float32bits(scale))
	binary.NativeEndian.PutUint32(dst[4:], uint32(start))
}
