package mul

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/structuredffn/sffn/internal/runtimetest"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// gradientsOf computes the gradients of rows [m0, m1) into g and db, or adds them.
func (b *bound) gradientsOf(g [][]float32, db, x, dpre []float32, m0, m1, unit int, accumulate bool) {
	in, out, width := b.widths()
	m := m1 - m0
	x, dpre = x[m0*in:], dpre[m0*width:]
	z, dz := b.between(m), b.between(m)
	b.runForward(make([]float32, m*out), make([]float32, m*width), x, nil, z, m, Weight{})
	b.runBackward(make([]float32, m*in), dpre, dz, m)
	b.runGradients(g, db, x, dpre, z, dz, m, unit, accumulate)
}

// A second pass that accumulates adds to each gradient, bit for bit, what the
// first one computed: the sums of the blocks of rows, in order. A single block
// doubles it. Blocks of rows whose sums have to be put in order first are added
// as one.
func TestAccumulate(t *testing.T) {
	eachSubject(t, func(t *testing.T, u *subject, target *kernel.Target) {
		large := len(u.w[0]) > 10000
		for _, m := range []int{1, 7, kernel.RowBlock, kernel.RowBlock + 44} {
			if large && (m == 1 || m == kernel.RowBlock || target.ISA == kernel.Portable && m > 7) {
				continue
			}
			b := u.bind(t, target, 2)
			unit := UnitWeights(target, b.weights(), 2)
			in, _, width := u.widths()
			x, dpre := runtimetest.Random(u.r, m*in, 1), runtimetest.Random(u.r, m*width, 1)
			g, db := b.emptyGradients()
			b.gradientsOf(g, db, x, dpre, 0, m, unit, false)
			once, dbOnce := cloneAll(g), slices.Clone(db)
			b.gradientsOf(g, db, x, dpre, 0, m, unit, true)
			var blocks [][][]float32
			for m0 := 0; m0 < m; m0 += kernel.RowBlock {
				block, ignored := b.emptyGradients()
				b.gradientsOf(block, ignored, x, dpre, m0, min(m, m0+kernel.RowBlock), unit, false)
				blocks = append(blocks, block)
			}
			check := func(what string, got, want float32) {
				t.Helper()
				if math.Float32bits(got) != math.Float32bits(want) {
					t.Fatalf("%d rows: %s is %v, want %v", m, what, got, want)
				}
			}
			for i, v := range dbOnce { // the sums of the bias's rows run through all blocks
				check(fmt.Sprintf("entry %d of the bias", i), db[i], v+v)
			}
			for i, gr := range b.gradients {
				n := len(g[i]) / gr.Blocks()
				for at, v := range once[i] {
					want := v
					if gr.Direct(at / n) {
						for _, block := range blocks {
							want += block[i][at]
						}
					} else {
						want += v
					}
					check(fmt.Sprintf("entry %d of factor %d", at, i), g[i][at], want)
				}
			}
		}
	})
}

// However small the units, each weight has one: the bits are those of few large ones.
func TestUnits(t *testing.T) {
	eachSubject(t, func(t *testing.T, u *subject, target *kernel.Target) {
		m := 40
		if target.ISA == kernel.Portable {
			m = 3
		}
		in, _, width := u.widths()
		x, dpre := runtimetest.Random(u.r, m*in, 1), runtimetest.Random(u.r, m*width, 1)
		var want [][]float32
		var dbWant []float32
		most := 0
		for _, unit := range []int{1 << 30, 5000, 1} {
			b := u.bind(t, target, 3)
			g, db := b.emptyGradients()
			b.gradientsOf(g, db, x, dpre, 0, m, unit, false)
			if want == nil {
				want, dbWant = g, db
			}
			for i := range g {
				runtimetest.SameBits(t, fmt.Sprintf("factor %d in units of %d weights", i, unit), g[i], want[i])
			}
			runtimetest.SameBits(t, fmt.Sprintf("the bias in units of %d weights", unit), db, dbWant)
			if len(b.ws.Units) < most {
				t.Errorf("%d units of %d weights, %d larger ones", len(b.ws.Units), unit, most)
			}
			most = len(b.ws.Units)
			for i := 1; i < most; i++ {
				if b.ws.Units[i].work() > b.ws.Units[i-1].work() {
					t.Errorf("unit %d comes after a smaller one", i)
				}
			}
		}
		if most < 2 && len(u.w[0]) > target.StripRows*kernel.Panel {
			t.Errorf("units of one weight are %d in all", most)
		}
	})
}

// One thread has large units, several share out some each.
func TestUnitWeights(t *testing.T) {
	target := kernel.For(kernel.Available()[0])
	for _, all := range []int{1, 1000, target.SmallUnit, 50 * target.SmallUnit} {
		if got := UnitWeights(&target, all, 1); got < target.SmallUnit {
			t.Errorf("%d weights on one thread are in units of %d, want %d or more", all, got, target.SmallUnit)
		}
		for _, threads := range []int{2, 7} {
			n := UnitWeights(&target, all, threads)
			if units := CeilDiv(all, n); n < 1 || units > target.WeightUnitsPerThread*threads || all > 1<<16 && units < target.WeightUnitsPerThread*threads-1 {
				t.Errorf("%d weights on %d threads are %d units of %d", all, threads, units, n)
			}
		}
	}
}

// A gradient with a share is that much of it.
func TestGradientShare(t *testing.T) {
	eachSubject(t, func(t *testing.T, u *subject, target *kernel.Target) {
		const m = 9
		b := u.bind(t, target, 2)
		for i, gr := range b.gradients {
			f := &u.plan.Factors[i]
			r := rand.New(rand.NewPCG(2, 2))
			x, dy := runtimetest.Positive(r, m*f.InWidth, 1), runtimetest.Positive(r, m*f.PreWidth, 1)
			var g [2][]float32
			for j, share := range []Weight{{}, Scaled(0.25, 0)} {
				g[j] = runtimetest.Poisoned(f.Weights())
				b.ws.Units = gr.AddUnits(b.ws.Units[:0], g[j], dy, x, 1000, share)
				b.ws.ExecWeights(m, false)
			}
			for at, v := range g[0] {
				if g[1][at] != v/4 { // a power of two rounds nothing
					t.Fatalf("factor %d, entry %d: a quarter of %v is %v", i, at, v, g[1][at])
				}
			}
		}
	})
}
