package ptx

import (
	"bytes"
	"slices"
	"sync/atomic"
)

// deviceMemory is the shadow of memory that launches read and write in turn, one
// entry for each four bytes. Within one launch nothing orders two threads: a word
// that one of them writes no other may touch.
type deviceMemory struct {
	// written says that an earlier launch, or the host, wrote the word.
	written []bool
	// writers and readers hold 1 + the number of the thread that did so in this
	// launch, and several for more than one reader; readers also takenConstant, where one
	// of the loads was non-coherent.
	writers, readers []uint32
	// touched are the pages that the launch has touched.
	touched []atomic.Bool
}

// pageWords are the words of a page of a shadow: what no launch touches costs none
// anything.
const pageWords = 1 << 10

// A launch has at most 2^30 threads, so that there is a bit to spare.
const (
	takenConstant = 1 << 31
	several       = takenConstant - 1
)

// mark notes a thread, and whether its load was non-coherent, in one word of a
// shadow of readers, and returns what was there before.
func mark(word *uint32, me uint32, nonCoherent bool) (before uint32) {
	for {
		before = atomic.LoadUint32(word)
		after := before
		switch before &^ takenConstant {
		case 0:
			after |= me
		case me:
		default:
			after |= several
		}
		if nonCoherent {
			after |= takenConstant
		}
		if after == before || atomic.CompareAndSwapUint32(word, before, after) {
			return before
		}
	}
}

// Device makes room for n bytes as a driver gives it: of no known content, for
// any launch to read and write. Accesses by two threads of one launch, one of
// them a write, are races, and a thread may write a word once.
func (m *Memory) Device(n int) *Buffer {
	b := m.Input(bytes.Repeat([]byte{0xff}, n)) // NaN, as bf16 and as float32
	words := (n + 3) / 4
	b.device = &deviceMemory{written: make([]bool, words), writers: make([]uint32, words), readers: make([]uint32, words),
		touched: make([]atomic.Bool, (words+pageWords-1)/pageWords)}
	return b
}

// Wrote says that the host has written n bytes of device memory.
func (b *Buffer) Wrote(off, n int) {
	for i := off / 4; i < (off+n+3)/4; i++ {
		b.device.written[i] = true
	}
}

// Remove takes a buffer out of memory; its addresses are not used again.
func (m *Memory) Remove(b *Buffer) {
	m.buffers = slices.DeleteFunc(m.buffers, func(o *Buffer) bool { return o == b })
}

// Find is the buffer that holds n bytes at an address, nil where there is none, and
// where in it they lie.
func (m *Memory) Find(at uint64, n int) (b *Buffer, off int) {
	if b = m.find(at, n); b == nil {
		return nil, 0
	}
	return b, int(at - b.Address)
}

// settle ends a launch: what it wrote is there for the next.
func (m *Memory) settle() {
	for _, b := range m.buffers {
		d := b.device
		if d == nil {
			continue
		}
		for page := range d.touched {
			if !d.touched[page].Load() {
				continue
			}
			d.touched[page].Store(false)
			lo, hi := page*pageWords, min((page+1)*pageWords, len(d.written))
			for i, w := range d.writers[lo:hi] {
				if w != 0 {
					d.written[lo+i] = true
				}
			}
			clear(d.writers[lo:hi])
			clear(d.readers[lo:hi])
		}
	}
}

// device checks one lane's access to words of device memory.
func (w *warp) device(in *instr, lane int, d *deviceMemory, me uint32, off, n int, write bool) bool {
	// The bytes of one access lie in one page.
	if page := &d.touched[off/4/pageWords]; !page.Load() {
		page.Store(true)
	}
	for i := off / 4; i < (off+n+3)/4; i++ {
		if write {
			if !atomic.CompareAndSwapUint32(&d.writers[i], 0, me) {
				w.find(in, lane, WrittenTwice, "byte %d of the buffer has been written before in this launch", 4*i)
				return false
			}
			switch r := atomic.LoadUint32(&d.readers[i]); {
			case r&takenConstant != 0:
				w.find(in, lane, NonCoherent, "writes byte %d of a buffer, which a load of the launch (ld.global.nc) takes for constant", 4*i)
				return false
			case r != 0 && r != me:
				w.find(in, lane, Race, "writes byte %d of a buffer, which another thread of the launch reads", 4*i)
				return false
			}
			continue
		}
		mark(&d.readers[i], me, in.op.nonCoherent)
		switch by := atomic.LoadUint32(&d.writers[i]); {
		case by != 0 && in.op.nonCoherent:
			w.find(in, lane, NonCoherent, "takes byte %d of a buffer for constant (ld.global.nc), which the launch writes", 4*i)
			return false
		case by == me:
		case by != 0:
			w.find(in, lane, Race, "reads byte %d of a buffer, which another thread of the launch writes", 4*i)
			return false
		case !d.written[i]:
			w.find(in, lane, Uninitialised, "reads byte %d of a buffer, which nobody wrote", 4*i)
			return false
		}
	}
	return true
}
