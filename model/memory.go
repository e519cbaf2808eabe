package model

import (
	"math"
	"slices"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// Memory is what a model is predicted to take, in bytes.
type Memory struct {
	Weights   int64 `json:"weights"`
	Packs     int64 `json:"packs"`
	Gradients int64 `json:"gradients"`
	Moments   int64 `json:"moments"`
	// Merged is what decoding with merged networks takes more; it is no part
	// of Total.
	Merged int64 `json:"merged"`
	// PerToken is the memory of the activations of one token of a
	// micro-batch, Fixed what does not grow with it.
	PerToken int64 `json:"activations_per_token"`
	Fixed    int64 `json:"fixed"`
}

// Total is the memory of a run with micro-batches of so many tokens, at most
// the largest number.
func (m Memory) Total(tokens int) int64 {
	rest := m.Weights + m.Packs + m.Gradients + m.Moments + m.Fixed
	if int64(tokens) > (math.MaxInt64-rest)/max(1, m.PerToken) {
		return math.MaxInt64
	}
	return rest + m.PerToken*int64(tokens)
}

// PredictMemory counts the buffers that training a model holds, or, without
// train, running one of [Load]: of its weights the embeddings and norms alone are
// more than packs. threads each have scratch of their own. With recompute,
// layers share the activations that the backward pass computes again. Weights are packed
// to the format.
func PredictMemory(s spec.Model, format kernel.FormatName, train, recompute bool, threads int) Memory {
	n := int64(0)
	list := some(s, keptUnpacked)
	if train {
		list = slices.Concat(s.Params(), s.Guides())
	}
	for _, p := range list {
		n += int64(roundUp(p.Size()))
	}
	m := Memory{Weights: 4 * n}
	if train {
		m.Gradients, m.Moments = 4*n, 8*n
	}
	h, qkv := s.Hidden, s.QKV().Out
	perToken := 0
	shared := map[spec.FFN]int{} // what the networks of one shape save, where they share it
	linear := func(l spec.Linear, format kernel.FormatName) {
		m.Packs += packs(plan.NewLayer(l).In(format), train)
	}
	widest := 0     // scratch of the widest FFN
	recomputed := 0 // and what it computes again, for a block of rows
	for i := range s.Layers {
		linear(s.QKV(), format)
		linear(s.Output(), format)
		f := s.LayerFFN(i)
		p := plan.NewFFNIn(f, format)
		m.Packs += packs(p.FC1, train) + packs(p.FC2, train)
		if f.Kind != spec.Dense {
			d := plan.NewFFNIn(spec.FFN{Kind: spec.Dense, Hidden: f.Hidden, FFN: f.FFN, Act: f.Act, Bias: f.Bias}, format)
			m.Merged += packs(d.FC1, false) + packs(d.FC2, false)
		}
		z := p.FC1.Saved() + p.FC2.Saved()
		recomputed = max(recomputed, p.FC1.Inner()+p.FC2.Inner()-z)
		// What a layer's trace holds, and what its FFN saves.
		trace, saved := 3*h+qkv+s.AttnDim+2*s.QHeads+4, z+len(p.FC1.Bias)
		if s.QKNorm {
			trace += (s.QHeads + s.KVHeads) * (s.HeadDim() + 1)
		}
		perToken += h
		if !recompute || i == 0 {
			perToken += trace
		}
		if !recompute || shared[f] == 0 {
			perToken += saved
		}
		shared[f] = saved
		scratch := f.FFN
		if train {
			scratch += len(p.FC1.Bias) + z
		} else if p.Apart {
			scratch += len(p.FC1.Bias)
		}
		widest = max(widest, scratch)
	}
	linear(s.Head(), plan.HeadFormat(format))
	perToken += 2*h + 2 + widest
	if train {
		perToken += 3*h + qkv + s.AttnDim
	}
	// Attention packs keys and values twice, and sums the gradients of both.
	heads := s.HeadDim() + panels(s.HeadDim())
	perToken += s.KVHeads * heads
	if train {
		perToken += s.KVHeads*heads + s.QHeads*(2*panels(s.HeadDim())+1)
	}
	m.PerToken = 4 * int64(perToken)
	angles := int64(0)
	if s.Position == spec.RoPE {
		angles = 4 * 2 * int64(s.MaxPositions) * int64(s.HeadDim()/2)
	}
	m.Fixed = angles + 4*int64(plan.HeadRows)*int64(s.Vocab) + int64(threads)*2<<20 + 4*2*kernel.RowBlock*int64(recomputed)
	return m
}

func panels(n int) int { return (n + kernel.Panel - 1) / kernel.Panel * kernel.Panel }

func packs(l plan.Layer, train bool) int64 {
	n := 0
	factors := l.Factors
	if l.Guide != nil {
		factors = append(slices.Clone(factors), *l.Guide)
	}
	for _, f := range factors {
		ps := f.Forward()
		if train {
			ps = append(ps, f.BackwardData()...)
		}
		for _, p := range ps {
			n += p.PackBytes() + kernel.EntryBytes*p.Columns() // of the bias
		}
	}
	return int64(n)
}
