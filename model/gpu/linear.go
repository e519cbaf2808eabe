package gpu

import (
	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/runtime/cuda"
)

// product is a planned product with the rows of the kernel table that it runs:
// its own, and what finishes it where its sums come in parts.
type product struct {
	gpu.Product
	kernels []gpu.Kernel
}

func newProduct(p gpu.Product) product { return product{p, p.Kernels()} }

// run computes the array c from a and b and what the epilogue needs.
func (p product) run(r *runner, tokens int, parts cuda.Buffer, a cuda.Args) {
	c := gpu.Counts{gpu.Tokens: tokens, gpu.Parts: 1}
	if len(p.kernels) == 1 {
		a["split"] = cuda.Int(p.PartStages(tokens, 1))
		r.launch(p.kernels[0], c, a)
		return
	}
	r.launch(p.kernels[0], c, cuda.Args{"a": a["a"], "b": a["b"], "c": parts, "split": cuda.Int(0)})
	delete(a, "a")
	delete(a, "b")
	a["parts"] = parts
	r.launch(p.kernels[1], c, a)
}

// partBytes is the memory of the parts that a product leaves.
func (p product) partBytes(tokens int) int {
	if len(p.kernels) == 1 {
		return 0
	}
	for _, q := range p.kernels[0].Params {
		if q.Name == "c" {
			return q.Bytes(gpu.Counts{gpu.Tokens: tokens, gpu.Parts: 1})
		}
	}
	return 0
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
	// bias is float32; columns sums its gradient.
	bias, biasGrad cuda.Buffer
	columns        gpu.Columns
	sumColumns     gpu.Kernel
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
	if l.Precision == gpu.Float32s {
		from = w.master
	}
	for _, f := range l.Factors {
		param := name + "." + f.Param
		n.factors = append(n.factors, factor{Factor: f,
			forward: newProduct(f.Forward), few: newProduct(f.Few), data: newProduct(f.BackwardData), fewData: newProduct(f.FewBackward), weight: newProduct(f.BackwardWeight),
			w: from.get(param), g: get(param)})
		n.columns = gpu.Columns{Width: f.Forward.C.Pitch, Precision: l.Precision}
	}
	if l.Spec.Bias {
		n.bias, n.biasGrad = w.master.get(name+".bias"), get(name+".bias")
		n.sumColumns = n.columns.Kernel()
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
		if p.Epilogue != gpu.Plain && pre.Size() > 0 {
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
		if p.Epilogue != gpu.Plain {
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
		n := f.weight.WeightParts(tokens)
		r.launch(f.weight.kernels[0], gpu.Counts{gpu.Tokens: tokens, gpu.Parts: n},
			cuda.Args{"a": d, "b": in, "c": parts, "split": cuda.Int(f.weight.PartStages(tokens, n))})
		addUp(r, sumParts, f.g, parts, n, accumulate)
	}
	if l.plan.Spec.Bias {
		n := l.columns.Parts(tokens)
		r.launch(l.sumColumns, gpu.Counts{gpu.Tokens: tokens, gpu.Parts: n},
			cuda.Args{"x": dy, "sums": parts, "rows": cuda.Int(l.columns.Rows(tokens))})
		addUp(r, sumRows, l.biasGrad, parts, n, accumulate)
	}
}

var sumParts, sumRows = gpu.SumParts.Kernel(), gpu.SumRows.Kernel()

// addUp adds up n parts of many sums.
func addUp(r *runner, k gpu.Kernel, sum, parts cuda.Buffer, n int, accumulate bool) {
	r.launch(k, gpu.Counts{gpu.Entries: sum.Size() / 4, gpu.Parts: n},
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
			n = max(n, 4*f.Weights()*f.weight.MostWeightParts(tokens))
		}
	}
	if train {
		n = max(n, 4*l.columns.Width*l.columns.MostParts(tokens))
	}
	return n
}
