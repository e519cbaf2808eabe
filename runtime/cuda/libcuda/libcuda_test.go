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

	// What the functions fill lies in memory that holds pointers, too.
	out := &struct {
		self        any
		n           int32
		d           driver.Device
		u           driver.UUID
		c           driver.Context
		m           driver.Module
		f           driver.Function
		p           driver.Pointer
		host        unsafe.Pointer
		s           driver.Stream
		ev          driver.Event
		ms          float32
		g           driver.Graph
		x           driver.GraphExec
		free, total uint64
	}{self: t}
	ok("Init", api.Init(7))
	check("DriverGetVersion", api.DriverGetVersion(&out.n), out.n, int32(12345))
	check("DeviceGetCount", api.DeviceGetCount(&out.n), out.n, int32(3))
	e := api.Err("cuMemAlloc", driver.OutOfMemory)
	called["GetErrorName"], called["GetErrorString"] = true, true
	if want := "cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY (2): out of memory"; e.Error() != want || !errors.Is(e, driver.OutOfMemory) {
		t.Errorf("%v, want %s", e, want)
	}
	if e := api.Err("cuX", 999); e.Error() != "cuX: error 999" {
		t.Errorf("an unknown result: %v", e)
	}
	check("DeviceGet", api.DeviceGet(&out.d, 2), out.d, driver.Device(42))
	name := make([]byte, 16)
	check("DeviceGetName", api.DeviceGetName(&name[0], 16, out.d), strings.TrimRight(string(name), "\x00"), "stub device")
	check("DeviceGetAttribute", api.DeviceGetAttribute(&out.n, driver.ComputeMajor, out.d), out.n, int32(-9))
	check("DeviceGetUUID", api.DeviceGetUUID(&out.u, out.d), out.u.String(), "GPU-30313233-3435-3637-3839-616263646566")
	check("DeviceTotalMem", api.DeviceTotalMem(&out.total, out.d), out.total, h[uint64](22))
	check("PrimaryCtxRetain", api.PrimaryCtxRetain(&out.c, out.d), out.c, h[driver.Context](1))
	ok("PrimaryCtxRelease", api.PrimaryCtxRelease(out.d))
	ok("CtxSetCurrent", api.CtxSetCurrent(out.c))
	check("MemGetInfo", api.MemGetInfo(&out.free, &out.total), [2]uint64{out.free, out.total}, [2]uint64{h[uint64](20), h[uint64](21)})
	check("MemAlloc", api.MemAlloc(&out.p, h[uint64](4)), out.p, h[driver.Pointer](5))
	ok("MemFree", api.MemFree(out.p))
	check("MemAllocHost", api.MemAllocHost(&out.host, 4096), out.host != nil, true)
	*(*[2]driver.JITOption)(out.host) = [2]driver.JITOption{driver.ErrorLogBuffer, driver.ErrorLogBytes}
	*(*[2]uintptr)(unsafe.Add(out.host, 8)) = [2]uintptr{uintptr(out.host) + 64, 32}
	check("ModuleLoadDataEx", api.ModuleLoadDataEx(&out.m, driver.CString("image"), 2, out.host, unsafe.Add(out.host, 8)), out.m, h[driver.Module](2))
	if log := driver.String((*byte)(unsafe.Add(out.host, 64)), 32); log != "a log" {
		t.Errorf("the log is %q", log)
	}
	ok("ModuleUnload", api.ModuleUnload(out.m))
	check("ModuleGetFunction", api.ModuleGetFunction(&out.f, out.m, driver.CString("kernel")), out.f, h[driver.Function](3))
	ok("FuncSetAttribute", api.FuncSetAttribute(out.f, driver.MaxDynamicShared, 101376))
	ok("MemFreeHost", api.MemFreeHost(out.host))
	check("StreamCreate", api.StreamCreate(&out.s, driver.StreamNonBlocking), out.s, h[driver.Stream](7))
	ok("StreamDestroy", api.StreamDestroy(out.s))
	ok("StreamSynchronize", api.StreamSynchronize(out.s))
	size := h[uint64](6)
	ok("MemcpyHtoDAsync", api.MemcpyHtoDAsync(out.p, unsafe.Pointer(driver.CString("data")), size, out.s))
	back := make([]byte, 5)
	check("MemcpyDtoHAsync", api.MemcpyDtoHAsync(unsafe.Pointer(&back[0]), out.p, size, out.s), string(back), "back\x00")
	ok("MemcpyDtoDAsync", api.MemcpyDtoDAsync(h[driver.Pointer](8), out.p, size, out.s))
	ok("MemsetD8Async", api.MemsetD8Async(out.p, 0xfe, size, out.s))
	check("EventCreate", api.EventCreate(&out.ev, 2), out.ev, h[driver.Event](9))
	ok("EventDestroy", api.EventDestroy(out.ev))
	ok("EventRecord", api.EventRecord(out.ev, out.s))
	check("EventElapsedTime", api.EventElapsedTime(&out.ms, out.ev, h[driver.Event](11)), out.ms, float32(1.5))
	ok("StreamBeginCapture", api.StreamBeginCapture(out.s, driver.CaptureThreadLocal))
	check("StreamEndCapture", api.StreamEndCapture(out.s, &out.g), out.g, h[driver.Graph](10))
	check("GraphInstantiate", api.GraphInstantiate(&out.x, out.g, 0), out.x, h[driver.GraphExec](12))
	ok("GraphLaunch", api.GraphLaunch(out.x, out.s))
	ok("GraphExecDestroy", api.GraphExecDestroy(out.x))
	ok("GraphDestroy", api.GraphDestroy(out.g))
	ok("LaunchKernel", api.LaunchKernel(out.f, 0x80000001, 2, 3, 256, 5, 6, 101376, out.s, out.host, nil))

	for f := range reflect.TypeFor[driver.API]().Fields() {
		if f.Type.Kind() == reflect.Func && !called[f.Name] {
			t.Errorf("%s was not called", f.Name)
		}
	}
	// An argument that differs is noticed.
	if r := api.LaunchKernel(out.f, 0x80000001, 2, 3, 256, 5, 7, 101376, out.s, out.host, nil); r == driver.Success {
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
	t.Setenv(EnvLibrary, "nowhere.so")
	if _, err := Load(); err == nil || errors.Is(err, ErrNoDriver) || !strings.Contains(err.Error(), "SFFN_CUDA_DRIVER=nowhere.so: ") {
		t.Errorf("a library that is not there: %v", err)
	}
	stub(t, "-DWITHOUT_LAUNCH")
	if _, err := Load(); err == nil || !strings.Contains(err.Error(), "has no cuLaunchKernel: a CUDA driver of version 11.4 or newer is needed") {
		t.Errorf("an old driver: %v", err)
	}
}

// The driver is looked for by name and in folders; an error is short where there
// is none, and says what is wrong with one that is there.
func TestSearch(t *testing.T) {
	const name = "libcuda_of_no_machine.so.1" // as Library is to a machine without a driver
	dir := t.TempDir()
	file := func(folder, text string) string {
		p := filepath.Join(dir, folder, Library)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if text != "" {
			if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return p
	}
	absent, broken := file("absent", ""), file("broken", strings.Repeat("no library\n", 100))

	_, err := load([]string{name, absent})
	var e *NoDriverError
	if !errors.As(err, &e) || !errors.Is(err, ErrNoDriver) || err.Error() != ErrNoDriver.Error() {
		t.Fatalf("no driver: %v", err)
	}
	if want := ErrNoDriver.Error() + " (not there: " + name + ", " + absent + "; SFFN_CUDA_DRIVER names another)"; e.Details() != want {
		t.Errorf("%s, want %s", e.Details(), want)
	}

	_, err = load([]string{name, absent, broken})
	if want := "the CUDA driver does not load: " + broken + ": invalid ELF header"; !errors.As(err, &e) || !errors.Is(err, ErrNoDriver) || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	if want := "invalid ELF header (not there: " + name + ", " + absent + "; "; !strings.Contains(e.Details(), want) {
		t.Errorf("%s, want %s", e.Details(), want)
	}

	// A library that another one lacks is not a driver that is not there.
	stub(t)
	there := os.Getenv(EnvLibrary)
	needy := filepath.Join(dir, "needy.so")
	if out, err := exec.Command("cc", "-shared", "-Wl,--no-as-needed", "-o", needy, "-Wl,-soname,needed_by_it.so", filepath.Join("testdata", "stub.c")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	lacking := filepath.Join(dir, "lacking.so")
	if out, err := exec.Command("cc", "-shared", "-Wl,--no-as-needed", "-o", lacking, needy).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, err = load([]string{lacking}); err == nil || !strings.Contains(err.Error(), lacking+": needed_by_it.so: cannot open shared object file") {
		t.Errorf("a library without one that it needs: %v", err)
	}

	// A toolkit's stub has the name and the functions, and does nothing.
	toolkit := file("stubs", "")
	text, err := os.ReadFile(there)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(toolkit, text, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err = load([]string{toolkit}); err == nil || !strings.HasSuffix(err.Error(), "stubs/libcuda.so.1 is the stub of a toolkit, to link with, and no driver") {
		t.Errorf("a stub: %v", err)
	}

	// The first that loads is taken, and known by its file, which need not be what
	// it was opened as.
	link := file("link", "")
	if err := os.Symlink(there, link); err != nil {
		t.Fatal(err)
	}
	api, err := load([]string{name, absent, broken, toolkit, link})
	if err != nil {
		t.Fatal(err)
	}
	real, err := filepath.EvalSymlinks(there)
	if err != nil {
		t.Fatal(err)
	}
	if api.Library != real {
		t.Errorf("loaded from %q, want %q", api.Library, real)
	}
	for i, p := range candidates() {
		if filepath.Base(p) != Library || filepath.IsAbs(p) != (i > 0) || strings.Contains(p, "stubs") {
			t.Errorf("candidate %d is %s", i, p)
		}
	}
}
