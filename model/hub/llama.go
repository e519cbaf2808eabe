package hub

import (
	"strings"

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
		fits: func(s spec.Model) bool { return llamaFits(model, s) }, write: func(s spec.Model) object { return llamaConfig(model, s) },
		fields: map[string]string{"vocab": "vocab_size", "hidden": "hidden_size", "ffn": "intermediate_size", "layers": "num_hidden_layers",
			"attn_dim": "head_dim", "q_heads": "num_attention_heads", "kv_heads": "num_key_value_heads", "max_positions": "max_position_embeddings",
			"norm_eps": "rms_norm_eps", "rotary_base": "rope_theta", "window": "sliding_window", "window_layers": "layer_types"},
		prefix: "model.", head: "lm_head.weight", embedding: "embed_tokens.weight",
		names: map[string][]string{"model.wte": {"embed_tokens"}, "model.ln_f": {"norm"}, "lm_head": {"lm_head"},
			"ln1": {"input_layernorm"}, "qkv_linear": {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"},
			"q_norm": {"self_attn.q_norm"}, "k_norm": {"self_attn.k_norm"}, "o_linear": {"self_attn.o_proj"},
			"ln2": {"post_attention_layernorm"}, "mlp.fc1": {"mlp.gate_proj", "mlp.up_proj"}, "mlp.fc2": {"mlp.down_proj"}},
		layer:   "layers.%d.",
		ignored: []string{".rotary_emb.inv_freq"},
	}
}

func llamaSection(f *fields) specfile.Section {
	s := llamaCommon(f, 0)
	headDim(f, &s, 0)
	s.Bias = value(f, "attention_bias", false)
	s.FFNBias = ptr(value(f, "mlp_bias", false))
	f.has("pretraining_tp") // another way to the same sums
	return s
}

func mistralSection(f *fields) specfile.Section {
	s := llamaCommon(f, 8)
	headDim(f, &s, 0)
	window := 4096 // the field's default; null is none
	if f.null["sliding_window"] {
		window = 0
	}
	s.Window = value(f, "sliding_window", window)
	return s
}

func qwen2Section(f *fields) specfile.Section {
	s := llamaCommon(f, 32)
	headDim(f, &s, 0)
	qwenWindow(f, &s)
	s.QKVBias = ptr(true)
	return s
}

func qwen3Section(f *fields) specfile.Section {
	s := llamaCommon(f, 32)
	headDim(f, &s, 128) // the field's default
	qwenWindow(f, &s)
	s.Bias, s.FFNBias = value(f, "attention_bias", false), ptr(false)
	s.QKNorm = true
	return s
}

func ptr[T any](v T) *T { return &v }

// llamaCommon reads what the family's members share. There are so many heads of keys
// and values where nothing says so, as many as heads where that is 0, or null is there.
func llamaCommon(f *fields, kvHeads int) specfile.Section {
	s := specfile.NewSection()
	s.Vocab, s.Hidden, s.FFN = must[int](f, "vocab_size"), must[int](f, "hidden_size"), must[int](f, "intermediate_size")
	s.Layers, s.QHeads, s.MaxPositions = must[int](f, "num_hidden_layers"), must[int](f, "num_attention_heads"), must[int](f, "max_position_embeddings")
	if kvHeads == 0 || f.null["num_key_value_heads"] {
		kvHeads = s.QHeads
	}
	s.KVHeads = ptr(value(f, "num_key_value_heads", kvHeads))
	s.Norm, s.Position, s.Act, s.Bias = spec.RMSNorm, spec.RoPE, spec.SwiGLU, false
	if act := value(f, "hidden_act", "silu"); act != "silu" && act != "swish" {
		f.cannot("hidden_act", `"silu"`)
	}
	s.NormEps = value(f, "rms_norm_eps", 1e-6)
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
	if r.has("rope_theta") {
		f.names["rotary_base"] = r.at + "rope_theta"
	}
	s.RotaryBase = value(r, "rope_theta", s.RotaryBase)
	only(r, "partial_rotary_factor", 1.0)
	key := "rope_type"
	if !r.has(key) {
		key = "type" // as it was called first
	}
	scaling := specfile.RotaryScaling{Type: spec.Scaling(value(r, key, unscaled))}
	name := func(field, name string) string {
		f.names["rotary_scaling."+field] = r.at + name
		return name
	}
	read := func(to *float64, field, as string) { *to = must[float64](r, name(field, as)) }
	// original reads the length of the first training.
	original := func() {
		const as = "original_max_position_embeddings"
		scaling.OriginalPositions = value(r, name("original_max_positions", as), value(f, as, s.MaxPositions))
		if value(f, as, scaling.OriginalPositions) != scaling.OriginalPositions {
			f.cannot(as, "that of "+strings.TrimSuffix(r.at, "."))
		}
	}
	switch scaling.Type {
	case unscaled:
		scaling = specfile.RotaryScaling{}
	case spec.LinearScaling:
		read(&scaling.Factor, "factor", "factor")
	case spec.Llama3Scaling:
		read(&scaling.Factor, "factor", "factor")
		read(&scaling.LowFreqFactor, "low_freq_factor", "low_freq_factor")
		read(&scaling.HighFreqFactor, "high_freq_factor", "high_freq_factor")
		original()
	case spec.YarnScaling:
		original()
		yarn(r, &scaling, float64(s.MaxPositions)/float64(max(1, scaling.OriginalPositions)), name)
	default:
		r.cannot(key, `"default", "linear", "llama3" or "yarn"`)
		return
	}
	s.RotaryScaling = scaling
	for _, name := range r.unread(nil) {
		r.fail(strings.TrimPrefix(name, r.at), "is unknown for an embedding of this type")
	}
}

// yarn reads what a scaling of that type has; whole is the factor by which all positions
// are more than those of the first training, which is the scaling's where it has none.
func yarn(r *fields, to *specfile.RotaryScaling, whole float64, name func(field, as string) string) {
	to.Factor = value(r, name("factor", "factor"), whole)
	to.BetaFast = ptr(value(r, name("beta_fast", "beta_fast"), float64(spec.YarnBetaFast)))
	to.BetaSlow = ptr(value(r, name("beta_slow", "beta_slow"), float64(spec.YarnBetaSlow)))
	// Two more numbers make another factor of the logarithm, where both are there.
	by := spec.YarnAttentionFactor(to.Factor)
	m, all := value(r, "mscale", 0.0), value(r, "mscale_all_dim", 0.0)
	if m != 0 && all != 0 {
		by = (m*(by-1) + 1) / (all*(by-1) + 1)
	}
	to.AttentionFactor = ptr(value(r, name("attention_factor", "attention_factor"), by))
	to.Truncate = ptr(value(r, name("truncate", "truncate"), true))
}

// unscaled is the type of angles as they are.
const unscaled = "default"

// qwenWindow reads which layers have a window: those that layer_types says, or all from
// max_window_layers on.
func qwenWindow(f *fields, s *specfile.Section) {
	window, first := value(f, "sliding_window", 4096), value(f, "max_window_layers", 28)
	var none string // why there is none
	if !value(f, "use_sliding_window", false) {
		none = "use_sliding_window is false"
	} else if f.null["sliding_window"] {
		none = "sliding_window is null"
	}
	has := func(i int) bool { return none == "" && i >= first }
	if f.has("layer_types") {
		types := value(f, "layer_types", []string(nil))
		if len(types) != s.Layers {
			f.fail("layer_types", "has %d entries, there are %d layers", len(types), s.Layers)
			return
		}
		for i, kind := range types {
			if kind != "full_attention" && kind != "sliding_attention" {
				f.fail("layer_types", "%.100q cannot be expressed, want full_attention or sliding_attention", kind)
				return
			}
			if kind == "sliding_attention" && none != "" {
				f.fail("layer_types", "layer %d has a window, and %s", i, none)
				return
			}
		}
		has = func(i int) bool { return types[i] == "sliding_attention" }
	}
	if layers := spec.LayersOf(min(s.Layers, spec.MaxLayers), has); layers != "" {
		s.Window, s.WindowLayers = window, specfile.Layers(layers)
	}
}

// llamaFits says whether a member of the family expresses a model.
func llamaFits(member string, s spec.Model) bool {
	if s.Position != spec.RoPE || s.Norm != spec.RMSNorm || s.Act != spec.SwiGLU || s.ScaleAttnByLayer || s.QKNorm != (member == "qwen3") {
		return false
	}
	switch member {
	case "llama":
		return s.OutputBias == s.QKVBias && s.Window == 0
	case "mistral":
		return !s.QKVBias && !s.OutputBias && !s.FFNBias && s.WindowLayers == ""
	case "qwen2":
		return s.QKVBias && !s.OutputBias && !s.FFNBias
	}
	return s.OutputBias == s.QKVBias && !s.FFNBias
}

// llamaConfig writes the rotary embedding as transformers 4 has it, which 5 reads, too.
func llamaConfig(member string, s spec.Model) object {
	c := object{"hidden_size": s.Hidden, "intermediate_size": s.FFN, "num_hidden_layers": s.Layers, "num_attention_heads": s.QHeads,
		"num_key_value_heads": s.KVHeads, "head_dim": s.HeadDim(), "max_position_embeddings": s.MaxPositions, "hidden_act": "silu",
		"rms_norm_eps": s.NormEps, "rope_theta": s.RotaryBase}
	switch r := s.RotaryScaling; r.Type {
	case spec.LinearScaling:
		c["rope_scaling"] = object{"rope_type": "linear", "factor": r.Factor}
	case spec.Llama3Scaling:
		c["rope_scaling"] = object{"rope_type": "llama3", "factor": r.Factor, "low_freq_factor": r.LowFreqFactor, "high_freq_factor": r.HighFreqFactor,
			"original_max_position_embeddings": r.OriginalPositions}
	case spec.YarnScaling:
		c["rope_scaling"] = object{"rope_type": "yarn", "factor": r.Factor, "original_max_position_embeddings": r.OriginalPositions,
			"beta_fast": r.BetaFast, "beta_slow": r.BetaSlow, "attention_factor": r.AttentionFactor, "truncate": !r.Between}
	}
	if member == "llama" || member == "qwen3" {
		c["attention_bias"] = s.QKVBias
	}
	if member == "llama" {
		c["mlp_bias"] = s.FFNBias
	} else if s.Window > 0 {
		c["sliding_window"] = s.Window
	} else {
		c["sliding_window"] = nil
	}
	if member == "qwen2" || member == "qwen3" {
		// The layers with a window are the last ones, as it was first, or have types.
		first, kinds := s.Layers, make([]string, s.Layers)
		for i := range s.Layers {
			if kinds[i] = "full_attention"; s.LayerWindow(i) > 0 {
				first, kinds[i] = min(first, i), "sliding_attention"
			}
		}
		if c["use_sliding_window"], c["max_window_layers"] = s.Window > 0, 0; s.WindowLayers != "" {
			c["max_window_layers"], c["layer_types"] = first, kinds
		}
	}
	return c
}
