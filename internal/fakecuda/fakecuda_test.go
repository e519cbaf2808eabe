package fakecuda

import (
	"encoding/binary"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/structuredffn/sffn/runtime/cuda/driver"
)

// fatbin is an image with 16 bytes of machine code for each chip.
func fatbin(chips ...uint32) []byte {
	le := binary.LittleEndian
	b := append([]byte{0x50, 0xed, 0x55, 0xba, 1, 0, 16, 0}, le.AppendUint64(nil, uint64(80*len(chips)))...)
	for _, sm := range chips {
		e := make([]byte, 80)
		le.PutUint16(e, 2)
		le.PutUint32(e[4:], 64)
		le.PutUint64(e[8:], 16)
		le.PutUint32(e[28:], sm)
		b = append(b, e...)
	}
	return b
}

// What a driver refuses, this one does: calls on a thread without a context, and
// handles and addresses that it did not give, or took back.
func TestRules(t *testing.T) {
	d := New()
	api := d.API()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	want := func(what string, got, want driver.Result) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	var p driver.Pointer
	want("no context", api.MemAlloc(&p, 16), driver.InvalidContext)
	var c driver.Context
	want("retain", api.PrimaryCtxRetain(&c, 0), driver.Success)
	want("another context", api.CtxSetCurrent(c+16), driver.InvalidContext)
	want("current", api.CtxSetCurrent(c), driver.Success)
	want("alloc", api.MemAlloc(&p, 16), driver.Success)
	done := make(chan bool)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		defer close(done)
		var q driver.Pointer
		want("another thread", api.MemAlloc(&q, 16), driver.InvalidContext)
	}()
	<-done
	var s driver.Stream
	want("stream", api.StreamCreate(&s, 0), driver.Success)
	var word [4]int32
	host := unsafe.Pointer(&word)
	want("copy past the end", api.MemcpyHtoDAsync(p+8, host, 16, s), driver.InvalidValue)
	want("copy of nothing of ours", api.MemcpyDtoHAsync(host, 99, 4, s), driver.InvalidValue)
	want("another stream", api.MemsetD8Async(p, 0, 16, s+1), driver.InvalidHandle)
	want("all memory", api.MemAlloc(new(driver.Pointer), d.Memory), driver.OutOfMemory)
	want("no bytes", api.MemAlloc(new(driver.Pointer), 0), driver.InvalidValue)
	want("an inner address", api.MemFree(p+8), driver.InvalidValue)
	want("free", api.MemFree(p), driver.Success)
	want("twice", api.MemFree(p), driver.InvalidValue)
	var m driver.Module
	load := func(image *byte) driver.Result { return api.ModuleLoadDataEx(&m, image, 0, nil, nil) }
	want("no PTX", load(driver.CString("hello")), driver.InvalidPTX)
	want("new PTX", load(driver.CString(".version 9.0\n.target sm_90\n.address_size 64\n")), driver.UnsupportedPTX)
	want("PTX", load(driver.CString(".version 7.0\n.target sm_80\n.address_size 64\n")), driver.Success)
	want("machine code", load(&fatbin(80, 90)[0]), driver.InvalidImage)
	d.Assembled = func([]byte) string { return "" }
	want("unknown machine code", load(&fatbin(80, 90)[0]), driver.InvalidImage)
	want("of another chip", load(&fatbin(90)[0]), driver.NoBinaryForGPU)
	want("of a newer one", load(&fatbin(86)[0]), driver.NoBinaryForGPU)
	broken := fatbin(80, 90)
	broken[16+8] = 99
	want("an entry past the end", load(&broken[0]), driver.InvalidImage)
	want("no kernel", api.ModuleGetFunction(new(driver.Function), m, driver.CString("k")), driver.NotFound)
	var logs unsafe.Pointer
	want("host memory", api.MemAllocHost(&logs, 128), driver.Success)
	options, values := (*[2]driver.JITOption)(logs), (*[2]uintptr)(unsafe.Add(logs, 16))
	*options, *values = [2]driver.JITOption{driver.ErrorLogBuffer, driver.ErrorLogBytes}, [2]uintptr{uintptr(logs) + 64, 64}
	logged := func(o, v unsafe.Pointer) driver.Result {
		return api.ModuleLoadDataEx(&m, driver.CString("hello"), 2, o, v)
	}
	want("a log", logged(logs, unsafe.Add(logs, 16)), driver.InvalidPTX)
	if log := driver.String((*byte)(unsafe.Add(logs, 64)), 64); !strings.Contains(log, "hello") {
		t.Errorf("the log is %q", log)
	}
	goValues := *values
	want("values in memory of Go", logged(logs, unsafe.Pointer(&goValues)), driver.InvalidValue)
	values[1] = 65
	want("a log past the end", logged(logs, unsafe.Add(logs, 16)), driver.InvalidValue)
	want("free", api.MemFreeHost(logs), driver.Success)
	want("a device too many", api.DeviceGet(new(driver.Device), 1), driver.InvalidDevice)
	if d.Left() == "" {
		t.Error("a stream and a module are left")
	}
	want("destroy", api.StreamDestroy(s), driver.Success)
	want("twice", api.StreamDestroy(s), driver.InvalidHandle)
	want("unload", api.ModuleUnload(m), driver.Success)
	if left := d.Left(); left != "" {
		t.Error(left)
	}
}
