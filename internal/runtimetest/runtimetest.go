// Package runtimetest has what the tests of the runtime's packages share: numbers and
// their comparison, the targets of the machine, schedules at random, and eyes on the
// calls of kernels.
package runtimetest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/pool"
)

// Reporter is what tests and their property checks have in common.
type Reporter interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// Wide is x in float64.
func Wide(x []float32) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = float64(v)
	}
	return y
}

// Random draws n normal entries.
func Random(r *rand.Rand, n int, scale float64) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64() * scale)
	}
	return x
}

// Positive draws n entries, 0.5 to 1.5 times the scale. No sum of their products
// cancels, so that each is right to within one rounding a term, and a wrong, missing
// or misplaced term shows in it.
func Positive(r *rand.Rand, n int, scale float32) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = (0.5 + r.Float32()) * scale
	}
	return x
}

// Poisoned is n entries that are NaN until somebody writes them.
func Poisoned(n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(math.NaN())
	}
	return x
}

// Near compares with a bound on each entry: eps of float32 times a few, times
// the magnitude that the sums reach.
func Near(t Reporter, what string, got []float32, want []float64, tol float64) {
	t.Helper()
	scale := 0.0
	for _, v := range want {
		scale = max(scale, math.Abs(v))
	}
	for i, v := range want {
		if !(math.Abs(float64(got[i])-v) <= tol*scale) {
			t.Fatalf("%s[%d] = %v, want %v (largest %v)", what, i, got[i], v, scale)
		}
	}
}

// Tolerance bounds the relative error of chains of sums over depth products:
// random errors grow with the root of the depth; 16 is for two factors and
// the tails of many trials.
func Tolerance(depth int) float64 { return 16 * math.Sqrt(float64(depth)) * 0x1p-24 }

// NearEach compares each entry with a bound of its own, relative to what is wanted.
func NearEach(t Reporter, what string, got []float32, want []float64, tol float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s has %d entries, want %d", what, len(got), len(want))
	}
	for i, v := range want {
		if !(math.Abs(float64(got[i])-v) <= tol*v) {
			t.Fatalf("%s[%d] = %v, want %v", what, i, got[i], v)
		}
	}
}

// SameBits compares NaN with NaN, too.
func SameBits(t Reporter, what string, got, want []float32) {
	t.Helper()
	for i := range want {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			t.Fatalf("%s: [%d] = %v, want %v", what, i, got[i], want[i])
		}
	}
}

// MustPanic runs f and demands a panic that says all of want.
func MustPanic(t Reporter, what string, f func(), want ...string) {
	t.Helper()
	defer func() {
		t.Helper()
		v := recover()
		if v == nil {
			t.Errorf("%s: no panic", what)
			return
		}
		for _, w := range want {
			if !strings.Contains(fmt.Sprint(v), w) {
				t.Errorf("%s: panic %q, want it to say %q", what, v, w)
			}
		}
	}()
	f()
}

// Targets lists the targets that this machine can run.
func Targets() []kernel.Target {
	return slices.DeleteFunc(kernel.Targets(), func(t kernel.Target) bool { return !slices.Contains(kernel.Available(), t.ISA) })
}

// pools are shared by the tests of a package.
var pools = map[int]*pool.Pool{}

// PoolOf is the pool of so many threads.
func PoolOf(threads int) *pool.Pool {
	if pools[threads] == nil {
		pools[threads] = pool.New(threads)
	}
	return pools[threads]
}

// NewPool is a pool that ends with the test.
func NewPool(t testing.TB, threads int) *pool.Pool {
	t.Helper()
	p := pool.New(threads)
	t.Cleanup(p.Close)
	return p
}
