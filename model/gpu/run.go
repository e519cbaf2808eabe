package gpu

import (
	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/runtime/cuda"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// runner enqueues work and keeps the first error.
type runner struct {
	d   *cuda.Device
	s   *cuda.Stream
	err error
}

// launch runs what was loaded for a planned kernel.
func (r *runner) launch(k gpu.Kernel, c table.Counts, a cuda.Args) {
	if r.err == nil {
		r.run(r.d.Kernel(k.Kernel), c, a)
	}
}

// run launches a kernel once.
func (r *runner) run(k *cuda.Kernel, c table.Counts, a cuda.Args) {
	if r.err == nil {
		r.err = r.s.Launch(k, c, a)
	}
}

// do runs any other step.
func (r *runner) do(f func() error) {
	if r.err == nil {
		r.err = f()
	}
}

// memory is device memory that is freed together.
type memory struct {
	d   *cuda.Device
	all []cuda.Buffer
	err error
}

// bf16 and float32 allocate so many entries, none for 0.
func (m *memory) bf16(n int) cuda.Buffer    { return m.bytes(2 * n) }
func (m *memory) float32(n int) cuda.Buffer { return m.bytes(4 * n) }

// entries allocates as many of a layer's precision.
func (m *memory) entries(p table.Precision, n int) cuda.Buffer {
	if p == table.Float32s {
		return m.float32(n)
	}
	return m.bf16(n)
}

func (m *memory) bytes(n int) cuda.Buffer {
	if n == 0 || m.err != nil {
		return cuda.Buffer{}
	}
	b, err := m.d.Alloc(n)
	if err != nil {
		m.err = err
		return b
	}
	m.all = append(m.all, b)
	return b
}

func (m *memory) free() {
	for _, b := range m.all {
		m.d.Free(b)
	}
	m.all = nil
}
