package train

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/checkpoint"
	"github.com/structuredffn/sffn/model/config"
)

// Loop runs the steps of a run. It knows nothing of the run's folder: that is
// Run.Train's part.
type Loop struct {
	// OnGuidesEnd, where not nil, sees the parameters at the end of the guided
	// phase, before the guides go: so many steps have used them, and the ratio has
	// come to this.
	OnGuidesEnd func(p *model.Params, steps int, ratio float64)

	run    *Run
	engine Engine
	// cpu is the engine where no device is; params and moments lie on the host.
	cpu          *CPU
	params, m, v *model.Params
	// guidance is nil outside the guided phase of a run.
	guidance *Guidance
	course   config.Course
	watch    watch
	data     Sequences
	lr       LRSchedule
	step     int
	// told is what this process tells the others, then the mean of what all told;
	// stopping that all stop before the next step.
	told     [tells]float32
	stopping bool

	ids, targets []int32

	start  time.Time
	before int     // steps that an earlier process ran
	rate   float64 // tokens a second, smoothed
	flops  float64 // of the model, for each token
}

// Sequences are what a loop trains on. Read fills ids and targets with rows
// sequences, from number first on.
type Sequences interface {
	Read(ids, targets []int32, first uint64, rows int) error
}

// NewLoop begins a run with parameters, which it takes over, and sequences of
// the caller's, in place of what the run's data and seed give. uniform draws the
// numbers of guides that are used at random, as Guidance.Uniform.
func (r *Run) NewLoop(p *model.Params, data Sequences, uniform func(u []float64, step, micro int)) (*Loop, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	return r.newLoop(p, data, uniform, "", checkpoint.State{})
}

// check looks at what a run's fields say of each other.
func (r *Run) check() error {
	if r.Resume && r.Init != "" {
		return errors.New("a run begins with the weights of another one, or resumes, not both")
	}
	if r.World == 0 {
		r.World = 1
	}
	if r.Rank < 0 || r.Rank >= r.World || r.World > 1 && r.Reduce == nil {
		return fmt.Errorf("rank %d of %d processes: want a rank from 0, and Reduce with more than one process", r.Rank, r.World)
	}
	if r.Device != nil {
		return r.CheckDevice()
	}
	return nil
}

// newLoop begins a run, or goes on from a checkpoint in a state.
func (r *Run) newLoop(p *model.Params, data Sequences, uniform func(u []float64, step, micro int), from string, state checkpoint.State) (*Loop, error) {
	tr, m := r.Config.Train, p.Spec()
	l := &Loop{run: r, course: r.Config.Course(), data: data, start: time.Now(), step: state.Step, before: state.Step, rate: state.TokensPerSecond}
	l.lr = newSchedule(tr, l.course.Steps)
	if state.Warmup != nil {
		l.lr.Warmup = *state.Warmup
	}
	if m.Guided {
		l.guidance = &Guidance{Steps: l.course.Guided, Schedule: GuideSchedule(tr.Guide.Schedule)}
		if tr.Guide.ReduceFLOP {
			l.guidance.Uniform = uniform
		}
	}
	if err := l.makeEngine(m, p, from); err != nil {
		return nil, err
	}
	l.watch.threshold = tr.SpikeThreshold
	l.countFLOPs()
	l.ids, l.targets = make([]int32, tr.Batch*tr.Seq), make([]int32, tr.Batch*tr.Seq)
	return l, nil
}

// Model is the model in training, nil on a device. Its parameters are others
// once the guides are gone.
func (l *Loop) Model() *model.Model {
	if l.cpu == nil {
		return nil
	}
	return l.cpu.Model
}

func (l *Loop) note(format string, args ...any) {
	if l.run.OnNote != nil {
		l.run.OnNote(fmt.Sprintf(format, args...))
	}
}

// makeEngine makes what computes the steps, with the moments of a checkpoint if
// there is one.
func (l *Loop) makeEngine(m spec.Model, params *model.Params, from string) error {
	c := l.run.Config.Train
	l.params = params
	if l.run.Device == nil {
		var err error
		if l.cpu, err = NewCPU(m, params, c, l.run.Options); err != nil {
			return err
		}
		l.engine, l.m, l.v = l.cpu, l.cpu.adam.M, l.cpu.adam.V
		l.cpu.adam.Steps = l.step
	} else {
		l.m, l.v = model.NewParams(m), model.NewParams(m)
	}
	if from != "" {
		if err := checkpoint.LoadMoments(from, l.m, l.v); err != nil {
			return l.run.unreadable(from, err)
		}
	}
	if l.run.Device == nil {
		return nil
	}
	var err error
	l.engine, err = l.run.Device(Start{Spec: m, Params: params, M: l.m, V: l.v, Steps: l.step, Train: c})
	return err
}

// Close frees everything, the parameters included.
func (l *Loop) Close() {
	l.engine.Close()
	if l.cpu == nil {
		l.m.Close()
		l.v.Close()
	}
	l.params.Close()
}

// ErrInterrupted says that a step or a validation was cut: it has changed
// nothing.
var ErrInterrupted = errors.New("interrupted")

// Step runs one step. Processes that run it together agree how it ends; where ctx
// of one of them is done, stopping is set in all. Where that is before its last
// micro-batch, the step is cut in all, with ErrInterrupted.
func (l *Loop) Step(ctx context.Context) (Progress, error) {
	c := &l.run.Config.Train
	start := time.Now()
	loss, err := l.backward(ctx)
	if loss, err = l.agree(ctx, loss, err); err != nil {
		return Progress{}, err
	}
	if math.IsNaN(loss) || math.IsInf(loss, 0) {
		return Progress{}, l.diverged(l.step+1, l.step-1, fmt.Sprintf("the loss is %v", loss))
	}
	if l.run.Reduce != nil {
		if err := l.run.Reduce(l.cpu.Grads.Data); err != nil {
			return Progress{}, fmt.Errorf("step %d: reducing gradients: %w", l.step+1, err)
		}
	}
	lr := l.lr.At(l.step)
	norm, err := l.engine.Step(lr)
	if err != nil {
		return Progress{}, err
	}
	if math.IsNaN(norm) || math.IsInf(norm, 0) {
		d := l.diverged(l.step+1, l.step-l.watch.spiking, fmt.Sprintf("the norm of the gradients is %v", norm))
		d.finite = true // the weights gave this step's loss
		return Progress{}, d
	}
	m := Metrics{Loss: loss, LR: lr, GradNorm: norm}
	if c.NormEvery > 0 && (l.step+1)%c.NormEvery == 0 {
		if m.GradNorms, m.WeightNorms, err = l.engine.Norms(); err != nil {
			return Progress{}, err
		}
	}
	spiking := l.watch.spiking
	l.watch.add(loss)
	if m.Spike = l.watch.spiking > 0; m.Spike && spiking == 0 {
		l.note("step %d: a spike: %v", l.step+1, &l.watch)
	} else if !m.Spike && spiking > 0 {
		l.note("step %d: the spike is over", l.step+1)
	}
	l.step++
	if l.guidance != nil && l.step == l.course.Guided {
		if err := l.dropGuides(); err != nil {
			return Progress{}, err
		}
	}
	spent := time.Since(start)
	tokens := c.Batch * c.Seq * c.Accumulate * l.run.World
	// The rate follows the last ten steps or so.
	now := float64(tokens) / spent.Seconds()
	if n := l.step - l.before; n == 1 {
		l.rate = now
	} else {
		l.rate += (now - l.rate) / float64(min(n, 10))
	}
	m.Step, m.Tokens, m.TokensPerSecond = l.step, int64(l.step)*int64(tokens), l.rate
	return Progress{
		Metrics: m,
		Steps:   l.course.Steps,
		FLOPS:   l.flops * l.rate,
		ETA:     time.Duration(float64(l.course.Steps-l.step) * float64(tokens) / l.rate * float64(time.Second)),
	}, nil
}

// backward computes the gradients of a step, and its loss: the means over the
// micro-batches, which count alike however many targets of theirs do.
func (l *Loop) backward(ctx context.Context) (loss float64, err error) {
	c := &l.run.Config.Train
	for micro := range c.Accumulate {
		if ctx.Err() != nil {
			return 0, ErrInterrupted
		}
		// Sequences are numbered through steps, micro-batches and ranks.
		first := uint64((l.dataStep()*c.Accumulate+micro)*l.run.World+l.run.Rank) * uint64(c.Batch)
		if err := l.data.Read(l.ids, l.targets, first, c.Batch); err != nil {
			return 0, err
		}
		if l.guidance != nil {
			l.cpu.adam.Used = l.guidance.Set(l.cpu.Model, l.step, micro)
		}
		if c.Dropout > 0 {
			l.cpu.trace.SetDropout(model.Dropout{P: c.Dropout, Seed: c.Seed, Step: l.step, Micro: micro*l.run.World + l.run.Rank})
		}
		mean, err := l.engine.Backward(l.ids, l.targets, c.Batch, 1/float64(c.Accumulate), micro > 0)
		if err != nil {
			return 0, err
		}
		loss += mean / float64(c.Accumulate)
		if l.run.OnBatch != nil {
			l.run.OnBatch(Batch{Step: l.step + 1, Steps: l.course.Steps, Done: micro + 1, Of: c.Accumulate})
		}
	}
	return loss, nil
}

// What processes tell each other in a step, before they reduce its gradients:
// means over all of them.
const (
	tellLoss   = iota
	tellFailed // the share of those that cannot go on
	tellStop   // of those that are to stop after this step
	tellCut    // of those that have not finished it, for which none does
	tells
)

// agree returns the loss of a step, the mean over all processes, so that all see
// the same. None leaves without a word, for which the others would wait for
// ever: where one fails, all end in this step.
func (l *Loop) agree(ctx context.Context, loss float64, err error) (float64, error) {
	if l.run.World == 1 {
		return loss, err
	}
	l.told = [tells]float32{tellLoss: float32(loss)}
	if errors.Is(err, ErrInterrupted) {
		l.told[tellCut], err = 1, nil
	} else if err != nil {
		l.told[tellFailed] = 1
	}
	if ctx.Err() != nil {
		l.told[tellStop] = 1
	}
	if down := l.run.Reduce(l.told[:]); down != nil {
		err = errors.Join(err, fmt.Errorf("step %d: reaching the other processes: %w", l.step+1, down))
	}
	if err != nil {
		return 0, err
	}
	if l.told[tellFailed] > 0 {
		return 0, fmt.Errorf("step %d: another process has failed", l.step+1)
	}
	if l.told[tellCut] > 0 {
		l.stopping = true
		return 0, ErrInterrupted
	}
	l.stopping = l.told[tellStop] > 0
	return float64(l.told[tellLoss]), nil
}

// leave is called with what keeps this process from its next step, in which the
// others get to know.
func (l *Loop) leave(ctx context.Context, err error) error {
	if l.step < l.course.Steps && !l.stopping {
		_, err = l.agree(ctx, 0, err)
	}
	return err
}

// stopped says that the run ends before its last step.
func (l *Loop) stopped(ctx context.Context) bool {
	if l.run.World > 1 {
		return l.stopping
	}
	return ctx.Err() != nil
}

// dataStep is the step whose data this step reads: those after the planned ones
// begin again at the first.
func (l *Loop) dataStep() int { return l.step % l.run.Config.Train.Steps }

// countFLOPs counts a backward pass as two forward passes.
func (l *Loop) countFLOPs() {
	c := &l.run.Config.Train
	l.flops = 3 * l.params.Spec().ForwardFLOPs(c.Batch, c.Seq) / float64(c.Batch*c.Seq)
}

// dropGuides ends the guided phase.
func (l *Loop) dropGuides() error {
	if l.OnGuidesEnd != nil {
		l.OnGuidesEnd(l.params, l.step, l.guidance.Ratio(l.step))
	}
	if err := l.cpu.dropGuides(); err != nil {
		return err
	}
	l.params, l.m, l.v = l.cpu.Model.Params, l.cpu.adam.M, l.cpu.adam.V
	l.guidance = nil
	l.countFLOPs()
	l.note("step %d: the guided phase is over", l.step)
	return nil
}

// Loss is the mean loss on whole sequences of the model that decodes: without
// the guides.
func (l *Loop) Loss(ids, targets []int32) (float64, error) {
	return l.loss(context.Background(), ids, targets)
}

func (l *Loop) loss(ctx context.Context, ids, targets []int32) (float64, error) {
	if l.guidance != nil {
		l.guidance.Unset(l.cpu.Model)
	}
	c := &l.run.Config.Train
	each := c.Batch * c.Seq
	return Evaluate(&validation{ctx: ctx, loop: l, of: (len(ids) + each - 1) / each}, ids, targets, c.Seq, c.Batch)
}

// validation is the loop's engine, which it leaves once ctx is done.
type validation struct {
	ctx      context.Context
	loop     *Loop
	done, of int
}

func (v *validation) Loss(ids, targets []int32, batch int) (float64, error) {
	l := v.loop
	if v.ctx.Err() != nil {
		return 0, ErrInterrupted
	}
	loss, err := l.engine.Loss(ids, targets, batch)
	if v.done++; err == nil && l.run.OnBatch != nil {
		l.run.OnBatch(Batch{Step: l.step, Steps: l.course.Steps, Validation: true, Done: v.done, Of: v.of})
	}
	return loss, err
}

// Evaluate is the mean loss over the targets that count, those of windows of
// seq tokens, batch at a time.
func Evaluate(tr Evaluator, ids, targets []int32, seq, batch int) (float64, error) {
	sum := 0.0
	for at := 0; at < len(ids); at += batch * seq {
		end := min(len(ids), at+batch*seq)
		loss, err := tr.Loss(ids[at:end], targets[at:end], (end-at)/seq)
		if err != nil {
			return 0, err
		}
		sum += loss * float64(model.Counted(targets[at:end]))
	}
	return sum / float64(max(1, model.Counted(targets))), nil
}

// diverged halts the run in a step; what the steps up to sound left is good.
func (l *Loop) diverged(step, sound int, reason string) *Diverged {
	return &Diverged{Step: step, Reason: reason, LR: l.run.Config.Train.LR, sound: sound}
}
