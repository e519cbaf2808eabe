package gpu

import (
	"fmt"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// Model is every matrix product of a model.
type Model struct {
	Spec spec.Model
	// FFNs are those of the layers, each once; FFN says which one a layer has.
	FFNs []FFN
	FFN  []int
	// QKV, Output and Head are the dense layers. The head's vocabulary is padded
	// with rows of zeros to a multiple of 8: Logits is its width. Few stores
	// float32, to choose tokens from; the others bf16, which the loss turns into
	// gradients in place.
	QKV, Output, Head Layer
	Logits            int
}

// NewModel plans the products of a model, or says which width the GPU kernels
// cannot serve. Networks that bf16 cannot serve are planned in float32; the rest
// of a model has to be of widths that bf16 can.
func NewModel(m spec.Model, p table.Precision) (Model, error) {
	g := Model{Spec: m, Logits: up(m.Vocab, chunk)}
	at := map[spec.FFN]int{}
	for i := range m.Layers {
		f := m.LayerFFN(i)
		if _, ok := at[f]; !ok {
			planned, err := NewFFN(f, p)
			if err != nil {
				return g, err
			}
			at[f] = len(g.FFNs)
			g.FFNs = append(g.FFNs, planned)
		}
		g.FFN = append(g.FFN, at[f])
	}
	head := m.Head()
	head.Out = g.Logits
	for _, l := range []struct {
		name string
		spec spec.Linear
		to   *Layer
	}{{"qkv", m.QKV(), &g.QKV}, {"attention output", m.Output(), &g.Output}, {"head", head, &g.Head}} {
		var err error
		if *l.to, err = NewLayer(l.spec, table.BF16); err != nil {
			return g, fmt.Errorf("%s: %w", l.name, err)
		}
	}
	few := &g.Head.Factors[0].Few
	few.Sums = true
	return g, nil
}

// Kernels lists what the model's products run.
func (g Model) Kernels() []Kernel {
	var ks []Kernel
	for _, f := range g.FFNs {
		ks = append(ks, f.Kernels()...)
	}
	for _, l := range []Layer{g.QKV, g.Output, g.Head} {
		ks = append(ks, l.Kernels()...)
	}
	return ks
}

// NewFFN plans a network in a precision, or, where none is given, in bf16 if
// its widths allow it and in float32 otherwise.
func NewFFN(f spec.FFN, p table.Precision) (FFN, error) {
	if !f.Kind.OnGPU() {
		return FFN{}, fmt.Errorf("%s: %w", f.Name(), errKind)
	}
	if p == table.Float32s {
		return NewFloat32(f)
	}
	g, err := NewBF16(f)
	if err == nil || p == table.BF16 || f.Guide {
		return g, err
	}
	fallback, ferr := NewFloat32(f)
	fallback.Why = err
	return fallback, ferr
}

// NewLayer plans a single layer the same way, input and output in their true
// order.
func NewLayer(l spec.Linear, p table.Precision) (Layer, error) {
	if !l.Kind.OnGPU() {
		return Layer{}, fmt.Errorf("%s: %w", l.Name(), errKind)
	}
	if p == table.Float32s && !l.Guide {
		return newFloat32(l, "", ""), nil
	}
	g, err := newBF16(plan.NewLayer(l), "", "")
	if err != nil && p == "" && !l.Guide {
		return newFloat32(l, "", ""), nil
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", l.Name(), err)
	}
	return g, err
}
