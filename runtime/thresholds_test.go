package runtime

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/plan/cpu"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/runtimetest"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// elsewhere are the axes that other packages walk.
var elsewhere = map[plan.Axis]string{
	plan.AxisStride: "runtime/mul", plan.AxisRunLen: "runtime/mul", plan.AxisInputs: "runtime/mul", plan.AxisOutputs: "runtime/mul",
	plan.AxisWeights: "runtime/mul", plan.AxisFlops: "runtime/mul",
	plan.AxisKeys: "runtime/attention", plan.AxisQueries: "runtime/attention", plan.AxisHeadSize: "runtime/attention",
	plan.AxisEntries: "runtime/vec", plan.AxisTokens: "model", plan.AxisWidth: "model",
}

// trial is what a threshold's axis is tried on: subjects, each with numbers of
// rows.
type trial struct {
	spec any
	rows []int
}

// axes gives, for a size on an axis, what is tried there. Beside the axis
// sizes are small: what is tried is the threshold alone.
var axes = map[plan.Axis]func(n int) []trial{
	plan.AxisDepth: func(n int) []trial {
		return []trial{
			{spec.Linear{Kind: spec.LowRank, In: n, Out: 24, Rank: 9, Bias: true, Guide: true}, []int{1, 5}},
			{spec.Linear{Kind: spec.LowRank, In: n, Out: n, Rank: n}, []int{1, 2}},
			{spec.FFN{Kind: spec.Dense, Hidden: n, FFN: 24, Act: spec.GELU, Bias: true}, []int{1, 3}},
			{spec.FFN{Kind: spec.LowRank, Hidden: n, FFN: 24, Rank: 7, Act: spec.SwiGLU, Guide: true}, []int{1, 3}},
			{spec.FFN{Kind: spec.Dense, Hidden: 24, FFN: n, Act: spec.SwiGLU, Bias: true}, []int{1, 3, 40}},
			{spec.FFN{Kind: spec.BlockDense, Hidden: 24, FFN: 2 * n, Rank: 16, Blocks: 2, Act: spec.GELU, Guide: true}, []int{1, 3}},
			{spec.FFN{Kind: spec.BlockShuffle, Hidden: 24, FFN: n, Blocks: 1, Act: spec.GELU, Guide: true}, []int{1, 3}},
			{spec.Linear{Kind: spec.BlockShuffle, In: 2 * n, Out: 20, Blocks: 2, Bias: true}, []int{1, 3}},
		}
	},
	plan.AxisColumns: func(n int) []trial {
		return []trial{
			{spec.Linear{Kind: spec.LowRank, In: 9, Out: n, Rank: min(5, n), Bias: true, Guide: true}, []int{2, 7}},
			{spec.FFN{Kind: spec.Dense, Hidden: 40, FFN: n, Act: spec.GELU, Bias: true}, []int{1, 7}},
			{spec.FFN{Kind: spec.Dense, Hidden: 40, FFN: n, Act: spec.SwiGLU, Bias: true}, []int{1, 66}},
		}
	},
	plan.AxisDepth16: func(n int) []trial {
		return []trial{
			{spec.Linear{Kind: spec.LowRank, In: n, Out: 24, Rank: 9, Bias: true, Guide: true}, []int{1, 5}},
			{spec.FFN{Kind: spec.Dense, Hidden: n, FFN: 24, Act: spec.SwiGLU, Bias: true}, []int{1, 3}},
			{spec.FFN{Kind: spec.Dense, Hidden: 24, FFN: n, Act: spec.GELU}, []int{1, 3}},
			{spec.Linear{Kind: spec.BlockShuffle, In: 2 * n, Out: 20, Blocks: 2, Bias: true}, []int{1, 3}},
		}
	},
	plan.AxisRows: func(n int) []trial {
		return []trial{
			{spec.Linear{Kind: spec.BlockShuffle, In: 42, Out: 30, Blocks: 6, Bias: true, Guide: true}, []int{n}},
			{spec.FFN{Kind: spec.LowRank, Hidden: 40, FFN: 80, Rank: 12, Act: spec.SwiGLU, Bias: true, Guide: true}, []int{n}},
			{spec.FFN{Kind: spec.BlockShuffle, Hidden: 64, FFN: 96, Blocks: 2, Act: spec.GELU}, []int{n}},
			{narrow{blocks: 20, in: 4, out: 5, q: 2, p: 3, guide: true}, []int{n}},
		}
	},
	plan.AxisBlocks: func(n int) []trial {
		return []trial{{narrow{blocks: n, in: 5, out: 7, q: 2, p: 3, bias: true}, []int{1, 9}}, {narrow{blocks: n, in: 3, out: 2, q: 40, p: 40}, []int{300}}}
	},
	plan.AxisNarrow: func(n int) []trial {
		return []trial{{narrow{blocks: 21, in: n, out: 6, q: 2, p: 3}, []int{1, 9}}, {narrow{blocks: 21, in: 6, out: n, q: 2, p: 3, guide: true}, []int{1, 9}}}
	},
	plan.AxisBetween: func(n int) []trial {
		// More rows than two chunks of the largest size.
		return []trial{{spec.Linear{Kind: spec.BlockDense, In: 6, Out: 5, Rank: n, Blocks: 1}, []int{600}}, {narrow{blocks: n / 4, in: 2, out: 2, q: 1, p: 1}, []int{600}}}
	},
}

// Every operation below, at and above each threshold, in every way that a model
// calls it: against float64, and bit for bit against each other.
func TestThresholds(t *testing.T) {
	type point struct {
		axis plan.Axis
		n    int
	}
	points := map[point]string{}
	for _, target := range runtimetest.Targets() {
		for _, threads := range []int{1, 2, 3} {
			for _, s := range cpu.Thresholds(target, threads) {
				if elsewhere[s.Axis] == "" {
					for n := max(1, s.At-1); n <= s.At+1; n++ {
						points[point{s.Axis, n}] += " " + s.Name
					}
				}
			}
		}
	}
	for p, names := range points {
		t.Run(fmt.Sprintf("%s_%d", p.axis, p.n), func(t *testing.T) {
			switch walk := axes[p.axis]; {
			case walk != nil:
				for _, c := range walk(p.n) {
					for _, m := range c.rows {
						if n, ok := c.spec.(narrow); ok {
							n.compare(t, rand.New(rand.NewPCG(1, uint64(m))), m, nil)
							continue
						}
						formats := []kernel.FormatName{kernel.F32}
						if p.axis == plan.AxisDepth16 {
							formats = []kernel.FormatName{kernel.BF16, kernel.BF16W}
						}
						for _, format := range formats {
							everyWay(t, newSubject(c.spec, rand.New(rand.NewPCG(1, uint64(m)))), m, format)
						}
					}
				}
			default:
				t.Fatalf("nothing walks the axis of%s", names)
			}
		})
	}
}

// portableWork is the number of multiply-adds of a case that the portable
// kernels run, too.
const portableWork = 3e6

// everyWay runs a subject on all instruction sets and several numbers of
// threads: with a residual apart and in place, with a Saved and without, all
// rows at once and the last alone, gradients overwritten and accumulated.
func everyWay(t *testing.T, u *subject, m int, format kernel.FormatName) {
	t.Helper()
	u.format = format
	x, res, dy := runtimetest.Positive(u.r, m*u.in, 1), runtimetest.Positive(u.r, m*u.out, 1), runtimetest.Positive(u.r, m*u.out, 1)
	wy, wdx, wg := u.reference(x, res, dy, m)
	var first *outcome
	for _, target := range runtimetest.Targets() {
		isa := target.ISA
		if isa == kernel.Portable {
			if float64(m*u.weightCount()) > portableWork {
				continue
			}
			first = nil // Go has no fused multiply-add in float32
		}
		for _, threads := range []int{1, 2, 3} {
			if target.FullWidth && threads == 2 {
				continue // the same kernels on another schedule
			}
			got := u.run(t, Options{Format: format, Target: &target, Pool: runtimetest.PoolOf(threads), Train: true}, x, res, dy, m)
			u.check(t, fmt.Sprintf("y on %s", isa), got.y, wy, m)
			u.check(t, fmt.Sprintf("dx on %s", isa), got.dx, wdx, m)
			for i, g := range got.once {
				what := fmt.Sprintf("gradient of %s on %s", g.name, isa)
				u.check(t, what, g.data, wg[i].data, m)
				twice := make([]float64, len(wg[i].data))
				for j, v := range wg[i].data {
					twice[j] = 2 * v
				}
				u.check(t, what+", accumulated", got.twice[i].data, twice, m)
			}
			if first == nil {
				first = got
				continue
			}
			got.same(t, fmt.Sprintf("%s, %d rows, %s with %d threads", u.name, m, target.Name, threads), first)
		}
	}
}

func (u *subject) weightCount() int {
	n := 0
	for _, w := range u.w {
		n += len(w.Guide)
		for _, f := range w.Factors {
			n += len(f)
		}
	}
	return n
}

// outcome is what run computes.
type outcome struct {
	y, dx       []float32
	once, twice []result[float32]
}

func (o *outcome) same(t *testing.T, what string, p *outcome) {
	t.Helper()
	runtimetest.SameBits(t, what+": y", o.y, p.y)
	runtimetest.SameBits(t, what+": dx", o.dx, p.dx)
	for i := range o.once {
		runtimetest.SameBits(t, what+": gradient of "+o.once[i].name, o.once[i].data, p.once[i].data)
		runtimetest.SameBits(t, what+": accumulated gradient of "+o.once[i].name, o.twice[i].data, p.twice[i].data)
	}
}

// run computes everything once, and compares the ways of computing y.
func (u *subject) run(t *testing.T, opt Options, x, res, dy []float32, m int) *outcome {
	t.Helper()
	b := u.bind(t, opt)
	ws, saved := NewWorkspace(opt.Pool), b.newSaved(m)
	defer ws.Close()
	defer saved.Close()
	o := &outcome{y: runtimetest.Poisoned(m * u.out), dx: runtimetest.Poisoned(m * u.in)}
	what := fmt.Sprintf("%s, %d rows, %s with %d threads: ", u.name, m, opt.Target.Name, opt.Pool.Threads())
	b.forward(o.y, x, res, m, nil, ws)
	other := slices.Clone(res)
	b.forward(other, x, other, m, nil, ws)
	runtimetest.SameBits(t, what+"in place", other, o.y)
	last := runtimetest.Poisoned(u.out)
	b.forward(last, x[(m-1)*u.in:], res[(m-1)*u.out:], 1, nil, ws)
	runtimetest.SameBits(t, what+"the last row alone", last, o.y[(m-1)*u.out:])
	b.forward(runtimetest.Poisoned(m*u.out), x, nil, m, nil, ws)
	other = slices.Clone(res)
	b.forward(other, x, other, m, saved, ws)
	runtimetest.SameBits(t, what+"with saved, in place", other, o.y)
	b.backward(o.dx, dy, x, m, saved, false, ws)
	for _, g := range b.gradients() {
		o.once = append(o.once, result[float32]{g.name, slices.Clone(g.data)})
	}
	if u.ffn != nil {
		b.forward(nil, x, nil, m, saved, ws) // what recomputation runs
	}
	b.backward(nil, dy, x, m, saved, true, ws)
	o.twice = b.gradients()
	return o
}
