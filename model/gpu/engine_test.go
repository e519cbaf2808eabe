package gpu

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/internal/goldenkernels"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/config"
	"github.com/structuredffn/sffn/model/initial"
	"github.com/structuredffn/sffn/model/train"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/cuda/driver"
)

// golden is the configuration of one of the models.
func golden(t *testing.T, name string) *config.Config {
	t.Helper()
	c, err := goldenkernels.Config(name)
	must(t, err)
	return c
}

// ids draws tokens.
func ids(n, vocab int, seed uint64) []int32 {
	r := rand.New(rand.NewPCG(seed, 1))
	v := make([]int32, n)
	for i := range v {
		v[i] = int32(r.IntN(vocab))
	}
	return v
}

// weightsOf draws parameters that make every part of a model matter.
func weightsOf(t *testing.T, c *config.Config, pool *rt.Pool) *model.Params {
	t.Helper()
	m := c.Model
	m.InitStd = 0.1
	p := model.NewParams(c.Model)
	t.Cleanup(p.Close)
	initial.Model(p, m, 1, initial.Merged, pool)
	r := rand.New(rand.NewPCG(3, 4))
	for _, q := range p.List() {
		if strings.HasSuffix(q.Name, ".bias") || strings.Contains(q.Name, ".ln") {
			for i, v := range p.Get(q.Name) {
				p.Get(q.Name)[i] = v + 0.1*float32(r.NormFloat64())
			}
		}
	}
	return p
}

func copyOf(t *testing.T, p *model.Params) *model.Params {
	t.Helper()
	q := model.NewParams(p.Spec())
	t.Cleanup(q.Close)
	copy(q.Data, p.Data)
	return q
}

// newEngine opens a device of its own for a model; seed picks the schedules.
func newEngine(t *testing.T, c *config.Config, p, m, v *model.Params, steps int, seed uint64) *Engine {
	t.Helper()
	d, fake := open(t)
	fake.Seed = seed
	ks, err := Kernels(c.Model)
	must(t, err)
	must(t, d.Load(ks))
	e, err := NewEngine(d, train.Start{Spec: c.Model, Params: p, M: m, V: v, Steps: steps, Train: c.Train})
	must(t, err)
	t.Cleanup(e.Close)
	return e
}

func (e *Engine) gradients(t *testing.T) *model.Params {
	t.Helper()
	g := model.NewParams(e.start.Spec)
	t.Cleanup(g.Close)
	must(t, e.Gradients(g.Get))
	return g
}

// roundings counts those to bf16 on the way to a gradient. A layer of n factors
// rounds 2n+7 activations, 2n+2 weights and 2n+8 gradients; five come at the end.
// Errors of logits and scores come back times their size, a few units: twice the
// count.
func roundings(c *config.Config) int {
	n := 5
	for i := range c.Model.Layers {
		n += 6*len(c.Model.LayerFFN(i).FC1().Chain()) + 17
	}
	return 2 * n
}

// The loss and all gradients of whole models are the CPU's within bf16, of one
// micro-batch and of two.
func TestGradients(t *testing.T) {
	for _, name := range models {
		t.Run(name, func(t *testing.T) { testGradients(t, name, 2, 67) })
	}
}

func testGradients(t *testing.T, name string, batch, seq int) {
	c := golden(t, name)
	opt := rt.Options{Pool: rt.NewPool(2), Train: true}
	defer opt.Pool.Close()
	p := weightsOf(t, c, opt.Pool)
	cpu, err := model.New(c.Model, p, opt)
	must(t, err)
	defer cpu.Close()
	seq = min(seq, c.Model.MaxPositions)
	c.Train.Batch, c.Train.Seq = batch, seq
	tr, grads := cpu.NewTrace(batch*seq), model.NewParams(c.Model)
	defer tr.Close()
	defer grads.Close()
	e := newEngine(t, c, p, copyOf(t, grads), copyOf(t, grads), 0, 1)
	for micro, shape := range [][2]int{{batch, seq}, {1, 9}} {
		n := shape[0] * shape[1]
		x, y := ids(n, c.Model.Vocab, uint64(micro)), ids(n, c.Model.Vocab, 7)
		if micro > 0 {
			y[2], y[5] = model.Ignored, model.Ignored
		}
		want, err := tr.Backward(grads, x, y, shape[0], 0.5, micro > 0)
		must(t, err)
		got, err := e.Backward(x, y, shape[0], 0.5, micro > 0)
		must(t, err)
		if math.Abs(got-want) > want/256 {
			t.Errorf("loss %v, want %v", got, want)
		}
		g := e.gradients(t)
		for _, q := range g.List() {
			near(t, q.Name, g.Get(q.Name), grads.Get(q.Name), roundings(c))
		}
		loss, err := e.Loss(x, y, shape[0])
		must(t, err)
		if loss != got {
			t.Errorf("loss %v without gradients, %v with them", loss, got)
		}
	}
	if loss, err := e.Loss([]int32{1, 2}, []int32{model.Ignored, model.Ignored}, 1); err != nil || loss != 0 {
		t.Errorf("no target: loss %v, %v, want 0", loss, err)
	}
	gs, ws, err := e.Norms()
	must(t, err)
	g := e.gradients(t)
	for kind, norm := range byKind(g) {
		if math.Abs(gs[kind]-norm) > 1e-5*norm {
			t.Errorf("norm of the gradients of %s: %v, want %v", kind, gs[kind], norm)
		}
	}
	for kind, norm := range byKind(p) {
		if math.Abs(ws[kind]-norm) > 1e-5*norm {
			t.Errorf("norm of %s: %v, want %v", kind, ws[kind], norm)
		}
	}
}

func byKind(p *model.Params) map[string]float64 {
	all := map[string]float64{}
	for _, q := range p.List() {
		for _, v := range p.Get(q.Name) {
			all[train.LayerKind(q.Name)] += float64(v) * float64(v)
		}
	}
	for kind, sum := range all {
		all[kind] = math.Sqrt(sum)
	}
	return all
}

// Steps move parameters as the CPU's do; their bits depend on no schedule, and a
// run that stops and goes on ends with those of an unbroken one.
func TestSteps(t *testing.T) {
	for _, name := range []string{"golden-absolute", "tiny"} {
		t.Run(name, func(t *testing.T) {
			c := golden(t, name)
			opt := rt.Options{Pool: rt.NewPool(2), Train: true}
			defer opt.Pool.Close()
			start := weightsOf(t, c, opt.Pool)
			zero := model.NewParams(c.Model)
			defer zero.Close()
			c.Train.Batch, c.Train.Seq = 2, 20
			const lr = 0.01
			batch := func(step int) (x, y []int32) {
				return ids(40, c.Model.Vocab, uint64(step)), ids(40, c.Model.Vocab, uint64(step)+100)
			}

			p := copyOf(t, start)
			cpu, err := model.New(c.Model, p, opt)
			must(t, err)
			defer cpu.Close()
			tr, grads := cpu.NewTrace(40), model.NewParams(c.Model)
			defer tr.Close()
			defer grads.Close()
			adam := train.NewAdamW(cpu, c.Train.Beta1, c.Train.Beta2, c.Train.Eps, c.Train.WeightDecay, c.Train.Clip)
			adam.DecayMatrices = !c.Train.DecayAll
			defer adam.Close()
			var losses, norms []float64
			for step := range 3 {
				x, y := batch(step)
				loss, err := tr.Backward(grads, x, y, 2, 1, false)
				must(t, err)
				losses, norms = append(losses, loss), append(norms, adam.Step(grads, lr))
				cpu.Repack()
			}

			run := func(e *Engine, from, to int) {
				t.Helper()
				for step := from; step < to; step++ {
					x, y := batch(step)
					loss, err := e.Backward(x, y, 2, 1, false)
					must(t, err)
					norm, err := e.Step(lr)
					must(t, err)
					if math.Abs(loss-losses[step]) > losses[step]/100 || math.Abs(norm-norms[step]) > norms[step]/20 {
						t.Errorf("step %d: loss %v, gradients %v, want %v and %v", step, loss, norm, losses[step], norms[step])
					}
				}
				must(t, e.Fetch())
			}
			type state struct{ p, m, v *model.Params }
			begin := func() state { return state{copyOf(t, start), copyOf(t, zero), copyOf(t, zero)} }
			whole, parts := begin(), begin()
			run(newEngine(t, c, whole.p, whole.m, whole.v, 0, 1), 0, 3)
			run(newEngine(t, c, parts.p, parts.m, parts.v, 0, 50), 0, 1)
			run(newEngine(t, c, parts.p, parts.m, parts.v, 1, 99), 1, 3)
			for _, s := range [][2]*model.Params{{whole.p, parts.p}, {whole.m, parts.m}, {whole.v, parts.v}} {
				if !slices.Equal(s[0].Data, s[1].Data) {
					t.Error("a run in two parts ends with other bits")
				}
			}
			// Adam divides by the gradient's size, so entries near 0 may go another way.
			for _, q := range p.List() {
				if strings.HasSuffix(q.Name, "qkv_linear.bias") {
					continue // that of keys changes no output: its gradient is what rounding leaves
				}
				var diff, moved float64
				for i, v := range start.Get(q.Name) {
					want, got := float64(p.Get(q.Name)[i]-v), float64(whole.p.Get(q.Name)[i]-v)
					diff += (got - want) * (got - want)
					moved += want * want
				}
				if rel := math.Sqrt(diff / moved); !(rel < 0.35) {
					t.Errorf("%s moved elsewhere: %.2f of the way", q.Name, rel)
				}
			}
		})
	}
}

// A gradient that is not finite leaves everything as it is.
func TestNotFinite(t *testing.T) {
	c := golden(t, "golden-dense")
	pool := rt.NewPool(1)
	defer pool.Close()
	p := weightsOf(t, c, pool)
	m, v := copyOf(t, p), copyOf(t, p)
	before := slices.Clone(p.Data)
	c.Train.Batch, c.Train.Seq = 1, 8
	e := newEngine(t, c, p, m, v, 0, 1)
	x := ids(8, c.Model.Vocab, 1)
	if _, err := e.Backward(x, x, 1, math.Inf(1), false); err != nil {
		t.Fatal(err)
	}
	if norm, err := e.Step(0.1); err != nil || !math.IsNaN(norm) && !math.IsInf(norm, 0) {
		t.Errorf("norm %v, %v", norm, err)
	}
	must(t, e.Fetch())
	if !slices.Equal(p.Data, before) || !slices.Equal(m.Data, before) || !slices.Equal(v.Data, before) {
		t.Error("the step changed something")
	}
	for _, bad := range []struct {
		ids   []int32
		batch int
	}{{x[:7], 2}, {nil, 1}, {ids(9, c.Model.Vocab, 1), 1}, {[]int32{1, 2, int32(c.Model.Vocab)}, 1}, {[]int32{-1}, 1}} {
		if _, err := e.Backward(bad.ids, bad.ids, bad.batch, 1, false); err == nil {
			t.Errorf("%d tokens in %d sequences are taken", len(bad.ids), bad.batch)
		}
	}
}

// A device that is too small says so and keeps nothing.
func TestMemory(t *testing.T) {
	c := golden(t, "golden-dense")
	pool := rt.NewPool(1)
	defer pool.Close()
	p := weightsOf(t, c, pool)
	d, fake := open(t)
	ks, err := Kernels(c.Model)
	must(t, err)
	must(t, d.Load(ks))
	c.Train.Batch, c.Train.Seq = 8, 1024
	for _, size := range []uint64{1 << 19, 2 << 20, 8 << 20} { // no room for weights, for moments, for activations
		fake.Memory = size
		_, err := NewEngine(d, train.Start{Spec: c.Model, Params: p, M: p, V: p, Train: c.Train})
		if !errors.Is(err, driver.OutOfMemory) || !strings.Contains(err.Error(), "out of device memory") {
			t.Errorf("%d bytes: %v", size, err)
		}
		_, err = NewDecoder(d, p, 1000, 1024)
		if !errors.Is(err, driver.OutOfMemory) {
			t.Errorf("%d bytes: %v", size, err)
		}
		if used := d.Memory().Used; used != 0 {
			t.Errorf("%d bytes of the device are still in use", used)
		}
	}
}

// Moments that are not given are 0, whatever was in the device's memory, and are
// not fetched.
func TestNoMoments(t *testing.T) {
	c := golden(t, "tiny") // whose layers have an order of their own
	pool := rt.NewPool(1)
	defer pool.Close()
	start := weightsOf(t, c, pool)
	c.Train.Batch, c.Train.Seq = 1, 9
	x, y := ids(9, c.Model.Vocab, 1), ids(9, c.Model.Vocab, 2)
	d, _ := open(t)
	ks, err := Kernels(c.Model)
	must(t, err)
	must(t, d.Load(ks))
	step := func(m, v *model.Params) []float32 {
		p := copyOf(t, start)
		e, err := NewEngine(d, train.Start{Spec: c.Model, Params: p, M: m, V: v, Train: c.Train})
		must(t, err)
		defer e.Close()
		_, err = e.Backward(x, y, 1, 1, false)
		must(t, err)
		_, err = e.Step(0.01)
		must(t, err)
		must(t, e.Fetch())
		return p.Data
	}
	zero := model.NewParams(c.Model)
	defer zero.Close()
	want := step(copyOf(t, zero), copyOf(t, zero)) // leaves moments in memory that is used again
	if !slices.Equal(step(nil, nil), want) {
		t.Error("a step without moments is not that from moments of 0")
	}
	if slices.Equal(start.Data, want) {
		t.Error("a step leaves the parameters as they were")
	}
}
