package model

import (
	"slices"
	"strings"

	"github.com/structuredffn/sffn/gen/spec"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/quant"
)

// Source fills dst with a parameter, in canonical order.
type Source func(dst []float32, q spec.Param) error

// Read is a [Source] of the parameters.
func (p *Params) Read(dst []float32, q spec.Param) error {
	copy(dst, p.Get(q.Name))
	return nil
}

// Load reads and packs a model to run: it holds its weights once, as packs for the
// kernels, and beside them the embeddings and norms. One layer's parameters are
// read at a time. Guides are left out; entries that are not finite are a
// *NotFiniteError.
func Load(m spec.Model, from Source, opt rt.Options) (*Model, error) {
	return LoadIntegers(m, from, func(spec.Param) (*quant.Matrix, error) { return nil, nil }, opt)
}

// Integers gives a parameter as integers, nil where it is none.
type Integers func(q spec.Param) (*quant.Matrix, error)

// LoadIntegers is Load of a model some of whose linears' weights are integers already.
func LoadIntegers(m spec.Model, from Source, integers Integers, opt rt.Options) (*Model, error) {
	m.Guided, opt.Train = false, false
	b, err := newBinder(m, opt)
	if err != nil {
		return nil, err
	}
	b.integers = integers
	if err := b.load(from); err != nil {
		b.t.Close()
		return nil, err
	}
	return b.t, nil
}

func (b *binder) load(from Source) (err error) {
	t, m := b.t, b.t.Spec
	if t.kept, err = read(m, some(m, keptUnpacked), from); err != nil {
		return err
	}
	for i := range m.Layers {
		// The linears are read into an arena of their own, and packed.
		prefix := LayerName(i) + "."
		p, err := b.read(some(m, func(name string) bool { return strings.HasPrefix(name, prefix) && ofLinear(name) }), from)
		if err != nil {
			return err
		}
		w, norms := p.layer(i), t.kept.layer(i)
		w.ln1, w.ln2, w.qnorm, w.knorm = norms.ln1, norms.ln2, norms.qnorm, norms.knorm
		if err = b.addLayer(w); err == nil {
			l := &t.layers[i]
			l.qkv.DropWeights()
			l.out.DropWeights()
			l.ffn.DropWeights()
		}
		p.Close()
		if err != nil {
			return err
		}
	}
	t.norm = b.norm(t.kept.final)
	p, err := b.read(some(m, func(name string) bool { return strings.HasPrefix(name, headName) }), from)
	if err != nil {
		return err
	}
	defer p.Close()
	weights := p.head
	if m.TieEmbeddings {
		weights = t.kept.head
		head, err := b.integers(spec.Param{Name: Embedding, Shape: []int{m.Vocab, m.Hidden}})
		if err != nil {
			return err
		}
		if head != nil {
			weights.Quantized = []*quant.Matrix{head}
		}
	}
	if err := b.addHead(weights); err != nil {
		return err
	}
	t.head.DropWeights()
	return nil
}

const headName = "lm_head."

// ofLinear says that a linear has the parameter, which packs it.
func ofLinear(name string) bool {
	return strings.Contains(name, "_linear.") || strings.Contains(name, ".mlp.")
}

// keptUnpacked says that a model to run reads the parameter where it is: an
// embedding, or a norm's.
func keptUnpacked(name string) bool { return !strings.HasPrefix(name, headName) && !ofLinear(name) }

// some lists the parameters that keep picks.
func some(m spec.Model, keep func(name string) bool) []spec.Param {
	return slices.DeleteFunc(m.Params(), func(q spec.Param) bool { return !keep(q.Name) })
}

// Embedding is the name of the token embedding's parameter, and of the head's where they
// are one.
const Embedding = "model.wte.weight"

// read reads some parameters, each as integers where it is there as such.
func (b *binder) read(list []spec.Param, from Source) (*Params, error) {
	found := map[string]*quant.Matrix{}
	var floats []spec.Param
	for _, q := range list {
		m, err := b.integers(q)
		if err != nil {
			return nil, err
		}
		if m == nil {
			floats = append(floats, q)
		} else {
			found[q.Name] = m
		}
	}
	p, err := read(b.t.Spec, floats, from)
	if err == nil && len(found) > 0 {
		p.integers = found
		p.head.Quantized = []*quant.Matrix{found["lm_head.weight"]}
	}
	return p, err
}

// read reads some parameters.
func read(m spec.Model, list []spec.Param, from Source) (*Params, error) {
	p := newParams(m, nil, list)
	for _, q := range list {
		x := p.Get(q.Name)
		err := from(x, q)
		if err == nil {
			err = finite(q.Name, x)
		}
		if err != nil {
			p.Close()
			return nil, err
		}
	}
	return p, nil
}

// WithNetwork reads the weights of layer i's feed-forward network, for as long as
// f runs.
func WithNetwork(m spec.Model, i int, from Source, f func(rt.FFNWeights) error) error {
	prefix := LayerName(i) + ".mlp."
	p, err := read(m, some(m, func(name string) bool { return strings.HasPrefix(name, prefix) }), from)
	if err != nil {
		return err
	}
	defer p.Close()
	return f(p.layer(i).ffn)
}
