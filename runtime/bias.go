package runtime

import "github.com/structuredffn/sffn/runtime/vec"

// biasColumns is the width of a unit of bias gradient.
const biasColumns = 256

// biasGradient sums dy over its rows, in order, into the bias's gradient.
type biasGradient struct {
	vec *vec.Table
	// canon maps a stored column of dy to its entry of the bias.
	canon []int
}

func newBiasGradient(t *vec.Table, canon []int) *biasGradient {
	return &biasGradient{vec: t, canon: canon}
}

// addUnits adds the units of a call; sums is scratch of len(canon) entries.
func (b *biasGradient) addUnits(units []weightUnit, db, dy, sums []float32) []weightUnit {
	for c := 0; c < len(b.canon); c += biasColumns {
		units = append(units, weightUnit{bias: b, c0: c, c1: min(len(b.canon), c+biasColumns), dw: db, dy: dy, x: sums})
	}
	return units
}

func (b *biasGradient) run(u *weightUnit, m int, accumulate bool) {
	sums := u.x[u.c0:u.c1]
	clear(sums)
	if m > 0 {
		b.vec.ColSum(sums, u.dy[u.c0:], m, u.c1-u.c0, len(b.canon))
	}
	for j, v := range sums {
		at := b.canon[u.c0+j]
		if accumulate {
			u.dw[at] += v
		} else {
			u.dw[at] = v
		}
	}
}
