package runtime

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/guard"
	"github.com/structuredffn/sffn/internal/runtimetest"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// narrow is a chain with a middle factor of many narrow blocks, between two
// transpositions: [in: q -> n] regroup [n: in -> out] regroup [out: n -> p].
type narrow struct {
	blocks, in, out, q, p int
	bias, guide           bool
}

func (c narrow) spec() spec.Linear {
	return spec.Linear{Kind: "narrow", In: c.in * c.q, Out: c.out * c.p, Bias: c.bias, Guide: c.guide}
}

func (c narrow) chain() []spec.Factor {
	f := func(name string, blocks, in, out int, then spec.Shuffle) spec.Factor {
		return spec.Factor{Param: name, Shape: []int{blocks, out, in}, Blocks: blocks, In: in, Out: out, Then: then}
	}
	return []spec.Factor{
		f("first", c.in, c.q, c.blocks, spec.Riffle(c.in, c.blocks)),
		f("middle", c.blocks, c.in, c.out, spec.Riffle(c.blocks, c.out)),
		f("last", c.out, c.blocks, c.p, spec.Shuffle{}),
	}
}

func (c narrow) plan() plan.Layer {
	l := c.spec()
	return plan.NewChain(l, c.chain(), plan.Identity(l.In), plan.Identity(l.Out), "")
}

// blockwise is the same plan with the middle factor's blocks one by one.
func blockwise(p plan.Layer) plan.Layer {
	fs := append([]plan.Factor(nil), p.Factors...)
	fs[1].Across = false
	p.Factors = fs
	return p
}

// subject is the chain with positive weights, whose sums do not cancel.
func (c narrow) subject(r *rand.Rand) *subject {
	l := c.spec()
	u := &subject{name: fmt.Sprintf("%+v", c), in: l.In, out: l.Out, layers: []spec.Linear{l}, r: r}
	var w Weights
	for _, f := range c.chain() {
		w.Factors = append(w.Factors, runtimetest.Positive(u.r, f.Weights(), 1/float32(f.In)))
	}
	if c.bias {
		w.Bias = runtimetest.Positive(u.r, l.Out, 1)
	}
	if c.guide {
		w.Guide = runtimetest.Positive(u.r, l.Out*l.In, 1/float32(l.In))
	}
	u.w = []Weights{w}
	return u
}

// run computes everything once on a plan: y with a residual, dx, and the gradients,
// overwritten and then added to.
func (c narrow) run(t runtimetest.Reporter, u *subject, p plan.Layer, opt Options, x, res, dy []float32, m int) *outcome {
	t.Helper()
	if err := opt.setDefaults(); err != nil {
		t.Fatalf("%v", err)
	}
	b, err := newLayer(p, u.w[0], opt)
	if err != nil {
		t.Fatalf("%v", err)
	}
	l := &Linear{b}
	defer l.Close()
	l.SetGuide(Guide{On: c.guide, Ratio: ratio})
	ws, saved := NewWorkspace(opt.Pool), l.NewSaved(m)
	defer ws.Close()
	defer saved.Close()
	o := &outcome{y: runtimetest.Poisoned(m * u.out), dx: runtimetest.Poisoned(m * u.in)}
	l.Forward(o.y, x, res, m, nil, ws) // intermediates of the rows at work
	again := runtimetest.Poisoned(m * u.out)
	l.Forward(again, x, res, m, saved, ws)
	for i := range again {
		if again[i] != o.y[i] {
			t.Fatalf("%s: y[%d] is %v with a Saved and %v without", u.name, i, again[i], o.y[i])
		}
	}
	g := emptyLike(u.w[0])
	list := func() (all []result[float32]) {
		for i, f := range g.Factors {
			all = append(all, result[float32]{c.chain()[i].Param, append([]float32(nil), f...)})
		}
		return append(all, result[float32]{"bias", append([]float32(nil), g.Bias...)}, result[float32]{"guide", append([]float32(nil), g.Guide...)})
	}
	l.Backward(o.dx, g, dy, x, m, saved, false, ws)
	o.once = list()
	l.Backward(nil, g, dy, x, m, saved, true, ws)
	o.twice = list()
	return o
}

// reference computes in float64 what run does, entry by entry from the
// definition of a chain.
func (c narrow) reference(u *subject, x, res, dy []float32, m int) (y, dx []float64, grads []result[float64]) {
	l, w, share := c.spec(), u.w[0], 0.0
	if c.guide {
		share = ratio
	}
	chain := c.chain()
	y, dx = make([]float64, m*l.Out), make([]float64, m*l.In)
	var dw [][]float64
	for _, f := range chain {
		dw = append(dw, make([]float64, f.Weights()))
	}
	db, dg := make([]float64, len(w.Bias)), make([]float64, len(w.Guide))
	for row := range m {
		inputs := [][]float64{runtimetest.Wide(x[row*l.In:][:l.In])}
		for i, f := range chain {
			z := make([]float64, f.Blocks*f.Out)
			for at := range z {
				s := at / f.Out
				for d := range f.In {
					z[f.Shuffled(at)] += float64(w.Factors[i][at*f.In+d]) * inputs[i][s*f.In+d]
				}
			}
			inputs = append(inputs, z)
		}
		g := make([]float64, l.Out)
		for j := range l.Out {
			out := (1 - share) * inputs[3][j]
			if c.guide {
				for d := range l.In {
					out += share * float64(w.Guide[j*l.In+d]) * inputs[0][d]
				}
			}
			if c.bias {
				out += float64(w.Bias[j])
			}
			y[row*l.Out+j] = out + float64(res[row*l.Out+j])
			v := float64(dy[row*l.Out+j])
			g[j] = (1 - share) * v
			if c.bias {
				db[j] += v
			}
			if c.guide {
				for d := range l.In {
					dg[j*l.In+d] += share * v * inputs[0][d]
					dx[row*l.In+d] += share * v * float64(w.Guide[j*l.In+d])
				}
			}
		}
		for i := len(chain) - 1; i >= 0; i-- {
			f := chain[i]
			back := make([]float64, f.Blocks*f.In)
			for at := range f.Blocks * f.Out {
				s, v := at/f.Out, g[f.Shuffled(at)]
				for d := range f.In {
					dw[i][at*f.In+d] += v * inputs[i][s*f.In+d]
					back[s*f.In+d] += v * float64(w.Factors[i][at*f.In+d])
				}
			}
			g = back
		}
		for d, v := range g {
			dx[row*l.In+d] += v
		}
	}
	for i, f := range chain {
		grads = append(grads, result[float64]{f.Param, dw[i]})
	}
	return y, dx, append(grads, result[float64]{"bias", db}, result[float64]{"guide", dg})
}

// roundings counts those on the way of an entry, at most.
func (c narrow) roundings(m int) float64 {
	return float64(m+c.in*c.q+c.blocks+c.in+c.out+c.p*c.out+c.q) + 16
}

// check compares with float64, entry by entry.
func (c narrow) check(t runtimetest.Reporter, what string, got []float32, want []float64, m int) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%+v: %s has %d entries, want %d", c, what, len(got), len(want))
	}
	for i, v := range want {
		if d := float64(got[i]) - v; !(max(d, -d) <= c.roundings(m)*0x1p-24*v) {
			t.Fatalf("%+v, %d rows: %s[%d] = %v, want %v", c, m, what, i, got[i], v)
		}
	}
}

// compare runs a chain on all instruction sets and several numbers of threads, and on a
// schedule drawn from each target's, if any: with its lanes across blocks and block by
// block, with equal bits where there is assembly, and against float64.
func (c narrow) compare(t runtimetest.Reporter, r *rand.Rand, m int, draw func(kernel.Schedule) kernel.Schedule) {
	t.Helper()
	u := c.subject(r)
	x, res, dy := runtimetest.Positive(u.r, m*u.in, 1), runtimetest.Positive(u.r, m*u.out, 1), runtimetest.Positive(u.r, m*u.out, 1)
	wy, wdx, wg := c.reference(u, x, res, dy, m)
	across := c.plan()
	// All assembly has the bits of one outcome. Go has no fused multiply-add in float32,
	// and compilers may or may not make one of it: each portable kernel has its own.
	firsts := map[any]*outcome{}
	for _, target := range runtimetest.Targets() {
		if target.ISA == kernel.Portable {
			if float64(m*u.weightCount()) > portableWork {
				continue
			}
		}
		on := []kernel.Target{target}
		if draw != nil {
			target.Name, target.Schedule = "drawn from "+target.Name, draw(target.Schedule)
			on = append(on, target)
		}
		for i, target := range on {
			for j, p := range []plan.Layer{across, blockwise(across)} {
				what := []string{"across", "block by block"}[j]
				got := c.run(t, u, p, Options{Target: &target, Pool: runtimetest.PoolOf(1 + (i+m)%3), Train: true}, x, res, dy, m)
				var bits any
				if target.ISA == kernel.Portable {
					bits = what
				}
				first := firsts[bits]
				if first == nil {
					first, firsts[bits] = got, got
					c.check(t, "y", got.y, wy, m)
					c.check(t, "dx", got.dx, wdx, m)
					for i, g := range got.once {
						c.check(t, "gradient of "+g.name, g.data, wg[i].data, m)
					}
				}
				same := func(name string, got, want []float32) {
					t.Helper()
					for i, v := range want {
						if got[i] != v {
							t.Fatalf("%+v, %d rows, %s, %s: %s[%d] = %v, want %v", c, m, target.Name, what, name, i, got[i], v)
						}
					}
				}
				same("y", got.y, first.y)
				same("dx", got.dx, first.dx)
				for i, g := range got.once {
					same("gradient of "+g.name, g.data, first.once[i].data)
					same("accumulated gradient of "+g.name, got.twice[i].data, first.twice[i].data)
				}
			}
		}
	}
}

// The lanes of a factor of many narrow blocks run across them, and everything has the
// bits that it has block by block: on every instruction set, number of threads and
// schedule.
func TestAcross(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := func(name string, lo, hi int) int { return rapid.IntRange(lo, hi).Draw(t, name) }
		c := narrow{blocks: n("blocks", 16, 200), in: n("in", 1, 33), out: n("out", 1, 33), q: n("q", 1, 5), p: n("p", 1, 5), bias: rapid.Bool().Draw(t, "bias"), guide: rapid.Bool().Draw(t, "guide")}
		if got := c.plan().Factors[1].Across; got != (c.in <= 32 && c.out <= 32) {
			t.Fatalf("%+v runs across: %v", c, got)
		}
		c.compare(t, rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1)), n("rows", 1, 40),
			func(s kernel.Schedule) kernel.Schedule { return runtimetest.DrawSchedule(t, s) })
	})
}

// More rows than one chain of a gradient and one chunk of rows take.
func TestAcrossManyRows(t *testing.T) {
	for _, m := range []int{kernel.RowBlock, kernel.RowBlock + 1, 2*kernel.RowBlock + 17} {
		narrow{blocks: 41, in: 5, out: 7, q: 3, p: 2, bias: true}.compare(t, rand.New(rand.NewPCG(5, uint64(m))), m, nil)
	}
}

// A factor whose lanes run across blocks reads and writes nothing beyond its rows, and
// all of what it is to write: beside the last group of lanes lies protected memory.
func TestAcrossBounds(t *testing.T) {
	for _, target := range runtimetest.Targets() {
		for _, blocks := range []int{16, 17, 31, 32, 33, 50} {
			c := narrow{blocks: blocks, in: 6, out: 5, q: 2, p: 2}
			r := rand.New(rand.NewPCG(1, uint64(blocks)))
			u := c.subject(r)
			opt := Options{Target: &target, Pool: runtimetest.PoolOf(2), Train: true}
			if err := opt.setDefaults(); err != nil {
				t.Fatal(err)
			}
			var want [3][]float32
			for i, p := range []plan.Layer{blockwise(c.plan()), c.plan()} {
				b, err := newLayer(p, u.w[0], opt)
				if err != nil {
					t.Fatal(err)
				}
				f := b.factors("layer")[1]
				ws := NewWorkspace(opt.Pool)
				for _, m := range []int{1, 7} {
					for _, side := range guard.Sides {
						r := rand.New(rand.NewPCG(2, uint64(m)))
						buf := func(n int) []float32 { return guard.NewPages(t).Floats(n, side) }
						x, dy := buf(m*blocks*c.in), buf(m*blocks*c.out)
						copy(x, runtimetest.Random(r, len(x), 1))
						copy(dy, runtimetest.Random(r, len(dy), 1))
						got := [3][]float32{buf(len(dy)), buf(len(x)), buf(blocks * c.in * c.out)}
						err := guard.Catch(func() {
							f.Forward(got[0], x, m, ws)
							f.BackwardData(got[1], dy, m, ws)
							f.BackwardWeight(got[2], dy, x, m, ws)
						})
						if err != nil {
							t.Fatalf("%s, %d blocks, %d rows: %v", target.Name, blocks, m, err)
						}
						if i == 0 && side == guard.Sides[0] {
							continue
						}
						if i == 0 {
							want = got
							continue
						}
						if target.ISA == kernel.Portable || m != 7 {
							continue
						}
						for j := range want {
							runtimetest.SameBits(t, fmt.Sprintf("%s, %d blocks: result %d", target.Name, blocks, j), got[j], want[j])
						}
					}
				}
				ws.Close()
				b.packs.Close()
			}
		}
	}
}

// What such a factor cannot do is refused.
func TestAcrossRefuses(t *testing.T) {
	c := narrow{blocks: 20, in: 4, out: 4, q: 2, p: 2, bias: true}
	u, p := c.subject(rand.New(rand.NewPCG(1, 1))), c.plan()
	p.Factors[2].Across, p.Factors[2].Factor = true, p.Factors[1].Factor
	u.w[0].Factors[2] = u.w[0].Factors[1]
	opt := Options{}
	if err := opt.setDefaults(); err != nil {
		t.Fatal(err)
	}
	if _, err := newLayer(p, u.w[0], opt); err == nil {
		t.Error("a bias on a factor across blocks is taken")
	}
}

// The passes of a factor across blocks, as shares of the rate of multiply-adds that the
// machine has at the same time: over all rows, whose operands lie in memory, and over
// as many as pass through a layer at a time.
func BenchmarkAcross(b *testing.B) {
	for _, isa := range kernel.Available() {
		if isa == kernel.Portable && len(kernel.Available()) > 1 {
			continue
		}
		for _, blocks := range []int{368, 176} {
			c := narrow{blocks: blocks, in: 16, out: 16, q: 48, p: 192}
			u := c.subject(rand.New(rand.NewPCG(1, 1)))
			opt := Options{ISA: isa, Pool: runtimetest.PoolOf(1), Train: true}
			if err := opt.setDefaults(); err != nil {
				b.Fatal(err)
			}
			l, err := newLayer(c.plan(), u.w[0], opt)
			if err != nil {
				b.Fatal(err)
			}
			f, ws := l.factors("layer")[1], NewWorkspace(opt.Pool)
			const most = 2048
			buf := func(n int) []float32 { var a Arena; return a.Floats(n) }
			x, dy, g := buf(most*blocks*c.in), buf(most*blocks*c.out), buf(blocks*c.in*c.out)
			dx, y := buf(len(x)), buf(len(dy))
			copy(x, runtimetest.Random(u.r, len(x), 1))
			copy(dy, runtimetest.Random(u.r, len(dy), 1))
			for _, m := range []int{most, opt.Target.RowChunk(most, 1, l.zWidth()), 1} {
				for _, pass := range []struct {
					name string
					run  func()
				}{
					{"forward", func() { f.Forward(y, x, m, ws) }},
					{"data", func() { f.BackwardData(dx, dy, m, ws) }},
					{"weights", func() { f.BackwardWeight(g, dy, x, m, ws) }},
				} {
					b.Run(fmt.Sprintf("%s/%d/rows=%d/%s", isa, blocks, m, pass.name), func(b *testing.B) {
						for b.Loop() {
							pass.run()
						}
						rate := float64(b.N) * 2 * float64(m*len(g)) / b.Elapsed().Seconds()
						b.ReportMetric(100*rate/Peak(opt.Pool, isa, opt.Format), "%peak")
						b.ReportMetric(rate/1e9, "GFLOP/s")
					})
				}
			}
			ws.Close()
			l.packs.Close()
		}
	}
}

// The scheduler can stop a worker between any two calls of the kernels of a factor
// whose lanes run across blocks; and nothing is allocated for them.
func TestPreemptionAcross(t *testing.T) {
	c := narrow{blocks: 160, in: 16, out: 16, q: 4, p: 4}
	w := emptyLike(c.subject(rand.New(rand.NewPCG(1, 1))).w[0])
	for _, isa := range kernel.Available() {
		if isa == kernel.Portable && len(kernel.Available()) > 1 {
			continue
		}
		opt := Options{ISA: isa, Pool: runtimetest.PoolOf(1), Train: true}
		if err := opt.setDefaults(); err != nil {
			t.Fatal(err)
		}
		l, err := newLayer(c.plan(), w, opt)
		if err != nil {
			t.Fatal(err)
		}
		var seen runtimetest.Calls
		f, ws := l.factors("layer")[1], NewWorkspace(opt.Pool)
		const m = 140
		x, dy, g := make([]float32, m*160*16), make([]float32, m*160*16), make([]float32, 160*16*16)
		passes := map[string]func(){
			"forward":         func() { f.Forward(dy, x, m, ws) },
			"backward-data":   func() { f.BackwardData(x, dy, m, ws) },
			"backward-weight": func() { f.BackwardWeight(g, dy, x, m, ws) },
		}
		whole, saved := &Linear{l}, (&Linear{l}).NewSaved(m)
		in, out, din, grads := make([]float32, m*16*4), make([]float32, m*16*4), make([]float32, m*16*4), emptyLike(w)
		if n := testing.AllocsPerRun(3, func() {
			whole.Forward(out, in, nil, m, nil, ws)
			whole.Forward(out, in, nil, m, saved, ws)
			whole.Backward(din, grads, out, in, m, saved, true, ws)
		}); n != 0 {
			t.Errorf("%s: %v allocations", isa, n)
		}
		saved.Close()
		ws.Calls()
		for i := range l.forward {
			for _, q := range append(l.forward[i], l.backward[i]...) {
				q.Wrap(seen.Instead)
			}
			l.gradients[i].Wrap(seen.Instead)
		}
		for name, pass := range passes {
			pass()
			seen.Check(t, fmt.Sprintf("across, %s, %s", isa, name), ws.Calls(), m*len(g), 1<<12)
		}
		ws.Close()
		l.packs.Close()
	}
}
