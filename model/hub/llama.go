package hub

import (
	"errors"
	"fmt"
	"slices"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/gen/specfile"
)

// The Llama family: they differ in biases, in norms of queries and keys, and in which
// layers have a window.
var (
	llama   = llamaLike("llama", "LlamaForCausalLM", "Llama", llamaSection)
	mistral = llamaLike("mistral", "MistralForCausalLM", "Mistral", mistralSection)
	qwen2   = llamaLike("qwen2", "Qwen2ForCausalLM", "Qwen 2", qwen2Section)
	qwen3   = llamaLike("qwen3", "Qwen3ForCausalLM", "Qwen 3", qwen3Section)
)

func llamaLike(model, architecture, title string, section func(f *fields) specfile.Section) *family {
	return &family{
		model: model, architecture: architecture, title: title, section: section,
		fits: func(s spec.Model) error { return llamaFits(model, s) }, write: func(s spec.Model) object { return llamaConfig(model, s) },
		fields: map[string]string{"vocab": "vocab_size", "hidden": "hidden_size", "ffn": "intermediate_size", "layers": "num_hidden_layers",
			"attn_dim": "head_dim", "q_heads": "num_attention_heads", "kv_heads": "num_key_value_heads", "max_positions": "max_position_embeddings",
			"norm_eps": "rms_norm_eps", "rotary_base": "rope_theta"},
		prefix: "model.", head: "lm_head.weight", embedding: "embed_tokens.weight",
		names: map[string][]string{"model.wte": {"embed_tokens"}, "model.ln_f": {"norm"}, "lm_head": {"lm_head"},
			"ln1": {"input_layernorm"}, "qkv_linear": {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}, "o_linear": {"self_attn.o_proj"},
			"ln2": {"post_attention_layernorm"}, "mlp.fc1": {"mlp.gate_proj", "mlp.up_proj"}, "mlp.fc2": {"mlp.down_proj"}},
		layer:   "layers.%d.",
		ignored: []string{".rotary_emb.inv_freq"},
	}
}

func llamaSection(f *fields) specfile.Section {
	s := llamaCommon(f)
	headDim(f, &s, 0)
	attention, mlp := value(f, "attention_bias", false), value(f, "mlp_bias", false)
	if s.Bias = attention; attention != mlp {
		f.cannot("attention_bias", fmt.Sprintf("mlp_bias, which is %v", mlp))
	}
	f.has("pretraining_tp") // another way to the same sums
	return s
}

func mistralSection(f *fields) specfile.Section {
	s := llamaCommon(f)
	if !f.has("num_key_value_heads") {
		s.KVHeads = ptr(8) // the field's default
	}
	headDim(f, &s, 0)
	window := 4096 // the field's default; null is none
	if f.null["sliding_window"] {
		window = 0
	}
	if window = value(f, "sliding_window", window); window > 0 && window < s.MaxPositions {
		f.cannot("sliding_window", "null, or at least max_position_embeddings")
	}
	return s
}

func qwen2Section(f *fields) specfile.Section {
	s := llamaCommon(f)
	headDim(f, &s, 0)
	qwenWindow(f, &s)
	f.fail("model_type", "biases of queries, keys and values alone cannot be expressed")
	return s
}

func qwen3Section(f *fields) specfile.Section {
	s := llamaCommon(f)
	headDim(f, &s, 128) // the field's default
	qwenWindow(f, &s)
	f.fail("model_type", "norms of queries and keys cannot be expressed")
	return s
}

func ptr(n int) *int { return &n }

// llamaCommon reads what the family's members share.
func llamaCommon(f *fields) specfile.Section {
	s := specfile.NewSection()
	s.Vocab, s.Hidden, s.FFN = must[int](f, "vocab_size"), must[int](f, "hidden_size"), must[int](f, "intermediate_size")
	s.Layers, s.QHeads, s.MaxPositions = must[int](f, "num_hidden_layers"), must[int](f, "num_attention_heads"), must[int](f, "max_position_embeddings")
	s.KVHeads = ptr(value(f, "num_key_value_heads", s.QHeads))
	s.Norm, s.Position, s.Act, s.Bias = spec.RMSNorm, spec.RoPE, spec.SwiGLU, false
	if act := value(f, "hidden_act", "silu"); act != "silu" && act != "swish" {
		f.cannot("hidden_act", `"silu"`)
	}
	if value(f, "rms_norm_eps", 1e-6) != 1e-5 {
		f.fail("rms_norm_eps", "%v cannot be expressed, want 1e-05", value(f, "rms_norm_eps", 1e-6))
	}
	s.Tie = value(f, "tie_word_embeddings", false)
	f.has("attention_dropout") // for training
	rotary(f, &s)
	return s
}

// headDim reads the width of a head; usual is what it is where nothing says so, 0 for
// the hidden width divided by the heads.
func headDim(f *fields, s *specfile.Section, usual int) {
	if s.QHeads < 1 {
		return // which is an error
	}
	if usual == 0 {
		if usual = s.Hidden / s.QHeads; !f.has("head_dim") && s.Hidden%s.QHeads != 0 {
			f.fail("num_attention_heads", "%d does not divide hidden_size %d, and there is no head_dim", s.QHeads, s.Hidden)
			return
		}
	}
	width := value(f, "head_dim", usual)
	if width < 1 || width > spec.MaxWidth || s.QHeads > spec.MaxWidth {
		f.fail("head_dim", "%d is out of range, want 1 to %d", width, spec.MaxWidth)
		return
	}
	s.AttnDim = ptr(width * s.QHeads)
}

// rotary reads the rotary embedding: rope_parameters, or rope_theta and rope_scaling as
// they were before.
func rotary(f *fields, s *specfile.Section) {
	s.RotaryBase = value(f, "rope_theta", 10000.0)
	only(f, "partial_rotary_factor", 1.0)
	r := f.object("rope_parameters")
	if old := f.object("rope_scaling"); old != nil && r != nil {
		f.fail("rope_scaling", "and rope_parameters are both there, want one of them")
	} else if old != nil {
		r = old
	}
	if r == nil {
		return
	}
	defer f.join(r)
	s.RotaryBase = value(r, "rope_theta", s.RotaryBase)
	only(r, "partial_rotary_factor", 1.0)
	key := "rope_type"
	if !r.has(key) {
		key = "type" // as it was called first
	}
	if kind := value(r, key, "default"); kind != "default" {
		r.cannot(key, `"default"`)
		return
	}
	for _, name := range r.unread(nil) {
		r.fail(name[len(r.at):], "is unknown for an embedding of this type")
	}
}

// qwenWindow reads which layers have a window.
func qwenWindow(f *fields, s *specfile.Section) {
	window := value(f, "sliding_window", 4096)
	first := 0 // of the layers with a window
	if !value(f, "use_sliding_window", false) || f.null["sliding_window"] {
		first = s.Layers
	} else {
		first = min(value(f, "max_window_layers", 28), s.Layers)
	}
	if f.has("layer_types") {
		types := value(f, "layer_types", []string(nil))
		if len(types) != s.Layers {
			f.fail("layer_types", "has %d entries, there are %d layers", len(types), s.Layers)
			return
		}
		first = s.Layers
		for i, kind := range types {
			switch kind {
			case "full_attention":
			case "sliding_attention":
				first = min(first, i)
			default:
				f.fail("layer_types", "%.100q cannot be expressed, want full_attention", kind)
				return
			}
		}
		if i := slices.Index(types[first:], "full_attention"); i >= 0 && window < s.MaxPositions {
			f.fail("layer_types", "layer %d has a window, and layer %d has none: want the same of all layers", first, first+i)
			return
		}
	}
	if first < s.Layers && window < s.MaxPositions {
		f.fail("sliding_window", "%d cannot be expressed, want null, or at least max_position_embeddings", window)
	}
}

// llamaFits says what keeps the family's member of that name from expressing a model.
func llamaFits(member string, s spec.Model) error {
	if member != "llama" {
		return errors.New("what it has beside Llama is not in the model")
	}
	return differ(fit{"position", s.Position, spec.RoPE}, fit{"norm", s.Norm, spec.RMSNorm}, fit{"act", s.Act, spec.SwiGLU},
		fit{"scale_attn_by_layer", s.ScaleAttnByLayer, false})
}

// llamaConfig writes the rotary embedding as transformers 4 has it, which 5 reads, too.
func llamaConfig(member string, s spec.Model) object {
	return object{"hidden_size": s.Hidden, "intermediate_size": s.FFN, "num_hidden_layers": s.Layers, "num_attention_heads": s.QHeads,
		"num_key_value_heads": s.KVHeads, "head_dim": s.HeadDim(), "max_position_embeddings": s.MaxPositions, "hidden_act": "silu",
		"rms_norm_eps": 1e-5, "rope_theta": s.RotaryBase, "attention_bias": s.Bias, "mlp_bias": s.Bias}
}
