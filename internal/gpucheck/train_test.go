package gpucheck

import (
	"flag"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/internal/goldenkernels"
	"github.com/structuredffn/sffn/model/config"
	rt "github.com/structuredffn/sffn/runtime"
)

var experiment = flag.String("experiment", "", "run the experiment that the bounds of part train come from on this model, too")

// experimentSteps are those of a run of gpucheck.
const experimentSteps = 50

// disturb rounds values to bf16 and moves each by up to size of itself.
func disturb(v []float32, pool *rt.Pool, seed uint64, size float32) {
	const chunk = 1 << 16
	pool.Run((len(v)+chunk-1)/chunk, func(_, i int) {
		r := rand.NewPCG(seed, uint64(i))
		for j := i * chunk; j < min(len(v), (i+1)*chunk); j++ {
			n := math.Float32bits(v[j])
			x := math.Float32frombits((n + 0x7fff + n>>16&1) &^ 0xffff)
			v[j] = x + x*size*float32(int32(r.Uint64()>>32))/(1<<31)
		}
	})
}

// disturbedPass is a pass of weights that are rounded to bf16 and moved by up to
// size of themselves, as are its gradients: noise of the rounded activations,
// which this process cannot reach, shows as that of the weights that multiply them.
func disturbedPass(t *testing.T, h *host, cfg *config.Config, step int, size float32) (p point) {
	t.Helper()
	pool, kept := h.Model.Pool(), slices.Clone(h.p.Data)
	disturb(h.p.Data, pool, uint64(2*step), size)
	h.Model.Repack()
	var err error
	if p.loss, err = h.backward(batchOf(cfg.Model, step)); err != nil {
		t.Fatal(err)
	}
	copy(h.p.Data, kept)
	h.Model.Repack()
	disturb(h.Grads.Data, pool, uint64(2*step+1), size)
	p.kinds = h.norms()
	return p
}

// trial is a run on the CPU and one whose passes are disturbed.
type trial struct {
	plain, disturbed []float64
	// points are those that are compared one by one: got is disturbed, from the plain
	// run's parameters.
	got, want []point
}

// simulate takes the steps of part train, and disturbed ones at any rate.
func simulate(t *testing.T, cfg *config.Config, size float32, disturbedRate func(int) float64) (r trial) {
	t.Helper()
	pool := rt.NewPool(0)
	defer pool.Close()
	start := params(cfg.Model, pool)
	defer start.Close()
	h, err := newHost(cfg, start, pool)
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	for step := range experimentSteps {
		if slices.Contains(compareAt(experimentSteps), step) {
			r.got = append(r.got, disturbedPass(t, h, cfg, step, size))
			r.got[len(r.got)-1].norm = h.norm()
		}
		loss, err := h.backward(batchOf(cfg.Model, step))
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(compareAt(experimentSteps), step) {
			r.want = append(r.want, point{loss, h.norm(), h.norms()})
		}
		if _, err := h.Step(rate(step)); err != nil {
			t.Fatal(err)
		}
		r.plain = append(r.plain, loss)
	}
	other, err := newHost(cfg, start, pool)
	if err != nil {
		t.Fatal(err)
	}
	defer other.close()
	for step := range experimentSteps {
		r.disturbed = append(r.disturbed, disturbedPass(t, other, cfg, step, size).loss)
		if _, err := other.Step(disturbedRate(step)); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// norms are those of the gradients by kind of layer.
func (h *host) norms() map[string]float64 {
	grads, _, _ := h.Norms() // the CPU has no errors
	return grads
}

// norm is that of all gradients.
func (h *host) norm() float64 {
	sum := 0.0
	for _, n := range h.norms() {
		sum += n * n
	}
	return math.Sqrt(sum)
}

func modelOf(t *testing.T, name string) *config.Config {
	t.Helper()
	cfg, err := goldenkernels.Config(name)
	if err != nil {
		cfg, err = config.Load(name)
	}
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// noise is four times the most that rounding to bf16 moves a value.
const noise = 4.0 / 512

// A device that rounds to bf16, and four times as roughly, is right: its losses
// and norms are within half of what part train allows, at points of a run and in a
// run of its own that learns much.
func TestDisturbed(t *testing.T) {
	names := []string{"golden-dense", "tiny"}
	if *experiment != "" {
		names = append(names, *experiment)
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			cfg := modelOf(t, name)
			r := simulate(t, cfg, noise, rate)
			if err := compareRuns(r.disturbed, r.plain); err != nil {
				t.Error(err)
			}
			most := func(errs ...float64) (m float64) {
				for _, e := range errs {
					m = max(m, math.Abs(e))
				}
				return m
			}
			first, later, loss, norm := 0.0, 0.0, 0.0, 0.0
			for step, want := range r.plain {
				if d := r.disturbed[step]/want - 1; step < lossFirst {
					first = most(first, d)
				} else {
					later = most(later, d)
				}
			}
			for i, want := range r.want {
				loss, norm = most(loss, r.got[i].loss-want.loss), most(norm, r.got[i].norm/want.norm-1)
				for kind, n := range want.kinds {
					norm = most(norm, r.got[i].kinds[kind]/n-1)
				}
				if err := comparePoints(r.got[i], want, cfg.Model); err != nil {
					t.Error(err)
				}
			}
			fell := learnt(r.disturbed)/learnt(r.plain) - 1
			t.Logf("off by: first losses %.2g, later ones %.2g, what was learnt (%.3f) %.2g; single passes: losses %.2g of %.2g, norms %.2g of %.2g",
				first, later, learnt(r.plain), fell, loss, lossOff(cfg.Model), norm, rounding(roundings(cfg.Model)))
			for _, c := range []struct {
				what       string
				off, bound float64
			}{{"first losses", first, lossEach}, {"what was learnt", fell, lossLearn}, {"losses of passes", loss, lossOff(cfg.Model)}, {"norms of passes", norm, rounding(roundings(cfg.Model))}} {
				if most(c.off) > c.bound/2 {
					t.Errorf("%s are %.2g off, which leaves no room below the bound of %.2g", c.what, c.off, c.bound)
				}
			}
			if learnt(r.plain) < 0.3 {
				t.Errorf("the loss falls by %.3f only", learnt(r.plain))
			}
		})
	}
}

// What is wrong shows: a rate that is a tenth too small in what was learnt, weights
// that are a tenth off in the first losses or those of passes, gradients of a kind
// in norms; and numbers that are none.
func TestCompare(t *testing.T) {
	cfg := modelOf(t, "tiny")
	r := simulate(t, cfg, 0, func(step int) float64 { return 0.9 * rate(step) })
	if err := compareRuns(r.disturbed, r.plain); err == nil || !strings.Contains(err.Error(), "the loss falls by ") {
		t.Errorf("a smaller rate: %v", err)
	}
	if err := compareRuns(r.plain, r.plain); err != nil {
		t.Error(err)
	}
	wrong := slices.Clone(r.plain)
	wrong[9] *= 1.005
	if err := compareRuns(wrong, r.plain); err == nil || !strings.Contains(err.Error(), "loss of step 9") {
		t.Errorf("a loss that is off: %v", err)
	}
	wrong[9] = math.NaN()
	if err := compareRuns(wrong, r.plain); err == nil {
		t.Error("NaN is a loss")
	}
	if err := comparePoints(r.want[0], r.want[0], cfg.Model); err != nil {
		t.Error(err)
	}
	for kind, n := range r.want[0].kinds {
		p := r.want[0]
		p.kinds = map[string]float64{}
		for k, v := range r.want[0].kinds {
			p.kinds[k] = v
		}
		for _, v := range []float64{1.1 * n, 0.9 * n, 0, math.NaN()} {
			p.kinds[kind] = v
			if err := comparePoints(p, r.want[0], cfg.Model); err == nil || !strings.Contains(err.Error(), "of kind "+kind) {
				t.Errorf("norm %v of the gradients of %s, want %v: %v", v, kind, n, err)
			}
		}
	}
	p := r.want[0]
	p.loss *= 1.005
	if err := comparePoints(p, r.want[0], cfg.Model); err == nil || !strings.Contains(err.Error(), "the loss is") {
		t.Errorf("a loss that is off: %v", err)
	}
}
