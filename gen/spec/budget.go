package spec

// Guide says how a run is self-guided (paper, section 5): dense guides are
// mixed into the structured layers for the first part of the steps.
type Guide struct {
	// MaxStepRatio is the guided share of the planned steps.
	MaxStepRatio float64
	// FixedFLOP appends as many steps as were guided.
	FixedFLOP bool
	// Reduce skips guides at random, in half of the guided steps on average.
	Reduce bool
}

// Budget is a training run given by its tokens, or by its Steps where these are
// not 0: steps of Batch sequences of Seq tokens. Guide is nil where nothing is
// guided.
type Budget struct {
	Tokens     int64
	Steps      int
	Batch, Seq int
	Guide      *Guide
}

// Course is what a budget comes to.
type Course struct {
	// Steps is the number of all optimizer steps, of which Guided are guided
	// and Repeated see data a second time.
	Steps, Guided, Repeated int
	// FLOPs is the cost of all steps, a backward pass counted as two forward
	// passes.
	FLOPs float64
}

// GuideParams counts the weights of the dense guides of all structured layers.
func (m Model) GuideParams() int64 {
	n := int64(0)
	for i := range m.Layers {
		if f := m.LayerFFN(i); f.Kind != Dense {
			n += int64(f.FC1().In)*int64(f.FC1().Out) + int64(f.FC2().In)*int64(f.FC2().Out)
		}
	}
	return n
}

// Course computes the steps and the cost of training the model on a budget.
func (m Model) Course(b Budget) Course {
	m.Guided = false // guides are counted by their phase
	c := Course{Steps: b.Steps}
	if c.Steps == 0 {
		c.Steps = int(b.Tokens / int64(b.Batch) / int64(b.Seq))
	}
	guides := 0.0 // guided steps' worth of guides
	if g := b.Guide; g != nil {
		c.Guided = int(float64(c.Steps) * g.MaxStepRatio)
		if g.FixedFLOP {
			c.Repeated = c.Guided
			c.Steps += c.Guided
		}
		guides = float64(c.Guided)
		if g.Reduce {
			guides /= 2
		}
	}
	guide := 2 * float64(b.Batch) * float64(b.Seq) * float64(m.GuideParams())
	c.FLOPs = 3 * (float64(c.Steps)*m.ForwardFLOPs(b.Batch, b.Seq) + guides*guide)
	return c
}
