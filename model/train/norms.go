package train

import (
	"math"
	"strings"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model"
)

// LayerKind is the kind of layer that a parameter belongs to, as metrics call
// it.
func LayerKind(name string) string {
	for _, k := range []struct{ part, kind string }{
		{"guide_linear", "guide"}, {".mlp.", "ffn"}, {"qkv_linear", "attention"}, {"o_linear", "attention"},
		{".ln", "norm"}, {"_norm.", "norm"}, {"lm_head", "head"},
	} {
		if strings.Contains(name, k.part) {
			return k.kind
		}
	}
	return "embedding"
}

// norms are the L2 norms of the parameters, or of their gradients, by kind of
// layer.
func norms(m *model.Model, p *model.Params) map[string]float64 {
	type unit struct {
		kind string
		x    []float32
	}
	var units []unit
	for _, list := range [][]spec.Param{p.List(), p.Guides()} {
		for _, q := range list {
			for x := p.Get(q.Name); len(x) > 0; {
				n := min(len(x), updateChunk)
				units = append(units, unit{LayerKind(q.Name), x[:n]})
				x = x[n:]
			}
		}
	}
	sums := make([]float64, len(units))
	m.Pool().Run(len(units), func(_, i int) { sums[i] = m.Vec().SumSquares(units[i].x) })
	all := map[string]float64{}
	for i, u := range units {
		all[u.kind] += sums[i]
	}
	for kind, sum := range all {
		all[kind] = math.Sqrt(sum)
	}
	return all
}
