package gpu

import (
	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/runtime/cuda"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// slot is where a parameter lies in the device's arenas, and in which order:
// stored visits its entries there with those of the canonical parameter, and is
// nil where they begin with it as it is. All else is padding.
type slot struct {
	offset, size int
	stored       func(visit func(stored, canonical int))
}

// layout places all parameters of a model. Each begins at a multiple of eight
// entries, so that 16-byte accesses reach it in bf16, too.
type layout struct {
	slots map[string]slot
	names []string
	size  int
}

const align = 8

func newLayout(p plans) layout {
	var l layout
	m := p.Model.Spec
	l.canonical("", m.Params())
	for i, f := range p.FFN {
		l.linear(model.LayerName(i)+".mlp.fc1", p.FFNs[f].FC1)
		l.linear(model.LayerName(i)+".mlp.fc2", p.FFNs[f].FC2)
	}
	// The head's rows of padding follow the table.
	l.change(headName(m), func(s *slot) { s.size = p.Logits * m.Hidden })
	l.place()
	return l
}

// canonical adds parameters in their own order.
func (l *layout) canonical(prefix string, ps []spec.Param) {
	if l.slots == nil {
		l.slots = map[string]slot{}
	}
	for _, q := range ps {
		l.slots[prefix+q.Name] = slot{size: q.Size()}
		l.names = append(l.names, prefix+q.Name)
	}
}

// linear puts the parameters of a layer in the order of its kernels.
func (l *layout) linear(name string, g gpu.Layer) {
	for _, f := range g.Factors {
		l.change(name+"."+f.Param, func(s *slot) { s.stored = factorOrder(f) })
	}
	if g.Spec.Bias {
		l.change(name+".bias", func(s *slot) {
			s.stored = func(visit func(stored, canonical int)) {
				for stored, canonical := range g.Bias {
					visit(stored, canonical)
				}
			}
		})
	}
}

func (l *layout) change(name string, f func(*slot)) {
	s := l.slots[name]
	f(&s)
	l.slots[name] = s
}

// place gives each parameter its room.
func (l *layout) place() {
	for _, name := range l.names {
		l.change(name, func(s *slot) { s.offset = l.size })
		l.size += (l.slots[name].size + align - 1) / align * align
	}
}

// headName is the parameter that the head multiplies with.
func headName(m spec.Model) string {
	if m.TieEmbeddings {
		return "model.wte.weight"
	}
	return "lm_head.weight"
}

// factorOrder is the order of a factor's packed weights.
func factorOrder(f gpu.Factor) func(visit func(stored, canonical int)) {
	return func(visit func(stored, canonical int)) {
		at := 0
		for b := range f.Blocks {
			for _, o := range f.Out[b] {
				for _, in := range f.In[b] {
					visit(at, (b*f.Factor.Out+o)*f.Factor.In+in)
					at++
				}
			}
		}
	}
}

// arena is one value for each parameter on the device.
type arena struct {
	*layout
	cuda.Buffer
	bytes int // of an entry
}

func (a arena) get(name string) cuda.Buffer {
	s, ok := a.slots[name]
	if !ok {
		return cuda.Buffer{}
	}
	return a.Slice(a.bytes*s.offset, a.bytes*s.size)
}

// upload fills a float32 arena, padding with 0. Parameters go one by one, from
// where they are or, in another order, from a copy: a model has gigabytes of them.
func (a arena) upload(r *runner, get func(name string) []float32) {
	r.do(func() error { return r.s.Clear(a.Buffer) })
	for _, name := range a.names {
		s, v := a.slots[name], get(name)
		if s.stored != nil {
			packed := make([]float32, s.size)
			s.stored(func(stored, canonical int) { packed[stored] = v[canonical] })
			v = packed
		}
		r.do(func() error { return cuda.Upload(r.s, a.get(name), v) })
	}
}

// download is its inverse.
func (a arena) download(r *runner, get func(name string) []float32) {
	for _, name := range a.names {
		s, to := a.slots[name], get(name)
		if s.stored == nil {
			r.do(func() error { return cuda.Download(r.s, to, a.get(name)) })
			continue
		}
		packed := make([]float32, s.size)
		r.do(func() error { return cuda.Download(r.s, packed, a.get(name)) })
		if r.err != nil {
			return
		}
		s.stored(func(stored, canonical int) { to[canonical] = packed[stored] })
	}
}

// weights are a model's parameters on a device: float32, and rounded for the
// products.
type weights struct {
	layout
	d            *cuda.Device
	master, bf16 arena
}

// newWeights copies parameters to a device.
func newWeights(r *runner, l layout, get func(name string) []float32) (*weights, error) {
	w := &weights{layout: l, d: r.d}
	var err error
	if w.master, err = w.newArena(4); err != nil {
		return nil, err
	}
	if w.bf16, err = w.newArena(2); err != nil {
		w.close()
		return nil, err
	}
	w.master.upload(r, get)
	r.launch(gpu.PackBF16.Kernel(), table.Counts{table.Entries: w.size}, cuda.Args{"w": w.master.Buffer, "pack": w.bf16.Buffer})
	if r.err != nil {
		w.close()
		return nil, r.err
	}
	return w, nil
}

func (w *weights) newArena(bytes int) (arena, error) {
	b, err := w.d.Alloc(bytes * w.size)
	return arena{&w.layout, b, bytes}, err
}

func (w *weights) close() {
	w.d.Free(w.master.Buffer)
	w.d.Free(w.bf16.Buffer)
}
