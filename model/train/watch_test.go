package train

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/structuredffn/sffn/model/checkpoint"
)

// spikes counts the steps of a series that belong to spikes, and names the
// first.
func spikes(losses []float64) (n, first int) {
	w := watch{threshold: 8}
	first = -1
	for i, l := range losses {
		if w.add(l); w.spiking > 0 {
			n++
			if first < 0 {
				first = i
			}
		}
	}
	return n, first
}

// Training as it should be, with noise, single outliers and a falling loss, has
// no spikes; a rise that stays is one within a few steps, and is over when the
// loss is back.
func TestWatch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		noise := rapid.Float64Range(0, 0.3).Draw(t, "noise")
		scale := rapid.Float64Range(1e-3, 1e3).Draw(t, "scale")
		var losses []float64
		odd := -watchLast
		for i := range 600 {
			l := 2 + 4*math.Exp(-float64(i)/150) + noise*r.NormFloat64()
			// An odd batch, and no other among the losses of its median: three of
			// five, which chance draws once in 2,000 runs, are a spike.
			if r.IntN(200) == 0 && i-odd >= watchLast {
				l += 3
				odd = i
			}
			losses = append(losses, scale*l)
		}
		if n, first := spikes(losses); n > 0 {
			t.Fatalf("%d steps of a calm run are spikes, the first %d", n, first)
		}
		at := rapid.IntRange(200, 500).Draw(t, "at")
		for i := at; i < at+60; i++ {
			losses[i] += scale * 6
		}
		n, first := spikes(losses)
		if first <= at || first > at+watchLast || n < 55 || n > 65 {
			t.Fatalf("a spike of 60 steps from %d on is seen from %d on for %d steps", at, first, n)
		}
	})
	if w := (watch{}); true {
		for range 200 {
			w.add(1)
		}
		for range 50 {
			if w.add(100); w.spiking > 0 {
				t.Fatal("a watch that is off sees a spike")
			}
		}
	}
}

// spoilt is an engine whose gradients are spoilt before they are used.
type spoilt struct {
	Engine
	spoil func()
}

func (s spoilt) Step(lr float64) (float64, error) {
	s.spoil()
	return s.Engine.Step(lr)
}

// A run whose loss rises for good, by gradients that are spoilt from step 60
// on, halts, says so, and keeps the checkpoint from before. Resuming it halts
// at the same step.
func TestHalt(t *testing.T) {
	dir := t.TempDir()
	prepare(t, filepath.Join(dir, "data"))
	src := strings.Replace(tiny, "steps: 30, batch: 2, accumulate: 2", "steps: 200, batch: 2, accumulate: 1, spike_patience: 20, norm_every: 7", 1)
	spoiler := map[*Run]func(tr *trainer){}
	spoil := func(at int, f func([]float32)) *Run {
		r := newRun(t, filepath.Join(dir, "data"), filepath.Join(dir, "run"), 2, "")
		r.Config, r.SaveEvery, r.Keep = parse(t, src), 1, 1
		spoiler[r] = func(tr *trainer) {
			if tr.step >= at {
				f(tr.cpu.Grads.Data)
			}
		}
		return r
	}
	run := func(r *Run) (*Result, error) {
		tr, err := r.begin()
		if err != nil {
			t.Fatal(err)
		}
		defer tr.Close()
		tr.engine = spoilt{tr.engine, func() { spoiler[r](tr) }}
		return tr.train(context.Background())
	}
	rise := func(g []float32) {
		r := rand.New(rand.NewPCG(1, 1))
		for i := range g {
			g[i] = float32(r.NormFloat64())
		}
	}
	r := spoil(60, rise)
	_, err := run(r)
	var d *Diverged
	if !errors.As(err, &d) || d.Step < 80 || d.Step > 130 || !strings.Contains(d.Reason, "a spike has lasted 20 steps") {
		t.Fatalf("halted with %v", err)
	}
	good, state, derr := checkpoint.Describe(d.Checkpoint)
	if derr != nil || good == nil || state.Step != d.Step-20 {
		t.Fatalf("the last good checkpoint %q: step %d, %v", d.Checkpoint, state.Step, derr)
	}
	lines, _, err := ReadMetrics(r.Dir, 1000)
	if err != nil || len(lines) != d.Step || !lines[state.Step].Spike || lines[state.Step-1].Spike || lines[5].GradNorms != nil {
		t.Fatalf("%d lines, %v", len(lines), err)
	}
	// Norms by kind add up to the norm of all.
	for _, kind := range []string{"embedding", "attention", "ffn", "norm"} {
		if m := lines[6]; !(m.GradNorms[kind] > 0 && m.WeightNorms[kind] > 0) {
			t.Errorf("norms of step 7: %v, %v", m.GradNorms, m.WeightNorms)
		}
	}
	sum := 0.0
	for _, v := range lines[6].GradNorms {
		sum += v * v
	}
	if got := lines[6].GradNorm; math.Abs(math.Sqrt(sum)-got) > 1e-6*got {
		t.Errorf("norms by kind add up to %v, the whole is %v", math.Sqrt(sum), got)
	}
	first := d.Step
	again := spoil(60, rise)
	again.Resume = true
	if _, err := run(again); !errors.As(err, &d) || d.Step != first {
		t.Errorf("resumed, it halts with %v, not at step %d", err, first)
	}

	// Gradients that are no numbers halt at once, with the weights from before.
	os.RemoveAll(r.Dir)
	r = spoil(60, func(g []float32) { g[0] = float32(math.NaN()) })
	r.SaveEvery = 0
	if _, err := run(r); !errors.As(err, &d) || d.Step != 61 || !strings.HasSuffix(d.Checkpoint, "step-00000060") || !strings.Contains(d.Reason, "norm of the gradients is NaN") {
		t.Fatalf("halted with %v", err)
	}
	again = spoil(1000, nil)
	again.Resume = true
	if res, err := run(again); err != nil || res.Step != 200 || !(res.ValLoss < 4) {
		t.Errorf("resumed without what spoilt it: %+v, %v", res, err)
	}

	// Weights that are none leave no good checkpoint behind.
	os.RemoveAll(r.Dir)
	r = spoil(3, func(g []float32) {})
	r.Config.Train.LR, r.Config.Train.Warmup = 1e3, 0
	r.Config.Train.Clip = 1e12
	if _, err := run(r); err != nil && !errors.As(err, &d) {
		t.Errorf("a learning rate of 1000: %v", err)
	}
}

// Old lines of metrics, without the newer fields, can be read.
func TestOldMetrics(t *testing.T) {
	var m Metrics
	if err := json.Unmarshal([]byte(`{"step":1,"loss":2,"lr":1,"grad_norm":1,"tokens":5,"tokens_per_second":1}`), &m); err != nil || m.Spike || m.GradNorms != nil {
		t.Error(m, err)
	}
}
