package attention

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/plan/cpu"
	"github.com/structuredffn/sffn/internal/runtimetest"
	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/pool"
)

// referenceAttention is causal attention, of a window or of all, and its gradient in
// float64, with every score written out.
func referenceAttention(s Spec, qkv, do []float64, batch, seq int) (o, dqkv []float64) {
	width, hd, group := s.RowWidth(), s.HeadDim, s.QHeads/s.KVHeads
	o, dqkv = make([]float64, batch*seq*s.QHeads*hd), make([]float64, len(qkv))
	for b := range batch {
		for h := range s.QHeads {
			at := func(t, head int) int { return (b*seq+t)*width + head*hd }
			kh, vh := s.QHeads+h/group, s.QHeads+s.KVHeads+h/group
			for i := range seq {
				p, sum, top := make([]float64, i+1), 0.0, math.Inf(-1)
				for j := range p {
					if s.Window > 0 && j <= i-s.Window {
						p[j] = math.Inf(-1)
						continue
					}
					for d := range hd {
						p[j] += qkv[at(i, h)+d] * qkv[at(j, kh)+d]
					}
					p[j] *= float64(s.Scale)
					top = max(top, p[j])
				}
				for j := range p {
					p[j] = math.Exp(p[j] - top)
					sum += p[j]
				}
				row := (b*seq+i)*s.QHeads*hd + h*hd
				dp, mean := make([]float64, i+1), 0.0
				for j := range p {
					p[j] /= sum
					for d := range hd {
						o[row+d] += p[j] * qkv[at(j, vh)+d]
						dp[j] += do[row+d] * qkv[at(j, vh)+d]
					}
					mean += p[j] * dp[j]
				}
				for j := range p {
					ds := p[j] * (dp[j] - mean) * float64(s.Scale)
					for d := range hd {
						dqkv[at(i, h)+d] += ds * qkv[at(j, kh)+d]
						dqkv[at(j, kh)+d] += ds * qkv[at(i, h)+d]
						dqkv[at(j, vh)+d] += p[j] * do[row+d]
					}
				}
			}
		}
	}
	return o, dqkv
}

// bind binds attention on a target; a Scale of 0 is the usual one.
func bind(t testing.TB, s Spec, target *kernel.Target, p *pool.Pool) *Attention {
	t.Helper()
	if s.Scale == 0 {
		s.Scale = float32(1 / math.Sqrt(float64(s.HeadDim)))
	}
	a, err := New(s, p, target, kernel.F32)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// instructionSets lists a target of each instruction set of the machine.
func instructionSets() (all []kernel.Target) {
	for _, isa := range kernel.Available() {
		all = append(all, kernel.For(isa))
	}
	return all
}

// pass is what a forward and a backward pass compute.
type pass struct{ o, sums, dqkv []float32 }

// run runs both passes.
func (a *Attention) run(qkv, do []float32, batch, seq int) pass {
	ws := a.NewWorkspace()
	defer ws.Close()
	m := batch * seq
	p := pass{runtimetest.Poisoned(m * a.OutWidth()), runtimetest.Poisoned(2 * m * a.QHeads), runtimetest.Poisoned(m * a.RowWidth())}
	a.Forward(p.o, p.sums, qkv, batch, seq, ws)
	a.Backward(p.dqkv, do, p.o, p.sums, qkv, batch, seq, ws)
	return p
}

func (p pass) same(t *testing.T, what string, q pass) {
	t.Helper()
	runtimetest.SameBits(t, what+": o", p.o, q.o)
	runtimetest.SameBits(t, what+": sums", p.sums, q.sums)
	runtimetest.SameBits(t, what+": dqkv", p.dqkv, q.dqkv)
}

// shapes are heads alone and in groups, of whole panels and not.
var shapes = []struct {
	Spec
	batch, seq int
}{
	{Spec{QHeads: 1, KVHeads: 1, HeadDim: 1}, 1, 1},
	{Spec{QHeads: 2, KVHeads: 2, HeadDim: 8}, 2, 5},
	{Spec{QHeads: 4, KVHeads: 2, HeadDim: 13}, 2, 97}, // two blocks of queries
	{Spec{QHeads: 6, KVHeads: 3, HeadDim: 16}, 3, 40},
	{Spec{QHeads: 3, KVHeads: 1, HeadDim: 33}, 1, 129},
	{Spec{QHeads: 2, KVHeads: 1, HeadDim: 64}, 1, 256}, // one full block of keys
	{Spec{QHeads: 1, KVHeads: 1, HeadDim: 40}, 1, 530}, // three blocks of keys
	{Spec{QHeads: 4, KVHeads: 2, HeadDim: 13, Window: 1}, 2, 97},
	{Spec{QHeads: 2, KVHeads: 1, HeadDim: 33, Window: 40}, 2, 300},
	{Spec{QHeads: 1, KVHeads: 1, HeadDim: 40, Window: 200}, 1, 530},
}

func TestAttention(t *testing.T) {
	for _, target := range instructionSets() {
		for _, c := range shapes {
			t.Run(fmt.Sprintf("%s/%dx%d_%d_%d", target.ISA, c.QHeads, c.KVHeads, c.HeadDim, c.seq), func(t *testing.T) {
				check(t, &target, c.Spec, c.batch, c.seq, []int{1, 2, 3, 16})
			})
		}
	}
}

// check runs attention on several numbers of threads: against float64, and against
// each other.
func check(t *testing.T, target *kernel.Target, s Spec, batch, seq int, threads []int) {
	t.Helper()
	rng := rand.New(rand.NewPCG(3, uint64(seq)))
	m := batch * seq
	qkv, do := runtimetest.Random(rng, m*s.RowWidth(), 1.5), runtimetest.Random(rng, m*s.OutWidth(), 1)
	var first pass
	for i, n := range threads {
		a := bind(t, s, target, runtimetest.PoolOf(n))
		got := a.run(qkv, do, batch, seq)
		if i > 0 {
			got.same(t, fmt.Sprintf("%d threads and %d", n, threads[0]), first)
			continue
		}
		first = got
		want, dwant := referenceAttention(a.Spec, runtimetest.Wide(qkv), runtimetest.Wide(do), batch, seq)
		runtimetest.Near(t, "o", got.o, want, runtimetest.Tolerance(seq+s.HeadDim))
		runtimetest.Near(t, "dqkv", got.dqkv, dwant, 4*runtimetest.Tolerance(seq+s.HeadDim))
	}
}

// Lengths and sizes of heads below, at and above each threshold of attention: against
// float64, and the cache in pieces and row by row with the bits of the whole.
func TestThresholds(t *testing.T) {
	heads := Spec{QHeads: 2, KVHeads: 1, HeadDim: 20}
	type point struct{ headDim, seq, window int }
	points := map[point]bool{}
	for _, target := range runtimetest.Targets() {
		for _, s := range cpu.Thresholds(target, 1) {
			for n := max(1, s.At-1); n <= s.At+1; n++ {
				switch s.Axis {
				case plan.AxisKeys, plan.AxisQueries:
					points[point{heads.HeadDim, n, 0}] = true
					// As much as a window sees, and so far that it has left a block behind.
					points[point{heads.HeadDim, n + kernel.QueryBlock + 3, n}] = true
				case plan.AxisHeadSize:
					points[point{n, 7, 0}] = true
				}
			}
		}
	}
	if len(points) == 0 {
		t.Fatal("attention has no thresholds")
	}
	const batch = 2
	for p := range points {
		s := heads
		s.HeadDim, s.Window = p.headDim, p.window
		for _, target := range runtimetest.Targets() {
			t.Run(fmt.Sprintf("%s/%d_%d_%d", target.Name, p.headDim, p.seq, p.window), func(t *testing.T) {
				check(t, &target, s, batch, p.seq, []int{1, 3})
				for _, threads := range []int{1, 3} {
					a := bind(t, s, &target, runtimetest.PoolOf(threads))
					inPieces(t, a, batch, p.seq, func(int) int { return p.seq })
					inPieces(t, a, batch, p.seq, func(int) int { return p.seq/2 + 1 })
					inPieces(t, a, batch, p.seq, func(int) int { return 1 })
				}
			})
		}
	}
}

// A window computes nothing of keys that are out of sight: neither row after row
// through the cache nor in a pass over many windows' length.
func TestWindowSkips(t *testing.T) {
	const seq, window = 20 * kernel.KeyBlock, kernel.KeyBlock
	target := instructionSets()[0]
	s := Spec{QHeads: 2, KVHeads: 1, HeadDim: 8}
	calls := func(s Spec) (last, whole, back uint) {
		a := bind(t, s, &target, runtimetest.PoolOf(1))
		ws := a.NewWorkspace()
		defer ws.Close()
		qkv, o, sums := make([]float32, seq*a.RowWidth()), make([]float32, seq*a.OutWidth()), make([]float32, 2*seq*a.QHeads)
		a.Forward(o, sums, qkv, 1, seq, ws)
		whole = ws.Calls()
		a.Backward(slices.Clone(qkv), o, o, sums, qkv, 1, seq, ws)
		back = ws.Calls()
		c := a.NewKVCache(1, seq)
		defer c.Close()
		for _, span := range []Span{{Rows: seq - 1}, {Pos: seq - 1, Row: seq - 1, Rows: 1}} {
			ws.Calls()
			if err := a.Extend(o, qkv, c, []Span{span}, ws); err != nil {
				t.Fatal(err)
			}
		}
		return ws.Calls(), whole, back
	}
	last, whole, back := calls(s)
	s.Window = window
	wlast, wwhole, wback := calls(s)
	// A window lies in two blocks of keys, those of a block of queries in three, of 20
	// and of half as many on average.
	if wlast*10 > last || wwhole*3 > whole || wback*3 > back {
		t.Errorf("a window of %d takes %d calls of kernels for the last row, %d for %d rows and %d back; all positions %d, %d and %d", window, wlast, wwhole, seq, wback, last, whole, back)
	}
}

// A window as long as the sequence is none, bit for bit.
func TestWholeWindow(t *testing.T) {
	const seq = 140
	for _, target := range instructionSets() {
		s := Spec{QHeads: 2, KVHeads: 1, HeadDim: 20}
		r := rand.New(rand.NewPCG(2, 2))
		qkv, do := runtimetest.Random(r, seq*s.RowWidth(), 1), runtimetest.Random(r, seq*s.OutWidth(), 1)
		all := bind(t, s, &target, runtimetest.PoolOf(2)).run(qkv, do, 1, seq)
		for _, window := range []int{seq, seq + 1, math.MaxInt} {
			s.Window = window
			bind(t, s, &target, runtimetest.PoolOf(2)).run(qkv, do, 1, seq).same(t, fmt.Sprintf("%s: a window of %d", target.Name, window), all)
		}
	}
}

// Schedules decide no bits: whatever is drawn, both passes compute what they do on the
// target's own schedule.
func TestSchedulesGiveEqualBits(t *testing.T) {
	s := Spec{QHeads: 2, KVHeads: 1, HeadDim: 36}
	for _, target := range instructionSets() {
		t.Run(target.Name, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				drawn := target
				drawn.Name, drawn.Schedule = "drawn", runtimetest.DrawSchedule(rt, target.Schedule)
				if err := drawn.Validate(); err != nil {
					rt.Fatal(err)
				}
				r := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
				seq, threads := rapid.IntRange(1, 330).Draw(rt, "rows"), rapid.IntRange(1, 3).Draw(rt, "threads")
				if target.ISA == kernel.Portable {
					seq = 1 + seq%20
				}
				qkv, do := runtimetest.Random(r, seq*s.RowWidth(), 1), runtimetest.Random(r, seq*s.OutWidth(), 1)
				p := runtimetest.PoolOf(threads)
				got := bind(t, s, &drawn, p).run(qkv, do, 1, seq)
				got.same(t, fmt.Sprintf("%d rows, %+v", seq, drawn.Schedule), bind(t, s, &target, p).run(qkv, do, 1, seq))
			})
		})
	}
}

// Scores of 4e10, where neighbouring float32 lie 4096 apart: the exponents are
// differences of scores, so that the largest has exactly 0 in both passes.
func TestLargeScores(t *testing.T) {
	s := Spec{QHeads: 2, KVHeads: 1, HeadDim: 48}
	const seq, size = 140, 3e4 // two blocks of keys
	for _, target := range instructionSets() {
		isa := target.ISA
		for _, equal := range []bool{true, false} {
			a := bind(t, s, &target, runtimetest.PoolOf(2))
			rng := rand.New(rand.NewPCG(7, 7))
			qkv, do := runtimetest.Random(rng, seq*s.RowWidth(), 1), runtimetest.Random(rng, seq*s.QHeads*s.HeadDim, 1)
			for i := range qkv {
				if i%s.RowWidth() >= (s.QHeads+s.KVHeads)*s.HeadDim {
					continue // values
				}
				if qkv[i] *= size; equal {
					qkv[i] = size
				}
			}
			want, dwant := referenceAttention(a.Spec, runtimetest.Wide(qkv), runtimetest.Wide(do), 1, seq)
			got := a.run(qkv, do, 1, seq)
			runtimetest.Near(t, fmt.Sprintf("%s, equal scores %v: o", isa, equal), got.o, want, runtimetest.Tolerance(seq))
			// The gradient of the scores is what rounding leaves times 3e4: only that of
			// the values has a reference.
			var dv, dvwant []float32
			for r := range seq {
				row := got.dqkv[r*s.RowWidth():][:s.RowWidth()]
				for i, g := range row {
					if math.IsNaN(float64(g)) || math.IsInf(float64(g), 0) {
						t.Fatalf("%s, equal scores %v: the gradient of row %d is %v at %d", isa, equal, r, g, i)
					}
				}
				at := (s.QHeads + s.KVHeads) * s.HeadDim
				dv = append(dv, row[at:]...)
				for _, w := range dwant[r*s.RowWidth()+at : (r+1)*s.RowWidth()] {
					dvwant = append(dvwant, float32(w))
				}
			}
			runtimetest.Near(t, fmt.Sprintf("%s, equal scores %v: dv", isa, equal), dv, runtimetest.Wide(dvwant), 4*runtimetest.Tolerance(seq))
		}
	}
}

// Keys whose scores are minus infinity count for nothing beside others, in
// whichever blocks they lie.
func TestInfiniteScores(t *testing.T) {
	s := Spec{QHeads: 1, KVHeads: 1, HeadDim: 2}
	const seq = 300
	for _, target := range instructionSets() {
		isa := target.ISA
		a := bind(t, s, &target, runtimetest.PoolOf(1))
		qkv, values := make([]float32, seq*s.RowWidth()), 0.0
		ws := a.NewWorkspace()
		for r := range seq {
			row := qkv[r*s.RowWidth():]
			row[0], row[2], row[4] = 1e30, -1e30, float32(r)
			if r >= kernel.KeyBlock+2 {
				row[2] = 1
				values += float64(r)
			}
		}
		o := runtimetest.Poisoned(seq * s.HeadDim)
		a.Forward(o, nil, qkv, 1, seq, ws)
		want := values / (seq - kernel.KeyBlock - 2)
		if got := float64(o[(seq-1)*s.HeadDim]); !(math.Abs(got-want) <= want*runtimetest.Tolerance(seq)) {
			t.Errorf("%s: %v, want %v", isa, got, want)
		}
		ws.Close()
	}
}

// The scheduler can stop a worker between any two calls of kernels, which are short and
// do all the work.
func TestPreemption(t *testing.T) {
	for _, target := range instructionSets() {
		a := bind(t, Spec{QHeads: 2, KVHeads: 2, HeadDim: 128}, &target, runtimetest.PoolOf(1))
		var c runtimetest.Calls
		a.Wrap(c.Instead)
		const m, width = 300, 256
		qkv, o, sums := make([]float32, 3*m*width), make([]float32, m*width), make([]float32, 2*2*m)
		ws := a.NewWorkspace()
		for name, pass := range map[string]func(){
			"forward":  func() { a.Forward(o, sums, qkv, 1, m, ws) },
			"backward": func() { a.Backward(slices.Clone(qkv), o, o, sums, qkv, 1, m, ws) },
		} {
			pass()
			c.Check(t, fmt.Sprintf("attention, %s, %s", target.ISA, name), ws.Calls(), c.Sum(), 0)
		}
		ws.Close()
	}
}

func BenchmarkAttention(b *testing.B) {
	target := instructionSets()[0]
	s := Spec{QHeads: 4, KVHeads: 4, HeadDim: 32, Scale: 0.2}
	const batch, seq = 8, 128
	a := bind(b, s, &target, runtimetest.PoolOf(1))
	ws := a.NewWorkspace()
	defer ws.Close()
	rng := rand.New(rand.NewPCG(1, 1))
	const m = batch * seq
	qkv, do := runtimetest.Random(rng, m*s.RowWidth(), 1), runtimetest.Random(rng, m*s.OutWidth(), 1)
	o, sums, dqkv := runtimetest.Poisoned(len(do)), runtimetest.Poisoned(2*m*s.QHeads), runtimetest.Poisoned(len(qkv))
	for b.Loop() {
		a.Forward(o, sums, qkv, batch, seq, ws)
		a.Backward(dqkv, do, o, sums, qkv, batch, seq, ws)
	}
	b.ReportMetric(float64(m)*float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
}
