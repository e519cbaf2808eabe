package train

import (
	"bytes"
	"context"
	"math"
	"path/filepath"
	"strings"
	"testing"
)

// The warm-up and the peak are those of the cosine; the fall is one minus a root.
func TestWSD(t *testing.T) {
	c := parse(t, strings.Replace(tiny, "lr: 0.01", "lr: 1, min_lr: 0.2, warmup: 0.1, schedule: wsd, decay: 0.4", 1)).Train
	l := newSchedule(c, 40)
	// The last 16 steps fall: a quarter of them leaves half of what falls.
	for step, want := range map[int]float64{0: 0.25, 3: 1, 4: 1, 24: 1, 28: 0.6, 33: 0.4, 40: 0.2, 99: 0.2} {
		if got := l.At(step); math.Abs(got-want) > 1e-15 {
			t.Errorf("step %d: %v, want %v", step, got, want)
		}
	}
	for step := 24; step < 40; step++ {
		if l.At(step+1) >= l.At(step) {
			t.Errorf("the rate rises at step %d", step+1)
		}
	}
	c.Decay = 0
	if l = newSchedule(c, 40); l.At(39) != 1 {
		t.Errorf("without decay the last step has %v", l.At(39))
	}
}

// growing is a run of tiny, with other settings.
func growing(t *testing.T, dir, name, settings string, steps int) *Run {
	t.Helper()
	r := newRun(t, filepath.Join(dir, "data"), filepath.Join(dir, name), 2, "")
	r.Config = parse(t, strings.Replace(tiny, "steps: 30", settings+"steps: 1", 1))
	r.Config.Train.Steps = steps
	return r
}

// trainTo trains until a step, or to the end where that is 0.
func trainTo(t *testing.T, r *Run, step int) *Result {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r.OnStep = func(p Progress) {
		if p.Step == step {
			cancel()
		}
	}
	res, err := r.Train(ctx)
	if err != nil || step != 0 && res.Step != step {
		t.Fatalf("%+v, %v, want step %d", res, err, step)
	}
	return res
}

// A run with wsd that grows before the fall ends with the bits of one that was
// planned for so many steps.
func TestGrowStable(t *testing.T) {
	dir := t.TempDir()
	prepare(t, filepath.Join(dir, "data"))
	whole := train(t, growing(t, dir, "whole", "schedule: wsd, warmup: 0.1, ", 30))
	// Its warm-up is 3 steps too, and stays that; with the share of 30 steps it is 6.
	const settings = "schedule: wsd, warmup: 0.2, "
	trainTo(t, growing(t, dir, "grown", settings, 15), 2) // in the warm-up
	for _, step := range []int{11, 17, 0} {
		r := growing(t, dir, "grown", settings, 30)
		r.Resume = true
		res := trainTo(t, r, step)
		if step == 0 && !bytes.Equal(weights(t, res.Checkpoint), weights(t, whole.Checkpoint)) {
			t.Error("the run that has grown ends with other weights")
		}
	}
}

// A finished run that grows follows the cosine of all its steps from there. The new
// plan is saved even where no step follows, so that resume needs no word on it.
func TestGrowCosine(t *testing.T) {
	dir := t.TempDir()
	prepare(t, filepath.Join(dir, "data"))
	begin := func(name string, resume bool, steps int) *Run {
		r := growing(t, dir, name, "warmup: 0.2, ", steps)
		r.Resume = resume
		return r
	}
	train(t, begin("whole", false, 10))
	r := begin("whole", true, 20)
	said := ""
	r.OnNote = func(s string) { said += s + "\n" }
	whole := train(t, r)
	want := LRSchedule{Peak: 0.01, Min: 0.001, Warmup: 2, Total: 20}
	for _, m := range readMetrics(t, r.Dir) {
		if m.Step <= 10 {
			if first := (LRSchedule{Peak: 0.01, Min: 0.001, Warmup: 2, Total: 10}); m.LR != first.At(m.Step-1) {
				t.Errorf("step %d has the rate %v", m.Step, m.LR)
			}
		} else if m.LR != want.At(m.Step-1) {
			t.Errorf("step %d has the rate %v, want %v", m.Step, m.LR, want.At(m.Step-1))
		}
	}
	if n := len(readMetrics(t, r.Dir)); n != 20 || whole.Step != 20 {
		t.Errorf("%d steps, %+v", n, whole)
	}
	if want := "the run was planned for 10 steps: the learning rate of step 11, which was to be 0.001, is 0.00628"; !strings.Contains(said, want) {
		t.Errorf("it says %q, want %q", said, want)
	}
	train(t, begin("broken", false, 10))
	if res, _ := trainOn(t, begin("broken", true, 20), func(_ *counted, stop func()) { stop() }); res.Step != 10 || !res.Interrupted {
		t.Fatalf("interrupted before a step: %+v", res)
	}
	r = begin("broken", true, 1)
	if err := r.Configure("", 0); err != nil || r.Config.Train.Steps != 20 {
		t.Fatalf("%d steps, %v", r.Config.Train.Steps, err)
	}
	trainTo(t, r, 13)
	r = begin("broken", true, 20)
	if res := train(t, r); !bytes.Equal(weights(t, res.Checkpoint), weights(t, whole.Checkpoint)) {
		t.Error("the run that was interrupted as it grew ends with other weights")
	}
	// It grows again, with the warm-up of the first plan.
	trainTo(t, begin("broken", true, 40), 21)
	lines := readMetrics(t, r.Dir)
	want.Total = 40
	if got := lines[20].LR; got != want.At(20) {
		t.Errorf("grown again, step 21 has the rate %v, want %v", got, want.At(20))
	}
}

// The guided phase is a share of the steps.
func TestGrowGuided(t *testing.T) {
	dir := t.TempDir()
	prepare(t, filepath.Join(dir, "data"))
	train(t, growing(t, dir, "run", "guide: {}, ", 4))
	r := growing(t, dir, "run", "guide: {}, ", 6)
	r.Resume = true
	if _, err := r.Train(context.Background()); err == nil || !strings.Contains(err.Error(), "steps: the guided phase is a share of the 4 steps") {
		t.Errorf("%v", err)
	}
}
