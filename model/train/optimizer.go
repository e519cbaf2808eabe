package train

import (
	"math"
	"slices"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/runtime/vec"
)

// AdamW is the optimizer: decoupled weight decay, then the bias-corrected Adam
// step, on gradients clipped by their global norm.
type AdamW struct {
	Beta1, Beta2, Eps, Decay, Clip float64
	// M and V are the moments, laid out as the parameters, nil where ranks share them;
	// Steps counts the updates they have seen, GuideSteps those of each guide.
	M, V       *model.Params
	Steps      int
	GuideSteps []int
	// Used says, before a step, which guides have a gradient: the others, their
	// moments and their counters are left alone. Nil is all.
	Used []bool
	// DecayMatrices leaves the weights of norms and the biases without decay.
	DecayMatrices bool
	// UniformLR gives all parameters the step's learning rate, whatever their kind
	// asks for.
	UniformLR bool

	m      *model.Model
	chunks []chunk
	// mine are the chunks that this process updates: all of them, where it is alone.
	mine []int
	// moments are M and V, or this rank's share of them.
	moments [2][]float32
	ranks   *exchange // nil where it is alone
	// groups are the stretches of the parameters that are not updated as the others, in
	// rising order.
	groups []group
	sums   []float64
	// The step at work, and what the pool runs on it, made once so that a step
	// allocates nothing.
	grads               []float32
	step                vec.AdamWStep
	runSquares, runStep func(worker, i int)
}

// group is a stretch of the parameters with a multiple of the step's learning rate,
// or of norms and biases.
type group struct {
	model.Range
	rate   float64
	vector bool
}

// Vector says that a parameter is the weight of a norm, or a bias: AdamW may leave
// these without decay.
func Vector(q spec.Param) bool { return len(q.Shape) == 1 }

// chunk is a stretch of the parameters: of the guide of that number, or, where
// that is negative, of everything else. Its moments are the owner's, from at on.
type chunk struct {
	model.Range
	guide, owner, at int
}

// updateChunk is the unit of work, and of the gradient norm's partial sums:
// a function of nothing, so that no sum depends on the threads.
const updateChunk = 1 << 16

// NewAdamW returns an optimizer with zero moments.
func NewAdamW(m *model.Model, beta1, beta2, eps, decay, clip float64) *AdamW {
	o := &AdamW{Beta1: beta1, Beta2: beta2, Eps: eps, Decay: decay, Clip: clip, M: model.NewParams(m.Spec), V: model.NewParams(m.Spec), m: m}
	o.prepare()
	return o
}

// newSharedAdamW is NewAdamW for one of several ranks.
func newSharedAdamW(x *exchange, beta1, beta2, eps, decay, clip float64) *AdamW {
	o := &AdamW{Beta1: beta1, Beta2: beta2, Eps: eps, Decay: decay, Clip: clip, m: x.m, ranks: x}
	o.prepare()
	return o
}

func (o *AdamW) prepare() {
	o.runSquares = func(_, i int) { o.squares(o.mine[i]) }
	o.runStep = func(_, i int) { o.update(o.mine[i]) }
	o.cut()
}

// chunks splits parameters, as they lie.
func chunks(p *model.Params) (all []chunk) {
	add := func(s model.Range, guide int) {
		for lo := s.Lo; lo < s.Hi; lo += updateChunk {
			all = append(all, chunk{Range: model.Range{Lo: lo, Hi: min(s.Hi, lo+updateChunk)}, guide: guide, at: lo})
		}
	}
	guides, rest := p.Ranges()
	for i, s := range guides {
		add(s, i)
	}
	add(rest, -1)
	return all
}

// cut splits the parameters into chunks.
func (o *AdamW) cut() {
	o.chunks, o.mine = chunks(o.m.Params), nil
	if o.ranks == nil {
		o.moments = [2][]float32{o.M.Data, o.V.Data}
	} else {
		o.moments = o.ranks.place(o.chunks)
	}
	for i, c := range o.chunks {
		if o.ranks == nil || c.owner == o.ranks.g.Rank() {
			o.mine = append(o.mine, i)
		}
	}
	guides, _ := o.m.Params.Ranges()
	o.setGroups(o.m.Spec.Rates(spec.Linear.Rates))
	o.sums = make([]float64, len(o.chunks))
	o.GuideSteps = make([]int, len(guides))
}

// setGroups gives parameters, by name, other learning rates, and finds the norms
// and biases.
func (o *AdamW) setGroups(rates map[string]float64) {
	o.groups = nil
	for _, q := range slices.Backward(o.m.Params.List()) { // as they lie
		g := group{o.m.Params.Range(q.Name), 1, Vector(q)}
		if rate, ok := rates[q.Name]; ok {
			g.rate = rate
		}
		if g.rate != 1 || g.vector {
			o.groups = append(o.groups, g)
		}
	}
}

// DropGuides forgets the guides' moments, after the model has dropped its
// guides.
func (o *AdamW) DropGuides() {
	o.Used = nil
	if o.ranks == nil {
		m, v := o.M.WithoutGuides(), o.V.WithoutGuides()
		o.Close()
		o.M, o.V = m, v
	}
	o.cut()
}

// Close frees the moments.
func (o *AdamW) Close() {
	if o.ranks == nil { // otherwise they are its
		o.M.Close()
		o.V.Close()
	}
}

// Step updates the parameters, after which the model has to be repacked. It
// returns the global L2 norm of the gradients before clipping; where that is not
// finite, it leaves everything as it is.
func (o *AdamW) Step(grads *model.Params, lr float64) float64 {
	o.grads = grads.Data
	clear(o.sums)
	o.m.Pool().Run(len(o.mine), o.runSquares)
	if o.ranks != nil && o.ranks.gatherSums(o.chunks, o.sums) != nil {
		return math.NaN()
	}
	sum := 0.0
	for _, s := range o.sums {
		sum += s
	}
	norm := math.Sqrt(sum)
	if math.IsNaN(norm) || math.IsInf(norm, 0) {
		return norm
	}
	o.Steps++
	for i := range o.GuideSteps {
		if o.used(i) {
			o.GuideSteps[i]++
		}
	}
	o.step = vec.AdamWStep{LR: lr, Beta1: o.Beta1, Beta2: o.Beta2, Eps: o.Eps, Decay: o.Decay, GradScale: min(1, o.Clip/(norm+1e-6))}
	o.m.Pool().Run(len(o.mine), o.runStep)
	return norm
}

// squares sums the squares of the gradients of chunk i.
func (o *AdamW) squares(i int) {
	if c := o.chunks[i]; o.used(c.guide) {
		o.sums[i] = o.m.Vec().SumSquares(o.grads[c.Lo:c.Hi])
	}
}

// update moves the parameters of chunk i.
func (o *AdamW) update(i int) {
	c := o.chunks[i]
	if !o.used(c.guide) {
		return
	}
	steps := o.Steps
	if c.guide >= 0 {
		steps = o.GuideSteps[c.guide]
	}
	step := o.step
	step.Bias1, step.Bias2 = 1-math.Pow(o.Beta1, float64(steps)), 1-math.Pow(o.Beta2, float64(steps))
	run := func(lo, hi int, step vec.AdamWStep) {
		if lo < hi {
			at, n := c.at+lo-c.Lo, hi-lo
			o.m.Vec().AdamW(o.m.Params.Data[lo:hi], o.grads[lo:hi], o.moments[0][at:at+n], o.moments[1][at:at+n], step)
		}
	}
	lo := c.Lo
	for _, g := range o.groups {
		own := step
		if !o.UniformLR {
			own.LR *= g.rate
		}
		if o.DecayMatrices && g.vector {
			own.Decay = 0
		}
		if own != step && g.Hi > lo && g.Lo < c.Hi {
			run(lo, g.Lo, step)
			lo = min(g.Hi, c.Hi)
			run(max(g.Lo, c.Lo), lo, own)
		}
	}
	run(lo, c.Hi, step)
}

// used reports whether the guide of that number, or everything else, has a
// gradient.
func (o *AdamW) used(guide int) bool { return guide < 0 || o.Used == nil || o.Used[guide] }
