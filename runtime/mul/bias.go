package mul

import (
	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/vec"
)

// BiasGradient sums dy over its rows, in order, into the bias's gradient.
type BiasGradient struct {
	vec     *vec.Table
	columns int // of a unit
	// canon maps a stored column of dy to its entry of the bias.
	canon []int
}

// NewBiasGradient sums columns, of which canon maps each to its entry of the bias.
func NewBiasGradient(t *vec.Table, target *kernel.Target, canon []int) *BiasGradient {
	return &BiasGradient{vec: t, columns: target.BiasColumns, canon: canon}
}

// AddUnits adds the units of a call; sums is scratch of len(canon) entries.
func (b *BiasGradient) AddUnits(units []Unit, db, dy, sums []float32) []Unit {
	for c := 0; c < len(b.canon); c += b.columns {
		units = append(units, Unit{bias: b, s0: c, s1: min(len(b.canon), c+b.columns), dw: db, dy: dy, x: sums})
	}
	return units
}

func (b *BiasGradient) run(u *Unit, m int, accumulate bool) {
	sums := u.x[u.s0:u.s1]
	clear(sums)
	if m > 0 {
		b.vec.ColSum(sums, u.dy[u.s0:], m, u.s1-u.s0, len(b.canon))
	}
	for j, v := range sums {
		at := b.canon[u.s0+j]
		if accumulate {
			u.dw[at] += v
		} else {
			u.dw[at] = v
		}
	}
}
