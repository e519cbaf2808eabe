//go:build linux && (amd64 || arm64)

package libcuda

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"unsafe"

	"github.com/structuredffn/sffn/runtime/cuda/driver"
)

// stub builds the library of testdata/stub.c, whose functions check what they
// are given, and names it as the driver.
func stub(t *testing.T, flags ...string) {
	t.Helper()
	cc, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("skipped: the stub of the driver needs a C compiler (cc)")
	}
	lib := filepath.Join(t.TempDir(), Library)
	args := append([]string{"-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", lib, filepath.Join("testdata", "stub.c")}, flags...)
	if out, err := exec.Command(cc, args...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Setenv(EnvLibrary, lib)
}

// h is the handle of that number, as the stub knows it.
func h[T ~uintptr | ~uint64](n int) T { return T(0x1234_0000_0000 + n) }

// Every function of the driver gets its arguments, and gives its results,
// through the real calling convention.
func TestCallingConvention(t *testing.T) {
	stub(t)
	api, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	called := map[string]bool{}
	check := func(name string, r driver.Result, got, want any) {
		t.Helper()
		called[name] = true
		if r != driver.Success {
			t.Errorf("%s: result %d: an argument differs in line %d of stub.c", name, r, r-10000)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
	ok := func(name string, r driver.Result) { t.Helper(); check(name, r, nil, nil) }

	ok("Init", api.Init(7))
	var n int32
	check("DriverGetVersion", api.DriverGetVersion(&n), n, int32(12345))
	check("DeviceGetCount", api.DeviceGetCount(&n), n, int32(3))
	e := api.Err("cuMemAlloc", driver.OutOfMemory)
	called["GetErrorName"], called["GetErrorString"] = true, true
	if want := "cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY (2): out of memory"; e.Error() != want || !errors.Is(e, driver.OutOfMemory) {
		t.Errorf("%v, want %s", e, want)
	}
	if e := api.Err("cuX", 999); e.Error() != "cuX: error 999" {
		t.Errorf("an unknown result: %v", e)
	}
	var d driver.Device
	check("DeviceGet", api.DeviceGet(&d, 2), d, driver.Device(42))
	name := make([]byte, 16)
	check("DeviceGetName", api.DeviceGetName(&name[0], 16, d), strings.TrimRight(string(name), "\x00"), "stub device")
	check("DeviceGetAttribute", api.DeviceGetAttribute(&n, driver.ComputeMajor, d), n, int32(-9))
	var c driver.Context
	check("PrimaryCtxRetain", api.PrimaryCtxRetain(&c, d), c, h[driver.Context](1))
	ok("PrimaryCtxRelease", api.PrimaryCtxRelease(d))
	ok("CtxSetCurrent", api.CtxSetCurrent(c))
	var m driver.Module
	check("ModuleLoadData", api.ModuleLoadData(&m, driver.CString("image")), m, h[driver.Module](2))
	ok("ModuleUnload", api.ModuleUnload(m))
	var f driver.Function
	check("ModuleGetFunction", api.ModuleGetFunction(&f, m, driver.CString("kernel")), f, h[driver.Function](3))
	ok("FuncSetAttribute", api.FuncSetAttribute(f, driver.MaxDynamicShared, 101376))
	var free, total uint64
	check("MemGetInfo", api.MemGetInfo(&free, &total), [2]uint64{free, total}, [2]uint64{h[uint64](20), h[uint64](21)})
	var p driver.Pointer
	check("MemAlloc", api.MemAlloc(&p, h[uint64](4)), p, h[driver.Pointer](5))
	ok("MemFree", api.MemFree(p))
	var host unsafe.Pointer
	check("MemAllocHost", api.MemAllocHost(&host, 4096), host != nil, true)
	ok("MemFreeHost", api.MemFreeHost(host))
	var s driver.Stream
	check("StreamCreate", api.StreamCreate(&s, driver.StreamNonBlocking), s, h[driver.Stream](7))
	ok("StreamDestroy", api.StreamDestroy(s))
	ok("StreamSynchronize", api.StreamSynchronize(s))
	size := h[uint64](6)
	ok("MemcpyHtoDAsync", api.MemcpyHtoDAsync(p, unsafe.Pointer(driver.CString("data")), size, s))
	back := make([]byte, 5)
	check("MemcpyDtoHAsync", api.MemcpyDtoHAsync(unsafe.Pointer(&back[0]), p, size, s), string(back), "back\x00")
	ok("MemcpyDtoDAsync", api.MemcpyDtoDAsync(h[driver.Pointer](8), p, size, s))
	ok("MemsetD8Async", api.MemsetD8Async(p, 0xfe, size, s))
	var ev driver.Event
	check("EventCreate", api.EventCreate(&ev, driver.EventNoTiming), ev, h[driver.Event](9))
	ok("EventDestroy", api.EventDestroy(ev))
	ok("EventRecord", api.EventRecord(ev, s))
	var ms float32
	check("EventElapsedTime", api.EventElapsedTime(&ms, ev, h[driver.Event](11)), ms, float32(1.5))
	ok("StreamWaitEvent", api.StreamWaitEvent(s, ev, 0))
	ok("StreamBeginCapture", api.StreamBeginCapture(s, driver.CaptureThreadLocal))
	var g driver.Graph
	check("StreamEndCapture", api.StreamEndCapture(s, &g), g, h[driver.Graph](10))
	var x driver.GraphExec
	check("GraphInstantiate", api.GraphInstantiate(&x, g, 0), x, h[driver.GraphExec](12))
	ok("GraphLaunch", api.GraphLaunch(x, s))
	ok("GraphExecDestroy", api.GraphExecDestroy(x))
	ok("GraphDestroy", api.GraphDestroy(g))
	ok("LaunchKernel", api.LaunchKernel(f, 0x80000001, 2, 3, 256, 5, 6, 101376, s, host, nil))

	for f := range reflect.TypeFor[driver.API]().Fields() {
		if !called[f.Name] {
			t.Errorf("%s was not called", f.Name)
		}
	}
	// An argument that differs is noticed.
	if r := api.LaunchKernel(f, 0x80000001, 2, 3, 256, 5, 7, 101376, s, host, nil); r == driver.Success {
		t.Error("the stub takes any argument")
	}
}

// The stub's prototypes are those of the toolkit's header, where there is one.
func TestPrototypes(t *testing.T) {
	include := filepath.Join("..", "..", "..", "build", "cuda-toolkit", "include")
	if _, err := os.Stat(filepath.Join(include, "cuda.h")); err != nil {
		t.Skip("skipped: no build/cuda-toolkit (make cuda-toolkit)")
	}
	stub(t, "-DHEADER", "-I"+include)
}

func TestErrors(t *testing.T) {
	if _, err := os.Stat("/dev/nvidiactl"); err != nil {
		t.Setenv(EnvLibrary, "")
		if _, err := Load(); !errors.Is(err, ErrNoDriver) {
			t.Errorf("no driver: %v", err)
		}
	}
	t.Setenv(EnvLibrary, "nowhere.so")
	if _, err := Load(); err == nil || errors.Is(err, ErrNoDriver) || !strings.Contains(err.Error(), "SFFN_CUDA_DRIVER=nowhere.so: ") {
		t.Errorf("a library that is not there: %v", err)
	}
	stub(t, "-DWITHOUT_LAUNCH")
	if _, err := Load(); err == nil || !strings.Contains(err.Error(), "has no cuLaunchKernel: a CUDA driver of version 11.4 or newer is needed") {
		t.Errorf("an old driver: %v", err)
	}
}
