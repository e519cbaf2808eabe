package simd

import (
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/structuredffn/sffn/runtime/kernel"
)

// int4 sums the products of a group of k as integers, and these sums, times the columns'
// scales behind the group, group by group.
func (m *integers) int4(groups reg.GPVirtual) [][]reg.VecVirtual {
	sums := m.table()
	for _, row := range sums {
		for _, v := range row {
			m.Zero(v)
		}
	}
	low := m.Vec()
	m.VMOVUPS(m.bits(0x0f0f0f0f), low)
	m.eachGroup(groups, int4Scales, func() {
		var parts [][]reg.VecVirtual
		switch {
		case !m.dots():
			parts = m.int4Narrow(low)
		case m.MR == 1:
			parts = m.int4One(low)
		default:
			parts = m.int4Tile(low)
		}
		if m.Ahead > 0 {
			m.PREFETCHT0(mem(m.b, 64*m.Ahead))
		}
		for j := range m.nv {
			s := m.Vec()
			m.VPMOVZXWD(m.columns(m.b, 2, j*m.Bytes()/2), s)
			m.VPSLLD(operand.U8(16), s, s)
			for i, row := range parts {
				m.VCVTDQ2PS(row[j], row[j])
				m.VFMADD231PS(s, row[j], sums[i][j])
			}
		}
	})
	return sums
}

// beginParts starts the sums of a group at -8 times that of its activations.
func (m *integers) beginParts() [][]reg.VecVirtual {
	parts := m.table()
	for i, row := range parts {
		for _, v := range row {
			m.VPBROADCASTD(m.left(i, 0), v)
		}
	}
	return parts
}

const int4Lines = kernel.QuantGroup / 8

// int4Tile takes weights apart once for all rows.
func (m *integers) int4Tile(low reg.VecVirtual) [][]reg.VecVirtual {
	parts := m.beginParts()
	m.lines(int4Lines, 8, func(line int) {
		ls, hs := m.vecs(m.nv), m.vecs(m.nv)
		for j := range m.nv {
			m.VMOVUPS(m.weights(line, j), hs[j])
			m.and(low, hs[j], ls[j])
			m.VPSRLD(operand.U8(4), hs[j], hs[j])
			m.and(low, hs[j], hs[j])
		}
		m.ask(line)
		for half, ws := range [][]reg.VecVirtual{ls, hs} {
			for i, row := range parts {
				x := m.Vec()
				m.VPBROADCASTD(m.left(i, 4+8*line+4*half), x)
				for j, w := range ws {
					m.dot(x, w, row[j])
				}
			}
		}
	})
	return parts
}

// int4One leaves upper halves where they are, and shifts their sum: what one row, which
// takes weights apart for itself alone, has the registers for.
func (m *integers) int4One(low reg.VecVirtual) [][]reg.VecVirtual {
	parts := m.beginParts()
	hs := m.vecs(m.nv)
	for _, h := range hs {
		m.Zero(h)
	}
	m.lines(int4Lines, 8, func(line int) {
		x, y := m.Vec(), m.Vec()
		m.VPBROADCASTD(m.left(0, 4+8*line), x)
		m.VPBROADCASTD(m.left(0, 4+8*line+4), y)
		for j := range m.nv {
			w, l := m.Vec(), m.Vec()
			m.VMOVUPS(m.weights(line, j), w)
			m.and(low, w, l)
			m.andNot(w, low, w)
			m.dot(x, l, parts[0][j])
			m.dot(y, w, hs[j])
		}
		m.ask(line)
	})
	for j, h := range hs {
		m.VPSRAD(operand.U8(4), h, h)
		m.VPADDD(h, parts[0][j], parts[0][j])
	}
	return parts
}

// int4Narrow sums pairs as int16, which a group does not overflow: 8 x 2 x 15 x 127.
func (m *integers) int4Narrow(low reg.VecVirtual) [][]reg.VecVirtual {
	parts := m.table()
	for _, row := range parts {
		for _, v := range row {
			m.Zero(v)
		}
	}
	m.lines(int4Lines, 8, func(line int) {
		ls, hs := m.vecs(m.nv), m.vecs(m.nv)
		for j := range m.nv {
			m.VMOVUPS(m.weights(line, j), hs[j])
			m.VPAND(low, hs[j], ls[j])
			m.VPSRLD(operand.U8(4), hs[j], hs[j])
			m.VPAND(low, hs[j], hs[j])
		}
		m.ask(line)
		for half, ws := range [][]reg.VecVirtual{ls, hs} {
			for i, row := range parts {
				x := m.Vec()
				m.VPBROADCASTD(m.left(i, 4+8*line+4*half), x)
				for j, w := range ws {
					p := m.Vec()
					m.VPMADDUBSW(x, w, p)
					m.VPADDW(p, row[j], row[j])
				}
			}
		}
	})
	for i, row := range parts {
		x := m.Vec()
		m.VPBROADCASTD(m.left(i, -kernel.QuantGroup), x) // the rows have gone on
		for _, v := range row {
			m.VPMADDWD(m.ones, v, v)
			m.VPADDD(x, v, v)
		}
	}
	return parts
}
