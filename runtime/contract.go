package runtime

import (
	"fmt"

	"github.com/structuredffn/sffn/runtime/contract"
)

// checkForward checks the operands of a forward pass.
func checkForward(layer string, in, out int, y, x, residual []float32, m int) {
	contract.Rows(layer, "x", x, m, in)
	contract.Rows(layer, "y", y, m, out)
	contract.Apart(layer, contract.Operand{Name: "y", Data: y[:m*out]}, contract.Operand{Name: "x", Data: x[:m*in]})
	if residual != nil {
		contract.Rows(layer, "residual", residual, m, out)
		checkResidual(layer, y[:m*out], residual[:m*out])
	}
}

// checkBackward checks the operands of a backward pass; dx may be nil.
func checkBackward(layer string, in, out int, dx, dy []float32, m int) {
	contract.Rows(layer, "dy", dy, m, out)
	if dx != nil {
		contract.Rows(layer, "dx", dx, m, in)
		contract.Apart(layer, contract.Operand{Name: "dx", Data: dx[:m*in]}, contract.Operand{Name: "dy", Data: dy[:m*out]})
	}
}

// checkResidual checks that y is the residual or shares no memory with it.
func checkResidual(layer string, y, residual []float32) {
	if len(y) > 0 && len(residual) > 0 && &y[0] != &residual[0] && contract.Overlap(y, residual) {
		panic(fmt.Sprintf("runtime: %s: y lies in the memory of residual at another place; it may be residual itself, or a buffer of its own", layer))
	}
}

// checkPacked checks that the packs are those of the weights.
func (l *layer) checkPacked() {
	if l.stale {
		panic("runtime: " + l.name + ": the weights changed since they were packed; call Repack after each optimizer step")
	}
}

func (l *layer) checkTrain() {
	if !l.opt.Train {
		panic("runtime: " + l.name + ": the backward pass needs a layer made with Options.Train")
	}
}

func (l *layer) checkGradients(g Weights) {
	l.checkTrain()
	if err := l.checkWeights(g); err != nil {
		panic("gradients of " + err.Error())
	}
}

// checkGradientsApart checks that no gradient lies in what is read.
func (l *layer) checkGradientsApart(g Weights, dy, x []float32) {
	for i, f := range g.Factors {
		l.checkGradientApart(l.plan.Factors[i].Param, f, dy, x)
	}
	l.checkGradientApart("bias", g.Bias, dy, x)
	l.checkGradientApart("guide", g.Guide, dy, x)
}

func (l *layer) checkGradientApart(param string, g, dy, x []float32) {
	in := ""
	switch {
	case contract.Overlap(g, dy):
		in = "dy"
	case contract.Overlap(g, x):
		in = "x"
	case contract.Overlap(g, l.weights.Bias), contract.Overlap(g, l.weights.Guide):
		in = "the weights"
	}
	for _, f := range l.weights.Factors {
		if contract.Overlap(g, f) {
			in = "the weights"
		}
	}
	if in != "" {
		panic(fmt.Sprintf("runtime: %s: the gradient of %s lies in the memory of %s; give it a buffer of its own", l.name, param, in))
	}
}

// half is the first half of a backward pass, whose results in a workspace the
// second half takes up.
type half struct {
	layer *layer // of a network the first one
	saved *Saved
	fills uint64 // of saved
	m     int
	// dy and dx are the first half's operands.
	dy, dx []float32
}

// checkHalf checks that the workspace is as the first half of this backward
// pass left it, and x and dy as they were then.
func (w *Workspace) checkHalf(l *layer, saved *Saved, m int, dy, x []float32) {
	w.check(l.name)
	h := w.half
	switch {
	case h.layer == nil:
		panic("runtime: " + l.name + ": BackwardWeights takes up what BackwardData left in the workspace, which another call has used since (or none before)")
	case h.layer != l || h.saved != saved || h.fills != saved.fills || h.m != m || &h.dy[0] != &dy[0]:
		panic(fmt.Sprintf("runtime: %s: BackwardWeights of %d rows must follow the BackwardData of the same layer, rows, dy and saved, which no forward pass has filled since; the workspace holds that of %s, %d rows", l.name, m, h.layer.name, h.m))
	}
	l.checkDX(h.dx, x, m)
}

// checkDX checks that the gradient of m rows of x lies elsewhere.
func (l *layer) checkDX(dx, x []float32, m int) {
	in := l.plan.Spec.In
	contract.Apart(l.name, contract.Operand{Name: "dx", Data: dx[:min(len(dx), m*in)]}, contract.Operand{Name: "x", Data: x[:m*in]})
}

// check gives a missing workspace words.
func (w *Workspace) check(layer string) {
	if w == nil {
		panic("runtime: " + layer + ": the workspace is nil; NewWorkspace makes one")
	}
}
