package ptx

import (
	"encoding/binary"
	"math"
	"math/bits"
)

// sharedBase is the address of the shared array: not zero, so that an offset
// used as an address is out of bounds.
const sharedBase = 1024

// word is the shadow of four bytes of shared memory: who wrote it and who read
// it last, and when. Barriers of the block and of the warp order accesses, and
// nothing else does.
type word struct {
	writer    uint16 // a thread
	writeBar  uint16 // number of the block's barrier, from 1; 0: never
	writeWarp uint16 // number of the writer's warp barrier
	// ready is writeBar where the word holds what was written, and 0 while an
	// asynchronous copy is on its way there.
	ready uint16
	read  reads
}

// pending reports whether an asynchronous copy is on its way to the word.
func (c *word) pending() bool { return c.writeBar != 0 && c.ready == 0 }

// reads says who read a word last: a thread, the number of the block's barrier, that
// of the reader's warp barrier, and readers, 16 bits each from the lowest.
type reads uint64

func readBy(thread int, bar, warpBar uint16, n readers) reads {
	return reads(uint16(thread)) | reads(bar)<<16 | reads(warpBar)<<32 | reads(n)<<48
}

func (r reads) reader() uint16   { return uint16(r) }
func (r reads) bar() uint16      { return uint16(r >> 16) }
func (r reads) warpBar() uint16  { return uint16(r >> 32) }
func (r reads) readers() readers { return readers(r >> 48) }

// split is set in the reads of a piece whose words have shadows of their own.
const split reads = 1 << 63

// shadows are those of words: the one of a whole piece of 16 bytes as long as it
// was never touched in parts, and otherwise one each.
func (b *block) shadows(first, end int) []word {
	piece := b.pieces[first/4 : first/4+1]
	if p := &piece[0]; p.read&split == 0 {
		if end-first == 4 {
			return piece
		}
		words := b.words[first&^3:][:4]
		for i := range words {
			words[i] = *p
		}
		p.read |= split
	}
	return b.words[first:end]
}

type readers uint8

const (
	oneReader readers = iota
	oneWarp
	manyWarps
)

// ordered reports whether an access by thread at the given barriers comes
// before what lane of this warp does now.
func (w *warp) ordered(thread, bar, warpBar uint16, lane int) bool {
	return bar < w.block.barrier || int(thread) == w.first+lane ||
		int(thread)/warpSize == w.first/warpSize && warpBar < w.barrier
}

// sharedAt checks the bounds of one lane's access and returns the first word and
// the one after the last.
func (w *warp) sharedAt(in *instr, lane int, at uint32) (first, end int, ok bool) {
	n := in.op.size
	if at&uint32(n-1) != 0 {
		w.find(in, lane, Misaligned, "address %#x of shared memory, want a multiple of %d", at, n)
		return 0, 0, false
	}
	off := int(at) - sharedBase
	if off < 0 || off+n > 4*len(w.block.shared) {
		w.find(in, lane, OutOfBounds, "%d bytes at %d of %d bytes of shared memory", n, off, 4*len(w.block.shared))
		return 0, 0, false
	}
	return off / 4, (off + n) / 4, true
}

// readShared checks a read and returns the words, or nil.
func (w *warp) readShared(in *instr, lane int, at uint32) []uint32 {
	first, end, ok := w.sharedAt(in, lane, at)
	if !ok {
		return nil
	}
	b := w.block
	mine := readBy(w.first+lane, b.barrier, w.barrier, oneReader)
	shadows := b.shadows(first, end)
	for i := range shadows {
		c := &shadows[i]
		// What was written before the last barrier may be read; 0 is no such number.
		if c.ready-1 >= b.barrier-1 && !w.mayRead(in, lane, c, first+i) {
			return nil
		}
		switch {
		case c.read == mine:
		case c.read.bar() != b.barrier:
			c.read = mine
		case c.read.readers() != manyWarps:
			c.read = w.readAlso(c.read, lane)
		}
	}
	return b.shared[first:end]
}

// mayRead checks the read of word i that may not have been written before the last
// barrier.
func (w *warp) mayRead(in *instr, lane int, c *word, i int) bool {
	switch {
	case c.pending():
		w.find(in, lane, AsyncPending, "reads byte %d of shared memory while an asynchronous copy by thread %d is on its way there", 4*i, c.writer)
		return false
	case c.writeBar == 0:
		w.find(in, lane, Uninitialised, "reads byte %d of shared memory, which nobody wrote", 4*i)
		return false
	case !w.ordered(c.writer, c.writeBar, c.writeWarp, lane):
		w.find(in, lane, Race, "reads byte %d of shared memory, written by thread %d with no barrier between", 4*i, c.writer)
		return false
	}
	return true
}

// readAlso are the reads of a word since the last barrier, and that of a lane.
func (w *warp) readAlso(r reads, lane int) reads {
	n := r.readers()
	switch {
	case int(r.reader())/warpSize != w.first/warpSize:
		n = manyWarps
	case int(r.reader()) != w.first+lane:
		n = oneWarp
	}
	return readBy(int(r.reader()), r.bar(), w.barrier, n)
}

// writeShared checks a write and returns the words, or nil. An asynchronous
// copy leaves them pending. The reads before it are ordered before whatever is
// ordered after it.
func (w *warp) writeShared(in *instr, lane int, at uint32, async bool) []uint32 {
	first, end, ok := w.sharedAt(in, lane, at)
	if !ok {
		return nil
	}
	b := w.block
	written := word{writer: uint16(w.first + lane), writeBar: b.barrier, writeWarp: w.barrier, ready: b.barrier}
	if async {
		written.ready = 0
	}
	shadows := b.shadows(first, end)
	for i := range shadows {
		c := &shadows[i]
		// What nobody has touched since the last barrier may be written.
		if (c.ready-1 >= b.barrier-1 && c.writeBar != 0 || c.read.bar() == b.barrier) && !w.mayWrite(in, lane, c, first+i) {
			return nil
		}
		*c = written
	}
	if end-first == 4 {
		b.pieces[first/4] = written
	}
	return b.shared[first:end]
}

// mayWrite checks the write of word i that may have been touched since the last
// barrier.
func (w *warp) mayWrite(in *instr, lane int, c *word, i int) bool {
	switch {
	case c.pending():
		w.find(in, lane, AsyncPending, "writes byte %d of shared memory while an asynchronous copy by thread %d is on its way there", 4*i, c.writer)
		return false
	case c.writeBar != 0 && !w.ordered(c.writer, c.writeBar, c.writeWarp, lane):
		w.find(in, lane, Race, "writes byte %d of shared memory, written by thread %d with no barrier between", 4*i, c.writer)
		return false
	case c.read.bar() == w.block.barrier && !w.readsOrdered(c.read, lane):
		w.find(in, lane, Race, "writes byte %d of shared memory, read by thread %d with no barrier between", 4*i, c.read.reader())
		return false
	}
	return true
}

// readsOrdered reports whether all readers since the last block barrier come
// before what lane does now.
func (w *warp) readsOrdered(r reads, lane int) bool {
	switch r.readers() {
	case oneReader:
		return w.ordered(r.reader(), r.bar(), r.warpBar(), lane)
	case oneWarp:
		return int(r.reader())/warpSize == w.first/warpSize && r.warpBar() < w.barrier
	}
	return false
}

// copy16 is an asynchronous copy on its way.
type copy16 struct {
	data  [4]uint32
	to    int // the first word
	lane  int
	group int
}

// issue starts an asynchronous copy of 16 bytes, of which n are read and the
// others become zeros. Until it lands the target is poisoned.
func (w *warp) issue(in *instr, lane int, to uint32, from uint64, n uint32) {
	c := copy16{lane: lane, group: w.groups[lane]}
	switch n {
	case 16:
		src := w.global(in, lane, from, 16, false)
		if src == nil {
			return
		}
		for i := range c.data {
			c.data[i] = binary.LittleEndian.Uint32(src[4*i:])
		}
	case 0:
	default:
		w.find(in, lane, OutOfBounds, "asynchronous copy of %d bytes, want 16 or 0", n)
		return
	}
	dst := w.writeShared(in, lane, to, true)
	if dst == nil {
		return
	}
	*(*[4]uint32)(dst) = [4]uint32{math.MaxUint32, math.MaxUint32, math.MaxUint32, math.MaxUint32}
	c.to = (int(to) - sharedBase) / 4
	w.copies = append(w.copies, c)
}

// wait lands the lanes' copies of all groups but the last n committed ones. Copies
// that were never committed stay on their way.
func (w *warp) wait(lanes uint32, n int) {
	left := w.copies[:0]
	for i := range w.copies {
		c := &w.copies[i]
		if lanes>>c.lane&1 == 0 || c.group >= w.groups[c.lane]-n {
			left = append(left, *c)
			continue
		}
		*(*[4]uint32)(w.block.shared[c.to:]) = c.data
		w.block.pieces[c.to/4] = word{writer: uint16(w.first + c.lane), writeBar: w.block.barrier, writeWarp: w.barrier, ready: w.block.barrier}
	}
	w.copies = left
}

// conflicts reports when lanes that are served together need different words
// of one bank: 32 banks of four bytes serve eight lanes of 16 bytes, sixteen
// of 8, or all of 4 at a time.
func (w *warp) conflicts(in *instr, mask uint32) {
	size := uint32(in.op.size)
	together := 128 / size
	shift := bits.TrailingZeros32(size)
	for first := uint32(0); first < warpSize; first += together {
		// Whole pieces of size bytes are in conflict where they have the same banks.
		var seen, odd uint32
		addresses := w.at[first : first+together]
		if mask == allLanes {
			for _, at := range addresses {
				odd |= at
				seen |= 1 << (at >> shift & (together - 1))
			}
			if odd&(size-1) == 0 && bits.OnesCount32(seen) == int(together) {
				continue // a piece each
			}
			seen, odd = 0, 0
		}
		var piece [32]uint32
		lanes := mask >> first
		for l, at := range addresses {
			if lanes>>l&1 == 0 {
				continue
			}
			odd |= at & (size - 1)
			slot := at >> shift & (together - 1) & 31
			if seen>>slot&1 != 0 {
				odd |= piece[slot] ^ at
			}
			seen |= 1 << slot
			piece[slot] = at
		}
		if odd != 0 && w.conflict(in, mask, first, together, size) {
			return
		}
	}
}

// conflict looks for the first conflict of lanes that are served together.
func (w *warp) conflict(in *instr, mask, first, together, size uint32) bool {
	var bank [32]uint32 // 1 + the word that is served
	for lane := first; lane < first+together; lane++ {
		if mask>>lane&1 == 0 {
			continue
		}
		for i := range size / 4 {
			at := w.at[lane]/4 + i
			if b := &bank[at%32]; *b != 0 && *b != at+1 {
				w.find(in, int(lane), BankConflict, "words %d and %d of shared memory share bank %d", *b-1, at, at%32)
				return true
			}
			bank[at%32] = at + 1
		}
	}
	return false
}
