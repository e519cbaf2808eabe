package runtime

import (
	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/runtime/contract"
	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/mul"
	"github.com/structuredffn/sffn/runtime/vec"
)

// FFNWeights are the parameters of a feed-forward network, or their
// gradients.
type FFNWeights struct{ FC1, FC2 Weights }

// FFN is a feed-forward network, y = fc2(act(fc1(x))), bound to its weights.
// The activation is applied as fc1's tiles are stored, and the hidden vector
// keeps the order in which they are made. Forward is safe from several
// goroutines, each with its own workspace.
type FFN struct {
	spec     spec.FFN
	fc1, fc2 *layer
	vec      *vec.Table
	// apart says that the activation is a pass of its own.
	apart bool
	// activate and activateBack are the methods as values, made once so that a call
	// allocates nothing.
	activate, activateBack func(act, dpre, pre []float32)
}

// network is a network of two layers.
func network(f spec.FFN, apart bool, fc1, fc2 *layer, t *vec.Table) *FFN {
	n := &FFN{spec: f, apart: apart, fc1: fc1, fc2: fc2, vec: t}
	n.activate, n.activateBack = n.activation, n.activationBackward
	return n
}

// NewFFN binds a valid spec to its weights and packs them.
func NewFFN(f spec.FFN, w FFNWeights, opt Options) (*FFN, error) {
	if err := f.Validate(); err != nil {
		return nil, err
	}
	if err := opt.setDefaults(); err != nil {
		return nil, err
	}
	p := plan.NewFFNIn(f, opt.Format)
	fc1, err := newLayer(p.FC1, w.FC1, opt)
	if err != nil {
		return nil, err
	}
	fc2, err := newLayer(p.FC2, w.FC2, opt)
	if err != nil {
		return nil, err
	}
	return network(f, p.Apart, fc1, fc2, vec.On(opt.Target)), nil
}

// With returns a network of the same spec and options that is bound to other
// weights: what a model's layers share but the weights is made once.
func (f *FFN) With(w FFNWeights) (*FFN, error) {
	fc1, err := f.fc1.with(w.FC1)
	if err != nil {
		return nil, err
	}
	fc2, err := f.fc2.with(w.FC2)
	if err != nil {
		return nil, err
	}
	return network(f.spec, f.apart, fc1, fc2, f.vec), nil
}

// Spec is the network's specification.
func (f *FFN) Spec() spec.FFN { return f.spec }

// NewWorkspace returns a workspace for calls of this network, and of any
// other layer on the same pool.
func (f *FFN) NewWorkspace() *Workspace { return NewWorkspace(f.fc1.opt.Pool) }

// NewSaved returns room for the forward pass of up to rows rows.
func (f *FFN) NewSaved(rows int) *Saved { return newSaved(rows, f.saves()) }

func (f *FFN) saves() savedWidths {
	return savedWidths{f.fc1.savedWidth(), f.fc2.savedWidth(), f.fc1.preWidth()}
}

// Close frees the packed weights. The network must not be used afterwards.
func (f *FFN) Close() {
	f.fc1.packs.Close()
	f.fc2.packs.Close()
}

// MarkStale says that the weights have changed: Forward and Backward refuse
// to run until Repack.
func (f *FFN) MarkStale() { f.fc1.stale, f.fc2.stale = true, true }

// Repack packs the weights for the kernels, after each change of them.
func (f *FFN) Repack() {
	f.fc1.repack()
	f.fc2.repack()
}

// DropWeights forgets the weights, which may be freed then: the network runs on
// its packs alone, Repack panics, and Merged is an error.
func (f *FFN) DropWeights() { f.fc1.weights, f.fc2.weights = Weights{}, Weights{} }

// Forward computes y = fc2(act(fc1(x))) (+ residual) for m rows: x, y and
// residual are [m, hidden], tight and row-major; y may be residual, and shares
// no memory with x. saved is nil when no backward pass follows. With a nil y, what saved needs is computed
// and nothing else: for a pass that is run again only to fill it.
func (f *FFN) Forward(y, x, residual []float32, m int, saved *Saved, ws *Workspace) {
	h, name := f.spec.Hidden, f.fc1.name
	ws.check(name)
	if y != nil || saved == nil {
		checkForward(name, h, h, y, x, residual, m)
	} else {
		contract.Rows(name, "x", x, m, h)
	}
	if saved != nil {
		saved.fill(f.fc1, f.saves(), m)
	}
	if m == 0 {
		return
	}
	ws.begin(f.fc1.opt.Target, m, max(f.fc1.zWidth(), f.fc2.zWidth()))
	act := ws.Local(mul.SlotAct, f.spec.FFN)
	var pre mul.Matrix
	if saved != nil {
		pre = mul.Whole(saved.pre)
	} else if f.apart || f.spec.Act.Gated() {
		// So do sums over several blocks of k of gated ones.
		pre = ws.Local(mul.SlotPre, f.fc1.preWidth())
	}
	z := f.fc1.filled(ws, mul.SlotZ1, saved.first(), m)
	if f.apart {
		f.fc1.addForward(ws, pre, mul.Whole(x), mul.Matrix{}, mul.Matrix{}, z)
		ws.Add(mul.Stage{Rows: f.activate, Src: pre, Dst: act, Widths: mul.Widths{Dst: f.spec.FFN, Src: f.fc1.preWidth()}})
	} else {
		f.fc1.addForward(ws, act, mul.Whole(x), pre, mul.Matrix{}, z)
	}
	if y != nil || f.fc2.savedWidth() > 0 {
		f.fc2.addForward(ws, mul.Whole(y), act, mul.Matrix{}, f.fc2.addResidual(ws, y, residual), f.fc2.filled(ws, mul.SlotZ2, saved.second(), m))
	}
	ws.Exec()
}

// Backward computes, from dy [m, hidden] and the x and saved of the forward
// pass, dx [m, hidden] (left out where nil) and the gradients of all
// parameters, which it adds to g where accumulate, and overwrites otherwise. dx
// shares no memory with dy and x.
func (f *FFN) Backward(dx []float32, g FFNWeights, dy, x []float32, m int, saved *Saved, accumulate bool, ws *Workspace) {
	if !f.fc1.plan.Wide() && !f.fc2.plan.Wide() || m <= kernel.RowBlock {
		f.BackwardData(dx, dy, m, saved, ws)
		f.BackwardWeights(g, dy, x, m, saved, accumulate, ws)
		return
	}
	f.checkData(dx, dy, m, saved, ws)
	f.checkWeights(g, dy, x, m, saved)
	f.fc1.checkDX(dx, x, m)
	h := f.spec.Hidden
	backwardRows(m, func(r0, n int) {
		part, s := dx, saved.from(r0)
		if dx != nil {
			part = dx[r0*h:]
		}
		f.backwardData(part, dy[r0*h:], s, n, ws)
		f.backwardWeights(g, dy[r0*h:], x[r0*h:], s, n, accumulate || r0 > 0, ws)
	})
}

// BackwardData is the first half of Backward: dx, and in ws the gradients of
// the intermediates, which BackwardWeights needs.
func (f *FFN) BackwardData(dx, dy []float32, m int, saved *Saved, ws *Workspace) {
	f.checkData(dx, dy, m, saved, ws)
	if m == 0 {
		return
	}
	f.backwardData(dx, dy, saved.from(0), m, ws)
	ws.half = half{f.fc1, saved, saved.fills, m, dy, dx}
}

func (f *FFN) checkData(dx, dy []float32, m int, saved *Saved, ws *Workspace) {
	f.fc1.checkTrain()
	ws.check(f.fc1.name)
	checkBackward(f.fc1.name, f.spec.Hidden, f.spec.Hidden, dx, dy, m)
	saved.check(f.fc1, f.saves(), m)
}

func (f *FFN) backwardData(dx, dy []float32, s savedRows, m int, ws *Workspace) {
	b := f.backwardBuffers(m, ws)
	// fc2 leaves the activation's gradient where the activation will be.
	ws.begin(f.fc1.opt.Target, m, max(f.fc1.zWidth(), f.fc2.zWidth()))
	f.fc2.addBackwardData(ws, mul.Whole(b.act), mul.Whole(dy), b.dz2)
	pre := f.fc1.preWidth()
	ws.Add(mul.Stage{Rows: f.activateBack, Src: mul.Whole(s.pre), Dst: mul.Whole(b.act), Pre: mul.Whole(b.dpre),
		Widths: mul.Widths{Dst: f.spec.FFN, Pre: pre, Src: pre}})
	f.fc1.addBackwardData(ws, mul.Whole(dx), mul.Whole(b.dpre), b.dz1)
	ws.Exec()
}

// BackwardWeights is the second half of Backward: it must follow the
// BackwardData of the same rows, with the same dy, saved and ws.
func (f *FFN) BackwardWeights(g FFNWeights, dy, x []float32, m int, saved *Saved, accumulate bool, ws *Workspace) {
	f.checkWeights(g, dy, x, m, saved)
	if m == 0 {
		g.FC1.addNothing(accumulate)
		g.FC2.addNothing(accumulate)
		return
	}
	ws.checkHalf(f.fc1, saved, m, dy, x)
	f.backwardWeights(g, dy, x, saved.from(0), m, accumulate, ws)
}

func (f *FFN) checkWeights(g FFNWeights, dy, x []float32, m int, saved *Saved) {
	f.fc1.checkGradients(g.FC1)
	f.fc2.checkGradients(g.FC2)
	contract.Rows(f.fc1.name, "x", x, m, f.spec.Hidden)
	contract.Rows(f.fc1.name, "dy", dy, m, f.spec.Hidden)
	saved.check(f.fc1, f.saves(), m)
	used := m * f.spec.Hidden
	f.fc1.checkGradientsApart(g.FC1, dy[:used], x[:used])
	f.fc2.checkGradientsApart(g.FC2, dy[:used], x[:used])
}

func (f *FFN) backwardWeights(g FFNWeights, dy, x []float32, s savedRows, m int, accumulate bool, ws *Workspace) {
	f.fc1.clearGuide(g.FC1, accumulate)
	f.fc2.clearGuide(g.FC2, accumulate)
	b := f.backwardBuffers(m, ws)
	z1, z2 := f.fc1.kept(ws, mul.SlotZ1, s.z1, x, m), f.fc2.kept(ws, mul.SlotZ2, s.z2, b.act, m)
	sums := ws.Floats(mul.SlotBias, f.fc1.preWidth()+f.fc2.preWidth())
	unit := mul.UnitWeights(f.fc1.opt.Target, f.fc1.weightCount()+f.fc2.weightCount(), ws.Threads())
	ws.Units = f.fc1.addGradients(ws.Units[:0], g.FC1, b.dpre, x, z1, b.dz1, sums[:f.fc1.preWidth()], unit)
	ws.Units = f.fc2.addGradients(ws.Units, g.FC2, dy, b.act, z2, b.dz2, sums[f.fc1.preWidth():], unit)
	ws.ExecWeights(m, accumulate)
}

// ffnGradients are the buffers between the halves of the backward pass.
type ffnGradients struct {
	act, dpre []float32
	dz1, dz2  []mul.Matrix
}

func (f *FFN) backwardBuffers(m int, ws *Workspace) ffnGradients {
	return ffnGradients{
		act:  ws.Floats(mul.SlotAct, m*f.spec.FFN),
		dpre: ws.Floats(mul.SlotDPre, m*f.fc1.preWidth()),
		dz1:  f.fc1.intermediates(ws, mul.SlotDZ1, mul.Whole(ws.Floats(mul.SlotDZ1, m*f.fc1.zWidth())), m),
		dz2:  f.fc2.intermediates(ws, mul.SlotDZ2, mul.Whole(ws.Floats(mul.SlotDZ2, m*f.fc2.zWidth())), m),
	}
}

// activation fills rows of the activation from those before it.
func (f *FFN) activation(act, _, pre []float32) {
	f.vec.Activate(kernel.Epilogue(f.spec.Act), act, pre, f.spec.FFN)
}

// activationBackward replaces rows of the activation's gradient in act by the
// activation itself, computed again from pre, and fills dpre.
func (f *FFN) activationBackward(act, dpre, pre []float32) {
	f.vec.ActivationBackward(kernel.Epilogue(f.spec.Act), act, dpre, pre, f.spec.FFN)
}
