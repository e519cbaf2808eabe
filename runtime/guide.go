package runtime

import (
	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/mul"
)

// Guide says how a guided layer runs (paper, section 5):
//
//	y = Ratio * x G^T + (1-Ratio) * structured(x) + bias
//
// where On, and y = structured(x) + bias otherwise, which leaves the guide
// without a gradient. Layers start with the guide off.
type Guide struct {
	On    bool
	Ratio float32
}

// SetGuide says how the layer runs from now on. No call may be at work.
func (l *Linear) SetGuide(g Guide) { l.layer.setGuide(g) }

// SetGuides says how the two linears run from now on. No call may be at work.
func (f *FFN) SetGuides(fc1, fc2 Guide) {
	f.fc1.setGuide(fc1)
	f.fc2.setGuide(fc2)
}

func (l *layer) setGuide(g Guide) {
	if g.On && l.guide == nil {
		panic("runtime: " + l.name + " has no guide")
	}
	l.mix = g
}

// guide is the dense factor beside a chain.
type guide struct {
	forward, backward []*mul.Product
	gradient          *mul.Gradient
}

func (l *layer) newGuide(f plan.Factor, t *kernel.Target) (*guide, error) {
	g := &guide{}
	var err error
	if g.forward, err = l.bind(f.Forward(), t, false); err != nil || !l.opt.Train {
		return g, err
	}
	if g.backward, err = l.bind(f.BackwardData(), t, false); err != nil {
		return nil, err
	}
	g.gradient, err = mul.NewGradient(f, t)
	return g, err
}

// guided is the guide's weight, chained that of one product of the chain:
// the ratio enters at its last factor, in both directions.
func (l *layer) guided(flags kernel.Flags) mul.Weight { return mul.Scaled(l.mix.Ratio, flags) }

func (l *layer) chained(factor int, flags kernel.Flags) mul.Weight {
	switch {
	case !l.mix.On:
		return mul.Weight{}
	case factor == len(l.plan.Factors)-1:
		return mul.Scaled(1-l.mix.Ratio, flags)
	}
	return mul.Weight{Flags: flags}
}

// addGuideForward adds the stage of the guide's share of y, before the chain's:
// sums only, for the chain's last factor to add to. Of gated activations these are
// kept in pre.
func (l *layer) addGuideForward(ws *Workspace, y, x, pre, residual mul.Matrix) {
	flags := kernel.Flags(0)
	if l.guide.forward[0].Epilogue.Gated() {
		flags = kernel.PreOnly
	} else {
		pre = mul.Matrix{}
	}
	ws.AddProducts(l.guide.forward, mul.Stage{Src: x, Dst: y, Pre: pre, Residual: residual, Share: l.guided(flags)})
}

// clearGuide leaves the gradient of a guide that is off at zero.
func (l *layer) clearGuide(g Weights, accumulate bool) {
	if l.guide != nil && !l.mix.On && !accumulate {
		clear(g.Guide)
	}
}
