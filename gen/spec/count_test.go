package spec_test

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
)

// Every count of the paper's configurations, with and without guides.
func TestParamsFLOPs(t *testing.T) {
	src, err := os.ReadFile("testdata/params_flops.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Configs []struct {
			Name                             string
			Hidden, Attn, FFN, Layers, Vocab int
			QHeads                           int `json:"q_heads"`
			KVHeads                          int `json:"kv_heads"`
			Method                           string
			Rank                             int
			Blocks                           int       `json:"nblocks"`
			FirstDense                       bool      `json:"first_layer_dense"`
			Total                            int64     `json:"total_params"`
			Formula                          int64     `json:"formula_params"`
			WithoutEmbedding                 int64     `json:"formula_params_without_embedding"`
			MLPWeights                       int64     `json:"mlp_weight_params"`
			MLP                              int64     `json:"mlp_params_with_bias"`
			FLOPs                            int64     `json:"flops_b1_s1024"`
			MLPFLOPs                         int64     `json:"mlp_flops_b1_s1024"`
			Guide                            int64     `json:"guide_params"`
			SelfGuided                       *struct{} `json:"self_guided"`
		}
	}
	if err := json.Unmarshal(src, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Configs) < 32 {
		t.Fatalf("%d configurations", len(file.Configs))
	}
	for _, c := range file.Configs {
		t.Run(c.Name, func(t *testing.T) {
			kind := spec.Kind(c.Method)
			if c.Method == "linear" {
				kind = spec.Dense
			}
			m := spec.Model{Vocab: c.Vocab, Hidden: c.Hidden, FFN: c.FFN, Layers: c.Layers, AttnDim: c.Attn, QHeads: c.QHeads, KVHeads: c.KVHeads,
				MaxPositions: 1024, Kind: kind, Rank: c.Rank, Blocks: c.Blocks,
				Act: spec.GELU, QKVBias: true, OutputBias: true, FFNBias: true, Norm: spec.LayerNorm, NormEps: 1e-5, Position: spec.RoPE, RotaryBase: 1e4, TieEmbeddings: true, InitStd: 0.02}
			if c.FirstDense {
				m.SetStructure(0, 0, spec.Structure{Kind: spec.Dense})
			}
			if err := m.Validate(); err != nil {
				t.Fatal(err)
			}
			guide := int64(0)
			if c.SelfGuided != nil {
				guide, m.Guided = m.GuideParams(), true
			}
			n := m.Count()
			for _, q := range []struct {
				name      string
				got, want int64
			}{
				{"guide", guide, c.Guide},
				{"total", n.Total, c.Total},
				{"formula", n.Formula, c.Formula},
				{"without embedding", n.FormulaWithoutEmbedding, c.WithoutEmbedding},
				{"mlp weights", n.MLPWeights, c.MLPWeights},
				{"mlp", n.MLP, c.MLP},
				{"flops", int64(m.ForwardFLOPs(1, 1024)), c.FLOPs},
				{"mlp flops", int64(m.MLPFLOPs(1, 1024)), c.MLPFLOPs},
			} {
				if q.got != q.want {
					t.Errorf("%s: %d, want %d", q.name, q.got, q.want)
				}
			}
		})
	}
}
