package model

import (
	"fmt"
	"math"

	"github.com/structuredffn/sffn/gen/spec"
	rt "github.com/structuredffn/sffn/runtime"
)

// Trace holds the activations of one micro-batch: what the backward pass
// needs, and scratch. It belongs to one caller.
type Trace struct {
	m       *Model
	rows    int
	arena   rt.Arena
	layers  []layerTrace
	out     []float32 // the residual stream after the last layer
	final   []float32 // ln_f of it
	fstats  stats
	ws      *rt.Workspace
	aws     *rt.AttnWorkspace
	logits  []float32
	losses  []float64
	dfinal  []float32
	dstream []float32 // gradient of the residual stream
	dnorm   []float32 // of a norm's output
	dqkv    []float32
	dattn   []float32
	partial []float32 // per chunk of rows: dw and db of a norm
}

type layerTrace struct {
	x, ln1, qkv, attn, mid, ln2 []float32
	lse                         []float32
	s1, s2                      stats
	qkvSaved, outSaved          *rt.Saved
	ffnSaved                    *rt.Saved
}

// headRows bounds the logits that exist at one time.
const headRows = 256

// NewTrace returns room for micro-batches of up to rows tokens.
func (t *Model) NewTrace(rows int) *Trace {
	s := t.Spec
	h, qkv := s.Hidden, s.QKV().Out
	tr := &Trace{m: t, rows: rows, ws: rt.NewWorkspace(t.opt.Pool), losses: make([]float64, rows)}
	f := tr.arena.Floats
	for _, l := range t.layers {
		tr.aws = l.attn.NewWorkspace()
		tr.layers = append(tr.layers, layerTrace{
			x: f(rows * h), ln1: f(rows * h), qkv: f(rows * qkv), attn: f(rows * s.AttnDim), mid: f(rows * h), ln2: f(rows * h),
			lse: f(rows * s.QHeads), s1: newStats(rows), s2: newStats(rows),
			qkvSaved: l.qkv.NewSaved(rows), outSaved: l.out.NewSaved(rows), ffnSaved: l.ffn.NewSaved(rows),
		})
	}
	tr.out, tr.final, tr.fstats = f(rows*h), f(rows*h), newStats(rows)
	tr.logits = f(min(rows, headRows) * s.Vocab)
	if t.opt.Train {
		tr.dfinal, tr.dstream, tr.dnorm = f(rows*h), f(rows*h), f(rows*h)
		tr.dqkv, tr.dattn = f(rows*qkv), f(rows*s.AttnDim)
		tr.partial = f((rows + rowChunk - 1) / rowChunk * 2 * h)
	}
	return tr
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

// check validates a micro-batch of batch sequences.
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
	if err := tr.m.CheckTokens(targets); err != nil {
		return 0, fmt.Errorf("model: target %w", err)
	}
	return m / batch, nil
}

// forward computes everything up to the last norm.
func (tr *Trace) forward(ids []int32, batch, seq int) {
	t, m := tr.m, len(ids)
	pos := func(r int) int { return r % seq }
	x := tr.out
	if len(tr.layers) > 0 {
		x = tr.layers[0].x
	}
	t.embed(x, ids, pos)
	for i := range tr.layers {
		l, c := &t.layers[i], &tr.layers[i]
		next := tr.out
		if i+1 < len(tr.layers) {
			next = tr.layers[i+1].x
		}
		t.normForward(&l.ln1, c.ln1, c.x, c.s1, m)
		stop := t.prof.track(&t.prof.Projections)
		l.qkv.Forward(c.qkv, c.ln1, nil, m, c.qkvSaved, tr.ws)
		stop()
		t.rotate(c.qkv, m, pos, false)
		stop = t.prof.track(&t.prof.Attention)
		l.attn.Forward(c.attn, c.lse, c.qkv, batch, seq, tr.aws)
		stop()
		stop = t.prof.track(&t.prof.Projections)
		l.out.Forward(c.mid, c.attn, c.x, m, c.outSaved, tr.ws)
		stop()
		t.normForward(&l.ln2, c.ln2, c.mid, c.s2, m)
		stop = t.prof.track(&t.prof.FFN)
		l.ffn.Forward(next, c.ln2, c.mid, m, c.ffnSaved, tr.ws)
		stop()
	}
	t.normForward(&t.norm, tr.final, tr.out, tr.fstats, m)
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
// sequences of equal length.
func (tr *Trace) Loss(ids, targets []int32, batch int) (float64, error) {
	seq, err := tr.check(ids, targets, batch)
	if err != nil {
		return 0, err
	}
	tr.forward(ids, batch, seq)
	return tr.crossEntropy(targets, nil, 0, false), nil
}

// Backward runs the model forward and backward. It returns the mean cross
// entropy and leaves the gradients of scale times it in grads: added where
// accumulate, overwritten otherwise.
func (tr *Trace) Backward(grads *Params, ids, targets []int32, batch int, scale float64, accumulate bool) (float64, error) {
	seq, err := tr.check(ids, targets, batch)
	if err != nil {
		return 0, err
	}
	t, m := tr.m, len(ids)
	tr.forward(ids, batch, seq)
	if !accumulate {
		// The sums over rows add to what is there.
		clear(grads.Get("model.wte.weight"))
		clear(grads.Get("model.wpe.weight"))
	}
	loss := tr.crossEntropy(targets, grads, scale, accumulate)
	dx := tr.dstream[:m*t.Spec.Hidden]
	clear(dx)
	tr.normBackward(&t.norm, grads, dx, tr.dfinal, tr.out, tr.fstats, m, accumulate)
	for i := len(tr.layers) - 1; i >= 0; i-- {
		l, c := &t.layers[i], &tr.layers[i]
		name := LayerName(i)
		stop := t.prof.track(&t.prof.FFN)
		l.ffn.Backward(tr.dnorm, grads.ffn(i), dx, c.ln2, m, c.ffnSaved, accumulate, tr.ws)
		stop()
		tr.normBackward(&l.ln2, grads, dx, tr.dnorm, c.mid, c.s2, m, accumulate)
		stop = t.prof.track(&t.prof.Projections)
		l.out.Backward(tr.dattn, grads.linear(name+".o_linear", t.Spec.Output()), dx, c.attn, m, c.outSaved, accumulate, tr.ws)
		stop()
		stop = t.prof.track(&t.prof.Attention)
		l.attn.Backward(tr.dqkv, tr.dattn, c.attn, c.lse, c.qkv, batch, seq, tr.aws)
		stop()
		t.rotate(tr.dqkv, m, func(r int) int { return r % seq }, true)
		stop = t.prof.track(&t.prof.Projections)
		l.qkv.Backward(tr.dnorm, grads.linear(name+".qkv_linear", t.Spec.QKV()), tr.dqkv, c.ln1, m, c.qkvSaved, accumulate, tr.ws)
		stop()
		tr.normBackward(&l.ln1, grads, dx, tr.dnorm, c.x, c.s1, m, accumulate)
	}
	tr.embedBackward(grads, dx, ids, seq)
	return loss, nil
}

// crossEntropy runs the head on headRows rows at a time. With grads it also
// fills dfinal and the head's gradient.
func (tr *Trace) crossEntropy(targets []int32, grads *Params, scale float64, accumulate bool) float64 {
	t, m := tr.m, len(targets)
	h, v := t.Spec.Hidden, t.Spec.Vocab
	for r := 0; r < m; r += headRows {
		n := min(headRows, m-r)
		x := tr.final[r*h : (r+n)*h]
		stop := t.prof.track(&t.prof.Head)
		t.head.Forward(tr.logits, x, nil, n, nil, tr.ws)
		stop()
		stop = t.prof.track(&t.prof.CrossEntropy)
		t.opt.Pool.Run((n+7)/8, func(_, i int) {
			for j := 8 * i; j < min(n, 8*i+8); j++ {
				row := tr.logits[j*v : (j+1)*v]
				tr.losses[r+j] = t.rowLoss(row, int(targets[r+j]), grads != nil, scale/float64(m))
			}
		})
		stop()
		if grads == nil {
			continue
		}
		stop = t.prof.track(&t.prof.Head)
		// A tied head adds to the embedding's gradient, which is clear.
		add := accumulate || r > 0
		t.head.Backward(tr.dfinal[r*h:(r+n)*h], grads.head(), tr.logits, x, n, noSaved, add, tr.ws)
		stop()
	}
	sum := 0.0
	for _, l := range tr.losses[:m] {
		sum += l
	}
	return sum / float64(m)
}

// noSaved serves the head, a single factor, which saves nothing.
var noSaved = rt.NoIntermediates()

// rowLoss is the cross entropy of one row of logits; with grad, the row is
// replaced by its gradient times scale: softmax minus one at the target.
func (t *Model) rowLoss(row []float32, target int, grad bool, scale float64) float64 {
	logit := float64(row[target])
	top := t.vec.Max(row)
	sum := t.vec.ExpSum(row, row, 1, top)
	if grad {
		t.vec.Scale(row, float32(scale/float64(sum)))
		row[target] -= float32(scale)
	}
	return float64(top) + math.Log(float64(sum)) - logit
}

// normBackward adds the norm's gradient to dx, and to its parameters' the
// sums of chunks of rows, in order.
func (tr *Trace) normBackward(n *norm, grads *Params, dx, dy, x []float32, s stats, m int, accumulate bool) {
	t := tr.m
	defer t.prof.track(&t.prof.Norm)()
	chunks := (m + rowChunk - 1) / rowChunk
	part := tr.partial[:chunks*2*n.h]
	t.rows(m, func(i, r0, r1 int) {
		p := part[i*2*n.h:][:2*n.h]
		clear(p)
		n.backward(t.vec, dx, p[:n.h], p[n.h:], dy, x, s, r0, r1)
	})
	for j, g := range [][]float32{grads.Get(n.name + ".weight"), grads.Get(n.name + ".bias")} {
		if g == nil {
			continue
		}
		if !accumulate {
			clear(g)
		}
		t.vec.ColSum(g, part[j*n.h:], chunks, n.h, 2*n.h)
	}
}

// embedColumns is the width of a unit of the embedding's gradient.
const embedColumns = 64

// embedBackward adds the rows of dx to their tokens' and positions' gradients,
// in order; units are stretches of columns.
func (tr *Trace) embedBackward(grads *Params, dx []float32, ids []int32, seq int) {
	t, h := tr.m, tr.m.Spec.Hidden
	defer t.prof.track(&t.prof.Embedding)()
	wte, wpe := grads.Get("model.wte.weight"), grads.Get("model.wpe.weight")
	t.opt.Pool.Run((h+embedColumns-1)/embedColumns, func(_, i int) {
		c0, c1 := i*embedColumns, min(h, (i+1)*embedColumns)
		for r, id := range ids {
			row := dx[r*h+c0 : r*h+c1]
			t.vec.Add(wte[int(id)*h+c0:int(id)*h+c1], row)
			if t.Spec.Position == spec.Absolute {
				p := r % seq * h
				t.vec.Add(wpe[p+c0:p+c1], row)
			}
		}
	})
}
