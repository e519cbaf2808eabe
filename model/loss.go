package model

import (
	"fmt"
	"math"
	"time"

	"github.com/structuredffn/sffn/gen/plan"
	rt "github.com/structuredffn/sffn/runtime"
)

// Ignored is the target of a position that has none: it adds neither to the
// loss nor to a gradient.
const Ignored = -1

// CheckTargets reports the first target that is neither in a vocabulary of that
// size nor Ignored.
func CheckTargets(targets []int32, vocab int) error {
	for i, w := range targets {
		if w != Ignored && (w < 0 || int(w) >= vocab) {
			return fmt.Errorf("target %d is %d, want 0 to %d, or %d where there is none", i, w, vocab-1, Ignored)
		}
	}
	return nil
}

// Counted is the number of targets that are not Ignored.
func Counted(targets []int32) int {
	n := 0
	for _, w := range targets {
		if w != Ignored {
			n++
		}
	}
	return n
}

// Loss is the mean cross entropy, in nats, of targets after ids: batch
// sequences of equal length. The mean is over the targets that are not Ignored,
// and 0 where all are.
func (tr *Trace) Loss(ids, targets []int32, batch int) (float64, error) {
	seq, err := tr.checkTargets(ids, targets, batch)
	if err != nil {
		return 0, err
	}
	tr.forward(ids, batch, seq)
	return tr.crossEntropy(targets, nil, 0, false), nil
}

// Losses is Loss position by position: losses[i] becomes the cross entropy of
// targets[i], 0 where it is Ignored.
func (tr *Trace) Losses(losses []float64, ids, targets []int32, batch int) error {
	if len(losses) != len(targets) {
		return fmt.Errorf("%d losses of %d targets", len(losses), len(targets))
	}
	if _, err := tr.Loss(ids, targets, batch); err != nil {
		return err
	}
	copy(losses, tr.losses)
	return nil
}

// headStep is a stretch of rows at work in the head: their logits are the
// trace's.
type headStep struct {
	targets []int32
	losses  []float64
	grad    bool
	scale   float64
}

// crossEntropy runs the head on plan.HeadRows rows at a time. With grads it also
// fills dfinal and the head's gradient.
func (tr *Trace) crossEntropy(targets []int32, grads *Params, scale float64, accumulate bool) float64 {
	t, rows := tr.m, len(targets)
	h, counted := t.Spec.Hidden, float64(max(1, Counted(targets)))
	for r := 0; r < rows; r += plan.HeadRows {
		n := min(plan.HeadRows, rows-r)
		x := tr.final[r*h : (r+n)*h]
		tr.pass.Head(tr.logits, x, n)
		start := time.Now()
		tr.head = headStep{targets[r : r+n], tr.losses[r : r+n], grads != nil, scale / counted}
		t.opt.Pool.Run((n+plan.HeadRowsStep-1)/plan.HeadRowsStep, tr.runLosses)
		t.prof.since(&t.prof.CrossEntropy, start)
		if grads == nil {
			continue
		}
		start = time.Now()
		// A tied head adds to the embedding's gradient, which is clear.
		add := accumulate || r > 0
		t.head.Backward(tr.dfinal[r*h:(r+n)*h], grads.head, tr.logits, x, n, noSaved, add, tr.pass.Workspace)
		t.prof.since(&t.prof.Head, start)
	}
	sum := 0.0
	for _, l := range tr.losses[:rows] {
		sum += l
	}
	return sum / counted
}

func (tr *Trace) lossStep(_, i int) {
	s, v := &tr.head, tr.m.Spec.Vocab
	for j := plan.HeadRowsStep * i; j < min(len(s.targets), plan.HeadRowsStep*(i+1)); j++ {
		s.losses[j] = tr.m.rowLoss(tr.logits[j*v:(j+1)*v], int(s.targets[j]), s.grad, s.scale)
	}
}

// noSaved serves the head, a single factor, which saves nothing.
var noSaved = rt.NoIntermediates()

// rowLoss is the cross entropy of one row of logits; with grad, the row is
// replaced by its gradient times scale: softmax minus one at the target.
func (t *Model) rowLoss(row []float32, target int, grad bool, scale float64) float64 {
	if target == Ignored {
		if grad {
			clear(row)
		}
		return 0
	}
	logit := float64(row[target])
	top := t.vec.Max(row)
	sum := t.vec.ExpSum(row, row, 1, top)
	if grad {
		t.vec.Scale(row, float32(scale/float64(sum)))
		row[target] -= float32(scale)
	}
	return float64(top) + math.Log(float64(sum)) - logit
}
