package model

import (
	"strings"
	"time"

	"github.com/structuredffn/sffn/gen/spec"
)

// Parts is the number of a model's parts, in the order in which a forward pass
// reads their parameters: the embeddings, each layer, and the last norm with the
// head. A backward pass finishes their gradients in the reverse order; that of a
// tied head is finished with the embeddings.
func Parts(m spec.Model) int { return m.Layers + 2 }

// Part lists where the parameters of a part lie: in one stretch, but for guides,
// which lie in another.
func (p *Params) Part(i int) []Range {
	mine := func(name string) bool {
		switch i {
		case 0:
			return name == "model.wte.weight" || name == "model.wpe.weight"
		case p.spec.Layers + 1:
			return strings.HasPrefix(name, "model.ln_f.") || strings.HasPrefix(name, "lm_head.")
		}
		return strings.HasPrefix(name, LayerName(i-1)+".")
	}
	var all []Range
	for _, list := range [][]spec.Param{p.Guides(), p.List()} {
		var r Range
		for _, q := range list {
			if s := p.ranges[q.Name]; mine(q.Name) && r == (Range{}) {
				r = s
			} else if mine(q.Name) {
				r = Range{min(r.Lo, s.Lo), max(r.Hi, s.Hi)}
			}
		}
		if r.Hi > r.Lo {
			all = append(all, r)
		}
	}
	return all
}

// RepackPart packs a part of Params for the kernels.
func (t *Model) RepackPart(i int) {
	defer t.prof.since(&t.prof.Pack, time.Now())
	switch {
	case i == len(t.layers)+1:
		t.head.Repack()
	case i > 0:
		l := t.layers[i-1]
		l.qkv.Repack()
		l.out.Repack()
		l.ffn.Repack()
	}
}
