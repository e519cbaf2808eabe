package fakecuda

import (
	"encoding/binary"
	"runtime"
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
	want("no PTX", api.ModuleLoadData(&m, driver.CString("hello")), driver.InvalidPTX)
	want("new PTX", api.ModuleLoadData(&m, driver.CString(".version 9.0\n.target sm_90\n.address_size 64\n")), driver.UnsupportedPTX)
	want("PTX", api.ModuleLoadData(&m, driver.CString(".version 7.0\n.target sm_80\n.address_size 64\n")), driver.Success)
	want("machine code", api.ModuleLoadData(&m, &fatbin(80, 90)[0]), driver.InvalidImage)
	d.Assembled = func([]byte) string { return "" }
	want("unknown machine code", api.ModuleLoadData(&m, &fatbin(80, 90)[0]), driver.InvalidImage)
	want("of another chip", api.ModuleLoadData(&m, &fatbin(90)[0]), driver.NoBinaryForGPU)
	want("of a newer one", api.ModuleLoadData(&m, &fatbin(86)[0]), driver.NoBinaryForGPU)
	broken := fatbin(80, 90)
	broken[16+8] = 99
	want("an entry past the end", api.ModuleLoadData(&m, &broken[0]), driver.InvalidImage)
	want("no kernel", api.ModuleGetFunction(new(driver.Function), m, driver.CString("k")), driver.NotFound)
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
