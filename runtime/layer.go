package runtime

import (
	"fmt"
	"math"
	"slices"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/mul"
	"github.com/structuredffn/sffn/runtime/pool"
	"github.com/structuredffn/sffn/runtime/quant"
	"github.com/structuredffn/sffn/runtime/vec"
)

// Weights are a layer's parameters, or their gradients, in canonical
// row-major order: the checkpoint's.
type Weights struct {
	// Factors holds one slice a factor, in chain order: [blocks, out, in].
	Factors [][]float32
	// Bias has out entries, nil where the layer has none.
	Bias []float32
	// Guide is the dense guide [out, in], nil where the layer has none.
	Guide []float32
	// Quantized holds, of a layer in a format of integers, those factors that are integers
	// already, whose entry of Factors may be nil. Others are quantised as they are packed.
	Quantized []*quant.Matrix
	// Inputs, where not nil, is about how large each of the layer's inputs is, for formats
	// of integers: channels that are larger than others do not take their bits.
	Inputs []float32
}

// matrix is factor i as integers, nil where it is not.
func (w *Weights) matrix(i int) *quant.Matrix {
	if i < len(w.Quantized) {
		return w.Quantized[i]
	}
	return nil
}

// addNothing adds the gradients of no rows.
func (w Weights) addNothing(accumulate bool) {
	if accumulate {
		return
	}
	for _, f := range w.Factors {
		clear(f)
	}
	clear(w.Bias)
	clear(w.Guide)
}

// Options say how a layer runs.
type Options struct {
	// Pool shares out the work; nil is a pool of one for each core, shared by
	// all layers that name none.
	Pool *Pool
	// ISA picks the kernels; empty is kernel.Default.
	ISA kernel.ISA
	// Target is the row of the table of targets that is followed; nil is
	// kernel.For the ISA. Results do not depend on it.
	Target *kernel.Target
	// Train also packs the weights for the backward passes.
	Train bool
	// Format is that of the products; empty is float32. Sums of another format have
	// other bits: the same for every number of rows and threads, and for specialised
	// and any-shape kernels.
	Format kernel.FormatName
	// KV is what attention holds keys and values in, one of [kernel.KVFormats], to which
	// they are rounded; empty is F32, which is that of training.
	KV kernel.FormatName
	// AnyShape leaves the specialised kernels out, for comparison: the results
	// have the same bits.
	AnyShape bool
}

func (o *Options) setDefaults() error {
	if o.ISA == "" && o.Target != nil {
		o.ISA = o.Target.ISA
	}
	if o.ISA == "" {
		isa, err := kernel.Default()
		if err != nil {
			return err
		}
		o.ISA = isa
	} else if _, err := kernel.Parse(string(o.ISA)); err != nil {
		return fmt.Errorf("runtime: %w", err)
	}
	if o.Target == nil {
		t := kernel.For(o.ISA)
		o.Target = &t
	} else if o.Target.ISA != o.ISA {
		return fmt.Errorf("runtime: target %s is for %s, not for %s", o.Target.Name, o.Target.ISA, o.ISA)
	} else if err := o.Target.Validate(); err != nil {
		return fmt.Errorf("runtime: target %s: %w", o.Target.Name, err)
	}
	if _, err := kernel.ParseFormat(string(o.Format)); err != nil {
		return fmt.Errorf("runtime: %w", err)
	}
	if o.Pool == nil {
		o.Pool = pool.Default()
	}
	return nil
}

// layer is a planned layer bound to weights, packs and kernels.
type layer struct {
	plan      plan.Layer
	name      string // the spec's
	weights   Weights
	opt       Options
	forward   [][]*mul.Product
	backward  [][]*mul.Product
	gradients []*mul.Gradient
	bias      *mul.BiasGradient
	guide     *guide
	mix       Guide
	stale     bool
	packs     Arena
	// panels lists all panels that repack fills, each by a call of packPanel:
	// made once, so that repacking allocates nothing.
	panels    []packedPanel
	packPanel func(worker, i int)
	// integers are the factors in formats of integers while they are packed.
	integers []*quant.Matrix
}

// packedPanel is panel number i of the product, which holds weights of the
// factor of that number, or, where that is negative, of the guide.
type packedPanel struct {
	q         *mul.Product
	i, factor int
}

func newLayer(p plan.Layer, w Weights, opt Options) (*layer, error) {
	l := &layer{plan: p, name: p.Spec.Name(), weights: w, opt: opt, stale: true}
	if opt.Format.Quantized() && (opt.Train || p.Guide != nil) {
		return nil, fmt.Errorf("runtime: %s: layers of %s run forward, without a guide: want another format to train", l.name, opt.Format)
	}
	if err := l.checkWeights(w); err != nil {
		return nil, err
	}
	t := opt.Target
	for i, f := range p.Factors {
		bias := p.Spec.Bias && i == len(p.Factors)-1
		fwd, err := l.bind(f.Forward(), t, bias)
		if err != nil {
			return nil, err
		}
		l.forward = append(l.forward, fwd)
		if !opt.Train {
			continue
		}
		bwd, err := l.bind(f.BackwardData(), t, false)
		if err != nil {
			return nil, err
		}
		g, err := mul.NewGradient(f, t)
		if err != nil {
			return nil, err
		}
		l.backward = append(l.backward, bwd)
		l.gradients = append(l.gradients, g)
	}
	if p.Guide != nil {
		var err error
		if l.guide, err = l.newGuide(*p.Guide, t); err != nil {
			return nil, err
		}
	}
	if opt.Train && p.Spec.Bias {
		l.bias = mul.NewBiasGradient(vec.On(opt.Target), opt.Target, p.Bias)
	}
	l.listPanels()
	l.repack()
	return l, nil
}

// with returns a layer like this one with other weights. They share all that
// depends on the shape alone, which planning takes its time for.
func (l *layer) with(w Weights) (*layer, error) {
	if err := l.checkWeights(w); err != nil {
		return nil, err
	}
	c := &layer{plan: l.plan, name: l.name, weights: w, opt: l.opt, gradients: l.gradients, bias: l.bias}
	for _, qs := range l.forward {
		c.forward = append(c.forward, c.rebind(qs))
	}
	for _, qs := range l.backward {
		c.backward = append(c.backward, c.rebind(qs))
	}
	if g := l.guide; g != nil {
		c.guide = &guide{c.rebind(g.forward), c.rebind(g.backward), g.gradient}
	}
	c.listPanels()
	c.repack()
	return c, nil
}

// rebind gives products packs of this layer.
func (l *layer) rebind(qs []*mul.Product) []*mul.Product {
	var own []*mul.Product
	for _, q := range qs {
		own = append(own, q.Rebind(&l.packs))
	}
	return own
}

func (l *layer) bind(ps []plan.Product, t *kernel.Target, bias bool) ([]*mul.Product, error) {
	var qs []*mul.Product
	for _, p := range ps {
		q, err := mul.NewProduct(p, t, bias, l.opt.AnyShape, &l.packs)
		if err != nil {
			return nil, err
		}
		qs = append(qs, q)
	}
	return qs, nil
}

func (l *layer) checkWeights(w Weights) error {
	chain, s := l.plan.Factors, &l.plan.Spec
	if len(w.Factors) != len(chain) {
		return fmt.Errorf("runtime: %s has %d factors, got %d weights", l.name, len(chain), len(w.Factors))
	}
	for i := range chain {
		if m := w.matrix(i); m != nil {
			if f := &chain[i]; m.Format != f.Format || m.Blocks != f.Factor.Blocks || m.Out != f.Factor.Out || m.In != f.Factor.In {
				return fmt.Errorf("runtime: %s: weight %s is %s of %d x %d x %d, want %s of %d x %d x %d", l.name, f.Param, m.Format, m.Blocks, m.Out, m.In, f.Format, f.Factor.Blocks, f.Factor.Out, f.Factor.In)
			}
			if err := m.Check(); err != nil {
				return fmt.Errorf("runtime: %s: weight %s: %w", l.name, chain[i].Param, err)
			}
			continue
		}
		if f := &chain[i]; len(w.Factors[i]) != f.Weights() {
			return fmt.Errorf("runtime: %s: weight %s has %d entries, want %v = %d", l.name, f.Param, len(w.Factors[i]), f.Shape, f.Weights())
		}
	}
	bias, guide := 0, 0
	if s.Bias {
		bias = s.Out
	}
	if s.Guide {
		guide = s.Out * s.In
	}
	if w.Inputs != nil && len(w.Inputs) != s.In {
		return fmt.Errorf("runtime: %s: sizes of %d inputs, want %d", l.name, len(w.Inputs), s.In)
	}
	if len(w.Bias) != bias {
		return fmt.Errorf("runtime: %s: bias has %d entries, want %d", l.name, len(w.Bias), bias)
	}
	if len(w.Guide) != guide {
		return fmt.Errorf("runtime: %s: guide has %d entries, want %d", l.name, len(w.Guide), guide)
	}
	return nil
}

// listPanels lists what repack fills.
func (l *layer) listPanels() {
	add := func(factor int, qs []*mul.Product) {
		for _, q := range qs {
			for p := range q.Panels() {
				l.panels = append(l.panels, packedPanel{q, p, factor})
			}
		}
	}
	for i := range l.plan.Factors {
		add(i, l.forward[i])
		if l.opt.Train {
			add(i, l.backward[i])
		}
	}
	if l.guide != nil {
		add(-1, l.guide.forward)
		add(-1, l.guide.backward)
	}
	l.packPanel = func(_, i int) {
		p := &l.panels[i]
		if p.factor < 0 {
			p.q.PackWeights(p.i, l.weights.Guide, l.plan.Guide)
			return
		}
		if m := l.integers[p.factor]; m != nil {
			p.q.PackIntegers(p.i, m)
			return
		}
		p.q.PackWeights(p.i, l.weights.Factors[p.factor], &l.plan.Factors[p.factor])
	}
}

// quantize makes integers of the factors in such a format, for as long as they are packed.
func (l *layer) quantize() {
	if len(l.integers) == 0 {
		l.integers = make([]*quant.Matrix, len(l.plan.Factors))
	}
	for i := range l.plan.Factors {
		f := &l.plan.Factors[i]
		if !f.Format.Quantized() {
			continue
		}
		m := l.weights.matrix(i)
		if m == nil {
			var sizes []float32
			if i == 0 {
				sizes = l.weights.Inputs
			}
			m = Quantize(f, l.weights.Factors[i], sizes, l.opt.Pool)
		}
		l.integers[i] = m
		for _, q := range l.forward[i] {
			q.SetInputs(m)
		}
	}
}

// Quantize makes integers of the weights of a planned factor in such a format, each the
// nearest. sizes, where not nil, is about how large its inputs are.
func Quantize(f *plan.Factor, w, sizes []float32, pool *Pool) *quant.Matrix {
	c := f.Factor
	m := quant.New(f.Format, c.Blocks, c.Out, c.In)
	orders := f.Orders()
	if sizes != nil {
		for b, order := range orders {
			Equalize(m, w, b, order, quant.Ordered(sizes[b*c.In:(b+1)*c.In], order))
		}
	}
	pool.Run(c.Blocks*c.Out, func(_, r int) {
		m.SetRow(r, quant.Ordered(w[r*c.In:(r+1)*c.In], orders[r/c.Out]), nil)
	})
	return m
}

// Equalize scales the inputs of a block of a matrix that becomes of w, of which sizes, in
// the order of products, says how large they are.
func Equalize(m *quant.Matrix, w []float32, block int, order []int, sizes []float32) {
	largest := make([]float32, m.In)
	for o := range m.Out {
		row := w[(block*m.Out+o)*m.In:][:m.In]
		for k, c := range order {
			largest[k] = max(largest[k], float32(math.Abs(float64(row[c]))))
		}
	}
	quant.Equalize(m.Inputs[block*m.In:(block+1)*m.In], sizes, largest)
}

// repack copies the weights into the kernels' packs.
func (l *layer) repack() {
	if len(l.weights.Factors) == 0 {
		panic("runtime: " + l.name + " holds packs alone, its weights were dropped")
	}
	l.quantize()
	l.opt.Pool.Run(len(l.panels), l.packPanel)
	clear(l.integers)
	if l.plan.Spec.Bias {
		for _, q := range l.forward[len(l.forward)-1] {
			q.PackBias(l.weights.Bias, l.plan.Bias)
		}
	}
	l.stale = false
}

// addForward adds the stages of y = act(layer(x)) (+ residual). z holds the
// intermediates, one buffer a factor but the last; pre is for the values
// before the activation. Without y, only z is filled.
func (l *layer) addForward(ws *Workspace, y, x, pre, residual mul.Matrix, z []mul.Matrix) {
	l.checkPacked()
	if l.mix.On && y.Data != nil {
		l.addGuideForward(ws, y, x, pre, residual)
		residual = mul.Matrix{}
	}
	src := x
	for i, qs := range l.forward {
		if i == len(l.forward)-1 {
			if y.Data == nil {
				break
			}
			ws.AddProducts(qs, mul.Stage{Src: src, Dst: y, Pre: pre, Residual: residual, Share: l.chained(i, kernel.Accumulate)})
			break
		}
		ws.AddProducts(qs, mul.Stage{Src: src, Dst: z[i]})
		src = z[i]
	}
}

// addResidual returns the residual as an operand of the stages to come, whose
// result is y. Where y is the residual and receives sums before they are
// complete, that is a copy of the rows at work, made by a stage of its own: the
// kernels then add in the order in which they would in two buffers.
func (l *layer) addResidual(ws *Workspace, y, residual []float32) mul.Matrix {
	if len(y) == 0 || len(residual) == 0 || &y[0] != &residual[0] || !l.storesParts() {
		return mul.Whole(residual)
	}
	n := l.plan.Spec.Out
	kept := ws.Local(mul.SlotResidual, n)
	ws.Add(mul.Stage{Src: mul.Whole(residual), Dst: kept, Widths: mul.Widths{Dst: n, Src: n}})
	return kept
}

// storesParts reports whether the products that add the residual store the
// sums of one block of k for the next block to find.
func (l *layer) storesParts() bool {
	qs := l.forward[len(l.forward)-1]
	if l.mix.On {
		qs = l.guide.forward
	}
	return slices.ContainsFunc(qs, func(q *mul.Product) bool { return q.StoresParts() })
}

// addBackwardData adds the stages of dx = dy W. dz holds the gradients of the
// intermediates. dx may be nil.
func (l *layer) addBackwardData(ws *Workspace, dx, dy mul.Matrix, dz []mul.Matrix) {
	l.checkPacked()
	if l.mix.On && dx.Data != nil {
		ws.AddProducts(l.guide.backward, mul.Stage{Src: dy, Dst: dx, Share: l.guided(0)})
	}
	src := dy
	for i := len(l.backward) - 1; i >= 0; i-- {
		dst, flags := dx, kernel.Accumulate
		if i > 0 {
			dst, flags = dz[i-1], 0
		}
		if dst.Data == nil {
			break
		}
		ws.AddProducts(l.backward[i], mul.Stage{Src: src, Dst: dst, Share: l.chained(i, flags)})
		src = dst
	}
}

// addGradients adds the units of all weight gradients and the bias's, for
// which sums is scratch of one entry an output. A unit is of about so many
// weights.
func (l *layer) addGradients(units []mul.Unit, g Weights, dy, x []float32, z, dz []mul.Matrix, sums []float32, weights int) []mul.Unit {
	from := len(units)
	for i, gr := range l.gradients {
		in, out := x, dy
		if i > 0 {
			in = z[i-1].Data
		}
		if i < len(l.gradients)-1 {
			out = dz[i].Data
		}
		from = len(units)
		units = gr.AddUnits(units, g.Factors[i], out, in, weights, l.chained(i, 0))
	}
	if l.bias != nil {
		units = l.bias.AddUnits(units, from, g.Bias, dy, sums) // of the last factor
	}
	if l.mix.On {
		units = l.guide.gradient.AddUnits(units, g.Guide, dy, x, weights, l.guided(0))
	}
	return units
}

// intermediates cuts buf, of m rows, into one matrix for each factor but the
// last; at is the slot that buf is, or stands for.
func (l *layer) intermediates(ws *Workspace, at mul.Slot, buf mul.Matrix, m int) []mul.Matrix {
	z := ws.Cuts[at][:0]
	for i := range l.plan.Factors[1:] {
		n := m * l.plan.Factors[i].OutWidth
		z = append(z, buf.Slice(0, n))
		buf = buf.Slice(n, len(buf.Data))
	}
	ws.Cuts[at] = z
	return z
}

// weightCount is the number of weights of the chain.
func (l *layer) weightCount() int {
	n := 0
	for i := range l.plan.Factors {
		n += l.plan.Factors[i].Weights()
	}
	return n
}

// zWidth is the number of intermediate entries of one row.
func (l *layer) zWidth() int { return l.plan.Inner() }

// savedWidth is the number of them that the backward pass finds saved.
func (l *layer) savedWidth() int { return l.plan.Saved() }

// kept are the intermediates of m rows for the gradients: those that were saved, or
// else computed again from the layer's input.
func (l *layer) kept(ws *Workspace, at mul.Slot, saved, x []float32, m int) []mul.Matrix {
	if l.savedWidth() > 0 || l.zWidth() == 0 {
		return l.intermediates(ws, at, mul.Whole(saved), m)
	}
	z := l.intermediates(ws, at, mul.Whole(ws.Floats(at, m*l.zWidth())), m)
	ws.Begin(l.opt.Target, m, l.zWidth()) // what BackwardData left stays
	l.addForward(ws, mul.Matrix{}, mul.Whole(x), mul.Matrix{}, mul.Matrix{}, z)
	ws.Exec()
	return z
}

// filled are the intermediates of m rows for a forward pass to fill: those to be
// saved, or else local ones.
func (l *layer) filled(ws *Workspace, at mul.Slot, saved []float32, m int) []mul.Matrix {
	if len(saved) > 0 {
		return l.intermediates(ws, at, mul.Whole(saved), m)
	}
	return l.intermediates(ws, at, ws.Local(at, l.zWidth()), ws.LocalRows())
}

// backwardRows calls f for blocks of the rows of a backward pass, where the layer
// computes what lies between its factors again: of few rows at a time.
func backwardRows(m int, f func(r0, rows int)) {
	for r0 := 0; r0 < m; r0 += kernel.RowBlock {
		f(r0, min(kernel.RowBlock, m-r0))
	}
}

// preWidth is the number of entries before the activation of one row.
func (l *layer) preWidth() int { return len(l.plan.Bias) }
