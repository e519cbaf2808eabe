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

// AddUnits has units sum db from dy, those of the gradient of the same dy that are
// units[from:]: they sum what they pack. Where none pack it, because its lanes run across
// blocks, units are added that read it once more; sums is scratch of len(canon) entries.
func (b *BiasGradient) AddUnits(units []Unit, from int, db, dy, sums []float32) []Unit {
	packed := false
	for i := range units[from:] {
		u := &units[from+i]
		if u.Gradient == nil || u.across != nil {
			continue
		}
		packed = true
		if u.p0 == 0 {
			u.bias, u.db = b, db
		}
	}
	for c := 0; c < len(b.canon) && !packed; c += b.columns {
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
		b.add(u.dw, u.s0+j, v, accumulate)
	}
}

// put stores the sums of columns, or adds them to db.
func (b *BiasGradient) put(db []float32, columns []int, sums []float32, accumulate bool) {
	for j, at := range columns {
		b.add(db, at, sums[j], accumulate)
	}
}

func (b *BiasGradient) add(db []float32, column int, sum float32, accumulate bool) {
	if !accumulate {
		db[b.canon[column]] = 0
	}
	db[b.canon[column]] += sum
}
