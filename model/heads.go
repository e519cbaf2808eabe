package model

import "time"

// The norms of queries and keys: an RMS norm of each head, before it is rotated.

// heads is the number of heads that are normed, of one row.
func (t *Model) heads() int { return t.Spec.QHeads + t.Spec.KVHeads }

// headRoots is room for the roots of the heads' norms, of models that have them.
func (t *Model) headRoots(rows int) []float32 {
	if !t.Spec.QKNorm {
		return nil
	}
	return make([]float32, rows*t.heads())
}

// headsKept is how much of rows the backward pass of the heads' norms needs.
func (t *Model) headsKept(rows int) int {
	if !t.Spec.QKNorm {
		return 0
	}
	return rows * t.heads() * t.Spec.HeadDim()
}

// normHeads norms the queries and keys of rows of a.QKV in place.
func (p *Pass) normHeads(l *layer, a *Activations, rows int) {
	if !p.t.Spec.QKNorm {
		return
	}
	defer p.t.prof.since(&p.t.prof.Norm, time.Now())
	p.l, p.a = l, a
	p.run(rows, p.runHeads)
}

func (p *Pass) headsStep(_, i int) {
	r0, r1 := p.chunk(i)
	s, v, l := p.t.Spec, p.t.vec, p.l
	n := p.t.heads()
	width, q, all := s.QKV().Out, s.QHeads*s.HeadDim(), n*s.HeadDim()
	for r := r0; r < r1; r++ {
		y, roots := p.a.QKV[r*width:][:all], p.a.headRoots[r*n:][:n]
		x := y
		if len(p.a.heads) > 0 {
			x = p.a.heads[r*all:][:all]
			copy(x, y)
		}
		v.RMSNorm(y[:q], roots[:s.QHeads], x[:q], l.qnorm.w, l.qnorm.zero, s.QHeads, l.qnorm.h, l.qnorm.eps)
		v.RMSNorm(y[q:], roots[s.QHeads:], x[q:], l.knorm.w, l.knorm.zero, s.KVHeads, l.knorm.h, l.knorm.eps)
	}
}

// headsPart is the scratch of a chunk of rows in the backward pass of the heads'
// norms: the sums of both weights' gradients, one that RMS norms have no use for, and
// a row's gradients of the norms' results.
func (t *Model) headsPart() int {
	if !t.Spec.QKNorm {
		return 0
	}
	return (3 + t.heads()) * t.Spec.HeadDim()
}

// normHeadsBackward turns the gradients of normed queries and keys, rows of dqkv, into
// those of what the norms got, and adds up the gradients of the norms' weights.
func (p *Pass) normHeadsBackward(l *layer, g *layerWeights, dqkv []float32, a *Activations, rows int, partial []float32, accumulate bool) {
	if !p.t.Spec.QKNorm {
		return
	}
	defer p.t.prof.since(&p.t.prof.Norm, time.Now())
	p.l, p.a, p.dx, p.partial = l, a, dqkv, partial
	p.run(rows, p.runHeadsBackward)
	for j, dw := range [2][]float32{g.qnorm.w, g.knorm.w} {
		if !accumulate {
			clear(dw)
		}
		p.t.vec.ColSum(dw, partial[j*l.qnorm.h:], rowChunks(rows), l.qnorm.h, p.t.headsPart())
	}
}

func (p *Pass) headsBackwardStep(_, i int) {
	r0, r1 := p.chunk(i)
	s, v, l := p.t.Spec, p.t.vec, p.l
	n, h := p.t.heads(), s.HeadDim()
	width, q, all := s.QKV().Out, s.QHeads*h, n*h
	part := p.partial[i*p.t.headsPart():][:p.t.headsPart()]
	clear(part[:3*h])
	dwq, dwk, unused, dy := part[:h], part[h:2*h], part[2*h:3*h], part[3*h:]
	for r := r0; r < r1; r++ {
		dx, x, roots := p.dx[r*width:][:all], p.a.heads[r*all:][:all], p.a.headRoots[r*n:][:n]
		copy(dy, dx)
		clear(dx)
		v.RMSNormBackward(dx[:q], dwq, unused, dy[:q], x[:q], l.qnorm.w, roots[:s.QHeads], s.QHeads, h)
		v.RMSNormBackward(dx[q:], dwk, unused, dy[q:], x[q:], l.knorm.w, roots[s.QHeads:], s.KVHeads, h)
	}
}
