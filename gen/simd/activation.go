package simd

import (
	"github.com/mmcloughlin/avo/reg"

	"github.com/structuredffn/sffn/runtime/kernel"
)

// activations has a row for each epilogue: it applies the activation to row i and
// returns what is stored.
var activations = map[kernel.Epilogue]func(m *tile, i int) []reg.VecVirtual{
	kernel.Linear: func(m *tile, i int) []reg.VecVirtual { return m.acc[i] },
	kernel.GELU: func(m *tile, i int) []reg.VecVirtual {
		for _, v := range m.acc[i] {
			m.gelu(v)
		}
		return m.acc[i]
	},
	kernel.SwiGLU: func(m *tile, i int) []reg.VecVirtual {
		gates, ups := m.gates(i), m.ups(i)
		for j, u := range ups {
			m.gate(gates[j], u)
		}
		return ups
	},
}

// gate replaces u by silu(g) * u. The quotient comes first: g*u may overflow
// where the result does not.
func (e *asm) gate(g, u reg.VecVirtual) {
	t := e.Vec()
	e.VMULPS(e.constant(-log2e), g, t)
	e.exp2(t)
	e.VADDPS(e.constant(1), t, t)
	e.VDIVPS(t, g, t)
	e.VMULPS(t, u, u)
}
