package runtime

import (
	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/vec"
)

// biasGradient sums dy over its rows, in order, into the bias's gradient.
type biasGradient struct {
	vec     *vec.Table
	columns int // of a unit
	// canon maps a stored column of dy to its entry of the bias.
	canon []int
}

func newBiasGradient(t *vec.Table, target *kernel.Target, canon []int) *biasGradient {
	return &biasGradient{vec: t, columns: target.BiasColumns, canon: canon}
}

// addUnits adds the units of a call; sums is scratch of len(canon) entries.
func (b *biasGradient) addUnits(units []weightUnit, db, dy, sums []float32) []weightUnit {
	for c := 0; c < len(b.canon); c += b.columns {
		units = append(units, weightUnit{bias: b, s0: c, s1: min(len(b.canon), c+b.columns), dw: db, dy: dy, x: sums})
	}
	return units
}

func (b *biasGradient) run(u *weightUnit, m int, accumulate bool) {
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
