//go:build linux && cuda && cgo

package libcuda

/*
#cgo CFLAGS: -I${SRCDIR}/../../../build/cuda-toolkit/include -I/usr/local/cuda/include
#cgo LDFLAGS: -ldl
#include <cuda.h>
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>

// Every function with the parameters that Go gives it and those of the driver.
// Handles are integers to Go, and so is what pointers lead to: cgo would search the
// memory around a void * for pointers of Go.
#define FUNCTIONS(F) \
  F(cuInit, (unsigned flags), (flags)) \
  F(cuDriverGetVersion, (int *version), (version)) \
  F(cuGetErrorName, (int r, uintptr_t *name), ((CUresult)r, (void *)name)) \
  F(cuGetErrorString, (int r, uintptr_t *text), ((CUresult)r, (void *)text)) \
  F(cuDeviceGetCount, (int *n), (n)) \
  F(cuDeviceGet, (int *d, int ordinal), (d, ordinal)) \
  F(cuDeviceGetName, (uintptr_t *name, int size, int d), ((void *)name, size, d)) \
  F(cuDeviceGetAttribute, (int *value, int a, int d), (value, (CUdevice_attribute)a, d)) \
  F(cuDeviceGetUuid_v2, (uintptr_t *u, int d), ((void *)u, d)) \
  F(cuDeviceTotalMem_v2, (uintptr_t *n, int d), ((void *)n, d)) \
  F(cuDevicePrimaryCtxRetain, (uintptr_t *c, int d), ((void *)c, d)) \
  F(cuDevicePrimaryCtxRelease_v2, (int d), (d)) \
  F(cuCtxSetCurrent, (uintptr_t c), ((CUcontext)c)) \
  F(cuModuleLoadDataEx, (uintptr_t *m, uintptr_t *image, unsigned n, void *options, void *values), ((void *)m, image, n, options, values)) \
  F(cuModuleUnload, (uintptr_t m), ((CUmodule)m)) \
  F(cuModuleGetFunction, (uintptr_t *f, uintptr_t m, uintptr_t *name), ((void *)f, (CUmodule)m, (void *)name)) \
  F(cuFuncSetAttribute, (uintptr_t f, int a, int value), ((CUfunction)f, (CUfunction_attribute)a, value)) \
  F(cuMemGetInfo_v2, (uintptr_t *free, uintptr_t *total), ((void *)free, (void *)total)) \
  F(cuMemAlloc_v2, (uintptr_t *p, size_t size), ((void *)p, size)) \
  F(cuMemFree_v2, (uint64_t p), (p)) \
  F(cuMemAllocHost_v2, (uintptr_t *p, size_t size), ((void *)p, size)) \
  F(cuMemFreeHost, (void *p), (p)) \
  F(cuMemcpyHtoDAsync_v2, (uint64_t to, uintptr_t *from, size_t n, uintptr_t s), (to, from, n, (CUstream)s)) \
  F(cuMemcpyDtoHAsync_v2, (uintptr_t *to, uint64_t from, size_t n, uintptr_t s), (to, from, n, (CUstream)s)) \
  F(cuMemcpyDtoDAsync_v2, (uint64_t to, uint64_t from, size_t n, uintptr_t s), (to, from, n, (CUstream)s)) \
  F(cuMemsetD8Async, (uint64_t p, unsigned char value, size_t n, uintptr_t s), (p, value, n, (CUstream)s)) \
  F(cuStreamCreate, (uintptr_t *s, unsigned flags), ((void *)s, flags)) \
  F(cuStreamDestroy_v2, (uintptr_t s), ((CUstream)s)) \
  F(cuStreamSynchronize, (uintptr_t s), ((CUstream)s)) \
  F(cuStreamBeginCapture_v2, (uintptr_t s, int mode), ((CUstream)s, (CUstreamCaptureMode)mode)) \
  F(cuStreamEndCapture, (uintptr_t s, uintptr_t *g), ((CUstream)s, (void *)g)) \
  F(cuEventCreate, (uintptr_t *e, unsigned flags), ((void *)e, flags)) \
  F(cuEventDestroy_v2, (uintptr_t e), ((CUevent)e)) \
  F(cuEventRecord, (uintptr_t e, uintptr_t s), ((CUevent)e, (CUstream)s)) \
  F(cuEventElapsedTime, (float *ms, uintptr_t start, uintptr_t end), (ms, (CUevent)start, (CUevent)end)) \
  F(cuGraphInstantiateWithFlags, (uintptr_t *x, uintptr_t g, uint64_t flags), ((void *)x, (CUgraph)g, flags)) \
  F(cuGraphLaunch, (uintptr_t x, uintptr_t s), ((CUgraphExec)x, (CUstream)s)) \
  F(cuGraphExecDestroy, (uintptr_t x), ((CUgraphExec)x)) \
  F(cuGraphDestroy, (uintptr_t g), ((CUgraph)g)) \
  F(cuLaunchKernel, (uintptr_t f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, uintptr_t s, void *args, void *extra), \
    ((CUfunction)f, gx, gy, gz, bx, by, bz, shared, (CUstream)s, args, extra))

#define DEFINE(name, params, args) \
  static __typeof__(name) *p_##name; \
  static int sf_##name params { return p_##name args; }
FUNCTIONS(DEFINE)

// sf_load finds all functions; it returns the first that the library lacks.
static const char *sf_load(void *lib) {
#define FIND(name, params, args) if (!(p_##name = dlsym(lib, #name))) return #name;
  FUNCTIONS(FIND)
  return 0;
}

// sf_first is where the library's code is.
static uintptr_t sf_first(void) { return (uintptr_t)p_cuInit; }
*/
import "C"

import (
	"errors"
	"unsafe"

	"github.com/structuredffn/sffn/runtime/cuda/driver"
)

// open fills the driver's functions from one library. What they are given stays
// where it is until a call returns: cgo pins it.
func open(name string) (*driver.API, error) {
	cname := C.CString(name)
	defer C.free(unsafe.Pointer(cname))
	lib := C.dlopen(cname, C.RTLD_NOW|C.RTLD_LOCAL)
	if lib == nil {
		return nil, errors.New(C.GoString(C.dlerror()))
	}
	if symbol := C.sf_load(lib); symbol != nil {
		return nil, missing(C.GoString(symbol))
	}
	api := table()
	api.Library = file(uintptr(C.sf_first()))
	return api, nil
}

type result = driver.Result

// at is an address as the shims take it.
func at[T any](p *T) *C.uintptr_t { return (*C.uintptr_t)(unsafe.Pointer(p)) }

func table() *driver.API {
	return &driver.API{
		Init:             func(flags uint32) result { return result(C.sf_cuInit(C.uint(flags))) },
		DriverGetVersion: func(v *int32) result { return result(C.sf_cuDriverGetVersion((*C.int)(v))) },
		GetErrorName:     func(r result, p **byte) result { return result(C.sf_cuGetErrorName(C.int(r), at(p))) },
		GetErrorString:   func(r result, p **byte) result { return result(C.sf_cuGetErrorString(C.int(r), at(p))) },
		DeviceGetCount:   func(n *int32) result { return result(C.sf_cuDeviceGetCount((*C.int)(n))) },
		DeviceGet: func(d *driver.Device, ordinal int32) result {
			return result(C.sf_cuDeviceGet((*C.int)(d), C.int(ordinal)))
		},
		DeviceGetName: func(name *byte, size int32, d driver.Device) result {
			return result(C.sf_cuDeviceGetName(at(name), C.int(size), C.int(d)))
		},
		DeviceGetAttribute: func(v *int32, a driver.Attribute, d driver.Device) result {
			return result(C.sf_cuDeviceGetAttribute((*C.int)(v), C.int(a), C.int(d)))
		},
		DeviceGetUUID:  func(u *driver.UUID, d driver.Device) result { return result(C.sf_cuDeviceGetUuid_v2(at(u), C.int(d))) },
		DeviceTotalMem: func(n *uint64, d driver.Device) result { return result(C.sf_cuDeviceTotalMem_v2(at(n), C.int(d))) },
		PrimaryCtxRetain: func(c *driver.Context, d driver.Device) result {
			return result(C.sf_cuDevicePrimaryCtxRetain(at(c), C.int(d)))
		},
		PrimaryCtxRelease: func(d driver.Device) result { return result(C.sf_cuDevicePrimaryCtxRelease_v2(C.int(d))) },
		CtxSetCurrent:     func(c driver.Context) result { return result(C.sf_cuCtxSetCurrent(C.uintptr_t(c))) },
		ModuleLoadDataEx: func(m *driver.Module, image *byte, n uint32, options, values unsafe.Pointer) result {
			return result(C.sf_cuModuleLoadDataEx(at(m), at(image), C.uint(n), options, values))
		},
		ModuleUnload: func(m driver.Module) result { return result(C.sf_cuModuleUnload(C.uintptr_t(m))) },
		ModuleGetFunction: func(f *driver.Function, m driver.Module, name *byte) result {
			return result(C.sf_cuModuleGetFunction(at(f), C.uintptr_t(m), at(name)))
		},
		FuncSetAttribute: func(f driver.Function, a, v int32) result {
			return result(C.sf_cuFuncSetAttribute(C.uintptr_t(f), C.int(a), C.int(v)))
		},
		MemGetInfo: func(free, total *uint64) result { return result(C.sf_cuMemGetInfo_v2(at(free), at(total))) },
		MemAlloc: func(p *driver.Pointer, n uint64) result {
			return result(C.sf_cuMemAlloc_v2(at(p), C.size_t(n)))
		},
		MemFree: func(p driver.Pointer) result { return result(C.sf_cuMemFree_v2(C.uint64_t(p))) },
		MemAllocHost: func(p *unsafe.Pointer, n uint64) result {
			return result(C.sf_cuMemAllocHost_v2(at(p), C.size_t(n)))
		},
		MemFreeHost: func(p unsafe.Pointer) result { return result(C.sf_cuMemFreeHost(p)) },
		MemcpyHtoDAsync: func(to driver.Pointer, from unsafe.Pointer, n uint64, s driver.Stream) result {
			return result(C.sf_cuMemcpyHtoDAsync_v2(C.uint64_t(to), (*C.uintptr_t)(from), C.size_t(n), C.uintptr_t(s)))
		},
		MemcpyDtoHAsync: func(to unsafe.Pointer, from driver.Pointer, n uint64, s driver.Stream) result {
			return result(C.sf_cuMemcpyDtoHAsync_v2((*C.uintptr_t)(to), C.uint64_t(from), C.size_t(n), C.uintptr_t(s)))
		},
		MemcpyDtoDAsync: func(to, from driver.Pointer, n uint64, s driver.Stream) result {
			return result(C.sf_cuMemcpyDtoDAsync_v2(C.uint64_t(to), C.uint64_t(from), C.size_t(n), C.uintptr_t(s)))
		},
		MemsetD8Async: func(p driver.Pointer, v uint8, n uint64, s driver.Stream) result {
			return result(C.sf_cuMemsetD8Async(C.uint64_t(p), C.uchar(v), C.size_t(n), C.uintptr_t(s)))
		},
		StreamCreate: func(s *driver.Stream, flags uint32) result {
			return result(C.sf_cuStreamCreate(at(s), C.uint(flags)))
		},
		StreamDestroy:     func(s driver.Stream) result { return result(C.sf_cuStreamDestroy_v2(C.uintptr_t(s))) },
		StreamSynchronize: func(s driver.Stream) result { return result(C.sf_cuStreamSynchronize(C.uintptr_t(s))) },
		StreamBeginCapture: func(s driver.Stream, mode int32) result {
			return result(C.sf_cuStreamBeginCapture_v2(C.uintptr_t(s), C.int(mode)))
		},
		StreamEndCapture: func(s driver.Stream, g *driver.Graph) result {
			return result(C.sf_cuStreamEndCapture(C.uintptr_t(s), at(g)))
		},
		EventCreate:  func(e *driver.Event, flags uint32) result { return result(C.sf_cuEventCreate(at(e), C.uint(flags))) },
		EventDestroy: func(e driver.Event) result { return result(C.sf_cuEventDestroy_v2(C.uintptr_t(e))) },
		EventRecord: func(e driver.Event, s driver.Stream) result {
			return result(C.sf_cuEventRecord(C.uintptr_t(e), C.uintptr_t(s)))
		},
		EventElapsedTime: func(ms *float32, start, end driver.Event) result {
			return result(C.sf_cuEventElapsedTime((*C.float)(ms), C.uintptr_t(start), C.uintptr_t(end)))
		},
		GraphInstantiate: func(x *driver.GraphExec, g driver.Graph, flags uint64) result {
			return result(C.sf_cuGraphInstantiateWithFlags(at(x), C.uintptr_t(g), C.uint64_t(flags)))
		},
		GraphLaunch: func(x driver.GraphExec, s driver.Stream) result {
			return result(C.sf_cuGraphLaunch(C.uintptr_t(x), C.uintptr_t(s)))
		},
		GraphExecDestroy: func(x driver.GraphExec) result { return result(C.sf_cuGraphExecDestroy(C.uintptr_t(x))) },
		GraphDestroy:     func(g driver.Graph) result { return result(C.sf_cuGraphDestroy(C.uintptr_t(g))) },
		LaunchKernel: func(f driver.Function, gx, gy, gz, bx, by, bz, shared uint32, s driver.Stream, args, extra unsafe.Pointer) result {
			return result(C.sf_cuLaunchKernel(C.uintptr_t(f), C.uint(gx), C.uint(gy), C.uint(gz), C.uint(bx), C.uint(by), C.uint(bz),
				C.uint(shared), C.uintptr_t(s), args, extra))
		},
	}
}
