package spec

import (
	"errors"
	"fmt"
	"math"
	"strings"
)

// FieldError says what is wrong with one field of a spec and what would be
// right.
type FieldError struct {
	// Field is the field's name as files and flags spell it.
	Field string
	Msg   string
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Msg }

// Limits of a valid spec. They keep every product of two widths, and every
// count that the project computes, inside an int64.
const (
	MaxWidth  = 1 << 20
	MaxLayers = 1 << 12
	MaxParams = 1 << 40
	// Epsilons of norms; less would be lost beside float32's smallest squares.
	MinNormEps, MaxNormEps = 1e-12, 1.0
	MaxRotaryFactor        = 1e6
)

type checker struct{ errs []error }

func (c *checker) fail(field, format string, args ...any) {
	c.errs = append(c.errs, &FieldError{field, fmt.Sprintf(format, args...)})
}

func (c *checker) width(field string, v int) bool { return c.within(field, v, MaxWidth) }

func (c *checker) within(field string, v, limit int) bool {
	if v < 1 || v > limit {
		c.fail(field, "%d is out of range, want 1 to %d", v, limit)
		return false
	}
	return true
}

func (c *checker) err() error { return errors.Join(c.errs...) }

func divisors(n int) string {
	var ds []string
	for d := 1; d <= n && d <= 64; d++ {
		if n%d == 0 {
			ds = append(ds, fmt.Sprint(d))
		}
	}
	if n > 64 {
		ds = append(ds, "...")
	}
	return strings.Join(ds, ", ")
}

// Validate reports every field that is wrong as a [FieldError].
func (l Linear) Validate() error {
	var c checker
	if l.Guide && l.Kind == Dense {
		c.fail("guide", "a dense layer has none")
	}
	if c.width("in", l.In) && c.width("out", l.Out) {
		c.structure(map[string]int{"in": l.In, "out": l.Out},
			[]cut{{"in_split", l.InSplit, []string{"in"}}, {"out_split", l.OutSplit, []string{"out"}}}, l)
	}
	return c.err()
}

// Validate reports every field that is wrong as a [FieldError].
func (f FFN) Validate() error {
	var c checker
	c.ffn(f)
	return c.err()
}

func (c *checker) ffn(f FFN) {
	if f.Guide && f.Kind == Dense {
		c.fail("guide", "a dense network has none")
	}
	act := f.Act.Columns() > 0
	if !act {
		c.fail("act", "unknown activation %q; valid are %s", f.Act, Names(Acts(), ""))
	}
	if ok := c.width("hidden", f.Hidden); !c.width("ffn", f.FFN) || !ok || !act {
		return
	}
	fc1, fc2 := f.FC1(), f.FC2()
	c.structure(map[string]int{"hidden": f.Hidden, "ffn": f.FFN, "fc1's output": fc1.Out},
		[]cut{{"hidden_split", f.HiddenSplit, []string{"hidden"}}, {"ffn_split", f.FFNSplit, []string{"ffn", "fc1's output"}}},
		fc1, fc2)
}

// Validate reports every field that is wrong as a [FieldError].
func (m Model) Validate() error {
	var c checker
	ok := true
	for _, f := range []struct {
		name string
		v    int
	}{
		{"vocab", m.Vocab}, {"hidden", m.Hidden}, {"ffn", m.FFN}, {"attn_dim", m.AttnDim},
		{"q_heads", m.QHeads}, {"kv_heads", m.KVHeads}, {"max_positions", m.MaxPositions},
	} {
		ok = c.width(f.name, f.v) && ok
	}
	ok = c.within("layers", m.Layers, MaxLayers) && ok
	if ok {
		c.heads(m)
		c.ffn(m.LayerFFN(m.Layers))
		c.exceptions(m)
	}
	if m.Norm != LayerNorm && m.Norm != RMSNorm {
		c.fail("norm", "unknown norm %q; valid are layernorm, rmsnorm", m.Norm)
	}
	if !(m.NormEps >= MinNormEps && m.NormEps <= MaxNormEps) {
		c.fail("norm_eps", "%v is out of range, want %v to %v", m.NormEps, MinNormEps, MaxNormEps)
	}
	switch m.Position {
	case RoPE:
		if !(m.RotaryBase > 0) || math.IsInf(m.RotaryBase, 0) {
			c.fail("rotary_base", "%v is out of range, want a positive number", m.RotaryBase)
		}
	case Absolute:
	default:
		c.fail("position", "unknown position %q; valid are rope, absolute", m.Position)
	}
	c.rotaryScaling(m)
	if m.Window < 0 || m.Window > MaxWidth {
		c.fail("window", "%d is out of range, want 1 to %d, or 0 for all positions", m.Window, MaxWidth)
	}
	if ok && m.WindowLayers != "" {
		c.windowLayers(m)
	}
	if !(m.InitStd > 0) || math.IsInf(m.InitStd, 0) {
		c.fail("init_std", "%v is out of range, want a positive number", m.InitStd)
	}
	if len(c.errs) == 0 {
		if n := m.roughParams(); n > MaxParams {
			c.fail("layers", "the model would have about %.3g parameters, at most %d are supported", n, int64(MaxParams))
		}
	}
	return c.err()
}

func (c *checker) windowLayers(m Model) {
	layers, err := ParseLayers(string(m.WindowLayers), m.Layers)
	switch {
	case err != nil:
		c.fail("window_layers", "%v", err)
	case m.Window == 0:
		c.fail("window_layers", "%s, and there is no window", m.WindowLayers)
	case layers == LayersOf(m.Layers, func(int) bool { return true }):
		c.fail("window_layers", "%s are all layers, which is written as none", m.WindowLayers)
	case layers != m.WindowLayers:
		c.fail("window_layers", "%q is not written as %q", m.WindowLayers, layers)
	}
}

// roughParams counts in floating point, where nothing overflows.
func (m Model) roughParams() float64 {
	h, a, f := float64(m.Hidden), float64(m.AttnDim), float64(m.FFN)
	return float64(m.Layers)*(4*a*h+3*f*h) + 2*float64(m.Vocab)*h + float64(m.MaxPositions)*h
}

func (c *checker) heads(m Model) {
	if m.AttnDim%m.QHeads != 0 {
		c.fail("q_heads", "%d does not divide attn_dim %d; valid are %s", m.QHeads, m.AttnDim, divisors(m.AttnDim))
	} else if m.Position == RoPE && m.HeadDim()%2 != 0 {
		c.fail("q_heads", "%d heads of %d: rope needs an even head size", m.QHeads, m.HeadDim())
	}
	if m.QHeads%m.KVHeads != 0 {
		c.fail("kv_heads", "%d does not divide q_heads %d; valid are %s", m.KVHeads, m.QHeads, divisors(m.QHeads))
	}
}

// Warnings names the structures that save nothing against a dense layer.
func (l Linear) Warnings() []string {
	if dense := l.In * l.Out; l.Kind != Dense && l.Weights() >= dense {
		return []string{fmt.Sprintf("%s has %d weights, the dense layer %d: the structure saves nothing", l.Name(), l.Weights(), dense)}
	}
	return nil
}

// Warnings names the structures that save nothing against a dense layer.
func (f FFN) Warnings() []string { return append(f.FC1().Warnings(), f.FC2().Warnings()...) }

// Warnings names the structures that save nothing against a dense layer.
func (m Model) Warnings() (all []string) {
	for _, f := range m.FFNs() {
		all = append(all, f.Warnings()...)
	}
	return all
}

// Name is the canonical name of the layer: lowrank_768x3072_r384_bias.
func (l Linear) Name() string {
	return name(fmt.Sprintf("%s_%dx%d", l.Kind, l.In, l.Out), l.Rank, l.Blocks, l.InSplit, l.OutSplit) + given("_bias", l.Bias) + given("_guided", l.Guide)
}

// Name is the canonical name of the network: ffn_lowrank_768x3072_r384_gelu_bias.
func (f FFN) Name() string {
	n := name(fmt.Sprintf("ffn_%s_%dx%d", f.Kind, f.Hidden, f.FFN), f.Rank, f.Blocks, f.HiddenSplit, f.FFNSplit)
	return n + "_" + string(f.Act) + given("_bias", f.Bias) + given("_guided", f.Guide)
}

// given is a part of a name that stands only for what is there.
func given(part string, there bool) string {
	if there {
		return part
	}
	return ""
}

func name(s string, rank, blocks, split, otherSplit int) string {
	if rank > 0 {
		s += fmt.Sprintf("_r%d", rank)
	}
	if blocks > 0 {
		s += fmt.Sprintf("_b%d", blocks)
	}
	if split > 0 || otherSplit > 0 {
		s += fmt.Sprintf("_s%dx%d", split, otherSplit)
	}
	return s
}
