package kernel

// Epilogue is the activation that a kernel applies to its tile before the
// store. Its name is that of the network's activation.
type Epilogue string

// The epilogues. GELU is the tanh form, GELUErf x times the normal distribution
// function; SwiGLU is silu(gate) * up.
const (
	Linear  Epilogue = ""
	GELU    Epilogue = "gelu"
	GELUErf Epilogue = "gelu_erf"
	SwiGLU  Epilogue = "swiglu"
)

// epilogue is a row of the table of epilogues.
type epilogue struct {
	name Epilogue
	// gated ones multiply an activation of one column of sums, the gate, by another
	// one, the up: panels of 32 columns hold 16 of each, and half as many columns are
	// stored as are multiplied.
	gated bool
	// forward and backward are the elementwise operations that compute the same, and
	// its derivative.
	forward, backward VecOp
}

var epilogues = []epilogue{
	{Linear, false, noOp, noOp},
	{GELU, false, OpGELU, OpGELUBackward},
	{GELUErf, false, OpGELUErf, OpGELUErfBackward},
	{SwiGLU, true, OpSwiGLU, OpSwiGLUBackward},
}

// row is an epilogue's row.
func (e Epilogue) row() *epilogue {
	for i := range epilogues {
		if epilogues[i].name == e {
			return &epilogues[i]
		}
	}
	panic("kernel: unknown epilogue " + string(e))
}

// Epilogues lists them.
func Epilogues() (names []Epilogue) {
	for _, e := range epilogues {
		names = append(names, e.name)
	}
	return names
}

// Gated reports whether two columns of sums make one result: a gate and an up.
func (e Epilogue) Gated() bool { return e.row().gated }

// Ops are the elementwise operations that compute an activation, and its
// derivative.
func (e Epilogue) Ops() (forward, backward VecOp) { return e.row().forward, e.row().backward }
