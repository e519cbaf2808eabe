package runtime

import (
	"fmt"
	"slices"

	"github.com/structuredffn/sffn/runtime/contract"
	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/mul"
)

// Factor is one factor of a network, to be run alone: what tests and
// benchmarks of single products need. The last one of fc1 applies the
// activation.
type Factor struct {
	layer *layer
	name  string
	i     int
}

// Factors lists the network's factors in the order in which they run.
func (f *FFN) Factors() []Factor { return append(f.fc1.factors("fc1"), f.fc2.factors("fc2")...) }

// Factors lists the layer's factors in the order in which they run.
func (l *Linear) Factors() []Factor { return l.layer.factors("layer") }

func (l *layer) factors(name string) (fs []Factor) {
	for i := range l.plan.Factors {
		fs = append(fs, Factor{l, name, i})
	}
	return fs
}

// Name is the layer, and blocks x outputs x inputs of the factor.
func (f Factor) Name() string {
	c := f.layer.plan.Factors[f.i].Factor
	return fmt.Sprintf("%s %dx%dx%d", f.name, c.Blocks, c.Out, c.In)
}

// Shape is that of the weights: so many blocks, each out x in.
func (f Factor) Shape() (blocks, out, in int) {
	c := f.layer.plan.Factors[f.i].Factor
	return c.Blocks, c.Out, c.In
}

// Widths are the entries of a row of x, of y, and of the values before the
// activation.
func (f Factor) Widths() (x, y, pre int) {
	c := f.layer.plan.Factors[f.i]
	return c.InWidth, c.OutWidth, c.PreWidth
}

// Format is that of the factor's products.
func (f Factor) Format() kernel.FormatName { return f.layer.plan.Factors[f.i].Format }

// PackedBytes is the memory that Forward reads weights from.
func (f Factor) PackedBytes() int {
	n := 0
	for _, q := range f.layer.forward[f.i] {
		n += q.PackedBytes()
	}
	return n
}

// Copy returns the factor with packs of its own in the arena, which Forward
// then reads; there must be nothing but Forward done with it.
func (f Factor) Copy(arena *Arena) Factor {
	l := *f.layer
	l.forward = slices.Clone(l.forward)
	l.forward[f.i] = nil
	for _, q := range f.layer.forward[f.i] {
		l.forward[f.i] = append(l.forward[f.i], q.Copy(arena))
	}
	f.layer = &l
	return f
}

// Forward computes y of m rows of x, in the order in which the network keeps
// them.
func (f Factor) Forward(y, x []float32, m int, ws *Workspace) {
	p := f.layer.plan.Factors[f.i]
	ws.check(f.Name())
	f.layer.checkPacked()
	checkForward(f.Name(), p.InWidth, p.OutWidth, y, x, nil, m)
	if m == 0 {
		return
	}
	ws.begin(f.layer.opt.Target, m, f.layer.zWidth())
	var pre mul.Matrix
	qs := f.layer.forward[f.i]
	if qs[0].Epilogue.Gated() {
		pre = ws.Local(mul.SlotPre, p.PreWidth)
	}
	ws.AddProducts(qs, mul.Stage{Src: mul.Whole(x), Dst: mul.Whole(y), Pre: pre})
	ws.Exec()
}

// BackwardData computes dx from dy, the gradient before the activation.
func (f Factor) BackwardData(dx, dy []float32, m int, ws *Workspace) {
	f.layer.checkTrain()
	p := f.layer.plan.Factors[f.i]
	ws.check(f.Name())
	f.layer.checkPacked()
	contract.Rows(f.Name(), "dx", dx, m, p.InWidth)
	checkBackward(f.Name(), p.InWidth, p.PreWidth, dx, dy, m)
	if m == 0 {
		return
	}
	ws.begin(f.layer.opt.Target, m, f.layer.zWidth())
	ws.AddProducts(f.layer.backward[f.i], mul.Stage{Src: mul.Whole(dy), Dst: mul.Whole(dx)})
	ws.Exec()
}

// BackwardWeight overwrites g, [blocks, out, in], with the weights' gradient.
func (f Factor) BackwardWeight(g, dy, x []float32, m int, ws *Workspace) {
	f.layer.checkTrain()
	p := f.layer.plan.Factors[f.i]
	ws.check(f.Name())
	contract.Rows(f.Name(), "x", x, m, p.InWidth)
	contract.Rows(f.Name(), "dy", dy, m, p.PreWidth)
	if len(g) != p.Weights() {
		panic(fmt.Sprintf("runtime: %s: gradient has %d entries, want %d", f.Name(), len(g), p.Weights()))
	}
	if m == 0 {
		clear(g)
		return
	}
	ws.Units = f.layer.gradients[f.i].AddUnits(ws.Units[:0], g, dy, x, mul.UnitWeights(f.layer.opt.Target, p.Weights(), ws.Threads()), mul.Weight{})
	ws.ExecWeights(m, false)
}
