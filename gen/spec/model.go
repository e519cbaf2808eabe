package spec

import "strconv"

// Norm names the normalisation of a model.
type Norm string

// The norms; RMSNorm has no bias.
const (
	LayerNorm Norm = "layernorm"
	RMSNorm   Norm = "rmsnorm"
)

// Position names how a model knows positions.
type Position string

// RoPE rotates queries and keys; Absolute adds a learned table to the embedding.
const (
	RoPE     Position = "rope"
	Absolute Position = "absolute"
)

// Model is a whole decoder-only, pre-norm transformer.
type Model struct {
	Name string
	// Vocab is the number of token ids, Hidden the width of the residual
	// stream, FFN the inner width of each feed-forward network.
	Vocab, Hidden, FFN, Layers int
	// AttnDim is QHeads * head size; it may differ from Hidden.
	AttnDim, QHeads, KVHeads int
	// MaxPositions is the longest sequence that the model accepts.
	MaxPositions int

	// Kind, Rank, Blocks and the splits are the structure of the feed-forward
	// networks, but for that of the layers which Except names.
	Kind                  Kind
	Rank, Blocks          int
	HiddenSplit, FFNSplit int
	Except                Exceptions
	// Guided says that the structured layers have dense guides: in the guided
	// phase of a training run.
	Guided bool

	Act Act
	// QKVBias, OutputBias and FFNBias give biases to the projections of queries, keys
	// and values, to attention's output projection, and to the feed-forward networks.
	QKVBias, OutputBias, FFNBias bool
	Norm                         Norm
	// NormEps is added inside the root of norms.
	NormEps float64
	// QKNorm gives each head of queries and keys an RMS norm, before it is rotated:
	// one weight for all heads of queries of a layer, and one for those of keys.
	QKNorm bool
	// Position, and for RoPE the base of its angles and what lowers them.
	Position      Position
	RotaryBase    float64
	RotaryScaling RotaryScaling
	// Window, where it is not 0, is how many positions attention sees: the last ones
	// up to its own, in the layers that WindowLayers names, or in all where it is empty.
	Window       int
	WindowLayers Layers
	// ScaleAttnByLayer divides the scores by the layer's number from 1.
	ScaleAttnByLayer bool
	// TieEmbeddings makes the head's weight the token embedding's.
	TieEmbeddings bool
	// InitStd is the standard deviation of the initial draw. With InitFanIn
	// linear weights draw with (length of the last axis)^-0.5 instead.
	InitStd   float64
	InitFanIn bool
}

// HeadDim is the width of one attention head.
func (m Model) HeadDim() int { return m.AttnDim / m.QHeads }

// QKV is the fused query, key and value projection of one layer.
func (m Model) QKV() Linear {
	return Linear{Kind: Dense, In: m.Hidden, Out: m.AttnDim + 2*m.KVHeads*m.HeadDim(), Bias: m.QKVBias}
}

// Output is the attention's output projection.
func (m Model) Output() Linear {
	return Linear{Kind: Dense, In: m.AttnDim, Out: m.Hidden, Bias: m.OutputBias}
}

// Head maps the last hidden state to logits; it never has a bias.
func (m Model) Head() Linear {
	return Linear{Kind: Dense, In: m.Hidden, Out: m.Vocab}
}

// LayerWindow is how many positions attention sees in layer i, counted from 0, or 0 for
// all.
func (m Model) LayerWindow(i int) int {
	if m.WindowLayers != "" && !m.WindowLayers.Has(i) {
		return 0
	}
	return m.Window
}

// LayerFFN is the feed-forward network of layer i, counted from 0.
func (m Model) LayerFFN(i int) FFN {
	f := m.Structure(i).Network(m.Hidden, m.FFN, m.Act)
	f.Bias, f.Guide = m.FFNBias, m.Guided && f.Kind != Dense
	return f
}

// Params lists the parameters of the model in the reference's names and order.
// Guides are not among them.
func (m Model) Params() []Param {
	ps := []Param{{"model.wte.weight", []int{m.Vocab, m.Hidden}}}
	if m.Position == Absolute {
		ps = append(ps, Param{"model.wpe.weight", []int{m.MaxPositions, m.Hidden}})
	}
	norm := func(name string) {
		ps = append(ps, Param{name + ".weight", []int{m.Hidden}})
		if m.Norm == LayerNorm {
			ps = append(ps, Param{name + ".bias", []int{m.Hidden}})
		}
	}
	linear := func(name string, l Linear) {
		for _, p := range l.Params() {
			ps = append(ps, Param{name + "." + p.Name, p.Shape})
		}
	}
	for i := range m.Layers {
		pre := "model.layers." + strconv.Itoa(i)
		norm(pre + ".ln1")
		linear(pre+".qkv_linear", m.QKV())
		if m.QKNorm {
			ps = append(ps, Param{pre + ".q_norm.weight", []int{m.HeadDim()}}, Param{pre + ".k_norm.weight", []int{m.HeadDim()}})
		}
		linear(pre+".o_linear", m.Output())
		norm(pre + ".ln2")
		linear(pre+".mlp.fc1", m.LayerFFN(i).FC1())
		linear(pre+".mlp.fc2", m.LayerFFN(i).FC2())
	}
	norm("model.ln_f")
	if !m.TieEmbeddings {
		ps = append(ps, Param{"lm_head.weight", []int{m.Vocab, m.Hidden}})
	}
	return ps
}

// Rates lists the parameters whose learning rate is another multiple of the run's
// than 1, by name; of is [Linear.Rates].
func (m Model) Rates(of func(Linear) []float64) map[string]float64 {
	rates := map[string]float64{}
	for i := range m.Layers {
		f := m.LayerFFN(i)
		for name, l := range map[string]Linear{"fc1": f.FC1(), "fc2": f.FC2()} {
			for j, rate := range of(l) {
				if rate != 1 {
					rates["model.layers."+strconv.Itoa(i)+".mlp."+name+"."+l.Chain()[j].Param] = rate
				}
			}
		}
	}
	return rates
}

// Guides lists the guides of a guided model, fc1's before fc2's of each layer.
func (m Model) Guides() []Param {
	var ps []Param
	for i := range m.Layers {
		f := m.LayerFFN(i)
		if !f.Guide {
			continue
		}
		for _, l := range []struct {
			name string
			Linear
		}{{"fc1", f.FC1()}, {"fc2", f.FC2()}} {
			p := l.GuideParam()
			ps = append(ps, Param{"model.layers." + strconv.Itoa(i) + ".mlp." + l.name + "." + p.Name, p.Shape})
		}
	}
	return ps
}
