package quant

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/runtime/kernel"
)

const in = 768

// distributions are those of weights that formats are judged by.
var distributions = []struct {
	name string
	draw func(r *rand.Rand, w []float32)
	// int8 and int4 are the relative errors, in the root of mean squares.
	int8, int4 float64
}{
	{"gaussian", gaussian, 0.0074, 0.0795},
	{"student t of 4", student, 0.0166, 0.110},
	{"8 of 768 inputs x10", func(r *rand.Rand, w []float32) {
		gaussian(r, w)
		for i := range 8 {
			w[i*96+5] *= 10
		}
	}, 0.029, 0.146},
	{"4 weights a row at 30 sigma", func(r *rand.Rand, w []float32) {
		gaussian(r, w)
		for range 4 {
			w[r.IntN(len(w))] = 30 * float32(1-2*r.IntN(2))
		}
	}, 0.029, 0.1515},
}

func gaussian(r *rand.Rand, w []float32) {
	for i := range w {
		w[i] = float32(r.NormFloat64())
	}
}

func student(r *rand.Rand, w []float32) {
	for i := range w {
		sum := 0.0
		for range 4 {
			x := r.NormFloat64()
			sum += x * x
		}
		w[i] = float32(r.NormFloat64() / math.Sqrt(sum/4))
	}
}

// relative is the error of what SetRow makes of rows.
func relative(f kernel.FormatName, draw func(*rand.Rand, []float32)) float64 {
	const rows = 256
	r := rand.New(rand.NewPCG(7, 1))
	m := New(f, 1, rows, in)
	var lost, all float64
	w, got := make([]float32, in), make([]float32, in)
	for i := range rows {
		draw(r, w)
		m.SetRow(i, w, nil)
		m.Weights(got, i)
		for k := range w {
			d := float64(got[k]) - float64(w[k])
			lost += d * d
			all += float64(w[k]) * float64(w[k])
		}
	}
	if err := m.Check(); err != nil {
		panic(err)
	}
	return math.Sqrt(lost / all)
}

// The errors are those that these formats were measured to have, elsewhere and before.
func TestErrors(t *testing.T) {
	for _, d := range distributions {
		for f, want := range map[kernel.FormatName]float64{kernel.Int8: d.int8, kernel.Int4: d.int4} {
			// The measured ones have two to three digits; of a heavy tail, how large the
			// largest of a row is depends on the draw.
			most := 1.03
			if d.name == "student t of 4" && f == kernel.Int8 {
				most = 1.15
			}
			if got := relative(f, d.draw); got < 0.95*want || got > most*want {
				t.Errorf("%s, %s: error %.4f, want %.4f", d.name, f, got, want)
			} else {
				t.Logf("%s, %s: error %.4f, measured %.4f", d.name, f, got, want)
			}
		}
	}
}

// No scale nearby of a group is better than the one that is chosen by more than the
// steps in which they are tried, and weights of errors are heeded.
func TestScale4(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	lost := func(x, by []float64, s float32) (sum float64) {
		for i, v := range x {
			d := v - float64(Nearest(kernel.Int4, v, s))*float64(s)
			sum += by[i] * d * d
		}
		return sum
	}
	var chosen, best, plain float64
	for range 150 {
		x, by, ones := make([]float64, kernel.QuantGroup), make([]float64, kernel.QuantGroup), make([]float64, kernel.QuantGroup)
		for i := range x {
			x[i], by[i], ones[i] = r.NormFloat64(), math.Exp(2*r.NormFloat64()), 1
		}
		s := Scale4(x, by)
		chosen += lost(x, by, s)
		plain += lost(x, by, Scale4(x, ones))
		least := math.Inf(1)
		for n := 1; n < 800; n++ {
			for _, s := range []float32{float32(n) * 0.00125, -float32(n) * 0.00125} {
				least = min(least, lost(x, by, s))
			}
		}
		best += least
	}
	if chosen > 1.15*best {
		t.Errorf("weighted squares %.3f, the best are %.3f", chosen, best)
	}
	if chosen > 0.93*plain {
		t.Errorf("weighted squares %.3f, without weights %.3f", chosen, plain)
	}
}

// What is planted into channels of the inputs, and taken from their weights, is
// equalized to the same matrix and the same inputs.
func TestEqualize(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	a, w := make([]float32, in), make([]float32, in)
	for k := range a {
		a[k], w[k] = float32(math.Exp(r.NormFloat64()/4)), float32(math.Exp(r.NormFloat64()/4))
	}
	a[9] = 0
	plain, planted := make([]float32, in), make([]float32, in)
	Equalize(plain, a, w)
	for _, k := range []int{3, 77, 500} {
		a[k] *= 64
		w[k] /= 64
	}
	Equalize(planted, a, w)
	for k := range plain {
		factor := float32(1)
		if k == 9 {
			continue
		}
		if k == 3 || k == 77 || k == 500 {
			factor = 64
		}
		// All alike may be scaled by a little more or less.
		if d := planted[k] * factor / plain[k] / (planted[0] / plain[0]); math.Abs(float64(d)-1) > 1e-6 {
			t.Errorf("input %d is scaled by %v, planted by %v", k, plain[k], planted[k])
		}
	}
	if d := planted[0] / plain[0]; d < 0.99 || d > 1.01 {
		t.Errorf("all inputs are scaled by %v", d)
	}
	if plain[9] != 1 {
		t.Errorf("an input of nothing is scaled by %v", plain[9])
	}
}

// Rows of nothing, of subnormal numbers and of the largest ones have finite scales.
func TestExtremes(t *testing.T) {
	for _, f := range []kernel.FormatName{kernel.Int8, kernel.Int4} {
		for _, v := range []float32{0, math.SmallestNonzeroFloat32, 1e-38, -math.MaxFloat32 / 2, math.MaxFloat32 / 2} {
			m := New(f, 1, 2, 70)
			w := make([]float32, 70)
			for k := range w {
				w[k] = v
			}
			m.SetRow(1, w, nil)
			if err := m.Check(); err != nil {
				t.Errorf("%s of %v: %v", f, v, err)
			}
			got := make([]float32, 70)
			m.Weights(got, 1)
			if d := math.Abs(float64(got[69])/float64(v) - 1); math.Abs(float64(v)) > 1 && d > 0.01 {
				t.Errorf("%s of %v: %v", f, v, got[69])
			}
		}
	}
}

func TestCheck(t *testing.T) {
	for want, spoil := range map[string]func(m *Matrix){
		"integer 3":     func(m *Matrix) { m.Values[3] = 8 },
		"scale 1":       func(m *Matrix) { m.Scales[1] = float32(math.NaN()) },
		"of bfloat16":   func(m *Matrix) { m.Scales[0] = 1.001 },
		"input 0":       func(m *Matrix) { m.Inputs[0] = 0 },
		"no int4 matri": func(m *Matrix) { m.Scales = m.Scales[1:] },
		"no format":     func(m *Matrix) { m.Format = kernel.F32 },
	} {
		m := New(kernel.Int4, 2, 3, 40)
		spoil(m)
		if err := m.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}
