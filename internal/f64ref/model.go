package f64ref

import (
	"fmt"
	"math"

	"github.com/structuredffn/sffn/gen/spec"
)

// Model is a transformer in float64, one token after the other, for one
// sequence at a time.
type Model struct {
	spec.Model
	// Get returns a parameter by name, nil where the model has none.
	Get func(name string) []float64
	// Ratios are the guides' shares, in the order of the spec's Guides; nil where
	// they are off.
	Ratios []float64

	chains map[spec.Linear]*Chain
}

// Logits computes [len(ids), vocab].
func (m *Model) Logits(ids []int32) []float64 {
	h, n := m.Hidden, len(ids)
	wte, wpe := m.Get("model.wte.weight"), m.Get("model.wpe.weight")
	x := make([]float64, n*h)
	for r, id := range ids {
		for j := range h {
			x[r*h+j] = wte[int(id)*h+j]
			if wpe != nil {
				x[r*h+j] += wpe[r*h+j]
			}
		}
	}
	guides := 0
	for i := range m.Layers {
		name := fmt.Sprintf("model.layers.%d", i)
		qkv := m.linear(name+".qkv_linear", m.QKV(), 0, m.norm(name+".ln1", x), n)
		add(x, m.linear(name+".o_linear", m.Output(), 0, m.attention(i, qkv, n), n))
		f := m.LayerFFN(i)
		ratio := func() (a float64) {
			if f.Guide && m.Ratios != nil {
				a = m.Ratios[guides]
			}
			guides++
			return a
		}
		if !f.Guide {
			ratio = func() float64 { return 0 }
		}
		pre := m.linear(name+".mlp.fc1", f.FC1(), ratio(), m.norm(name+".ln2", x), n)
		add(x, m.linear(name+".mlp.fc2", f.FC2(), ratio(), Activate(f, pre, n), n))
	}
	head := wte
	if !m.TieEmbeddings {
		head = m.Get("lm_head.weight")
	}
	return Linear(head, nil, m.norm("model.ln_f", x), n, h, m.Vocab)
}

// Loss is the mean cross entropy of targets after ids.
func (m *Model) Loss(ids, targets []int32) float64 {
	logits, loss := m.Logits(ids), 0.0
	for r, target := range targets {
		row, sum := logits[r*m.Vocab:(r+1)*m.Vocab], 0.0
		for _, v := range row {
			sum += math.Exp(v)
		}
		loss += math.Log(sum) - row[target]
	}
	return loss / float64(len(ids))
}

func add(x, y []float64) {
	for i, v := range y {
		x[i] += v
	}
}

func (m *Model) norm(name string, x []float64) []float64 {
	w, b, h := m.Get(name+".weight"), m.Get(name+".bias"), m.Hidden
	y := make([]float64, len(x))
	for r := 0; r < len(x); r += h {
		mean, square := 0.0, 0.0
		for _, v := range x[r : r+h] {
			if m.Norm == spec.LayerNorm {
				mean += v / float64(h)
			}
		}
		for _, v := range x[r : r+h] {
			square += (v - mean) * (v - mean) / float64(h)
		}
		for j := range h {
			y[r+j] = (x[r+j] - mean) / math.Sqrt(square+m.NormEps) * w[j]
			if b != nil {
				y[r+j] += b[j]
			}
		}
	}
	return y
}

// linear is a layer with a share of its guide.
func (m *Model) linear(name string, l spec.Linear, ratio float64, x []float64, n int) []float64 {
	if m.chains == nil {
		m.chains = map[spec.Linear]*Chain{}
	}
	if m.chains[l] == nil {
		m.chains[l] = NewChain(l)
	}
	var w [][]float64
	for _, f := range l.Chain() {
		w = append(w, m.Get(name+"."+f.Param))
	}
	y, _ := m.chains[l].Forward(w, x, n)
	if ratio != 0 {
		for i, v := range Linear(m.Get(name+"."+l.GuideParam().Name), nil, x, n, l.In, l.Out) {
			y[i] = ratio*v + (1-ratio)*y[i]
		}
	}
	if l.Bias {
		b := m.Get(name + ".bias")
		for i := range y {
			y[i] += b[i%l.Out]
		}
	}
	return y
}

// normHeads norms queries and keys, head by head.
func (m *Model) normHeads(i int, qkv []float64) {
	hd, heads := m.HeadDim(), m.QHeads+m.KVHeads
	for at := 0; at < len(qkv); at += m.QKV().Out {
		for head := range heads {
			name := "q_norm"
			if head >= m.QHeads {
				name = "k_norm"
			}
			w, x, square := m.Get(fmt.Sprintf("model.layers.%d.%s.weight", i, name)), qkv[at+head*hd:][:hd], 0.0
			for _, v := range x {
				square += v * v / float64(hd)
			}
			for j := range x {
				x[j] *= w[j] / math.Sqrt(square+m.NormEps)
			}
		}
	}
}

// frequency is the angle of a position for pair j of a head, by its wavelength as
// transformers has it.
func (m *Model) frequency(j int) float64 {
	f, s := math.Pow(m.RotaryBase, -2*float64(j)/float64(m.HeadDim())), m.RotaryScaling
	switch s.Type {
	case spec.LinearScaling:
		return f / s.Factor
	case spec.Llama3Scaling:
		context, length := float64(s.OriginalPositions), 2*math.Pi/f
		switch {
		case length > context/s.LowFreqFactor:
			return f / s.Factor
		case length < context/s.HighFreqFactor:
			return f
		}
		smooth := (context/length - s.LowFreqFactor) / (s.HighFreqFactor - s.LowFreqFactor)
		return (1-smooth)*f/s.Factor + smooth*f
	case spec.YarnScaling:
		// The pairs of so many turns, of which the first and the last are whole numbers.
		pair := func(turns float64, whole func(float64) float64) float64 {
			p := math.Log(float64(s.OriginalPositions)/(2*math.Pi*turns)) / math.Log(m.RotaryBase) * float64(m.HeadDim()) / 2
			if s.Between {
				return p
			}
			return whole(p)
		}
		from, to := max(0, pair(s.BetaFast, math.Floor)), min(float64(m.HeadDim()-1), pair(s.BetaSlow, math.Ceil))
		switch at := float64(j); {
		case at <= from:
			return f
		case at >= to:
			return f / s.Factor
		default:
			ramp := (at - from) / (to - from)
			return f*(1-ramp) + f/s.Factor*ramp
		}
	}
	return f
}

// attention is causal softmax(q k^T) v of layer i, its queries and keys normed where
// the model does, and rotated where positions are rotary.
func (m *Model) attention(i int, qkv []float64, n int) []float64 {
	hd, width := m.HeadDim(), m.QKV().Out
	group := m.QHeads / m.KVHeads
	if m.QKNorm {
		m.normHeads(i, qkv)
	}
	if m.Position == spec.RoPE {
		for r := range n {
			for head := range m.QHeads + m.KVHeads {
				x := qkv[r*width+head*hd:][:hd]
				for j := range hd / 2 {
					sin, cos := math.Sincos(float64(r) * m.frequency(j))
					a, c := m.RotaryFactor()*x[j], m.RotaryFactor()*x[j+hd/2]
					x[j], x[j+hd/2] = a*cos-c*sin, c*cos+a*sin
				}
			}
		}
	}
	scale := 1 / math.Sqrt(float64(hd))
	if m.ScaleAttnByLayer {
		scale /= float64(i + 1)
	}
	o := make([]float64, n*m.AttnDim)
	for head := range m.QHeads {
		key, value := (m.QHeads+head/group)*hd, (m.QHeads+m.KVHeads+head/group)*hd
		for r := range n {
			p, sum, most := make([]float64, r+1), 0.0, math.Inf(-1)
			for c := range p {
				if w := m.LayerWindow(i); w > 0 && r-c >= w {
					p[c] = math.Inf(-1)
					continue
				}
				for d := range hd {
					p[c] += scale * qkv[r*width+head*hd+d] * qkv[c*width+key+d]
				}
				most = max(most, p[c])
			}
			for c := range p {
				p[c] = math.Exp(p[c] - most)
				sum += p[c]
			}
			for c := range p {
				for d := range hd {
					o[r*m.AttnDim+head*hd+d] += p[c] / sum * qkv[c*width+value+d]
				}
			}
		}
	}
	return o
}
