package train

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/model/checkpoint"
)

// counted is an engine that counts what it computes, and calls before each.
type counted struct {
	Engine
	micros, windows int
	before          func(c *counted)
}

func (c *counted) Backward(ids, targets []int32, batch int, scale float64, accumulate bool) (float64, error) {
	c.micros++
	c.before(c)
	return c.Engine.Backward(ids, targets, batch, scale, accumulate)
}

func (c *counted) Loss(ids, targets []int32, batch int) (float64, error) {
	c.windows++
	c.before(c)
	return c.Engine.Loss(ids, targets, batch)
}

// trainOn trains on an engine that calls before each batch, until that stops it.
func trainOn(t *testing.T, r *Run, before func(c *counted, stop func())) (*Result, *counted) {
	t.Helper()
	tr, err := r.begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	ctx, stop := context.WithCancel(context.Background())
	c := &counted{Engine: tr.engine, before: func(c *counted) { before(c, stop) }}
	tr.engine = c
	res, err := tr.train(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return res, c
}

// sameMetrics compares the metrics of two runs, but for the speed.
func sameMetrics(t *testing.T, got, want string) {
	t.Helper()
	var all [2]string
	for i, dir := range []string{got, want} {
		lines := readMetrics(t, dir)
		for _, m := range lines {
			m.TokensPerSecond = 0
			val := math.NaN()
			if m.ValLoss != nil {
				if m.ValBits == nil || math.Abs(*m.ValBits-*m.ValLoss/math.Ln2) > 0.01**m.ValBits { // of bytes, but for the ends of documents
					t.Errorf("%v nats a token are %v bits a byte", *m.ValLoss, *m.ValBits)
				}
				val, m.ValLoss, m.ValBits = *m.ValLoss, nil, nil
			}
			all[i] += fmt.Sprintln(m, val)
		}
	}
	if all[0] != all[1] {
		t.Errorf("the metrics of %s are not those of %s:\n%s\n%s", got, want, all[0], all[1])
	}
}

// An interrupt inside a step ends it after the micro-batch at work, one inside a
// validation after the batch at work. The run that resumes does that step, or that
// validation, again, and ends with the bits and metrics of an unbroken one.
func TestInterruptInside(t *testing.T) {
	dir := t.TempDir()
	prepare(t, filepath.Join(dir, "data"))
	src := strings.Replace(tiny, "steps: 30, batch: 2, accumulate: 2", "guide: {max_step_ratio: 0.5, reduce_flop: true}, steps: 6, batch: 1, accumulate: 5", 1)
	src = strings.Replace(src, "eval_every: 10", "eval_every: 2", 1)
	begin := func(name string) *Run {
		r := newRun(t, filepath.Join(dir, "data"), filepath.Join(dir, name), 1, "")
		r.Config = parse(t, src)
		return r
	}
	whole, all := trainOn(t, begin("whole"), func(*counted, func()) {})
	steps, each := whole.Steps, all.windows/(whole.Steps/2)
	if steps%2 != 0 || all.micros != 5*steps || each < 3 {
		t.Fatalf("%d steps of %d micro-batches, validations of %d batches", steps, all.micros, each)
	}
	for name, stop := range map[string]struct{ micros, windows, step int }{
		"in the first step":          {3, 0, 0},
		"in a step":                  {12, each, 2},
		"between steps":              {20, 2 * each, 4},
		"in a validation":            {10, 2, 2},
		"in the last validation":     {5 * steps, all.windows - each + 1, steps},
		"at the end of a validation": {10, each, 2},
	} {
		t.Run(name, func(t *testing.T) {
			res, c := trainOn(t, begin(name), func(c *counted, cut func()) {
				if c.micros == stop.micros && c.windows == stop.windows {
					cut()
				}
			})
			if !res.Interrupted || res.Step != stop.step || c.micros != stop.micros || c.windows != stop.windows {
				t.Errorf("it ended at step %d, interrupted %v, with %d micro-batches and %d of validation, want step %d with %d and %d",
					res.Step, res.Interrupted, c.micros, c.windows, stop.step, stop.micros, stop.windows)
			}
			r := begin(name)
			r.Resume = true
			// Interrupted again before it has done anything, it loses nothing.
			if again, _ := trainOn(t, r, func(_ *counted, cut func()) { cut() }); !again.Interrupted || again.Step > stop.step+1 {
				t.Errorf("interrupted again: %+v", again)
			}
			r = begin(name)
			r.Resume = true
			res = train(t, r)
			if res.Interrupted || res.ValLoss != whole.ValLoss || !bytes.Equal(weights(t, res.Checkpoint), weights(t, whole.Checkpoint)) {
				t.Errorf("the run that was interrupted ends with other weights: %+v, want %+v", res, whole)
			}
			sameMetrics(t, r.Dir, filepath.Join(dir, "whole"))
		})
	}
}

// Nothing is saved where nothing was stepped: the checkpoint stays as it is.
func TestNothingToSave(t *testing.T) {
	dir := t.TempDir()
	prepare(t, filepath.Join(dir, "data"))
	r := newRun(t, filepath.Join(dir, "data"), filepath.Join(dir, "run"), 1, "")
	first := train(t, r)
	before, err := os.Stat(first.Checkpoint)
	if err != nil {
		t.Fatal(err)
	}
	r.Resume = true
	var notes []string
	r.OnNote = func(s string) { notes = append(notes, s) }
	r.OnBatch = func(b Batch) { t.Errorf("a finished run computes %+v", b) }
	res := train(t, r)
	if want := []string{r.Dir + " is finished: nothing is left to train"}; !slices.Equal(notes, want) {
		t.Errorf("it says %q, want %q", notes, want)
	}
	after, err := os.Stat(first.Checkpoint)
	if err != nil || !os.SameFile(before, after) || res.Checkpoint != first.Checkpoint || res.ValLoss != first.ValLoss {
		t.Errorf("resuming a finished run wrote its checkpoint again: %+v, %v", res, err)
	}
	if _, err := checkpoint.Find(r.Dir); err != nil {
		t.Error(err)
	}
	// One that was killed after it had saved left an older one too many.
	for _, name := range []string{"step-00000028", "step-00000029"} {
		if err := os.CopyFS(filepath.Join(r.Dir, name), os.DirFS(first.Checkpoint)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(r.Dir, CurveFile)); err != nil {
		t.Fatal(err)
	}
	train(t, r)
	if _, err := os.Stat(filepath.Join(r.Dir, "step-00000028")); err == nil {
		t.Error("an old checkpoint stays beside the two that are kept")
	}
	if _, err := os.Stat(filepath.Join(r.Dir, CurveFile)); err != nil {
		t.Error(err)
	}
}

// Nor is there anything to save before the first step, which would be what the
// seed gives. The run begins again, called either way.
func TestInterruptFirst(t *testing.T) {
	dir := t.TempDir()
	prepare(t, filepath.Join(dir, "data"))
	whole := train(t, newRun(t, filepath.Join(dir, "data"), filepath.Join(dir, "whole"), 1, ""))
	for _, resume := range []bool{false, true} {
		r := newRun(t, filepath.Join(dir, "data"), filepath.Join(dir, fmt.Sprint("run", resume)), 1, "")
		res, _ := trainOn(t, r, func(_ *counted, stop func()) { stop() })
		if !res.Interrupted || res.Step != 0 || res.Checkpoint != "" {
			t.Errorf("interrupted in the first step: %+v", res)
		}
		entries, err := os.ReadDir(r.Dir)
		if err != nil || len(entries) != 1 || entries[0].Name() != MetricsFile {
			t.Errorf("the folder has %v, %v, want %s", entries, err, MetricsFile)
		}
		r.Resume = resume
		if res := train(t, r); res.Interrupted || !bytes.Equal(weights(t, res.Checkpoint), weights(t, whole.Checkpoint)) {
			t.Errorf("resume %v: %+v, want %+v", resume, res, whole)
		}
	}
}

// A line of the metrics that is damaged costs itself.
func TestDamagedMetrics(t *testing.T) {
	var good []string
	for i := range 3000 {
		good = append(good, fmt.Sprintf(`{"step":%d,"loss":2.5,"tokens":%d}`, i+1, 10*i+10))
	}
	for name, c := range map[string]struct {
		edit func(lines []string)
		lost []int // steps
	}{
		"whole":                  {func([]string) {}, nil},
		"a flipped bit":          {func(l []string) { l[249] = strings.Replace(l[249], ":", "z", 1) }, []int{250}},
		"no JSON":                {func(l []string) { l[249] = "\x00\x00" }, []int{250}},
		"nothing":                {func(l []string) { l[249] = "" }, []int{250}},
		"another object":         {func(l []string) { l[249] = "{}" }, []int{250}},
		"no loss":                {func(l []string) { l[249] = `{"step":250,"tokens":2500}` }, []int{250}},
		"a loss of nothing":      {func(l []string) { l[249] = strings.Replace(l[249], "2.5", "null", 1) }, []int{250}},
		"no loss at the end":     {func(l []string) { l[2998] = `{"step":2999}` }, []int{2999}},
		"a line too long":        {func(l []string) { l[249] = strings.Repeat("\x00", 1<<20) }, []int{250}},
		"two lines in one":       {func(l []string) { l[249] += l[250]; copy(l[250:], l[251:]); l[2999] = `{"step":3000,"lo` }, []int{250, 251}},
		"a step too high":        {func(l []string) { l[249] = strings.Replace(l[249], "250", "950", 1) }, []int{250}},
		"a step beyond the last": {func(l []string) { l[249] = strings.Replace(l[249], "250", "9250", 1) }, []int{250}},
		"a step too low":         {func(l []string) { l[249] = strings.Replace(l[249], "250", "150", 1) }, []int{250}},
		"the first line":         {func(l []string) { l[0] = strings.Replace(l[0], "1", "7", 1) }, []int{1}},
		"the last line":          {func(l []string) { l[2999] = `{"step":3000,"lo` }, []int{3000}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			lines := slices.Clone(good)
			c.edit(lines)
			if err := os.WriteFile(filepath.Join(dir, MetricsFile), []byte(strings.Join(lines, "\n")), 0o666); err != nil {
				t.Fatal(err)
			}
			got, damage, err := ReadMetrics(dir, 3000)
			if want := slices.DeleteFunc(slices.Clone(c.lost), func(step int) bool { return step == 3000 }); err != nil || (damage != "") != (len(want) > 0) || len(want) > 0 && !strings.Contains(damage, fmt.Sprint(want[0])) {
				t.Errorf("%v, damage %q, want it to name lines %v", err, damage, want)
			}
			var lost []int
			next := 1
			for _, m := range got {
				for ; next < m.Step; next++ {
					lost = append(lost, next)
				}
				next = m.Step + 1
			}
			for ; next <= 3000; next++ {
				lost = append(lost, next)
			}
			if !slices.Equal(lost, c.lost) {
				t.Errorf("%d lines are read, lost are the steps %v, want %v", len(got), lost[:min(5, len(lost))], c.lost)
			}
		})
	}
}

func readMetrics(t *testing.T, dir string) []Metrics {
	t.Helper()
	lines, _, err := ReadMetrics(dir, 3000)
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// A second run in a folder is told who holds it, and changes nothing there.
func TestHeld(t *testing.T) {
	dir := t.TempDir()
	prepare(t, filepath.Join(dir, "data"))
	begin := func(resume bool) (*trainer, error) {
		r := newRun(t, filepath.Join(dir, "data"), filepath.Join(dir, "run"), 1, "")
		r.Resume = resume
		return r.begin()
	}
	first, err := begin(false)
	if err != nil {
		t.Fatal(err)
	}
	for _, resume := range []bool{false, true} {
		var held *disk.Held
		if second, err := begin(resume); !errors.As(err, &held) || !strings.Contains(err.Error(), fmt.Sprintf("process %d on ", os.Getpid())) {
			t.Errorf("resume %v: a second run begins, %v", resume, err)
			if err == nil {
				second.Close()
			}
		}
	}
	res, err := first.train(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	// A run that could not begin holds nothing.
	if _, err := begin(false); err == nil || !strings.Contains(err.Error(), "holds a run already") {
		t.Errorf("over an old run: %v", err)
	}
	again, err := begin(true)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	entries, err := os.ReadDir(again.run.Dir)
	if err != nil || len(entries) != 3 {
		t.Errorf("the folder has %v, want %s, metrics and curve, %v", entries, filepath.Base(res.Checkpoint), err)
	}
}
