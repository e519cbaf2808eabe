package convert

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/decode"
	"github.com/structuredffn/sffn/model/project"
	"github.com/structuredffn/sffn/model/train"
	rt "github.com/structuredffn/sffn/runtime"
)

// The layers of a model whose first network is of rank 3 and whose last one does
// nothing: those need little of the budget, and the middle one gets it. All within the
// budget; the loss is less than that of equal ranks.
func TestAllot(t *testing.T) {
	from, _ := saveDense(t, nil, func(p *model.Params) {
		pool := rt.NewPool(1)
		defer pool.Close()
		for _, name := range []string{"fc1", "fc2"} {
			w := p.Get("model.layers.0.mlp." + name + ".weight")
			f := p.Spec().LayerFFN(0)
			l := map[string]spec.Linear{"fc1": f.FC1(), "fc2": f.FC2()}[name]
			l.Kind, l.Rank = spec.LowRank, 3
			d, err := project.Project(context.Background(), l, wide(w), project.Goal{}, rt.Options{Pool: pool})
			if err != nil {
				t.Fatal(err)
			}
			for o := range l.Out {
				for i := range l.In {
					sum := 0.0
					for s := range l.Rank {
						sum += d.Factors[1][o*l.Rank+s] * d.Factors[0][s*l.In+i]
					}
					w[o*l.In+i] = float32(sum)
				}
			}
		}
		clear(p.Get("model.layers.2.mlp.fc2.weight"))
	})
	// Text of the model itself, of which no other model has a lower loss.
	c := text(true)
	pool := rt.NewPool(2)
	defer pool.Close()
	writer := load(t, from, pool)
	n := len(c.IDs) / c.Seq
	d, err := writer.NewDecoder(n, c.Seq)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var prompts [][]int32
	at := make([]int, n)
	for i := range n {
		prompts = append(prompts, c.IDs[i*c.Seq:][:1:1])
	}
	err = d.Generate(prompts, c.Seq-1, -1, decode.Sampling{Temperature: 1}, func(seq int, id int32) bool {
		at[seq]++
		c.IDs[seq*c.Seq+at[seq]] = id
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	loss := func(m *decode.Model) float64 {
		tr := m.NewTrace(rowsAtOnce)
		defer tr.Close()
		targets := slices.Concat(c.IDs[1:], []int32{model.Ignored})
		for i := c.Seq - 1; i < len(targets); i += c.Seq {
			targets[i] = model.Ignored
		}
		l, err := train.Evaluate(tr, c.IDs, targets, c.Seq, rowsAtOnce/c.Seq)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	allotted, even := *c, *c
	allotted.Allot = true
	aim := Aim{Kind: spec.LowRank, Budget: 0.5}
	r, to, p := run(t, &Conversion{From: from, Aim: aim, Calibration: &allotted}, 2)
	m := to.Config.Model
	if first, middle, last := m.Structure(0), m.Structure(1), m.Structure(2); first.Kind != spec.LowRank || first.Rank < 3 || weights(m, first) >= weights(m, middle) || weights(m, last) >= weights(m, first) {
		t.Errorf("layers got %v, %v, %v of %v", first, middle, last, r.Effects)
	}
	if share := float64(m.Count().MLPWeights) / float64(from.Config.Model.Count().MLPWeights); share > 0.5 || share < 0.4 {
		t.Errorf("share %v of a budget of 0.5", share)
	}
	layers := map[int]int{}
	for _, e := range r.Effects {
		layers[e.Layer]++
		if e.Structure.Kind == spec.Dense && e.Loss != 0 {
			t.Errorf("dense costs %v", e.Loss)
		}
	}
	if layers[0] < 4 || layers[1] < 4 || layers[2] < 4 {
		t.Errorf("measured %v", layers)
	}
	s, other, _ := run(t, &Conversion{From: from, Aim: aim, Calibration: &even}, 2)
	if len(s.Effects) > 0 {
		t.Error("equal ranks are measured")
	}
	dense := loss(writer)
	if a, b := loss(load(t, to, pool))-dense, loss(load(t, other, pool))-dense; !(a < 0.8*b) {
		t.Errorf("ranks by layer cost %v, equal ones %v", a, b)
	}
	_, _, again := run(t, &Conversion{From: from, Aim: aim, Calibration: &allotted}, 3)
	if !slices.Equal(again.Data, p.Data) {
		t.Error("3 threads give other bits than 2")
	}
}

// Every kind that has a choice shares its budget out, and layers that are kept stay.
func TestAllotKinds(t *testing.T) {
	from, _ := saveDense(t, nil, nil)
	for _, kind := range spec.Kinds() {
		c := text(false)
		c.Allot = true
		aim := Aim{Kind: kind, Budget: 0.8, Keep: []int{1}}
		if kind == spec.Dense {
			aim.Keep = nil
		}
		r, to, _ := run(t, &Conversion{From: from, Aim: aim, Calibration: c}, 2)
		if (len(r.Effects) == 0) != (kind == spec.Dense) || r.Share > aim.Budget {
			t.Errorf("%s: %d effects, share %v", kind, len(r.Effects), r.Share)
		}
		if kind != spec.Dense && to.Config.Model.Structure(1).Kind != spec.Dense {
			t.Errorf("%s: layer 1 is %v", kind, to.Config.Model.Structure(1))
		}
	}
}

// The loss that a stream measures at a layer is that of the model with the other network.
func TestStreamLoss(t *testing.T) {
	from, p := saveDense(t, nil, nil)
	pool := rt.NewPool(2)
	defer pool.Close()
	m, c := load(t, from, pool), text(true)
	s, err := NewStream(m, c)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	w := rt.FFNWeights{}
	for name, l := range map[string]*rt.Weights{"fc1": &w.FC1, "fc2": &w.FC2} {
		x := slices.Clone(p.Get("model.layers.1.mlp." + name + ".weight"))
		for i := range x {
			x[i] = -x[i]
		}
		*l = rt.Weights{Factors: [][]float32{x}, Bias: p.Get("model.layers.1.mlp." + name + ".bias")}
	}
	other, err := rt.NewFFN(m.Spec.LayerFFN(1), w, rt.Options{Pool: pool})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	ctx := context.Background()
	if err := s.mix(ctx, 0); err != nil {
		t.Fatal(err)
	}
	if err := s.advance(ctx, m.FFN(0)); err != nil {
		t.Fatal(err)
	}
	if err := s.mix(ctx, 1); err != nil {
		t.Fatal(err)
	}
	const tokens = 150 // of three sequences
	got, err := s.loss(ctx, 1, other, tokens)
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.loss(ctx, 1, other, tokens)
	if err != nil || again != got {
		t.Errorf("measured again it is %v, was %v: %v", again, got, err)
	}
	for name, l := range map[string]rt.Weights{"fc1": w.FC1, "fc2": w.FC2} {
		copy(p.Get("model.layers.1.mlp."+name+".weight"), l.Factors[0])
	}
	changed, err := model.New(m.Spec, p, rt.Options{Pool: pool})
	if err != nil {
		t.Fatal(err)
	}
	defer changed.Close()
	tr := changed.NewTrace(tokens)
	defer tr.Close()
	targets := slices.Concat(c.IDs[1:tokens], []int32{model.Ignored})
	for i := c.Seq - 1; i < len(targets); i += c.Seq {
		targets[i] = model.Ignored
	}
	want, err := train.Evaluate(tr, c.IDs[:tokens], targets, c.Seq, 3)
	if err != nil || math.Abs(got-want) > 1e-5 {
		t.Errorf("the loss is %v, the model's %v: %v", got, want, err)
	}
}

// No choice among what was measured is better within the budget, where courses are
// convex and the budget ends with a piece; elsewhere it is within the budget.
func TestShareIsBest(t *testing.T) {
	m := spec.Model{Hidden: 10, FFN: 10, Layers: 3, Act: spec.GELU}
	var all []spec.Structure
	for r := 1; r < 5; r++ {
		all = append(all, spec.Structure{Kind: spec.LowRank, Rank: r})
	}
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		var effects []Effect
		var by [3][]Effect
		for layer := range 3 {
			loss, drop := 10*r.Float64(), 3*r.Float64()
			for _, s := range all {
				by[layer] = append(by[layer], Effect{layer, s, weights(m, s), loss})
				loss -= drop
				drop *= r.Float64() // convex
			}
			effects = append(effects, by[layer]...)
		}
		budget := 0.0
		for range 3 {
			budget += float64(by[0][r.IntN(4)].Weights)
		}
		got := share(m, effects, all, budget)
		spent, cost, best := 0.0, 0.0, math.Inf(1)
		for layer, es := range by {
			i := slices.IndexFunc(es, func(e Effect) bool { return e.Structure == got[layer] })
			spent += float64(es[i].Weights)
			cost += es[i].Loss
		}
		for n := range 64 {
			w, c := 0.0, 0.0
			for layer, i := range []int{n % 4, n / 4 % 4, n / 16} {
				w += float64(by[layer][i].Weights)
				c += by[layer][i].Loss
			}
			if w <= budget {
				best = min(best, c)
			}
		}
		if spent > budget || cost > best+1e-12 {
			t.Fatalf("seed %d: %v of %v spent, effects %v, the best are %v", seed, spent, budget, cost, best)
		}
	}
}

// Measurements that rise, or lie above a line between others, are no reason to spend.
func TestConvex(t *testing.T) {
	es := []Effect{{Weights: 1, Loss: 9}, {Weights: 2, Loss: 8.5}, {Weights: 3, Loss: 3}, {Weights: 4, Loss: 3.5}, {Weights: 5, Loss: 2}, {Weights: 5, Loss: 2.5}, {Weights: 9, Loss: 2}}
	got := ""
	for _, e := range convex(es) {
		got += fmt.Sprint(e.Weights, " ")
	}
	if got != "1 3 5 " {
		t.Errorf("the course is %s", got)
	}
}
