package mul

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"pgregory.net/rapid"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/plan/cpu"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/runtimetest"
	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/memory"
)

// trial is what a threshold's axis is tried on, with numbers of rows.
type trial struct {
	spec any
	rows []int
}

// axes gives, for a size on an axis, what is tried there. Beside the axis
// sizes are small: what is tried is the threshold alone.
var axes = map[plan.Axis]func(n int) []trial{
	plan.AxisDepth: func(n int) []trial {
		return []trial{
			{spec.Linear{Kind: spec.Dense, In: n, Out: 40, Bias: true}, []int{1, 3, 70}},
			{spec.FFN{Kind: spec.Dense, Hidden: n, FFN: 24, Act: spec.SwiGLU, Bias: true}, []int{3}},
		}
	},
	plan.AxisColumns: func(n int) []trial {
		return []trial{
			{spec.Linear{Kind: spec.Dense, In: 40, Out: n, Bias: true}, []int{1, 3, 66}},
			{spec.FFN{Kind: spec.Dense, Hidden: 40, FFN: n, Act: spec.GELU}, []int{7}},
		}
	},
	plan.AxisRows: func(n int) []trial {
		return []trial{
			{spec.Linear{Kind: spec.Dense, In: 33, Out: 100, Bias: true}, []int{n}},
			{spec.Linear{Kind: spec.BlockShuffle, In: 42, Out: 30, Blocks: 6, Bias: true}, []int{n}},
		}
	},
	plan.AxisStride: func(n int) []trial {
		return []trial{
			{spec.Linear{Kind: spec.Dense, In: n, Out: 70}, []int{9, 13, 30}},
			{spec.Linear{Kind: spec.BlockDense, In: 8 * n, Out: 70, Rank: 8, Blocks: 8}, []int{9, 13}},
			{spec.Linear{Kind: spec.BlockShuffle, In: 8 * n, Out: 16, Blocks: 8}, []int{13}},
			{spec.FFN{Kind: spec.Dense, Hidden: 20, FFN: n, Act: spec.GELU}, []int{13}},
		}
	},
	plan.AxisRunLen: func(n int) []trial {
		return []trial{
			{spec.Linear{Kind: spec.BlockShuffle, In: 4 * n, Out: 4 * n, Blocks: 2, Bias: true}, []int{1, 8}},
			{spec.Linear{Kind: spec.BlockShuffle, In: 9*n + 3, Out: 9*n + 3, Blocks: 3}, []int{1, 8}},
			{spec.FFN{Kind: spec.BlockShuffle, Hidden: 4 * n, FFN: 6 * n, Blocks: 2, Act: spec.SwiGLU}, []int{8}},
			{spec.Linear{Kind: spec.BTT, In: 64, Out: 96, Rank: n}, []int{1, 30}},
		}
	},
	plan.AxisInputs: func(n int) []trial {
		return []trial{
			{spec.Linear{Kind: spec.Dense, In: n, Out: 13, Bias: true}, []int{5, 300}},
			{spec.Linear{Kind: spec.BlockDense, In: 2 * n, Out: 20, Rank: 6, Blocks: 2}, []int{5}},
			{spec.Linear{Kind: spec.BlockShuffle, In: 3 * n, Out: 12, Blocks: 3}, []int{5}},
		}
	},
	plan.AxisOutputs: func(n int) []trial {
		return []trial{
			{spec.Linear{Kind: spec.Dense, In: 40, Out: n, Bias: true}, []int{5, 300}},
			{spec.Linear{Kind: spec.BlockShuffle, In: 30, Out: 3 * n, Blocks: 3}, []int{5}},
		}
	},
	plan.AxisWeights: func(n int) []trial {
		return []trial{{spec.Linear{Kind: spec.Dense, In: 256, Out: n / 256}, []int{3}}, {spec.Linear{Kind: spec.Dense, In: 256, Out: n/256 + 1}, []int{3}}}
	},
	plan.AxisFlops: func(n int) []trial {
		return []trial{{spec.Linear{Kind: spec.Dense, In: 50, Out: n / 100, Bias: true}, []int{1}}, {spec.Linear{Kind: spec.Dense, In: 50, Out: n/100 + 16}, []int{1}}}
	},
}

// Products and gradients below, at and above each threshold: against float64, and bit
// for bit against each other on all targets and several numbers of threads.
func TestThresholds(t *testing.T) {
	type point struct {
		axis plan.Axis
		n    int
	}
	points, walked := map[point]bool{}, map[plan.Axis]bool{}
	for _, target := range runtimetest.Targets() {
		for _, threads := range []int{1, 2, 3} {
			for _, s := range cpu.Thresholds(target, threads) {
				for n := max(1, s.At-1); axes[s.Axis] != nil && n <= s.At+1; n++ {
					points[point{s.Axis, n}] = true
					walked[s.Axis] = true
				}
			}
		}
	}
	for axis := range axes {
		if !walked[axis] {
			t.Errorf("no threshold is on the axis %s", axis)
		}
	}
	for p := range points {
		t.Run(fmt.Sprintf("%s_%d", p.axis, p.n), func(t *testing.T) {
			for _, c := range axes[p.axis](p.n) {
				for _, m := range c.rows {
					for _, u := range subjects(c.spec, rand.New(rand.NewPCG(1, uint64(m)))) {
						everyWay(t, u, m)
					}
				}
			}
		})
	}
}

// portableWork is the number of multiply-adds of a case that the portable
// kernels run, too.
const portableWork = 3e6

func everyWay(t *testing.T, u *subject, m int) {
	t.Helper()
	x, res, dpre := u.operands(m)
	want := u.reference(x, res, dpre, m, 1)
	var first *outcome
	for _, target := range runtimetest.Targets() {
		if target.ISA == kernel.Portable {
			work := m
			for _, f := range u.plan.Factors {
				work += m * f.Weights()
			}
			if float64(work) > portableWork {
				continue
			}
			first = nil // Go has no fused multiply-add in float32
		}
		for _, threads := range []int{1, 2, 3} {
			if target.FullWidth && threads == 2 {
				continue // the same kernels on another schedule
			}
			got := u.bind(t, &target, threads).run(t, x, res, dpre, m)
			if first == nil {
				first = got
				u.check(t, target.Name, got, want, m)
				continue
			}
			got.same(t, fmt.Sprintf("%s, %d rows, %s with %d threads", u.name, m, target.Name, threads), first)
		}
	}
}

// Neither the number of threads nor the schedule decides bits: whatever chunks of rows,
// columns and weights come of them.
func TestChunks(t *testing.T) {
	for _, isa := range kernel.Available() {
		target := kernel.For(isa)
		t.Run(string(isa), func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				drawn := target
				drawn.Name, drawn.Schedule = "drawn", runtimetest.DrawSchedule(rt, target.Schedule)
				if err := drawn.Validate(); err != nil {
					rt.Fatal(err)
				}
				m := rapid.IntRange(1, 330).Draw(rt, "rows")
				if isa == kernel.Portable {
					m = 1 + m%20
				}
				threads := rapid.SampledFrom([]int{1, 2, 3, 5, 16}).Draw(rt, "threads")
				r := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
				for _, u := range subjects(rapid.SampledFrom(layers).Draw(rt, "layer"), r) {
					x, res, dpre := u.operands(m)
					want := u.bind(t, &target, 1).run(t, x, res, dpre, m)
					u.check(t, "its own schedule", want, u.reference(x, res, dpre, m, 1), m)
					u.bind(t, &drawn, threads).run(t, x, res, dpre, m).same(t, fmt.Sprintf("%s, %d rows, %d threads, %+v", u.name, m, threads, drawn.Schedule), want)
				}
				if t.Failed() {
					rt.FailNow()
				}
			})
		})
	}
}

// A product with a share computes that much of its sums, and where it accumulates adds
// them to what is there: results, or of activations the sums before them.
func TestShare(t *testing.T) {
	eachSubject(t, func(t *testing.T, u *subject, target *kernel.Target) {
		for _, m := range []int{1, 20} {
			x, res, dpre := u.operands(m)
			_, out, width := u.widths()
			there := runtimetest.Positive(u.r, m*width, 1)
			onto := u.reference(x, there, dpre, m, 0.25)
			shared := u.reference(x, res, dpre, m, 0.25)
			for _, threads := range []int{1, 2} {
				b := u.bind(t, target, threads)
				run := func(what string, y, pre, res []float32, flags kernel.Flags, want reference) {
					t.Helper()
					if u.ffn == nil {
						pre = nil
					}
					b.runForward(y, pre, x, res, b.between(m), m, Scaled(0.25, flags))
					what = fmt.Sprintf("%s, %d rows, %d threads: ", what, m, threads)
					tol := u.tolerance(m) + 0x1p-23
					runtimetest.NearEach(t, what+"y", y, want.y, tol)
					if pre != nil {
						runtimetest.NearEach(t, what+"before the activation", pre, want.pre, tol)
					}
				}
				run("beside a residual", runtimetest.Poisoned(m*out), runtimetest.Poisoned(m*width), res, 0, shared)
				y, pre := runtimetest.Poisoned(m*out), runtimetest.Poisoned(m*width)
				if u.ffn != nil && u.ffn.Act.Gated() {
					copy(pre, there)
				} else {
					copy(y, there)
				}
				run("added", y, pre, nil, kernel.Accumulate, onto)
			}
		}
	})
}

// A pack holds each weight once, where the plan says, zeros as padding, and nothing of
// the weights before.
func TestPacks(t *testing.T) {
	eachSubject(t, func(t *testing.T, u *subject, target *kernel.Target) {
		b := u.bind(t, target, 1)
		for i := range u.plan.Factors {
			f := &u.plan.Factors[i]
			held := make([]int, f.Weights())
			for _, qs := range [][]*Product{b.forward[i], b.backward[i]} {
				clear(held)
				for _, q := range qs {
					checkPack(t, u, f, q, u.w[i], held)
				}
				for at, n := range held {
					if n != 1 {
						t.Fatalf("%s: factor %d: weight %d is packed %d times", u.name, i, at, n)
					}
				}
			}
		}
	})
}

// checkPack packs numbered weights over NaN, and counts which of them the pack holds.
func checkPack(t *testing.T, u *subject, f *plan.Factor, q *Product, was []float32, held []int) {
	t.Helper()
	numbers := make([]float32, f.Weights())
	for i := range numbers {
		numbers[i] = float32(i + 1)
	}
	var arena memory.Arena
	defer arena.Close()
	before := slices.Clone(q.pack.Data)
	kept, fresh := q.Copy(&arena), q.Rebind(&arena)
	for _, v := range kernel.Floats(fresh.pack.Data) {
		if v != 0 {
			t.Fatalf("%s: a product bound again holds %v", u.name, v)
		}
	}
	data := kernel.Floats(q.pack.Data)
	for i := range data {
		data[i] = float32(math.NaN())
	}
	for p := range q.Panels() {
		q.PackWeights(p, numbers, f)
	}
	columns, ks := q.ColumnIndex(), q.KIndex()
	if q.PackedBytes() != kernel.EntryBytes*len(columns)*len(ks) {
		t.Fatalf("%s: a pack of %d bytes for %d x %d weights", u.name, q.PackedBytes(), len(columns), len(ks))
	}
	k0 := 0
	for block, kc := range q.KBlocks {
		for p := range q.Panels() {
			width := min(kernel.Panel, len(columns)-p*kernel.Panel)
			if p == q.Panels()-1 {
				width = q.LastPanel()
			}
			panel := kernel.Floats(q.pack.Panel(block, p))
			for k := range kc {
				for j := range width {
					got := panel[k*width+j]
					c, d := columns[p*kernel.Panel+j], ks[k0+k]
					if c < 0 {
						if got != 0 {
							t.Fatalf("%s: padding is %v", u.name, got)
						}
						continue
					}
					if q.Transposed {
						c, d = d, c
					}
					at := q.Block*f.In*f.Out + c*f.In + d
					if got != numbers[at] {
						t.Fatalf("%s: block of k %d, panel %d, k %d, column %d holds weight %v, want %v", u.name, block, p, k, j, got-1, at)
					}
					held[at]++
				}
			}
		}
		k0 += kc
	}
	if !slices.Equal(kept.pack.Data, before) {
		t.Fatalf("%s: a copy changes with the product", u.name)
	}
	for p := range q.Panels() {
		q.PackWeights(p, was, f)
	}
	if !slices.Equal(q.pack.Data, before) {
		t.Fatalf("%s: packing the first weights again gives another pack", u.name)
	}
}

// A copy multiplies with what was packed when it was made, and a product bound again
// with what is packed into it.
func TestCopyAndRebind(t *testing.T) {
	eachSubject(t, func(t *testing.T, u *subject, target *kernel.Target) {
		const m = 5
		b := u.bind(t, target, 1)
		x, res, _ := u.operands(m)
		_, out, _ := u.widths()
		forward := func() []float32 {
			y := runtimetest.Poisoned(m * out)
			b.runForward(y, nil, x, res, nil, m, Weight{})
			return y
		}
		want := forward()
		first := b.forward
		for i := range first {
			f := &u.plan.Factors[i]
			var copies, again []*Product
			for _, q := range first[i] {
				copies = append(copies, q.Copy(&b.arena))
				a := q.Rebind(&b.arena)
				for p := range a.Panels() {
					a.PackWeights(p, u.w[i], f)
					q.PackWeights(p, make([]float32, f.Weights()), f)
				}
				if f == u.last() && u.bias != nil {
					a.PackBias(u.bias, u.plan.Bias)
				}
				again = append(again, a)
			}
			for what, qs := range map[string][]*Product{"copies": copies, "bound again": again} {
				b.forward = slices.Clone(first)
				b.forward[i] = qs
				runtimetest.SameBits(t, fmt.Sprintf("%s, factor %d, %s", u.name, i, what), forward(), want)
			}
			b.forward = slices.Clone(first)
			b.forward[i] = copies
			first = b.forward
		}
	})
}

// The right operand of a multiplier is packed in whole panels; results stay within
// them, and are added where that is asked for.
func TestMultiplier(t *testing.T) {
	for _, target := range runtimetest.Targets() {
		m, err := NewMultiplier(&target, kernel.F32)
		if err != nil {
			t.Fatal(err)
		}
		r := rand.New(rand.NewPCG(1, 1))
		s := &NewWorkspace(runtimetest.PoolOf(1)).workers[0]
		tall := target.Tiles[kernel.Full].Max
		for _, rows := range []int{1, 2, tall - 1, tall, tall + 1, 2*tall + 1, 96} {
			for _, depth := range []int{1, 3, 32, 130} {
				for _, panels := range []int{1, 2, 3, 4} {
					for _, transposed := range []bool{false, true} {
						lda, step := depth+5, 1
						if transposed { // entries of a row lie rows apart
							lda, step = 1, rows
						}
						a, c := runtimetest.Positive(r, max(rows*(depth+5), rows*depth), 1), runtimetest.Positive(r, rows*(panels*kernel.Panel+3), 1)
						b := runtimetest.Positive(r, panels*depth*kernel.Panel, 1)
						ldc := panels*kernel.Panel + 3
						before := slices.Clone(c)
						args := kernel.Args{
							A: unsafe.Pointer(&a[0]), LDA: kernel.EntryBytes * lda, KStep: kernel.EntryBytes * step,
							B: unsafe.Pointer(&b[0]), PanelStep: kernel.EntryBytes * kernel.Panel * depth,
							C: unsafe.Pointer(&c[0]), LDC: kernel.EntryBytes * ldc,
						}
						for _, flags := range []kernel.Flags{0, kernel.Accumulate} {
							args.Flags = flags
							was := slices.Clone(c)
							m.Run(s, args, rows, depth, panels)
							for i := range rows {
								for j := range ldc {
									got := c[i*ldc+j]
									if j >= panels*kernel.Panel {
										if got != before[i*ldc+j] {
											t.Fatalf("%s: %d x %d x %d: row %d is written beyond its panels", target.Name, rows, depth, panels, i)
										}
										continue
									}
									want := 0.0
									for k := range depth {
										want += float64(a[i*lda+k*step]) * float64(b[(j/kernel.Panel*depth+k)*kernel.Panel+j%kernel.Panel])
									}
									if flags != 0 {
										want += float64(was[i*ldc+j])
									}
									if !(math.Abs(float64(got)-want) <= float64(depth+2)*0x1p-24*want) {
										t.Fatalf("%s: %d rows, depth %d, %d panels: [%d, %d] = %v, want %v", target.Name, rows, depth, panels, i, j, got, want)
									}
								}
							}
						}
					}
				}
			}
		}
	}
}

// A kernel that is missing is an error that says which, and how to make it.
func TestMissingKernels(t *testing.T) {
	target := kernel.For(kernel.Available()[0])
	target.Name = "taller"
	for w := range target.Tiles {
		target.Tiles[w].Max, target.Tiles[w].Sweeps = kernel.MaxMR, max(1, target.Tiles[w].Sweeps)
	}
	f := plan.NewLayer(spec.Linear{Kind: spec.Dense, In: 8, Out: 8}).Factors[0]
	var arena memory.Arena
	defer arena.Close()
	_, product := NewProduct(f.Forward()[0], &target, false, false, &arena)
	_, multiplier := NewMultiplier(&target, kernel.F32)
	target.StripRows = kernel.MaxMR
	_, gradient := NewGradient(f, &target)
	for what, err := range map[string]error{"a product": product, "a multiplier": multiplier, "a gradient": gradient} {
		if err == nil || !strings.Contains(err.Error(), "no kernel ") || !strings.Contains(err.Error(), "make generate") {
			t.Errorf("%s without its kernels: %v", what, err)
		}
	}
}
