package plan

import "github.com/structuredffn/sffn/runtime/kernel"

// MinQuant is the least number of inputs, and of outputs, of a block for which integers
// with scales are worth it: of smaller ones scales and padding take what the integers
// save, and an error goes through all that follows.
const MinQuant = 64

// Quantizes reports whether the weights of a factor are worth integers.
func (f Factor) Quantizes() bool {
	return !f.Across && f.Factor.In >= MinQuant && f.Factor.Out >= MinQuant
}

// Orders lists the inputs of each block in the order in which products sum over them.
func (f Factor) Orders() (orders [][]int) {
	for _, b := range f.Blocks {
		orders = append(orders, canon(b.In))
	}
	return orders
}

// HeadFormat is the format of the head where the layers have one: an error there is one of the
// logits, so that int4 leaves it at int8.
func HeadFormat(f kernel.FormatName) kernel.FormatName {
	if f == kernel.Int4 {
		return kernel.Int8
	}
	return f
}
