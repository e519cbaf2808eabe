package runtime

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/f64ref"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// Every pair of widths up to 100 with every number of blocks that divides
// both, of every kind, on the best instruction set of the machine: forward and
// both gradients against float64.
func TestAllSmallWidths(t *testing.T) {
	pool := NewPool(1)
	defer pool.Close()
	const most, m = 100, 3
	isa := kernel.Available()[0]
	r := rand.New(rand.NewPCG(9, 9))
	values := random(r, 1<<18, 1)
	draw := func(n int) []float32 { at := r.IntN(len(values) - n); return values[at : at+n] }
	ws := NewWorkspace(pool)
	defer ws.Close()
	check := func(t *testing.T, s spec.Linear) {
		defer func() {
			if p := recover(); p != nil {
				t.Fatalf("%s: panic: %v", s.Name(), p)
			}
		}()
		w := Weights{Bias: draw(s.Out)}
		for _, f := range s.Chain() {
			w.Factors = append(w.Factors, draw(f.Weights()))
		}
		l, err := NewLinear(s, w, Options{ISA: isa, Pool: pool, Train: true})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		saved := l.NewSaved(m)
		defer saved.Close()
		x, dy := draw(m*s.In), draw(m*s.Out)
		y, dx, g := poisoned(m*s.Out), poisoned(m*s.In), emptyLike(w)
		l.Forward(y, x, nil, m, saved, ws)
		l.Backward(dx, g, dy, x, m, saved, false, ws)
		fs, bias := wideFactors(w)
		merged := f64ref.Merged(s, fs)
		name := s.Name()
		near(t, name+": y", y, f64ref.Linear(merged, bias, wide(x), m, s.In, s.Out), 4*tolerance(s.In))
		wdx, wdw, wdb := f64ref.LinearBackward(merged, wide(x), wide(dy), m, s.In, s.Out)
		near(t, name+": dx", dx, wdx, 4*tolerance(s.Out))
		for i, want := range f64ref.FactorGradients(s, fs, wdw) {
			near(t, name+": gradient of "+s.Chain()[i].Param, g.Factors[i], want, 4*tolerance(m+s.In+s.Out))
		}
		near(t, name+": gradient of the bias", g.Bias, wdb, tolerance(m))
	}
	for in := 1; in <= most; in++ {
		t.Run(fmt.Sprintf("in_%d", in), func(t *testing.T) {
			for out := 1; out <= most; out++ {
				for blocks := 1; blocks <= min(in, out); blocks++ {
					if in%blocks != 0 || out%blocks != 0 {
						continue
					}
					check(t, spec.Linear{Kind: spec.BlockShuffle, In: in, Out: out, Blocks: blocks, Bias: true})
				}
			}
		})
	}
}
