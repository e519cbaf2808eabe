package gpu

import (
	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/runtime/cuda"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// ffn is a network on the device. Networks in float32 have bf16 inputs and
// outputs like all others, and cast them.
type ffn struct {
	plan     gpu.FFN
	fc1, fc2 *linear
}

func newFFN(f gpu.FFN, name string, w *weights, grads *arena) *ffn {
	return &ffn{f, newLinear(f.FC1, name+".fc1", w, grads), newLinear(f.FC2, name+".fc2", w, grads)}
}

// ffnSaved is what the backward pass of a network needs of its forward pass.
type ffnSaved struct {
	x, pre, act cuda.Buffer // x only where it was cast
	z1, z2      []cuda.Buffer
}

// preWidth is the width before the activation.
func preWidth(f spec.FFN) int {
	return f.FFN * f.Act.Columns()
}

// save makes room for so many rows; without backward, the values before the
// activation are not kept.
func (f *ffn) save(m *memory, rows int, backward bool) ffnSaved {
	p := f.plan.Precision
	s := ffnSaved{act: m.entries(p, rows*f.plan.Spec.FFN), z1: f.fc1.intermediates(m, rows), z2: f.fc2.intermediates(m, rows)}
	if p == table.Float32s {
		s.x = m.float32(rows * f.plan.Spec.Hidden)
	}
	if backward {
		s.pre = m.entries(p, rows*preWidth(f.plan.Spec))
	}
	return s
}

// ffnScratch is what both passes of any network of a model may overwrite.
type ffnScratch struct {
	y, dpre, dx cuda.Buffer // y and dx only for casts
	dz1, dz2    []cuda.Buffer
}

func (f *ffn) scratch(m *memory, rows int, backward bool) ffnScratch {
	p, s := f.plan.Precision, ffnScratch{}
	if p == table.Float32s {
		s.y = m.float32(rows * f.plan.Spec.Hidden)
	}
	if !backward {
		return s
	}
	s.dpre = m.entries(p, rows*preWidth(f.plan.Spec))
	s.dz1, s.dz2 = f.fc1.intermediates(m, rows), f.fc2.intermediates(m, rows)
	if p == table.Float32s {
		s.dx = m.float32(rows * f.plan.Spec.Hidden)
	}
	return s
}

var (
	widen  = gpu.Cast{Cast: table.Cast{Widen: true}}.Kernel()
	narrow = gpu.Cast{}.Kernel()
)

func cast(r *runner, k gpu.Kernel, y, x cuda.Buffer, n int) {
	r.launch(k, table.Counts{table.Entries: n}, cuda.Args{"x": x, "y": y})
}

// run computes y, in the order of the plan's Output, from x.
func (f *ffn) run(r *runner, y, x cuda.Buffer, s ffnSaved, t ffnScratch, tokens int, parts cuda.Buffer) {
	n, out := tokens*f.plan.Spec.Hidden, y
	if f.plan.Precision == table.Float32s {
		cast(r, widen, s.x, x, n)
		x, out = s.x, t.y
	}
	f.fc1.run(r, s.act, x, s.z1, s.pre, tokens, parts)
	f.fc2.run(r, out, s.act, s.z2, cuda.Buffer{}, tokens, parts)
	if f.plan.Precision == table.Float32s {
		cast(r, narrow, y, t.y, n)
	}
}

// backward computes dx from dy, which is in the order of the plan's Output, and
// the gradients of the parameters.
func (f *ffn) backward(r *runner, dx, dy, x cuda.Buffer, s ffnSaved, t ffnScratch, tokens int, accumulate bool, parts cuda.Buffer) {
	n, out := tokens*f.plan.Spec.Hidden, dx
	if f.plan.Precision == table.Float32s {
		cast(r, widen, t.y, dy, n)
		x, dy, out = s.x, t.y, t.dx
	}
	f.fc2.backward(r, t.dpre, dy, t.dz2, s.pre, tokens, parts)
	f.fc1.backward(r, out, t.dpre, t.dz1, cuda.Buffer{}, tokens, parts)
	f.fc2.gradients(r, dy, s.act, s.z2, t.dz2, tokens, accumulate, parts)
	f.fc1.gradients(r, t.dpre, x, s.z1, t.dz1, tokens, accumulate, parts)
	if f.plan.Precision == table.Float32s {
		cast(r, narrow, dx, t.dx, n)
	}
}

func (f *ffn) partBytes(tokens int, train bool) int {
	return max(f.fc1.partBytes(tokens, train), f.fc2.partBytes(tokens, train))
}
