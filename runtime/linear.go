package runtime

import (
	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/runtime/contract"
	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/mul"
)

// Linear is one structured linear layer, y = x W^T + bias, bound to its
// weights. Forward is safe from several goroutines, each with its own
// workspace, as long as nobody changes or repacks the weights.
type Linear struct{ layer *layer }

// NewLinear binds a valid spec to its weights and packs them.
func NewLinear(l spec.Linear, w Weights, opt Options) (*Linear, error) {
	if err := l.Validate(); err != nil {
		return nil, err
	}
	if err := opt.setDefaults(); err != nil {
		return nil, err
	}
	b, err := newLayer(plan.NewLayer(l).In(opt.Format), w, opt)
	if err != nil {
		return nil, err
	}
	return &Linear{b}, nil
}

// With returns a layer of the same spec and options that is bound to other
// weights: what a model's layers share but the weights is made once.
func (l *Linear) With(w Weights) (*Linear, error) {
	b, err := l.layer.with(w)
	if err != nil {
		return nil, err
	}
	return &Linear{b}, nil
}

// Spec is the layer's specification.
func (l *Linear) Spec() spec.Linear { return l.layer.plan.Spec }

// NewWorkspace returns a workspace for calls of this layer, and of any other
// on the same pool.
func (l *Linear) NewWorkspace() *Workspace { return NewWorkspace(l.layer.opt.Pool) }

// NewSaved returns room for the forward pass of up to rows rows.
func (l *Linear) NewSaved(rows int) *Saved { return newSaved(rows, l.saves()) }

func (l *Linear) saves() savedWidths { return savedWidths{z1: l.layer.savedWidth()} }

// Close frees the packed weights. The layer must not be used afterwards.
func (l *Linear) Close() { l.layer.packs.Close() }

// MarkStale says that the weights have changed: Forward and Backward refuse
// to run until Repack.
func (l *Linear) MarkStale() { l.layer.stale = true }

// Repack packs the weights for the kernels, after each change of them.
func (l *Linear) Repack() { l.layer.repack() }

// DropWeights forgets the weights, which may be freed then: the layer runs on its
// packs alone, and Repack panics.
func (l *Linear) DropWeights() { l.layer.weights = Weights{} }

// Forward computes y = x W^T + bias (+ residual) for m rows: x is [m, in], y
// and residual [m, out], all tight and row-major; y may be residual, and shares
// no memory with x. saved is nil when no backward pass follows.
func (l *Linear) Forward(y, x, residual []float32, m int, saved *Saved, ws *Workspace) {
	s := &l.layer.plan.Spec
	ws.check(l.layer.name)
	checkForward(l.layer.name, s.In, s.Out, y, x, residual, m)
	if saved != nil {
		saved.fill(l.layer, l.saves(), m)
	}
	if m == 0 {
		return
	}
	ws.begin(l.layer.opt.Target, m, l.layer.zWidth())
	z := l.layer.filled(ws, mul.SlotZ1, saved.first(), m)
	l.layer.addForward(ws, mul.Whole(y), mul.Whole(x), mul.Matrix{}, l.layer.addResidual(ws, y, residual), z)
	ws.Exec()
}

// Backward computes, from dy [m, out] and the x and saved of the forward
// pass, dx [m, in] (left out where nil) and the gradients of all parameters,
// which it adds to g where accumulate, and overwrites otherwise. dx shares no
// memory with dy and x.
func (l *Linear) Backward(dx []float32, g Weights, dy, x []float32, m int, saved *Saved, accumulate bool, ws *Workspace) {
	if !l.layer.plan.Wide() || m <= kernel.RowBlock {
		l.BackwardData(dx, dy, m, saved, ws)
		l.BackwardWeights(g, dy, x, m, saved, accumulate, ws)
		return
	}
	l.checkData(dx, dy, m, saved, ws)
	l.checkWeights(g, dy, x, m, saved)
	l.layer.checkDX(dx, x, m)
	in, out := l.layer.plan.Spec.In, l.layer.plan.Spec.Out
	backwardRows(m, func(r0, n int) {
		part := dx
		if dx != nil {
			part = dx[r0*in:]
		}
		l.backwardData(part, dy[r0*out:], n, ws)
		l.backwardWeights(g, dy[r0*out:], x[r0*in:], n, nil, accumulate || r0 > 0, ws)
	})
}

// BackwardData is the first half of Backward: dx, and in ws the gradients of
// the intermediates, which BackwardWeights needs.
func (l *Linear) BackwardData(dx, dy []float32, m int, saved *Saved, ws *Workspace) {
	l.checkData(dx, dy, m, saved, ws)
	if m == 0 {
		return
	}
	l.backwardData(dx, dy, m, ws)
	ws.half = half{l.layer, saved, saved.fills, m, dy, dx}
}

func (l *Linear) checkData(dx, dy []float32, m int, saved *Saved, ws *Workspace) {
	s := &l.layer.plan.Spec
	l.layer.checkTrain()
	ws.check(l.layer.name)
	checkBackward(l.layer.name, s.In, s.Out, dx, dy, m)
	saved.check(l.layer, l.saves(), m)
}

func (l *Linear) backwardData(dx, dy []float32, m int, ws *Workspace) {
	ws.begin(l.layer.opt.Target, m, l.layer.zWidth())
	l.layer.addBackwardData(ws, mul.Whole(dx), mul.Whole(dy), l.dz(m, ws))
	ws.Exec()
}

// BackwardWeights is the second half of Backward: it must follow the
// BackwardData of the same rows, with the same dy, saved and ws.
func (l *Linear) BackwardWeights(g Weights, dy, x []float32, m int, saved *Saved, accumulate bool, ws *Workspace) {
	l.checkWeights(g, dy, x, m, saved)
	if m == 0 {
		g.addNothing(accumulate)
		return
	}
	ws.checkHalf(l.layer, saved, m, dy, x)
	l.backwardWeights(g, dy, x, m, saved.z1, accumulate, ws)
}

func (l *Linear) checkWeights(g Weights, dy, x []float32, m int, saved *Saved) {
	s := &l.layer.plan.Spec
	l.layer.checkGradients(g)
	contract.Rows(l.layer.name, "x", x, m, s.In)
	contract.Rows(l.layer.name, "dy", dy, m, s.Out)
	saved.check(l.layer, l.saves(), m)
	l.layer.checkGradientsApart(g, dy[:m*s.Out], x[:m*s.In])
}

func (l *Linear) backwardWeights(g Weights, dy, x []float32, m int, saved []float32, accumulate bool, ws *Workspace) {
	l.layer.clearGuide(g, accumulate)
	z := l.layer.kept(ws, mul.SlotZ1, saved, x, m)
	ws.Units = l.layer.addGradients(ws.Units[:0], g, dy, x, z, l.dz(m, ws),
		ws.Floats(mul.SlotBias, l.layer.preWidth()), mul.UnitWeights(l.layer.opt.Target, l.layer.weightCount(), ws.Threads()))
	ws.ExecWeights(m, accumulate)
}

func (l *Linear) dz(m int, ws *Workspace) []mul.Matrix {
	return l.layer.intermediates(ws, mul.SlotDZ1, mul.Whole(ws.Floats(mul.SlotDZ1, m*l.layer.zWidth())), m)
}
