package simd

import (
	"github.com/mmcloughlin/avo/reg"

	"github.com/structuredffn/sffn/runtime/kernel"
)

// activate applies the activation to row i and returns what is stored.
func (m *tile) activate(i int) []reg.VecVirtual {
	switch m.Epilogue {
	case kernel.GELU:
		for _, v := range m.acc[i] {
			m.gelu(v)
		}
	case kernel.SwiGLU:
		gates, ups := m.gates(i), m.ups(i)
		for j, u := range ups {
			m.gate(gates[j], u)
		}
		return ups
	}
	return m.acc[i]
}

// gate replaces u by silu(g) * u. The quotient comes first: g*u may overflow
// where the result does not.
func (e *asm) gate(g, u reg.VecVirtual) {
	t := e.vec()
	e.VMULPS(e.constant(-log2e), g, t)
	e.exp2(t)
	e.VADDPS(e.constant(1), t, t)
	e.VDIVPS(t, g, t)
	e.VMULPS(t, u, u)
}
