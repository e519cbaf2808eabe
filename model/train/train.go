// Package train runs training: the optimizer, the loop with its metrics and
// checkpoints, and what resume needs.
package train

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/checkpoint"
	"github.com/structuredffn/sffn/model/config"
	"github.com/structuredffn/sffn/model/data"
	"github.com/structuredffn/sffn/model/initial"
	"github.com/structuredffn/sffn/model/token"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/collective"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// Run describes a training run.
type Run struct {
	Config *config.Config
	Data   *data.Set
	// Dir is the run's folder: checkpoints, metrics, loss curve.
	Dir string
	// Resume continues from the newest checkpoint in Dir.
	Resume bool
	// Init, where not empty, is a run or a checkpoint whose weights a run begins
	// with, instead of what the seed gives. Its model is the configuration's, and its
	// tokenizer the data's. It is not read again: the run has a checkpoint before its
	// first step.
	//
	// Where the configuration is guided and Init is the dense model of the same
	// widths, its feed-forward matrices are the guides, so that the run begins with
	// what that model computes, and its factors are those that are nearest to them.
	Init string
	// Guides, where not empty, is a dense run or checkpoint whose feed-forward matrices
	// are the guides of a guided run that begins with a structured model: with what that
	// dense model computes, where all else is the same.
	Guides string
	// SaveEvery is the time between checkpoints, 0 for one at the end only;
	// the newest Keep stay.
	SaveEvery time.Duration
	Keep      int
	// Options pick the pool and the instruction set.
	Options rt.Options
	// Group are the ranks that share the steps; nil is this process alone. Each has the
	// same fields but for Group, Options and what follows the run, and the data. Rank 0
	// writes the run's folder, which all read where they resume.
	Group collective.Group
	// Device, where not nil, makes the engine that computes the steps, instead of
	// the CPU's kernels.
	Device func(Start) (Engine, error)
	// OnStep, OnBatch and OnNote, where not nil, follow the run.
	OnStep  func(Progress)
	OnBatch func(Batch)
	OnNote  func(string)

	ctx context.Context // ends what Train begins with
	// tokenizer, where not nil, is the data's with the files that lie beside that of the
	// checkpoint which the run goes on from.
	tokenizer token.Tokenizer
}

// kept is the tokenizer that goes into checkpoints.
func (r *Run) kept() token.Tokenizer { return cmp.Or(r.tokenizer, r.Data.Tokenizer) }

func (r *Run) context() context.Context {
	if r.ctx == nil {
		return context.Background()
	}
	return r.ctx
}

// Batch is how far a step, or the validation after it, has come: Done of its Of
// batches are computed.
type Batch struct {
	Step, Steps int
	Validation  bool
	Done, Of    int
}

// Progress is the state of a run after a step.
type Progress struct {
	Metrics
	Steps int
	// FLOPS is the rate of floating-point operations since the last report, a
	// backward pass counted as two forward passes.
	FLOPS float64
	ETA   time.Duration
}

// Result is how a run ended.
type Result struct {
	Step, Steps int
	Checkpoint  string // that of Step, empty where that is 0: there is nothing to save
	// ValLoss is the validation loss, in nats a token, and ValBits in bits a byte of
	// text: NaN where it was interrupted before the end.
	ValLoss, ValBits float64
	TokensPerSecond  float64
	Interrupted      bool
	Profile          model.Profile
	Elapsed          time.Duration
}

// trainer is a run at work: its loop, and what is kept in files.
type trainer struct {
	*Loop
	valIDs, valTargets []int32
	bits               float64 // a byte of the validation text, of one nat a token
	lock               *disk.Lock
	// metrics are the lines of the steps before.
	metrics []Metrics
	// warmup is that of the checkpoint's state.
	warmup *int
	// saved is the checkpoint of step savedAt, empty where there is none.
	saved   string
	savedAt int
	// given says that the run does not begin with what its seed gives.
	given bool
}

// Configure finds the configuration of the run: the one of that name, a file or a
// preset, or, where that is empty, of the checkpoint that the run resumes from,
// whose number of steps is the default, or begins with. A file for a run that begins
// with a checkpoint may leave its model out. steps replaces the number of steps where
// it is not 0.
func (r *Run) Configure(name string, steps int) (err error) {
	if r.Init != "" {
		if r.Config, err = r.configureInit(name); err == nil && steps != 0 {
			r.Config.Train.Steps = steps
		}
		return err
	}
	var saved *config.Config
	if r.Resume {
		latest, err := checkpoint.Find(r.Dir)
		switch {
		case err == nil:
			if saved, _, err = checkpoint.Describe(latest); err != nil {
				return err
			}
		case name == "" || !errors.Is(err, checkpoint.ErrNone): // Train knows whether it was begun
			return fmt.Errorf("nothing to resume: %w; --config begins a run", err)
		}
	}
	r.Config = saved
	if name != "" {
		if r.Config, err = config.Load(name); err != nil {
			return err
		}
		if saved != nil {
			if r.Config, err = r.Config.In(saved.Edition); err != nil {
				return err
			}
			r.Config.Train.Steps = saved.Train.Steps
		}
	}
	if steps != 0 {
		r.Config.Train.Steps = steps
	}
	return nil
}

// Train trains until the last step, or until ctx ends: then it ends the batch at
// work, saves the last whole step, and returns with Interrupted set. The step or
// validation that was cut is done again by the run that resumes.
//
// A run that resumes where none is saved yet, because it was interrupted or killed
// before, begins with its first step; one that is finished ends at once.
//
// Ranks end together: with an error that is [Elsewhere] at those that others keep from
// going on.
func (r *Run) Train(ctx context.Context) (*Result, error) {
	if res, err := r.Finished(); res != nil || err != nil {
		return res, err
	}
	r.ctx = ctx
	t, err := r.begin()
	if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return &Result{Steps: r.Config.Course().Steps, ValLoss: math.NaN(), ValBits: math.NaN(), Interrupted: true}, nil
	}
	if err != nil {
		return nil, err
	}
	defer t.Close()
	res, err := t.train(ctx)
	return res, Together(r.Group, err)
}

// Finished returns the result of a run that is to resume and has nothing left to
// do, and nil for any other. Of what a process left there that was killed after
// the last step, it cleans up. Of several ranks, all call it.
func (r *Run) Finished() (*Result, error) {
	if !r.Resume {
		return nil, nil
	}
	err := r.check()
	if err != nil {
		return nil, err
	}
	var res *Result
	if r.Group.Rank() == 0 && begun(r.Dir) {
		res, err = r.finished()
	}
	if err := Together(r.Group, err); err != nil || r.Group.Size() == 1 {
		return res, err
	}
	dir := ""
	if res != nil {
		dir = res.Checkpoint
	}
	if dir, err = r.tell(dir); err != nil || dir == "" {
		return nil, err
	}
	if res == nil {
		steps := r.Config.Course().Steps
		res = &Result{Step: steps, Steps: steps, Checkpoint: dir, ValLoss: math.NaN(), ValBits: math.NaN()}
	}
	return res, nil
}

// finished is Finished of the process that writes the folder.
func (r *Run) finished() (*Result, error) {
	lock, err := disk.Hold(r.Dir)
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return nil, err
	}
	defer lock.Release()
	if err := r.recover(); err != nil {
		return nil, err
	}
	latest, err := checkpoint.Find(r.Dir)
	if err != nil || latest == r.Dir {
		return nil, nil // which begin explains
	}
	state, err := r.checkResume(latest)
	if err != nil {
		return nil, err
	}
	steps := r.Config.Course().Steps
	if state.Step < steps {
		return nil, nil
	}
	lines, _, err := ReadMetrics(r.Dir, steps)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	n := len(lines)
	if n == 0 || lines[n-1].Step < steps || lines[n-1].ValLoss == nil {
		return nil, nil // it was cut in its last validation
	}
	if r.OnNote != nil {
		r.OnNote(fmt.Sprintf("%s is finished: nothing is left to train", r.Dir))
	}
	res := &Result{Step: steps, Steps: steps, Checkpoint: latest, ValLoss: *lines[n-1].ValLoss, ValBits: lines[n-1].bits(), TokensPerSecond: state.TokensPerSecond}
	return res, errors.Join(checkpoint.Prune(r.Dir, latest, r.Keep), drawCurve(r.Dir, r.Config.Model.Name, steps))
}

// begun says that a run was begun in a folder, whether anything is saved of it or
// not.
func begun(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, MetricsFile))
	if err != nil {
		_, err = checkpoint.Find(dir)
	}
	return err == nil
}

// Close frees everything, the run's folder included.
func (t *trainer) Close() {
	t.Loop.Close()
	t.lock.Release()
}

func (t *trainer) train(ctx context.Context) (*Result, error) {
	r := t.run
	metrics, err := t.openMetrics()
	if err != nil {
		return nil, t.fail(err)
	}
	defer func() { metrics.Close() }()
	res := &Result{Steps: t.course.Steps, ValLoss: math.NaN(), ValBits: math.NaN()}
	// What was interrupted in a validation is validated now.
	n := len(t.metrics)
	again := n > 0 && t.metrics[n-1].Step == t.step && t.metrics[n-1].ValLoss == nil && t.validates()
	cut := false // in a validation
	if again || t.step == res.Steps {
		loss, err := t.validate(ctx)
		if cut = errors.Is(err, ErrInterrupted); err != nil && !cut {
			return nil, t.fail(err)
		}
		if !cut {
			res.ValLoss, res.ValBits = loss, loss*t.bits
		}
		if again && !cut {
			t.metrics[n-1].setValidation(loss, t.bits)
			metrics.Close()
			if metrics, err = t.openMetrics(); err != nil {
				return nil, t.fail(err)
			}
		}
	}
	saved := time.Now()
	t.due = func() bool { return r.SaveEvery > 0 && time.Since(saved) > r.SaveEvery }
	for t.step < res.Steps && !t.stopped(ctx) {
		p, err := t.Step(ctx)
		if errors.Is(err, ErrInterrupted) {
			break
		}
		if err != nil {
			return nil, t.halt(err)
		}
		if t.validates() {
			loss, err := t.validate(ctx)
			if cut = errors.Is(err, ErrInterrupted); err != nil && !cut {
				return nil, t.fail(err)
			}
			if !cut {
				p.setValidation(loss, t.bits)
				res.ValLoss, res.ValBits = loss, loss*t.bits
			}
		}
		if t.writes() {
			if err := appendMetrics(metrics, p.Metrics); err != nil {
				return nil, t.fail(err)
			}
		}
		if r.OnStep != nil {
			r.OnStep(p)
		}
		if n := r.Config.Train.SpikePatience; n > 0 && t.watch.spiking >= n {
			return nil, t.halt(t.diverged(t.step, t.step-n, fmt.Sprintf("a spike has lasted %d steps: %v", n, &t.watch)))
		}
		if t.saves() && t.step < res.Steps && t.watch.spiking == 0 {
			if res.Checkpoint, err = t.save(); err != nil {
				return nil, err
			}
			t.note("saved %s", res.Checkpoint)
			saved = time.Now()
		}
	}
	if res.Checkpoint, err = t.save(); err != nil {
		return nil, err
	}
	res.Step, res.Interrupted = t.step, t.step < res.Steps || cut
	res.TokensPerSecond, res.Elapsed = t.rate, time.Since(t.start)
	if t.cpu != nil {
		res.Profile = t.cpu.trace.Profile()
	}
	return res, t.drawCurve()
}

// writes says that this process writes the run's folder.
func (t *trainer) writes() bool { return t.run.Group.Rank() == 0 }

// saves says that there is to be a checkpoint after this step.
func (t *trainer) saves() bool {
	if t.shared() {
		return t.saving
	}
	return t.due()
}

// openMetrics opens the metrics where this process writes them.
func (t *trainer) openMetrics() (*os.File, error) {
	if !t.writes() {
		return nil, nil
	}
	return openMetrics(t.run.Dir, t.metrics)
}

func (t *trainer) drawCurve() error {
	if !t.writes() {
		return nil
	}
	return drawCurve(t.run.Dir, t.run.Config.Model.Name, t.course.Steps)
}

// halt ends a run that cannot go on: what is sound is saved, and a run that has
// diverged says which checkpoint to go back to.
func (t *trainer) halt(err error) error {
	var d *Diverged
	if !errors.As(err, &d) {
		return errors.Join(t.fail(err), t.drawCurve())
	}
	if d.finite {
		if _, err := t.save(); err != nil {
			return err
		}
	}
	if dir, err := checkpoint.Before(t.run.Dir, d.sound); err == nil {
		d.Checkpoint = dir
	}
	return errors.Join(err, t.drawCurve())
}

// fail ends a run in which this rank cannot go on, while others do not know of it.
func (t *trainer) fail(err error) error { return abort(t.run.Group, err) }

// begin allocates and fills everything, from scratch or from a checkpoint.
func (r *Run) begin() (t *trainer, err error) {
	c := r.Config
	if err := r.check(); err != nil {
		return nil, err
	}
	if err := Together(r.Group, r.alike()); err != nil {
		return nil, err
	}
	writes := r.Group.Rank() == 0
	var lock *disk.Lock
	var init *beginning
	if writes {
		lock, init, err = r.open()
	}
	defer func() {
		if init != nil {
			init.close()
		}
		if err != nil {
			lock.Release()
		}
	}()
	if err := Together(r.Group, err); err != nil {
		return nil, err
	}
	var from string
	var state checkpoint.State
	if writes || r.Resume {
		from, state, err = r.latest()
	}
	if err := Together(r.Group, err); err != nil {
		return nil, err
	}
	steps, err := collective.All(never, r.Group, int64(state.Step))
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(steps, func(n int64) bool { return n != steps[0] }); i >= 0 {
		return nil, Together(r.Group, fmt.Errorf("%s has to be the same folder for all ranks that resume: its newest checkpoint is of step %d at rank 0, and of step %d at rank %d", r.Dir, steps[0], steps[i], i))
	}
	state.Lanes, err = r.lanes(from, state)
	if err := Together(r.Group, err); err != nil {
		return nil, err
	}
	sampler, err := data.NewSampler(r.Data.Train, c.Train.Seq, c.Train.Seed)
	if err != nil {
		return nil, err
	}
	tr, start := c.Train, time.Now()
	t = &trainer{lock: lock, saved: from, savedAt: state.Step, given: from != "" || r.Init != ""}
	before := newSchedule(tr, state.Steps)
	if state.Warmup != nil {
		before.Warmup = *state.Warmup
	}
	if from != "" && tr.Steps > state.Steps {
		// What is saved from now on, of this step too, has the new plan.
		t.saved, state.Warmup = "", &before.Warmup
	}
	t.warmup = state.Warmup
	if t.valIDs, t.valTargets, err = r.Data.Validation.Windows(max(1, tr.EvalTokens/tr.Seq), tr.Seq); err != nil {
		return nil, fmt.Errorf("validation data: %w", err)
	}
	t.bits = data.BitsPerByte(1, model.Counted(t.valTargets), r.Data.Validation.Bytes(t.valTargets))
	m := c.Model
	m.Guided = state.Step < c.Course().Guided
	params := model.NewParams(m)
	if writes {
		err = r.fill(params, from, init)
	}
	if err := Together(r.Group, err); err != nil {
		params.Close()
		return nil, err
	}
	if t.Loop, err = r.newLoop(params, sampler, uniforms(tr.Seed), from, state); err != nil {
		return nil, err
	}
	t.start = start
	if r.Resume && from == "" {
		t.note("nothing is saved in %s yet: it begins with the first step", r.Dir)
	}
	if from != "" {
		if state.Guide != nil {
			copy(t.cpu.adam.GuideSteps, state.Guide.Steps)
		}
		t.note("resuming %s at step %d of %d", from, t.step, t.course.Steps)
		if tr.Steps > state.Steps {
			t.note("the run was planned for %d steps: the learning rate of step %d, which was to be %.3g, is %.3g", state.Steps, t.step+1, before.At(t.step), t.lr.At(t.step))
		}
		if was, is := state.ISA, r.isa(); was != "" && was != is {
			t.note("warning: %s was trained on %s, and goes on on %s: its sums round otherwise, so that the run ends with other bits than an unbroken one", from, was, is)
		}
	}
	var damage string
	if writes || from != "" {
		t.metrics, damage, err = ReadMetrics(r.Dir, t.step)
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	if err := Together(r.Group, err); err != nil {
		t.Close()
		return nil, err
	}
	if damage != "" {
		t.note("%s", damage)
	}
	for _, m := range t.metrics {
		t.watch.add(m.Loss)
	}
	if from == "" && r.Init != "" {
		if _, err := t.save(); err != nil {
			t.Close()
			return nil, err
		}
		if init != nil {
			t.note("beginning with the weights of %s, %s", init.dir, init.what)
		}
	}
	t.note("ready after %.1f s", time.Since(t.start).Seconds())
	return t, nil
}

// open looks whether the run may begin, and holds its folder.
func (r *Run) open() (lock *disk.Lock, init *beginning, err error) {
	c := r.Config
	switch ids, tok := r.Data.Train.Vocab(), r.Data.Tokenizer.Name(); {
	case ids > c.Model.Vocab:
		return nil, nil, fmt.Errorf("vocab: the model takes %d ids, the data's tokenizer (%s) has %d; set vocab: %d", c.Model.Vocab, tok, ids, ids)
	case ids < c.Model.Vocab && r.OnNote != nil:
		r.OnNote(fmt.Sprintf("vocab: the model has %d ids, the data's tokenizer (%s) %d: the others are never trained", c.Model.Vocab, tok, ids))
	}
	if r.Init != "" {
		if init, err = r.openInit(); err != nil {
			return nil, nil, err
		}
	}
	if checkpoint.Is(r.Dir) {
		return nil, init, fmt.Errorf("%s is a checkpoint, want the folder of its run: %s", r.Dir, filepath.Dir(r.Dir))
	}
	lock, err = r.hold()
	return lock, init, err
}

// latest is the checkpoint that the run resumes from, none where it begins.
func (r *Run) latest() (from string, state checkpoint.State, err error) {
	latest, err := checkpoint.Find(r.Dir)
	switch {
	case err == nil && !r.Resume:
		return "", state, fmt.Errorf("%s holds a run already (%s); resume it, or choose another folder", r.Dir, latest)
	case err == nil:
		state, err = r.checkResume(latest)
		return latest, state, err
	case r.Resume && !(errors.Is(err, checkpoint.ErrNone) && begun(r.Dir)):
		return "", state, fmt.Errorf("nothing to resume: %w", err)
	case !errors.Is(err, checkpoint.ErrNone):
		return "", state, err
	}
	return "", state, nil
}

// fill fills the parameters that the run begins with, or goes on with.
func (r *Run) fill(params *model.Params, from string, init *beginning) error {
	if from != "" {
		if err := load(from, params); err != nil {
			return r.unreadable(from, err)
		}
		return nil
	}
	guide := initial.Merged
	if r.Config.Train.Guide.Start == "published" {
		guide = initial.PublishedGuide
	}
	initial.Model(params, params.Spec(), r.Config.Train.Seed, guide, r.Options.Pool)
	if init != nil {
		return init.fill(r.context(), params, guide, r.Options)
	}
	return nil
}

// isa is what the steps of the run are computed on.
func (r *Run) isa() string {
	if r.Device != nil {
		return "cuda"
	}
	isa := r.Options.ISA
	if isa == "" {
		isa, _ = kernel.Default() // the model is on it: there is one
	}
	return string(isa)
}

// hold locks the run's folder, and removes what a process left there that was
// killed.
func (r *Run) hold() (*disk.Lock, error) {
	if !r.Resume {
		if err := os.MkdirAll(r.Dir, 0o777); err != nil {
			return nil, err
		}
	}
	lock, err := disk.Hold(r.Dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("nothing to resume: %w", err)
	case errors.Is(err, errors.ErrUnsupported):
		if r.OnNote != nil {
			r.OnNote(fmt.Sprintf("warning: %v; see to it that no other process trains there", err))
		}
	case err != nil:
		return nil, err
	}
	if err := r.recover(); err != nil {
		lock.Release()
		return nil, err
	}
	return lock, nil
}

// recover finishes what a process was about in the run's folder that was killed.
func (r *Run) recover() error {
	return errors.Join(checkpoint.Recover(r.Dir), disk.Clean(filepath.Join(r.Dir, MetricsFile), filepath.Join(r.Dir, CurveFile)))
}

// checkResume compares a checkpoint with the run that is to continue it.
func (r *Run) checkResume(dir string) (checkpoint.State, error) {
	c, s, err := checkpoint.Describe(dir)
	if err != nil {
		return s, r.unreadable(dir, err)
	}
	if s.WeightsOnly {
		return s, fmt.Errorf("%s holds weights alone, which came from elsewhere: there is no training to resume, and a run that begins with them has a folder of its own", dir)
	}
	if got, want := r.Config.Train.Steps, s.Steps; got < want {
		return s, fmt.Errorf("steps: the run was planned for %d steps, which its learning rate follows; it may resume with more, not with %d", want, got)
	} else if got > want && c.Train.Guide.On() {
		return s, fmt.Errorf("steps: the guided phase is a share of the %d steps that the run was planned for; it cannot resume with %d", want, got)
	}
	c.Train.Steps = r.Config.Train.Steps
	if !c.SameRun(r.Config) {
		return s, fmt.Errorf("the configuration is not the one of %s; resume with that one, or start another run", dir)
	}
	if tok := r.Data.Tokenizer; s.TokenizerHash != "" && s.TokenizerHash != token.HashText(tok) {
		return s, fmt.Errorf("the data was made with the tokenizer %s (%s), %s with %s (%s); prepare it with that one, or start another run", tok.Name(), token.HashText(tok), dir, s.Tokenizer, s.TokenizerHash)
	}
	if got := r.Data.Fingerprint(); got != s.Data {
		return s, fmt.Errorf("the data (%s) is not what %s was trained on (%s); prepare it again from the same corpus, or start another run", got, dir, s.Data)
	}
	if err := checkpoint.Verify(dir, c); err != nil {
		return s, r.unreadable(dir, err)
	}
	return s, r.takeBeside(dir, s)
}

// load reads the parameters of a checkpoint, and demands finite ones.
func load(dir string, p *model.Params) error {
	if err := checkpoint.Load(dir, p); err != nil {
		return err
	}
	if err := p.Finite(); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	return nil
}

// unreadable says how to go on from the checkpoint before one that cannot be
// read.
func (r *Run) unreadable(dir string, err error) error {
	older, none := checkpoint.Older(r.Dir, dir)
	if none != nil {
		return err
	}
	return fmt.Errorf("%w; to go on from %s, move %s out of the run's folder", err, older, dir)
}

// validates says that a validation comes after the step before this one.
func (t *trainer) validates() bool {
	every := t.run.Config.Train.EvalEvery
	return t.step == t.course.Steps || every > 0 && t.step%every == 0
}

// validate is the loss on the validation windows.
func (t *trainer) validate(ctx context.Context) (float64, error) {
	return t.loss(ctx, t.valIDs, t.valTargets)
}

// save returns the checkpoint of this step, which it writes unless it is there.
// Before the first step there is none that would hold what the seed gives.
func (t *trainer) save() (string, error) {
	if t.step == 0 && !t.given {
		return "", nil
	}
	keep := t.run.Keep
	if t.watch.spiking > 0 {
		keep = max(2, keep+1) // the good one stays
	}
	if t.saved != "" && t.savedAt == t.step {
		var err error
		if t.writes() {
			err = checkpoint.Prune(t.run.Dir, t.saved, keep) // who wrote it may have died before that
		}
		return t.saved, Together(t.run.Group, err)
	}
	if err := t.engine.Fetch(); err != nil {
		return "", err
	}
	s := checkpoint.State{Edition: t.run.Config.Edition, Name: t.run.Config.Model.Name, Step: t.step, Steps: t.run.Config.Train.Steps, Warmup: t.warmup,
		Data: t.run.Data.Fingerprint(), ISA: t.run.isa(), TokensPerSecond: t.rate}
	if t.guidance != nil {
		s.Guide = &checkpoint.Guide{Count: t.step, Ratio: t.guidance.Ratio(t.step), Steps: t.cpu.adam.GuideSteps}
	}
	if t.lanes > 1 {
		s.Lanes = t.lanes
	}
	var dir string
	var err error
	if t.shared() {
		dir, err = t.saveShared(s, keep)
	} else {
		dir, err = checkpoint.Save(t.run.Dir, t.run.Config.Source, s, t.run.kept(), t.params, checkpoint.Of(t.m), checkpoint.Of(t.v), keep)
	}
	if err == nil {
		t.saved, t.savedAt = dir, t.step
	}
	return dir, err
}
