package kerneltest

import (
	"unsafe"

	"github.com/structuredffn/sffn/runtime/kernel"
)

// integerFaults are those of kernels of integers.
var integerFaults = []fault{
	{name: "the last group of k left out", run: func(a *kernel.Args, right kernel.Func) {
		seg := *(*kernel.Segment)(a.Segs)
		seg.Len = max(1, seg.Len-kernel.QuantGroup)
		a.Segs = unsafe.Pointer(&seg)
		right(a)
	}},
	{name: "every panel the first one", run: func(a *kernel.Args, right kernel.Func) { a.PanelStep = 0; right(a) }},
	{name: "sums that begin at nothing", run: func(a *kernel.Args, right kernel.Func) {
		start := (*int32)(unsafe.Add(a.A, 4-kernel.LeftHead))
		group := (*int32)(a.A)
		s, g := *start, *group
		*start, *group = 0, 0
		right(a)
		*start, *group = s, g
	}, concerns: func(k kernel.Info) bool { return k.Format != kernel.Int8 || k.ISA != kernel.AVX2 || k.With != "" }}, // where weights lose their offset
	{name: "a row's scale left out", run: func(a *kernel.Args, right kernel.Func) {
		scale := (*float32)(unsafe.Add(a.A, -kernel.LeftHead))
		s := *scale
		*scale = 1
		right(a)
		*scale = s
	}},
	{name: "no bias", run: func(a *kernel.Args, right kernel.Func) { a.Bias = nil; right(a) }},
	{name: "no residual", run: func(a *kernel.Args, right kernel.Func) { a.Residual = nil; right(a) }},
	{name: "the last column not written", run: func(a *kernel.Args, right kernel.Func) {
		last := (*float32)(unsafe.Add(a.C, (a.MR-1)*a.LDC+4*(a.NTiles*kernel.Panel-1)))
		v := *last
		right(a)
		*last = v
	}},
}
