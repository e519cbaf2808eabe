package train

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model"
	rt "github.com/structuredffn/sffn/runtime"
)

// stepped are a model's parameters after two steps with random gradients, with
// the learning rates that a table of kinds gives; nil is the one that there is.
func stepped(t *testing.T, lr float64, of func(spec.Linear) []float64, uniform ...bool) *model.Params {
	t.Helper()
	p, o := optimizer(t)
	s := p.Spec()
	r := rand.New(rand.NewPCG(1, 2))
	draw := func(p *model.Params) *model.Params {
		for _, q := range p.List() {
			for i, x := 0, p.Get(q.Name); i < len(x); i++ {
				x[i] = float32(r.NormFloat64())
			}
		}
		return p
	}
	draw(p)
	if of != nil {
		o.setGroups(s.Rates(of))
	}
	o.UniformLR = len(uniform) > 0 && uniform[0]
	for range 2 {
		o.Step(draw(zeros(t, p)), lr)
	}
	return p
}

// optimizer returns parameters, of zeros, with their optimizer.
func optimizer(t *testing.T) (*model.Params, *AdamW) {
	t.Helper()
	s := parse(t, tiny).Model
	pool := rt.NewPool(2)
	t.Cleanup(pool.Close)
	p := model.NewParams(s)
	t.Cleanup(p.Close)
	m, err := model.New(s, p, rt.Options{Pool: pool})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	o := NewAdamW(m, 0.9, 0.999, 1e-8, 0.1, 1)
	t.Cleanup(o.Close)
	return p, o
}

// zeros are as many zeros.
func zeros(t *testing.T, p *model.Params) *model.Params {
	z := model.NewParams(p.Spec())
	t.Cleanup(z.Close)
	return z
}

// A factor's learning rate is that of its kind's row: what a row says moves this
// factor as a run of such a rate does, and leaves every other parameter alone.
// Without a word in the row it is the run's.
func TestRates(t *testing.T) {
	half := func(l spec.Linear) []float64 {
		if l.Kind == spec.LowRank {
			return []float64{0.5, 1}
		}
		return []float64{1}
	}
	ones := func(l spec.Linear) []float64 { return slices.Repeat([]float64{1}, len(l.Chain())) }
	plain, slow, rated := stepped(t, 0.01, ones), stepped(t, 0.005, ones), stepped(t, 0.01, half)
	other := 0
	for _, q := range plain.List() {
		want, not := plain.Get(q.Name), slow.Get(q.Name)
		if slices.Contains([]string{"model.layers.1.mlp.fc1.lr1", "model.layers.1.mlp.fc2.lr1"}, q.Name) {
			want, not = not, want
			other++
		}
		if got := rated.Get(q.Name); !slices.Equal(got, want) || slices.Equal(got, not) {
			t.Errorf("%s has another learning rate than its row's", q.Name)
		}
	}
	if other != 2 {
		t.Errorf("%d factors have a rate of their own, want 2", other)
	}
	if !slices.Equal(stepped(t, 0.01, half, true).Data, plain.Data) {
		t.Error("with uniform_lr a factor has a rate of its own")
	}
	if !slices.Equal(stepped(t, 0.01, nil).Data, plain.Data) {
		t.Error("the kinds that there are have the run's rate")
	}
}
