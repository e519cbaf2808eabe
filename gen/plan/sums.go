// Package plan says where everything lies: where each entry of a vector is stored,
// how a factor falls into products and gradients, and where sums break. What
// differs from target to target is decided in gen/plan/cpu and gen/plan/gpu.
//
// Plans are pure functions of the spec, never of the machine that makes them.
package plan

import "github.com/structuredffn/sffn/runtime/kernel"

// Sizes of the model's passes; see [kernel.Sums] for those that decide bits.
const (
	PassRows = kernel.PassRows
	HeadRows = kernel.HeadRows
	// HeadRowsStep rows are a unit of the loss.
	HeadRowsStep = 8
	// EmbedColumns is the width of a unit of the embedding's gradient.
	EmbedColumns = 64
)
