package mul

import "github.com/structuredffn/sffn/runtime/kernel"

// Weight is the factor of a product's sums in a mixture. The guide's products
// run first and store; the chain's add to what they find.
type Weight struct {
	Flags kernel.Flags
	Alpha float32
}

// Scaled is the weight alpha, beside other flags.
func Scaled(alpha float32, flags kernel.Flags) Weight { return Weight{flags | kernel.Scale, alpha} }
