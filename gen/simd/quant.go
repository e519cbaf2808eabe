package simd

import (
	"fmt"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/structuredffn/sffn/gen/simd/pass"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// integers is the emission of a kernel of a format of integers, over panels of 32
// columns ([kernel.Int8]):
//
//	for t in tiles:
//	    for each sweep of the columns: for each group of 32 k: sum products
//	    scale, add bias and residual, store
type integers struct {
	*asm
	kernel.Row
	// rows are pointers to rows of the left operand, five apart from one to the next.
	rows   []reg.GPVirtual
	by     stride
	b      reg.GPVirtual // walks the panel
	column reg.GPVirtual // the first one of the sweep, where there are several
	nv     int           // vectors of a sweep
	ones   reg.VecVirtual
}

// Bytes of a panel: a line of one group of k, 4 bytes of each of the columns, and a group
// of 32 k with what is behind it.
const (
	quantLine  = 4 * kernel.Panel
	int4Scales = 2 * kernel.Panel
)

func (e *asm) integers(k kernel.Row) error {
	if k.NR != kernel.Panel || k.Strip || k.Shape != nil || k.Epilogue != kernel.Linear {
		return fmt.Errorf("simd: kernel %s: those of %s are %d columns wide, for any shape, without an activation", k.Name(), k.Format, kernel.Panel)
	}
	e.function(k.Name(), k.Needs())
	m := &integers{asm: e, Row: k, nv: k.NR / e.Lanes() / k.Sweeps}
	groups, panel := e.GP64(), e.load(argB)
	segs := e.load(argSegs)
	e.MOVQ(mem(segs, int(segLen)), groups)
	e.ADDQ(operand.U8(kernel.QuantGroup-1), groups)
	e.SHRQ(operand.U8(5), groups)
	if !m.dots() {
		m.constantOnes()
	}
	t, next := e.GP64(), e.label("tile")
	e.XORQ(t, t)
	e.Label(next)
	if k.Sweeps > 1 {
		m.column = e.GP64()
		e.XORQ(m.column, m.column)
		half := e.label("sweep")
		e.Label(half)
		m.sweep(t, panel, groups)
		e.ADDQ(operand.I32(int32(k.NR/k.Sweeps)), m.column)
		e.CMPQ(m.column, operand.I32(int32(k.NR)))
		e.JL(e.jump(half))
	} else {
		m.sweep(t, panel, groups)
	}
	e.ADDQ(e.field(argPanelStep), panel)
	e.INCQ(t)
	e.CMPQ(t, e.field(argNTiles))
	e.JL(e.jump(next))
	e.done()
	return nil
}

// columns is what lies disp bytes behind a place of the panel's first column, of so many
// bytes each: where that of the sweep lies.
func (m *integers) columns(base reg.Register, bytes uint8, disp int) operand.Mem {
	if m.Sweeps == 1 {
		return mem(base, disp)
	}
	return indexed(base, m.column, bytes, disp)
}

// constantOnes are the int16 that VPMADDWD sums pairs by.
func (m *integers) constantOnes() {
	m.ones = m.Vec()
	m.VMOVUPS(m.bits(0x00010001), m.ones)
}

// table are the vectors of a sweep, row by row.
func (m *integers) table() (vs [][]reg.VecVirtual) {
	for range m.MR {
		vs = append(vs, m.vecs(m.nv))
	}
	return vs
}

// begin points at the rows and at the panel.
func (m *integers) begin(panel reg.GPVirtual) {
	m.b = m.GP64()
	m.MOVQ(panel, m.b)
	m.by = m.stride(argLDA, min(m.MR, pointerRows))
	m.rows = make([]reg.GPVirtual, (m.MR+pointerRows-1)/pointerRows)
	for i := range m.rows {
		m.rows[i] = m.GP64()
		if i == 0 {
			m.MOVQ(m.field(argA), m.rows[0])
			continue
		}
		m.LEAQ(indexed(m.rows[i-1], m.by.one, 4, 0), m.rows[i])
		m.ADDQ(m.by.one, m.rows[i])
	}
}

// left is what lies so many bytes behind row i of the left operand.
func (m *integers) left(i, disp int) operand.Mem {
	a := m.by.at(m.rows[i/pointerRows], i%pointerRows)
	a.Disp += disp
	return a
}

// weights are those of vector j of a line of the group at b.
func (m *integers) weights(line, j int) operand.Mem {
	return m.columns(m.b, 4, line*quantLine+j*m.Bytes())
}

// eachGroup runs body for each group of 32 k, whose lines it passes; behind them are so
// many bytes of the panel.
func (m *integers) eachGroup(groups reg.GPVirtual, behind int, body func()) {
	n, l := m.GP64(), m.label("group")
	m.MOVQ(groups, n)
	m.Label(l)
	body()
	if behind > 0 {
		m.ADDQ(operand.I32(int32(behind)), m.b)
	}
	for _, p := range m.rows {
		m.ADDQ(operand.I32(kernel.LeftGroupBytes-kernel.QuantGroup), p)
	}
	m.DECQ(n)
	m.JNZ(m.jump(l))
}

// lines runs body for so many lines of a group, two at a time: the first of them, and then
// the bytes of a row that one has. b and the rows go on.
func (m *integers) lines(n, left int, body func(line int)) {
	const at = 2
	c, l := m.GP64(), m.label("line")
	m.MOVQ(operand.U32(uint32(n/at)), c)
	m.Label(l)
	for line := range at {
		body(line)
	}
	m.ADDQ(operand.I32(at*quantLine), m.b)
	for _, p := range m.rows {
		m.ADDQ(operand.I32(int32(at*left)), p)
	}
	m.DECQ(c)
	m.JNZ(m.jump(l))
}

// ask asks for the lines of a group that come Ahead lines later.
func (m *integers) ask(line int) {
	for at := 0; m.Ahead > 0 && at < quantLine/m.Sweeps; at += 64 {
		m.PREFETCHT0(m.columns(m.b, 4, line*quantLine+at+64*m.Ahead))
	}
}

func (m *integers) sweep(t, panel, groups reg.GPVirtual) {
	m.begin(panel)
	var sums [][]reg.VecVirtual
	if m.Format == kernel.Int8 {
		sums = m.int8(groups)
	} else {
		sums = m.int4(groups)
	}
	m.store(t, sums)
}

// store scales the sums of the rows, adds bias and residual and stores them.
func (m *integers) store(t reg.GPVirtual, sums [][]reg.VecVirtual) {
	a, lda, at := m.load(argA), m.load(argLDA), m.GP64()
	for i, row := range sums {
		s := m.Vec()
		m.VBROADCASTSS(mem(a, -kernel.LeftHead), s)
		for _, v := range row {
			m.VMULPS(s, v, v)
		}
		if i < m.MR-1 {
			m.ADDQ(lda, a)
		}
	}
	m.IMUL3Q(operand.U32(kernel.EntryBytes*kernel.Panel), t, at)
	if m.Sweeps > 1 {
		m.LEAQ(indexed(at, m.column, kernel.EntryBytes, 0), at)
	}
	optional := func(field uintptr, body func(p reg.GPVirtual)) {
		skip, p := m.label("skip"), m.load(field)
		m.TESTQ(p, p)
		m.JZ(m.jump(skip))
		m.ADDQ(at, p)
		body(p)
		m.Label(skip)
	}
	each := func(p reg.GPVirtual, f func(v reg.VecVirtual, at operand.Mem)) {
		ldc := m.load(argLDC)
		for i, row := range sums {
			for j, v := range row {
				f(v, mem(p, j*m.Bytes()))
			}
			if i < m.MR-1 {
				m.ADDQ(ldc, p)
			}
		}
	}
	optional(argBias, func(p reg.GPVirtual) {
		for j := range m.nv {
			b := m.Vec()
			m.VMOVUPS(mem(p, j*m.Bytes()), b)
			for _, row := range sums {
				m.VADDPS(b, row[j], row[j])
			}
		}
	})
	optional(argResidual, func(p reg.GPVirtual) {
		each(p, func(v reg.VecVirtual, at operand.Mem) { m.VADDPS(at, v, v) })
	})
	c := m.load(argC)
	m.ADDQ(at, c)
	each(c, func(v reg.VecVirtual, at operand.Mem) { m.VMOVUPS(v, at) })
}

// dots reports whether there is an instruction that sums four products of bytes in one go:
// that of AVX-512, or, where the kernel may use it, that of AVX-VNNI.
func (m *integers) dots() bool { return m.wide() || m.With == kernel.HasAVXVNNI }

// dot adds to each int32 of sum the products of four int8 of x and four uint8 of w.
func (m *integers) dot(x, w, sum reg.VecVirtual) {
	if m.wide() {
		m.VPDPBUSD(x, w, sum)
		return
	}
	m.Instruction(pass.VPDPBUSD(x, w, sum))
}

func (m *integers) and(x, y, dst reg.VecVirtual) {
	if m.wide() {
		m.VPANDD(x, y, dst)
		return
	}
	m.VPAND(x, y, dst)
}

// andNot is x and not y.
func (m *integers) andNot(x, y, dst reg.VecVirtual) {
	if m.wide() {
		m.VPANDND(x, y, dst)
		return
	}
	m.VPANDN(x, y, dst)
}

// wide says that registers are those of AVX-512.
func (m *integers) wide() bool { return m.Lanes() == kernel.HalfPanel }
