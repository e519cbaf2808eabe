package decode

import (
	"math"
	"slices"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model"
	rt "github.com/structuredffn/sffn/runtime"
)

// Decoding with merged networks gives the logits of the factors, but for
// rounding; a table that never merges leaves their bits; and a table that is
// there is not measured again.
func TestMerge(t *testing.T) {
	s := spec.Model{Name: "t", Vocab: 40, Hidden: 32, FFN: 96, Layers: 3, AttnDim: 32, QHeads: 2, KVHeads: 1, MaxPositions: 32,
		Kind: spec.BlockShuffle, Blocks: 4, Except: "0:dense", Act: spec.SwiGLU, QKVBias: true, OutputBias: true, FFNBias: true, Norm: spec.RMSNorm, NormEps: 1e-5, Position: spec.RoPE,
		RotaryBase: 1e4, TieEmbeddings: true, InitStd: 0.3}
	pool := rt.NewPool(2)
	defer pool.Close()
	ids := []int32{1, 5, 9, 3, 7}
	logits := func(measure bool, tables []Crossover) ([]float32, []Crossover) {
		t.Helper()
		p := model.NewParams(s)
		defer p.Close()
		for i := range p.Data {
			p.Data[i] = float32(math.Sin(float64(i))) / 4
		}
		m, err := Load(s, p.Read, rt.Options{Pool: pool})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if measure || tables != nil {
			if tables, err = m.Merge(measure, tables); err != nil {
				t.Fatal(err)
			}
		}
		d, err := m.NewDecoder(1, 16)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		out, err := d.Feed([]int{0}, [][]int32{ids})
		if err != nil {
			t.Fatal(err)
		}
		return slices.Clone(out), tables
	}
	plain, _ := logits(false, nil)
	always, _ := logits(false, []Crossover{})
	differ := 0
	for i, v := range plain {
		if math.Abs(float64(v-always[i])) > 1e-4*max(1, math.Abs(float64(v))) {
			t.Errorf("logit %d is %v merged, %v factored", i, always[i], v)
		}
		if v != always[i] {
			differ++
		}
	}
	if differ == 0 {
		t.Error("merged networks round as the factors do: were they merged?")
	}
	_, measured := logits(true, nil)
	if len(measured) != 1 || measured[0].Layer != s.LayerFFN(1).Name() || measured[0].Validate() != nil {
		t.Errorf("measured %+v", measured)
	}
	table := func(merged float64) []Crossover {
		return []Crossover{{Layer: s.LayerFFN(1).Name(), Rows: []int{1}, Factored: []float64{1}, Merged: []float64{merged}}}
	}
	if got, kept := logits(true, table(2)); !slices.Equal(got, plain) || kept[0].Merged[0] != 2 {
		t.Error("a table against merging was not followed")
	}
	if got, _ := logits(true, table(0.5)); !slices.Equal(got, always) {
		t.Error("a table for merging was not followed")
	}
}

func TestCrossover(t *testing.T) {
	c := Crossover{Layer: "x", Rows: []int{2, 8, 64}, Factored: []float64{1, 1, 1}, Merged: []float64{0.5, 0.99, 2}}
	for rows, want := range map[int]bool{1: false, 2: true, 7: true, 8: false, 100: false} {
		if c.Merge(rows) != want {
			t.Errorf("%d rows: merge %v", rows, !want)
		}
	}
	if !c.Ever() || c.Validate() != nil {
		t.Error(c.Validate())
	}
	for _, bad := range []Crossover{{}, {Rows: []int{1, 2}, Factored: []float64{1}, Merged: []float64{1}}, {Rows: []int{2, 1}, Factored: []float64{1, 1}, Merged: []float64{1, 1}}, {Rows: []int{0}, Factored: []float64{1}, Merged: []float64{1}}} {
		if bad.Validate() == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}
