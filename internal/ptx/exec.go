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
	// set has a bit for every lane that wrote the register.
	set32, set64, setPred []uint32
	// const32 and so on are what is set from the start, and index the registers of
	// the block's index.
	const32, const64, constPred []uint32
	index                       map[int]int
	pc                          [warpSize]int
	exited, atBarrier           uint32
	barrier                     uint16 // of the warp, from 1
	// kept32 and kept64 hold results while some lanes keep their registers.
	kept32 [warpSize]uint32
	kept64 [warpSize]uint64
	// buffer is the one that was accessed last.
	buffer *Buffer
	copies [warpSize][]copy16
	groups [warpSize]int
}

// runnable lists the lanes that wait for nothing.
func (w *warp) runnable() uint32 { return ^(w.exited | w.atBarrier) }

// pick chooses the lanes that go on, all at one instruction: those at the
// lowest one, or with other those of a lane picked by it. Lanes at a collective
// wait for the whole warp. It returns none where all wait.
func (w *warp) pick(other int) (lanes uint32, pc int) {
	mask := w.runnable()
	if mask == allLanes && w.at(w.pc[0]) == allLanes {
		return allLanes, w.pc[0]
	}
	for m := mask; m != 0; m &= m - 1 {
		l := bits.TrailingZeros32(m)
		if w.block.k.code[w.pc[l]].op.collective() {
			mask &^= 1 << l
		}
	}
	if mask == 0 {
		return 0, 0
	}
	pc = w.pc[(bits.TrailingZeros32(bits.RotateLeft32(mask, -other))+other)%warpSize]
	if other == 0 {
		for m := mask; m != 0; m &= m - 1 {
			pc = min(pc, w.pc[bits.TrailingZeros32(m)])
		}
	}
	return w.at(pc) & mask, pc
}

// at lists the lanes that are at an instruction.
func (w *warp) at(pc int) (lanes uint32) {
	for l, p := range w.pc {
		if p == pc {
			lanes |= 1 << l
		}
	}
	return lanes
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
		lanes, pc := w.pick(other)
		if lanes == 0 {
			w.blocked()
			break
		}
		ran = true
		ok := true
		for together := true; ok && together && n > 0 && !w.block.stopped(); n-- {
			w.block.instructions++
			pc, ok = w.step(&w.block.k.code[pc], lanes, pc)
			together = lanes == allLanes // others may be met
		}
		if ok {
			w.goTo(lanes, pc)
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
	in := &w.block.k.code[w.pc[l]]
	if ended := w.exited; ended != 0 {
		w.find(in, l, Divergent, "needs the whole warp, but thread %d has ended", w.first+bits.TrailingZeros32(ended))
		return
	}
	for other, pc := range w.pc {
		if pc != w.pc[l] {
			w.find(in, l, Divergent, "needs the whole warp, but thread %d waits at %s", w.first+other, &w.block.k.code[pc])
			return
		}
	}
}

// step runs one instruction for some lanes. It returns where they go on, which is
// for the caller to remember, or false where they part or stop.
func (w *warp) step(in *instr, lanes uint32, pc int) (int, bool) {
	active := lanes
	if in.pred >= 0 {
		if miss := lanes &^ w.setPred[in.pred]; miss != 0 {
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
		w.exit(in, active)
		w.goTo(lanes&^active, pc+1)
		return pc + 1, active == 0
	}
	if active != 0 {
		if in.op.collective() && active != allLanes {
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

func (w *warp) goTo(lanes uint32, pc int) {
	if lanes == allLanes {
		for l := range w.pc {
			w.pc[l] = pc
		}
		return
	}
	for m := lanes; m != 0; m &= m - 1 {
		w.pc[bits.TrailingZeros32(m)] = pc
	}
}

func (w *warp) exit(in *instr, lanes uint32) {
	for m := lanes; m != 0; m &= m - 1 {
		if l := bits.TrailingZeros32(m); len(w.copies[l]) > 0 {
			w.find(in, l, AsyncPending, "the thread ends with %d asynchronous copies on their way", len(w.copies[l]))
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
	for i, r := range in.s {
		set := w.set32
		switch in.classes[i] {
		case class64:
			set = w.set64
		case classPred:
			set = w.setPred
		}
		if miss := mask &^ set[r]; miss != 0 {
			w.find(in, bits.TrailingZeros32(miss), Uninitialised, "operand %d is a register that was never written", i+1)
			return false
		}
	}
	return true
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
	if in.op.size == 8 {
		w.set64[in.d[0]] |= mask
	} else {
		w.set32[in.d[0]] |= mask
	}
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
		for m := mask; m != 0; m &= m - 1 {
			w.wait(bits.TrailingZeros32(m), in.count)
		}
	case opCopy:
		w.block.copies++
		to := w.addresses(in, mask, in.op.size)
		for m := mask; m != 0; m &= m - 1 {
			l := bits.TrailingZeros32(m)
			w.issue(in, l, to[l], w.r64[in.s[1]][l]+uint64(in.global), w.r32[in.s[2]][l])
		}
	case opLoadShared, opStoreShared:
		at := w.addresses(in, mask, in.op.size)
		for m := mask; m != 0; m &= m - 1 {
			l := bits.TrailingZeros32(m)
			if in.op.code == opLoadShared {
				w.load(in, l, w.readShared(in, l, at[l], in.op.size))
			} else {
				w.store(in, l, w.writeShared(in, l, at[l], in.op.size, false))
			}
		}
	case opLoadGlobal, opStoreGlobal:
		for m := mask; m != 0; m &= m - 1 {
			l := bits.TrailingZeros32(m)
			at := w.r64[in.s[0]][l] + uint64(in.global)
			if in.op.code == opLoadGlobal {
				w.load(in, l, w.global(in, l, at, in.op.size, false))
			} else {
				w.store(in, l, w.global(in, l, at, in.op.size, true))
			}
		}
	}
}

// addresses computes the shared addresses of all lanes and checks the banks.
func (w *warp) addresses(in *instr, mask uint32, size int) *[warpSize]uint32 {
	at := w.r32[in.s[0]]
	for l := range at {
		at[l] += uint32(in.shared)
	}
	w.conflicts(in, &at, mask, size)
	return &at
}

func (w *warp) load(in *instr, lane int, src []byte) {
	if src == nil {
		return
	}
	for i, d := range in.d {
		w.r32[d][lane] = binary.LittleEndian.Uint32(src[4*i:])
		w.set32[d] |= 1 << lane
	}
}

func (w *warp) store(in *instr, lane int, dst []byte) {
	if dst == nil {
		return
	}
	for i, s := range in.s[1:] {
		binary.LittleEndian.PutUint32(dst[4*i:], w.r32[s][lane])
	}
}

// shuffle gives every lane the value of the lane whose number differs in the
// bits of the second operand. Only shuffles among the whole warp are run.
func (w *warp) shuffle(in *instr) {
	from, among, members := &w.r32[in.s[1]], &w.r32[in.s[2]], &w.r32[in.s[3]]
	var d [warpSize]uint32
	for l := range d {
		if among[l] != warpSize-1 || members[l] != allLanes || from[l] >= warpSize {
			w.find(in, l, Divergent, "shuffle with lane mask %d, clamp %#x and members %#x, want masks below 32, clamp 31 and all members", from[l], among[l], members[l])
			return
		}
		d[l] = w.r32[in.s[0]][l^int(from[l])]
	}
	w.r32[in.d[0]] = d
	w.set32[in.d[0]] = allLanes
}

// matrix is ldmatrix: lanes 8q to 8q+7 name the eight rows of matrix q, and
// lane l gets entries 2(l mod 4) and the next of row l/4, or of column l/4.
func (w *warp) matrix(in *instr) {
	at := w.addresses(in, allLanes, in.op.size)
	for q := range 4 {
		var rows [8][4]uint32 // two entries a word
		for r := range rows {
			src := w.readShared(in, 8*q+r, at[8*q+r], 16)
			if src == nil {
				return
			}
			for t := range rows[r] {
				rows[r][t] = binary.LittleEndian.Uint32(src[4*t:])
			}
		}
		d := &w.r32[in.d[q]]
		for l := range d {
			g, t := l>>2, l&3
			if in.op.code == opMatrix {
				d[l] = rows[g][t]
				continue
			}
			lo, hi, shift := rows[2*t][g>>1], rows[2*t+1][g>>1], g&1*16
			d[l] = lo>>shift&0xffff | hi>>shift<<16
		}
		w.set32[in.d[q]] = allLanes
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

// mma multiplies a 16x16 and a 16x8 matrix of bf16 and adds to a float32 one.
// The order of a tensor core's sum is not published; this one is ascending.
func (w *warp) mma(in *instr) {
	var a [16][16]float32
	var b [8][16]float32 // by column
	for r := range 4 {
		for l, v := range &w.r32[in.s[r]] {
			row, col := fragmentA(l, r)
			a[row&15][col&15], a[row&15][(col+1)&15] = bf16(v), math.Float32frombits(v&0xffff0000)
		}
	}
	for r := range 2 {
		for l, v := range &w.r32[in.s[4+r]] {
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
		for l, c := range &w.r32[in.s[6+r]] {
			d[r][l] = bits32(f32(c) + f32(d[r][l]))
		}
	}
	for r := range 4 {
		w.r32[in.d[r]] = d[r]
		w.set32[in.d[r]] = allLanes
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
