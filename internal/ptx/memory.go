package ptx

import (
	"cmp"
	"encoding/binary"
	"math"
	"slices"
	"sync/atomic"
)

// Buffer is a stretch of global memory.
type Buffer struct {
	// Address is what kernels are given.
	Address uint64
	data    []byte
	// writers holds, for each four bytes of an output, 1 + the number of the
	// thread that wrote them; nil for inputs, which nobody may write.
	writers []uint32
	// device is the shadow of memory that is neither input nor output.
	device *deviceMemory
	// owners holds, for each four bytes that kernels may update, 1 + the number
	// of the only thread that touched them, and takenConstant where it did so with a
	// non-coherent load; nil for other buffers.
	owners []uint32
}

// Memory is the global memory of a device. Buffers lie at least 64 KB apart.
type Memory struct {
	buffers []*Buffer
	next    uint64 // the lowest address that was never used
}

const (
	memoryBase = 0x7f00_0000_0000
	memoryGap  = 1 << 16
)

// Input places data where kernels can read it.
func (m *Memory) Input(data []byte) *Buffer {
	b := &Buffer{Address: max(m.next, memoryBase), data: data}
	m.next = (b.Address + uint64(len(data)) + 2*memoryGap - 1) &^ (memoryGap - 1)
	m.buffers = append(m.buffers, b)
	return b
}

// Output makes room for n bytes, a multiple of four, each of which kernels
// may write once and only their writer may read.
func (m *Memory) Output(n int) *Buffer {
	b := m.Input(slices.Repeat([]byte{0xff}, n))
	b.writers = make([]uint32, n/4)
	return b
}

// Update places data that kernels may change in place: each four bytes are
// touched by one thread only, which may write them once.
func (m *Memory) Update(data []byte) *Buffer {
	b := m.Input(data)
	b.writers, b.owners = make([]uint32, len(data)/4), make([]uint32, len(data)/4)
	return b
}

// Bytes is what the buffer holds.
func (b *Buffer) Bytes() []byte { return b.data }

// Floats is the buffer as float32.
func (b *Buffer) Floats() []float32 {
	f := make([]float32, len(b.data)/4)
	for i := range f {
		f[i] = math.Float32frombits(binary.LittleEndian.Uint32(b.data[4*i:]))
	}
	return f
}

// Unwritten counts the four-byte words of an output that no kernel wrote.
func (b *Buffer) Unwritten() int {
	n := 0
	for _, w := range b.writers {
		if w == 0 {
			n++
		}
	}
	return n
}

// Freeze turns a written output into an input of the next kernels.
func (b *Buffer) Freeze() { b.writers, b.owners = nil, nil }

// find is the buffer that holds n bytes at an address.
func (m *Memory) find(at uint64, n int) *Buffer {
	i, exact := slices.BinarySearchFunc(m.buffers, at, func(b *Buffer, at uint64) int { return cmp.Compare(b.Address, at) })
	if !exact {
		i--
	}
	if i < 0 {
		return nil
	}
	if b := m.buffers[i]; b.holds(at, n) {
		return b
	}
	return nil
}

func (b *Buffer) holds(at uint64, n int) bool {
	off := at - b.Address
	return off <= uint64(len(b.data)) && uint64(len(b.data))-off >= uint64(n)
}

// global checks one lane's access of n bytes and returns them, or nil.
func (w *warp) global(in *instr, lane int, at uint64, n int, write bool) []byte {
	if at%uint64(n) != 0 {
		w.find(in, lane, Misaligned, "address %#x of global memory, want a multiple of %d", at, n)
		return nil
	}
	b := w.buffer
	if b == nil || !b.holds(at, n) {
		b = w.block.mem.find(at, n)
		w.buffer = b
	}
	if b == nil {
		w.find(in, lane, OutOfBounds, "%d bytes at %#x of global memory are in no buffer", n, at)
		return nil
	}
	off := int(at - b.Address)
	me := uint32(w.block.number*len(w.block.warps)*warpSize+w.first+lane) + 1
	if b.device != nil {
		if !w.device(in, lane, b.device, me, off, n, write) {
			return nil
		}
		return b.data[off : off+n]
	}
	if b.writers == nil {
		if write {
			w.find(in, lane, OutOfBounds, "write to an input")
			return nil
		}
		return b.data[off : off+n]
	}
	for i := off / 4; i < (off+n)/4; i++ {
		if b.owners != nil {
			switch before := mark(&b.owners[i], me, in.op.nonCoherent); {
			case before&^takenConstant != 0 && before&^takenConstant != me:
				w.find(in, lane, Race, "byte %d of a buffer that is updated in place has been touched by another thread", 4*i)
				return nil
			case write && before&takenConstant != 0:
				w.find(in, lane, NonCoherent, "writes byte %d of a buffer, which a load of the launch (ld.global.nc) takes for constant", 4*i)
				return nil
			}
		}
		if write && !atomic.CompareAndSwapUint32(&b.writers[i], 0, me) {
			w.find(in, lane, WrittenTwice, "byte %d of the output has been written before", 4*i)
			return nil
		}
		if !write && in.op.nonCoherent && atomic.LoadUint32(&b.writers[i]) != 0 {
			w.find(in, lane, NonCoherent, "takes byte %d of a buffer for constant (ld.global.nc), which the launch writes", 4*i)
			return nil
		}
		if !write && b.owners == nil && atomic.LoadUint32(&b.writers[i]) != me {
			w.find(in, lane, Uninitialised, "reads byte %d of an output that it did not write", 4*i)
			return nil
		}
	}
	return b.data[off : off+n]
}
