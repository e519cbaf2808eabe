package plan

import (
	"fmt"

	"github.com/structuredffn/sffn/runtime/kernel"
)

// MinQuant is the least number of inputs, and of outputs, of a block for which integers
// with scales are worth it: of smaller ones scales and padding take what the integers
// save, and an error goes through all that follows.
const MinQuant = 64

// FormatIn is the format of a factor's weights in a layer of a format: that one, or, for which why
// is not empty, one of more bits.
func (f Factor) FormatIn(format kernel.FormatName) (own kernel.FormatName, why string) {
	switch {
	case f.Across:
		if format != "" && format != kernel.F32 {
			why = "its lanes run across blocks"
		}
		return kernel.F32, why
	case format.Quantized() && min(f.Factor.In, f.Factor.Out) < MinQuant:
		return kernel.BF16, fmt.Sprintf("blocks of fewer than %d inputs or outputs", MinQuant)
	}
	return format, ""
}

// Orders lists the inputs of each block in the order in which products sum over them.
func (f Factor) Orders() (orders [][]int) {
	for _, b := range f.Blocks {
		orders = append(orders, canon(b.In))
	}
	return orders
}

// HeadWhy says why [HeadFormat] is one of more bits.
const HeadWhy = "an error of the head is one of the logits"

// HeadFormat is the format of the head where the layers have one: int4 leaves it at int8.
func HeadFormat(f kernel.FormatName) kernel.FormatName {
	if f == kernel.Int4 {
		return kernel.Int8
	}
	return f
}
