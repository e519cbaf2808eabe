// Package initial gives a model its first weights: the Gaussian draws of the
// reference, and the second stage of the structured layers, which their kind
// names. Everything is a function of the seed and of the parameter's name, for
// any number of threads.
package initial

import (
	"hash/fnv"
	"math"
	"math/rand/v2"
	"strings"

	"gonum.org/v1/gonum/floats"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model"
	rt "github.com/structuredffn/sffn/runtime"
)

// Deviation is the standard deviation of the draw of a weight with the given
// length of its last axis.
type Deviation func(lastAxis int) float64

// Fixed draws every weight with the same deviation.
func Fixed(std float64) Deviation { return func(int) float64 { return std } }

// FanIn draws with lastAxis^-0.5, the reference's "xavier".
func FanIn(lastAxis int) float64 { return 1 / math.Sqrt(float64(lastAxis)) }

// draw returns the Gaussian of one parameter. Its stream depends on the seed
// and the name only.
func draw(seed uint64, name string, n int, std float64) []float64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	rng := rand.New(rand.NewPCG(seed, h.Sum64()))
	w := make([]float64, n)
	for i := range w {
		w[i] = std * rng.NormFloat64()
	}
	return w
}

// Linear draws the factors of one layer, in chain order, as its kind's initialiser
// says; closes tells that the layer closes a residual branch.
func Linear(l spec.Linear, name string, closes bool, dev Deviation, seed uint64) [][]float64 {
	second := l.Kind.Initialiser()
	if second == spec.SVD {
		dense := draw(seed, name, l.Out*l.In, dev(l.In))
		lr1, lr2, _ := LowRank(dense, l.Out, l.In, l.Rank)
		return [][]float64{lr1, lr2}
	}
	var ws [][]float64
	chain := l.Chain()
	for i, f := range chain {
		std := dev(f.In)
		if second == spec.Spectral {
			std = math.Sqrt(float64(min(f.In, f.Out))) / float64(f.In)
			if closes && i == len(chain)-1 {
				std = 0
			}
		}
		w := draw(seed, name+"."+f.Param, f.Weights(), std)
		if second == spec.Ortho {
			w = OrthoBlocks(w, f)
		}
		ws = append(ws, w)
	}
	return ws
}

// OrthoBlocks runs the ortho initialiser on each block of a factor's weight.
func OrthoBlocks(w []float64, f spec.Factor) []float64 {
	out := make([]float64, 0, len(w))
	for b := range f.Blocks {
		out = append(out, Ortho(w[b*f.Out*f.In:(b+1)*f.Out*f.In], f.Out, f.In)...)
	}
	return out
}

// Merged is the dense matrix [out, in] that the factors of a layer amount to:
// the first value of a guide.
func Merged(l spec.Linear, factors [][]float64) []float64 {
	return multiply(l, factors, func(f spec.Factor, row int) int { return f.Shuffled(row) })
}

// PublishedGuide is the first value of a guide in the paper's code: the
// product of the factors as matrices. It leaves out the shuffles, so that a guide
// of a chain that has them starts block diagonal.
func PublishedGuide(l spec.Linear, factors [][]float64) []float64 {
	return multiply(l, factors, func(_ spec.Factor, row int) int { return row })
}

// multiply is the product of the factors as matrices, row r of each moved to
// place(factor, r).
func multiply(l spec.Linear, factors [][]float64, place func(f spec.Factor, row int) int) []float64 {
	width := l.In
	var m []float64 // the product so far
	for i, f := range l.Chain() {
		next := make([]float64, f.Blocks*f.Out*width)
		for r := range f.Blocks * f.Out {
			dst := next[place(f, r)*width:][:width]
			first := r / f.Out * f.In // the block's first input
			for c, a := range factors[i][r*f.In : (r+1)*f.In] {
				if i == 0 {
					dst[first+c] = a
				} else {
					floats.AddScaled(dst, a, m[(first+c)*width:][:width])
				}
			}
		}
		m = next
	}
	return m
}

// Model fills the parameters of a model: linear and embedding weights normal
// with the spec's deviation, structured layers through their second stage,
// biases 0, norm weights 1; guides with guide, Merged or PublishedGuide, of
// their layer's factors.
func Model(p *model.Params, m spec.Model, seed uint64, guide func(spec.Linear, [][]float64) []float64, pool *rt.Pool) {
	dev := Fixed(m.InitStd)
	if m.InitFanIn {
		dev = FanIn
	}
	var units []func()
	structured := map[string]bool{}
	for i := range m.Layers {
		f := m.LayerFFN(i)
		if f.Kind == spec.Dense {
			continue
		}
		for _, l := range []struct {
			name   string
			spec   spec.Linear
			closes bool
		}{{"fc1", f.FC1(), false}, {"fc2", f.FC2(), true}} {
			name := model.LayerName(i) + ".mlp." + l.name
			for _, q := range l.spec.Chain() {
				structured[name+"."+q.Param] = true
			}
			units = append(units, func() {
				factors := Linear(l.spec, name, l.closes, dev, seed)
				for j, w := range factors {
					store(p.Get(name+"."+l.spec.Chain()[j].Param), w)
				}
				if l.spec.Guide {
					store(p.Get(name+"."+l.spec.GuideParam().Name), guide(l.spec, factors))
				}
			})
		}
	}
	for _, q := range p.List() {
		if structured[q.Name] {
			continue
		}
		units = append(units, func() {
			dst := p.Get(q.Name)
			switch {
			case strings.HasSuffix(q.Name, ".bias"):
				clear(dst)
			case len(q.Shape) == 1: // a norm
				for i := range dst {
					dst[i] = 1
				}
			case strings.HasPrefix(q.Name, "model.w"): // an embedding
				store(dst, draw(seed, q.Name, len(dst), m.InitStd))
			default:
				store(dst, draw(seed, q.Name, len(dst), dev(q.Shape[len(q.Shape)-1])))
			}
		})
	}
	pool.Run(len(units), func(_, i int) { units[i]() })
}

// Guide makes the guide of the layer of that prefix with guide, of its factors as they
// are.
func Guide(p *model.Params, prefix string, l spec.Linear, guide func(spec.Linear, [][]float64) []float64) {
	var factors [][]float64
	for _, f := range l.Chain() {
		factors = append(factors, float64s(p.Get(prefix+f.Param)))
	}
	store(p.Get(prefix+l.GuideParam().Name), guide(l, factors))
}

func float64s(x []float32) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = float64(v)
	}
	return y
}

func store(dst []float32, w []float64) {
	for i, x := range w {
		dst[i] = float32(x)
	}
}
