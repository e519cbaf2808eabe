package ptx

import (
	"strings"
	"testing"
)

// deviceKernel is a kernel of two pointers: %rd2 and %rd3 are the thread's words
// in them.
func deviceKernel(t *testing.T, body string) *Kernel { return parse(t, addresses+body) }

func onDevice(t *testing.T, k *Kernel, mem *Memory, a, b uint64) []Finding {
	t.Helper()
	r, err := k.Run(mem, Launch{Grid: [3]int{1, 1, 1}, Block: 64, Shared: 1024, Seed: 1, Args: []uint64{a, b, 0}})
	if err != nil {
		t.Fatal(err)
	}
	return r.Findings
}

// Memory of a device passes from launch to launch; within one, what two threads
// touch neither may write.
func TestDeviceMemory(t *testing.T) {
	store := deviceKernel(t, "st.global.u32 [%rd3], %r0; ret;")
	copied := deviceKernel(t, "ld.global.u32 %r5, [%rd2]; st.global.u32 [%rd3], %r5; ret;")
	var mem Memory
	a, b := mem.Device(256), mem.Device(256)
	if fs := onDevice(t, copied, &mem, a.Address, b.Address); len(fs) != 1 || fs[0].Kind != Uninitialised {
		t.Errorf("read of what nobody wrote: %v", fs)
	}
	for _, step := range []*Kernel{store, store} {
		if fs := onDevice(t, step, &mem, b.Address, a.Address); len(fs) > 0 {
			t.Fatal(fs)
		}
	}
	if fs := onDevice(t, copied, &mem, a.Address, b.Address); len(fs) > 0 {
		t.Fatal(fs)
	}
	if fs := onDevice(t, copied, &mem, b.Address, b.Address); len(fs) > 0 {
		t.Errorf("in place: %v", fs)
	}
	if f := b.Floats(); len(f) != 64 || b.Bytes()[4*63] != 63 {
		t.Errorf("the copy holds %v", b.Bytes())
	}
	for _, c := range []struct {
		name, body string
		kind       Kind
	}{
		{"a neighbour's word read, then written", "xor.b32 %r4, %r1, 4; cvt.u64.u32 %rd4, %r4; add.s64 %rd5, %rd0, %rd4; ld.global.u32 %r5, [%rd5]; st.global.u32 [%rd3], %r5; ret;", Race},
		{"another warp's word written, then read", "st.global.u32 [%rd3], %r0; xor.b32 %r4, %r1, 128; cvt.u64.u32 %rd4, %r4; add.s64 %rd5, %rd1, %rd4; ld.global.u32 %r5, [%rd5]; ret;", Race},
		{"written twice", "st.global.u32 [%rd3], %r0; st.global.u32 [%rd3], %r0; ret;", WrittenTwice},
		{"a word loaded as constant, then written", "ld.global.nc.u32 %r5, [%rd3]; st.global.u32 [%rd3], %r5; ret;", NonCoherent},
		{"a word written, then loaded as constant", "st.global.u32 [%rd3], %r0; ld.global.nc.u32 %r5, [%rd3]; ret;", NonCoherent},
		{"a neighbour's word loaded as constant", "xor.b32 %r4, %r1, 4; cvt.u64.u32 %rd4, %r4; add.s64 %rd5, %rd0, %rd4; ld.global.nc.u32 %r5, [%rd5]; st.global.u32 [%rd3], %r5; ret;", NonCoherent},
		{"another warp's word loaded as constant after a barrier", "st.global.u32 [%rd3], %r0; bar.sync 0; xor.b32 %r4, %r1, 128; cvt.u64.u32 %rd4, %r4; add.s64 %rd5, %rd1, %rd4; ld.global.nc.u32 %r5, [%rd5]; ret;", NonCoherent},
		{"past the end", "st.global.u32 [%rd3+4], %r0; ret;", OutOfBounds},
	} {
		if fs := onDevice(t, deviceKernel(t, c.body), &mem, a.Address, a.Address); len(fs) == 0 || fs[0].Kind != c.kind {
			t.Errorf("%s: %v", c.name, fs)
		}
	}
	// What is only loaded may be loaded as constant, as often as it may otherwise, and
	// what an earlier launch wrote.
	constant := deviceKernel(t, "ld.global.nc.u32 %r5, [%rd0]; ld.global.u32 %r5, [%rd0]; ld.global.nc.u32 %r5, [%rd2]; st.global.u32 [%rd3], %r5; ret;")
	if fs := onDevice(t, constant, &mem, a.Address, b.Address); len(fs) > 0 {
		t.Error(fs)
	}
	mem.Remove(a)
	if fs := onDevice(t, store, &mem, b.Address, a.Address); len(fs) != 1 || !strings.Contains(fs[0].Msg, "in no buffer") {
		t.Errorf("memory that was freed: %v", fs)
	}
	if c := mem.Device(4); c.Address <= b.Address {
		t.Errorf("addresses were used again: %#x after %#x", c.Address, b.Address)
	}
	if got, off := mem.Find(b.Address+12, 4); got != b || off != 12 {
		t.Errorf("12 bytes on: %d, %v", off, got)
	}
}

// What a launch wrote is there for the next on every page, and may be written again.
func TestPages(t *testing.T) {
	k := deviceKernel(t, "ld.global.u32 %r5, [%rd3+8192]; st.global.u32 [%rd3+8192], %r5; st.global.u32 [%rd3+4096], %r0; ret;")
	var mem Memory
	b := mem.Device(12288 + 256)
	b.Wrote(8192, 256)
	for range 3 {
		if fs := onDevice(t, k, &mem, b.Address, b.Address); len(fs) > 0 {
			t.Fatal(fs)
		}
	}
	for offset, found := range map[string]int{"4096": 0, "8192": 0, "0": 1, "12288": 1} {
		read := deviceKernel(t, "ld.global.u32 %r5, [%rd3+"+offset+"]; ret;")
		if fs := onDevice(t, read, &mem, b.Address, b.Address); len(fs) != found || found > 0 && fs[0].Kind != Uninitialised {
			t.Errorf("read at %s: %v", offset, fs)
		}
	}
}
