package model

import (
	"fmt"
	"slices"

	"github.com/structuredffn/sffn/gen/spec"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/quant"
)

// Params is one arena with a value for each parameter of a model: the weights
// themselves, their gradients, or a moment of the optimizer. Every parameter
// lies in canonical row-major order, the checkpoint's.
type Params struct {
	// Data is the whole arena. Guides come first, so that it is easy to go on
	// without them. Parameters lie in reverse order of the reference's list, so that what the backward pass finishes first comes
	// first, each on a cache line; the gaps are always 0.
	Data   []float32
	spec   spec.Model
	ranges map[string]Range
	// The parameters as the model's parts take them.
	layers   []layerWeights
	final    normWeights // ln_f
	head     rt.Weights
	wte, wpe []float32
	// guides are where each guide lies, in the order of Guides; rest is where
	// everything else begins.
	guides []Range
	rest   int
	arena  rt.Arena
	// integers are parameters that are integers, by name.
	integers map[string]*quant.Matrix
}

// Range is a stretch of the arena: entries [Lo, Hi).
type Range struct{ Lo, Hi int }

// align is the boundary of parameters, in entries: a cache line.
const align = 16

// NewParams returns zeroed values for each parameter of the model.
func NewParams(m spec.Model) *Params {
	p := newParams(m, m.Guides(), m.Params())
	for i := range m.Layers {
		p.layers = append(p.layers, p.layer(i))
	}
	return p
}

// newParams returns zeroed values for some parameters of the model: for the others,
// Get returns nil.
func newParams(m spec.Model, guides, list []spec.Param) *Params {
	p := &Params{spec: m, ranges: map[string]Range{}}
	total := 0
	for _, q := range slices.Concat(guides, list) {
		total += roundUp(q.Size())
	}
	p.Data = p.arena.Floats(total)
	at := 0
	add := func(q spec.Param) {
		p.ranges[q.Name] = Range{at, at + q.Size()}
		at += roundUp(q.Size())
	}
	for _, q := range guides {
		p.guides = append(p.guides, Range{at, at + roundUp(q.Size())})
		add(q)
	}
	p.rest = at
	for _, q := range slices.Backward(list) {
		add(q)
	}
	p.wte, p.wpe, p.final = p.Get("model.wte.weight"), p.Get("model.wpe.weight"), p.norm("model.ln_f")
	p.head = rt.Weights{Factors: [][]float32{p.Get("lm_head.weight")}}
	if m.TieEmbeddings {
		p.head.Factors[0] = p.wte
	}
	return p
}

// layerWeights are the parameters of one layer.
type layerWeights struct {
	ln1, ln2 normWeights
	// Of models with norms of queries and keys.
	qnorm, knorm normWeights
	qkv, out     rt.Weights
	ffn          rt.FFNWeights
}

// normWeights are the parameters of a norm; b is nil where it has none.
type normWeights struct{ w, b []float32 }

func (p *Params) norm(name string) normWeights {
	return normWeights{p.Get(name + ".weight"), p.Get(name + ".bias")}
}

// layer collects the parameters of layer i.
func (p *Params) layer(i int) layerWeights {
	m, f, name := p.spec, p.spec.LayerFFN(i), LayerName(i)
	return layerWeights{
		ln1: p.norm(name + ".ln1"), ln2: p.norm(name + ".ln2"), qnorm: p.norm(name + ".q_norm"), knorm: p.norm(name + ".k_norm"),
		qkv: p.linear(name+".qkv_linear", m.QKV()), out: p.linear(name+".o_linear", m.Output()),
		ffn: rt.FFNWeights{FC1: p.linear(name+".mlp.fc1", f.FC1()), FC2: p.linear(name+".mlp.fc2", f.FC2())},
	}
}

// WithoutGuides is a copy that leaves out the guides.
func (p *Params) WithoutGuides() *Params {
	m := p.spec
	m.Guided = false
	q := NewParams(m)
	copy(q.Data, p.Data[p.rest:])
	return q
}

// Spec is the model that the parameters belong to.
func (p *Params) Spec() spec.Model { return p.spec }

// Ranges lists where the guides lie, in the order of Guides, and everything
// else.
func (p *Params) Ranges() (guides []Range, rest Range) {
	return p.guides, Range{p.rest, len(p.Data)}
}

func roundUp(n int) int { return (n + align - 1) &^ (align - 1) }

// Close frees the arena.
func (p *Params) Close() { p.arena.Close() }

// List names the parameters with their shapes, in the reference's order;
// guides are not among them.
func (p *Params) List() []spec.Param { return p.spec.Params() }

// Guides names the guides, fc1's before fc2's of each layer.
func (p *Params) Guides() []spec.Param { return p.spec.Guides() }

// Get returns the parameter of that name, nil where the model has none.
func (p *Params) Get(name string) []float32 {
	if s, ok := p.ranges[name]; ok {
		return p.Data[s.Lo:s.Hi:s.Hi]
	}
	return nil
}

// Range is where the parameter of that name lies in Data.
func (p *Params) Range(name string) Range { return p.ranges[name] }

// linear collects the weights of a linear layer.
func (p *Params) linear(name string, l spec.Linear) rt.Weights {
	var w rt.Weights
	for _, f := range l.Chain() {
		w.Factors = append(w.Factors, p.Get(name+"."+f.Param))
		if p.integers != nil {
			w.Quantized = append(w.Quantized, p.integers[name+"."+f.Param])
		}
	}
	if l.Bias {
		w.Bias = p.Get(name + ".bias")
	}
	if l.Guide {
		w.Guide = p.Get(name + "." + l.GuideParam().Name)
	}
	return w
}

// LayerName is the prefix of the parameters of layer i, counted from 0.
func LayerName(i int) string { return fmt.Sprintf("model.layers.%d", i) }
