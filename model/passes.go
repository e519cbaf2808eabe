package model

import (
	"time"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/spec"
)

// passes runs the elementwise steps of a model over the rows of one call, for
// one caller. The closures that the pool runs are made once, so that a pass
// allocates nothing.
type passes struct {
	t *Model
	// positions is each row's place in its sequence.
	positions []int

	// The pass at work: m rows of its operands.
	m       int
	n       *norm
	y, x    []float32
	dx      []float32
	partial []float32
	s       stats
	ids     []int32
	rope    func(x, cos, sin []float32, heads, stride, half int)

	runNorm, runNormBackward, runRotate, runEmbed func(worker, i int)
	rotateForward, rotateBack                     func(x, cos, sin []float32, heads, stride, half int)
}

func (t *Model) newPasses() *passes {
	p := &passes{t: t, rotateForward: t.vec.RoPE, rotateBack: t.vec.RoPEBackward}
	p.runNorm, p.runNormBackward, p.runRotate, p.runEmbed = p.normStep, p.normBackwardStep, p.rotateStep, p.embedStep
	return p
}

const rowChunk = plan.PassRows

// run calls step for each chunk of m rows.
func (p *passes) run(m int, step func(worker, i int)) {
	p.m = m
	p.t.opt.Pool.Run(rowChunks(m), step)
}

func rowChunks(m int) int { return (m + rowChunk - 1) / rowChunk }

// rows are those of chunk i.
func (p *passes) rows(i int) (r0, r1 int) { return i * rowChunk, min(p.m, (i+1)*rowChunk) }

// norm computes y = n(x), and s for the backward pass.
func (p *passes) norm(n *norm, y, x []float32, s stats, m int) {
	defer p.t.prof.since(&p.t.prof.Norm, time.Now())
	p.n, p.y, p.x, p.s = n, y, x, s
	p.run(m, p.runNorm)
}

func (p *passes) normStep(_, i int) {
	r0, r1 := p.rows(i)
	p.n.forward(p.t.vec, p.y, p.x, p.s, r0, r1)
}

// normBackward adds the norm's gradient to dx, and to its parameters' g the
// sums of chunks of rows, in order. partial is scratch for two rows of each
// chunk.
func (p *passes) normBackward(n *norm, g normWeights, dx, dy, x []float32, s stats, m int, partial []float32, accumulate bool) {
	defer p.t.prof.since(&p.t.prof.Norm, time.Now())
	p.n, p.dx, p.y, p.x, p.s, p.partial = n, dx, dy, x, s, partial
	p.run(m, p.runNormBackward)
	for j, g := range [2][]float32{g.w, g.b} {
		if g == nil {
			continue
		}
		if !accumulate {
			clear(g)
		}
		p.t.vec.ColSum(g, partial[j*n.h:], rowChunks(m), n.h, 2*n.h)
	}
}

func (p *passes) normBackwardStep(_, i int) {
	r0, r1 := p.rows(i)
	h := p.n.h
	part := p.partial[i*2*h:][:2*h]
	clear(part)
	p.n.backward(p.t.vec, p.dx, part[:h], part[h:], p.y, p.x, p.s, r0, r1)
}

// rotate turns the queries and keys of rows of qkv to their positions, or back.
func (p *passes) rotate(qkv []float32, m int, back bool) {
	if p.t.Spec.Position != spec.RoPE {
		return
	}
	defer p.t.prof.since(&p.t.prof.RoPE, time.Now())
	p.x, p.rope = qkv, p.rotateForward
	if back {
		p.rope = p.rotateBack
	}
	p.run(m, p.runRotate)
}

func (p *passes) rotateStep(_, i int) {
	r0, r1 := p.rows(i)
	t, hd := p.t, p.t.Spec.HeadDim()
	heads, half, width := t.Spec.QHeads+t.Spec.KVHeads, hd/2, (t.Spec.QHeads+2*t.Spec.KVHeads)*hd
	for r := r0; r < r1; r++ {
		at := p.positions[r] * half
		p.rope(p.x[r*width:], t.cos[at:at+half], t.sin[at:at+half], heads, hd, half)
	}
}

// embed sums the embeddings of tokens and, where they are learned, positions.
func (p *passes) embed(x []float32, ids []int32) {
	defer p.t.prof.since(&p.t.prof.Embedding, time.Now())
	p.x, p.ids = x, ids
	p.run(len(ids), p.runEmbed)
}

func (p *passes) embedStep(_, i int) {
	r0, r1 := p.rows(i)
	h, w := p.t.Spec.Hidden, p.t.Params
	for r := r0; r < r1; r++ {
		row := p.x[r*h : (r+1)*h]
		copy(row, w.wte[int(p.ids[r])*h:])
		if w.wpe != nil {
			p.t.vec.Add(row, w.wpe[p.positions[r]*h:][:h])
		}
	}
}
