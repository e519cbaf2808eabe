package train

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/runtime/collective"
)

// wide has parameters of several chunks, which ranks share out.
const wide = `
model:
  vocab: 257
  hidden: 128
  ffn: 384
  layers: 3
  q_heads: 4
  max_positions: 64
  mlp: {kind: lowrank, rank: 64}
train: {steps: 6, batch: 1, accumulate: 8, lanes: 4, seq: 16, lr: 0.01, norm_every: 2, eval_every: 3, eval_tokens: 112}
`

// faulty is an engine whose losses one rank changes.
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

// ranked are runs of the ranks of one group, in one folder.
type ranked struct {
	data, dir, src string
	resume         bool
	// change, where not nil, prepares the run of a rank, and spoil its trainer.
	change func(r *Run)
	spoil  func(tr *trainer, stop func())
}

// train trains in n ranks, which here are goroutines, and returns what came of each.
func (c ranked) train(t testing.TB, n int) ([]*Result, []error) {
	t.Helper()
	results, errs := make([]*Result, n), make([]error, n)
	var wg sync.WaitGroup
	for rank, g := range collective.Local(n) {
		r := newRun(t, c.data, c.dir, 1, "")
		r.Config, r.Group, r.Resume = parse(t, c.src), g, c.resume
		if c.change != nil {
			c.change(r)
		}
		ctx, stop := context.WithCancel(t.Context())
		wg.Go(func() {
			defer g.Close()
			if c.spoil == nil {
				results[rank], errs[rank] = r.Train(ctx)
				return
			}
			tr, err := r.begin()
			if err != nil {
				errs[rank] = err
				return
			}
			defer tr.Close()
			c.spoil(tr, stop)
			results[rank], err = tr.train(ctx)
			errs[rank] = Together(g, err)
		})
	}
	wg.Wait()
	return results, errs
}

// whole is the result of ranks that all end well, alike.
func (c ranked) whole(t testing.TB, n int) *Result {
	t.Helper()
	results, errs := c.train(t, n)
	for rank, err := range errs {
		if err != nil {
			t.Fatalf("rank %d of %d: %v", rank, n, err)
		}
		if res := results[rank]; res.Step != results[0].Step || res.Checkpoint != results[0].Checkpoint || !math.IsNaN(res.ValLoss) && res.ValLoss != results[0].ValLoss {
			t.Errorf("rank %d of %d ends as %+v, rank 0 as %+v", rank, n, res, results[0])
		}
	}
	return results[0]
}

// any replaces something in the configuration.
func with(src string, changes ...string) string {
	return strings.NewReplacer(changes...).Replace(src)
}

// A run has the same bits, metrics included, for every number of ranks that divides its
// lanes; another number of lanes has others.
func TestRanksSameBits(t *testing.T) {
	smallBuckets(t)
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	prepare(t, data)
	for name, src := range map[string]string{
		"plain":      wide,
		"one micro":  with(wide, "accumulate: 8", "accumulate: 4", "eval_tokens: 112", "eval_tokens: 16"), // and one window, for one rank
		"tied":       with(wide, "layers: 3", "layers: 2\n  tie_embeddings: true"),
		"recomputed": with(wide, "lr:", "recompute: true, lr:"),
		"dropout":    with(wide, "lr:", "dropout: 0.1, lr:"),
		"guided":     with(wide, "lr:", "guide: {max_step_ratio: 0.5}, lr:"),
		"some guides": with(wide, "lr:", "guide: {max_step_ratio: 0.9, reduce_flop: true}, lr:", "accumulate: 8", "accumulate: 4",
			"layers: 3", "layers: 2"),
		"six lanes": with(wide, "accumulate: 8, lanes: 4", "accumulate: 6, lanes: 6"),
	} {
		t.Run(name, func(t *testing.T) {
			run := func(n int) ranked {
				return ranked{data: data, dir: filepath.Join(dir, fmt.Sprint(name, n)), src: src}
			}
			want := run(1).whole(t, 1)
			ranks := []int{2, 4}
			if name == "six lanes" {
				ranks = []int{2, 3, 6}
			}
			for _, n := range ranks {
				got := run(n).whole(t, n)
				if !bytes.Equal(weights(t, got.Checkpoint), weights(t, want.Checkpoint)) {
					t.Errorf("%d ranks train other weights than 1", n)
				}
				sameMetrics(t, run(n).dir, run(1).dir)
			}
			if name != "plain" {
				return
			}
			one := ranked{data: data, dir: filepath.Join(dir, "one lane"), src: with(src, "lanes: 4, ", "")}
			if bytes.Equal(weights(t, one.whole(t, 1).Checkpoint), weights(t, want.Checkpoint)) {
				t.Error("one lane has the bits of four: lanes do nothing")
			}
		})
	}
}

// smallBuckets has several of them in a small model.
func smallBuckets(t *testing.T) {
	chunks, gathers := bucketChunks, ahead
	bucketChunks, ahead = 1, 1
	t.Cleanup(func() { bucketChunks, ahead = chunks, gathers })
}

// watched is a group that says when it begins to exchange gradients and to gather
// parameters: of more than a few numbers.
type watched struct {
	collective.Group
	exchanges, gathers func()
}

func (w watched) Exchange(send, recv [][]byte) collective.Pending {
	w.exchanges()
	return w.Group.Exchange(send, recv)
}

func (w watched) AllGather(data []byte, bounds []int) collective.Pending {
	if len(data) > 1<<12 {
		w.gathers()
	}
	return w.Group.AllGather(data, bounds)
}

// Gradients leave while the backward pass still runs, and parameters come while the
// forward pass does, which waits for none that it does not need yet. A rank has its share of the moments alone, of whole chunks.
func TestRanksOverlap(t *testing.T) {
	smallBuckets(t)
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	prepare(t, data)
	const n = 2
	events := make([]string, n)
	c := ranked{data: data, dir: filepath.Join(dir, "run"), src: with(wide, "steps: 6", "steps: 2", "accumulate: 8, lanes: 4", "accumulate: 2", "norm_every: 2", "norm_every: 0")}
	c.spoil = func(tr *trainer, _ func()) {
		x, rank := tr.cpu.ranks, tr.run.Group.Rank()
		say := func(s string) { events[rank] += s + " " }
		x.g = watched{x.g, func() { say("send") }, func() { say("get") }}
		need, trace := tr.cpu.trace.Need, tr.cpu.trace
		trace.Need = func(part int) {
			say(fmt.Sprint("need", part))
			need(part)
			if x.arrived < x.begun {
				say("early")
			}
			if done := trace.Done; done != nil && part == 4 {
				trace.Done = func(part int) { say(fmt.Sprint("done", part)); done(part) }
			}
		}
		all := len(tr.params.Data)
		if got := len(x.moments[0]); got > (all/updateChunk+n)/n*updateChunk || got < all/n-updateChunk {
			t.Errorf("rank %d has the moments of %d of %d parameters", rank, got, all)
		}
	}
	c.whole(t, n)
	for rank, s := range events {
		before := func(a, b string) {
			t.Helper()
			if i, j := strings.Index(s, a), strings.LastIndex(s, b); i < 0 || j < 0 || i > j {
				t.Errorf("rank %d: no %q before %q in %s", rank, a, b, s)
			}
		}
		before("send", "done1")
		before("get need0", "need4")
		before("need1 get", "need4")
		before("early", "need4")
		if strings.Count(s, "send") < 2*4 {
			t.Errorf("rank %d exchanges few buckets: %s", rank, s)
		}
	}
}

// Chunks are shared out evenly, each bucket is whole, and a backward pass that has
// finished a bucket's last part has finished all of it.
func TestBuckets(t *testing.T) {
	smallBuckets(t)
	m := parse(t, with(wide, "lr:", "guide: {max_step_ratio: 0.5}, lr:")).Model
	p := model.NewParams(m)
	defer p.Close()
	all := chunks(p)
	for _, ranks := range []int{1, 2, 3, 5, 64} {
		owned, covered := make([]int, ranks), 0
		for _, b := range buckets(p, all, ranks) {
			covered += b.Hi - b.Lo
			at := b.Lo
			for q := range ranks {
				r := b.part(q)
				if r.Lo != at || r.Hi < r.Lo {
					t.Fatalf("%d ranks: part %d of %+v is %+v", ranks, q, b, r)
				}
				at = r.Hi
				for _, c := range all {
					if c.Lo < r.Hi && r.Lo < c.Hi {
						owned[q]++
						if c.Lo < r.Lo || c.Hi > r.Hi {
							t.Errorf("%d ranks: a part cuts a chunk", ranks)
						}
					}
				}
			}
			if at != b.Hi {
				t.Errorf("%d ranks: the parts of %+v end at %d", ranks, b, at)
			}
			for part := range b.last {
				for _, r := range p.Part(part) {
					if r.Lo < b.Hi && b.Lo < r.Hi {
						t.Errorf("%d ranks: %+v has something of part %d", ranks, b, part)
					}
				}
			}
		}
		if covered != len(p.Data) || slices.Max(owned)-slices.Min(owned) > 2 { // one of the guides, one of the rest
			t.Errorf("%d ranks: %d of %d entries, ranks own %v chunks", ranks, covered, len(p.Data), owned)
		}
	}
}

// The sums of lanes are a fixed tree: whoever computes which part of it, the
// additions are the same.
func TestLanes(t *testing.T) {
	var tree func(s span) string
	tree = func(s span) string {
		if s.hi == s.lo+1 {
			return fmt.Sprint(s.lo)
		}
		a, b := s.halves()
		return "(" + tree(a) + "+" + tree(b) + ")"
	}
	if got := tree(span{0, 6}); got != "(((0+1)+(2+3))+(4+5))" {
		t.Errorf("six lanes are added as %s", got)
	}
	for lanes := 1; lanes <= 24; lanes++ {
		want := tree(span{0, lanes})
		for ranks := 1; ranks <= lanes; ranks++ {
			if lanes%ranks != 0 {
				continue
			}
			var sums []string
			var leaves []span
			for q := range ranks {
				course, own, arenas := lanesOf(lanes, share(lanes, ranks, q))
				room := make([]string, arenas)
				for i, l := range course {
					room[l.arena] = fmt.Sprint(q*lanes/ranks + i)
					for j := range l.additions {
						to := l.arena - 1 - j
						room[to] = "(" + room[to] + "+" + room[to+1] + ")"
					}
				}
				sums, leaves = append(sums, room[:len(own)]...), append(leaves, own...)
				if ranks == 1 && arenas > 1+bits.Len(uint(lanes-1)) {
					t.Errorf("%d lanes take %d arenas", lanes, arenas)
				}
			}
			for _, a := range (span{0, lanes}).additions(leaves) {
				sums[a[0]] = "(" + sums[a[0]] + "+" + sums[a[1]] + ")"
			}
			if sums[0] != want {
				t.Errorf("%d lanes at %d ranks are added as %s, want %s", lanes, ranks, sums[0], want)
			}
		}
	}
}

// A run that was stopped, or saved, goes on with another number of ranks, in the
// guided phase too, and ends with the bits of an unbroken one; the lanes are those of
// the ranks that began it.
func TestRanksResume(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	prepare(t, data)
	src := with(wide, "lanes: 4, ", "", "lr:", "guide: {max_step_ratio: 0.5}, lr:")
	whole := ranked{data: data, dir: filepath.Join(dir, "whole"), src: src}
	want := whole.whole(t, 4)
	broken := ranked{data: data, dir: filepath.Join(dir, "broken"), src: src}
	for i, n := range []int{4, 1, 2, 4} {
		broken.resume = i > 0
		broken.spoil = func(tr *trainer, stop func()) {
			if tr.run.Group.Rank() != n-1 {
				return
			}
			tr.run.OnStep = func(p Progress) {
				if p.Step == 1+i {
					stop()
				}
			}
		}
		res := broken.whole(t, n)
		// Ranks hear of it in the next step, which they cut, or after it.
		if !res.Interrupted || res.Step < 1+i || res.Step > 2+i {
			t.Fatalf("%d ranks, interrupted after step %d, end as %+v", n, 1+i, res)
		}
	}
	broken.resume, broken.spoil = true, nil
	if _, errs := broken.train(t, 3); errs[0] == nil || !strings.Contains(errs[0].Error(), "3 ranks do not divide the 4 lanes of the run; start 1, 2 or 4") {
		t.Errorf("three ranks go on with four lanes: %v", errs)
	}
	got := broken.whole(t, 2)
	if !bytes.Equal(weights(t, got.Checkpoint), weights(t, want.Checkpoint)) {
		t.Error("the run that went on with other numbers of ranks ends with other weights")
	}
	sameMetrics(t, broken.dir, whole.dir)
	// Nothing is left to do, for any number of ranks.
	if res := broken.whole(t, 4); res.Step != 6 {
		t.Errorf("resuming a finished run: %+v", res)
	}
}

// What cannot work is refused by all ranks, each with the reason.
func TestRanksRefused(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	prepare(t, data)
	other := filepath.Join(dir, "other")
	prepareDocuments(t, other, [][]byte{bytes.Repeat([]byte("abc"), 4000), bytes.Repeat([]byte("cba"), 4000), bytes.Repeat([]byte("xy"), 4000), bytes.Repeat([]byte("zy"), 4000)})
	last := func(change func(r *Run)) func(r *Run) {
		return func(r *Run) {
			if r.Group.Rank() == r.Group.Size()-1 {
				change(r)
			}
		}
	}
	for name, c := range map[string]struct {
		ranked
		n    int
		want string
	}{
		"lanes":             {ranked{src: wide}, 3, "3 ranks do not divide the 4 lanes of the run; start 1, 2 or 4"},
		"accumulate":        {ranked{src: with(wide, "accumulate: 8, lanes: 4", "accumulate: 2")}, 3, "a step has 2 micro-batches, too few for 3 ranks"},
		"uneven":            {ranked{src: with(wide, "lanes: 4, ", "")}, 3, "the 8 micro-batches of a step do not go into 3 lanes"},
		"configuration":     {ranked{src: wide, change: last(func(r *Run) { r.Config = parse(t, with(wide, "lr: 0.01", "lr: 0.02")) })}, 2, "lr of the configuration has to be the same for all ranks: it is 0.01 at rank 0, and 0.02 at rank 1"},
		"threads":           {ranked{src: wide, change: last(func(r *Run) { r.Options.Pool = newRun(t, data, "", 2, "").Options.Pool })}, 2, "number of threads has to be the same for all ranks: it is 1 at rank 0, and 2 at rank 1"},
		"data":              {ranked{src: wide, change: last(func(r *Run) { r.Data = newRun(t, other, "", 1, "").Data })}, 2, "data has to be the same for all ranks"},
		"nothing to resume": {ranked{src: wide, resume: true}, 2, "nothing to resume"},
	} {
		t.Run(name, func(t *testing.T) {
			c.data, c.dir = data, filepath.Join(dir, name)
			_, errs := c.train(t, c.n)
			for rank, err := range errs {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("rank %d: %v, want %q", rank, err, c.want)
				}
				if elsewhere := new(*Elsewhere); errors.As(err, elsewhere) != (rank > 0) {
					t.Errorf("rank %d ends with %T %v: one says what is wrong", rank, err, err)
				}
			}
		})
	}
}

// Ranks end together, whatever happens to one.
func TestRanksEnd(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	prepare(t, data)
	src := with(wide, "layers: 3", "layers: 1")
	const n = 4
	run := func(name string, spoil func(tr *trainer, stop func())) ([]*Result, []error) {
		return ranked{data: data, dir: filepath.Join(dir, name), src: src, spoil: spoil}.train(t, n)
	}
	// what one rank sees in its fourth step
	inStep4 := func(tr *trainer, loss float64, err error) {
		tr.engine = faulty{tr.engine, func(l float64) (float64, error) {
			if tr.step == 3 {
				return loss, err
			}
			return l, nil
		}}
	}

	// The loss of one is no number: all halt in that step.
	for _, loss := range []float64{math.NaN(), math.Inf(1)} {
		_, errs := run(fmt.Sprint("loss ", loss), func(tr *trainer, _ func()) {
			if tr.run.Group.Rank() == 1 {
				inStep4(tr, loss, nil)
			}
		})
		for rank, err := range errs {
			if err == nil || !strings.Contains(err.Error(), "halted at step 4: training diverged: the loss is") || errors.As(err, new(*Diverged)) != (rank == 0) {
				t.Errorf("a loss of %v at rank 1: rank %d ends with %v", loss, rank, err)
			}
		}
	}

	// One fails, in its own step, or in writing: the others hear which, and why.
	broken := errors.New("the machine is on fire")
	_, errs := run("failed", func(tr *trainer, _ func()) {
		if tr.run.Group.Rank() == 2 {
			inStep4(tr, 0, broken)
		}
	})
	for rank, err := range errs {
		if err == nil || !strings.Contains(err.Error(), broken.Error()) || (rank != 2) != strings.Contains(err.Error(), "rank 2") {
			t.Errorf("rank 2 fails: rank %d ends with %v", rank, err)
		}
	}
	for name, spoil := range map[string]func(tr *trainer){
		"metrics": func(tr *trainer) { os.Mkdir(filepath.Join(tr.run.Dir, MetricsFile), 0o777) },
		"checkpoint": func(tr *trainer) {
			tr.run.SaveEvery = 1
			tr.run.OnStep = func(p Progress) {
				if p.Step == 3 {
					os.RemoveAll(tr.run.Dir)
					os.WriteFile(tr.run.Dir, nil, 0o666)
				}
			}
		},
	} {
		_, errs = run("unwritable "+name, func(tr *trainer, _ func()) {
			if tr.run.Group.Rank() == 0 {
				spoil(tr)
			}
		})
		for rank, err := range errs {
			if err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "unwritable "+name)) || (rank > 0) != strings.Contains(err.Error(), "rank 0") {
				t.Errorf("rank 0 cannot write: rank %d ends with %v", rank, err)
			}
		}
	}

	// One is interrupted, in a step or in a validation: all cut the same, and save.
	for name, at := range map[string]struct {
		step      int
		interrupt func(tr *trainer, stop func())
	}{
		"in its only micro-batch": {2, func(tr *trainer, stop func()) {
			tr.run.OnBatch = func(b Batch) {
				if b.Step == 2 {
					stop()
				}
			}
		}},
		"in a step": {2, func(tr *trainer, stop func()) {
			tr.run.OnBatch = func(b Batch) {
				if b.Step == 3 && b.Done == 1 && !b.Validation {
					stop()
				}
			}
		}},
		"in a validation": {3, func(tr *trainer, stop func()) {
			tr.run.OnBatch = func(b Batch) {
				if b.Step == 3 && b.Validation {
					stop()
				}
			}
		}},
	} {
		c := ranked{data: data, dir: filepath.Join(dir, "interrupted "+name), src: src}
		if strings.Contains(name, "only") {
			c.src = with(src, "accumulate: 8", "accumulate: 4")
		}
		c.spoil = func(tr *trainer, stop func()) {
			if tr.run.Group.Rank() == 1 {
				at.interrupt(tr, stop)
			}
		}
		results, errs := c.train(t, n)
		for rank, err := range errs {
			if res := results[rank]; err != nil || !res.Interrupted || res.Step < at.step || res.Step > 3 || res.Step != results[0].Step {
				t.Errorf("rank 1 is interrupted %s: rank %d ends with %+v, %v", name, rank, results[rank], err)
			}
		}
	}
}
