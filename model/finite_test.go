package model

import (
	"math"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/model/config"
)

func TestFinite(t *testing.T) {
	c, err := config.Parse("small", []byte("model: {vocab: 11, hidden: 8, ffn: 16, layers: 1, q_heads: 2, mlp: {kind: lowrank, rank: 2}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	p := NewParams(c.Model)
	defer p.Close()
	for i := range p.Data {
		p.Data[i] = [...]float32{math.MaxFloat32, -math.MaxFloat32, 0, -1, math.SmallestNonzeroFloat32}[i%5]
	}
	if err := p.Finite(); err != nil {
		t.Errorf("finite weights: %v", err)
	}
	for _, q := range p.List() {
		for text, bad := range map[string]float64{"NaN": math.NaN(), "+Inf": math.Inf(1), "-Inf": math.Inf(-1)} {
			x := p.Get(q.Name)
			i := len(x) - 1
			was := x[i]
			x[i] = float32(bad)
			if err := p.Finite(); err == nil || !strings.Contains(err.Error(), q.Name+"[") || !strings.Contains(err.Error(), "] is "+text) {
				t.Errorf("%s is %s: %v", q.Name, text, err)
			}
			x[i] = was
		}
	}
}
