package runtime

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/quant"
)

// integerNets are networks of every kind with factors that become integers, and some that
// do not.
var integerNets = []spec.FFN{
	{Kind: spec.Dense, Hidden: 100, FFN: 272, Act: spec.GELU, Bias: true},
	{Kind: spec.LowRank, Hidden: 128, FFN: 320, Rank: 72, Act: spec.SwiGLU},
	{Kind: spec.BlockDense, Hidden: 192, FFN: 384, Rank: 160, Blocks: 2, Act: spec.GELU, Bias: true},
	{Kind: spec.BlockShuffle, Hidden: 192, FFN: 512, Blocks: 2, Act: spec.SwiGLU, Bias: true},
	{Kind: spec.BlockShuffle, Hidden: 260, FFN: 516, Blocks: 4, Act: spec.GELU},
}

func drawFFN(r *rand.Rand, f spec.FFN) FFNWeights {
	of := func(l spec.Linear) (w Weights) {
		for _, c := range l.Chain() {
			x := make([]float32, c.Weights())
			for i := range x {
				x[i] = float32(r.NormFloat64() / math.Sqrt(float64(c.In)))
			}
			w.Factors = append(w.Factors, x)
		}
		if l.Bias {
			w.Bias = make([]float32, l.Out)
			for i := range w.Bias {
				w.Bias[i] = float32(r.NormFloat64())
			}
		}
		return w
	}
	return FFNWeights{FC1: of(f.FC1()), FC2: of(f.FC2())}
}

// quantized are the factors of a layer as integers, with inputs that are scaled, and what
// these stand for as float32.
func quantized(r *rand.Rand, l plan.Layer, w Weights) (with, plain Weights) {
	with, plain = w, w
	with.Factors, plain.Factors = slices.Clone(w.Factors), slices.Clone(w.Factors)
	with.Quantized = make([]*quant.Matrix, len(l.Factors))
	for i := range l.Factors {
		f := &l.Factors[i]
		if !f.Format.Quantized() {
			continue
		}
		c := f.Factor
		m := quant.New(f.Format, c.Blocks, c.Out, c.In)
		for k := range m.Inputs {
			m.Inputs[k] = float32(math.Exp(r.NormFloat64() / 2))
		}
		x, row := make([]float32, c.Weights()), make([]float32, c.In)
		for n := range c.Blocks * c.Out {
			order := f.Orders()[n/c.Out]
			m.SetRow(n, quant.Ordered(w.Factors[i][n*c.In:(n+1)*c.In], order), nil)
			m.Weights(row, n)
			for k, at := range order {
				x[n*c.In+at] = row[k]
			}
		}
		with.Factors[i], with.Quantized[i], plain.Factors[i] = nil, m, x
	}
	return with, plain
}

// A network of integers computes what its integers stand for, but for the rounding of
// activations; the same bits on every instruction set and number of threads, and for a row
// whatever the rows beside it; and from float32 what its nearest integers do.
func TestIntegerFFN(t *testing.T) {
	const rows = 61
	pools := []*Pool{NewPool(1), NewPool(3)}
	defer pools[0].Close()
	defer pools[1].Close()
	for _, format := range []kernel.FormatName{kernel.Int8, kernel.Int4} {
		for n, f := range integerNets {
			t.Run(fmt.Sprintf("%s/%s", format, f.Name()), func(t *testing.T) {
				r := rand.New(rand.NewPCG(uint64(n), 1))
				w := drawFFN(r, f)
				p := plan.NewFFNIn(f, format)
				var q, plain FFNWeights
				q.FC1, plain.FC1 = quantized(r, p.FC1, w.FC1)
				q.FC2, plain.FC2 = quantized(r, p.FC2, w.FC2)
				x, res := make([]float32, rows*f.Hidden), make([]float32, rows*f.Hidden)
				for i := range x {
					x[i], res[i] = float32(r.NormFloat64()), float32(r.NormFloat64())
				}
				run := func(w FFNWeights, opt Options, m int, x, res []float32) []float32 {
					net, err := NewFFN(f, w, opt)
					if err != nil {
						t.Fatal(err)
					}
					defer net.Close()
					net.DropWeights()
					ws := net.NewWorkspace()
					defer ws.Close()
					y := slices.Clone(res)
					net.Forward(y, x, y, m, nil, ws)
					return y
				}
				want := run(plain, Options{Pool: pools[0]}, rows, x, res)
				var first []float32
				for _, isa := range kernel.Available() {
					for _, pool := range pools {
						if isa == kernel.Portable && pool != pools[0] {
							continue
						}
						y := run(q, Options{Pool: pool, ISA: isa, Format: format}, rows, x, res)
						if first == nil {
							first = y
							var lost, all float64
							for i, v := range want {
								d, s := float64(y[i]-v), float64(v-res[i])
								lost, all = lost+d*d, all+s*s
							}
							// Four products, each of activations rounded to 1/127 of the
							// largest: an error of some hundredths of their size, more of
							// those that are scaled.
							if e := math.Sqrt(lost / all); !(e < 0.06) {
								t.Errorf("%s: error %.4f of the outputs", isa, e)
							}
							continue
						}
						if isa == kernel.Portable {
							continue // its activations are Go's
						}
						if !slices.Equal(y, first) {
							t.Errorf("%s, %d threads: other bits", isa, pool.Threads())
						}
					}
				}
				opt := Options{Pool: pools[0], Format: format}
				for _, m := range []int{1, 2, 5, 12, 13, 27} {
					h := m * f.Hidden
					if y := run(q, opt, m, x[:h], res[:h]); !slices.Equal(y, first[:h]) {
						t.Errorf("%d rows have other bits than in %d", m, rows)
					}
				}
				// Nearest integers, made here or by the layer.
				ones := func(l plan.Layer, w Weights) Weights {
					q := w
					q.Quantized = make([]*quant.Matrix, len(l.Factors))
					for i := range l.Factors {
						f := &l.Factors[i]
						if !f.Format.Quantized() {
							continue
						}
						q.Quantized[i] = quant.New(f.Format, f.Factor.Blocks, f.Factor.Out, f.Factor.In)
						for n := range f.Factor.Blocks * f.Factor.Out {
							q.Quantized[i].SetRow(n, quant.Ordered(w.Factors[i][n*f.Factor.In:(n+1)*f.Factor.In], f.Orders()[n/f.Factor.Out]), nil)
						}
					}
					return q
				}
				if a, b := run(w, opt, rows, x, res), run(FFNWeights{ones(p.FC1, w.FC1), ones(p.FC2, w.FC2)}, opt, rows, x, res); !slices.Equal(a, b) {
					t.Error("a layer makes other integers than the nearest")
				}
			})
		}
	}
}

// A layer that is made like another one has inputs of its own.
func TestIntegersWith(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	l := spec.Linear{Kind: spec.Dense, In: 96, Out: 64}
	draw := func(n int, size float64) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(math.Exp(size*r.NormFloat64())) * float32(1-2*r.IntN(2))
		}
		return x
	}
	of := func() Weights {
		w := Weights{Factors: [][]float32{draw(96*64, 1)}, Inputs: draw(96, 1)}
		for i, v := range w.Inputs {
			w.Inputs[i] = max(v, -v)
		}
		return w
	}
	x := draw(96, 1)
	forward := func(l *Linear) []float32 {
		y, ws := make([]float32, 64), l.NewWorkspace()
		defer ws.Close()
		l.Forward(y, x, nil, 1, nil, ws)
		return y
	}
	first, err := NewLinear(l, of(), Options{Format: kernel.Int8})
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	before := forward(first)
	second, err := first.With(of())
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if slices.Equal(forward(second), before) || !slices.Equal(forward(first), before) {
		t.Error("the second layer changes the first")
	}
}

// What no layer of integers can be is refused.
func TestIntegersRefused(t *testing.T) {
	l := spec.Linear{Kind: spec.Dense, In: 96, Out: 64}
	w := Weights{Factors: [][]float32{make([]float32, 96*64)}}
	if _, err := NewLinear(l, w, Options{Format: kernel.Int8, Train: true}); err == nil {
		t.Error("a layer of integers trains")
	}
	w.Quantized = []*quant.Matrix{quant.New(kernel.Int8, 1, 96, 64)}
	if _, err := NewLinear(l, w, Options{Format: kernel.Int8}); err == nil {
		t.Error("a matrix of another shape is taken")
	}
	w.Quantized[0] = quant.New(kernel.Int4, 1, 64, 96)
	if _, err := NewLinear(l, w, Options{Format: kernel.Int8}); err == nil {
		t.Error("a matrix of another format is taken")
	}
	w.Quantized[0].Values[5] = 9
	if _, err := NewLinear(l, w, Options{Format: kernel.Int4}); err == nil {
		t.Error("an int4 of 9 is taken")
	}
}
