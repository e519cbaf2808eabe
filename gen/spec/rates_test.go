package spec

import (
	"maps"
	"slices"
	"testing"
)

// Learning rates come from the kind's row, each for the parameter of its factor.
func TestRates(t *testing.T) {
	old := slices.Clone(kinds)
	defer func() { kinds = old }()
	kinds = slices.Clone(old)
	m := Model{Hidden: 12, FFN: 24, Layers: 2, Kind: LowRank, Rank: 5, Act: GELU, Except: "0:dense"}
	if got := m.Rates(Linear.Rates); len(got) != 0 {
		t.Errorf("the paper has one learning rate, these are %v", got)
	}
	i := slices.IndexFunc(kinds, func(k kind) bool { return k.name == LowRank })
	kinds[i].rates = func(l Linear, _ []Factor) []float64 { return []float64{1, float64(l.Out)} }
	want := map[string]float64{"model.layers.1.mlp.fc1.lr2": 24, "model.layers.1.mlp.fc2.lr2": 12}
	if got := m.Rates(Linear.Rates); !maps.Equal(got, want) {
		t.Errorf("rates %v, want %v", got, want)
	}
}
