package gen

import (
	"bytes"
	"testing"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/plan/cpu"
	"github.com/structuredffn/sffn/gen/specfile"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// The package of a model whose layers differ has the kernels of each of them.
func TestPackagePerLayer(t *testing.T) {
	m, err := specfile.Parse("four", []byte(`model:
  vocab: 257
  hidden: 48
  ffn: 96
  layers: 4
  q_heads: 2
  mlp: [{kind: lowrank, rank: 20}, {kind: dense}, {kind: blockshuffle, blocks: 3}, {kind: blockdense, rank: 24, blocks: 2}]
`))
	if err != nil {
		t.Fatal(err)
	}
	p := Of("four", m)
	files, err := p.Files()
	if err != nil {
		t.Fatal(err)
	}
	var text []byte
	for _, f := range files {
		text = append(text, f.Data...)
	}
	if len(p.FFNs) != m.Layers {
		t.Errorf("%d networks of %d layers", len(p.FFNs), m.Layers)
	}
	for i := range m.Layers {
		f := plan.NewFFN(m.LayerFFN(i))
		for _, target := range cpu.Targets() {
			if target.ISA == kernel.Portable {
				continue
			}
			ks := cpu.Specialised(target, f.FC1, f.FC2)
			for _, k := range ks {
				if !bytes.Contains(text, []byte("·"+k.Name()+"(SB)")) {
					t.Errorf("layer %d, %s: no kernel %s", i, f.Spec.Name(), k.Name())
				}
			}
			if len(ks) == 0 {
				t.Errorf("layer %d needs no kernels for %s", i, target.Name)
			}
		}
	}
}
