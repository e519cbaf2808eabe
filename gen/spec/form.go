package spec

import (
	"fmt"
	"strings"
)

// Form says in words what a model is made of beside its widths and structures.
type Form struct {
	Attention string `json:"attention"`
	Positions string `json:"positions"`
	Norms     string `json:"norms"`
	Biases    string `json:"biases"`
}

// Form is that of the model.
func (m Model) Form() Form {
	f := Form{
		Attention: fmt.Sprintf("%d heads of %d, %d of keys and values", m.QHeads, m.HeadDim(), m.KVHeads),
		Positions: string(m.Position), Norms: fmt.Sprintf("%s, epsilon %v", m.Norm, m.NormEps), Biases: "none",
	}
	if m.QKNorm {
		f.Attention += ", queries and keys normed"
	}
	if m.Window > 0 {
		f.Attention += fmt.Sprintf(", a window of %d", m.Window)
		if m.WindowLayers != "" {
			f.Attention += fmt.Sprintf(" in layers %s", m.WindowLayers)
		}
	}
	if m.ScaleAttnByLayer {
		f.Attention += ", scores divided by the layer's number"
	}
	if m.Position == RoPE {
		f.Positions += fmt.Sprintf(", base %v", m.RotaryBase)
		if s := m.RotaryScaling; s.Type != "" {
			f.Positions += fmt.Sprintf(", %s scaling by %v", s.Type, s.Factor)
		}
	}
	var of []string
	for _, b := range []struct {
		name  string
		there bool
	}{{"queries, keys and values", m.QKVBias}, {"attention's output", m.OutputBias}, {"feed-forward networks", m.FFNBias}} {
		if b.there {
			of = append(of, b.name)
		}
	}
	if len(of) > 0 {
		f.Biases = strings.Join(of, "; ")
	}
	return f
}
