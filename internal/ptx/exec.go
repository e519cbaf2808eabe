package ptx

import (
	"encoding/binary"
	"math"
	"math/bits"
)

const (
	warpSize   = 32
	maxThreads = 1024
	allLanes   = 0xffffffff
)

// warp is 32 threads with their registers. Lanes at the same instruction run
// it together; where they part, each group goes on by itself until they meet.
type warp struct {
	block *block
	first int // the number of lane 0's thread
	r32   [][warpSize]uint32
	r64   [][warpSize]uint64
	preds []uint32 // one bit a lane
	// set has a bit for every lane that wrote the register, of all classes one after
	// the other; constants are those that are set from the start.
	set, constants []uint32
	// paths are where the lanes are that have not ended.
	paths             []path
	exited, atBarrier uint32
	barrier           uint16 // of the warp, from 1
	// kept32 and kept64 hold results while some lanes keep their registers, and at
	// addresses in shared memory.
	kept32, at [warpSize]uint32
	kept64     [warpSize]uint64
	// buffer is the one that was accessed last.
	buffer *Buffer
	// copies are on their way, in the order of their issue.
	copies []copy16
	groups [warpSize]int
}

// path is where lanes go on together. No two paths of a warp are at one
// instruction.
type path struct {
	lanes uint32
	pc    int
}

// runnable lists the lanes that wait for nothing.
func (w *warp) runnable() uint32 { return ^(w.exited | w.atBarrier) }

// pick chooses the path that goes on: the one at the lowest instruction, or with
// other that of a lane picked by it. Lanes at a collective wait for the whole warp.
// It returns -1 where all wait.
func (w *warp) pick(other int) int {
	if w.atBarrier != 0 { // as a whole
		return -1
	}
	if len(w.paths) == 1 && w.paths[0].lanes == allLanes {
		return 0
	}
	mask, lowest := uint32(0), -1
	for i, p := range w.paths {
		if w.block.k.code[p.pc].op.collective() {
			continue
		}
		mask |= p.lanes
		if lowest < 0 || p.pc < w.paths[lowest].pc {
			lowest = i
		}
	}
	if mask == 0 || other == 0 {
		return lowest
	}
	lane := (bits.TrailingZeros32(bits.RotateLeft32(mask, -other)) + other) % warpSize
	return w.pathOf(lane)
}

// pathOf is the path of a lane that has not ended.
func (w *warp) pathOf(lane int) int {
	for i, p := range w.paths {
		if p.lanes>>lane&1 != 0 {
			return i
		}
	}
	panic("ptx: a lane is nowhere")
}

// collective instructions need the whole warp.
func (o *opcode) collective() bool {
	switch o.code {
	case opBar, opWarpBar, opShuffle, opMatrix, opMatrixTransposed, opMMA:
		return true
	}
	return false
}

// run executes up to n instructions and reports whether it ran any. other
// picks the lanes that go first where they have parted.
func (w *warp) run(n, other int) bool {
	ran := false
	for n > 0 && !w.block.stopped() {
		i := w.pick(other)
		if i < 0 {
			w.blocked()
			break
		}
		ran = true
		p, last := w.paths[i], len(w.paths)-1
		w.paths[i] = w.paths[last]
		w.paths = w.paths[:last]
		ok := true
		for together := true; ok && together && n > 0 && !w.block.stopped(); n-- {
			w.block.instructions++
			p.pc, ok = w.step(&w.block.k.code[p.pc], p.lanes, p.pc)
			together = p.lanes == allLanes // others may be met
		}
		if ok {
			w.goTo(p.lanes, p.pc)
		}
	}
	return ran
}

// blocked reports lanes that wait at a collective which the others never
// reach.
func (w *warp) blocked() {
	mask := w.runnable()
	if mask == 0 {
		return
	}
	l := bits.TrailingZeros32(mask)
	pc := w.paths[w.pathOf(l)].pc
	in := &w.block.k.code[pc]
	if ended := w.exited; ended != 0 {
		w.find(in, l, Divergent, "needs the whole warp, but thread %d has ended", w.first+bits.TrailingZeros32(ended))
		return
	}
	for other := range warpSize {
		if at := w.paths[w.pathOf(other)].pc; at != pc {
			w.find(in, l, Divergent, "needs the whole warp, but thread %d waits at %s", w.first+other, &w.block.k.code[at])
			return
		}
	}
}

// step runs one instruction for some lanes. It returns where they go on, which is
// for the caller to remember, or false where they part or stop.
func (w *warp) step(in *instr, lanes uint32, pc int) (int, bool) {
	active := lanes
	if in.pred >= 0 {
		if miss := lanes &^ w.set[in.guard]; miss != 0 {
			w.find(in, bits.TrailingZeros32(miss), Uninitialised, "its guard was never written")
			return 0, false
		}
		p := w.preds[in.pred]
		if in.not {
			p = ^p
		}
		active &= p
	}
	switch in.op.code {
	case opBra:
		switch active {
		case lanes:
			return in.target, true
		case 0:
			return pc + 1, true
		}
		w.goTo(active, in.target)
		w.goTo(lanes&^active, pc+1)
		return 0, false
	case opRet:
		if active == 0 {
			return pc + 1, true
		}
		w.exit(in, active)
		w.goTo(lanes&^active, pc+1)
		return 0, false
	}
	if active != 0 {
		if active != allLanes && in.op.collective() {
			w.find(in, bits.TrailingZeros32(^active), Divergent, "its guard leaves this lane out")
			return 0, false
		}
		if in.op.code == opBar {
			w.goTo(active, pc)
			w.atBarrier |= active
			return 0, false
		}
		w.execute(in, active)
	}
	return pc + 1, true
}

// goTo puts lanes that are on no path at an instruction.
func (w *warp) goTo(lanes uint32, pc int) {
	if lanes == 0 {
		return
	}
	for i := range w.paths {
		if p := &w.paths[i]; p.pc == pc {
			p.lanes |= lanes
			return
		}
	}
	w.paths = append(w.paths, path{lanes, pc})
}

func (w *warp) exit(in *instr, lanes uint32) {
	if len(w.copies) > 0 {
		var n [warpSize]int
		for i := range w.copies {
			n[w.copies[i].lane]++
		}
		for m := lanes; m != 0; m &= m - 1 {
			if l := bits.TrailingZeros32(m); n[l] > 0 {
				w.find(in, l, AsyncPending, "the thread ends with %d asynchronous copies on their way", n[l])
			}
		}
	}
	w.exited |= lanes
}

// execute runs an instruction that is no branch. Lanes outside the mask keep
// their registers.
func (w *warp) execute(in *instr, mask uint32) {
	if !w.initialised(in, mask) {
		return
	}
	switch c := in.op.code; {
	case c <= opParam:
		switch c {
		case opWarpBar:
			w.barrier++
		case opParam:
			w.param(in, mask)
		}
	case c >= opLoadGlobal:
		w.memory(in, mask)
	default:
		w.compute(in, mask)
	}
}

// initialised reports an operand that a lane reads before it wrote it.
func (w *warp) initialised(in *instr, mask uint32) bool {
	all := mask
	for _, at := range in.reads {
		all &= w.set[at]
	}
	if all == mask {
		return true
	}
	for i, r := range in.s {
		if miss := mask &^ w.set[w.block.k.setPlace(in.classes[i])+r]; miss != 0 {
			w.find(in, bits.TrailingZeros32(miss), Uninitialised, "operand %d is a register that was never written", i+1)
			return false
		}
	}
	panic("ptx: a register is written and not")
}

// wrote notes that lanes have written an instruction's registers.
func (w *warp) wrote(in *instr, lanes uint32) {
	for _, r := range in.d {
		w.set[in.writes+r] |= lanes
	}
}

func (w *warp) param(in *instr, mask uint32) {
	v := w.block.args[in.count]
	for m := mask; m != 0; m &= m - 1 {
		l := bits.TrailingZeros32(m)
		if in.op.size == 8 {
			w.r64[in.d[0]][l] = v
		} else {
			w.r32[in.d[0]][l] = uint32(v)
		}
	}
	w.wrote(in, mask)
}

// memory runs loads, stores, copies and the tensor-core instructions.
func (w *warp) memory(in *instr, mask uint32) {
	switch in.op.code {
	case opMMA:
		w.block.mma++
		w.mma(in)
	case opShuffle:
		w.shuffle(in)
	case opMatrix, opMatrixTransposed:
		w.matrix(in)
	case opCommit:
		for m := mask; m != 0; m &= m - 1 {
			w.groups[bits.TrailingZeros32(m)]++
		}
	case opWait:
		w.wait(mask, in.count)
	case opCopy:
		w.block.copies++
		w.addresses(in, mask)
		from, n := &w.r64[in.s[1]], &w.r32[in.s[2]]
		for m := mask; m != 0; m &= m - 1 {
			l := bits.TrailingZeros32(m)
			w.issue(in, l, w.at[l], from[l]+uint64(in.global), n[l])
		}
	case opLoadShared:
		w.addresses(in, mask)
		for m := mask; m != 0; m &= m - 1 {
			l := bits.TrailingZeros32(m)
			for i, v := range w.readShared(in, l, w.at[l]) {
				w.r32[in.d[i]][l] = v
			}
		}
		w.wrote(in, mask)
	case opStoreShared:
		w.addresses(in, mask)
		for m := mask; m != 0; m &= m - 1 {
			l := bits.TrailingZeros32(m)
			dst := w.writeShared(in, l, w.at[l], false)
			for i := range dst {
				dst[i] = w.r32[in.s[1+i]][l]
			}
		}
	case opLoadGlobal:
		from := &w.r64[in.s[0]]
		for m := mask; m != 0; m &= m - 1 {
			l := bits.TrailingZeros32(m)
			if src := w.global(in, l, from[l]+uint64(in.global), in.op.size, false); src != nil {
				for i, d := range in.d {
					w.r32[d][l] = binary.LittleEndian.Uint32(src[4*i:])
				}
			}
		}
		w.wrote(in, mask)
	case opStoreGlobal:
		to := &w.r64[in.s[0]]
		for m := mask; m != 0; m &= m - 1 {
			l := bits.TrailingZeros32(m)
			if dst := w.global(in, l, to[l]+uint64(in.global), in.op.size, true); dst != nil {
				for i, s := range in.s[1:] {
					binary.LittleEndian.PutUint32(dst[4*i:], w.r32[s][l])
				}
			}
		}
	}
}

// addresses computes the shared addresses of all lanes and checks the banks.
func (w *warp) addresses(in *instr, mask uint32) {
	base, offset := &w.r32[in.s[0]], uint32(in.shared)
	for l := range w.at {
		w.at[l] = base[l] + offset
	}
	w.conflicts(in, mask)
}

// shuffle gives every lane the value of the lane whose number differs in the
// bits of the second operand. Only shuffles among the whole warp are run.
func (w *warp) shuffle(in *instr) {
	src, from, among, members := &w.r32[in.s[0]], &w.r32[in.s[1]], &w.r32[in.s[2]], &w.r32[in.s[3]]
	d, wrong := &w.kept32, uint32(0)
	bad := func(l int) uint32 { return among[l] ^ (warpSize - 1) | ^members[l] | from[l]&^(warpSize-1) }
	if in.steady { // as compilers write it
		wrong = bad(0)
		x := int(from[0] & (warpSize - 1))
		for l := range d {
			d[l] = src[(l^x)&(warpSize-1)]
		}
	} else {
		for l := range d {
			wrong |= bad(l)
			d[l] = src[l^int(from[l]&(warpSize-1))]
		}
	}
	if wrong != 0 {
		for l := range d {
			if among[l] != warpSize-1 || members[l] != allLanes || from[l] >= warpSize {
				w.find(in, l, Divergent, "shuffle with lane mask %d, clamp %#x and members %#x, want masks below 32, clamp 31 and all members", from[l], among[l], members[l])
				return
			}
		}
	}
	w.r32[in.d[0]] = *d
	w.wrote(in, allLanes)
}

// matrix is ldmatrix: lanes 8q to 8q+7 name the eight rows of matrix q, and
// lane l gets entries 2(l mod 4) and the next of row l/4, or of column l/4.
func (w *warp) matrix(in *instr) {
	w.addresses(in, allLanes)
	for q, d := range in.d {
		to := &w.r32[d]
		for r := range 8 {
			src := w.readShared(in, 8*q+r, w.at[8*q+r]) // two entries a word
			if src == nil {
				return
			}
			*(*[4]uint32)(to[4*r:]) = *(*[4]uint32)(src)
		}
		if in.op.code == opMatrixTransposed {
			transpose(to)
		}
	}
	w.wrote(in, allLanes)
}

// transpose exchanges the rows and columns of an 8x8 matrix of 16 bits, two
// entries of a row a word.
func transpose(m *[warpSize]uint32) {
	rows := *m
	for t := range 4 {
		for h := range 4 {
			a, b := rows[8*t+h], rows[8*t+4+h]
			m[8*h+t], m[8*h+4+t] = a&0xffff|b<<16, a>>16|b&0xffff0000
		}
	}
}

// fragmentA is where register r of lane l keeps its two entries of the 16x16
// left operand of mma.m16n8k16: row, and the first of two columns.
func fragmentA(l, r int) (row, col int) { return l>>2 + r&1<<3, l&3<<1 + r>>1<<3 }

// fragmentB is the same for the 16x8 right operand: the first of two rows
// (k), and the column.
func fragmentB(l, r int) (k, col int) { return l&3<<1 + r<<3, l >> 2 }

// fragmentC is where register r of lane l keeps its sum.
func fragmentC(l, r int) (row, col int) { return l>>2 + r>>1<<3, l&3<<1 + r&1 }

// multiplication is a multiplication of matrices: the registers of D, A, B and C,
// and room for A, B and the sums as float32.
type multiplication struct {
	d, a, c [4]*[warpSize]uint32
	b       [2]*[warpSize]uint32
	scratch [16*16 + 2*16*8]float32
}

// multiply is [multiplication.run], in assembly where there is some.
var multiply = (*multiplication).run

// mma multiplies a 16x16 and a 16x8 matrix of bf16 and adds to a float32 one.
func (w *warp) mma(in *instr) {
	m := &w.block.multiplication
	for r := range 4 {
		m.d[r], m.a[r], m.c[r] = &w.r32[in.d[r]], &w.r32[in.s[r]], &w.r32[in.s[6+r]]
	}
	m.b[0], m.b[1] = &w.r32[in.s[4]], &w.r32[in.s[5]]
	multiply(m)
	w.wrote(in, allLanes)
}

// run multiplies and adds. The order of a tensor core's sum is not published; this
// one is ascending.
func (m *multiplication) run() {
	var a [16][16]float32
	var b [8][16]float32 // by column
	for r := range 4 {
		for l, v := range m.a[r] {
			row, col := fragmentA(l, r)
			a[row&15][col&15], a[row&15][(col+1)&15] = bf16(v), math.Float32frombits(v&0xffff0000)
		}
	}
	for r := range 2 {
		for l, v := range m.b[r] {
			k, col := fragmentB(l, r)
			b[col&7][k&15], b[col&7][(k+1)&15] = bf16(v), math.Float32frombits(v&0xffff0000)
		}
	}
	// The four sums of a lane share two rows and two columns.
	var d [4][warpSize]uint32
	for l := range warpSize {
		row, col := fragmentC(l, 0)
		x0, x1, y0, y1 := &a[row&7], &a[row&7+8], &b[col&7], &b[(col+1)&7]
		var s0, s1, s2, s3 float32
		for k := range 16 {
			s0 += x0[k] * y0[k]
			s1 += x0[k] * y1[k]
			s2 += x1[k] * y0[k]
			s3 += x1[k] * y1[k]
		}
		d[0][l], d[1][l], d[2][l], d[3][l] = bits32(s0), bits32(s1), bits32(s2), bits32(s3)
	}
	for r := range 4 {
		for l, c := range m.c[r] {
			d[r][l] = bits32(f32(c) + f32(d[r][l]))
		}
	}
	for r := range 4 {
		*m.d[r] = d[r]
	}
}

// bf16 is the value of the low half of v.
func bf16(v uint32) float32 { return math.Float32frombits(v << 16) }

// roundBF16 rounds to the nearest bf16, ties to even.
func roundBF16(f float32) uint32 {
	if f != f {
		return 0x7fff
	}
	u := math.Float32bits(f)
	return (u + 0x7fff + u>>16&1) >> 16
}

// tanhApprox keeps the eleven bits that the hardware's instruction promises.
func tanhApprox(x float32) float32 {
	t := math.Float32bits(float32(math.Tanh(float64(x))))
	return math.Float32frombits((t + 1<<11) &^ (1<<12 - 1))
}
