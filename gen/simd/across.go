package simd

import (
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/structuredffn/sffn/runtime/kernel"
)

// across emits a kernel whose lanes run across blocks: every entry of A, B and C is a
// vector of neighbouring blocks, as many as [kernel.LaneGroup], in one sweep or two.
//
//	for h in sweeps: for t in tiles:
//	    acc = 0, or C with Continue
//	    for k: acc[i][j] += A[i,k] * B[k,j], lane by lane
//	    C = acc
func (e *asm) across(k kernel.Row) {
	format, _ := k.Format.Format()
	m := &tile{asm: e, Row: k, format: format}
	e.function(k.Name(), k.Needs())
	// The sweep's distance from the first lane, and the first column of B and C of the
	// tile at work.
	lane, bt, ct, t := e.GP64(), e.GP64(), e.GP64(), e.GP64()
	sweep, next := e.label("sweep"), e.label("tile")
	e.XORQ(lane, lane)
	e.Label(sweep)
	e.MOVQ(e.field(argB), bt)
	e.MOVQ(e.field(argC), ct)
	e.ADDQ(lane, bt)
	e.ADDQ(lane, ct)
	e.MOVQ(e.field(argNTiles), t)
	e.Label(next)
	for range k.MR {
		row := e.vecs(k.NR)
		for _, v := range row {
			e.Zero(v)
		}
		m.acc = append(m.acc, row)
	}
	if k.PrefetchC {
		m.results(ct, func(_ reg.VecVirtual, c operand.Mem) { e.PREFETCHT0(c) })
	}
	m.flagged(kernel.Continue, func() {
		m.results(ct, func(v reg.VecVirtual, c operand.Mem) { e.VMOVUPS(c, v) })
	})
	m.vectorProducts(lane, bt, t)
	m.results(ct, func(v reg.VecVirtual, c operand.Mem) { e.VMOVUPS(v, c) })
	for _, p := range []struct {
		at  reg.GPVirtual
		col uintptr
	}{{bt, argColB}, {ct, argColC}} {
		step := e.GP64()
		e.IMUL3Q(operand.U32(uint32(k.NR)), e.field(p.col), step)
		e.ADDQ(step, p.at)
	}
	e.DECQ(t)
	e.JNZ(e.jump(next))
	if k.Sweeps > 1 {
		e.ADDQ(operand.U32(uint32(e.Bytes())), lane)
		e.CMPQ(lane, operand.U32(uint32(k.Sweeps*e.Bytes())))
		e.JL(e.jump(sweep))
	}
	e.done()
}

// vectorProducts multiplies all k of a tile whose first column of B is bt, with t tiles
// to go.
func (m *tile) vectorProducts(lane, bt, t reg.GPVirtual) {
	lda, col := m.stride(argLDA, m.MR), m.stride(argColB, m.NR)
	rows := []reg.GPVirtual{m.GP64()} // every pointerRows of them
	m.MOVQ(m.field(argA), rows[0])
	m.ADDQ(lane, rows[0])
	for i := pointerRows; i < m.MR; i += pointerRows {
		p := m.GP64()
		m.LEAQ(lda.at(rows[len(rows)-1], pointerRows-1), p)
		m.ADDQ(lda.one, p)
		rows = append(rows, p)
	}
	m.b = m.GP64()
	m.MOVQ(bt, m.b)
	n := m.load(argSegs)
	m.MOVQ(mem(n, int(segLen)), n)
	loop := func(askA, askB bool) {
		ask := func(yes bool, at operand.Mem) {
			if yes {
				m.PREFETCHT1(at.Offset(lineBytes * m.Ahead))
			}
		}
		l := m.label("k")
		m.Label(l)
		right := m.vecs(m.NR)
		for j, v := range right {
			m.VMOVUPS(col.at(m.b, j), v)
			ask(askB, col.at(m.b, j))
		}
		for i, row := range m.acc {
			x, at := m.Vec(), lda.at(rows[i/pointerRows], i%pointerRows)
			m.VMOVUPS(at, x)
			ask(askA, at)
			for j, v := range right {
				m.VFMADD231PS(v, x, row[j])
			}
		}
		for _, p := range rows {
			m.ADDQ(m.field(argKStep), p)
		}
		m.ADDQ(m.field(argLDB), m.b)
		m.DECQ(n)
		m.JNZ(m.jump(l))
	}
	if m.Ahead == 0 {
		loop(false, false)
		return
	}
	// Other tiles of the call ask for the same vectors of A.
	both, plain, end := m.label("both"), m.label("plain"), m.label("end")
	m.TESTL(operand.U32(uint32(kernel.AskB)), m.field(argFlags))
	m.JNZ(m.jump(both))
	m.CMPQ(t, m.field(argNTiles))
	m.JNE(m.jump(plain))
	loop(true, false)
	m.JMP(m.jump(end))
	m.Label(both)
	loop(true, true)
	m.JMP(m.jump(end))
	m.Label(plain)
	loop(false, false)
	m.Label(end)
}

// results calls f with each accumulator and its place, the first of which is c.
func (m *tile) results(c reg.GPVirtual, f func(v reg.VecVirtual, at operand.Mem)) {
	p, col := m.GP64(), m.stride(argColC, m.NR)
	m.MOVQ(c, p)
	for i, row := range m.acc {
		for j, v := range row {
			f(v, col.at(p, j))
		}
		if i < len(m.acc)-1 {
			m.ADDQ(m.field(argLDC), p)
		}
	}
}

const lineBytes = 64 // of a cache line
