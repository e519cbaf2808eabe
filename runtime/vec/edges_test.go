package vec

import (
	"math"
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/structuredffn/sffn/runtime/kernel"
)

var (
	nan     = float32(math.NaN())
	inf     = float32(math.Inf(1))
	huge    = float32(math.MaxFloat32)
	isNaN   = func(x float32) bool { return x != x }
	finite  = func(x float32) bool { return !math.IsInf(f(x), 0) && !isNaN(x) }
	bitsOf  = math.Float32bits
	ofBits  = math.Float32frombits
	someLow = [...]uint32{0, 1, 0x7fff, 0xffff}
)

// everyExponent are floats of both signs, all exponents and 512 mantissas:
// zeros, subnormals, infinities and NaNs among them.
func everyExponent() []float32 {
	var x []float32
	for hi := range uint32(1 << 16) {
		x = append(x, ofBits(hi<<16|someLow[hi%4]))
	}
	return x
}

// same demands that got is want within tol, infinite where want is, with its
// sign, and NaN where want is.
func same(t *testing.T, what string, x, got, want float32, tol float64) {
	t.Helper()
	switch {
	case isNaN(want) && isNaN(got), got == want:
	case finite(want) && math.Abs(f(got)-f(want)) <= tol:
	default:
		t.Fatalf("%s(%v) = %v, want %v", what, x, got, want)
	}
}

// Activations and their derivatives have their true limits at both ends, and
// what infinities and NaN give is the same on every instruction set: what the
// portable form gives. x times sigmoid(x) is NaN at minus infinity, where the sigmoid is
// 0, and the derivative is NaN at both, as in PyTorch; the erf form has its limits there.
func TestActivationsAtTheEdges(t *testing.T) {
	x := everyExponent()
	n := len(x)
	one := make([]float32, n)
	for i := range one {
		one[i] = 1
	}
	var first [][]float32
	for _, isa := range kernel.Available() {
		tab := For(isa)
		y, a, d, up := make([]float32, n), make([]float32, n), make([]float32, n), make([]float32, n)
		check := func(name string, entry func(float32) (y, dy float32), beyond float32, limits bool) {
			for i, v := range x {
				want, slope := entry(v)
				switch { // what the portable form gives, from its own source
				case v == -inf && !limits:
					want, slope = nan, nan
				case v == inf && !limits:
					want, slope = inf, nan
				case v <= -beyond:
					want, slope = 0, 0
				case v >= beyond:
					want, slope = v, 1
				}
				tol := 8 * ulp * (1 + math.Abs(f(want)))
				if math.Abs(f(v)) >= f(beyond) {
					tol = 0
				}
				same(t, string(isa)+" "+name, v, y[i], want, tol)
				same(t, string(isa)+" "+name+" again", v, a[i], want, tol)
				same(t, string(isa)+" "+name+"'", v, d[i], slope, 4*tol)
			}
		}
		tab.each(kernel.OpGELU, kernel.VecArgs{}, y, x)
		tab.each(kernel.OpGELUBackward, kernel.VecArgs{}, a, d, x, one)
		check("gelu", GELU, 20, false)
		bits := [][]float32{y, a, d}
		y, a, d = make([]float32, n), make([]float32, n), make([]float32, n)
		tab.each(kernel.OpGELUErf, kernel.VecArgs{}, y, x)
		tab.each(kernel.OpGELUErfBackward, kernel.VecArgs{}, a, d, x, one)
		check("gelu_erf", GELUErf, 14.75, true)
		bits = append(bits, y, a, d)
		y, a, d = make([]float32, n), make([]float32, n), make([]float32, n)
		tab.each(kernel.OpSwiGLU, kernel.VecArgs{}, y, x, one)
		tab.each(kernel.OpSwiGLUBackward, kernel.VecArgs{}, a, d, up, x, one, one)
		check("silu", SiLU, 120, false)
		copy(a, up)
		check("silu", SiLU, 120, false)
		bits = append(bits, y, a, d)
		if isa == kernel.Portable {
			continue
		}
		if first == nil {
			first = bits
		}
		for j := range bits {
			for i, v := range bits[j] {
				if bitsOf(v) != bitsOf(first[j][i]) && !isNaN(v) {
					t.Fatalf("%s: result %d of %v has other bits than %s", isa, j, x[i], kernel.Available()[0])
				}
			}
		}
	}
}

// The erf form of GELU is good to 6 ulp of the result everywhere, however small it is,
// and its derivative to 6 of the larger of its two terms: all exponents down to 2^-30,
// and 2^10 mantissas of each.
func TestGELUErfInUlps(t *testing.T) {
	var x []float32
	for exponent := -30; exponent < 4; exponent++ {
		for i := range 1 << 10 {
			v := float32(math.Ldexp(1+(float64(i)+0.37)/(1<<10), exponent))
			x = append(x, v, -v)
		}
	}
	ulpOf := func(v float64) float64 {
		_, e := math.Frexp(v)
		return math.Ldexp(1, max(e-24, -149))
	}
	one := make([]float32, len(x))
	for i := range one {
		one[i] = 1
	}
	for _, isa := range kernel.Available() {
		y, a, d := make([]float32, len(x)), make([]float32, len(x)), make([]float32, len(x))
		For(isa).each(kernel.OpGELUErf, kernel.VecArgs{}, y, x)
		For(isa).each(kernel.OpGELUErfBackward, kernel.VecArgs{}, a, d, x, one)
		for i, v := range x {
			h := f(v)
			tail, slope := math.Erfc(math.Abs(h)/math.Sqrt2)/2, h*math.Exp(-h*h/2)/math.Sqrt(2*math.Pi)
			p := tail
			if h > 0 {
				p = 1 - tail
			}
			if e := math.Abs(f(y[i]) - h*p); e > 6*ulpOf(h*p) || a[i] != y[i] {
				t.Fatalf("%s: gelu_erf(%v) = %v, and with its slope %v: %.2f ulp from %v", isa, v, y[i], a[i], e/ulpOf(h*p), h*p)
			}
			if e, u := math.Abs(f(d[i])-(p+slope)), ulpOf(max(p, math.Abs(slope))); e > 6*u {
				t.Fatalf("%s: gelu_erf'(%v) = %v: %.2f ulp from %v", isa, v, d[i], e/u, p+slope)
			}
		}
	}
}

// SwiGLU overflows where silu(g)*u does, and not where g*u does.
func TestSwiGLUOfLargeEntries(t *testing.T) {
	values := []float32{-huge, -3e38, -1e30, -1e13, -120, -50, -1, -1e-30, 0, 1e-30, 0.5, 1, 50, 120, 1e13, 1e30, 3e38, huge}
	var g, u []float32
	for _, v := range values {
		for _, w := range append(values, inf, -inf, nan) {
			g, u = append(g, v), append(u, w)
		}
	}
	n := len(g)
	for _, isa := range kernel.Available() {
		y, a, dg, du := make([]float32, n), make([]float32, n), make([]float32, n), make([]float32, n)
		For(isa).each(kernel.OpSwiGLU, kernel.VecArgs{}, y, g, u)
		For(isa).each(kernel.OpSwiGLUBackward, kernel.VecArgs{}, a, dg, du, g, u, u)
		for i := range g {
			s, slope := SiLU(g[i])
			tol := 16 * ulp * (1 + math.Abs(f(s))) * math.Abs(f(u[i]))
			what := string(isa) + " swiglu of gate " + strconv.FormatFloat(f(g[i]), 'g', -1, 32) + ", up "
			same(t, what, u[i], y[i], s*u[i], tol)
			same(t, what+", again", u[i], a[i], s*u[i], tol)
			same(t, what+", d up", u[i], du[i], s*u[i], tol)
			same(t, what+", d gate", u[i], dg[i], slope*u[i]*u[i], 64*ulp*f(u[i])*f(u[i]))
		}
	}
}

// exp((x-top)*scale - shift) where x is far below top, is top, or is NaN.
func TestExpSumAtTheEdges(t *testing.T) {
	for _, isa := range kernel.Available() {
		tab := For(isa)
		for n := 1; n < 70; n++ {
			x, y := make([]float32, n), make([]float32, n)
			for i := range x {
				x[i] = -huge
			}
			// The score of q and k of 3e4, and 48 entries a head.
			const top, scale = 48 * 9e8, 0.14433756
			x[n-1] = top
			if got := tab.ExpSumBelow(y, x, top, scale, 0); got != 1 || y[n-1] != 1 || n > 1 && y[0] != 0 {
				t.Fatalf("%s: exponentials of %d entries, one at the top: sum %v, %v at the top, %v elsewhere", isa, n, got, y[n-1], y[0])
			}
			x[n-1] = nan
			if got := tab.ExpSumBelow(y, x, top, scale, 0); !isNaN(got) || !isNaN(y[n-1]) {
				t.Fatalf("%s: exponentials of %d entries, one NaN: sum %v", isa, n, got)
			}
		}
	}
}

// The largest entry passes over NaN, wherever it stands, on every instruction
// set: the sums that follow carry it.
func TestMaxAndNaN(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	for _, isa := range kernel.Available() {
		tab := For(isa)
		for n := 1; n < 150; n++ {
			x := make([]float32, n)
			for i := range x {
				x[i] = float32(rng.NormFloat64())
			}
			at, want := rng.IntN(n), -inf
			for i, v := range x {
				if i != at {
					want = max(want, v)
				}
			}
			x[at] = nan
			if got := tab.Max(x); got != want {
				t.Fatalf("%s: the largest of %d entries, NaN at %d, is %v, want %v", isa, n, at, got, want)
			}
			for i := range x {
				x[i] = nan
			}
			if got := tab.Max(x); got != -inf {
				t.Fatalf("%s: the largest of %d NaN is %v", isa, n, got)
			}
		}
	}
}
