package gpu

import (
	"fmt"
	"math"

	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/runtime/cuda"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// Layer is a layer or network by itself on a device, as models run it: for
// comparisons with other programs. Rows are in their true order in the order of
// the packs' outputs where Precision says bf16, see [gpu.FFN].
type Layer struct {
	Precision table.Precision
	in, out   int
	kernels   []gpu.Kernel
	layout    layout
	bind      func(w *weights, grads *arena) func(r *runner, m *memory, io layerIO) error
	// casts says that vectors are bf16 although products are float32.
	casts bool
}

// layerIO are the vectors of some rows on a device.
type layerIO struct {
	rows         int
	x, y, dx, dy cuda.Buffer
}

// LayerResult is what a layer gives for some rows: y and the gradient of x, both
// as they are stored, and the gradients of the parameters by name. They are the
// sums of two backward passes, the second on top of the first.
type LayerResult struct {
	Y, DX []float32
	Grads map[string][]float32
}

// NewLinear plans a layer, or says why no device computes it. Its parameters'
// names are those of the spec.
func NewLinear(l spec.Linear) (*Layer, error) {
	p, err := gpu.NewLayer(l, "")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	y := &Layer{Precision: p.Precision, in: l.In, out: l.Out, kernels: p.Kernels()}
	y.layout.canonical("l.", l.Params())
	y.layout.linear("l", p)
	y.bind = func(w *weights, grads *arena) func(*runner, *memory, layerIO) error {
		f := newLinear(p, "l", w, grads)
		return func(r *runner, m *memory, io layerIO) error {
			z, dz := f.intermediates(m, io.rows), f.intermediates(m, io.rows)
			parts := m.bytes(f.partBytes(io.rows, true))
			if m.err != nil {
				return m.err
			}
			f.run(r, io.y, io.x, z, cuda.Buffer{}, io.rows, parts)
			f.backward(r, io.dx, io.dy, dz, cuda.Buffer{}, io.rows, parts)
			f.gradients(r, io.dy, io.x, z, dz, io.rows, false, parts)
			f.gradients(r, io.dy, io.x, z, dz, io.rows, true, parts)
			return nil
		}
	}
	return y, nil
}

// NewFFN plans a network. Parameters have the prefix fc1. or fc2.
func NewFFN(f spec.FFN) (*Layer, error) {
	p, err := gpu.NewFFN(f, "")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	y := &Layer{Precision: p.Precision, in: f.Hidden, out: f.Hidden, kernels: p.Kernels(), casts: true}
	for _, l := range []struct {
		name string
		spec spec.Linear
		plan gpu.Layer
	}{{"l.fc1", f.FC1(), p.FC1}, {"l.fc2", f.FC2(), p.FC2}} {
		y.layout.canonical(l.name+".", l.spec.Params())
		y.layout.linear(l.name, l.plan)
	}
	y.bind = func(w *weights, grads *arena) func(*runner, *memory, layerIO) error {
		n := newFFN(p, "l", w, grads)
		return func(r *runner, m *memory, io layerIO) error {
			saved, scratch := n.save(m, io.rows, true), n.scratch(m, io.rows, true)
			parts := m.bytes(n.partBytes(io.rows, true))
			if m.err != nil {
				return m.err
			}
			n.run(r, io.y, io.x, saved, scratch, io.rows, parts)
			n.backward(r, io.dx, io.dy, io.x, saved, scratch, io.rows, false, parts)
			n.backward(r, io.dx, io.dy, io.x, saved, scratch, io.rows, true, parts)
			return nil
		}
	}
	return y, nil
}

// Kernels lists what the layer runs.
func (l *Layer) Kernels() []table.Kernel {
	return gpu.Rows(gpu.Unique(append(l.kernels, gpu.PackBF16.Kernel())))
}

// Run computes a layer of given parameters, forward and back, of rows x and the
// gradient dy of their results.
func (l *Layer) Run(d *cuda.Device, get func(param string) []float32, x, dy []float32) (*LayerResult, error) {
	rows := len(x) / l.in
	if rows*l.in != len(x) || rows*l.out != len(dy) {
		return nil, fmt.Errorf("gpu: %d and %d entries are no rows of %d and %d", len(x), len(dy), l.in, l.out)
	}
	s, err := d.NewStream()
	if err != nil {
		return nil, err
	}
	r, mem := &runner{d: d, s: s}, &memory{d: d}
	defer s.Close() // its errors came up before
	defer mem.free()
	all := l.layout
	all.place()
	w, err := newWeights(r, all, func(name string) []float32 { return get(name[len("l."):]) })
	if err != nil {
		return nil, err
	}
	defer w.close()
	grads, err := w.newArena(4)
	if err != nil {
		return nil, err
	}
	defer d.Free(grads.Buffer)
	p := l.Precision
	if l.casts {
		p = table.BF16
	}
	io := layerIO{rows, mem.entries(p, len(x)), mem.entries(p, len(dy)), mem.entries(p, len(x)), mem.entries(p, len(dy))}
	if mem.err != nil {
		return nil, mem.err
	}
	r.do(func() error { return upload(r.s, io.x, p, x) })
	r.do(func() error { return upload(r.s, io.dy, p, dy) })
	r.do(func() error { return r.s.Clear(grads.Buffer) })
	r.do(func() error { return l.bind(w, &grads)(r, mem, io) })
	res := &LayerResult{Y: make([]float32, len(dy)), DX: make([]float32, len(x)), Grads: map[string][]float32{}}
	r.do(func() error { return download(r.s, res.Y, io.y, p) })
	r.do(func() error { return download(r.s, res.DX, io.dx, p) })
	grads.download(r, func(name string) []float32 {
		g := make([]float32, w.slots[name].size)
		res.Grads[name[len("l."):]] = g
		return g
	})
	if r.err != nil {
		return nil, r.err
	}
	return res, nil
}

// upload copies numbers to a buffer, rounded to its precision.
func upload(s *cuda.Stream, to cuda.Buffer, p table.Precision, v []float32) error {
	if p == table.Float32s {
		return cuda.Upload(s, to, v)
	}
	u := make([]uint16, len(v))
	for i, x := range v {
		n := math.Float32bits(x)
		u[i] = uint16((n + 0x7fff + n>>16&1) >> 16)
	}
	return cuda.Upload(s, to, u)
}

// download copies a buffer to numbers.
func download(s *cuda.Stream, v []float32, from cuda.Buffer, p table.Precision) error {
	if p == table.Float32s {
		return cuda.Download(s, v, from)
	}
	u := make([]uint16, len(v))
	err := cuda.Download(s, u, from)
	for i, x := range u {
		v[i] = math.Float32frombits(uint32(x) << 16)
	}
	return err
}

// Gradients downloads those of the last backward passes.
func (e *Engine) Gradients(to func(name string) []float32) error {
	e.grads.download(&e.r, to)
	return e.r.err
}
