package hub

import (
	_ "embed"

	"github.com/structuredffn/sffn/gen/spec"
)

// modeling is what transformers runs for models that none of its own express.
//
//go:embed modeling_sffn.py
var modeling []byte

const (
	modelingFile = "modeling_sffn.py"
	ownType      = "sffn"
)

// structured are models with code of their own: tensors have the project's names, and
// config.json describes the chains that the code runs.
var structured = &family{model: ownType, architecture: "SffnForCausalLM", title: "structured", write: structuredConfig}

func structuredConfig(s spec.Model) object {
	windows := make([]int, s.Layers)
	for i := range windows {
		windows[i] = s.LayerWindow(i)
	}
	c := object{"hidden_size": s.Hidden, "intermediate_size": s.FFN, "num_hidden_layers": s.Layers, "num_attention_heads": s.QHeads,
		"num_key_value_heads": s.KVHeads, "head_dim": s.HeadDim(), "max_position_embeddings": s.MaxPositions,
		"activation": s.Act, "norm": s.Norm, "norm_eps": s.NormEps, "qk_norm": s.QKNorm, "qkv_bias": s.QKVBias, "output_bias": s.OutputBias,
		"ffn_bias": s.FFNBias, "windows": windows, "scale_attn_by_layer": s.ScaleAttnByLayer, "rotary_frequencies": nil, "rotary_factor": s.RotaryFactor(),
		"auto_map": object{"AutoConfig": "modeling_sffn.SffnConfig", "AutoModelForCausalLM": "modeling_sffn.SffnForCausalLM"}}
	if s.Position == spec.RoPE {
		c["rotary_frequencies"] = s.Frequencies()
	}
	var networks []object
	for _, n := range s.Stretches() {
		networks = append(networks, object{"first": n.First, "last": n.Last, "fc1": chain(n.FC1()), "fc2": chain(n.FC2())})
	}
	c["networks"] = networks
	return c
}

// chain describes the factors of a linear.
func chain(l spec.Linear) []object {
	var all []object
	for _, f := range l.Chain() {
		o := object{"param": f.Param, "shape": f.Shape, "blocks": f.Blocks, "in": f.In, "out": f.Out, "shuffle": nil}
		if t := f.Then; t.Moves() {
			o["shuffle"] = []int{t.Outer, t.Inner, t.Run}
		}
		all = append(all, o)
	}
	return all
}
