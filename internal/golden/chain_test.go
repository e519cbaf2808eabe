package golden

import (
	"encoding/json"
	"io/fs"
	"math"
	"slices"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
)

// chainSpec is what a manifest says of a layer's factors.
type chainSpec struct {
	Weights int `json:"weights"`
	Chain   []struct {
		Param  string  `json:"param"`
		Blocks int     `json:"blocks"`
		Out    int     `json:"out"`
		In     int     `json:"in"`
		LR     float64 `json:"lr_mult"`
		Then   struct {
			View []int `json:"view"`
		} `json:"then"`
	} `json:"chain"`
}

// The chains of the kinds, their weights, shuffles and learning rates are those of
// the references.
func TestChains(t *testing.T) {
	src, err := fs.ReadFile(Cases(), "manifest.json")
	if err != nil {
		t.Fatal(err)
	}
	var m struct {
		Cases []struct {
			chainSpec
			FC1 chainSpec `json:"fc1"`
			FC2 chainSpec `json:"fc2"`
		} `json:"cases"`
	}
	if err := json.Unmarshal(src, &m); err != nil {
		t.Fatal(err)
	}
	cases, err := List(Cases())
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	check := func(c *Case, l spec.Linear, want chainSpec) {
		checked++
		if l.Weights() != want.Weights {
			t.Errorf("%s: %d weights, want %d", c.Name, l.Weights(), want.Weights)
		}
		chain, rates := l.Chain(), l.Rates()
		if len(chain) != len(want.Chain) {
			t.Errorf("%s: %d factors, want %d", c.Name, len(chain), len(want.Chain))
			return
		}
		for i, w := range want.Chain {
			f := chain[i]
			if f.Param != w.Param || f.Blocks != w.Blocks || f.Out != w.Out || f.In != w.In {
				t.Errorf("%s: factor %+v, want %+v", c.Name, f, w)
			}
			then := spec.Shuffle{}
			if v := append(slices.Clone(w.Then.View), 1); len(v) > 2 {
				then = spec.Shuffle{Outer: v[0], Inner: v[1], Run: v[2]}
			}
			if f.Then != then {
				t.Errorf("%s: %s is followed by %v, want %v", c.Name, f.Param, f.Then, then)
			}
			if w.LR > 0 && math.Abs(rates[i]-w.LR) > 1e-12*w.LR {
				t.Errorf("%s: %s has %v times the learning rate, want %v", c.Name, f.Param, rates[i], w.LR)
			}
		}
	}
	for i := range cases {
		c, of := &cases[i], m.Cases[i]
		switch {
		case of.Chain != nil:
			l, err := c.Linear()
			if err != nil {
				t.Fatal(err)
			}
			check(c, l, of.chainSpec)
		case of.FC1.Chain != nil:
			f, err := c.Network()
			if err != nil {
				t.Fatal(err)
			}
			check(c, f.FC1(), of.FC1)
			check(c, f.FC2(), of.FC2)
		}
	}
	if checked != 19 {
		t.Errorf("%d chains were compared, want 19", checked)
	}
}
