package train

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/checkpoint"
	"github.com/structuredffn/sffn/model/config"
	"github.com/structuredffn/sffn/runtime/collective"
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
	lanes    int // sums of a step's gradients
	// due says, at rank 0, that there is to be a checkpoint after this step. Ranks
	// agree on that, and on stopping before the next step.
	due              func() bool
	saving, stopping bool

	ids, targets []int32
	losses       []float64 // of this rank's micro-batches

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
	lanes, err := r.lanes("", checkpoint.State{})
	if err != nil {
		return nil, err
	}
	return r.newLoop(p, data, uniform, "", checkpoint.State{Lanes: lanes})
}

// check looks at what a run's fields say of each other.
func (r *Run) check() error {
	if r.Resume && r.Init != "" {
		return errors.New("a run begins with the weights of another one, or resumes, not both")
	}
	if r.Group == nil {
		r.Group = collective.Alone()
	}
	if r.Device != nil {
		return r.CheckDevice()
	}
	return nil
}

// lanes is how many sums a step's gradients are: as the configuration says, as the
// checkpoint has it that the run goes on from, or one for each rank.
func (r *Run) lanes(from string, state checkpoint.State) (int, error) {
	t, ranks := r.Config.Train, r.Group.Size()
	lanes := cmp.Or(t.Lanes, ranks)
	if from != "" {
		if lanes = max(1, state.Lanes); t.Lanes != 0 && t.Lanes != lanes {
			return 0, fmt.Errorf("lanes: %s was trained with %d, which decides its sums; it cannot go on with %d", from, lanes, t.Lanes)
		}
	}
	switch {
	case ranks > t.Accumulate:
		return 0, fmt.Errorf("accumulate: a step has %d micro-batches, too few for %d ranks; want as many, or a multiple", t.Accumulate, ranks)
	case t.Accumulate%lanes != 0:
		return 0, fmt.Errorf("accumulate: the %d micro-batches of a step do not go into %d lanes, one for each rank; want a multiple of that", t.Accumulate, lanes)
	case lanes%ranks != 0:
		return 0, fmt.Errorf("lanes: %d ranks do not divide the %d lanes of the run; start %s", ranks, lanes, divisors(lanes))
	}
	return lanes, nil
}

// divisors lists the numbers that divide n.
func divisors(n int) string {
	var all []string
	for d := 1; d <= n; d++ {
		if n%d == 0 {
			all = append(all, fmt.Sprint(d))
		}
	}
	if last := len(all) - 1; last > 0 {
		return strings.Join(all[:last], ", ") + " or " + all[last]
	}
	return all[0]
}

// newLoop begins a run, or goes on from a checkpoint, in a state that says the lanes.
// All ranks get the parameters of rank 0.
func (r *Run) newLoop(p *model.Params, data Sequences, uniform func(u []float64, step, micro int), from string, state checkpoint.State) (*Loop, error) {
	tr, m := r.Config.Train, p.Spec()
	l := &Loop{run: r, course: r.Config.Course(), data: data, start: time.Now(), step: state.Step, before: state.Step, rate: state.TokensPerSecond, lanes: state.Lanes}
	if r.Group.Size() > 1 {
		if err := r.Group.Broadcast(0, collective.Bytes(p.Data)).Wait(never); err != nil {
			return nil, err
		}
	}
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
	l.losses = make([]float64, tr.Accumulate/r.Group.Size())
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
		c.Lanes = l.lanes
		if l.cpu, err = newCPU(m, params, c, l.run.Options, l.run.Group); err != nil {
			return err
		}
		l.engine, l.m, l.v = l.cpu, l.cpu.adam.M, l.cpu.adam.V
		l.cpu.adam.Steps = l.step
	} else {
		l.m, l.v = model.NewParams(m), model.NewParams(m)
	}
	if from != "" && l.shared() {
		if err := l.loadMoments(from); err != nil {
			return err
		}
	} else if from != "" {
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

// Step runs one step. Ranks that run it together agree how it ends: where ctx of one
// of them is done before its last micro-batch, the step is cut in all, with
// ErrInterrupted.
func (l *Loop) Step(ctx context.Context) (Progress, error) {
	c := &l.run.Config.Train
	start := time.Now()
	if err := l.backward(ctx); err != nil {
		return Progress{}, err
	}
	loss, err := l.agree(ctx)
	if err != nil {
		return Progress{}, err
	}
	if math.IsNaN(loss) || math.IsInf(loss, 0) {
		return Progress{}, l.diverged(l.step+1, l.step-1, fmt.Sprintf("the loss is %v", loss))
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
	tokens := c.Batch * c.Seq * c.Accumulate
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

// shared says that several ranks run the steps.
func (l *Loop) shared() bool { return l.run.Group.Size() > 1 }

// backward computes the gradients of this rank's share of a step, and the losses of
// its micro-batches.
func (l *Loop) backward(ctx context.Context) error {
	c := &l.run.Config.Train
	n := len(l.losses)
	if l.guidance != nil {
		l.cpu.adam.Used = l.guidance.Used(l.cpu.Model, l.step, c.Accumulate)
	}
	var word agreement
	for k := range n {
		if cut, err := word.cut(ctx, l, k+1 < n); err != nil || cut {
			return cmp.Or(err, ErrInterrupted)
		}
		// Sequences are numbered through steps, micro-batches and ranks.
		micro := l.run.Group.Rank()*n + k
		first := uint64(l.dataStep()*c.Accumulate+micro) * uint64(c.Batch)
		if err := l.data.Read(l.ids, l.targets, first, c.Batch); err != nil {
			return err
		}
		if l.guidance != nil {
			l.guidance.Set(l.cpu.Model, l.step, micro)
		}
		if c.Dropout > 0 {
			l.cpu.trace.SetDropout(model.Dropout{P: c.Dropout, Seed: c.Seed, Step: l.step, Micro: micro})
		}
		if l.cpu != nil {
			l.cpu.micro = k
		}
		mean, err := l.engine.Backward(l.ids, l.targets, c.Batch, 1/float64(c.Accumulate), k%(c.Accumulate/l.lanes) > 0)
		if err != nil {
			return err
		}
		l.losses[k] = mean
		if l.run.OnBatch != nil {
			l.run.OnBatch(Batch{Step: l.step + 1, Steps: l.course.Steps, Done: k + 1, Of: n})
		}
	}
	return nil
}

// agreement is how ranks cut a step together: before each micro-batch but the last
// they tell each other who is to stop, and hear of it before the next one.
type agreement struct {
	told    []float64
	pending collective.Pending
}

// cut says that the step ends here; more that another micro-batch follows this one.
func (a *agreement) cut(ctx context.Context, l *Loop, more bool) (bool, error) {
	if !l.shared() {
		return ctx.Err() != nil, nil
	}
	if a.pending != nil {
		if err := a.pending.Wait(never); err != nil {
			return false, err
		}
		if slices.Max(a.told) > 0 {
			l.stopping = true
			return true, nil
		}
		a.pending = nil
	}
	if more {
		g := l.run.Group
		a.told = make([]float64, g.Size())
		a.told[g.Rank()] = asFloat(ctx.Err() != nil)
		a.pending = collective.AllGather(g, a.told, upTo(g.Size()))
	}
	return false, nil
}

func asFloat(on bool) float64 {
	if on {
		return 1
	}
	return 0
}

// upTo counts from 0 to n.
func upTo(n int) []int {
	all := make([]int, n+1)
	for i := range all {
		all[i] = i
	}
	return all
}

// agree returns the loss of a step, the mean over its micro-batches, which count alike
// however many targets of theirs do. Ranks also agree on what follows it.
func (l *Loop) agree(ctx context.Context) (loss float64, err error) {
	each := float64(l.run.Config.Train.Accumulate)
	if !l.shared() {
		for _, mean := range l.losses {
			loss += mean / each
		}
		return loss, nil
	}
	told := append([]float64{asFloat(ctx.Err() != nil), asFloat(l.due != nil && l.run.Group.Rank() == 0 && l.due())}, l.losses...)
	all, err := collective.All(never, l.run.Group, told...)
	if err != nil {
		return 0, err
	}
	l.saving = all[1] > 0
	for rank := range slices.Chunk(all, len(told)) {
		l.stopping = l.stopping || rank[0] > 0
		for _, mean := range rank[2:] {
			loss += mean / each
		}
	}
	return loss, nil
}

// stopped says that the run ends before its last step.
func (l *Loop) stopped(ctx context.Context) bool {
	if l.shared() {
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
	if err := l.engine.Fetch(); err != nil {
		return err
	}
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
	if l.shared() { // a rank may have no batch, and all gather parameters in the same order
		if err := l.engine.Fetch(); err != nil {
			return 0, err
		}
	}
	each := c.Batch * c.Seq * l.run.Group.Size()
	loss, err := EvaluateShared(l.run.Group, &validation{ctx: ctx, loop: l, of: (len(ids) + each - 1) / each}, ids, targets, c.Seq, c.Batch)
	if errors.Is(err, ErrInterrupted) {
		l.stopping = true
	}
	return loss, err
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
	return EvaluateShared(collective.Alone(), tr, ids, targets, seq, batch)
}

// EvaluateShared is Evaluate by ranks that share the batches: all have the same result,
// whatever their number, and where one is interrupted, all are.
func EvaluateShared(g collective.Group, tr Evaluator, ids, targets []int32, seq, batch int) (float64, error) {
	sum, each, ranks := 0.0, batch*seq, g.Size()
	for at := 0; at < len(ids); at += each * ranks {
		var mine struct{ Loss, Cut float64 }
		if lo := at + each*g.Rank(); lo < len(ids) {
			hi := min(len(ids), lo+each)
			loss, err := tr.Loss(ids[lo:hi], targets[lo:hi], (hi-lo)/seq)
			if err != nil && (ranks == 1 || !errors.Is(err, ErrInterrupted)) {
				return 0, abort(g, err)
			}
			mine.Loss, mine.Cut = loss, asFloat(err != nil)
		}
		all, err := collective.All(never, g, mine)
		if err != nil {
			return 0, err
		}
		for q, other := range all {
			if other.Cut > 0 {
				return 0, ErrInterrupted
			}
			if lo := at + each*q; lo < len(ids) {
				sum += other.Loss * float64(model.Counted(targets[lo:min(len(ids), lo+each)]))
			}
		}
	}
	return sum / float64(max(1, model.Counted(targets))), nil
}

// diverged halts the run in a step; what the steps up to sound left is good.
func (l *Loop) diverged(step, sound int, reason string) *Diverged {
	return &Diverged{Step: step, Reason: reason, LR: l.run.Config.Train.LR, sound: sound}
}
