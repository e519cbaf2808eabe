package kernel

// Epilogue is the activation that a kernel applies to its tile before the
// store. Its name is that of the network's activation.
type Epilogue string

// The epilogues. SwiGLU is silu(gate) * up.
const (
	Linear Epilogue = ""
	GELU   Epilogue = "gelu"
	SwiGLU Epilogue = "swiglu"
)

// epilogue is a row of the table of epilogues.
type epilogue struct {
	name Epilogue
	// gated ones multiply an activation of one column of sums, the gate, by another
	// one, the up: panels of 32 columns hold 16 of each, and half as many columns are
	// stored as are multiplied.
	gated bool
}

var epilogues = []epilogue{
	{Linear, false},
	{GELU, false},
	{SwiGLU, true},
}

// Epilogues lists them.
func Epilogues() (names []Epilogue) {
	for _, e := range epilogues {
		names = append(names, e.name)
	}
	return names
}

// Gated reports whether two columns of sums make one result: a gate and an up.
func (e Epilogue) Gated() bool {
	for _, row := range epilogues {
		if row.name == e {
			return row.gated
		}
	}
	panic("kernel: unknown epilogue " + string(e))
}
