package experiment

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/internal/ram"
	"github.com/structuredffn/sffn/model/checkpoint"
	"github.com/structuredffn/sffn/model/data"
	"github.com/structuredffn/sffn/model/data/source"
	"github.com/structuredffn/sffn/model/token"
	"github.com/structuredffn/sffn/model/train"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/collective"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// Options say how a plan's runs are trained.
type Options struct {
	// Jobs runs are trained at a time, each on Threads threads.
	Jobs, Threads int
	ISA           kernel.ISA
	// SaveEvery is the time between the checkpoints of a run.
	SaveEvery time.Duration
	// Note follows the plan; calls come one at a time.
	Note func(string)
	// Group are the ranks that share out the runs, each with Jobs at a time; nil is this
	// process alone. All see the folder; rank 0 holds it.
	Group collective.Group
}

// The folders of a plan's output.
const (
	dataDir = "data"
	runsDir = "runs"
)

// Dir is the folder of a run.
func (r *Run) Dir(out string) string { return filepath.Join(out, runsDir, r.Name) }

// Train trains what is left of the plan's runs in the folder out, those of the
// least FLOPs first: so a report soon has something to say. A run that
// fails is noted and the others go on; an ended ctx interrupts those at work, each
// with a checkpoint, and begins no other. One process at a time holds the folder.
func (p *Plan) Train(ctx context.Context, out string, opt Options) error {
	g := opt.Group
	if g == nil {
		g = collective.Alone()
	}
	var lock *disk.Lock
	defer func() { lock.Release() }()
	err := train.Apart(g, func() (err error) {
		if g.Rank() > 0 {
			return nil
		}
		if err := os.MkdirAll(out, 0o777); err != nil {
			return err
		}
		if lock, err = disk.Hold(out); errors.Is(err, errors.ErrUnsupported) {
			opt.Note(fmt.Sprintf("warning: %v; see to it that no other process trains there", err))
		} else if err != nil {
			return err
		}
		if err = p.prepare(ctx, filepath.Join(out, dataDir), opt.Note); ctx.Err() != nil {
			return nil // interrupted, as below
		}
		return err
	})
	if err != nil {
		return err
	}
	return train.Apart(g, func() error { return p.trainShare(ctx, out, opt, g.Rank(), g.Size()) })
}

// share are the runs of one of several ranks, which have about as much to do, those of
// the least FLOPs first.
func (p *Plan) share(rank, ranks int) (mine []*Run) {
	costs := func(r *Run) float64 { return r.Config.Course().FLOPs }
	dearest := slices.Clone(p.Runs)
	slices.SortStableFunc(dearest, func(a, b *Run) int { return -cmp.Compare(costs(a), costs(b)) })
	load := make([]float64, ranks)
	for _, r := range dearest {
		q := slices.Index(load, slices.Min(load))
		load[q] += costs(r)
		if q == rank {
			mine = append(mine, r)
		}
	}
	slices.SortStableFunc(mine, func(a, b *Run) int { return cmp.Compare(costs(a), costs(b)) })
	return mine
}

// trainShare trains what is left of a rank's runs.
func (p *Plan) trainShare(ctx context.Context, out string, opt Options, rank, ranks int) error {
	left := make(chan *Run)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed error
	note := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		opt.Note(fmt.Sprintf(format, args...))
	}
	for range max(1, opt.Jobs) {
		wg.Go(func() {
			pool := rt.NewPool(opt.Threads)
			defer pool.Close()
			for r := range left {
				if ctx.Err() != nil {
					continue
				}
				start := time.Now()
				res, err := r.train(ctx, out, rt.Options{Pool: pool, ISA: opt.ISA}, opt.SaveEvery, note)
				switch {
				case err != nil:
					note("%s: %v", r.Name, err)
					mu.Lock()
					failed = errors.Join(failed, fmt.Errorf("%s: %w", r.Name, err))
					mu.Unlock()
				case res.Interrupted:
					note("%s: interrupted at step %d of %d", r.Name, res.Step, res.Steps)
				default:
					note("%s: %d steps, validation loss %.4f, %.0f s", r.Name, res.Steps, res.ValLoss, time.Since(start).Seconds())
				}
			}
		})
	}
	for _, r := range p.share(rank, ranks) {
		if done, err := r.finished(out); err != nil || done || ctx.Err() != nil {
			if err != nil {
				note("%s: %v", r.Name, err)
				failed = errors.Join(failed, err)
			}
			continue
		}
		select {
		case left <- r:
		case <-ctx.Done():
		}
	}
	close(left)
	wg.Wait()
	return failed
}

// prepare makes the data, where it is not there yet.
func (p *Plan) prepare(ctx context.Context, dir string, note func(string)) error {
	tok, err := token.Open(p.Tokenizer)
	if err != nil {
		return fmt.Errorf("%s: tokenizer: %w", p.Name, err)
	}
	if set, err := data.Open(dir); err == nil {
		defer set.Close()
		if set.Tokenizer.Hash() != tok.Hash() {
			return fmt.Errorf("%s was made with the tokenizer %s, the plan asks for %s; choose another --out", dir, set.Tokenizer.Name(), tok.Name())
		}
		return nil
	}
	note("preparing " + dir)
	last := time.Now()
	prepare := data.Preparation{Tokenizer: tok, Note: note, Progress: func(at data.Progress) {
		if now := time.Now(); now.Sub(last) >= noteEvery {
			last = now
			note(fmt.Sprintf("%d documents, %d tokens", at.Documents, at.Tokens))
		}
	}}
	if p.Corpus != "" {
		prepare.Sources = []source.Source{source.GoRoot{}}
	} else {
		prepare.Sources = []source.Source{&source.Files{Named: "text", Paths: p.Text}}
	}
	_, err = prepare.Run(ctx, dir)
	return err
}

// finished reports whether the run has come to its end.
func (r *Run) finished(out string) (bool, error) {
	dir, err := checkpoint.Find(r.Dir(out))
	if errors.Is(err, checkpoint.ErrNone) || os.IsNotExist(err) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	c, s, err := checkpoint.Describe(dir)
	if err != nil {
		return false, err
	}
	if r.Config, err = r.Config.In(c.Edition); err != nil {
		return false, err
	}
	if !c.SameRun(r.Config) {
		return false, fmt.Errorf("%s holds a run of another configuration; choose another --out, or another name", r.Dir(out))
	}
	if s.Step < r.Config.Course().Steps {
		return false, nil
	}
	// It may have been interrupted in its last validation.
	lines, _, err := train.ReadMetrics(r.Dir(out), s.Step)
	if err != nil && !os.IsNotExist(err) {
		return false, err
	}
	n := len(lines)
	return n == 0 || lines[n-1].Step < s.Step || lines[n-1].ValLoss != nil, nil
}

// noteEvery is the time between notes of a run at work.
const noteEvery = 10 * time.Second

func (r *Run) train(ctx context.Context, out string, opt rt.Options, saveEvery time.Duration, note func(string, ...any)) (res *train.Result, err error) {
	defer ram.Refused(&err) // fails this run, not the program
	set, err := data.Open(filepath.Join(out, dataDir))
	if err != nil {
		return nil, err
	}
	defer set.Close()
	t := train.Run{Config: r.Config, Data: set, Dir: r.Dir(out), Keep: 1, SaveEvery: saveEvery, Options: opt}
	last := time.Now()
	t.OnStep = func(p train.Progress) {
		if now := time.Now(); now.Sub(last) >= noteEvery {
			last = now
			note("%s: step %d of %d, loss %.4f, ETA %s", r.Name, p.Step, p.Steps, p.Loss, p.ETA.Round(time.Second))
		}
	}
	t.OnBatch = func(b train.Batch) {
		if now := time.Now(); now.Sub(last) >= noteEvery {
			last = now
			note("%s: step %d of %d, %d of %d batches", r.Name, b.Step, b.Steps, b.Done, b.Of)
		}
	}
	t.OnNote = func(s string) {
		if strings.HasPrefix(s, "warning: ") || strings.Contains(s, train.MetricsFile) {
			note("%s: %s", r.Name, s)
		}
	}
	_, err = checkpoint.Find(t.Dir)
	t.Resume = err == nil
	return t.Train(ctx)
}
