package hub

import (
	"slices"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/gen/specfile"
)

// gpt2 is Radford et al. 2019. The weights of its linears lie [in, out].
var gpt2 = &family{
	model: "gpt2", architecture: "GPT2LMHeadModel", title: "GPT-2",
	section: gpt2Section, fits: gpt2Fits, write: gpt2Config,
	fields: map[string]string{"vocab": "vocab_size", "hidden": "n_embd", "ffn": "n_inner", "layers": "n_layer", "attn_dim": "n_embd", "q_heads": "n_head",
		"max_positions": "n_positions", "norm_eps": "layer_norm_epsilon"},
	prefix: "transformer.", head: "lm_head.weight", embedding: "wte.weight",
	names: map[string][]string{"model.wte": {"wte"}, "model.wpe": {"wpe"}, "model.ln_f": {"ln_f"}, "lm_head": {"lm_head"},
		"ln1": {"ln_1"}, "qkv_linear": {"attn.c_attn"}, "o_linear": {"attn.c_proj"}, "ln2": {"ln_2"}, "mlp.fc1": {"mlp.c_fc"}, "mlp.fc2": {"mlp.c_proj"}},
	layer:      "h.%d.",
	transposed: []string{"qkv_linear", "o_linear", "mlp.fc1", "mlp.fc2"},
	ignored:    []string{".attn.bias", ".attn.masked_bias"},
}

// gpt2Acts are the activations by their names, of several the one that export writes
// first.
var gpt2Acts = []struct {
	name string
	act  spec.Act
}{
	{"gelu_new", spec.GELU}, {"gelu_pytorch_tanh", spec.GELU}, {"gelu_fast", spec.GELU},
	{"gelu", spec.GELUErf}, {"gelu_python", spec.GELUErf},
}

func gpt2Section(f *fields) specfile.Section {
	s := specfile.NewSection()
	s.Vocab, s.Hidden, s.Layers, s.QHeads = must[int](f, "vocab_size"), must[int](f, "n_embd"), must[int](f, "n_layer"), must[int](f, "n_head")
	s.FFN = value(f, "n_inner", 4*s.Hidden)
	s.MaxPositions = must[int](f, "n_positions")
	if value(f, "n_ctx", s.MaxPositions) != s.MaxPositions {
		f.cannot("n_ctx", "n_positions")
	}
	s.Norm, s.Position, s.Bias = spec.LayerNorm, spec.Absolute, true
	s.Act = ""
	name := value(f, "activation_function", "gelu_new")
	for _, a := range gpt2Acts {
		if a.name == name {
			s.Act = a.act
		}
	}
	if s.Act == "" {
		f.cannot("activation_function", `"gelu_new", the tanh form, or "gelu", that of erf`)
	}
	s.NormEps = value(f, "layer_norm_epsilon", 1e-5)
	only(f, "scale_attn_weights", true)
	s.ScaleAttn = value(f, "scale_attn_by_inverse_layer_idx", false)
	s.Tie = value(f, "tie_word_embeddings", true)
	for _, field := range []string{"reorder_and_upcast_attn", "embd_pdrop", "attn_pdrop", "resid_pdrop", "summary_activation",
		"summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj"} {
		f.has(field) // for training, for another head, or another way to the same sums
	}
	return s
}

func gpt2Fits(s spec.Model) bool {
	return s.Position == spec.Absolute && s.Norm == spec.LayerNorm && !s.Act.Gated() && s.QKVBias && s.OutputBias && s.FFNBias &&
		!s.QKNorm && s.Window == 0 && s.AttnDim == s.Hidden && s.KVHeads == s.QHeads
}

func gpt2Config(s spec.Model) object {
	act := ""
	for _, a := range slices.Backward(gpt2Acts) {
		if a.act == s.Act {
			act = a.name
		}
	}
	return object{"n_embd": s.Hidden, "n_inner": s.FFN, "n_layer": s.Layers, "n_head": s.QHeads, "n_positions": s.MaxPositions,
		"activation_function": act, "layer_norm_epsilon": s.NormEps, "scale_attn_by_inverse_layer_idx": s.ScaleAttnByLayer}
}
