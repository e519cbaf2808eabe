package gpu

import (
	"fmt"
	"math"

	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/config"
	"github.com/structuredffn/sffn/model/train"
	"github.com/structuredffn/sffn/runtime/cuda"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// Engine trains a model on a device. It is a [train.Engine].
type Engine struct {
	start       train.Start
	r           runner
	w           *weights
	net         *network
	trace       *trace
	grads, m, v arena
	sums, norm  cuda.Buffer
	groups      []group
	mem         memory
	steps       int
}

// group is a stretch of the arenas with a weight decay, in entries.
type group struct {
	offset, entries int
	decay           float64
}

// groups are the stretches of parameters that follow each other with the same decay.
func (l *layout) groups(s spec.Model, t config.Train) (gs []group) {
	vectors := map[string]bool{}
	for _, q := range s.Params() {
		vectors[q.Name] = train.Vector(q)
	}
	for _, name := range l.names {
		g := group{l.slots[name].offset, (l.slots[name].size + align - 1) / align * align, t.WeightDecay}
		if vectors[name] && !t.DecayAll {
			g.decay = 0
		}
		if n := len(gs); n > 0 && gs[n-1].decay == g.decay {
			gs[n-1].entries += g.entries
		} else {
			gs = append(gs, g)
		}
	}
	return gs
}

// NewEngine puts a model on a device, ready to train micro-batches of the
// configuration's size.
func NewEngine(d *cuda.Device, s train.Start) (*Engine, error) {
	p, err := newPlans(s.Spec)
	if err != nil {
		return nil, err
	}
	stream, err := d.NewStream()
	if err != nil {
		return nil, err
	}
	e := &Engine{start: s, r: runner{d: d, s: stream}, steps: s.Steps, mem: memory{d: d}}
	if err := e.fill(p); err != nil {
		e.Close()
		return nil, fmt.Errorf("%s on %s: %w", s.Spec.Name, d.Name, err)
	}
	return e, nil
}

func (e *Engine) fill(p plans) (err error) {
	if e.w, err = newWeights(&e.r, newLayout(p), e.start.Params.Get); err != nil {
		return err
	}
	e.groups = e.w.groups(e.start.Spec, e.start.Train)
	for _, a := range []*arena{&e.grads, &e.m, &e.v} {
		if *a, err = e.w.newArena(4); err != nil {
			return err
		}
		e.mem.all = append(e.mem.all, a.Buffer)
	}
	// One sum more for each parameter, where they are summed one by one.
	e.sums, e.norm = e.mem.float32((e.w.size+gpu.SquaresEach-1)/gpu.SquaresEach+len(e.w.names)), e.mem.float32(2)
	if e.mem.err != nil {
		return e.mem.err
	}
	e.r.do(func() error { return e.r.s.Clear(e.grads.Buffer) }) // the padding stays 0
	for _, a := range []struct {
		arena
		from *model.Params
	}{{e.m, e.start.M}, {e.v, e.start.V}} {
		if a.from == nil {
			e.r.do(func() error { return e.r.s.Clear(a.Buffer) })
			continue
		}
		a.upload(&e.r, a.from.Get)
	}
	if e.net, err = newNetwork(&e.r, p, e.w, &e.grads); err != nil {
		return err
	}
	e.trace, err = e.net.newTrace(e.start.Train.Batch * e.start.Train.Seq)
	return err
}

// check validates a micro-batch.
func (e *Engine) check(ids, targets []int32, batch int) (seq int, err error) {
	m := e.start.Spec
	switch {
	case batch < 1 || len(ids) == 0 || len(ids)%batch != 0 || len(targets) != len(ids):
		return 0, fmt.Errorf("gpu: %d tokens and %d targets are no batch of %d sequences", len(ids), len(targets), batch)
	case len(ids) > e.trace.rows:
		return 0, fmt.Errorf("gpu: %d tokens, there is room for %d", len(ids), e.trace.rows)
	case len(ids)/batch > m.MaxPositions:
		return 0, fmt.Errorf("gpu: sequences of %d tokens, the model takes %d", len(ids)/batch, m.MaxPositions)
	}
	if err := checkTokens(ids, m.Vocab); err != nil {
		return 0, err
	}
	if err := model.CheckTargets(targets, m.Vocab); err != nil {
		return 0, fmt.Errorf("gpu: %w", err)
	}
	return len(ids) / batch, nil
}

func checkTokens(ids []int32, vocab int) error {
	for i, id := range ids {
		if id < 0 || int(id) >= vocab {
			return fmt.Errorf("gpu: token %d is %d, want 0 to %d", i, id, vocab-1)
		}
	}
	return nil
}

// Backward is that of [train.Engine].
func (e *Engine) Backward(ids, targets []int32, batch int, scale float64, accumulate bool) (float64, error) {
	seq, err := e.check(ids, targets, batch)
	if err != nil {
		return 0, err
	}
	e.trace.begin(&e.r, ids, targets, seq)
	e.trace.forward(&e.r, batch, seq)
	counted := max(1, model.Counted(targets))
	e.trace.loss(&e.r, len(ids), scale/float64(counted), true, accumulate)
	e.trace.backward(&e.r, batch, seq, accumulate, &e.grads)
	return e.trace.mean(&e.r, len(ids), counted)
}

// Loss is that of [train.Engine].
func (e *Engine) Loss(ids, targets []int32, batch int) (float64, error) {
	seq, err := e.check(ids, targets, batch)
	if err != nil {
		return 0, err
	}
	e.trace.begin(&e.r, ids, targets, seq)
	e.trace.forward(&e.r, batch, seq)
	e.trace.loss(&e.r, len(ids), 0, false, false)
	return e.trace.mean(&e.r, len(ids), max(1, model.Counted(targets)))
}

var (
	sumSquares = gpu.SumSquares.Kernel()
	clipNorm   = gpu.ClipNorm.Kernel()
	adamW      = gpu.AdamW.Kernel()
)

// Step is that of [train.Engine]: AdamW as the CPU has it, on float32.
func (e *Engine) Step(lr float64) (float64, error) {
	t, all := e.start.Train, table.Counts{table.Entries: e.w.size}
	e.r.launch(sumSquares, all, cuda.Args{"grad": e.grads.Buffer, "sums": e.sums})
	e.r.launch(clipNorm, table.Counts{table.Entries: (e.w.size + gpu.SquaresEach - 1) / gpu.SquaresEach}, cuda.Args{"sums": e.sums, "norm": e.norm, "limit": cuda.Float32(t.Clip)})
	steps := float64(e.steps + 1)
	bias1, bias2 := 1-math.Pow(t.Beta1, steps), 1-math.Pow(t.Beta2, steps)
	for _, g := range e.groups {
		of := func(b cuda.Buffer, bytes int) cuda.Buffer { return b.Slice(bytes*g.offset, bytes*g.entries) }
		e.r.launch(adamW, table.Counts{table.Entries: g.entries}, cuda.Args{"w": of(e.w.master.Buffer, 4), "m": of(e.m.Buffer, 4), "v": of(e.v.Buffer, 4),
			"grad": of(e.grads.Buffer, 4), "pack": of(e.w.bf16.Buffer, 2), "norm": e.norm,
			"keep": cuda.Float32(1 - lr*g.decay), "beta1": cuda.Float32(t.Beta1), "rest1": cuda.Float32(1 - t.Beta1), "beta2": cuda.Float32(t.Beta2), "rest2": cuda.Float32(1 - t.Beta2),
			"rate": cuda.Float32(lr / bias1), "scale2": cuda.Float32(1 / bias2), "eps": cuda.Float32(t.Eps)})
	}
	var norm [2]float32
	e.r.do(func() error { return cuda.Download(e.r.s, norm[:], e.norm) })
	n := float64(norm[0])
	if e.r.err == nil && !math.IsNaN(n) && !math.IsInf(n, 0) {
		e.steps++
	}
	return n, e.r.err
}

// Norms is that of [train.Engine].
func (e *Engine) Norms() (grads, weights map[string]float64, err error) {
	grads, err = e.norms(e.grads)
	if err == nil {
		weights, err = e.norms(e.w.master)
	}
	return grads, weights, err
}

// norms sums the squares of each parameter in a and adds them up by kind.
func (e *Engine) norms(a arena) (map[string]float64, error) {
	each := func(f func(name string, entries, at, n int)) {
		at := 0
		for _, name := range e.w.names {
			entries := (e.w.slots[name].size + align - 1) / align * align
			n := (entries + gpu.SquaresEach - 1) / gpu.SquaresEach
			f(name, entries, at, n)
			at += n
		}
	}
	each(func(name string, entries, at, n int) {
		e.r.launch(sumSquares, table.Counts{table.Entries: entries},
			cuda.Args{"grad": a.Slice(4*e.w.slots[name].offset, 4*entries), "sums": e.sums.Slice(4*at, 4*n)})
	})
	sums := make([]float32, e.sums.Size()/4)
	e.r.do(func() error { return cuda.Download(e.r.s, sums, e.sums) })
	all := map[string]float64{}
	each(func(name string, _, at, n int) {
		for _, s := range sums[at : at+n] {
			all[train.LayerKind(name)] += float64(s)
		}
	})
	for kind, sum := range all {
		all[kind] = math.Sqrt(sum)
	}
	return all, e.r.err
}

// Fetch is that of [train.Engine].
func (e *Engine) Fetch() error {
	for _, f := range []struct {
		from arena
		to   *model.Params
	}{{e.w.master, e.start.Params}, {e.m, e.start.M}, {e.v, e.start.V}} {
		if f.to != nil {
			f.from.download(&e.r, f.to.Get)
		}
	}
	return e.r.err
}

// Close frees what the engine holds of the device.
func (e *Engine) Close() {
	if e.trace != nil {
		e.trace.close()
	}
	if e.net != nil {
		e.net.mem.free()
	}
	e.mem.free()
	if e.w != nil {
		e.w.close()
	}
	e.r.s.Close() // its errors came up before
}
