package runtime

import (
	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/runtime/kernel"
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
	forward, backward []*product
	gradient          *gradient
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
	g.gradient, err = newGradient(f, t)
	return g, err
}

// weight is the factor of a product's sums in a mixture. The guide's products
// run first and store; the chain's add to what they find.
type weight struct {
	flags kernel.Flags
	alpha float32
}

func scaled(alpha float32, flags kernel.Flags) weight { return weight{flags | kernel.Scale, alpha} }

// guided is the guide's weight, chained that of one product of the chain:
// the ratio enters at its last factor, in both directions.
func (l *layer) guided(flags kernel.Flags) weight { return scaled(l.mix.Ratio, flags) }

func (l *layer) chained(factor int, flags kernel.Flags) weight {
	switch {
	case !l.mix.On:
		return weight{}
	case factor == len(l.plan.Factors)-1:
		return scaled(1-l.mix.Ratio, flags)
	}
	return weight{flags: flags}
}

// addGuideForward adds the stage of the guide's share of y, before the chain's:
// sums only, for the chain's last factor to add to. Of gated activations these are
// kept in pre.
func (l *layer) addGuideForward(ws *Workspace, y, x, pre, residual matrix) {
	flags := kernel.Flags(0)
	if l.guide.forward[0].Epilogue.Gated() {
		flags = kernel.PreOnly
	} else {
		pre = matrix{}
	}
	ws.addProducts(l.guide.forward, stage{src: x, dst: y, pre: pre, residual: residual, weight: l.guided(flags)})
}

// clearGuide leaves the gradient of a guide that is off at zero.
func (l *layer) clearGuide(g Weights, accumulate bool) {
	if l.guide != nil && !l.mix.On && !accumulate {
		clear(g.Guide)
	}
}
