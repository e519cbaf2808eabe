package vec

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/klauspost/cpuid/v2"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/plan/cpu"
	"github.com/structuredffn/sffn/internal/f64ref/act"
	"github.com/structuredffn/sffn/internal/guard"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// operands are vectors that end at a protected page, so that a kernel which
// reads or writes past the end faults.
type operands struct {
	t   *testing.T
	rng *rand.Rand
}

func (o operands) normal(n int, std float64) []float32 {
	x := guard.Floats(o.t, n)
	for i := range x {
		x[i] = float32(std * o.rng.NormFloat64())
	}
	return x
}

func (o operands) positive(n int) []float32 {
	x := o.normal(n, 1)
	for i := range x {
		x[i] = float32(math.Abs(float64(x[i])))
	}
	return x
}

// poisoned is an output that nobody has written.
func (o operands) poisoned(n int) []float32 {
	x := guard.Floats(o.t, n)
	for i := range x {
		x[i] = float32(math.NaN())
	}
	return x
}

// close compares with a float64 reference; eps is relative to the reference
// plus scale.
func (o operands) close(what string, got []float32, want func(i int) float64, eps, scale float64) {
	o.t.Helper()
	for i, g := range got {
		w := want(i)
		if !(math.Abs(float64(g)-w) <= eps*(math.Abs(w)+scale)) {
			o.t.Fatalf("%s[%d] of %d = %v, want %v", what, i, len(got), g, w)
		}
	}
}

const ulp = 0x1p-23

func gelu64(x float64) (y, dy float64) {
	c := math.Sqrt(2 / math.Pi)
	u := c * (x + 0.044715*x*x*x)
	th := math.Tanh(u)
	return 0.5 * x * (1 + th), 0.5*(1+th) + 0.5*x*(1-th*th)*c*(1+3*0.044715*x*x)
}

func silu64(x float64) (y, dy float64) {
	s := 1 / (1 + math.Exp(-x))
	return x * s, s + x*s*(1-s)
}

func f(x float32) float64 { return float64(x) }

// lengths of vectors that take one call of a kernel, none, or two, and those
// about every threshold. Kernels meet all their tails in TestRows.
var lengths = func() []int {
	ns := []int{0, 1, 2, 15, 16, 31, 32, 48, 64, 127, 768}
	for _, s := range cpu.Thresholds(kernel.For(kernel.Portable), 1) {
		if s.Axis == plan.AxisEntries {
			ns = append(ns, s.At-1, s.At, s.At+1)
		}
	}
	return ns
}()

// Every method of a table on every instruction set of this machine, against
// float64.
func TestOperations(t *testing.T) {
	for _, isa := range kernel.Available() {
		t.Run(string(isa), func(t *testing.T) {
			tab := For(isa)
			o := operands{t, rand.New(rand.NewPCG(1, 2))}
			testPack(tab, o)
			for _, n := range lengths {
				testActivations(tab, o, n)
				testLinear(tab, o, n)
				if n == 0 {
					continue
				}
				testReductions(tab, o, n)
				testAdamW(tab, o, n)
				if n < 2000 {
					testNorms(tab, o, n)
					testRows(tab, o, n)
				}
			}
		})
	}
}

// Activations are within 4 ulp of a result of size 1: the exponential's
// polynomial and range reduction are good to 2, and each is followed by a
// division and two products.
func testActivations(tab *Table, o operands, n int) {
	x, da, u := o.normal(n, 4), o.normal(n, 1), o.normal(n, 1)
	if n > 4 {
		x[0], x[1], x[2], x[3] = 0, 100, -100, 30
	}
	y := o.poisoned(n)
	tab.Activate(kernel.GELU, y, x, n)
	o.close("gelu", y, func(i int) float64 { v, _ := gelu64(f(x[i])); return v }, 8*ulp, 1)
	a, dh := o.poisoned(n), o.poisoned(n)
	copy(a, da)
	tab.ActivationBackward(kernel.GELU, a, dh, x, n)
	o.close("gelu again", a, func(i int) float64 { v, _ := gelu64(f(x[i])); return v }, 8*ulp, 1)
	o.close("gelu'", dh, func(i int) float64 { _, d := gelu64(f(x[i])); return d * f(da[i]) }, 32*ulp, 1)
	y, a, dh = o.poisoned(n), o.poisoned(n), o.poisoned(n)
	copy(a, da)
	tab.Activate(kernel.GELUErf, y, x, n)
	o.close("gelu_erf", y, func(i int) float64 { v, _ := act.GELUErf(f(x[i])); return v }, 8*ulp, 1)
	tab.ActivationBackward(kernel.GELUErf, a, dh, x, n)
	o.close("gelu_erf again", a, func(i int) float64 { v, _ := act.GELUErf(f(x[i])); return v }, 8*ulp, 1)
	o.close("gelu_erf'", dh, func(i int) float64 { _, d := act.GELUErf(f(x[i])); return d * f(da[i]) }, 8*ulp, 1)
	// One, two and three rows of gates and ups.
	for rows := 1; rows <= min(3, n); rows++ {
		n := n / rows
		x, u, da := x[:rows*n], u[:rows*n], da[:rows*n]
		y, a, d, pre := o.poisoned(rows*n), o.poisoned(rows*n), o.poisoned(2*rows*n), o.poisoned(2*rows*n)
		copy(a, da)
		for r := range rows {
			copy(pre[2*r*n:], x[r*n:(r+1)*n])
			copy(pre[(2*r+1)*n:], u[r*n:(r+1)*n])
		}
		swiglu := func(i int) float64 { v, _ := silu64(f(x[i])); return v * f(u[i]) }
		tab.Activate(kernel.SwiGLU, y, pre, n)
		o.close("swiglu", y, swiglu, 8*ulp, 1)
		tab.ActivationBackward(kernel.SwiGLU, a, d, pre, n)
		o.close("swiglu again", a, swiglu, 8*ulp, 1)
		var dg, du []float32
		for r := range rows {
			dg, du = append(dg, d[2*r*n:(2*r+1)*n]...), append(du, d[(2*r+1)*n:(2*r+2)*n]...)
		}
		o.close("d gate", dg, func(i int) float64 { _, d := silu64(f(x[i])); return d * f(da[i]) * f(u[i]) }, 32*ulp, 1)
		o.close("d up", du, func(i int) float64 { v, _ := silu64(f(x[i])); return v * f(da[i]) }, 8*ulp, 1)
	}
}

func testLinear(tab *Table, o operands, n int) {
	x, y := o.normal(n, 1), o.normal(n, 1)
	old := append([]float32(nil), y...)
	tab.Axpy(y, 0.75, x)
	o.close("axpy", y, func(i int) float64 { return f(old[i]) + 0.75*f(x[i]) }, ulp, 1)
	copy(old, y)
	tab.Add(y, x)
	o.close("add", y, func(i int) float64 { return f(old[i]) + f(x[i]) }, ulp, 1)
	copy(old, y)
	tab.Scale(y, -3)
	o.close("scale", y, func(i int) float64 { return -3 * f(old[i]) }, ulp, 0)
	p, dp, ds := o.positive(n), o.normal(n, 1), o.poisoned(n)
	tab.SoftmaxBackward(ds, p, dp, 0.25, 0.125)
	o.close("softmax backward", ds, func(i int) float64 { return f(p[i]) * (f(dp[i]) - 0.25) * 0.125 }, 4*ulp, 1)
}

// A sum of n float32 in w lanes has an error below (n/w + log2 w + 1) ulp of
// the sum of absolute values; w is 1 at worst.
func testReductions(tab *Table, o operands, n int) {
	x, y := o.normal(n, 1), o.normal(n, 1)
	sum := func(g func(i int) float64) (s, abs float64) {
		for i := range n {
			s += g(i)
			abs += math.Abs(g(i))
		}
		return s, abs
	}
	near := func(what string, got float64, g func(i int) float64) {
		o.t.Helper()
		s, abs := sum(g)
		if !(math.Abs(got-s) <= float64(n+8)*ulp*abs) {
			o.t.Fatalf("%s of %d = %v, want %v", what, n, got, s)
		}
	}
	near("dot", f(tab.Dot(x, y)), func(i int) float64 { return f(x[i]) * f(y[i]) })
	near("squares", tab.SumSquares(x), func(i int) float64 { return f(x[i]) * f(x[i]) })
	want := math.Inf(-1)
	for _, v := range x {
		want = max(want, f(v))
	}
	if got := tab.Max(x); f(got) != want {
		o.t.Fatalf("max of %d = %v, want %v", n, got, want)
	}
	if n > 2 {
		x[n-1], x[1] = float32(math.Inf(-1)), -1000
	}
	e := o.poisoned(n)
	got := tab.ExpSum(e, x, 0.5, 1)
	exp := func(i int) float64 { return math.Exp(0.5*f(x[i]) - 1) }
	o.close("exp", e, exp, 8*ulp, 0x1p-120)
	near("exp's sum", f(got), exp)
}

func testAdamW(tab *Table, o operands, n int) {
	p, g, m, v := o.normal(n, 1), o.normal(n, 1), o.normal(n, 1), o.positive(n)
	old := [3][]float32{append([]float32(nil), p...), append([]float32(nil), m...), append([]float32(nil), v...)}
	c := AdamWStep{LR: 0.01, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, Decay: 0.1, Bias1: 0.19, Bias2: 0.002, GradScale: 0.5}
	tab.AdamW(p, g, m, v, c)
	mw := func(i int) float64 { return c.Beta1*f(old[1][i]) + (1-c.Beta1)*f(g[i])*c.GradScale }
	vw := func(i int) float64 {
		return c.Beta2*f(old[2][i]) + (1-c.Beta2)*f(g[i])*f(g[i])*c.GradScale*c.GradScale
	}
	o.close("m", m, mw, 4*ulp, 1)
	o.close("v", v, vw, 4*ulp, 1)
	o.close("p", p, func(i int) float64 {
		return f(old[0][i])*(1-c.LR*c.Decay) - c.LR*(mw(i)/c.Bias1)/(math.Sqrt(vw(i)/c.Bias2)+c.Eps)
	}, 8*ulp, 1)
}

// Norms of rows of n entries.
func testNorms(tab *Table, o operands, n int) {
	const rows = 3
	x, w, b, dy := o.normal(rows*n, 2), o.normal(n, 1), o.normal(n, 1), o.normal(rows*n, 1)
	for i := range x {
		x[i] += 1
	}
	y, mean, rstd := o.poisoned(rows*n), o.poisoned(rows), o.poisoned(rows)
	eps := []float64{1e-6, 1e-5, 1e-2}[n%3]
	for _, rms := range []bool{false, true} {
		mu, rs := make([]float64, rows), make([]float64, rows)
		for r := range rows {
			s, sq := 0.0, 0.0
			for _, v := range x[r*n : (r+1)*n] {
				s += f(v)
			}
			if !rms {
				mu[r] = s / float64(n)
			}
			for _, v := range x[r*n : (r+1)*n] {
				sq += (f(v) - mu[r]) * (f(v) - mu[r])
			}
			rs[r] = 1 / math.Sqrt(sq/float64(n)+eps)
		}
		norm := func(i int) float64 { return (f(x[i]) - mu[i/n]) * rs[i/n] }
		// The mean's error is ulp*log(n) of |x|, enlarged by rstd.
		big := 1.0
		for _, v := range rs {
			big = max(big, v)
		}
		dx, dw, db := o.normal(rows*n, 1), o.normal(n, 1), o.normal(n, 1)
		olddx, olddw, olddb := append([]float32(nil), dx...), append([]float32(nil), dw...), append([]float32(nil), db...)
		if rms {
			tab.RMSNorm(y, rstd, x, w, make([]float32, n), rows, n, eps)
			tab.RMSNormBackward(dx, dw, db, dy, x, w, rstd, rows, n)
		} else {
			tab.LayerNorm(y, mean, rstd, x, w, b, rows, n, eps)
			tab.LayerNormBackward(dx, dw, db, dy, x, w, mean, rstd, rows, n)
		}
		if big > 100 {
			continue // one entry a row: the deviations cancel
		}
		tol := 64 * ulp * big
		what := fmt.Sprintf("norm (rms %v) of %d", rms, n)
		o.close(what, y, func(i int) float64 {
			if rms {
				return norm(i) * f(w[i%n])
			}
			return norm(i)*f(w[i%n]) + f(b[i%n])
		}, tol, 4)
		o.close(what+": dx", dx, func(i int) float64 {
			r := i / n
			g, gn := 0.0, 0.0
			for j := range n {
				v := f(dy[r*n+j]) * f(w[j])
				g += v
				gn += v * norm(r*n+j)
			}
			if rms {
				g = 0
			}
			return f(olddx[i]) + rs[r]*(f(dy[i])*f(w[i%n])-g/float64(n)-norm(i)*gn/float64(n))
		}, tol*4, 4*big)
		o.close(what+": dw", dw, func(j int) float64 {
			s := f(olddw[j])
			for r := range rows {
				s += f(dy[r*n+j]) * norm(r*n+j)
			}
			return s
		}, tol, 4)
		if !rms {
			o.close(what+": db", db, func(j int) float64 {
				s := f(olddb[j])
				for r := range rows {
					s += f(dy[r*n+j])
				}
				return s
			}, tol, 4)
		}
	}
}

// Operations over several rows of n entries.
func testRows(tab *Table, o operands, n int) {
	const rows = 5
	ld := n + 3
	x := o.normal((rows-1)*ld+n, 1)
	dst := o.normal(n, 1)
	old := append([]float32(nil), dst...)
	tab.ColSum(dst, x, rows, n, ld)
	o.close("column sums", dst, func(j int) float64 {
		s := f(old[j])
		for r := range rows {
			s += f(x[r*ld+j])
		}
		return s
	}, 8*ulp, 4)

	const heads = 3
	stride := 2*n + 5
	q := o.normal((heads-1)*stride+2*n, 1)
	cos, sin := o.normal(n, 1), o.normal(n, 1)
	before := append([]float32(nil), q...)
	rotated := func(sign float64) func(i int) float64 {
		return func(i int) float64 {
			switch h, j := i/stride, i%stride; {
			case j < n:
				return f(before[i])*f(cos[j]) - sign*f(before[h*stride+n+j])*f(sin[j])
			case j < 2*n:
				return f(before[i])*f(cos[j-n]) + sign*f(before[h*stride+j-n])*f(sin[j-n])
			}
			return f(before[i]) // between heads
		}
	}
	tab.RoPE(q, cos, sin, heads, stride, n)
	o.close("rope", q, rotated(1), 8*ulp, 4)
	copy(before, q)
	tab.RoPEBackward(q, cos, sin, heads, stride, n)
	o.close("rope back", q, rotated(-1), 8*ulp, 4)

	if n%16 == 0 && n <= 64 {
		for _, step := range []int{2, 3, 4, 5, 7, 16, 33} {
			testSpread(tab, o, n, step)
		}
	}
}

func testSpread(tab *Table, o operands, n, step int) {
	const rows = 3
	ld := n*step + 1
	size := (rows-1)*ld + (n-1)*step + 1
	tile := o.normal(rows*n, 1)
	add := o.normal(size, 1)
	s := tab.NewSpread(step)
	for _, with := range []bool{false, true} {
		dst := o.poisoned(size)
		var a []float32
		if with {
			a = add
		}
		s.Run(dst, tile, a, rows, n, ld)
		for i, got := range dst {
			r, c := i/ld, i%ld
			if c%step != 0 || c/step >= n {
				if got == got {
					o.t.Fatalf("spread by %d wrote %v between its places", step, got)
				}
				continue
			}
			want := tile[r*n+c/step]
			if with {
				want += add[i]
			}
			if got != want {
				o.t.Fatalf("spread by %d (add %v): [%d][%d] = %v, want %v", step, with, r, c/step, got, want)
			}
		}
	}
}

func testPack(tab *Table, o operands) {
	strip := max(6, tab.strip) // of kernels that take any
	for _, rows := range []int{1, 2, 9, 21} {
		for _, groups := range []int{1, 2, 5} {
			for _, c := range []struct{ width, step int }{{kernel.Panel, 1}, {5, 2}, {strip, 1}, {strip, 2}, {strip, 3}, {strip, 8}} {
				span := (groups*c.width-1)*c.step + 1
				ld := span + 5
				src := o.normal((rows-1)*ld+span, 1)
				for _, gap := range []int{0, 16} {
					group := rows*c.width + gap
					dst, sums := o.poisoned(groups*group-gap), make([]float32, groups*c.width)
					switch {
					case c.width == kernel.Panel:
						tab.PackPanels(dst, src, rows, groups, group, ld)
					case gap == 0:
						tab.PackStrips(dst, src, nil, rows, groups, c.width, c.step, group, ld)
					default:
						tab.PackStrips(dst, src, sums, rows, groups, c.width, c.step, group, ld)
					}
					want := make([]float32, len(sums))
					for i := range groups * rows * c.width {
						g, r, j := i/c.width/rows, i/c.width%rows, i%c.width
						x, got := src[r*ld+(g*c.width+j)*c.step], dst[g*group+i%(rows*c.width)]
						if got != x {
							o.t.Fatalf("pack %d x %d rows of %d, step %d: [%d][%d][%d] = %v, want %v", groups, rows, c.width, c.step, g, r, j, got, x)
						}
						want[g*c.width+j] += x
					}
					if gap > 0 && c.width != kernel.Panel && !slices.Equal(sums, want) {
						o.t.Fatalf("pack %d x %d rows of %d, step %d: sums %v, want %v", groups, rows, c.width, c.step, sums, want)
					}
				}
			}
		}
	}
}

// Each call of a format's peak counts two operations for each product of its chains.
func TestPeak(t *testing.T) {
	round := func(isa kernel.ISA, op kernel.VecOp) float32 {
		a := kernel.VecArgs{N: 1}
		For(isa).call(op, &a)
		return a.R[0]
	}
	for isa, want := range map[kernel.ISA]map[kernel.VecOp]float32{
		kernel.AVX512: {kernel.OpPeakBF16: 2, kernel.OpPeakInt8: 4, kernel.OpPeakInt4: 4},
		kernel.AVX2:   {kernel.OpPeakBF16: 1, kernel.OpPeakInt8: 4 * 8. / 12, kernel.OpPeakInt4: 4 * 8. / 12}, // 8 chains, not 12
	} {
		for op, times := range want {
			if !slices.Contains(kernel.Available(), isa) || kernel.Vec(isa, op) == nil {
				t.Logf("%s, %s: left out, this machine or build lacks %v or assembly", isa, op, slices.Concat(isa.Needs(), op.Needs(isa)))
			} else if got := round(isa, op) / round(isa, kernel.OpPeak); got != times {
				t.Errorf("%s, %s: %g times the operations of multiply-adds in float32, want %g", isa, op, got, times)
			}
		}
	}
	for _, isa := range kernel.Available() {
		for _, f := range kernel.Formats() {
			if n := For(isa).Peak(f, 1e6); n < 1e6 {
				t.Errorf("%s, %s: %g operations, want 1e6 or more", isa, f, n)
			}
		}
	}
}

// BenchmarkPeak shows the rates of the instructions of the formats' products on one core,
// 1e9 operations a second: the best of many short runs, which neighbours disturb least.
func BenchmarkPeak(b *testing.B) {
	for _, isa := range kernel.Available() {
		for _, op := range []kernel.VecOp{kernel.OpPeak, kernel.OpPeakBF16, kernel.OpPeakInt8, kernel.OpPeakInt4} {
			if kernel.Vec(isa, op) == nil {
				continue
			}
			b.Run(fmt.Sprintf("%s/%s", isa, op), func(b *testing.B) {
				table, best := For(isa), 0.0
				for b.Loop() {
					a := kernel.VecArgs{N: 1 << 16}
					start := time.Now()
					table.call(op, &a)
					best = max(best, float64(a.N)*float64(a.R[0])/time.Since(start).Seconds())
				}
				b.ReportMetric(best/1e9, "G/s")
			})
		}
	}
}

// A processor that lacks what a format's peak needs is not given it.
func TestPeakNeeds(t *testing.T) {
	if kernel.Vec(kernel.AVX512, kernel.OpPeak) == nil {
		t.Skip("skipped: this build has no assembly, whose kernels alone need features")
	}
	for _, f := range []cpuid.FeatureID{cpuid.AVX512BF16, cpuid.AVX512VNNI} {
		if cpuid.CPU.Has(f) {
			cpuid.CPU.Disable(f)
			defer cpuid.CPU.Enable(f)
		}
	}
	for _, name := range kernel.Formats() {
		f, _ := name.Format()
		needs := len(f.Needs[kernel.AVX512]) > 0 || f.Native[kernel.AVX512] != ""
		if got := kernel.Vec(kernel.AVX512, f.Peak) != nil; got == needs {
			t.Errorf("%s: the peak is there: %t, though the processor lacks what it needs: %t", name, got, needs)
		}
		if kernel.Vec(kernel.AVX2, f.Peak) == nil {
			t.Errorf("%s: no peak on AVX2", name)
		}
		if target := kernel.For(kernel.AVX512); target.For(name).ISA == kernel.AVX512 && !(On(&target).Peak(name, 1) > 0) {
			t.Errorf("%s: its kernels run, and have no peak", name)
		}
	}
}

// Where the processor has no instructions that round to bfloat16, the kernels of AVX2 run
// with AVX-512, and round to the same bits.
func TestRoundWithout(t *testing.T) {
	if !slices.Contains(kernel.Available(), kernel.AVX512) {
		t.Skipf("this machine or build has %v only, and no kernels of AVX-512", kernel.Available())
	}
	r := rand.New(rand.NewPCG(5, 6))
	const n = 1027
	x, odd := make([]float32, n), make([]float32, n)
	for i := range x {
		x[i], odd[i] = math.Float32frombits(r.Uint32()), math.Float32frombits(r.Uint32())
	}
	round := func(t *Table) (halves []uint16, pairs []uint32, floats []float32) {
		halves, pairs, floats = make([]uint16, n+kernel.LaneGroup), make([]uint32, n), make([]float32, n)
		t.ToBF16(halves, x, 1, n, n, n)
		t.PairBF16(pairs, x, odd, 1, n, n)
		t.RoundBF16(floats, x, 1, n, n, n)
		return halves[:n], pairs, floats
	}
	target := kernel.For(kernel.AVX512)
	halves, pairs, floats := round(On(&target))
	if cpuid.CPU.Has(cpuid.AVX512BF16) {
		cpuid.CPU.Disable(cpuid.AVX512BF16)
		defer cpuid.CPU.Enable(cpuid.AVX512BF16)
	}
	target.Name = "without" // tables are kept by target
	without := On(&target)
	if got, want := reflect.ValueOf(without.fns[kernel.OpBF16]).Pointer(), reflect.ValueOf(kernel.Vec(kernel.AVX2, kernel.OpBF16)).Pointer(); got != want {
		t.Error("what rounds is not the kernel of AVX2")
	}
	h, p, f := round(without)
	for i := range x {
		if want := BF16(x[i]); halves[i] != want {
			t.Fatalf("%08x: %04x, want %04x", math.Float32bits(x[i]), halves[i], want)
		}
		if h[i] != halves[i] || p[i] != pairs[i] || math.Float32bits(f[i]) != math.Float32bits(floats[i]) {
			t.Fatalf("%08x and %08x without the processor's instructions: %04x, %08x, %08x; with them %04x, %08x, %08x", math.Float32bits(x[i]), math.Float32bits(odd[i]),
				h[i], p[i], math.Float32bits(f[i]), halves[i], pairs[i], math.Float32bits(floats[i]))
		}
	}
}
