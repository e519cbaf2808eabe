package specfile

import (
	"slices"

	"github.com/structuredffn/sffn/gen/spec"
)

// Section is the section model: of a file. Together, its keys may come to some
// 2^40 parameters. Pointers tell what is left out from zero.
//
// The comments on the fields of this and the other sections make docs/config.md.
// Above a field stands what the key does, and behind it
//
//	range
//	unit; range
//	unit; range; default, where it depends on other keys
//	default, of a section
//
// where ^ is the power, and {kinds}, {ranked}, {blocked}, {split}, {acts}
// and {gated} are the names that spec has.
type Section struct {
	// Vocab is the number of token ids; 257 for bytes.
	Vocab int `yaml:"vocab"` // ids; 1 to 2^20
	// Hidden is the width of the residual stream.
	Hidden int `yaml:"hidden"` // entries; 1 to 2^20
	// FFN is the inner width of each feed-forward network.
	FFN int `yaml:"ffn"` // entries; 1 to 2^20
	// Layers is the number of layers.
	Layers int `yaml:"layers"` // layers; 1 to 4096
	// AttnDim is the width of all query heads together.
	AttnDim *int `yaml:"attn_dim,omitempty"` // entries; 1 to 2^20, a multiple of QHeads; Hidden
	// QHeads is the number of query heads. With rope, the width of one is even.
	QHeads int `yaml:"q_heads"` // heads; 1 to 2^20, a divisor of AttnDim
	// KVHeads is the number of key and value heads; fewer than query heads is
	// grouped-query attention.
	KVHeads *int `yaml:"kv_heads,omitempty"` // heads; 1 to 2^20, a divisor of QHeads; QHeads
	// MaxPositions is the longest sequence that the model accepts.
	MaxPositions int `yaml:"max_positions"` // tokens; 1 to 2^20
	// MLP is the structure of the feed-forward networks: the keys that follow, or a
	// list of what `mlp.except` takes that names every layer.
	MLP MLP `yaml:"mlp"` // dense
	// Act is the activation between the two linears. With {gated} the first has a
	// gate as wide as its output.
	Act spec.Act `yaml:"act"` // {acts}
	// Bias gives biases to the linears of attention and of the feed-forward
	// networks: to all that the next three keys leave out.
	Bias bool `yaml:"bias"`
	// QKVBias gives biases to the projections of queries, keys and values.
	QKVBias *bool `yaml:"qkv_bias,omitempty"` // Bias
	// OutputBias gives a bias to attention's output projection.
	OutputBias *bool `yaml:"output_bias,omitempty"` // Bias
	// FFNBias gives biases to the linears of the feed-forward networks.
	FFNBias *bool `yaml:"ffn_bias,omitempty"` // Bias
	// Norm is the normalisation before attention, before the feed-forward network
	// and before the head.
	Norm spec.Norm `yaml:"norm"` // layernorm, rmsnorm
	// NormEps is added inside the root of norms, to the variance or the mean of squares.
	NormEps float64 `yaml:"norm_eps"` // 1e-12 to 1
	// QKNorm gives each head of queries and keys an RMS norm, before it is rotated.
	QKNorm bool `yaml:"qk_norm"`
	// Position is how the model knows positions: by rotated queries and keys, or
	// by a learned table.
	Position spec.Position `yaml:"position"` // rope, absolute
	// RotaryBase is the base of the angles of rope.
	RotaryBase float64 `yaml:"rotary_base"` // above 0
	// RotaryScaling lowers the frequencies of rope, for sequences longer than those
	// that a model was first trained on: the keys that follow.
	RotaryScaling RotaryScaling `yaml:"rotary_scaling,omitempty"` // none
	// Window is how many positions attention sees: the last ones, its own among them.
	// With 0 it sees all.
	Window int `yaml:"window"` // tokens; 0 to 2^20
	// WindowLayers names the layers that have the window, counted from 0. The others see
	// all positions.
	WindowLayers Layers `yaml:"window_layers,omitempty"` // layers; numbers and stretches from 0 on, `0-3 5`; all
	// ScaleAttn divides attention's scores by the layer's number, counted from 1.
	ScaleAttn bool `yaml:"scale_attn_by_layer"`
	// Tie makes the head's weight that of the token embedding.
	Tie bool `yaml:"tie_embeddings"`
	// InitStd is the standard deviation of the initial weights.
	InitStd float64 `yaml:"init_std"` // above 0
	// InitFanIn draws the weights of linears with one over the root of their
	// inputs instead.
	InitFanIn bool `yaml:"init_fan_in"`
}

// RotaryScaling is the section rotary_scaling of a model.
type RotaryScaling struct {
	// Type says which frequencies: all are divided by Factor (linear), or those of few
	// turns within OriginalPositions (llama3, yarn).
	Type spec.Scaling `yaml:"type,omitempty"` // linear, llama3, yarn
	// Factor divides frequencies.
	Factor float64 `yaml:"factor,omitempty"` // 1 to 1e6
	// LowFreqFactor is where llama3 begins: with fewer turns within OriginalPositions
	// frequencies are divided by Factor. The others have none.
	LowFreqFactor float64 `yaml:"low_freq_factor,omitempty"` // turns; above 0, below HighFreqFactor; required
	// HighFreqFactor is where llama3 ends: with more turns frequencies stay as they
	// are, and between the two they are divided by less. The others have none.
	HighFreqFactor float64 `yaml:"high_freq_factor,omitempty"` // turns; above LowFreqFactor; required
	// OriginalPositions is the longest sequence of the first training. Linear has none.
	OriginalPositions int `yaml:"original_max_positions,omitempty"` // tokens; 1 to 2^20
	// BetaFast is where yarn begins: pairs of more turns within OriginalPositions stay as
	// they are. The others have none.
	BetaFast *float64 `yaml:"beta_fast,omitempty"` // turns; above BetaSlow; 32
	// BetaSlow is where yarn ends: pairs of fewer turns are divided by Factor, and those
	// between the two by less. The others have none.
	BetaSlow *float64 `yaml:"beta_slow,omitempty"` // turns; above 0, below BetaFast; 1
	// AttentionFactor is what yarn multiplies rotated queries and keys by. The others have
	// none.
	AttentionFactor *float64 `yaml:"attention_factor,omitempty"` // times; above 0; 1 and a tenth of Factor's logarithm
	// Truncate says that yarn begins and ends with whole pairs. The others have none.
	Truncate *bool `yaml:"truncate,omitempty"` // true
}

// NewSection returns the defaults: those of the paper's models.
func NewSection() Section {
	return Section{MaxPositions: 1024, MLP: MLP{Kind: spec.Dense, FirstDense: true}, Act: spec.GELU, Bias: true,
		Norm: spec.LayerNorm, NormEps: 1e-5, Position: spec.RoPE, RotaryBase: 10000, Tie: true, InitStd: 0.02}
}

// Clone is a copy that shares nothing.
func (m *Section) Clone() Section {
	c := *m
	c.AttnDim, c.KVHeads = clone(m.AttnDim), clone(m.KVHeads)
	c.QKVBias, c.OutputBias, c.FFNBias = clone(m.QKVBias), clone(m.OutputBias), clone(m.FFNBias)
	r := &c.RotaryScaling
	r.BetaFast, r.BetaSlow, r.AttentionFactor, r.Truncate = clone(r.BetaFast), clone(r.BetaSlow), clone(r.AttentionFactor), clone(r.Truncate)
	c.MLP.Except, c.MLP.list = slices.Clone(m.MLP.Except), slices.Clone(m.MLP.list)
	return c
}

func clone[T any](p *T) *T {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}

// or is what p points to, or a default.
func or[T any](p *T, d T) T {
	if p != nil {
		return *p
	}
	return d
}

// Spec is the model that the section describes; errors are joined field errors.
func (m *Section) Spec(name string) (spec.Model, error) {
	s := spec.Model{
		Name:  name,
		Vocab: m.Vocab, Hidden: m.Hidden, FFN: m.FFN, Layers: m.Layers,
		AttnDim: or(m.AttnDim, m.Hidden), QHeads: m.QHeads, KVHeads: or(m.KVHeads, m.QHeads), MaxPositions: m.MaxPositions,
		Act: m.Act, QKVBias: or(m.QKVBias, m.Bias), OutputBias: or(m.OutputBias, m.Bias), FFNBias: or(m.FFNBias, m.Bias),
		Norm: m.Norm, NormEps: m.NormEps, QKNorm: m.QKNorm,
		Position: m.Position, RotaryBase: m.RotaryBase, RotaryScaling: m.RotaryScaling.spec(), Window: m.Window,
		ScaleAttnByLayer: m.ScaleAttn, TieEmbeddings: m.Tie, InitStd: m.InitStd, InitFanIn: m.InitFanIn,
	}
	s.WindowLayers = spec.Layers(m.WindowLayers)
	n := min(m.Layers, spec.MaxLayers)
	if layers, err := spec.ParseLayers(string(m.WindowLayers), n); err == nil { // else it is the model's to say
		if s.WindowLayers = layers; layers == spec.LayersOf(n, func(int) bool { return true }) {
			s.WindowLayers = ""
		}
	}
	return s, m.MLP.fill(&s)
}

// spec is the scaling with its defaults.
func (r RotaryScaling) spec() spec.RotaryScaling {
	s := spec.RotaryScaling{Type: r.Type, Factor: r.Factor, LowFreqFactor: r.LowFreqFactor, HighFreqFactor: r.HighFreqFactor,
		OriginalPositions: r.OriginalPositions, BetaFast: or(r.BetaFast, 0), BetaSlow: or(r.BetaSlow, 0), AttentionFactor: or(r.AttentionFactor, 0),
		Between: !or(r.Truncate, true)}
	if s.Type == spec.YarnScaling {
		s.BetaFast, s.BetaSlow = or(r.BetaFast, spec.YarnBetaFast), or(r.BetaSlow, spec.YarnBetaSlow)
		s.AttentionFactor = or(r.AttentionFactor, spec.YarnAttentionFactor(s.Factor))
	}
	return s
}
