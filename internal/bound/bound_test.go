package bound

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
)

// FMA rounds once, also where the exact sum lies next to the middle between
// two float32.
func TestFMA(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	middles := 0
	for range 100_000 {
		a, b := float32(r.NormFloat64()), float32(r.NormFloat64())
		c := float32(math.Ldexp(r.NormFloat64(), r.IntN(80)-40))
		if r.IntN(2) == 0 { // half an ulp, and a little that float64 loses
			c = float32(math.Ldexp(float64(1+2*r.IntN(1<<22)), 40))
			a, b = float32(math.Ldexp(1+0x1p-23, 20)), float32(math.Ldexp(1, 19))
			if r.IntN(2) == 0 {
				c = -c
			}
			middles++
		}
		exact := new(big.Float).SetPrec(500).Mul(big.NewFloat(float64(a)), big.NewFloat(float64(b)))
		exact.Add(exact, big.NewFloat(float64(c)))
		want, _ := exact.Float32()
		if got := FMA(a, b, c); got != want {
			t.Fatalf("%v*%v + %v = %v, want %v", a, b, c, got, want)
		}
	}
	if middles == 0 {
		t.Fatal("no hard case was drawn")
	}
}

// Float32 arithmetic stays within the bounds, and the bounds within a few of
// its roundings.
func TestBounds(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	for range 20_000 {
		var x [64]float32
		for i := range x {
			x[i] = float32(r.NormFloat64())
		}
		var c Chain
		chain, sum := float32(0), float32(0)
		var terms []Num
		for i := range len(x) / 2 {
			chain = FMA(x[i], x[i+32], chain)
			c.Add(float64(x[i]), Of(x[i+32]))
		}
		for i := range x {
			sum += x[len(x)-1-i]
			terms = append(terms, Of(x[i]))
		}
		a, b, d := x[0], x[1], x[2]*x[2]
		for _, v := range []struct {
			name string
			num  Num
			got  float32
			ulps float64 // of magnitude
			size float64
		}{
			{"chain", c.Num(), chain, 64, 8},
			{"sum", Sum(terms...), sum, 40, 64},
			{"product and sum", Of(a).Mul(Of(b)).Add(Of(d)), float32(a*b) + d, 2, 20},
			{"quotient", Of(a).Div(Of(b)), a / b, 1, math.Abs(float64(a / b))},
			{"root", Of(d).Add(Of(d)).Sqrt(), float32(math.Sqrt(float64(d + d))), 2, 6},
			{"difference", Of(a).Sub(Of(b)), a - b, 1, 10},
		} {
			if !v.num.Holds(v.got) {
				t.Fatalf("%s: %v is not within %v of %v", v.name, v.got, v.num.E, v.num.V)
			}
			if v.num.E > v.ulps*0x1p-23*v.size+1e-40 {
				t.Fatalf("%s: a bound of %v for %v", v.name, v.num.E, v.num.V)
			}
		}
	}
	for _, x := range []float32{-200, -80, -3, -0.1, 0, 0.1, 3, 80, 200} {
		y, dy := Of(x).GELU()
		z, dz := Of(x).SiLU()
		g, dg := Of(x).GELUErf()
		if g.E > 16*0x1p-24*math.Abs(g.V)+1e-44 {
			t.Errorf("gelu_erf of %v: a bound of %v for %v", x, g.E, g.V)
		}
		for _, n := range []Num{y, dy, z, dz, g, dg} {
			if math.IsNaN(n.V) || n.E > 16*0x1p-23*max(1, math.Abs(float64(x))) {
				t.Errorf("activation of %v: %v", x, n)
			}
		}
	}
}
