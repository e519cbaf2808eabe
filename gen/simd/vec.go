package simd

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"unsafe"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/structuredffn/sffn/gen/simd/arch"
	"github.com/structuredffn/sffn/gen/simd/pass"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// Offsets of the elementwise kernels' arguments.
const (
	vecN         = unsafe.Offsetof(kernel.VecArgs{}.N)
	vecRows      = unsafe.Offsetof(kernel.VecArgs{}.Rows)
	vecStride    = unsafe.Offsetof(kernel.VecArgs{}.Stride)
	vecStep      = unsafe.Offsetof(kernel.VecArgs{}.Step)
	vecGroups    = unsafe.Offsetof(kernel.VecArgs{}.Groups)
	vecGroupStep = unsafe.Offsetof(kernel.VecArgs{}.GroupStep)
)

func vecP(i int) uintptr { return unsafe.Offsetof(kernel.VecArgs{}.P) + uintptr(8*i) }
func vecS(i int) uintptr { return unsafe.Offsetof(kernel.VecArgs{}.S) + uintptr(4*i) }
func vecR(i int) uintptr { return unsafe.Offsetof(kernel.VecArgs{}.R) + uintptr(4*i) }

// Vec assembles every elementwise kernel of instruction sets.
func Vec(pkg string, rows []kernel.VecRow) (map[string][]byte, error) {
	files := map[string][]byte{}
	emit := maps.Clone(emitVec)
	emitActivations(emit)
	var asms []*asm
	for _, row := range rows {
		isa := row.ISA
		e := newAsm(isa)
		e.vecRow = row
		for op := range kernel.NumVecOps {
			e.function(row.Name(op), slices.Concat(isa.Needs(), op.Needs(isa)))
			emit[op](e)
			e.done()
		}
		src, err := e.finish()
		if err != nil {
			return nil, err
		}
		files[fmt.Sprintf("z_vec_%s_amd64.s", isa)] = src
		asms = append(asms, e)
	}
	files["z_vec_amd64.go"] = stubs(pkg, "VecArgs", asms...)
	return files, nil
}

// vecBody is one vector's worth of an elementwise loop.
type vecBody struct {
	*asm
	ptrs map[int]reg.GPVirtual
	idx  reg.GPVirtual
	disp int
	// u counts the unrolled copies: reductions keep one accumulator each.
	u int
	// tail says that only the lanes of mask are left.
	tail bool
	mask arch.Mask
}

// ld loads the vector of operand i; lanes beyond the end are 0.
func (b *vecBody) ld(i int) reg.VecVirtual {
	v, m := b.Vec(), indexed(b.ptrs[i], b.idx, 1, b.disp)
	if b.tail {
		b.LoadMasked(m, b.mask, v)
	} else {
		b.VMOVUPS(m, v)
	}
	return v
}

// st stores v as the vector of operand i.
func (b *vecBody) st(i int, v reg.VecVirtual) {
	m := indexed(b.ptrs[i], b.idx, 1, b.disp)
	if b.tail {
		b.StoreMasked(v, b.mask, m)
	} else {
		b.VMOVUPS(v, m)
	}
}

// inside clears the lanes of v beyond the end.
func (b *vecBody) inside(v reg.VecVirtual) {
	if b.tail {
		b.Keep(b.mask, v)
	}
}

// fill puts f into the lanes of v beyond the end.
func (b *vecBody) fill(v reg.VecVirtual, f float32) {
	if b.tail {
		b.Fill(b.constant(f), b.mask, v)
	}
}

// loop runs body over the N entries of the operands given: unroll vectors at
// a time, then single ones, then the tail.
func (e *asm) loop(unroll int, operands []int, body func(*vecBody)) {
	b := &vecBody{asm: e, ptrs: map[int]reg.GPVirtual{}, idx: e.GP64()}
	for _, i := range operands {
		b.ptrs[i] = e.load(vecP(i))
	}
	e.XORQ(b.idx, b.idx)
	e.vectors(b, e.load(vecN), unroll, body)
}

// vectors is the loop itself, for n entries from b.idx; n is destroyed.
func (e *asm) vectors(b *vecBody, n reg.GPVirtual, unroll int, body func(*vecBody)) {
	for _, us := range []int{unroll, 1} {
		main, end := e.label("main"), e.label("end")
		e.SUBQ(operand.U32(uint32(us*e.Lanes())), n)
		e.JL(e.jump(end))
		e.Label(main)
		e.alternate(us, func(u int) {
			b.u, b.disp = u, u*e.Bytes()
			body(b)
		})
		e.ADDQ(operand.U32(uint32(us*e.Bytes())), b.idx)
		e.SUBQ(operand.U32(uint32(us*e.Lanes())), n)
		e.JGE(e.jump(main))
		e.Label(end)
		e.ADDQ(operand.U32(uint32(us*e.Lanes())), n)
		if unroll == 1 {
			break
		}
	}
	done := e.label("done")
	e.TESTQ(n, n)
	e.JZ(e.jump(done))
	b.u, b.disp, b.tail = 0, 0, true
	b.mask = e.FirstLanes(n)
	body(b)
	b.tail = false
	e.Label(done)
}

// scalar is S[i] in every lane.
func (e *asm) scalar(i int) reg.VecVirtual {
	v := e.Vec()
	e.VBROADCASTSS(e.field(vecS(i)), v)
	return v
}

// sums are the accumulators of a reduction.
func (e *asm) sums(n int) []reg.VecVirtual {
	vs := e.vecs(n)
	for _, v := range vs {
		e.Zero(v)
	}
	return vs
}

// result folds accumulators into R[i] with op, in a fixed order.
func (e *asm) result(i int, acc []reg.VecVirtual, op func(...operand.Op)) {
	v := acc[0]
	for _, w := range acc[1:] {
		op(w, v, v)
	}
	e.VMOVSS(e.Fold(v, op), e.field(vecR(i)))
}

const reduceUnroll = 4

// emitVec holds the emitter of every operation but those of activations. The
// portable forms in runtime/vec say what each operand is.
var emitVec = map[kernel.VecOp]func(*asm){
	kernel.OpSum: func(e *asm) {
		acc := e.sums(reduceUnroll)
		e.loop(reduceUnroll, []int{0}, func(b *vecBody) { b.VADDPS(b.ld(0), acc[b.u], acc[b.u]) })
		e.result(0, acc, e.VADDPS)
	},
	kernel.OpSumDeviations: func(e *asm) {
		acc, mean := e.sums(reduceUnroll), e.scalar(0)
		e.loop(reduceUnroll, []int{0}, func(b *vecBody) {
			x := b.ld(0)
			b.VSUBPS(mean, x, x)
			b.inside(x)
			b.VFMADD231PS(x, x, acc[b.u])
		})
		e.result(0, acc, e.VADDPS)
	},
	kernel.OpNormalize: func(e *asm) {
		mean, rstd := e.scalar(0), e.scalar(1)
		e.loop(2, []int{0, 1, 2, 3}, func(b *vecBody) {
			x := b.ld(1)
			b.VSUBPS(mean, x, x)
			b.VMULPS(rstd, x, x)
			y := b.ld(3)
			b.VFMADD231PS(b.ld(2), x, y)
			b.st(0, y)
		})
	},
	kernel.OpNormSums: func(e *asm) {
		mean, rstd := e.scalar(0), e.scalar(1)
		s1, s2 := e.sums(2), e.sums(2)
		e.loop(2, []int{0, 1, 2, 3, 4}, func(b *vecBody) {
			dy, x := b.ld(0), b.ld(1)
			b.VSUBPS(mean, x, x)
			b.VMULPS(rstd, x, x)
			g := b.ld(2)
			b.VMULPS(dy, g, g)
			b.VADDPS(g, s1[b.u], s1[b.u])
			b.VFMADD231PS(g, x, s2[b.u])
			dw := b.ld(3)
			b.VFMADD231PS(dy, x, dw)
			b.st(3, dw)
			db := b.ld(4)
			b.VADDPS(dy, db, db)
			b.st(4, db)
		})
		e.result(0, s1, e.VADDPS)
		e.result(1, s2, e.VADDPS)
	},
	kernel.OpNormApply: func(e *asm) {
		mean, rstd, m1, m2 := e.scalar(0), e.scalar(1), e.scalar(2), e.scalar(3)
		e.loop(1, []int{0, 1, 2, 3}, func(b *vecBody) {
			dy, x := b.ld(1), b.ld(2)
			b.VSUBPS(mean, x, x)
			b.VMULPS(rstd, x, x)
			g := b.ld(3)
			b.VMULPS(dy, g, g)
			b.VSUBPS(m1, g, g)
			b.VFNMADD231PS(m2, x, g)
			dx := b.ld(0)
			b.VFMADD231PS(rstd, g, dx)
			b.st(0, dx)
		})
	},
	kernel.OpMax: func(e *asm) {
		acc := e.vecs(reduceUnroll)
		for _, v := range acc {
			e.VMOVUPS(e.constant(float32(math.Inf(-1))), v)
		}
		e.loop(reduceUnroll, []int{0}, func(b *vecBody) {
			x := b.ld(0)
			b.fill(x, float32(math.Inf(-1)))
			// The first operand is what MAXPS returns for NaN: it counts for nothing.
			b.VMAXPS(acc[b.u], x, acc[b.u])
		})
		e.result(0, acc, e.VMAXPS)
	},
	kernel.OpLargest:  largest,
	kernel.OpQuantize: quantize,
	kernel.OpExpSum: func(e *asm) {
		scale, shift, top, acc := e.scalar(0), e.scalar(1), e.scalar(2), e.sums(2)
		e.loop(2, []int{0, 1}, func(b *vecBody) {
			x := b.ld(1)
			b.VSUBPS(top, x, x)
			b.VFMSUB213PS(shift, scale, x)
			b.exp(x)
			b.st(0, x)
			b.inside(x)
			b.VADDPS(x, acc[b.u], acc[b.u])
		})
		e.result(0, acc, e.VADDPS)
	},
	kernel.OpSoftmaxBackward: func(e *asm) {
		delta, scale := e.scalar(0), e.scalar(1)
		e.loop(2, []int{0, 1, 2}, func(b *vecBody) {
			p, dp := b.ld(1), b.ld(2)
			b.VSUBPS(delta, dp, dp)
			b.VMULPS(p, dp, dp)
			b.VMULPS(scale, dp, dp)
			b.st(0, dp)
		})
	},
	kernel.OpDot: func(e *asm) {
		acc := e.sums(reduceUnroll)
		e.loop(reduceUnroll, []int{0, 1}, func(b *vecBody) { b.VFMADD231PS(b.ld(0), b.ld(1), acc[b.u]) })
		e.result(0, acc, e.VADDPS)
	},
	kernel.OpScale: func(e *asm) {
		a := e.scalar(0)
		e.loop(2, []int{0}, func(b *vecBody) {
			x := b.ld(0)
			b.VMULPS(a, x, x)
			b.st(0, x)
		})
	},
	kernel.OpMultiply: func(e *asm) {
		e.loop(2, []int{0, 1}, func(b *vecBody) {
			x := b.ld(0)
			b.VMULPS(b.ld(1), x, x)
			b.st(0, x)
		})
	},
	kernel.OpAxpy: func(e *asm) {
		a := e.scalar(0)
		e.loop(2, []int{0, 1}, func(b *vecBody) {
			y := b.ld(0)
			b.VFMADD231PS(b.ld(1), a, y)
			b.st(0, y)
		})
	},
	kernel.OpColSum: func(e *asm) {
		// One vector of columns at a time, its sum in a register.
		stride := e.load(vecStride)
		e.loop(1, []int{0, 1}, func(b *vecBody) {
			sum := b.ld(0)
			col := *b
			col.ptrs = map[int]reg.GPVirtual{1: b.GP64()}
			b.MOVQ(b.ptrs[1], col.ptrs[1])
			rows, l := b.load(vecRows), b.label("row")
			b.Label(l)
			b.VADDPS(col.ld(1), sum, sum)
			b.ADDQ(stride, col.ptrs[1])
			b.DECQ(rows)
			b.JNZ(b.jump(l))
			b.st(0, sum)
		})
	},
	kernel.OpRotate: func(e *asm) {
		sign, stride, rows := e.scalar(0), e.load(vecStride), e.load(vecRows)
		b := &vecBody{asm: e, ptrs: map[int]reg.GPVirtual{}, idx: e.GP64()}
		for i := range 4 {
			b.ptrs[i] = e.load(vecP(i))
		}
		l := e.label("row")
		e.Label(l)
		e.XORQ(b.idx, b.idx)
		e.vectors(b, e.load(vecN), 1, func(b *vecBody) {
			x, y, cos, sin := b.ld(0), b.ld(1), b.ld(2), b.ld(3)
			b.VMULPS(sign, sin, sin)
			p, q := b.Vec(), b.Vec()
			b.VMULPS(y, sin, p)
			b.VMULPS(x, sin, q)
			b.VFMSUB231PS(x, cos, p)
			b.VFMADD231PS(y, cos, q)
			b.st(0, p)
			b.st(1, q)
		})
		e.ADDQ(stride, b.ptrs[0])
		e.ADDQ(stride, b.ptrs[1])
		e.DECQ(rows)
		e.JNZ(e.jump(l))
	},
	kernel.OpAdamW: func(e *asm) {
		e.loop(1, []int{0, 1, 2, 3}, func(b *vecBody) {
			g, m, v := b.ld(1), b.ld(2), b.ld(3)
			s := func(i int) reg.VecVirtual { return b.scalar(i) }
			b.VMULPS(s(5), g, g)
			b.VMULPS(s(1), m, m)
			b.VFMADD231PS(s(2), g, m)
			b.st(2, m)
			b.VMULPS(s(3), v, v)
			b.VMULPS(g, g, g)
			b.VFMADD231PS(s(4), g, v)
			b.st(3, v)
			b.VMULPS(s(7), v, v)
			b.VSQRTPS(v, v)
			b.VADDPS(s(8), v, v)
			b.VMULPS(s(6), m, m)
			b.VDIVPS(v, m, m)
			p := b.ld(0)
			b.VMULPS(s(0), p, p)
			b.VSUBPS(m, p, p)
			b.st(0, p)
		})
	},
	kernel.OpSpread:    func(e *asm) { e.spread(false) },
	kernel.OpSpreadAdd: func(e *asm) { e.spread(true) },
	kernel.OpWeave2:    func(e *asm) { e.weave(2, false) },
	kernel.OpWeave2Add: func(e *asm) { e.weave(2, true) },
	kernel.OpWeave4:    func(e *asm) { e.weave(4, false) },
	kernel.OpWeave4Add: func(e *asm) { e.weave(4, true) },
	kernel.OpPackPanels: func(e *asm) {
		e.pack(kernel.Panel, (*asm).copyRun, false)
	},
	kernel.OpPackStrips:     func(e *asm) { e.pack(e.vecRow.StripRows, (*asm).copyRun, false) },
	kernel.OpPackStripsStep: func(e *asm) { e.pack(e.vecRow.StripRows, (*asm).copyStepped, false) },
	kernel.OpSumStrips:      func(e *asm) { e.pack(e.vecRow.StripRows, (*asm).copyRun, true) },
	kernel.OpSumStripsStep:  func(e *asm) { e.pack(e.vecRow.StripRows, (*asm).copyStepped, true) },
	kernel.OpCopyRuns:       func(e *asm) { e.copyRuns() },
	kernel.OpTranspose:      func(e *asm) { e.transpose() },
	kernel.OpBF16:           func(e *asm) { e.bf16() },
	kernel.OpBF16Pairs:      func(e *asm) { e.bf16Pairs() },
	kernel.OpRoundBF16:      func(e *asm) { e.roundedBF16(false) },
	kernel.OpSwapBF16:       func(e *asm) { e.roundedBF16(true) },
	kernel.OpRead:           func(e *asm) { e.loop(8, []int{0}, func(b *vecBody) { b.ld(0) }) },
	kernel.OpPeak:           func(e *asm) { e.peak(12, 1, e.fma) },
	kernel.OpPeakBF16: func(e *asm) {
		if e.Lanes() == 16 {
			e.peak(12, 2, func(x, sum reg.VecVirtual) { e.Instruction(pass.VDPBF16PS(x, x, sum)) })
			return
		}
		e.peak(12, 1, e.fma) // of what was widened
	},
	kernel.OpPeakInt8: func(e *asm) {
		if e.Lanes() == 16 {
			e.peak(12, 4, e.dotBytes)
			return
		}
		e.peak(8, 4, func(x, sum reg.VecVirtual) {
			p := e.Vec()
			e.VPSIGNB(x, x, p)
			e.VPMADDUBSW(p, x, p)
			e.VPMADDWD(x, p, p)
			e.VPADDD(p, sum, sum)
		})
	},
	kernel.OpPeakInt4: func(e *asm) {
		if e.Lanes() == 16 {
			e.peak(12, 4, e.dotBytes)
			return
		}
		e.peak(8, 4, func(x, sum reg.VecVirtual) {
			p := e.Vec()
			e.VPMADDUBSW(x, x, p)
			e.VPADDW(p, sum, sum)
		})
	},
}

func (e *asm) fma(x, sum reg.VecVirtual)      { e.VFMADD231PS(x, x, sum) }
func (e *asm) dotBytes(x, sum reg.VecVirtual) { e.VPDPBUSD(x, x, sum) }

// peak runs N rounds of multiply-adds in as many chains as hide the latency of two a
// cycle; each lane of step adds so many products to its sum, in the instructions that
// products of the format take.
func (e *asm) peak(chains, products int, step func(x, sum reg.VecVirtual)) {
	acc := e.sums(chains)
	x, n, l := e.Vec(), e.load(vecN), e.label("loop")
	e.Zero(x)
	e.Label(l)
	for range peakUnroll {
		for _, v := range acc {
			step(x, v)
		}
	}
	e.DECQ(n)
	e.JNZ(e.jump(l))
	operations := e.GP32()
	e.MOVL(operand.U32(math.Float32bits(float32(2*products*e.Lanes()*len(acc)*peakUnroll))), operations)
	e.MOVL(operations, e.field(vecR(0)))
}

const peakUnroll = 8

const entry = kernel.EntryBytes

// pack takes rows apart into groups of n entries; body copies one row of one
// group, and adds it to n sums where there are some. It prefetches to the L2 cache, because many rows share few sets of L1: rows
// lie too far apart for the hardware to see them coming.
func (e *asm) pack(n int, body func(e *asm, src, dst, sums reg.GPVirtual, n int), sum bool) {
	src, dst := e.load(vecP(1)), e.load(vecP(0))
	rows, dstStep, srcStep, ahead := e.load(vecRows), e.load(vecGroupStep), e.GP64(), e.GP64()
	e.IMUL3Q(operand.U32(uint32(n)), e.field(vecStep), srcStep)
	e.IMUL3Q(operand.U32(uint32(e.vecRow.PackAhead)), e.field(vecStride), ahead)
	row, group := e.label("row"), e.label("group")
	e.Label(row)
	s, d, g := e.GP64(), e.GP64(), e.load(vecGroups)
	e.MOVQ(src, s)
	e.MOVQ(dst, d)
	var sums reg.GPVirtual
	if sum {
		sums = e.load(vecP(2))
	}
	e.Label(group)
	for at := 0; at < entry*n; at += 64 {
		e.PREFETCHT1(indexed(s, ahead, 1, at))
	}
	body(e, s, d, sums, n)
	if sum {
		e.ADDQ(operand.U32(uint32(entry*n)), sums)
	}
	e.ADDQ(srcStep, s)
	e.ADDQ(dstStep, d)
	e.DECQ(g)
	e.JNZ(e.jump(group))
	e.ADDQ(e.field(vecStride), src)
	e.ADDQ(operand.U32(uint32(entry*n)), dst)
	e.DECQ(rows)
	e.JNZ(e.jump(row))
}

// copyRun copies n neighbouring entries.
func (e *asm) copyRun(src, dst, sums reg.GPVirtual, n int) {
	for at := 0; at < n; {
		var v reg.VecVirtual
		for _, v = range []reg.VecVirtual{e.Vec(), e.YMM(), e.XMM()} {
			if entry*(n-at) >= int(v.Size()) {
				break
			}
		}
		switch size := int(v.Size()); {
		case entry*(n-at) >= size:
			e.VMOVUPS(mem(src, entry*at), v)
			e.VMOVUPS(v, mem(dst, entry*at))
			e.sumRun(v, sums, at, e.VMOVUPS)
			at += size / entry
		case n-at >= 2:
			e.VMOVSD(mem(src, entry*at), v)
			e.VMOVSD(v, mem(dst, entry*at))
			e.sumRun(v, sums, at, e.VMOVSD)
			at += 2
		default:
			e.VMOVSS(mem(src, entry*at), v)
			e.VMOVSS(v, mem(dst, entry*at))
			e.sumRun(v, sums, at, e.VMOVSS)
			at++
		}
	}
}

// sumRun adds v to sums from number at on, where there are some; move moves as much as v
// holds.
func (e *asm) sumRun(v reg.VecVirtual, sums reg.GPVirtual, at int, move func(...operand.Op)) {
	if sums == nil {
		return
	}
	old := map[uint]func() reg.VecVirtual{16: e.XMM, 32: e.YMM, 64: e.ZMM}[v.Size()]()
	move(mem(sums, entry*at), old)
	e.VADDPS(v, old, old)
	move(old, mem(sums, entry*at))
}

// copyStepped copies n entries that are Step bytes apart, n a multiple of 2.
func (e *asm) copyStepped(src, dst, sums reg.GPVirtual, n int) {
	step, step3, s := e.load(vecStep), e.GP64(), e.GP64()
	e.LEAQ(indexed(step, step, 2, 0), step3)
	e.MOVQ(src, s)
	for at := 0; at < n; at += 4 {
		v := e.XMM()
		e.VMOVSS(mem(s, 0), v)
		e.VINSERTPS(operand.U8(0x10), indexed(s, step, 1, 0), v, v)
		if n-at == 2 {
			e.VMOVSD(v, mem(dst, entry*at))
			e.sumRun(v, sums, at, e.VMOVSD)
			return
		}
		e.VINSERTPS(operand.U8(0x20), indexed(s, step, 2, 0), v, v)
		e.VINSERTPS(operand.U8(0x30), indexed(s, step3, 1, 0), v, v)
		e.VMOVUPS(v, mem(dst, entry*at))
		e.sumRun(v, sums, at, e.VMOVUPS)
		e.LEAQ(indexed(s, step, 4, 0), s)
	}
}

// copyRuns copies runs of entries, each from and to places of its own in every row,
// as masked vectors, by the table that vec.NewRuns lays out. Row by row: rows may lie
// so far apart that many share few sets of the L1 cache.
func (e *asm) copyRuns() {
	dst, src := e.load(vecP(0)), e.load(vecP(1))
	dstStep, srcStep, rows := e.load(vecStride), e.load(vecStep), e.load(vecRows)
	row, run := e.label("row"), e.label("run")
	e.Label(row)
	table, runs := e.load(vecP(3)), e.load(vecGroups)
	e.Label(run)
	to, from, n := e.GP64(), e.GP64(), e.GP64()
	e.MOVQ(mem(table, 0), to)
	e.MOVQ(mem(table, 8), from)
	e.MOVQ(mem(table, 16), n)
	k, v := e.FirstLanes(n), e.Vec()
	e.LoadMasked(indexed(src, from, 1, 0), k, v)
	e.StoreMasked(v, k, indexed(dst, to, 1, 0))
	e.ADDQ(operand.U32(runBytes), table)
	e.DECQ(runs)
	e.JNZ(e.jump(run))
	e.ADDQ(srcStep, src)
	e.ADDQ(dstStep, dst)
	e.DECQ(rows)
	e.JNZ(e.jump(row))
}

// runBytes is the size of an entry of the table of runs: where to, where from, how
// many.
const runBytes = 24

// spread stores the rows of a tight tile with a distance between neighbours, by
// the table that vec.spreadTable lays out where the register file uses one.
func (e *asm) spread(add bool) {
	s := arch.Spread{Dst: e.load(vecP(0)), Src: e.load(vecP(1)), Step: e.field(vecStep), Table: e.field(vecP(3))}
	if add {
		s.Res = e.load(vecP(2))
	}
	rows, stride := e.load(vecRows), e.load(vecStride)
	row, group := e.label("row"), e.label("group")
	s.At = e.GP64()
	e.Label(row)
	e.XORQ(s.At, s.At)
	s.N = e.load(vecN)
	e.Label(group)
	e.Spread(s)
	e.JNZ(e.jump(group))
	e.ADDQ(stride, s.Dst)
	if add {
		e.ADDQ(stride, s.Res)
	}
	e.DECQ(rows)
	e.JNZ(e.jump(row))
}

// weave deals out the rows of the tight tiles of n blocks in turn, and asks for the lines of
// the rows that come next.
func (e *asm) weave(n int, add bool) {
	weave := e.Weaver(n)
	dst, src, ahead, res := e.load(vecP(0)), e.load(vecP(1)), e.load(vecP(3)), reg.GPVirtual(nil)
	if add {
		res = e.load(vecP(2))
	}
	rows, step, step3, stride := e.load(vecRows), e.load(vecStep), e.GP64(), e.load(vecStride)
	e.LEAQ(indexed(step, step, 2, 0), step3)
	row, group := e.label("row"), e.label("group")
	at, left := e.GP64(), e.GP64()
	e.Label(row)
	e.XORQ(at, at)
	e.MOVQ(e.field(vecN), left)
	e.Label(group)
	vs := e.vecs(n)
	for i, m := range []operand.Mem{mem(src, 0), indexed(src, step, 1, 0), indexed(src, step, 2, 0), indexed(src, step3, 1, 0)}[:n] {
		e.VMOVUPS(m, vs[i])
	}
	for i := 0; i < n*e.Bytes(); i += 64 {
		e.PREFETCHT0(indexed(ahead, at, 1, i))
	}
	for i, v := range weave(vs) {
		if add {
			e.VADDPS(indexed(res, at, 1, i*e.Bytes()), v, v)
		}
		e.VMOVUPS(v, indexed(dst, at, 1, i*e.Bytes()))
	}
	e.ADDQ(operand.U32(uint32(e.Bytes())), src)
	e.ADDQ(operand.U32(uint32(n*e.Bytes())), at)
	e.SUBQ(operand.U32(uint32(e.Lanes())), left)
	e.JNZ(e.jump(group))
	for _, p := range []reg.GPVirtual{dst, ahead, res} {
		if p != nil {
			e.ADDQ(stride, p)
		}
	}
	e.DECQ(rows)
	e.JNZ(e.jump(row))
}

// transpose turns squares of as many rows as a vector has lanes: by one weaving of every
// n-th row and another one of what comes out, four and n vectors at a time.
func (e *asm) transpose() {
	const four = 4
	n := e.Lanes() / four
	first, second := e.Weaver(four), e.Weaver(n)
	dst, src, rows := e.load(vecP(0)), e.load(vecP(1)), e.load(vecRows)
	ld, ld3, step := e.load(vecStride), e.GP64(), e.load(vecStep)
	e.LEAQ(indexed(ld, ld, 2, 0), ld3)
	band, square := e.label("band"), e.label("square")
	e.Label(band)
	from, to, left := e.GP64(), e.GP64(), e.load(vecN)
	e.MOVQ(src, from)
	e.MOVQ(dst, to)
	e.Label(square)
	in, p := e.vecs(e.Lanes()), e.GP64()
	e.MOVQ(from, p)
	for i := 0; i < len(in); i += four {
		for j, m := range []operand.Mem{mem(p, 0), indexed(p, ld, 1, 0), indexed(p, ld, 2, 0), indexed(p, ld3, 1, 0)} {
			e.VMOVUPS(m, in[i+j])
		}
		e.LEAQ(indexed(p, ld, 4, 0), p)
	}
	var woven [][]reg.VecVirtual // every n-th row from row b on
	for b := range n {
		var every []reg.VecVirtual
		for i := range four {
			every = append(every, in[b+n*i])
		}
		woven = append(woven, first(every))
	}
	for c := range four {
		var parts []reg.VecVirtual
		for b := range n {
			parts = append(parts, woven[b][c])
		}
		for _, v := range second(parts) {
			e.VMOVUPS(v, mem(to, 0))
			e.ADDQ(step, to)
		}
	}
	e.ADDQ(operand.U32(uint32(e.Bytes())), from)
	e.SUBQ(operand.U32(uint32(e.Lanes())), left)
	e.JNZ(e.jump(square))
	for range e.Lanes() / four {
		e.LEAQ(indexed(src, ld, 4, 0), src)
	}
	e.ADDQ(operand.U32(uint32(e.Bytes())), dst)
	e.SUBQ(operand.U32(uint32(e.Lanes())), rows)
	e.JNZ(e.jump(band))
}
