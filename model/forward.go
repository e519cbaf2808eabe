package model

import (
	"time"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/spec"
	rt "github.com/structuredffn/sffn/runtime"
)

// Pass is the forward pass of a model, step by step, for one caller: training
// and decoding run the same steps, and differ in what attention looks at.
type Pass struct {
	// Positions is each row's place in its sequence.
	Positions []int
	// Workspace and Attention are scratch of the layers.
	Workspace *rt.Workspace
	Attention *rt.AttnWorkspace

	t *Model
	// The elementwise step at work: so many rows of its operands.
	rows    int
	n       *norm
	y, x    []float32
	dx      []float32
	partial []float32
	s       stats
	ids     []int32
	rope    func(x, cos, sin []float32, heads, stride, half int)
	l       *layer
	a       *Activations
	// drop is on while a backward pass needs what the forward pass computes.
	drop    dropper
	dropped dropped

	// What the pool runs: closures made once, so that a pass allocates nothing.
	runNorm, runNormBackward, runRotate, runEmbed func(worker, i int)
	runHeads, runHeadsBackward, runDrop           func(worker, i int)
	rotateForward, rotateBack                     func(x, cos, sin []float32, heads, stride, half int)
}

// NewPass returns a forward pass with its scratch.
func (t *Model) NewPass() *Pass {
	p := &Pass{t: t, Workspace: rt.NewWorkspace(t.opt.Pool), rotateForward: t.vec.RoPE, rotateBack: t.vec.RoPEBackward}
	if len(t.layers) > 0 {
		p.Attention = t.layers[0].attn.NewWorkspace()
	}
	p.runNorm, p.runNormBackward, p.runRotate, p.runEmbed = p.normStep, p.normBackwardStep, p.rotateStep, p.embedStep
	p.runHeads, p.runHeadsBackward, p.runDrop = p.headsStep, p.headsBackwardStep, p.dropStep
	return p
}

// Close frees the scratch.
func (p *Pass) Close() {
	p.Workspace.Close()
	if p.Attention != nil {
		p.Attention.Close()
	}
}

// Activations are what one layer computes of some rows: its input, what the
// first norm makes of it, queries, keys and values, what attention gives, the
// residual stream in the middle of the layer, and what the second norm makes of
// that. The backward pass reads all of them, the norms' statistics and what the linears
// have saved.
type Activations struct {
	X, Norm1, QKV, Attn, Mid, Norm2 []float32
	// heads are the queries and keys before their norms, [rows, QHeads+KVHeads, head
	// size], and headRoots one entry a head; nil where there are no such norms, and heads
	// where no backward pass follows.
	heads, headRoots []float32

	stats1, stats2               stats
	savedQKV, savedOut, savedFFN *rt.Saved
}

// stats are what a norm's backward pass needs: one entry a row.
type stats struct{ mean, rstd []float32 }

func newStats(rows int) stats { return stats{make([]float32, rows), make([]float32, rows)} }

// NewActivations returns room in an arena for layers that no backward pass
// follows: the stream goes on in place, and both norms have one result.
func (t *Model) NewActivations(arena *rt.Arena, rows int) *Activations {
	f, s := arena.Floats, t.Spec
	stream, norm, both := f(rows*s.Hidden), f(rows*s.Hidden), newStats(rows)
	return &Activations{X: stream, Norm1: norm, QKV: f(rows * s.QKV().Out), Attn: f(rows * s.AttnDim), Mid: stream, Norm2: norm, stats1: both, stats2: both, headRoots: t.headRoots(rows)}
}

// Layer runs layer i on so many rows of a.X, with that feed-forward network, into next;
// where that is nil, only what the layer's backward pass needs is computed. attend
// computes a.Attn from a.QKV.
func (p *Pass) Layer(next []float32, i int, ffn *rt.FFN, a *Activations, rows int, attend func(i int) error) error {
	if err := p.Mix(i, a, rows, attend); err != nil {
		return err
	}
	start := time.Now()
	ffn.Forward(next, a.Norm2, p.residual(a.Mid), rows, a.savedFFN, p.Workspace)
	p.t.prof.since(&p.t.prof.FFN, start)
	if next != nil {
		p.dropRows(next, next, a.Mid, dropFFN(i), rows)
	}
	return nil
}

// Mix is the first half of Layer: attention, up to the norm before the feed-forward
// network, whose result is a.Norm2.
func (p *Pass) Mix(i int, a *Activations, rows int, attend func(i int) error) error {
	t := p.t
	l := &t.layers[i]
	p.norm(&l.ln1, a.Norm1, a.X, a.stats1, rows)
	start := time.Now()
	l.qkv.Forward(a.QKV, a.Norm1, nil, rows, a.savedQKV, p.Workspace)
	t.prof.since(&t.prof.Projections, start)
	p.normHeads(l, a, rows)
	p.rotate(a.QKV, rows, false)
	start = time.Now()
	if err := attend(i); err != nil {
		return err
	}
	t.prof.since(&t.prof.Attention, start)
	start = time.Now()
	l.out.Forward(a.Mid, a.Attn, p.residual(a.X), rows, a.savedOut, p.Workspace)
	t.prof.since(&t.prof.Projections, start)
	p.dropRows(a.Mid, a.Mid, a.X, dropAttention(i), rows)
	p.norm(&l.ln2, a.Norm2, a.Mid, a.stats2, rows)
	return nil
}

// Final runs the last norm on so many rows of the stream a.X.
func (p *Pass) Final(y []float32, a *Activations, rows int) {
	p.norm(&p.t.norm, y, a.X, a.stats1, rows)
}

// Head computes the logits [rows, vocab] of rows that the last norm gave.
func (p *Pass) Head(logits, x []float32, rows int) {
	defer p.t.prof.since(&p.t.prof.Head, time.Now())
	p.t.head.Forward(logits, x, nil, rows, nil, p.Workspace)
}

const rowChunk = plan.PassRows

// run calls step for each chunk of so many rows.
func (p *Pass) run(rows int, step func(worker, i int)) {
	p.rows = rows
	p.t.opt.Pool.Run(rowChunks(rows), step)
}

func rowChunks(rows int) int { return (rows + rowChunk - 1) / rowChunk }

// chunk is the rows of chunk i.
func (p *Pass) chunk(i int) (r0, r1 int) { return i * rowChunk, min(p.rows, (i+1)*rowChunk) }

// norm computes y = n(x), and s for the backward pass.
func (p *Pass) norm(n *norm, y, x []float32, s stats, rows int) {
	defer p.t.prof.since(&p.t.prof.Norm, time.Now())
	p.n, p.y, p.x, p.s = n, y, x, s
	p.run(rows, p.runNorm)
}

func (p *Pass) normStep(_, i int) {
	r0, r1 := p.chunk(i)
	p.n.forward(p.t.vec, p.y, p.x, p.s, r0, r1)
}

// rotate turns the queries and keys of rows of qkv to their positions, or back.
func (p *Pass) rotate(qkv []float32, rows int, back bool) {
	if p.t.Spec.Position != spec.RoPE {
		return
	}
	defer p.t.prof.since(&p.t.prof.RoPE, time.Now())
	p.x, p.rope = qkv, p.rotateForward
	if back {
		p.rope = p.rotateBack
	}
	p.run(rows, p.runRotate)
}

func (p *Pass) rotateStep(_, i int) {
	r0, r1 := p.chunk(i)
	t, hd := p.t, p.t.Spec.HeadDim()
	heads, half, width := t.Spec.QHeads+t.Spec.KVHeads, hd/2, (t.Spec.QHeads+2*t.Spec.KVHeads)*hd
	for r := r0; r < r1; r++ {
		at := p.Positions[r] * half
		p.rope(p.x[r*width:], t.cos[at:at+half], t.sin[at:at+half], heads, hd, half)
	}
}

// Embed sums the embeddings of tokens and, where they are learned, positions.
func (p *Pass) Embed(x []float32, ids []int32) {
	defer p.t.prof.since(&p.t.prof.Embedding, time.Now())
	p.x, p.ids = x, ids
	p.run(len(ids), p.runEmbed)
}

func (p *Pass) embedStep(_, i int) {
	r0, r1 := p.chunk(i)
	h, w := p.t.Spec.Hidden, p.t.kept
	for r := r0; r < r1; r++ {
		row := p.x[r*h : (r+1)*h]
		copy(row, w.wte[int(p.ids[r])*h:])
		if w.wpe != nil {
			p.t.vec.Add(row, w.wpe[p.Positions[r]*h:][:h])
		}
	}
}
