package simd

import (
	"github.com/mmcloughlin/avo/reg"

	"github.com/structuredffn/sffn/runtime/kernel"
)

// int8 sums the products of all k, and scales the columns. Behind the last group the
// panel has its scales.
func (m *integers) int8(groups reg.GPVirtual) [][]reg.VecVirtual {
	sums := m.table()
	for i, row := range sums {
		for _, v := range row {
			if m.dots() {
				m.VPBROADCASTD(m.left(i, 4-kernel.LeftHead), v)
			} else {
				m.Zero(v)
			}
		}
	}
	m.eachGroup(groups, 0, func() {
		m.lines(kernel.QuantGroup/4, 4, func(line int) {
			m.int8Line(sums, line)
			m.ask(line)
		})
	})
	for j := range m.nv {
		s := m.Vec()
		m.VMOVUPS(m.columns(m.b, kernel.EntryBytes, j*m.Bytes()), s)
		for _, row := range sums {
			m.VCVTDQ2PS(row[j], row[j])
			m.VMULPS(s, row[j], row[j])
		}
	}
	return sums
}

// int8Line sums the products of 4 k.
func (m *integers) int8Line(sums [][]reg.VecVirtual, line int) {
	ws := m.vecs(m.nv)
	for j, w := range ws {
		m.VMOVUPS(m.weights(line, j), w)
		if !m.dots() {
			m.VPXOR(m.bits(0x80808080), w, w) // less 128: signed
		}
	}
	for i, row := range sums {
		x := m.Vec()
		m.VPBROADCASTD(m.left(i, 4+4*line), x)
		if m.dots() {
			for j, w := range ws {
				m.dot(x, w, row[j])
			}
			continue
		}
		// VPMADDUBSW wants one operand without a sign, and saturates beyond 2 x 127 x 127:
		// the sign of x goes to the weights first.
		size := m.Vec()
		m.VPABSB(x, size)
		for j, w := range ws {
			p := m.Vec()
			m.VPSIGNB(x, w, p)
			m.VPMADDUBSW(p, size, p)
			m.VPMADDWD(m.ones, p, p)
			m.VPADDD(p, row[j], row[j])
		}
	}
}
