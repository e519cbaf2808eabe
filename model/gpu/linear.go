package gpu

import (
	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/runtime/cuda"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// product is a planned product with the kernels that were loaded for it: its own, and
// what finishes it where its sums come in parts.
type product struct {
	gpu.Product
	kernels []*cuda.Kernel
}

func newProduct(d *cuda.Device, p gpu.Product) product {
	q := product{Product: p}
	for _, k := range p.Kernels() {
		q.kernels = append(q.kernels, d.Kernel(k.Kernel))
	}
	return q
}

// run computes the array c from a and b and what the epilogue needs.
func (p product) run(r *runner, tokens int, parts cuda.Buffer, a cuda.Args) {
	c := table.Counts{table.Tokens: tokens, table.Parts: 1}
	if len(p.kernels) == 1 {
		split, _ := p.kernels[0].Param("split")
		a["split"] = cuda.Int((tokens + split.Unit - 1) / max(1, split.Unit))
		r.run(p.kernels[0], c, a)
		return
	}
	r.run(p.kernels[0], c, cuda.Args{"a": a["a"], "b": a["b"], "c": parts, "split": cuda.Int(0)})
	delete(a, "a")
	delete(a, "b")
	a["parts"] = parts
	r.run(p.kernels[1], c, a)
}

// partBytes is the memory of the parts that a product leaves.
func (p product) partBytes(tokens int) int {
	if len(p.kernels) == 1 {
		return 0
	}
	parts, _ := p.kernels[0].Param("c")
	return parts.Bytes(table.Counts{table.Tokens: tokens, table.Parts: 1})
}

// factor is one factor of a layer.
type factor struct {
	gpu.Factor
	forward, few, data, fewData, weight product
	w, g                                cuda.Buffer // of the parameter: packed, and its gradient
}

// linear is a layer on the device. It does not own its buffers.
type linear struct {
	plan    gpu.Layer
	factors []factor
	// bias is float32; columns, nil where there is none, sums its gradient.
	bias, biasGrad cuda.Buffer
	columns        *cuda.Kernel
}

// newLinear finds a layer's weights, and gradients if there are any.
func newLinear(l gpu.Layer, name string, w *weights, grads *arena) *linear {
	get := func(param string) (b cuda.Buffer) {
		if grads != nil {
			b = grads.get(param)
		}
		return b
	}
	n := &linear{plan: l}
	from := w.bf16
	if l.Precision == table.Float32s {
		from = w.master
	}
	for _, f := range l.Factors {
		param := name + "." + f.Param
		n.factors = append(n.factors, factor{Factor: f,
			forward: newProduct(w.d, f.Forward), few: newProduct(w.d, f.Few), data: newProduct(w.d, f.BackwardData), fewData: newProduct(w.d, f.FewBackward), weight: newProduct(w.d, f.BackwardWeight),
			w: from.get(param), g: get(param)})
	}
	if l.Spec.Bias {
		n.bias, n.biasGrad = w.master.get(name+".bias"), get(name+".bias")
		n.columns = w.d.Kernel(l.BiasKernel().Kernel)
	}
	return n
}

// intermediates makes room for what lies between the factors.
func (l *linear) intermediates(m *memory, rows int) []cuda.Buffer {
	var z []cuda.Buffer
	for _, f := range l.factors[:len(l.factors)-1] {
		z = append(z, m.entries(l.plan.Precision, rows*f.Forward.C.Pitch))
	}
	return z
}

// run computes y from x; z are the intermediates, and pre, where it has a size,
// keeps the values before the activation.
func (l *linear) run(r *runner, y, x cuda.Buffer, z []cuda.Buffer, pre cuda.Buffer, tokens int, parts cuda.Buffer) {
	for i, f := range l.factors {
		p, out := f.forward, y
		if tokens <= gpu.FewTokens && !f.few.Sums { // those are for decoding
			p = f.few
		}
		if i < len(z) {
			out = z[i]
		}
		a := cuda.Args{"a": x, "b": f.w, "c": out}
		if p.Bias {
			a["bias"] = l.bias
		}
		if p.Epilogue != table.Plain && pre.Size() > 0 {
			a["pre"] = pre
		}
		p.run(r, tokens, parts, a)
		x = out
	}
}

// backward computes dx from dy, and dz, the gradients of the intermediates; pre
// belongs to the activation on the layer's input, if it has one.
func (l *linear) backward(r *runner, dx, dy cuda.Buffer, dz []cuda.Buffer, pre cuda.Buffer, tokens int, parts cuda.Buffer) {
	for i := len(l.factors) - 1; i >= 0; i-- {
		f := l.factors[i]
		p, out := f.data, dx
		if tokens <= gpu.FewTokens {
			p = f.fewData
		}
		if i > 0 {
			out = dz[i-1]
		}
		a := cuda.Args{"a": dy, "b": f.w, "c": out}
		if p.Epilogue != table.Plain {
			a["pre"] = pre
		}
		p.run(r, tokens, parts, a)
		dy = out
	}
}

// gradients computes those of the parameters from what both passes left.
func (l *linear) gradients(r *runner, dy, x cuda.Buffer, z, dz []cuda.Buffer, tokens int, accumulate bool, parts cuda.Buffer) {
	for i, f := range l.factors {
		in, d := x, dy
		if i > 0 {
			in = z[i-1]
		}
		if i < len(dz) {
			d = dz[i]
		}
		k := f.weight.kernels[0]
		n := k.Cut.Parts(tokens)
		r.run(k, table.Counts{table.Tokens: tokens, table.Parts: n},
			cuda.Args{"a": d, "b": in, "c": parts, "split": cuda.Int(k.Cut.Units(tokens))})
		addUp(r, sumParts, f.g, parts, n, accumulate)
	}
	if l.plan.Spec.Bias {
		cut := l.columns.Cut
		n := cut.Parts(tokens)
		r.run(l.columns, table.Counts{table.Tokens: tokens, table.Parts: n},
			cuda.Args{"x": dy, "sums": parts, "rows": cuda.Int(cut.Units(tokens) * cut.Unit)})
		addUp(r, sumRows, l.biasGrad, parts, n, accumulate)
	}
}

var sumParts, sumRows = gpu.SumParts.Kernel(), gpu.SumRows.Kernel()

// addUp adds up n parts of many sums.
func addUp(r *runner, k gpu.Kernel, sum, parts cuda.Buffer, n int, accumulate bool) {
	r.launch(k, table.Counts{table.Entries: sum.Size() / 4, table.Parts: n},
		cuda.Args{"parts": parts, "sum": sum, "accumulate": truth(accumulate)})
}

func truth(b bool) cuda.Uint32 {
	if b {
		return 1
	}
	return 0
}

// partBytes is the most memory that sums in parts need for so many tokens and for
// fewer, with gradients or without.
func (l *linear) partBytes(tokens int, train bool) int {
	n := 0
	for _, f := range l.factors {
		n = max(n, f.few.partBytes(min(tokens, gpu.FewTokens)), f.fewData.partBytes(min(tokens, gpu.FewTokens)))
		if train {
			n = max(n, 4*f.Weights()*f.weight.kernels[0].Cut.MostParts(tokens))
		}
	}
	if train && l.columns != nil {
		n = max(n, 4*l.columns.Shape.Columns.Width*l.columns.Cut.MostParts(tokens))
	}
	return n
}
