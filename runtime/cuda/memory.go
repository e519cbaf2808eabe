package cuda

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"sync"
	"unsafe"

	"github.com/structuredffn/sffn/runtime/cuda/driver"
)

// Buffer is a stretch of device memory, or a part of one.
type Buffer struct {
	at   driver.Pointer
	size int
}

// Size is the number of bytes.
func (b Buffer) Size() int { return b.size }

// Slice is the part of n bytes from off; it panics outside the buffer.
func (b Buffer) Slice(off, n int) Buffer {
	if off < 0 || n < 0 || off > b.size-n {
		panic(fmt.Sprintf("cuda: bytes %d to %d of a buffer of %d", off, off+n, b.size))
	}
	return Buffer{b.at + driver.Pointer(off), n}
}

// Memory says how much of a device is in use, in bytes.
type Memory struct {
	// Used is what callers hold, Cached what was freed and is kept for them, Peak
	// the most that was used at one time. Sizes are those of the pool's classes.
	Used, Cached, Peak int64
	// Allocated counts the pieces that the driver gave, Reused those that came
	// from what was freed.
	Allocated, Reused int
}

// MemoryError says that the device has not enough memory.
type MemoryError struct {
	// Want is what was asked for; Free and Total are the device's, Used what this
	// program holds.
	Want, Free, Total, Used int64
}

func (e *MemoryError) Error() string {
	return fmt.Sprintf("out of device memory: %d bytes more are wanted, %d of %d are free; this program holds %d", e.Want, e.Free, e.Total, e.Used)
}

// Unwrap is the driver's result, for errors.Is.
func (e *MemoryError) Unwrap() error { return driver.OutOfMemory }

// pool keeps freed memory by size.
type pool struct {
	d     *Device
	mu    sync.Mutex
	sizes map[driver.Pointer]int64 // of all that the driver gave
	free  map[int64][]driver.Pointer
	stats Memory
}

// class rounds a size up to one of eight between powers of two, 512 bytes at
// least, so that what one step frees serves the next and an eighth is lost at
// most.
func class(n int64) int64 {
	const least = 512
	if n <= 8*least {
		return (n + least - 1) / least * least
	}
	step := int64(1) << (bits.Len64(uint64(n-1)) - 4)
	return (n + step - 1) / step * step
}

// Alloc returns n bytes of any content, reusing what was freed. Work that still
// uses freed memory must come before that which uses it again: in one stream it
// does.
func (d *Device) Alloc(n int) (Buffer, error) {
	if n < 1 {
		return Buffer{}, fmt.Errorf("cuda: %d bytes of memory, want at least 1", n)
	}
	p := &d.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	size := class(int64(n))
	var at driver.Pointer
	if list := p.free[size]; len(list) > 0 {
		at, p.free[size] = list[len(list)-1], list[:len(list)-1]
		p.stats.Cached -= size
		p.stats.Reused++
	} else {
		var err error
		if at, err = p.fresh(size); err != nil {
			return Buffer{}, err
		}
	}
	p.stats.Used += size
	p.stats.Peak = max(p.stats.Peak, p.stats.Used)
	return Buffer{at, n}, nil
}

// fresh asks the driver, a second time after everything freed went back to it.
func (p *pool) fresh(size int64) (at driver.Pointer, err error) {
	d := p.d
	alloc := func() error {
		return d.do("cuMemAlloc", func() driver.Result { return d.api.MemAlloc(&at, uint64(size)) })
	}
	if err = alloc(); errors.Is(err, driver.OutOfMemory) {
		if err := p.trim(); err != nil {
			return 0, err
		}
		err = alloc()
	}
	if errors.Is(err, driver.OutOfMemory) {
		e := &MemoryError{Want: size, Used: p.stats.Used}
		if e.Free, e.Total, err = d.FreeMemory(); err != nil {
			return 0, err
		}
		return 0, e
	}
	if err != nil {
		return 0, err
	}
	if p.sizes == nil {
		p.sizes, p.free = map[driver.Pointer]int64{}, map[int64][]driver.Pointer{}
	}
	p.sizes[at] = size
	p.stats.Allocated++
	return at, nil
}

// Free gives memory back to the pool; b must be all of what Alloc returned. A
// zero Buffer is left alone.
func (d *Device) Free(b Buffer) {
	if b.at == 0 {
		return
	}
	p := &d.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	size, ok := p.sizes[b.at]
	if !ok {
		panic("cuda: Free of memory that Alloc did not return")
	}
	if slices.Contains(p.free[size], b.at) {
		panic("cuda: memory is freed twice")
	}
	p.free[size] = append(p.free[size], b.at)
	p.stats.Used -= size
	p.stats.Cached += size
}

// Memory says what the pool holds.
func (d *Device) Memory() Memory {
	d.pool.mu.Lock()
	defer d.pool.mu.Unlock()
	return d.pool.stats
}

// FreeMemory is what the driver has left of the device's memory for anybody, and
// all of it, in bytes.
func (d *Device) FreeMemory() (free, total int64, err error) {
	var f, t uint64
	err = d.do("cuMemGetInfo", func() driver.Result { return d.api.MemGetInfo(&f, &t) })
	return int64(f), int64(t), err
}

// Trim returns what was freed to the driver.
func (d *Device) Trim() error {
	d.pool.mu.Lock()
	defer d.pool.mu.Unlock()
	return d.pool.trim()
}

// trim returns everything that was freed to the driver.
func (p *pool) trim() error {
	for size, list := range p.free {
		for _, at := range list {
			if err := p.release(at); err != nil {
				return err
			}
		}
		delete(p.free, size)
	}
	p.stats.Cached = 0
	return nil
}

func (p *pool) release(at driver.Pointer) error {
	delete(p.sizes, at)
	return p.d.do("cuMemFree", func() driver.Result { return p.d.api.MemFree(at) })
}

// close frees all memory, used or not.
func (p *pool) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for at := range p.sizes {
		errs = append(errs, p.release(at))
	}
	p.free, p.stats.Used, p.stats.Cached = nil, 0, 0
	return errors.Join(errs...)
}

// Host is memory of the host that the device copies from and to while the host
// goes on.
type Host struct {
	d  *Device
	at unsafe.Pointer
	n  int
}

// AllocHost returns n bytes of host memory.
func (d *Device) AllocHost(n int) (*Host, error) {
	h := &Host{d: d, n: n}
	err := d.do("cuMemAllocHost", func() driver.Result { return d.api.MemAllocHost(&h.at, uint64(n)) })
	return h, err
}

// Close frees the memory.
func (h *Host) Close() error {
	return h.d.do("cuMemFreeHost", func() driver.Result { return h.d.api.MemFreeHost(h.at) })
}

// Of views the memory as values of one type.
func Of[T any](h *Host) []T {
	var v T
	return unsafe.Slice((*T)(h.at), h.n/int(unsafe.Sizeof(v)))
}
