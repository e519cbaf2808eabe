// Package driver describes the part of the CUDA driver API that this project
// uses, as a struct of Go functions. Package libcuda fills it from the machine's
// driver; tests fill it with functions of their own.
//
// Source: NVIDIA, CUDA Driver API reference manual.
package driver

import (
	"fmt"
	"unsafe"
)

// Handles and addresses of the driver, by their names without the prefix CU.
type (
	Device    int32
	Context   uintptr
	Module    uintptr
	Function  uintptr
	Stream    uintptr
	Event     uintptr
	Graph     uintptr
	GraphExec uintptr
	Pointer   uint64 // of device memory
)

// Attribute is what [API.DeviceGetAttribute] is asked for.
type Attribute int32

// The attributes that are asked for.
const (
	ClockRate       Attribute = 13 // kHz
	Multiprocessors Attribute = 16
	MemoryClockRate Attribute = 36 // kHz
	MemoryBusWidth  Attribute = 37 // bits
	L2CacheSize     Attribute = 38 // bytes
	ComputeMajor    Attribute = 75
	ComputeMinor    Attribute = 76
	MaxSharedOptin  Attribute = 97 // bytes of shared memory of a block, at most
)

// JITOption is an option of [API.ModuleLoadDataEx].
type JITOption int32

// The options that are used: where the driver's compiler leaves its words, and
// how many bytes there are for them.
const (
	InfoLogBuffer  JITOption = 3
	InfoLogBytes   JITOption = 4
	ErrorLogBuffer JITOption = 5
	ErrorLogBytes  JITOption = 6
)

// UUID is the number of a device that stays the same wherever it is plugged in.
type UUID [16]byte

// String is the UUID as nvidia-smi prints it.
func (u UUID) String() string {
	return fmt.Sprintf("GPU-%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// MaxDynamicShared is the attribute of a function that bounds the shared
// memory it may be launched with.
const MaxDynamicShared int32 = 8

// CaptureThreadLocal is the mode of a capture that other threads do not
// disturb, and StreamNonBlocking the flag of streams which the default stream leaves
// alone.
const (
	CaptureThreadLocal int32  = 1
	StreamNonBlocking  uint32 = 1
)

// API holds the driver's functions, each with the parameters of the C function
// that its tag names. Go memory that they are given must not hold pointers to
// Go memory, because C may not follow those. It stays where it is until the call
// returns; callers pin what the driver uses after that (asynchronous copies).
type API struct {
	// Library is the file that the functions are from.
	Library string

	Init               func(flags uint32) Result                                        `cuda:"cuInit"`
	DriverGetVersion   func(version *int32) Result                                      `cuda:"cuDriverGetVersion"`
	GetErrorName       func(r Result, name **byte) Result                               `cuda:"cuGetErrorName"`
	GetErrorString     func(r Result, text **byte) Result                               `cuda:"cuGetErrorString"`
	DeviceGetCount     func(n *int32) Result                                            `cuda:"cuDeviceGetCount"`
	DeviceGet          func(d *Device, ordinal int32) Result                            `cuda:"cuDeviceGet"`
	DeviceGetName      func(name *byte, size int32, d Device) Result                    `cuda:"cuDeviceGetName"`
	DeviceGetAttribute func(value *int32, a Attribute, d Device) Result                 `cuda:"cuDeviceGetAttribute"`
	DeviceGetUUID      func(u *UUID, d Device) Result                                   `cuda:"cuDeviceGetUuid_v2"`
	DeviceTotalMem     func(n *uint64, d Device) Result                                 `cuda:"cuDeviceTotalMem_v2"`
	PrimaryCtxRetain   func(c *Context, d Device) Result                                `cuda:"cuDevicePrimaryCtxRetain"`
	PrimaryCtxRelease  func(d Device) Result                                            `cuda:"cuDevicePrimaryCtxRelease_v2"`
	CtxSetCurrent      func(c Context) Result                                           `cuda:"cuCtxSetCurrent"`
	ModuleUnload       func(m Module) Result                                            `cuda:"cuModuleUnload"`
	ModuleGetFunction  func(f *Function, m Module, name *byte) Result                   `cuda:"cuModuleGetFunction"`
	FuncSetAttribute   func(f Function, attribute, value int32) Result                  `cuda:"cuFuncSetAttribute"`
	MemGetInfo         func(free, total *uint64) Result                                 `cuda:"cuMemGetInfo_v2"`
	MemAlloc           func(p *Pointer, size uint64) Result                             `cuda:"cuMemAlloc_v2"`
	MemFree            func(p Pointer) Result                                           `cuda:"cuMemFree_v2"`
	MemAllocHost       func(p *unsafe.Pointer, size uint64) Result                      `cuda:"cuMemAllocHost_v2"`
	MemFreeHost        func(p unsafe.Pointer) Result                                    `cuda:"cuMemFreeHost"`
	MemcpyHtoDAsync    func(to Pointer, from unsafe.Pointer, n uint64, s Stream) Result `cuda:"cuMemcpyHtoDAsync_v2"`
	MemcpyDtoHAsync    func(to unsafe.Pointer, from Pointer, n uint64, s Stream) Result `cuda:"cuMemcpyDtoHAsync_v2"`
	MemcpyDtoDAsync    func(to, from Pointer, n uint64, s Stream) Result                `cuda:"cuMemcpyDtoDAsync_v2"`
	MemsetD8Async      func(p Pointer, value uint8, n uint64, s Stream) Result          `cuda:"cuMemsetD8Async"`
	StreamCreate       func(s *Stream, flags uint32) Result                             `cuda:"cuStreamCreate"`
	StreamDestroy      func(s Stream) Result                                            `cuda:"cuStreamDestroy_v2"`
	StreamSynchronize  func(s Stream) Result                                            `cuda:"cuStreamSynchronize"`
	StreamBeginCapture func(s Stream, mode int32) Result                                `cuda:"cuStreamBeginCapture_v2"`
	StreamEndCapture   func(s Stream, g *Graph) Result                                  `cuda:"cuStreamEndCapture"`
	EventCreate        func(e *Event, flags uint32) Result                              `cuda:"cuEventCreate"`
	EventDestroy       func(e Event) Result                                             `cuda:"cuEventDestroy_v2"`
	EventRecord        func(e Event, s Stream) Result                                   `cuda:"cuEventRecord"`
	EventElapsedTime   func(ms *float32, start, end Event) Result                       `cuda:"cuEventElapsedTime"`
	GraphInstantiate   func(x *GraphExec, g Graph, flags uint64) Result                 `cuda:"cuGraphInstantiateWithFlags"`
	GraphLaunch        func(x GraphExec, s Stream) Result                               `cuda:"cuGraphLaunch"`
	GraphExecDestroy   func(x GraphExec) Result                                         `cuda:"cuGraphExecDestroy"`
	GraphDestroy       func(g Graph) Result                                             `cuda:"cuGraphDestroy"`
	// ModuleLoadDataEx takes n options and as many values of pointer size, in memory
	// that C may keep pointers in.
	ModuleLoadDataEx func(m *Module, image *byte, n uint32, options, values unsafe.Pointer) Result `cuda:"cuModuleLoadDataEx"`
	// LaunchKernel takes the addresses of the arguments, in memory that C may
	// keep pointers in: that of MemAllocHost.
	LaunchKernel func(f Function, gridX, gridY, gridZ, blockX, blockY, blockZ, shared uint32, s Stream, args, extra unsafe.Pointer) Result `cuda:"cuLaunchKernel"`
}

// Result is what a function of the driver returns.
type Result int32

// The results that are told apart.
const (
	Success        Result = 0
	InvalidValue   Result = 1
	OutOfMemory    Result = 2
	NoDevice       Result = 100
	InvalidDevice  Result = 101
	InvalidImage   Result = 200
	InvalidContext Result = 201
	NoBinaryForGPU Result = 209
	InvalidPTX     Result = 218
	UnsupportedPTX Result = 222
	InvalidHandle  Result = 400
	NotFound       Result = 500
	IllegalAddress Result = 700
	LaunchFailed   Result = 719
	Capturing      Result = 900 // not allowed while a stream is captured
)

// Error is a result of the driver that is not Success.
type Error struct {
	// Call is the driver's function.
	Call   string
	Result Result
	// Name and Text are the driver's words, Log those of its compiler.
	Name, Text, Log string
}

func (e *Error) Error() string {
	s := fmt.Sprintf("%s: error %d", e.Call, e.Result)
	if e.Name != "" {
		s = fmt.Sprintf("%s: %s (%d): %s", e.Call, e.Name, e.Result, e.Text)
	}
	if e.Log != "" {
		s += ": " + e.Log
	}
	return s
}

// Is makes errors.Is find a result in an error.
func (r Result) Error() string { return fmt.Sprintf("CUDA error %d", int32(r)) }

// Unwrap is the result, for errors.Is.
func (e *Error) Unwrap() error { return e.Result }

// Err is the error of a call, nil where the result is Success.
func (a *API) Err(call string, r Result) error {
	if r == Success {
		return nil
	}
	e := &Error{Call: call, Result: r}
	var p *byte
	if a.GetErrorName(r, &p) == Success {
		e.Name = String(p, maxText)
	}
	if a.GetErrorString(r, &p) == Success {
		e.Text = String(p, maxText)
	}
	return e
}

// maxText bounds the driver's words.
const maxText = 1 << 10

// Asynchronous reports whether a result may be that of work which was enqueued
// before the call that returned it. The context is lost with it.
func (r Result) Asynchronous() bool {
	switch r {
	case 214, 220, 226, 702, 710, 999: // of the memory or of a link; contained; too slow; assert; unknown
		return true
	}
	return r == IllegalAddress || r >= 714 && r <= LaunchFailed
}

// String copies a C string of at most n bytes.
func String(p *byte, n int) string {
	if p == nil {
		return ""
	}
	end := 0
	for end < n && *(*byte)(unsafe.Add(unsafe.Pointer(p), end)) != 0 {
		end++
	}
	return string(unsafe.Slice(p, end))
}

// CString is a string as C takes it.
func CString(s string) *byte {
	b := append([]byte(s), 0)
	return &b[0]
}
