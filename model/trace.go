package model

import (
	"fmt"

	"github.com/structuredffn/sffn/gen/plan"
	rt "github.com/structuredffn/sffn/runtime"
)

// Trace holds the activations of one micro-batch: what the backward pass
// needs, and scratch. It belongs to one caller.
type Trace struct {
	// Need, where not nil, is called before a pass reads the parameters of a part, and
	// Done once a backward pass has finished the gradients of one.
	Need, Done func(part int)

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
	pass      *Pass
	drop      dropper
	logits    []float32
	losses    []float64
	dfinal    []float32
	dstream   []float32 // gradient of the residual stream
	dnorm     []float32 // of a norm's output
	dqkv      []float32
	dattn     []float32
	partial   []float32 // per chunk of rows: dw and db of a norm, or what those of heads need

	// The micro-batch at work, and the steps that the pool runs: closures made once,
	// with their operands.
	batch, seq           int
	head                 headStep
	embeds               embedGradient
	attend               func(layer int) error
	runLosses, runEmbeds func(worker, i int)
}

// layerTrace is what the backward pass needs of a layer.
type layerTrace struct {
	Activations
	attnSums []float32
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
	tr := &Trace{m: t, rows: rows, recompute: recompute, pass: t.NewPass(), losses: make([]float64, rows)}
	tr.pass.Positions = make([]int, rows)
	tr.attend, tr.runLosses, tr.runEmbeds = tr.attention, tr.lossStep, tr.embedGradientStep
	f := tr.arena.Floats
	for i, l := range t.layers {
		if recompute && i > 0 {
			c := tr.layers[0]
			c.X, c.savedFFN = f(rows*h), tr.savedLike(i)
			tr.layers = append(tr.layers, c)
			continue
		}
		tr.layers = append(tr.layers, layerTrace{Activations{
			X: f(rows * h), Norm1: f(rows * h), QKV: f(rows * qkv), Attn: f(rows * s.AttnDim), Mid: f(rows * h), Norm2: f(rows * h),
			stats1: newStats(rows), stats2: newStats(rows), heads: f(t.headsKept(rows)), headRoots: t.headRoots(rows),
			savedQKV: l.qkv.NewSaved(rows), savedOut: l.out.NewSaved(rows), savedFFN: l.ffn.NewSaved(rows),
		}, f(2 * rows * s.QHeads)})
	}
	tr.out, tr.final, tr.fstats = f(rows*h), f(rows*h), newStats(rows)
	tr.logits = f(min(rows, plan.HeadRows) * s.Vocab)
	if t.opt.Train {
		tr.dfinal, tr.dstream, tr.dnorm = f(rows*h), f(rows*h), f(rows*h)
		tr.dqkv, tr.dattn = f(rows*qkv), f(rows*s.AttnDim)
		tr.partial = f(rowChunks(rows) * max(2*h, t.headsPart()))
	}
	return tr
}

// savedLike is what an earlier layer whose network has layer i's shape saves in,
// or new room: the layers of a model have two shapes at most.
func (tr *Trace) savedLike(i int) *rt.Saved {
	f := tr.m.layers[i].ffn
	for j := range i {
		if tr.m.layers[j].ffn.Spec() == f.Spec() {
			return tr.layers[j].savedFFN
		}
	}
	return f.NewSaved(tr.rows)
}

// Close frees the trace.
func (tr *Trace) Close() {
	for _, l := range tr.layers {
		l.savedQKV.Close()
		l.savedOut.Close()
		l.savedFFN.Close()
	}
	tr.pass.Close()
	tr.arena.Close()
}

// Profile is the model's, with what this trace's calls spent on activations
// and softmax.
func (tr *Trace) Profile() Profile {
	p := *tr.m.prof
	p.Activation, p.Softmax = tr.pass.Workspace.Elementwise(), tr.pass.Attention.Elementwise()
	return p
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
	rows := len(ids)
	switch {
	case batch < 1 || rows == 0 || rows%batch != 0:
		return 0, fmt.Errorf("model: %d tokens are no batch of %d sequences", rows, batch)
	case rows > tr.rows:
		return 0, fmt.Errorf("model: %d tokens, the trace has room for %d", rows, tr.rows)
	case targets != nil && len(targets) != rows:
		return 0, fmt.Errorf("model: %d targets for %d tokens", len(targets), rows)
	case rows/batch > tr.m.Spec.MaxPositions:
		return 0, fmt.Errorf("model: sequences of %d tokens, the model takes %d", rows/batch, tr.m.Spec.MaxPositions)
	}
	if err := tr.m.CheckTokens(ids); err != nil {
		return 0, fmt.Errorf("model: input %w", err)
	}
	if err := CheckTargets(targets, tr.m.Spec.Vocab); err != nil {
		return 0, fmt.Errorf("model: %w", err)
	}
	return rows / batch, nil
}

// forward computes everything up to the last norm.
func (tr *Trace) forward(ids []int32, batch, seq int) {
	tr.batch, tr.seq = batch, seq
	for r := range ids {
		tr.pass.Positions[r] = r % seq
	}
	x := tr.out
	if len(tr.layers) > 0 {
		x = tr.layers[0].X
	}
	tr.need(0)
	tr.pass.Embed(x, ids)
	tr.pass.dropRows(x, x, nil, dropEmbedding, len(ids))
	for i := range tr.layers {
		tr.need(1 + i)
		next := tr.out
		if i+1 < len(tr.layers) {
			next = tr.layers[i+1].X
		}
		tr.layerForward(next, i)
	}
	tr.need(1 + len(tr.layers))
	tr.pass.norm(&tr.m.norm, tr.final, tr.out, tr.fstats, len(ids))
}

func (tr *Trace) need(part int) {
	if tr.Need != nil {
		tr.Need(part)
	}
}

func (tr *Trace) done(part int) {
	if tr.Done != nil {
		tr.Done(part)
	}
}

// layerForward runs layer i, as [Pass.Layer] does.
func (tr *Trace) layerForward(next []float32, i int) {
	// Attention over whole sequences does not fail.
	_ = tr.pass.Layer(next, i, tr.m.layers[i].ffn, &tr.layers[i].Activations, tr.batch*tr.seq, tr.attend)
}

// attention is that of layer i, over whole sequences.
func (tr *Trace) attention(i int) error {
	c := &tr.layers[i]
	tr.m.layers[i].attn.Forward(c.Attn, c.attnSums, c.QKV, tr.batch, tr.seq, tr.pass.Attention)
	return nil
}

// Logits runs the model on batch sequences and writes [len(ids), vocab].
func (tr *Trace) Logits(logits []float32, ids []int32, batch int) error {
	seq, err := tr.check(ids, nil, batch)
	if err != nil {
		return err
	}
	tr.forward(ids, batch, seq)
	tr.pass.Head(logits, tr.final, len(ids))
	return nil
}

// EachLogits runs the model on one sequence and calls emit with the logits after
// its tokens, in order: a few rows [rows, vocab] at a time, valid until emit
// returns.
func (tr *Trace) EachLogits(ids []int32, emit func(logits []float32) error) error {
	if _, err := tr.check(ids, nil, 1); err != nil {
		return err
	}
	tr.forward(ids, 1, len(ids))
	h := tr.m.Spec.Hidden
	for r := 0; r < len(ids); r += plan.HeadRows {
		n := min(plan.HeadRows, len(ids)-r)
		tr.pass.Head(tr.logits, tr.final[r*h:], n)
		if err := emit(tr.logits[:n*tr.m.Spec.Vocab]); err != nil {
			return err
		}
	}
	return nil
}
