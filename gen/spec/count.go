package spec

import "strings"

// Counts are the parameter counts of a model, by the conventions of the
// paper's tables.
type Counts struct {
	// Total is every learnable number, a tied head counted once. A guided
	// model's guides are part of this and of all other counts.
	Total int64
	// Formula counts attention and FFN weights and vocab*hidden; neither
	// biases nor norms.
	Formula int64
	// FormulaWithoutEmbedding leaves out vocab*hidden.
	FormulaWithoutEmbedding int64
	// MLPWeights counts the FFN weights, MLP their biases too.
	MLPWeights, MLP int64
}

// Count counts the parameters of a valid model.
func (m Model) Count() Counts {
	var c Counts
	for _, p := range m.Params() {
		c.Total += int64(p.Size())
		if strings.Contains(p.Name, ".mlp.") {
			c.MLP += int64(p.Size())
		}
	}
	for i := range m.Layers {
		c.MLPWeights += int64(m.LayerFFN(i).FC1().Weights() + m.LayerFFN(i).FC2().Weights())
	}
	if m.Guided {
		n := m.GuideParams()
		c.Total, c.MLP, c.MLPWeights = c.Total+n, c.MLP+n, c.MLPWeights+n
	}
	c.FormulaWithoutEmbedding = int64(m.Layers)*m.attentionWeights() + c.MLPWeights
	c.Formula = c.FormulaWithoutEmbedding + int64(m.Vocab)*int64(m.Hidden)
	return c
}

// GuideParams counts the weights of the dense guides of all structured layers.
func (m Model) GuideParams() int64 {
	n := int64(0)
	for i := range m.Layers {
		if f := m.LayerFFN(i); f.Kind != Dense {
			n += int64(f.FC1().In)*int64(f.FC1().Out) + int64(f.FC2().In)*int64(f.FC2().Out)
		}
	}
	return n
}

func (m Model) attentionWeights() int64 {
	return int64(m.QKV().Weights() + m.Output().Weights())
}

// ForwardFLOPs counts the floating-point operations of one forward pass over
// batch sequences of seq tokens: the head included, attention not halved for
// causality, or of a window of all its positions, embedding look-up, norms and activations left out. Counts of FLOPs
// are floating point: exact up to 2^53, and no batch is so large that they overflow.
func (m Model) ForwardFLOPs(batch, seq int) float64 {
	b, s := float64(batch), float64(seq)
	return 2*b*s*float64(m.Count().Formula) + 4*b*s*m.seen(m.Layers, seq)*float64(m.AttnDim)
}

// seen is the number of positions that attention's cost is counted for in the first
// layers, of a sequence of seq.
func (m Model) seen(layers, seq int) (n float64) {
	for i := range layers {
		if w := m.LayerWindow(i); w > 0 {
			n += float64(min(seq, w))
		} else {
			n += float64(seq)
		}
	}
	return n
}

// RecomputeFLOPs counts, by the conventions of ForwardFLOPs, what a backward
// pass computes again that keeps no activations but the layers' inputs: all
// layers but the last, each without the last factor of its network.
func (m Model) RecomputeFLOPs(batch, seq int) float64 {
	b, s := float64(batch), float64(seq)
	weights := int64(0)
	for i := range m.Layers - 1 {
		f := m.LayerFFN(i)
		weights += m.attentionWeights() + int64(f.FC1().Weights())
		if f.Guide {
			weights += int64(f.FC1().In) * int64(f.FC1().Out)
		}
		chain := f.FC2().Chain()
		for _, c := range chain[:len(chain)-1] {
			weights += int64(c.Weights())
		}
	}
	return 2*b*s*float64(weights) + 4*b*s*m.seen(m.Layers-1, seq)*float64(m.AttnDim)
}

// MLPFLOPs counts the share of the feed-forward networks in ForwardFLOPs.
func (m Model) MLPFLOPs(batch, seq int) float64 {
	return 2 * float64(batch) * float64(seq) * float64(m.Count().MLPWeights)
}
