package train

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// ring averages what its processes bring, in order, as a collective library
// does: each waits until all have come. One that waits for a process that has
// left gets an error, in place of a hang.
type ring struct {
	mu      sync.Mutex
	changed *sync.Cond
	world   int
	brought [][]float32
	came    int // in this round
	round   int
	left    bool
}

func newRing(world int) *ring {
	r := &ring{world: world, brought: make([][]float32, world)}
	r.changed = sync.NewCond(&r.mu)
	return r
}

var errLeft = errors.New("waits for a process that has left")

func (r *ring) reduce(rank int, x []float32) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.brought[rank] = x
	r.came++
	if r.came < r.world {
		for round := r.round; r.round == round; r.changed.Wait() {
			if r.left {
				return errLeft
			}
		}
		return nil
	}
	for i := range x {
		sum := float32(0)
		for _, y := range r.brought {
			if len(y) != len(x) {
				return fmt.Errorf("processes bring %d and %d numbers", len(x), len(y))
			}
			sum += y[i]
		}
		for _, y := range r.brought {
			y[i] = sum / float32(r.world)
		}
	}
	r.came = 0
	r.round++
	r.changed.Broadcast()
	return nil
}

func (r *ring) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.left = true
	r.changed.Broadcast()
}

// faulty is an engine whose losses one process changes.
type faulty struct {
	Engine
	loss func(loss float64) (float64, error)
}

func (f faulty) Backward(ids, targets []int32, batch int, scale float64, accumulate bool) (float64, error) {
	loss, err := f.Engine.Backward(ids, targets, batch, scale, accumulate)
	if err != nil {
		return loss, err
	}
	return f.loss(loss)
}

// ranks trains in several processes, which here are goroutines; change prepares
// each. It returns what came of each.
func ranks(t *testing.T, dataDir, dir string, world int, change func(tr *trainer, stop func())) (results []*Result, errs []error) {
	t.Helper()
	results, errs = make([]*Result, world), make([]error, world)
	group := newRing(world)
	var wg sync.WaitGroup
	for rank := range world {
		r := newRun(t, dataDir, filepath.Join(dir, fmt.Sprint(rank)), 1, "")
		r.Config = parse(t, strings.Replace(tiny, "steps: 30, batch: 2, accumulate: 2", "steps: 12, batch: 1, accumulate: 1", 1))
		r.Rank, r.World = rank, world
		r.Reduce = func(x []float32) error { return group.reduce(rank, x) }
		tr, err := r.begin()
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(context.Background())
		change(tr, stop)
		wg.Go(func() {
			defer group.leave()
			defer tr.Close()
			results[rank], errs[rank] = tr.train(ctx)
		})
	}
	wg.Wait()
	return results, errs
}

// Processes agree: each ends as all of them do, with the same weights, whatever
// happens to one; nobody waits for one that has left.
func TestRanks(t *testing.T) {
	dir := t.TempDir()
	prepare(t, filepath.Join(dir, "data"))
	const world = 3
	run := func(name string, change func(tr *trainer, stop func())) ([]*Result, []error) {
		return ranks(t, filepath.Join(dir, "data"), filepath.Join(dir, name), world, change)
	}
	// what one process sees in its fifth step
	inStep5 := func(tr *trainer, loss float64, err error) {
		tr.engine = faulty{tr.engine, func(l float64) (float64, error) {
			if tr.step == 4 {
				return loss, err
			}
			return l, nil
		}}
	}
	nothing := func(*trainer, func()) {}

	// All is well: three processes compute what one does that accumulates.
	results, errs := run("well", nothing)
	for rank, err := range errs {
		if err != nil {
			t.Fatalf("rank %d: %v", rank, err)
		}
		if res := results[rank]; res.Step != 12 || res.ValLoss != results[0].ValLoss || !bytes.Equal(weights(t, res.Checkpoint), weights(t, results[0].Checkpoint)) {
			t.Errorf("rank %d ends with other weights than rank 0: %+v", rank, res)
		}
	}
	r := newRun(t, filepath.Join(dir, "data"), filepath.Join(dir, "one"), 1, "")
	r.Config = parse(t, strings.Replace(tiny, "steps: 30, batch: 2, accumulate: 2", "steps: 12, batch: 1, accumulate: 3", 1))
	one := train(t, r)
	want, _, err := ReadMetrics(r.Dir, 12)
	if err != nil {
		t.Fatal(err)
	}
	for rank := range world {
		got, _, err := ReadMetrics(filepath.Join(dir, "well", fmt.Sprint(rank)), 12)
		if err != nil || len(got) != len(want) {
			t.Fatalf("rank %d: %d lines of metrics, %v", rank, len(got), err)
		}
		for i, w := range want {
			// The order of sums is another one; the optimizer divides by what is near 0.
			if g := got[i]; math.Abs(g.Loss-w.Loss) > 1e-4*w.Loss || math.Abs(g.GradNorm-w.GradNorm) > 1e-3*w.GradNorm || g.Tokens != w.Tokens {
				t.Errorf("rank %d, step %d: loss %v and norm %v, one process has %v and %v", rank, w.Step, g.Loss, g.GradNorm, w.Loss, w.GradNorm)
			}
		}
	}
	if got := results[0].ValLoss; math.Abs(got-one.ValLoss) > 1e-4*one.ValLoss {
		t.Errorf("three processes end with the loss %v, one with %v", got, one.ValLoss)
	}

	// The loss of one is no number: all halt in that step.
	for _, loss := range []float64{math.NaN(), math.Inf(1)} {
		_, errs = run(fmt.Sprint("loss ", loss), func(tr *trainer, _ func()) {
			if tr.run.Rank == 1 {
				inStep5(tr, loss, nil)
			}
		})
		for rank, err := range errs {
			if d := new(Diverged); !errors.As(err, &d) || d.Step != 5 || !strings.Contains(d.Reason, "the loss is") {
				t.Errorf("a loss of %v at rank 1: rank %d ends with %v", loss, rank, err)
			}
		}
	}

	// One fails, in its own step or after it: it says why, the others that one has
	// failed.
	broken := errors.New("the device is gone")
	_, errs = run("failed", func(tr *trainer, _ func()) {
		if tr.run.Rank == 2 {
			inStep5(tr, 0, broken)
		}
	})
	for rank, err := range errs {
		if own := rank == 2; err == nil || errors.Is(err, errLeft) || own != errors.Is(err, broken) || !own && !strings.Contains(err.Error(), "step 5: another process has failed") {
			t.Errorf("rank 2 fails: rank %d ends with %v", rank, err)
		}
	}
	for step, spoil := range map[int]func(tr *trainer){
		1: func(tr *trainer) { os.Mkdir(filepath.Join(tr.run.Dir, MetricsFile), 0o777) },
		4: func(tr *trainer) {
			tr.run.SaveEvery = 1
			tr.run.OnStep = func(p Progress) {
				if p.Step == 3 {
					os.RemoveAll(tr.run.Dir)
					os.WriteFile(tr.run.Dir, nil, 0o666)
				}
			}
		},
	} {
		_, errs = run(fmt.Sprint("unwritable ", step), func(tr *trainer, _ func()) {
			if tr.run.Rank == 0 {
				spoil(tr)
			}
		})
		for rank, err := range errs {
			if own := rank == 0; err == nil || errors.Is(err, errLeft) || own == strings.Contains(err.Error(), fmt.Sprintf("step %d: another process has failed", step)) {
				t.Errorf("rank 0 cannot write: rank %d ends with %v", rank, err)
			}
		}
	}

	// One is interrupted, between steps, in one or in a validation: all cut the same
	// step, and save the one before.
	for at, interrupt := range map[int]func(tr *trainer, stop func()){
		6: func(tr *trainer, stop func()) {
			tr.run.OnStep = func(p Progress) {
				if p.Step == 6 {
					stop()
				}
			}
		},
		7: func(tr *trainer, stop func()) {
			tr.run.Config.Train.Accumulate = 3 // the others have one micro-batch, whose sums count for nothing here
			tr.run.OnBatch = func(b Batch) {
				if b.Step == 8 && b.Done == 2 {
					stop()
				}
			}
		},
		10: func(tr *trainer, stop func()) {
			tr.run.OnBatch = func(b Batch) {
				if b.Step == 10 && b.Validation {
					stop()
				}
			}
		},
	} {
		results, errs = run(fmt.Sprint("interrupted ", at), func(tr *trainer, stop func()) {
			if tr.run.Rank == 1 {
				interrupt(tr, stop)
			}
		})
		for rank, err := range errs {
			if res := results[rank]; err != nil || !res.Interrupted || res.Step != at || !bytes.Equal(weights(t, res.Checkpoint), weights(t, results[0].Checkpoint)) {
				t.Errorf("rank 1 is interrupted: rank %d ends with %+v, %v, want step %d", rank, results[rank], err, at)
			}
		}
	}
}
