// Package train runs training: the optimizer, the loop with its metrics and
// checkpoints, and what resume needs.
package train

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/gen/specfile"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/checkpoint"
	"github.com/structuredffn/sffn/model/data"
	"github.com/structuredffn/sffn/model/initial"
	"github.com/structuredffn/sffn/model/schedule"
	rt "github.com/structuredffn/sffn/runtime"
)

// Run describes a training run.
type Run struct {
	Config *specfile.Config
	Data   *data.Set
	// Dir is the run's folder: checkpoints, metrics, loss curve.
	Dir string
	// Resume continues from the newest checkpoint in Dir.
	Resume bool
	// SaveEvery is the time between checkpoints, 0 for one at the end only;
	// the newest Keep stay.
	SaveEvery time.Duration
	Keep      int
	// Options pick the pool and the instruction set.
	Options rt.Options
	// Reduce, where not nil, runs between the backward pass and clipping: it
	// replaces the gradients by their mean over World processes, of which this
	// one is number Rank. Each reads its own share of the data.
	Reduce      func(grads []float32) error
	Rank, World int
	// Device, where not nil, makes the engine that computes the steps, instead of
	// the CPU's kernels.
	Device func(Start) (Engine, error)
	// OnStep and OnNote, where not nil, follow the run.
	OnStep func(Progress)
	OnNote func(string)
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
	Step, Steps     int
	Checkpoint      string
	ValLoss         float64 // NaN where it was interrupted before the end
	TokensPerSecond float64
	Interrupted     bool
	Profile         model.Profile
	Elapsed         time.Duration
}

// trainer is a run at work.
type trainer struct {
	*Run
	engine Engine
	// cpu is the engine where no device is; params and moments lie on the host.
	cpu          *cpu
	params, m, v *model.Params
	// guidance is nil outside the guided phase of a run.
	guidance *Guidance
	course   spec.Course
	watch    watch
	data     *data.Sampler
	lr       schedule.LR
	step     int

	ids, targets       []int32
	valIDs, valTargets []int32

	start   time.Time
	trained time.Duration // without validation and saving
	before  int           // steps that an earlier process ran
	rate    float64       // tokens a second, smoothed
	flops   float64       // of the model, for each token
}

// Train trains until the last step, or until ctx ends: then it finishes the
// step, saves, and returns with Interrupted set.
func (r *Run) Train(ctx context.Context) (*Result, error) {
	t, err := r.begin()
	if err != nil {
		return nil, err
	}
	defer t.close()
	metrics, err := openMetrics(r.Dir, t.step)
	if err != nil {
		return nil, err
	}
	defer metrics.Close()
	res := &Result{Steps: t.course.Steps, ValLoss: math.NaN()}
	saved := time.Now()
	for t.step < res.Steps && ctx.Err() == nil {
		p, err := t.advance()
		if err != nil {
			return nil, errors.Join(err, drawCurve(r.Dir, r.Config.Model.Name, res.Steps))
		}
		every := r.Config.Train.EvalEvery
		if t.step == res.Steps || every > 0 && t.step%every == 0 {
			loss, err := t.validate()
			if err != nil {
				return nil, err
			}
			p.ValLoss, res.ValLoss = &loss, loss
		}
		if err := appendMetrics(metrics, p.Metrics); err != nil {
			return nil, err
		}
		if r.OnStep != nil {
			r.OnStep(p)
		}
		if n := r.Config.Train.SpikePatience; n > 0 && t.watch.spiking >= n {
			err := t.diverged(t.step, t.step-n, fmt.Sprintf("a spike has lasted %d steps: %v", n, &t.watch))
			return nil, errors.Join(err, drawCurve(r.Dir, r.Config.Model.Name, res.Steps))
		}
		if r.SaveEvery > 0 && time.Since(saved) > r.SaveEvery && t.step < res.Steps && t.watch.spiking == 0 {
			if res.Checkpoint, err = t.save(); err != nil {
				return nil, err
			}
			t.note("saved %s", res.Checkpoint)
			saved = time.Now()
		}
	}
	if t.step == res.Steps && math.IsNaN(res.ValLoss) { // nothing was left to do
		if res.ValLoss, err = t.validate(); err != nil {
			return nil, err
		}
	}
	if res.Checkpoint, err = t.save(); err != nil {
		return nil, err
	}
	res.Step, res.Interrupted = t.step, t.step < res.Steps
	res.TokensPerSecond, res.Elapsed = t.rate, time.Since(t.start)
	if t.cpu != nil {
		res.Profile = t.cpu.trace.Profile()
	}
	return res, drawCurve(r.Dir, r.Config.Model.Name, res.Steps)
}

func (t *trainer) note(format string, args ...any) {
	if t.OnNote != nil {
		t.OnNote(fmt.Sprintf(format, args...))
	}
}

// begin allocates and fills everything, from scratch or from a checkpoint.
func (r *Run) begin() (*trainer, error) {
	c := r.Config
	if r.World == 0 {
		r.World = 1
	}
	if r.Rank < 0 || r.Rank >= r.World || r.World > 1 && r.Reduce == nil {
		return nil, fmt.Errorf("rank %d of %d processes: want a rank from 0, and Reduce with more than one process", r.Rank, r.World)
	}
	if r.Device != nil {
		if err := r.CheckDevice(); err != nil {
			return nil, err
		}
	}
	if v := r.Data.Train.Vocab(); v > c.Model.Vocab {
		return nil, fmt.Errorf("vocab: the data has %d ids, the model takes %d", v, c.Model.Vocab)
	}
	var from string
	var state checkpoint.State
	if latest, err := checkpoint.Find(r.Dir); err == nil {
		if !r.Resume {
			return nil, fmt.Errorf("%s holds a run already (%s); resume it, or choose another folder", r.Dir, latest)
		}
		from = latest
		if state, err = r.check(latest); err != nil {
			return nil, err
		}
	} else if r.Resume {
		return nil, fmt.Errorf("nothing to resume: %w", err)
	} else if !errors.Is(err, checkpoint.ErrNone) && !os.IsNotExist(err) {
		return nil, err
	}
	sampler, err := data.NewSampler(r.Data.Train, c.Train.Seq, c.Train.Seed)
	if err != nil {
		return nil, err
	}
	tr := c.Train
	course := c.Course()
	t := &trainer{Run: r, course: course, data: sampler, start: time.Now(), step: state.Step, before: state.Step, rate: state.TokensPerSecond,
		lr: schedule.NewLR(tr.LR, tr.MinLR, tr.Warmup, course.Steps)}
	if t.valIDs, t.valTargets, err = r.Data.Validation.Windows(max(1, tr.EvalTokens/tr.Seq), tr.Seq); err != nil {
		return nil, fmt.Errorf("validation data: %w", err)
	}
	m := c.Model
	if m.Guided = t.step < course.Guided; m.Guided {
		t.guidance = &Guidance{Steps: course.Guided, Course: schedule.Course(tr.Guide.Schedule)}
		if tr.Guide.ReduceFLOP {
			t.guidance.Uniform = uniforms(tr.Seed)
		}
	}
	params := model.NewParams(m)
	if from == "" {
		guide := initial.Merged
		if tr.Guide.Start == "published" {
			guide = initial.PublishedGuide
		}
		initial.Model(params, m, tr.Seed, guide, r.Options.Pool)
	} else if err := checkpoint.Load(from, params); err != nil {
		return nil, err
	}
	if err := t.makeEngine(m, params, from); err != nil {
		return nil, err
	}
	if from != "" {
		if state.Guide != nil {
			copy(t.cpu.adam.GuideSteps, state.Guide.Steps)
		}
		t.note("resuming %s at step %d of %d", from, t.step, course.Steps)
	} else if err := os.MkdirAll(r.Dir, 0o777); err != nil {
		return nil, err
	}
	t.watch.threshold = tr.SpikeThreshold
	if lines, err := ReadMetrics(r.Dir, t.step); err == nil {
		for _, m := range lines {
			t.watch.add(m.Loss)
		}
	}
	t.countFLOPs()
	t.ids, t.targets = make([]int32, tr.Batch*tr.Seq), make([]int32, tr.Batch*tr.Seq)
	t.note("ready after %.1f s", time.Since(t.start).Seconds())
	return t, nil
}

// check compares a checkpoint with the run that is to continue it.
func (r *Run) check(dir string) (checkpoint.State, error) {
	c, s, err := checkpoint.Describe(dir)
	if err != nil {
		return s, err
	}
	if got, want := r.Config.Train.Steps, s.Steps; got != want {
		return s, fmt.Errorf("steps: the run was planned for %d steps, which its learning rate follows; it cannot resume with %d", want, got)
	}
	if !c.SameRun(r.Config) {
		return s, fmt.Errorf("the configuration is not the one of %s; resume with that one, or start another run", dir)
	}
	if got := r.Data.Fingerprint(); got != s.Data {
		return s, fmt.Errorf("the data (%s) is not what %s was trained on (%s); prepare it again from the same corpus, or start another run", got, dir, s.Data)
	}
	return s, checkpoint.Verify(dir, c)
}

// makeEngine makes what computes the steps, with the moments of a checkpoint if
// there is one.
func (t *trainer) makeEngine(m spec.Model, params *model.Params, from string) error {
	c := t.Config.Train
	t.params = params
	if t.Device == nil {
		var err error
		if t.cpu, err = newCPU(m, params, c, t.Options); err != nil {
			return err
		}
		t.engine, t.m, t.v = t.cpu, t.cpu.adam.M, t.cpu.adam.V
		t.cpu.adam.Steps = t.step
	} else {
		t.m, t.v = model.NewParams(m), model.NewParams(m)
	}
	if from != "" {
		if err := checkpoint.LoadMoments(from, t.m, t.v); err != nil {
			return err
		}
	}
	if t.Device == nil {
		return nil
	}
	var err error
	t.engine, err = t.Device(Start{Spec: m, Params: params, M: t.m, V: t.v, Steps: t.step, Train: c})
	return err
}

func (t *trainer) close() {
	t.engine.Close()
	if t.cpu == nil {
		t.m.Close()
		t.v.Close()
	}
	t.params.Close()
}

// advance runs one step.
func (t *trainer) advance() (Progress, error) {
	c := &t.Config.Train
	start := time.Now()
	loss := 0.0
	for micro := range c.Accumulate {
		// Sequences are numbered through steps, micro-batches and ranks.
		first := uint64((t.dataStep()*c.Accumulate+micro)*t.World+t.Rank) * uint64(c.Batch)
		if err := t.data.Read(t.ids, t.targets, first, c.Batch); err != nil {
			return Progress{}, err
		}
		if t.guidance != nil {
			t.cpu.adam.Used = t.guidance.Set(t.cpu.model, t.step, micro)
		}
		l, err := t.engine.Backward(t.ids, t.targets, c.Batch, 1/float64(c.Accumulate), micro > 0)
		if err != nil {
			return Progress{}, err
		}
		loss += l / float64(c.Accumulate)
	}
	if math.IsNaN(loss) || math.IsInf(loss, 0) {
		return Progress{}, t.diverged(t.step+1, t.step-1, fmt.Sprintf("the loss is %v", loss))
	}
	if t.Reduce != nil {
		if err := t.Reduce(t.cpu.grads.Data); err != nil {
			return Progress{}, fmt.Errorf("step %d: reducing gradients: %w", t.step+1, err)
		}
	}
	lr := t.lr.At(t.step)
	norm, err := t.engine.Step(lr)
	if err != nil {
		return Progress{}, err
	}
	if math.IsNaN(norm) || math.IsInf(norm, 0) {
		// The weights are those that gave this step's finite loss.
		if _, err := t.save(); err != nil {
			return Progress{}, err
		}
		return Progress{}, t.diverged(t.step+1, t.step-t.watch.spiking, fmt.Sprintf("the norm of the gradients is %v", norm))
	}
	m := Metrics{Loss: loss, LR: lr, GradNorm: norm}
	if c.NormEvery > 0 && (t.step+1)%c.NormEvery == 0 {
		if m.GradNorms, m.WeightNorms, err = t.engine.Norms(); err != nil {
			return Progress{}, err
		}
	}
	spiking := t.watch.spiking
	t.watch.add(loss)
	if m.Spike = t.watch.spiking > 0; m.Spike && spiking == 0 {
		t.note("step %d: a spike: %v", t.step+1, &t.watch)
	} else if !m.Spike && spiking > 0 {
		t.note("step %d: the spike is over", t.step+1)
	}
	t.step++
	if t.guidance != nil && t.step == t.course.Guided {
		if err := t.dropGuides(); err != nil {
			return Progress{}, err
		}
	}
	spent := time.Since(start)
	t.trained += spent
	tokens := c.Batch * c.Seq * c.Accumulate * t.World
	// The rate follows the last ten steps or so.
	now := float64(tokens) / spent.Seconds()
	if n := t.step - t.before; n == 1 {
		t.rate = now
	} else {
		t.rate += (now - t.rate) / float64(min(n, 10))
	}
	m.Step, m.Tokens, m.TokensPerSecond = t.step, int64(t.step)*int64(tokens), t.rate
	return Progress{
		Metrics: m,
		Steps:   t.course.Steps,
		FLOPS:   t.flops * t.rate,
		ETA:     time.Duration(float64(t.course.Steps-t.step) * float64(tokens) / t.rate * float64(time.Second)),
	}, nil
}

// dataStep is the step whose data this step reads: those after the planned ones
// begin again at the first.
func (t *trainer) dataStep() int { return t.step % t.Config.Train.Steps }

// countFLOPs counts a backward pass as two forward passes.
func (t *trainer) countFLOPs() {
	c := &t.Config.Train
	t.flops = 3 * float64(t.params.Spec().ForwardFLOPs(c.Batch, c.Seq)) / float64(c.Batch*c.Seq)
}

// dropGuides ends the guided phase.
func (t *trainer) dropGuides() error {
	if err := t.cpu.dropGuides(); err != nil {
		return err
	}
	t.params, t.m, t.v = t.cpu.model.Params, t.cpu.adam.M, t.cpu.adam.V
	t.guidance = nil
	t.countFLOPs()
	t.note("step %d: the guided phase is over", t.step)
	return nil
}

// validate is the loss on the validation windows of the model that decodes:
// without the guides.
func (t *trainer) validate() (float64, error) {
	if t.guidance != nil {
		t.guidance.Unset(t.cpu.model)
	}
	return Evaluate(t.engine, t.valIDs, t.valTargets, t.Config.Train.Seq, t.Config.Train.Batch)
}

// Evaluate is the mean loss over windows of seq tokens, batch at a time.
func Evaluate(tr Evaluator, ids, targets []int32, seq, batch int) (float64, error) {
	sum := 0.0
	for at := 0; at < len(ids); at += batch * seq {
		end := min(len(ids), at+batch*seq)
		loss, err := tr.Loss(ids[at:end], targets[at:end], (end-at)/seq)
		if err != nil {
			return 0, err
		}
		sum += loss * float64(end-at)
	}
	return sum / float64(len(ids)), nil
}

func (t *trainer) save() (string, error) {
	if err := t.engine.Fetch(); err != nil {
		return "", err
	}
	s := checkpoint.State{Name: t.Config.Model.Name, Step: t.step, Steps: t.Config.Train.Steps,
		Tokenizer: t.Data.Tokenizer.Name(), Data: t.Data.Fingerprint(), TokensPerSecond: t.rate}
	if t.guidance != nil {
		s.Guide = &checkpoint.Guide{Count: t.step, Ratio: t.guidance.Ratio(t.step), Steps: t.cpu.adam.GuideSteps}
	}
	keep := t.Keep
	if t.watch.spiking > 0 {
		keep = max(2, keep+1) // the good one stays
	}
	return checkpoint.Save(t.Dir, t.Config.Source, s, t.params, t.m, t.v, keep)
}

// diverged halts the run in a step; what the steps up to good left is sound.
func (t *trainer) diverged(step, good int, reason string) error {
	d := &Diverged{Step: step, Reason: reason, LR: t.Config.Train.LR}
	if dir, err := checkpoint.Before(t.Dir, good); err == nil {
		d.Checkpoint = dir
	}
	return d
}
