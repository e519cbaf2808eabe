package gpucheck

import (
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/structuredffn/sffn/runtime/cuda/driver"
)

// watch knows what a driver is doing: whether a call is at work, which kernel was
// launched last, and whether the context was lost. Calls come from one goroutine
// at a time; anyone may ask.
type watch struct {
	calls    atomic.Uint64 // odd while one is at work
	launched atomic.Pointer[string]
	lost     atomic.Bool
	mu       sync.Mutex
	names    map[driver.Function]*string
}

// on is the driver with its calls watched that run work or wait for it. Compiling
// is not among them: it may take its time.
func (w *watch) on(api *driver.API) *driver.API {
	w.names = map[driver.Function]*string{}
	a := *api
	a.Init = func(flags uint32) driver.Result {
		return w.call(func() driver.Result { return api.Init(flags) })
	}
	a.PrimaryCtxRetain = func(c *driver.Context, d driver.Device) driver.Result {
		return w.call(func() driver.Result { return api.PrimaryCtxRetain(c, d) })
	}
	a.PrimaryCtxRelease = func(d driver.Device) driver.Result {
		return w.call(func() driver.Result { return api.PrimaryCtxRelease(d) })
	}
	a.ModuleGetFunction = func(f *driver.Function, m driver.Module, name *byte) driver.Result {
		r := api.ModuleGetFunction(f, m, name)
		if r == driver.Success {
			s := driver.String(name, maxName)
			w.mu.Lock()
			w.names[*f] = &s
			w.mu.Unlock()
		}
		return r
	}
	a.LaunchKernel = func(f driver.Function, gridX, gridY, gridZ, blockX, blockY, blockZ, shared uint32, s driver.Stream, args, extra unsafe.Pointer) driver.Result {
		w.mu.Lock()
		w.launched.Store(w.names[f])
		w.mu.Unlock()
		return w.call(func() driver.Result {
			return api.LaunchKernel(f, gridX, gridY, gridZ, blockX, blockY, blockZ, shared, s, args, extra)
		})
	}
	a.GraphLaunch = func(x driver.GraphExec, s driver.Stream) driver.Result {
		w.launched.Store(&graph)
		return w.call(func() driver.Result { return api.GraphLaunch(x, s) })
	}
	a.StreamSynchronize = func(s driver.Stream) driver.Result {
		return w.call(func() driver.Result { return api.StreamSynchronize(s) })
	}
	a.StreamDestroy = func(s driver.Stream) driver.Result {
		return w.call(func() driver.Result { return api.StreamDestroy(s) })
	}
	a.MemAlloc = func(p *driver.Pointer, n uint64) driver.Result {
		return w.call(func() driver.Result { return api.MemAlloc(p, n) })
	}
	a.MemFree = func(p driver.Pointer) driver.Result {
		return w.call(func() driver.Result { return api.MemFree(p) })
	}
	a.MemFreeHost = func(p unsafe.Pointer) driver.Result {
		return w.call(func() driver.Result { return api.MemFreeHost(p) })
	}
	a.MemcpyHtoDAsync = func(to driver.Pointer, from unsafe.Pointer, n uint64, s driver.Stream) driver.Result {
		return w.call(func() driver.Result { return api.MemcpyHtoDAsync(to, from, n, s) })
	}
	a.MemcpyDtoHAsync = func(to unsafe.Pointer, from driver.Pointer, n uint64, s driver.Stream) driver.Result {
		return w.call(func() driver.Result { return api.MemcpyDtoHAsync(to, from, n, s) })
	}
	return &a
}

// maxName bounds the names of kernels.
const maxName = 1 << 10

// graph is what was launched with a graph.
var graph = "a graph"

func (w *watch) call(f func() driver.Result) driver.Result {
	w.calls.Add(1)
	r := f()
	w.calls.Add(1)
	if r.Asynchronous() {
		w.lost.Store(true)
	}
	return r
}

// last is the kernel of the last launch, "" before the first.
func (w *watch) last() string {
	if s := w.launched.Load(); s != nil {
		return *s
	}
	return ""
}
