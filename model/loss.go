package model

import (
	"fmt"
	"math"
	"time"

	"github.com/structuredffn/sffn/gen/plan"
	rt "github.com/structuredffn/sffn/runtime"
)

// Trace holds the activations of one micro-batch: what the backward pass
// needs, and scratch. It belongs to one caller.
type Trace struct {
	m    *Model
	rows int
	// recompute says that the layers share one set of activations, all but
	// their inputs, which the backward pass computes again.
	recompute bool
	arena     rt.Arena
	layers    []layerTrace
	out       []float32 // the residual stream after the last layer
	final     []float32 // ln_f of it
	fstats    stats
	ws        *rt.Workspace
	aws       *rt.AttnWorkspace
	pass      *passes
	logits    []float32
	losses    []float64
	dfinal    []float32
	dstream   []float32 // gradient of the residual stream
	dnorm     []float32 // of a norm's output
	dqkv      []float32
	dattn     []float32
	partial   []float32 // per chunk of rows: dw and db of a norm

	// The steps that the pool runs: closures made once, with their operands.
	head                 headStep
	embeds               embedGradient
	runLosses, runEmbeds func(worker, i int)
}

type layerTrace struct {
	x, ln1, qkv, attn, mid, ln2 []float32
	attnSums                    []float32
	s1, s2                      stats
	qkvSaved, outSaved          *rt.Saved
	ffnSaved                    *rt.Saved
}

// NewTrace returns room for micro-batches of up to rows tokens.
func (t *Model) NewTrace(rows int) *Trace { return t.newTrace(rows, false) }

// NewRecomputingTrace is NewTrace with less memory, for more time: it keeps
// each layer's input only, and the backward pass runs each layer forward again,
// which gives the same bits.
func (t *Model) NewRecomputingTrace(rows int) *Trace { return t.newTrace(rows, true) }

func (t *Model) newTrace(rows int, recompute bool) *Trace {
	s := t.Spec
	h, qkv := s.Hidden, s.QKV().Out
	tr := &Trace{m: t, rows: rows, recompute: recompute, ws: rt.NewWorkspace(t.opt.Pool), pass: t.newPasses(), losses: make([]float64, rows)}
	tr.pass.positions = make([]int, rows)
	tr.runLosses, tr.runEmbeds = tr.lossStep, tr.embedGradientStep
	f := tr.arena.Floats
	for i, l := range t.layers {
		if recompute && i > 0 {
			c := tr.layers[0]
			c.x, c.ffnSaved = f(rows*h), tr.savedLike(i)
			tr.layers = append(tr.layers, c)
			continue
		}
		tr.aws = l.attn.NewWorkspace()
		tr.layers = append(tr.layers, layerTrace{
			x: f(rows * h), ln1: f(rows * h), qkv: f(rows * qkv), attn: f(rows * s.AttnDim), mid: f(rows * h), ln2: f(rows * h),
			attnSums: f(2 * rows * s.QHeads), s1: newStats(rows), s2: newStats(rows),
			qkvSaved: l.qkv.NewSaved(rows), outSaved: l.out.NewSaved(rows), ffnSaved: l.ffn.NewSaved(rows),
		})
	}
	tr.out, tr.final, tr.fstats = f(rows*h), f(rows*h), newStats(rows)
	tr.logits = f(min(rows, plan.HeadRows) * s.Vocab)
	if t.opt.Train {
		tr.dfinal, tr.dstream, tr.dnorm = f(rows*h), f(rows*h), f(rows*h)
		tr.dqkv, tr.dattn = f(rows*qkv), f(rows*s.AttnDim)
		tr.partial = f(rowChunks(rows) * 2 * h)
	}
	return tr
}

// savedLike is what an earlier layer whose network has layer i's shape saves in,
// or new room: the layers of a model have two shapes at most.
func (tr *Trace) savedLike(i int) *rt.Saved {
	f := tr.m.layers[i].ffn
	for j := range i {
		if tr.m.layers[j].ffn.Spec() == f.Spec() {
			return tr.layers[j].ffnSaved
		}
	}
	return f.NewSaved(tr.rows)
}

// Close frees the trace.
func (tr *Trace) Close() {
	for _, l := range tr.layers {
		l.qkvSaved.Close()
		l.outSaved.Close()
		l.ffnSaved.Close()
	}
	tr.ws.Close()
	tr.aws.Close()
	tr.arena.Close()
}

// checkTargets is check for a micro-batch that has a loss.
func (tr *Trace) checkTargets(ids, targets []int32, batch int) (seq int, err error) {
	if targets == nil {
		return 0, fmt.Errorf("model: no targets for %d tokens", len(ids))
	}
	return tr.check(ids, targets, batch)
}

// check validates a micro-batch of batch sequences; targets may be nil.
func (tr *Trace) check(ids, targets []int32, batch int) (seq int, err error) {
	m := len(ids)
	switch {
	case batch < 1 || m == 0 || m%batch != 0:
		return 0, fmt.Errorf("model: %d tokens are no batch of %d sequences", m, batch)
	case m > tr.rows:
		return 0, fmt.Errorf("model: %d tokens, the trace has room for %d", m, tr.rows)
	case targets != nil && len(targets) != m:
		return 0, fmt.Errorf("model: %d targets for %d tokens", len(targets), m)
	case m/batch > tr.m.Spec.MaxPositions:
		return 0, fmt.Errorf("model: sequences of %d tokens, the model takes %d", m/batch, tr.m.Spec.MaxPositions)
	}
	if err := tr.m.CheckTokens(ids); err != nil {
		return 0, fmt.Errorf("model: input %w", err)
	}
	if err := CheckTargets(targets, tr.m.Spec.Vocab); err != nil {
		return 0, fmt.Errorf("model: %w", err)
	}
	return m / batch, nil
}

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

// forward computes everything up to the last norm.
func (tr *Trace) forward(ids []int32, batch, seq int) {
	t, m := tr.m, len(ids)
	for r := range m {
		tr.pass.positions[r] = r % seq
	}
	x := tr.out
	if len(tr.layers) > 0 {
		x = tr.layers[0].x
	}
	tr.pass.embed(x, ids)
	for i := range tr.layers {
		next := tr.out
		if i+1 < len(tr.layers) {
			next = tr.layers[i+1].x
		}
		tr.layerForward(next, i, batch, seq)
	}
	tr.pass.norm(&t.norm, tr.final, tr.out, tr.fstats, m)
}

// layerForward computes layer i of batch sequences into next, or, where that is
// nil, only what the layer's backward pass needs.
func (tr *Trace) layerForward(next []float32, i, batch, seq int) {
	t, m := tr.m, batch*seq
	l, c := &t.layers[i], &tr.layers[i]
	tr.pass.norm(&l.ln1, c.ln1, c.x, c.s1, m)
	start := time.Now()
	l.qkv.Forward(c.qkv, c.ln1, nil, m, c.qkvSaved, tr.ws)
	t.prof.since(&t.prof.Projections, start)
	tr.pass.rotate(c.qkv, m, false)
	start = time.Now()
	l.attn.Forward(c.attn, c.attnSums, c.qkv, batch, seq, tr.aws)
	t.prof.since(&t.prof.Attention, start)
	start = time.Now()
	l.out.Forward(c.mid, c.attn, c.x, m, c.outSaved, tr.ws)
	t.prof.since(&t.prof.Projections, start)
	tr.pass.norm(&l.ln2, c.ln2, c.mid, c.s2, m)
	start = time.Now()
	l.ffn.Forward(next, c.ln2, c.mid, m, c.ffnSaved, tr.ws)
	t.prof.since(&t.prof.FFN, start)
}

// Profile is the model's, with what this trace's calls spent on activations
// and softmax.
func (tr *Trace) Profile() Profile {
	p := *tr.m.prof
	p.Activation, p.Softmax = tr.ws.Elementwise(), tr.aws.Elementwise()
	return p
}

// Logits runs the model on batch sequences and writes [len(ids), vocab].
func (tr *Trace) Logits(logits []float32, ids []int32, batch int) error {
	seq, err := tr.check(ids, nil, batch)
	if err != nil {
		return err
	}
	tr.forward(ids, batch, seq)
	tr.m.head.Forward(logits, tr.final, nil, len(ids), nil, tr.ws)
	return nil
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

// Backward runs the model forward and backward. It returns the mean cross
// entropy, as Loss does, and leaves the gradients of scale times it in grads: added where
// accumulate, overwritten otherwise.
func (tr *Trace) Backward(grads *Params, ids, targets []int32, batch int, scale float64, accumulate bool) (float64, error) {
	seq, err := tr.checkTargets(ids, targets, batch)
	if err != nil {
		return 0, err
	}
	t, m := tr.m, len(ids)
	tr.forward(ids, batch, seq)
	if !accumulate {
		// The sums over rows add to what is there.
		clear(grads.wte)
		clear(grads.wpe)
	}
	loss := tr.crossEntropy(targets, grads, scale, accumulate)
	dx := tr.dstream[:m*t.Spec.Hidden]
	clear(dx)
	tr.pass.normBackward(&t.norm, grads.final, dx, tr.dfinal, tr.out, tr.fstats, m, tr.partial, accumulate)
	for i := len(tr.layers) - 1; i >= 0; i-- {
		if tr.recompute && i+1 < len(tr.layers) { // the last one's are still there
			tr.layerForward(nil, i, batch, seq)
		}
		tr.layerBackward(&grads.layers[i], dx, i, batch, seq, accumulate)
	}
	tr.embedBackward(grads, dx, ids)
	return loss, nil
}

// layerBackward adds layer i's gradient to dx, the residual stream's, and
// leaves that of its parameters in g.
func (tr *Trace) layerBackward(g *layerWeights, dx []float32, i, batch, seq int, accumulate bool) {
	t, m := tr.m, batch*seq
	l, c := &t.layers[i], &tr.layers[i]
	start := time.Now()
	l.ffn.Backward(tr.dnorm, g.ffn, dx, c.ln2, m, c.ffnSaved, accumulate, tr.ws)
	t.prof.since(&t.prof.FFN, start)
	tr.pass.normBackward(&l.ln2, g.ln2, dx, tr.dnorm, c.mid, c.s2, m, tr.partial, accumulate)
	start = time.Now()
	l.out.Backward(tr.dattn, g.out, dx, c.attn, m, c.outSaved, accumulate, tr.ws)
	t.prof.since(&t.prof.Projections, start)
	start = time.Now()
	l.attn.Backward(tr.dqkv, tr.dattn, c.attn, c.attnSums, c.qkv, batch, seq, tr.aws)
	t.prof.since(&t.prof.Attention, start)
	tr.pass.rotate(tr.dqkv, m, true)
	start = time.Now()
	l.qkv.Backward(tr.dnorm, g.qkv, tr.dqkv, c.ln1, m, c.qkvSaved, accumulate, tr.ws)
	t.prof.since(&t.prof.Projections, start)
	tr.pass.normBackward(&l.ln1, g.ln1, dx, tr.dnorm, c.x, c.s1, m, tr.partial, accumulate)
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
	t, m := tr.m, len(targets)
	h, counted := t.Spec.Hidden, float64(max(1, Counted(targets)))
	for r := 0; r < m; r += plan.HeadRows {
		n := min(plan.HeadRows, m-r)
		x := tr.final[r*h : (r+n)*h]
		start := time.Now()
		t.head.Forward(tr.logits, x, nil, n, nil, tr.ws)
		t.prof.since(&t.prof.Head, start)
		start = time.Now()
		tr.head = headStep{targets[r : r+n], tr.losses[r : r+n], grads != nil, scale / counted}
		t.opt.Pool.Run((n+plan.HeadRowsStep-1)/plan.HeadRowsStep, tr.runLosses)
		t.prof.since(&t.prof.CrossEntropy, start)
		if grads == nil {
			continue
		}
		start = time.Now()
		// A tied head adds to the embedding's gradient, which is clear.
		add := accumulate || r > 0
		t.head.Backward(tr.dfinal[r*h:(r+n)*h], grads.head, tr.logits, x, n, noSaved, add, tr.ws)
		t.prof.since(&t.prof.Head, start)
	}
	sum := 0.0
	for _, l := range tr.losses[:m] {
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

// embedGradient holds the operands of the embedding's gradient.
type embedGradient struct {
	grads *Params
	dx    []float32
	ids   []int32
}

// embedBackward adds the rows of dx to their tokens' and positions' gradients,
// in order; units are stretches of columns.
func (tr *Trace) embedBackward(grads *Params, dx []float32, ids []int32) {
	defer tr.m.prof.since(&tr.m.prof.Embedding, time.Now())
	tr.embeds = embedGradient{grads, dx, ids}
	tr.m.opt.Pool.Run((tr.m.Spec.Hidden+plan.EmbedColumns-1)/plan.EmbedColumns, tr.runEmbeds)
}

func (tr *Trace) embedGradientStep(_, i int) {
	t, h, s := tr.m, tr.m.Spec.Hidden, &tr.embeds
	c0, c1 := i*plan.EmbedColumns, min(h, (i+1)*plan.EmbedColumns)
	for r, id := range s.ids {
		row := s.dx[r*h+c0 : r*h+c1]
		t.vec.Add(s.grads.wte[int(id)*h+c0:int(id)*h+c1], row)
		if s.grads.wpe != nil {
			p := tr.pass.positions[r] * h
			t.vec.Add(s.grads.wpe[p+c0:p+c1], row)
		}
	}
}
