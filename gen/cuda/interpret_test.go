package cuda

import (
	"fmt"

	"github.com/structuredffn/sffn/internal/gpuproof"
	"github.com/structuredffn/sffn/internal/ptx"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// interpreter is a [gpuproof.Runner] whose kernels are PTX, run by the strict interpreter. Findings are errors.
type interpreter struct {
	Kernels map[string]*ptx.Kernel
	// Seed picks the schedule of the next launch; each takes another one.
	Seed uint64
	// Tamper, where not nil, changes launches.
	Tamper func(*ptx.Launch)
	// Only, where not nil, chooses the blocks of products and of attention that run.
	Only func(block [3]int) bool

	mem ptx.Memory
}

// Alloc is that of [gpuproof.Runner].
func (r *interpreter) Alloc(access table.Access, data []byte, n int) (gpuproof.Array, error) {
	switch access {
	case table.Read:
		return r.mem.Input(data), nil
	case table.Updated:
		return r.mem.Update(data), nil
	}
	return r.mem.Output(n), nil
}

// Launch is that of [gpuproof.Runner].
func (r *interpreter) Launch(k table.Kernel, c table.Counts, a gpuproof.Arrays, n gpuproof.Numbers) error {
	p := r.Kernels[k.Name]
	if p == nil {
		return fmt.Errorf("no PTX of %s", k.Name)
	}
	r.Seed++
	l := ptx.Launch{Grid: k.Blocks(c), Block: k.Threads, Shared: k.SharedBytes, Seed: r.Seed}
	for _, q := range k.Params {
		var v uint64
		switch {
		case q.Type.Array() && a[q.Name] != nil:
			v = a[q.Name].(*ptx.Buffer).Address
		case q.Type.Array():
		case q.Count != "":
			v = uint64(c[q.Count])
		default:
			v = uint64(n[q.Name])
		}
		l.Args = append(l.Args, v)
	}
	if r.Tamper != nil {
		r.Tamper(&l)
	}
	if k.Shape.Product != nil || k.Shape.Attention != nil {
		l.Only = r.Only
	}
	report, err := p.Run(&r.mem, l)
	if err != nil {
		return err
	}
	if len(report.Findings) > 0 {
		return fmt.Errorf("%v", report.Findings[0])
	}
	return nil
}

// Read is that of [gpuproof.Runner].
func (r *interpreter) Read(a gpuproof.Array) ([]byte, error) { return a.(*ptx.Buffer).Bytes(), nil }

// Free is that of [gpuproof.Runner]. Nothing is ever written beside an array:
// that is a finding.
func (r *interpreter) Free() error {
	r.mem = ptx.Memory{}
	return nil
}
