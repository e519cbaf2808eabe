// Package model is the transformer: pre-norm, causal, with structured
// feed-forward layers; its parameters, its forward pass, its loss, and a backward
// pass written by hand. It uses nothing of the runtime that another trainer could
// not use. Package decode continues texts with it.
package model

import (
	"fmt"
	"math"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/spec"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/vec"
)

// Model is a transformer bound to its parameters, or to packs of them alone.
type Model struct {
	Spec spec.Model
	// Params are nil of a model that was loaded to run: its packs are its weights.
	Params *Params
	// kept are the parameters that the model reads where they are, embeddings and
	// norms among them.
	kept   *Params
	opt    rt.Options
	vec    *vec.Table
	layers []layer
	norm   norm
	head   *rt.Linear
	// cos and sin are the rotary angles, [position, head size/2].
	cos, sin []float32
	prof     *Profile
}

type layer struct {
	ln1, ln2 norm
	// qnorm and knorm are those of the heads, of models that have them.
	qnorm, knorm norm
	qkv, out     *rt.Linear
	attn         *rt.Attention
	ffn          *rt.FFN
}

// New binds parameters to the layers of a valid spec and packs them.
func New(m spec.Model, p *Params, opt rt.Options) (*Model, error) {
	b, err := newBinder(m, opt)
	if err != nil {
		return nil, err
	}
	for i := range m.Layers {
		if err := b.addLayer(p.layers[i]); err != nil {
			return nil, err
		}
	}
	t := b.t
	t.Params, t.kept = p, p
	t.norm = b.norm(p.final)
	return t, b.addHead(p.head)
}

// binder makes a model layer by layer.
type binder struct {
	t *Model
	// The first layers of each shape, with which others share what depends on the
	// shape alone.
	linears map[spec.Linear]*rt.Linear
	ffns    map[spec.FFN]*rt.FFN
	zero    []float32
	// integers gives those of a model that is loaded.
	integers Integers
}

func newBinder(m spec.Model, opt rt.Options) (*binder, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	if opt.ISA == "" {
		isa, err := kernel.Default()
		if err != nil {
			return nil, err
		}
		opt.ISA = isa
	}
	if opt.Pool == nil {
		return nil, fmt.Errorf("model: Options.Pool is missing")
	}
	t := &Model{Spec: m, opt: opt, vec: vec.For(opt.ISA), prof: &Profile{}}
	if m.Position == spec.RoPE {
		t.cos, t.sin = Angles(m)
	}
	return &binder{t, map[spec.Linear]*rt.Linear{}, map[spec.FFN]*rt.FFN{}, make([]float32, max(m.Hidden, m.HeadDim())), nil}, nil
}

func (b *binder) norm(w normWeights) norm {
	return norm{normWeights: w, rms: b.t.Spec.Norm == spec.RMSNorm, h: b.t.Spec.Hidden, eps: b.t.Spec.NormEps, zero: b.zero}
}

// headNorm is a norm of the heads of queries or of keys.
func (b *binder) headNorm(w normWeights) norm {
	return norm{normWeights: w, rms: true, h: b.t.Spec.HeadDim(), eps: b.t.Spec.NormEps, zero: b.zero}
}

// addLayer binds the weights of the next layer.
func (b *binder) addLayer(w layerWeights) (err error) {
	t, m, i := b.t, b.t.Spec, len(b.t.layers)
	if t.opt.Format.Quantized() {
		w.qkv.Inputs, w.ffn.FC1.Inputs = w.ln1.sizes(), w.ln2.sizes()
	}
	l := layer{ln1: b.norm(w.ln1), ln2: b.norm(w.ln2), qnorm: b.headNorm(w.qnorm), knorm: b.headNorm(w.knorm)}
	if l.qkv, err = alike(b.linears, m.QKV(), w.qkv, t.opt, rt.NewLinear); err != nil {
		return err
	}
	if l.out, err = alike(b.linears, m.Output(), w.out, t.opt, rt.NewLinear); err != nil {
		return err
	}
	scale := 1 / math.Sqrt(float64(m.HeadDim()))
	if m.ScaleAttnByLayer {
		scale /= float64(i + 1)
	}
	if l.attn, err = rt.NewAttention(rt.AttentionSpec{QHeads: m.QHeads, KVHeads: m.KVHeads, HeadDim: m.HeadDim(), Window: m.LayerWindow(i), Scale: float32(scale)}, t.opt); err != nil {
		return err
	}
	if l.ffn, err = alike(b.ffns, m.LayerFFN(i), w.ffn, t.opt, rt.NewFFN); err != nil {
		return err
	}
	t.layers = append(t.layers, l)
	return nil
}

// addHead binds the head, whose errors are the logits' own: with int4 it is int8.
func (b *binder) addHead(w rt.Weights) (err error) {
	opt := b.t.opt
	if opt.Format.Quantized() {
		opt.Format, w.Inputs = plan.HeadFormat(opt.Format), b.t.norm.sizes()
	}
	b.t.head, err = rt.NewLinear(b.t.Spec.Head(), w, opt)
	return err
}

func (w normWeights) sizes() []float32 { return NormSizes(w.w, w.b) }

// NormSizes are about how large the entries are that a norm gives: it makes them one, times
// the gain, and adds the bias, which may be nil.
func NormSizes(gain, bias []float32) []float32 {
	s := make([]float32, len(gain))
	for i, g := range gain {
		s[i] = float32(math.Abs(float64(g)))
		if bias != nil {
			s[i] = float32(math.Hypot(float64(g), float64(bias[i])))
		}
	}
	return s
}

// alike binds weights to a layer like the one of the same spec that was made
// before, or to a new one.
func alike[S comparable, W any, L interface{ With(W) (L, error) }](made map[S]L, s S, w W, opt rt.Options, first func(S, W, rt.Options) (L, error)) (L, error) {
	if l, ok := made[s]; ok {
		return l.With(w)
	}
	l, err := first(s, w, opt)
	made[s] = l
	return l, err
}

// Angles are the cosines and sines of a model's rotary angles, [position, head
// size/2]: position times frequency, in float64, times the rotary factor, and rounded at
// the end. (transformers
// rounds the frequencies to float32, and then their product with the position: its
// angles may be off by the position times 2^-23.)
func Angles(m spec.Model) (cos, sin []float32) {
	half := m.HeadDim() / 2
	cos, sin = make([]float32, m.MaxPositions*half), make([]float32, m.MaxPositions*half)
	by := m.RotaryFactor()
	for j, freq := range m.Frequencies() {
		for pos := range m.MaxPositions {
			s, c := math.Sincos(float64(pos) * freq)
			sin[pos*half+j], cos[pos*half+j] = float32(by*s), float32(by*c)
		}
	}
	return cos, sin
}

// Repack packs Params for the kernels, after the optimizer changed them.
func (t *Model) Repack() {
	for i := range Parts(t.Spec) {
		t.RepackPart(i)
	}
}

// SetGuides says how the guided linears run from now on, in the order of the
// spec's Guides. Models start with their guides off.
func (t *Model) SetGuides(gs []rt.Guide) {
	for _, l := range t.layers {
		if l.ffn.Spec().Guide {
			l.ffn.SetGuides(gs[0], gs[1])
			gs = gs[2:]
		}
	}
}

// DropGuides turns a guided model into the plain one, with parameters of its
// own; those with the guides are the caller's to close.
func (t *Model) DropGuides() error {
	plain := t.Params.WithoutGuides()
	m, err := New(plain.spec, plain, t.opt)
	if err != nil {
		return err
	}
	m.prof = t.prof
	t.Close()
	*t = *m
	return nil
}

// Close frees the packed weights; Params stay.
func (t *Model) Close() {
	for _, l := range t.layers {
		l.qkv.Close()
		l.out.Close()
		l.ffn.Close()
	}
	if t.head != nil {
		t.head.Close()
	}
	if t.kept != nil && t.kept != t.Params {
		t.kept.Close()
	}
}

// Attention is that of layer i.
func (t *Model) Attention(i int) *rt.Attention { return t.layers[i].attn }

// FFN is the feed-forward network of layer i.
func (t *Model) FFN(i int) *rt.FFN { return t.layers[i].ffn }

// SetFFN puts another network, which the model then owns, in the place of layer
// i's, which it frees. Traces made before must not be used afterwards.
func (t *Model) SetFFN(i int, f *rt.FFN) {
	t.layers[i].ffn.Close()
	t.layers[i].ffn = f
}

// Options are those that the model runs with.
func (t *Model) Options() rt.Options { return t.opt }

// Pool is the pool that the model runs on.
func (t *Model) Pool() *rt.Pool { return t.opt.Pool }

// Vec is the table of elementwise operations that the model runs.
func (t *Model) Vec() *vec.Table { return t.vec }

// norm is a layer norm or an RMS norm.
type norm struct {
	normWeights
	rms  bool
	h    int
	eps  float64
	zero []float32
}

func (n *norm) forward(v *vec.Table, y, x []float32, s stats, r0, r1 int) {
	y, x = y[r0*n.h:r1*n.h], x[r0*n.h:r1*n.h]
	if n.rms {
		v.RMSNorm(y, s.rstd[r0:r1], x, n.w, n.zero, r1-r0, n.h, n.eps)
		return
	}
	v.LayerNorm(y, s.mean[r0:r1], s.rstd[r0:r1], x, n.w, n.b, r1-r0, n.h, n.eps)
}

// backward adds to dx; dw and db are sums over these rows.
func (n *norm) backward(v *vec.Table, dx, dw, db, dy, x []float32, s stats, r0, r1 int) {
	dx, dy, x = dx[r0*n.h:r1*n.h], dy[r0*n.h:r1*n.h], x[r0*n.h:r1*n.h]
	if n.rms {
		v.RMSNormBackward(dx, dw, db, dy, x, n.w, s.rstd[r0:r1], r1-r0, n.h)
		return
	}
	v.LayerNormBackward(dx, dw, db, dy, x, n.w, s.mean[r0:r1], s.rstd[r0:r1], r1-r0, n.h)
}

// CheckTokens reports the first id outside the vocabulary.
func (t *Model) CheckTokens(ids []int32) error {
	for i, id := range ids {
		if id < 0 || int(id) >= t.Spec.Vocab {
			return fmt.Errorf("token %d is %d, want 0 to %d", i, id, t.Spec.Vocab-1)
		}
	}
	return nil
}
