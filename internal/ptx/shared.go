package ptx

// sharedBase is the address of the shared array: not zero, so that an offset
// used as an address is out of bounds.
const sharedBase = 1024

// word is the shadow of four bytes of shared memory: who wrote it and who read
// it last, and when. Barriers of the block and of the warp order accesses, and
// nothing else does.
type word struct {
	writer, reader       uint16 // threads; readers may be many
	writeBar, readBar    uint16 // number of the block's barrier, from 1; 0: never
	writeWarp, readWarp  uint16 // number of the writer's or reader's warp barrier
	readers              readers
	pending, initialised bool
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

// sharedAt checks the bounds of one lane's access and returns the first byte.
func (w *warp) sharedAt(in *instr, lane int, at uint32, n int) (int, bool) {
	if at%uint32(n) != 0 {
		w.find(in, lane, Misaligned, "address %#x of shared memory, want a multiple of %d", at, n)
		return 0, false
	}
	off := int(at) - sharedBase
	if off < 0 || off+n > len(w.block.shared) {
		w.find(in, lane, OutOfBounds, "%d bytes at %d of %d bytes of shared memory", n, off, len(w.block.shared))
		return 0, false
	}
	return off, true
}

// readShared checks a read and returns the bytes, or nil.
func (w *warp) readShared(in *instr, lane int, at uint32, n int) []byte {
	off, ok := w.sharedAt(in, lane, at, n)
	if !ok {
		return nil
	}
	b, me := w.block, uint16(w.first+lane)
	for i := off / 4; i < (off+n)/4; i++ {
		c := &b.shadow[i]
		switch {
		case c.pending:
			w.find(in, lane, AsyncPending, "reads byte %d of shared memory while an asynchronous copy by thread %d is on its way there", 4*i, c.writer)
			return nil
		case !c.initialised:
			w.find(in, lane, Uninitialised, "reads byte %d of shared memory, which nobody wrote", 4*i)
			return nil
		case !w.ordered(c.writer, c.writeBar, c.writeWarp, lane):
			w.find(in, lane, Race, "reads byte %d of shared memory, written by thread %d with no barrier between", 4*i, c.writer)
			return nil
		}
		switch {
		case c.readBar != b.barrier:
			c.reader, c.readers = me, oneReader
		case c.readers == manyWarps:
		case int(c.reader)/warpSize != w.first/warpSize:
			c.readers = manyWarps
		case c.reader != me:
			c.readers = oneWarp
		}
		c.readBar, c.readWarp = b.barrier, w.barrier
	}
	return b.shared[off : off+n]
}

// writeShared checks a write and returns the bytes, or nil. An asynchronous
// copy leaves them pending.
func (w *warp) writeShared(in *instr, lane int, at uint32, n int, async bool) []byte {
	off, ok := w.sharedAt(in, lane, at, n)
	if !ok {
		return nil
	}
	for i := off / 4; i < (off+n)/4; i++ {
		c := &w.block.shadow[i]
		switch {
		case c.pending:
			w.find(in, lane, AsyncPending, "writes byte %d of shared memory while an asynchronous copy by thread %d is on its way there", 4*i, c.writer)
			return nil
		case c.initialised && !w.ordered(c.writer, c.writeBar, c.writeWarp, lane):
			w.find(in, lane, Race, "writes byte %d of shared memory, written by thread %d with no barrier between", 4*i, c.writer)
			return nil
		case c.readBar == w.block.barrier && !w.readsOrdered(c, lane):
			w.find(in, lane, Race, "writes byte %d of shared memory, read by thread %d with no barrier between", 4*i, c.reader)
			return nil
		}
		w.wrote(c, lane)
		c.pending = async
	}
	return w.block.shared[off : off+n]
}

// readsOrdered reports whether all readers since the last block barrier come
// before what lane does now.
func (w *warp) readsOrdered(c *word, lane int) bool {
	switch c.readers {
	case oneReader:
		return w.ordered(c.reader, c.readBar, c.readWarp, lane)
	case oneWarp:
		return int(c.reader)/warpSize == w.first/warpSize && c.readWarp < w.barrier
	}
	return false
}

// wrote makes lane the writer of a word.
func (w *warp) wrote(c *word, lane int) {
	c.writer, c.writeBar, c.writeWarp, c.initialised = uint16(w.first+lane), w.block.barrier, w.barrier, true
}

// copy16 is an asynchronous copy on its way.
type copy16 struct {
	to    int
	data  [16]byte
	group int
}

// issue starts an asynchronous copy of 16 bytes, of which n are read and the
// others become zeros. Until it lands the target is poisoned.
func (w *warp) issue(in *instr, lane int, to uint32, from uint64, n uint32) {
	c := copy16{group: w.groups[lane]}
	switch n {
	case 16:
		src := w.global(in, lane, from, 16, false)
		if src == nil {
			return
		}
		copy(c.data[:], src)
	case 0:
	default:
		w.find(in, lane, OutOfBounds, "asynchronous copy of %d bytes, want 16 or 0", n)
		return
	}
	dst := w.writeShared(in, lane, to, 16, true)
	if dst == nil {
		return
	}
	for i := range dst {
		dst[i] = 0xff
	}
	c.to = int(to) - sharedBase
	w.copies[lane] = append(w.copies[lane], c)
}

// wait lands the copies of all groups but the last n committed ones. Copies
// that were never committed stay on their way.
func (w *warp) wait(lane int, n int) {
	left := w.copies[lane][:0]
	for _, c := range w.copies[lane] {
		if c.group >= w.groups[lane]-n {
			left = append(left, c)
			continue
		}
		copy(w.block.shared[c.to:], c.data[:])
		for i := c.to / 4; i < c.to/4+4; i++ {
			s := &w.block.shadow[i]
			s.pending = false
			w.wrote(s, lane)
		}
	}
	w.copies[lane] = left
}

// conflicts reports when lanes that are served together need different words
// of one bank: 32 banks of four bytes serve eight lanes of 16 bytes, sixteen
// of 8, or all of 4 at a time.
func (w *warp) conflicts(in *instr, addresses *[warpSize]uint32, mask uint32, size int) {
	together := 128 / size
	for first := 0; first < warpSize; first += together {
		var bank [32]uint32 // 1 + the word that is served
		for lane := first; lane < first+together; lane++ {
			if mask>>lane&1 == 0 {
				continue
			}
			for i := range uint32(size / 4) {
				at := addresses[lane]/4 + i
				if b := &bank[at%32]; *b != 0 && *b != at+1 {
					w.find(in, lane, BankConflict, "words %d and %d of shared memory share bank %d", *b-1, at, at%32)
					return
				}
				bank[at%32] = at + 1
			}
		}
	}
}
