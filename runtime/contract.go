package runtime

import (
	"fmt"
	"unsafe"

	"github.com/structuredffn/sffn/runtime/kernel"
)

// What callers owe the layers, checked where it is cheap. A breach is a mistake
// in the program, which would otherwise give wrong numbers or overwrite memory:
// it panics with the layer's name and what would be right.

// checkRows checks an operand of m rows.
func checkRows(layer, name string, x []float32, m, width int) {
	if m < 0 || len(x) < m*width {
		panic(fmt.Sprintf("runtime: %s: %s has %d entries, want [%d, %d] = %d", layer, name, len(x), m, width, m*width))
	}
}

// operand is a buffer by the name that the documentation gives it; only the
// entries that the call uses.
type operand struct {
	name string
	data []float32
}

// checkApart checks that a result shares no memory with what the call still
// reads when it stores the first of it.
func checkApart(layer string, result operand, sources ...operand) {
	for _, s := range sources {
		if overlap(result.data, s.data) {
			panic(fmt.Sprintf("runtime: %s: %s lies in the memory of %s, which is still read; give it a buffer of its own", layer, result.name, s.name))
		}
	}
}

// checkForward checks the operands of a forward pass.
func checkForward(layer string, in, out int, y, x, residual []float32, m int) {
	checkRows(layer, "x", x, m, in)
	checkRows(layer, "y", y, m, out)
	checkApart(layer, operand{"y", y[:m*out]}, operand{"x", x[:m*in]})
	if residual != nil {
		checkRows(layer, "residual", residual, m, out)
		checkResidual(layer, y[:m*out], residual[:m*out])
	}
}

// checkBackward checks the operands of a backward pass; dx may be nil.
func checkBackward(layer string, in, out int, dx, dy []float32, m int) {
	checkRows(layer, "dy", dy, m, out)
	if dx != nil {
		checkRows(layer, "dx", dx, m, in)
		checkApart(layer, operand{"dx", dx[:m*in]}, operand{"dy", dy[:m*out]})
	}
}

// checkResidual checks that y is the residual or shares no memory with it.
func checkResidual(layer string, y, residual []float32) {
	if len(y) > 0 && len(residual) > 0 && &y[0] != &residual[0] && overlap(y, residual) {
		panic(fmt.Sprintf("runtime: %s: y lies in the memory of residual at another place; it may be residual itself, or a buffer of its own", layer))
	}
}

func overlap(a, b []float32) bool {
	if len(a) == 0 || len(b) == 0 {
		return false
	}
	first := func(x []float32) uintptr { return uintptr(unsafe.Pointer(&x[0])) }
	end := func(x []float32) uintptr { return first(x) + uintptr(kernel.EntryBytes*len(x)) }
	return first(a) < end(b) && first(b) < end(a)
}

// checkBatch checks the shape of a batch and the workspace, and returns the
// number of its rows.
func (a *Attention) checkBatch(batch, seq int, ws *AttnWorkspace) int {
	if batch < 0 || seq < 0 {
		panic(fmt.Sprintf("runtime: %s: a batch of %d sequences of %d", a.name, batch, seq))
	}
	a.checkWorkspace(ws)
	return batch * seq
}

func (a *Attention) checkWorkspace(ws *AttnWorkspace) {
	switch {
	case ws == nil:
		panic("runtime: " + a.name + ": the workspace is nil; NewWorkspace makes one")
	case ws.cols != a.cols || ws.pool != a.opt.Pool:
		panic("runtime: " + a.name + ": the workspace was made by an attention with heads of another size, or on another pool")
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
	case overlap(g, dy):
		in = "dy"
	case overlap(g, x):
		in = "x"
	case overlap(g, l.weights.Bias), overlap(g, l.weights.Guide):
		in = "the weights"
	}
	for _, f := range l.weights.Factors {
		if overlap(g, f) {
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
	in := l.plan.Spec.In
	checkApart(l.name, operand{"dx", h.dx[:min(len(h.dx), m*in)]}, operand{"x", x[:m*in]})
}

// check gives a missing workspace words.
func (w *Workspace) check(layer string) {
	if w == nil {
		panic("runtime: " + layer + ": the workspace is nil; NewWorkspace makes one")
	}
}
