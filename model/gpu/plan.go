// Package gpu trains and decodes models on a CUDA device: the same models,
// checkpoints and loop as the CPU's, with products in bf16 whose sums are
// float32, and everything else in float32.
package gpu

import (
	"errors"
	"fmt"

	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// plans are all kernels of a model.
type plans struct {
	gpu.Model
	gpu.Passes
}

// ErrUnsupported says that no device computes a model.
var ErrUnsupported = errors.New("no GPU kernels for this model")

func newPlans(m spec.Model) (plans, error) {
	var p plans
	var err error
	if p.Model, err = gpu.NewModel(m, ""); err != nil {
		return p, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	if p.Passes, err = gpu.NewPasses(m); err != nil {
		return p, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return p, nil
}

// Kernels lists what a model asks a device for: the rows of the plan, of which
// [cuda.Device.Load] takes the role, the shape and the range of rows, and finds what
// the program has for them. An error says which part of the model no device computes.
func Kernels(m spec.Model) ([]table.Kernel, error) {
	p, err := newPlans(m)
	if err != nil {
		return nil, err
	}
	return gpu.Rows(gpu.Table[interface{ Kernels() []gpu.Kernel }](p.Model, p.Passes)), nil
}
