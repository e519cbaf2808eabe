package kerneltest

import (
	"unsafe"

	"github.com/structuredffn/sffn/runtime/kernel"
)

// lastVector is the distance of the last vector that a call stores.
func lastVector(a *kernel.Args) int { return (a.MR-1)*a.LDC + (a.NTiles*a.NR-1)*a.ColC }

const vectorBytes = 4 * kernel.LaneGroup

// acrossFaults are those of kernels whose lanes run across blocks.
var acrossFaults = []fault{
	{"a sum that leaves out its last product", nil, func(a *kernel.Args, f kernel.Func) {
		seg := *(*kernel.Segment)(a.Segs)
		if seg.Len > 1 {
			seg.Len--
		}
		a.Segs = unsafe.Pointer(&seg)
		f(a)
	}},
	{"a sum a little off", nil, func(a *kernel.Args, f kernel.Func) {
		f(a)
		x := at(a.C, lastVector(a))
		*x += 0x1p-17 * (1 + max(*x, -*x))
	}},
	{"the last lane skipped", nil, func(a *kernel.Args, f kernel.Func) {
		keeping(a.C, lastVector(a)+vectorBytes-4, 1, 4, func() { f(a) })
	}},
	{"half of the lanes skipped", nil, func(a *kernel.Args, f kernel.Func) {
		keeping(a.C, lastVector(a)+vectorBytes/2, kernel.LaneGroup/2, 4, func() { f(a) })
	}},
	{"the last row skipped", nil, func(a *kernel.Args, f kernel.Func) {
		keeping(a.C, (a.MR-1)*a.LDC, a.NTiles*a.NR, a.ColC, func() { f(a) })
	}},
	{"the last column skipped", nil, func(a *kernel.Args, f kernel.Func) {
		keeping(a.C, (a.NTiles*a.NR-1)*a.ColC, a.MR, a.LDC, func() { f(a) })
	}},
	{"two lanes swapped", nil, func(a *kernel.Args, f kernel.Func) {
		f(a)
		x, y := at(a.C, 0), at(a.C, 4)
		*x, *y = *y, *x
	}},
	{"two columns swapped", nil, func(a *kernel.Args, f kernel.Func) {
		f(a)
		x, y := at(a.C, 0), at(a.C, (a.NTiles*a.NR-1)*a.ColC)
		*x, *y = *y, *x
	}},
	{"a chain that begins again", nil, func(a *kernel.Args, f kernel.Func) { a.Flags &^= kernel.Continue; f(a) }},
	{"a chain that goes on from nothing", nil, func(a *kernel.Args, f kernel.Func) { a.Flags |= kernel.Continue; f(a) }},
	{"a write past a vector", nil, func(a *kernel.Args, f kernel.Func) {
		f(a)
		*at(a.C, vectorBytes) = 0
	}},
	{"a write past the end", nil, func(a *kernel.Args, f kernel.Func) {
		f(a)
		*at(a.C, lastVector(a)+vectorBytes) = 0
	}},
	{"a write before the start", nil, func(a *kernel.Args, f kernel.Func) {
		f(a)
		*at(a.C, -4) = 0
	}},
	{"a read before A", nil, func(a *kernel.Args, f kernel.Func) {
		f(a)
		sink += *at(a.A, -4)
	}},
	{"a read past B", nil, func(a *kernel.Args, f kernel.Func) {
		f(a)
		sink += *at(a.B, ((*kernel.Segment)(a.Segs).Len-1)*a.LDB+(a.NTiles*a.NR-1)*a.ColB+vectorBytes)
	}},
}
