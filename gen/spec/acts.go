package spec

// Act names the activation of a feed-forward network.
type Act string

// The activations. GELU is the tanh form, GELUErf x times the normal distribution
// function; SwiGLU is silu(gate) * up, where the first half of fc1's outputs is the
// gate.
const (
	GELU    Act = "gelu"
	GELUErf Act = "gelu_erf"
	SwiGLU  Act = "swiglu"
)

// act is a row of the table of activations: all that a spec has to know of one.
// What computes it is named after it: the epilogue of products on CPUs and GPUs.
type act struct {
	name Act
	// columns is the number of fc1's outputs that each hidden entry is made of: of
	// all first ones, then of all second ones.
	columns int
}

var acts = []act{
	{GELU, 1},
	{GELUErf, 1},
	{SwiGLU, 2},
}

// Acts lists the activations.
func Acts() (names []Act) {
	for _, a := range acts {
		names = append(names, a.name)
	}
	return names
}

// Columns is the number of fc1's outputs that each hidden entry takes, 0 for a
// name that is no activation.
func (a Act) Columns() int {
	for _, row := range acts {
		if row.name == a {
			return row.columns
		}
	}
	return 0
}

// Gated reports whether a second column, the up, is multiplied by an activation
// of the first, the gate.
func (a Act) Gated() bool { return a.Columns() == 2 }
