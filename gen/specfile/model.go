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
	// networks.
	Bias bool `yaml:"bias"`
	// Norm is the normalisation before attention, before the feed-forward network
	// and before the head.
	Norm spec.Norm `yaml:"norm"` // layernorm, rmsnorm
	// NormEps is added inside the root of norms, to the variance or the mean of squares.
	NormEps float64 `yaml:"norm_eps"` // 1e-12 to 1
	// Position is how the model knows positions: by rotated queries and keys, or
	// by a learned table.
	Position spec.Position `yaml:"position"` // rope, absolute
	// RotaryBase is the base of the angles of rope.
	RotaryBase float64 `yaml:"rotary_base"` // above 0
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

// NewSection returns the defaults: those of the paper's models.
func NewSection() Section {
	return Section{MaxPositions: 1024, MLP: MLP{Kind: spec.Dense, FirstDense: true}, Act: spec.GELU, Bias: true,
		Norm: spec.LayerNorm, NormEps: 1e-5, Position: spec.RoPE, RotaryBase: 10000, Tie: true, InitStd: 0.02}
}

// Clone is a copy that shares nothing.
func (m *Section) Clone() Section {
	clone := func(p *int) *int {
		if p == nil {
			return nil
		}
		v := *p
		return &v
	}
	c := *m
	c.AttnDim, c.KVHeads = clone(m.AttnDim), clone(m.KVHeads)
	c.MLP.Except, c.MLP.list = slices.Clone(m.MLP.Except), slices.Clone(m.MLP.list)
	return c
}

// Spec is the model that the section describes; errors are joined field errors.
func (m *Section) Spec(name string) (spec.Model, error) {
	or := func(p *int, d int) int {
		if p != nil {
			return *p
		}
		return d
	}
	s := spec.Model{
		Name:  name,
		Vocab: m.Vocab, Hidden: m.Hidden, FFN: m.FFN, Layers: m.Layers,
		AttnDim: or(m.AttnDim, m.Hidden), QHeads: m.QHeads, KVHeads: or(m.KVHeads, m.QHeads), MaxPositions: m.MaxPositions,
		Act: m.Act, Bias: m.Bias, Norm: m.Norm, NormEps: m.NormEps, Position: m.Position, RotaryBase: m.RotaryBase,
		ScaleAttnByLayer: m.ScaleAttn, TieEmbeddings: m.Tie, InitStd: m.InitStd, InitFanIn: m.InitFanIn,
	}
	return s, m.MLP.fill(&s)
}
