package model

import (
	"time"

	"github.com/structuredffn/sffn/gen/plan"
)

// Backward runs the model forward and backward. It returns the mean cross
// entropy, as Loss does, and leaves the gradients of scale times it in grads: added where
// accumulate, overwritten otherwise. Both leave out what SetDropout says.
func (tr *Trace) Backward(grads *Params, ids, targets []int32, batch int, scale float64, accumulate bool) (float64, error) {
	seq, err := tr.checkTargets(ids, targets, batch)
	if err != nil {
		return 0, err
	}
	t, rows := tr.m, len(ids)
	tr.pass.drop = tr.drop
	defer func() { tr.pass.drop = dropper{} }()
	tr.forward(ids, batch, seq)
	if !accumulate {
		// The sums over rows add to what is there.
		clear(grads.wte)
		clear(grads.wpe)
	}
	loss := tr.crossEntropy(targets, grads, scale, accumulate)
	dx := tr.dstream[:rows*t.Spec.Hidden]
	clear(dx)
	tr.pass.normBackward(&t.norm, grads.final, dx, tr.dfinal, tr.out, tr.fstats, rows, tr.partial, accumulate)
	tr.done(1 + len(tr.layers))
	for i := len(tr.layers) - 1; i >= 0; i-- {
		if tr.recompute && i+1 < len(tr.layers) { // the last one's are still there
			tr.layerForward(nil, i)
		}
		tr.layerBackward(&grads.layers[i], dx, i, accumulate)
		tr.done(1 + i)
	}
	tr.pass.dropRows(dx, dx, nil, dropEmbedding, rows)
	tr.embedBackward(grads, dx, ids)
	tr.done(0)
	return loss, nil
}

// layerBackward adds layer i's gradient to dx, the residual stream's, and
// leaves that of its parameters in g.
func (tr *Trace) layerBackward(g *layerWeights, dx []float32, i int, accumulate bool) {
	t, rows := tr.m, tr.batch*tr.seq
	l, c := &t.layers[i], &tr.layers[i]
	dy := tr.dropGradient(dx, dropFFN(i))
	start := time.Now()
	l.ffn.Backward(tr.dnorm, g.ffn, dy, c.Norm2, rows, c.savedFFN, accumulate, tr.pass.Workspace)
	t.prof.since(&t.prof.FFN, start)
	tr.pass.normBackward(&l.ln2, g.ln2, dx, tr.dnorm, c.Mid, c.stats2, rows, tr.partial, accumulate)
	dy = tr.dropGradient(dx, dropAttention(i))
	start = time.Now()
	l.out.Backward(tr.dattn, g.out, dy, c.Attn, rows, c.savedOut, accumulate, tr.pass.Workspace)
	t.prof.since(&t.prof.Projections, start)
	start = time.Now()
	l.attn.Backward(tr.dqkv, tr.dattn, c.Attn, c.attnSums, c.QKV, tr.batch, tr.seq, tr.pass.Attention)
	t.prof.since(&t.prof.Attention, start)
	tr.pass.rotate(tr.dqkv, rows, true)
	tr.pass.normHeadsBackward(l, g, tr.dqkv, &c.Activations, rows, tr.partial, accumulate)
	start = time.Now()
	l.qkv.Backward(tr.dnorm, g.qkv, tr.dqkv, c.Norm1, rows, c.savedQKV, accumulate, tr.pass.Workspace)
	t.prof.since(&t.prof.Projections, start)
	tr.pass.normBackward(&l.ln1, g.ln1, dx, tr.dnorm, c.X, c.stats1, rows, tr.partial, accumulate)
}

// normBackward adds the norm's gradient to dx, and to its parameters' g the
// sums of chunks of rows, in order. partial is scratch for two rows of each
// chunk.
func (p *Pass) normBackward(n *norm, g normWeights, dx, dy, x []float32, s stats, rows int, partial []float32, accumulate bool) {
	defer p.t.prof.since(&p.t.prof.Norm, time.Now())
	p.n, p.dx, p.y, p.x, p.s, p.partial = n, dx, dy, x, s, partial
	p.run(rows, p.runNormBackward)
	for j, g := range [2][]float32{g.w, g.b} {
		if g == nil {
			continue
		}
		if !accumulate {
			clear(g)
		}
		p.t.vec.ColSum(g, partial[j*n.h:], rowChunks(rows), n.h, 2*n.h)
	}
}

func (p *Pass) normBackwardStep(_, i int) {
	r0, r1 := p.chunk(i)
	h := p.n.h
	part := p.partial[i*2*h:][:2*h]
	clear(part)
	p.n.backward(p.t.vec, p.dx, part[:h], part[h:], p.y, p.x, p.s, r0, r1)
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
			p := tr.pass.Positions[r] * h
			t.vec.Add(s.grads.wpe[p+c0:p+c1], row)
		}
	}
}
