package convert

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/gen/specfile"
	"github.com/structuredffn/sffn/internal/f64ref"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/checkpoint"
	"github.com/structuredffn/sffn/model/config"
	"github.com/structuredffn/sffn/model/decode"
	"github.com/structuredffn/sffn/model/initial"
	"github.com/structuredffn/sffn/model/safetensors"
	rt "github.com/structuredffn/sffn/runtime"
)

// saveDense writes a dense model of random weights, none of them 0, which edit may
// change, and returns its checkpoint and its parameters.
func saveDense(t *testing.T, change func(*specfile.Section), edit func(*model.Params)) (*decode.Checkpoint, *model.Params) {
	t.Helper()
	s := specfile.NewSection()
	s.Vocab, s.Hidden, s.FFN, s.Layers, s.QHeads, s.MaxPositions = 60, 24, 48, 3, 2, 64
	s.MLP.FirstDense = false
	if change != nil {
		change(&s)
	}
	c, err := config.Of("small", s)
	if err != nil {
		t.Fatal(err)
	}
	pool := rt.NewPool(1)
	defer pool.Close()
	p := model.NewParams(c.Model)
	t.Cleanup(p.Close)
	initial.Model(p, c.Model, 3, initial.Merged, pool)
	r := rand.New(rand.NewPCG(1, 2))
	var values []safetensors.Value
	for _, q := range p.List() {
		x := p.Get(q.Name)
		for i := range x {
			x[i] += float32(0.2 * r.NormFloat64())
		}
		values = append(values, safetensors.Value{Name: q.Name, Shape: q.Shape, Data: x})
	}
	if edit != nil {
		edit(p)
	}
	dir, err := checkpoint.SaveWeights(filepath.Join(t.TempDir(), "dense"), c.Source, checkpoint.State{Name: "small", Steps: c.Train.Steps}, nil, values)
	if err != nil {
		t.Fatal(err)
	}
	from, err := decode.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return from, p
}

// run converts into a new folder and reads what is there.
func run(t *testing.T, c *Conversion, threads int) (*Report, *decode.Checkpoint, *model.Params) {
	t.Helper()
	pool := rt.NewPool(threads)
	t.Cleanup(pool.Close)
	c.Options.Pool = pool
	steps, err := c.Begin(filepath.Join(t.TempDir(), "run"))
	if err != nil {
		t.Fatal(err)
	}
	done := 0
	c.Progress = func(n int) {
		if n <= done {
			t.Errorf("step %d follows %d", n, done)
		}
		done = n
	}
	r, err := c.Run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if done != steps {
		t.Errorf("%d of %d steps", done, steps)
	}
	to, err := decode.Open(r.Out)
	if err != nil {
		t.Fatal(err)
	}
	p, err := to.Params()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return r, to, p
}

// factors are those of a linear in a model's parameters.
func factors(p *model.Params, name string, l spec.Linear) (w [][]float64) {
	for _, f := range l.Chain() {
		w = append(w, wide(p.Get(name+"."+f.Param)))
	}
	return w
}

// Every kind's checkpoint has the networks that the report tells of, within the
// budget, and everything else as it was.
func TestConvertWeights(t *testing.T) {
	for _, act := range spec.Acts() {
		from, dense := saveDense(t, func(s *specfile.Section) { s.Act = act }, nil)
		for _, kind := range spec.Kinds() {
			t.Run(string(act)+" "+string(kind), func(t *testing.T) {
				c := &Conversion{From: from, Aim: Aim{Kind: kind, Budget: 0.7}}
				if kind != spec.Dense {
					c.Aim.Budget, c.Aim.Keep = 0.8, []int{1}
				}
				r, to, p := run(t, c, 2)
				m := to.Config.Model
				if share := float64(m.Count().MLPWeights) / float64(from.Config.Model.Count().MLPWeights); share > c.Aim.Budget || share < c.Aim.Budget-0.25 || share != r.Share {
					t.Errorf("share %v, reported %v, of a budget of %v", share, r.Share, c.Aim.Budget)
				}
				if to.State.Step != 0 || !to.State.WeightsOnly {
					t.Errorf("state %+v", to.State)
				}
				for _, q := range p.List() {
					if strings.Contains(q.Name, ".mlp.fc") && !strings.HasSuffix(q.Name, ".bias") && !strings.Contains(q.Name, "layers.1.") {
						continue
					}
					if kind == spec.Dense && strings.Contains(q.Name, ".mlp.") {
						continue // has fewer units
					}
					if !slices.Equal(p.Get(q.Name), dense.Get(q.Name)) {
						t.Errorf("%s is not what it was", q.Name)
					}
				}
				if kind == spec.Dense {
					checkNarrow(t, from.Config.Model, m, dense, p)
					return
				}
				for i := range m.Layers {
					if want := kind; i == 1 {
						if m.Structure(i).Kind != spec.Dense || r.Layers[i].FC1.Weights != 0 {
							t.Errorf("layer 1 is %v", m.Structure(i))
						}
						continue
					} else if m.Structure(i).Kind != want {
						t.Errorf("layer %d is %v", i, m.Structure(i))
					}
					f := m.LayerFFN(i)
					for _, l := range []struct {
						name string
						spec.Linear
						err float64
					}{{"fc1", f.FC1(), r.Layers[i].FC1.Weights}, {"fc2", f.FC2(), r.Layers[i].FC2.Weights}} {
						name := model.LayerName(i) + ".mlp." + l.name
						w := wide(dense.Get(name + ".weight"))
						all, lost := 0.0, 0.0
						for i, x := range f64ref.Merged(l.Linear, factors(p, name, l.Linear)) {
							all, lost = all+w[i]*w[i], lost+(x-w[i])*(x-w[i])
						}
						if want := math.Sqrt(lost / all); math.Abs(l.err-want) > 1e-5 {
							t.Errorf("%s: error %v, want %v", name, l.err, want)
						}
						if l.err <= 0 || l.err >= 1 {
							t.Errorf("%s: error %v", name, l.err)
						}
					}
				}
			})
		}
	}
}

// checkNarrow demands that the hidden units are some of those that were, and not the
// smallest.
func checkNarrow(t *testing.T, from, to spec.Model, dense, p *model.Params) {
	t.Helper()
	for i := range to.Layers {
		name := model.LayerName(i) + ".mlp."
		a, b := from.LayerFFN(i), to.LayerFFN(i)
		w1, w2, v1, v2 := dense.Get(name+"fc1.weight"), dense.Get(name+"fc2.weight"), p.Get(name+"fc1.weight"), p.Get(name+"fc2.weight")
		h, u := a.Hidden, 0
		var left, kept []float64
		for unit := range a.FFN {
			in, out := unitSquares(a, wide(w1), wide(w2))
			score := in[unit] * out[unit]
			if u == b.FFN || !slices.Equal(w1[unit*h:(unit+1)*h], v1[u*h:(u+1)*h]) {
				left = append(left, score)
				continue
			}
			kept = append(kept, score)
			for part := range a.Act.Columns() {
				row, to := part*a.FFN+unit, part*b.FFN+u
				if !slices.Equal(w1[row*h:(row+1)*h], v1[to*h:(to+1)*h]) || dense.Get(name + "fc1.bias")[row] != p.Get(name + "fc1.bias")[to] {
					t.Errorf("layer %d: unit %d has another's weights", i, u)
				}
			}
			for o := range h {
				if w2[o*a.FFN+unit] != v2[o*b.FFN+u] {
					t.Errorf("layer %d: unit %d has another's outputs", i, u)
				}
			}
			u++
		}
		if u != b.FFN || slices.Max(left) > slices.Min(kept) {
			t.Errorf("layer %d: %d of %d units; the largest that is left out has %v, the smallest kept %v", i, u, b.FFN, slices.Max(left), slices.Min(kept))
		}
	}
}

// A model whose matrices have the structure computes what it did.
func TestConvertExactly(t *testing.T) {
	from, _ := saveDense(t, nil, nil)
	_, to, _ := run(t, &Conversion{From: from, Aim: Aim{Kind: spec.LowRank, Rank: 24}}, 2)
	ids := []int32{3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8}
	pool := rt.NewPool(1)
	defer pool.Close()
	var logits [2][]float32
	for i, c := range []*decode.Checkpoint{from, to} {
		m, err := c.Load(rt.Options{Pool: pool})
		if err != nil {
			t.Fatal(err)
		}
		tr := m.NewTrace(len(ids))
		logits[i] = make([]float32, len(ids)*m.Spec.Vocab)
		if err := tr.Logits(logits[i], ids, 1); err != nil {
			t.Fatal(err)
		}
		tr.Close()
		m.Close()
	}
	for i, x := range logits[0] {
		if math.Abs(float64(x-logits[1][i])) > 1e-3*(1+math.Abs(float64(x))) {
			t.Fatalf("logit %d is %v, was %v", i, logits[1][i], x)
		}
	}
}

// What ends a conversion leaves nothing behind.
func TestConvertInterrupted(t *testing.T) {
	from, _ := saveDense(t, nil, nil)
	pool := rt.NewPool(1)
	defer pool.Close()
	ctx, cancel := context.WithCancel(context.Background())
	out := filepath.Join(t.TempDir(), "run")
	c := &Conversion{From: from, Aim: Aim{Kind: spec.LowRank, Budget: 0.5}, Options: rt.Options{Pool: pool}, Progress: func(done int) {
		if done == 2 {
			cancel()
		}
	}}
	if _, err := c.Begin(out); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(out); err == nil {
		t.Errorf("%s is there", out)
	}
}

// A budget takes the largest structure that it pays for, of every kind.
func TestAimBudget(t *testing.T) {
	from, _ := saveDense(t, nil, nil)
	m := from.Config.Model
	dense := float64(m.Count().MLPWeights)
	for _, kind := range spec.Kinds() {
		last := 0.0
		for _, budget := range []float64{0.4, 0.5, 0.63, 0.9, 1} {
			a := Aim{Kind: kind, Budget: budget}
			to, err := a.Model(m)
			if err != nil {
				t.Errorf("%s at %v: %v", kind, budget, err)
				continue
			}
			share := float64(to.Count().MLPWeights) / dense
			if share > budget || share < last {
				t.Errorf("%s at %v has %v", kind, budget, share)
			}
			last = share
			// The next rank is above the budget, or no smaller than the dense layer.
			s := to.Structure(0)
			if !slices.Contains(spec.Ranked(), kind) {
				continue
			}
			for s.Rank++; s.Rank < 1000; s.Rank++ {
				if f := s.Network(m.Hidden, m.FFN, m.Act); f.Validate() == nil {
					if more := float64(weights(m, s)) * float64(m.Layers) / dense; more <= budget && more < 1 {
						t.Errorf("%s at %v takes %v, and %v fits", kind, budget, to.Structure(0), s)
					}
					break
				}
			}
		}
	}
}

// A configuration with other networks is read as it was written, and keeps the rest.
func TestWithNetworks(t *testing.T) {
	src := "model: {vocab: 300, hidden: 24, ffn: 48, layers: 5, q_heads: 2, norm: rmsnorm, mlp: [{layers: 0-4, kind: dense}]}\ntrain: {seq: 128, lr: 0.002}\n"
	c, err := config.Parse("a.yaml", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	m := c.Model
	m.SetOwn(spec.Structure{Kind: spec.BTT, Rank: 2, HiddenSplit: 6})
	m.SetStructure(0, 1, spec.Structure{Kind: spec.Dense})
	m.SetStructure(3, 3, spec.Structure{Kind: spec.BlockDense, Rank: 4, Blocks: 2})
	to, err := c.WithNetworks(m)
	if err != nil {
		t.Fatal(err)
	}
	again, err := config.ParseSaved("a.yaml", to.Source, config.Edition)
	if err != nil {
		t.Fatalf("%v in\n%s", err, to.Source)
	}
	if !again.Model.SameLayers(m) || again.Train != c.Train {
		t.Errorf("the configuration says %+v, %+v, want %+v, %+v", again.Model, again.Train, m, c.Train)
	}
}
