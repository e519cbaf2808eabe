package spec

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
)

// valid is a small model that lacks nothing.
func valid() Model {
	return Model{Vocab: 11, Hidden: 64, FFN: 96, Layers: 2, AttnDim: 128, QHeads: 4, KVHeads: 2, MaxPositions: 64, Kind: Dense,
		Act: SwiGLU, Norm: RMSNorm, NormEps: 1e-6, Position: RoPE, RotaryBase: 1e4, InitStd: 0.02}
}

// yarn is that scaling as it is where nothing says more.
func yarn(factor float64, original int) RotaryScaling {
	return RotaryScaling{Type: YarnScaling, Factor: factor, OriginalPositions: original, BetaFast: YarnBetaFast, BetaSlow: YarnBetaSlow,
		AttentionFactor: YarnAttentionFactor(factor)}
}

// Yarn's factor is transformers', too.
func TestYarnAttentionFactor(t *testing.T) {
	for factor, want := range map[float64]float64{4: 1.138629436111989, 16: 1.2772588722239782, 40: 1.3688879454113936, 1: 1} {
		m := valid()
		if m.RotaryFactor() != 1 {
			t.Error("a model without a scaling has a rotary factor")
		}
		m.RotaryScaling = yarn(factor, 64)
		if got := m.RotaryFactor(); math.Abs(got-want) > 1e-15 {
			t.Errorf("factor %v: %v, want %v", factor, got, want)
		}
	}
}

// Frequencies are those that transformers 5.24 computes of the same numbers, which it
// rounds to float32 on the way: Llama 3.1's and 3.2's, a linear scaling, and yarn: as
// Qwen has it, between pairs, and with lines that begin before the first pair.
func TestFrequencies(t *testing.T) {
	for _, c := range []struct {
		size  int
		base  float64
		scale RotaryScaling
		want  map[int]float64
	}{
		{128, 500000, RotaryScaling{Type: Llama3Scaling, Factor: 8, LowFreqFactor: 1, HighFreqFactor: 4, OriginalPositions: 8192}, map[int]float64{0: 1, 4: 0.44036662578582764, 16: 0.03760603070259094, 28: 0.0032114461064338684,
			32: 0.0005248460220173001, 36: 7.784655463183299e-05, 40: 3.428102354519069e-05, 60: 5.677088097399974e-07}},
		{64, 500000, RotaryScaling{Type: Llama3Scaling, Factor: 32, LowFreqFactor: 1, HighFreqFactor: 4, OriginalPositions: 8192}, map[int]float64{0: 1, 2: 0.44036662578582764, 14: 0.0032114461064338684, 16: 0.000429556705057621,
			18: 1.9461638657958247e-05, 30: 1.4192720243499934e-07}},
		{32, 10000, RotaryScaling{Type: LinearScaling, Factor: 4}, map[int]float64{0: 0.25, 1: 0.14058533310890198, 8: 0.0024999999441206455, 15: 4.4456985051510856e-05}},
		{128, 1e6, yarn(4, 32768), map[int]float64{0: 1, 1: 0.805842221, 8: 0.177827939, 16: 0.0316227786, 24: 0.00537532149, 32: 0.000602941145, 40: 4.44569851e-05, 63: 3.10234441e-07}},
		{64, 1e4, RotaryScaling{Type: YarnScaling, Factor: 16, OriginalPositions: 4096, BetaFast: 48, BetaSlow: 2, AttentionFactor: 1, Between: true},
			map[int]float64{0: 1, 1: 0.749894202, 8: 0.100000001, 12: 0.0237384606, 16: 0.00411054073, 20: 0.000225888303, 24: 6.2500003e-05, 31: 8.3345094e-06}},
		{32, 1e4, yarn(8, 512), map[int]float64{0: 1, 1: 0.562341332, 2: 0.276699275, 4: 0.0624999963, 6: 0.0118585415, 8: 0.00124999997, 15: 2.22284925e-05}},
		{16, 1e4, yarn(4, 4), map[int]float64{0: 1, 1: 0.079056941, 2: 0.0250000004, 7: 7.90569466e-05}},
		{8, 150, RotaryScaling{Type: YarnScaling, Factor: 40, OriginalPositions: 16, BetaFast: 5, BetaSlow: 1, AttentionFactor: 1}, map[int]float64{0: 1, 1: 0.00714360131, 3: 0.000583272602}},
		{32, 10000, RotaryScaling{}, map[int]float64{0: 1, 8: 0.01, 4: 0.1}},
	} {
		m := valid()
		m.AttnDim, m.RotaryBase, m.RotaryScaling = 4*c.size, c.base, c.scale
		if err := m.Validate(); err != nil {
			t.Error(err)
		}
		got := m.Frequencies()
		if len(got) != c.size/2 {
			t.Errorf("%d frequencies of heads of %d", len(got), c.size)
		}
		for j, want := range c.want {
			if math.Abs(got[j]-want) > 6e-7*want { // some roundings to float32
				t.Errorf("%+v: frequency %d is %v, want %v", c.scale, j, got[j], want)
			}
		}
	}
}

// What is wrong with a model is said of the field, with what would be right.
func TestModelErrors(t *testing.T) {
	if err := valid().Validate(); err != nil {
		t.Fatal(err)
	}
	llama := RotaryScaling{Type: Llama3Scaling, Factor: 8, LowFreqFactor: 1, HighFreqFactor: 4, OriginalPositions: 8192}
	for _, c := range []struct {
		field, msg string
		change     func(m *Model)
	}{
		{"norm_eps", "0 is out of range, want 1e-12 to 1", func(m *Model) { m.NormEps = 0 }},
		{"norm_eps", "NaN is out of range", func(m *Model) { m.NormEps = math.NaN() }},
		{"window", "-1 is out of range, want 1 to 1048576, or 0 for all", func(m *Model) { m.Window = -1 }},
		{"rotary_scaling.type", `unknown scaling "longrope"; valid are linear, llama3, yarn`, func(m *Model) { m.RotaryScaling.Type = "longrope" }},
		{"rotary_scaling.type", `unknown scaling ""`, func(m *Model) { m.RotaryScaling.Factor = 2 }},
		{"rotary_scaling", "positions are absolute", func(m *Model) { m.Position, m.RotaryScaling = Absolute, llama }},
		{"rotary_scaling.factor", "0.5 is out of range, want 1 to 1000000", func(m *Model) { m.RotaryScaling = RotaryScaling{Type: LinearScaling, Factor: 0.5} }},
		{"rotary_scaling.high_freq_factor", "linear has none", func(m *Model) { m.RotaryScaling = RotaryScaling{Type: LinearScaling, Factor: 2, HighFreqFactor: 4} }},
		{"rotary_scaling.original_max_positions", "0 is out of range", func(m *Model) { m.RotaryScaling = llama; m.RotaryScaling.OriginalPositions = 0 }},
		{"rotary_scaling.high_freq_factor", "want more than low_freq_factor, 4", func(m *Model) { m.RotaryScaling = llama; m.RotaryScaling.LowFreqFactor = 4 }},
		{"rotary_scaling.low_freq_factor", "NaN is out of range", func(m *Model) { m.RotaryScaling = llama; m.RotaryScaling.LowFreqFactor = math.NaN() }},
		{"rotary_scaling.beta_fast", "linear has none; it is for yarn", func(m *Model) { m.RotaryScaling = RotaryScaling{Type: LinearScaling, Factor: 2, BetaFast: 4} }},
		{"rotary_scaling.truncate", "llama3 has none", func(m *Model) { m.RotaryScaling = llama; m.RotaryScaling.Between = true }},
		{"rotary_scaling.low_freq_factor", "yarn has none; it is for llama3", func(m *Model) { m.RotaryScaling = yarn(2, 64); m.RotaryScaling.LowFreqFactor = 1 }},
		{"rotary_scaling.original_max_positions", "linear has none; it is for llama3 and yarn", func(m *Model) { m.RotaryScaling = RotaryScaling{Type: LinearScaling, Factor: 2, OriginalPositions: 9} }},
		{"rotary_scaling.beta_fast", "1 is out of range, want more than beta_slow, 1", func(m *Model) { m.RotaryScaling = yarn(2, 64); m.RotaryScaling.BetaFast = 1 }},
		{"rotary_scaling.beta_slow", "0 is out of range", func(m *Model) { m.RotaryScaling = yarn(2, 64); m.RotaryScaling.BetaSlow = 0 }},
		{"rotary_scaling.attention_factor", "NaN is out of range", func(m *Model) { m.RotaryScaling = yarn(2, 64); m.RotaryScaling.AttentionFactor = math.NaN() }},
		{"rotary_base", "1 is out of range, want more than 1 with", func(m *Model) { m.RotaryScaling = yarn(2, 64); m.RotaryBase = 1 }},
		{"window_layers", "1, and there is no window", func(m *Model) { m.WindowLayers = "1" }},
		{"window_layers", "2 is out of range, the model has layers 0 to 1", func(m *Model) { m.Window, m.WindowLayers = 4, "0 2" }},
		{"window_layers", "0-1 are all layers", func(m *Model) { m.Window, m.WindowLayers = 4, "0-1" }},
		{"window_layers", `"one" names no layers`, func(m *Model) { m.Window, m.WindowLayers = 4, "one" }},
		{"window_layers", `"0,1" is not written as "0-1"`, func(m *Model) { m.Window, m.Layers, m.WindowLayers = 4, 3, "0,1" }},
		{"rotary_scaling.high_freq_factor", "+Inf is out of range", func(m *Model) { m.RotaryScaling = llama; m.RotaryScaling.HighFreqFactor = math.Inf(1) }},
	} {
		m := valid()
		c.change(&m)
		err := m.Validate()
		var fe *FieldError
		if !errors.As(err, &fe) || fe.Field != c.field || !strings.Contains(err.Error(), c.msg) {
			t.Errorf("got %v, want %s: %s", err, c.field, c.msg)
		}
	}
}

// Biases and norms of heads are parameters where the model has them, under the
// reference's names and Hugging Face's.
func TestOptionalParams(t *testing.T) {
	names := func(m Model) (of []string) {
		for _, p := range m.Params() {
			if rest, ok := strings.CutPrefix(p.Name, "model.layers.1."); ok && !strings.HasPrefix(rest, "ln") && rest != "qkv_linear.weight" {
				if strings.HasSuffix(rest, ".bias") || strings.Contains(rest, "_norm") {
					of = append(of, rest)
				}
			}
		}
		return of
	}
	for _, c := range []struct {
		change func(m *Model)
		want   []string
	}{
		{func(*Model) {}, nil},
		{func(m *Model) { m.QKVBias = true }, []string{"qkv_linear.bias"}},
		{func(m *Model) { m.OutputBias = true }, []string{"o_linear.bias"}},
		{func(m *Model) { m.FFNBias = true }, []string{"mlp.fc1.bias", "mlp.fc2.bias"}},
		{func(m *Model) { m.QKNorm = true }, []string{"q_norm.weight", "k_norm.weight"}},
	} {
		m := valid()
		c.change(&m)
		if got := names(m); !slices.Equal(got, c.want) {
			t.Errorf("parameters %v, want %v", got, c.want)
		}
	}
	m := valid()
	m.QKNorm = true
	for _, p := range m.Params() {
		if strings.HasSuffix(p.Name, "q_norm.weight") && !slices.Equal(p.Shape, []int{32}) {
			t.Errorf("%s: shape %v, want [32]", p.Name, p.Shape)
		}
	}
}

// What a model is made of is said in words.
func TestForm(t *testing.T) {
	m := valid()
	if got, want := m.Form(), (Form{"4 heads of 32, 2 of keys and values", "rope, base 10000", "rmsnorm, epsilon 1e-06", "none"}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	m.QKNorm, m.Window, m.RotaryScaling, m.QKVBias, m.FFNBias = true, 4096, RotaryScaling{Type: Llama3Scaling, Factor: 8, LowFreqFactor: 1, HighFreqFactor: 4, OriginalPositions: 8192}, true, true
	if got, want := m.Form(), (Form{"4 heads of 32, 2 of keys and values, queries and keys normed, a window of 4096", "rope, base 10000, llama3 scaling by 8",
		"rmsnorm, epsilon 1e-06", "queries, keys and values; feed-forward networks"}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// Layers are named in one way, whatever they are read from.
func TestLayers(t *testing.T) {
	for text, want := range map[string]Layers{"": "", "3": "3", "0-3 5": "0-3 5", "5,0,1, 2-3": "0-3 5", "0 1 2 3 4 5 6 7": "0-7", "7 1": "1 7", "1-1": "1"} {
		got, err := ParseLayers(text, 8)
		if err != nil || got != want {
			t.Errorf("%q: %q, %v, want %q", text, got, err, want)
		}
		again, err := ParseLayers(string(got), 8)
		if err != nil || again != got || LayersOf(8, got.Has) != got {
			t.Errorf("%q is read as %q, %v, and has %q", got, again, err, LayersOf(8, got.Has))
		}
	}
	for _, text := range []string{"8", "-1", "3-1", "0-8", "x", "1-", "-", "0-1-2", "1.5", "01", "+1", "99999999999999999999"} {
		if got, err := ParseLayers(text, 8); err == nil {
			t.Errorf("%q names layers %q", text, got)
		}
	}
	if _, err := ParseLayers("0", -3); err == nil {
		t.Error("a model of -3 layers has a first one")
	}
	m := valid()
	m.Layers, m.Window, m.WindowLayers = 4, 7, "1 3"
	for i, want := range []int{0, 7, 0, 7} {
		if m.LayerWindow(i) != want {
			t.Errorf("layer %d: a window of %d", i, m.LayerWindow(i))
		}
	}
	if f := m.Form().Attention; !strings.HasSuffix(f, ", a window of 7 in layers 1 3") {
		t.Error(f)
	}
}

// Attention's cost counts what a window sees.
func TestWindowFLOPs(t *testing.T) {
	m := valid()
	all := m.ForwardFLOPs(2, 40)
	m.Window = 10
	// 4 * layers * batch * seq * (40 - 10) * 128
	if got := all - m.ForwardFLOPs(2, 40); got != 4*2*2*40*30*128 {
		t.Errorf("a window of 10 of 40 positions saves %v FLOPs", got)
	}
	m.WindowLayers = "1"
	if got := all - m.ForwardFLOPs(2, 40); got != 4*2*40*30*128 {
		t.Errorf("a window of 10 of 40 positions in one of two layers saves %v FLOPs", got)
	}
	m.WindowLayers = ""
	if m.Window = 41; m.ForwardFLOPs(2, 40) != all {
		t.Error("a window longer than the sequence changes the cost")
	}
}
