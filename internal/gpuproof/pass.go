package gpuproof

import (
	"math"

	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// norm tries a norm on rows of so many tokens, forward or backward.
func norm(t *trial, tokens int) {
	p := *t.Shape.Norm
	t.counts[table.Tokens] = tokens
	h := p.Hidden
	// stored is the place of entry i of a row of y.
	stored := func(i int) int { return i%p.Blocks*(h/p.Blocks) + i/p.Blocks }
	w := t.draw("w", 1)
	// s is what is normed: the rows, with a mean that is not 0, and in forward the
	// sublayer's output, as float32.
	name := "x"
	if p.Backward {
		name = "s"
	}
	s := t.draw(name, 2)
	for i := range s.len() {
		s.set(i, s.at(i)+0.5)
	}
	if p.Add && !p.Backward {
		y, x := t.draw("y", 1), s
		s = newValues(table.ArrayFloat32, x.len())
		for i := range s.len() {
			s.set(i, x.at(i)+y.at(i/h*h+stored(i%h)))
		}
	}
	eps := 1e-5
	if !p.Backward {
		if t.choose() {
			eps = 0.5 // which shows beside any variance
		}
		t.numbers["eps"] = math.Float32bits(float32(eps))
	}
	mean, rstd := make([]float64, tokens), make([]float64, tokens)
	for r := range tokens {
		for i := range h {
			mean[r] += s.at(r*h+i) / float64(h)
		}
		if p.RMS {
			mean[r] = 0
		}
		dev := 0.0
		for i := range h {
			d := s.at(r*h+i) - mean[r]
			dev += d * d / float64(h)
		}
		rstd[r] = 1 / math.Sqrt(dev+eps)
	}
	e := float64(h+16) * ulp32 // of sums over a row
	if !p.Backward {
		normForward(t, p, w, s, mean, rstd, e)
		return
	}
	normBackward(t, p, w, s, mean, rstd, e, stored)
}

func normForward(t *trial, p table.Norm, w, s values, mean, rstd []float64, e float64) {
	h := p.Hidden
	var b values
	if !p.RMS {
		b = t.draw("b", 1)
	}
	t.left["stats"] = !t.choose()
	out, sums, stats := t.array("out"), 0, t.array("stats")
	if p.Add {
		sums = t.array("s")
	}
	t.points = s.len()
	t.wants = func() func(int, wanted) {
		return func(at int, want wanted) {
			r, i := at/h, at%h
			if i == 0 && !t.left["stats"] {
				n := r * p.Stats()
				if !p.RMS {
					want(stats, n, mean[r], 2*e)
					n++
				}
				want(stats, n, rstd[r], 2*e*rstd[r])
			}
			if p.Add {
				want(sums, at, s.at(at), 0)
			}
			n, bias := (s.at(at)-mean[r])*rstd[r], 0.0
			if !p.RMS {
				bias = b.at(i)
			}
			v := n*w.at(i) + bias
			want(out, at, v, t.out[out].within(v, 2*e*((1+math.Abs(n))*math.Abs(w.at(i))+math.Abs(bias))))
		}
	}
	t.sample = func(add func(int)) { // where rows begin
		for r := range mean {
			add(r * h)
		}
	}
}

func normBackward(t *trial, p table.Norm, w, s values, mean, rstd []float64, e float64, stored func(int) int) {
	tokens, h := len(mean), p.Hidden
	dout, dx := t.draw("dout", 1), values{}
	if t.choose() {
		dx = t.draw("dx", 1)
	}
	t.fill("stats", func(i int) float64 {
		switch r := i / p.Stats(); {
		case i%p.Stats() == p.Stats()-1:
			return rstd[r]
		default:
			return mean[r]
		}
	})
	// Means of a row's g and g*n, and what float32 may lose in them; size bounds n,
	// in units of float32's rounding.
	n := func(r, i int) (n, size float64) {
		v := s.at(r*h + i)
		return (v - mean[r]) * rstd[r], (math.Abs(v) + math.Abs(mean[r])) * rstd[r]
	}
	mg, mgn, absG, absGN := make([]float64, tokens), make([]float64, tokens), make([]float64, tokens), make([]float64, tokens)
	for r := range tokens {
		for i := range h {
			n, size := n(r, i)
			g := dout.at(r*h+i) * w.at(i)
			mgn[r] += g * n / float64(h)
			absGN[r] += math.Abs(g) * size / float64(h)
			if !p.RMS {
				mg[r] += g / float64(h)
				absG[r] += math.Abs(g) / float64(h)
			}
		}
	}
	ds, dy, sums := t.array("ds"), 0, t.array("sums")
	if p.Add {
		dy = t.array("dy")
	}
	rows := tokens * h
	t.points = rows + t.Params[sums].Len.In(t.counts)
	t.wants = func() func(int, wanted) {
		return func(at int, want wanted) {
			if at >= rows { // a sum over the rows of a part
				at -= rows
				i, v, abs := at%p.Width(), 0.0, 0.0
				for r := at / p.Width() * p.Rows; r < min(tokens, (at/p.Width()+1)*p.Rows); r++ {
					d, f, size := dout.at(r*h+i%h), 1.0, 1.0
					if i < h {
						f, size = n(r, i)
					}
					v += d * f
					abs += math.Abs(d) * size
				}
				want(sums, at, v, float64(p.Rows+4)*ulp32*abs)
				return
			}
			r, i := at/h, at%h
			n, size := n(r, i)
			g, past := dout.at(at)*w.at(i), 0.0
			if dx.data != nil {
				past = dx.at(at)
			}
			v := past + rstd[r]*(g-mg[r]-n*mgn[r])
			tol := e * (math.Abs(past) + rstd[r]*(math.Abs(g)+absG[r]+size*absGN[r]))
			want(ds, at, v, tol)
			if p.Add {
				want(dy, r*h+stored(i), v, t.out[dy].within(v, tol))
			}
		}
	}
	t.sample = func(add func(int)) {
		for r := range tokens {
			add(r*h + t.rng.IntN(h))
		}
	}
}

// embed tries the embeddings of so many tokens, or their gradients. Both are sums
// in a fixed order: the same float32.
func embed(t *trial, tokens int) {
	p := *t.Shape.Embed
	h := p.Hidden
	t.counts[table.Tokens] = tokens
	if !p.Backward {
		ids, table := t.fill("ids", func(int) float64 { return float64(t.rng.IntN(p.Vocab)) }), t.draw("table", 1)
		var positions, places values
		if p.Positions > 0 {
			positions, places = t.fill("positions", func(int) float64 { return float64(t.rng.IntN(p.Positions)) }), t.draw("places", 1)
		}
		t.each("x", func(i int) (float64, float64) {
			v := table.at(int(ids.at(i/h))*h + i%h)
			if p.Positions > 0 {
				v = float64(float32(v) + float32(places.at(int(positions.at(i/h))*h+i%h)))
			}
			return v, 0
		})
		return
	}
	rows := 1 + tokens/2 // some tokens come more than once, and some rows have none
	t.counts[table.TableRows] = rows
	of := make([][]int, rows) // the tokens of each row
	for token := range tokens {
		row := t.rng.IntN(rows)
		of[row] = append(of[row], token)
	}
	var order, starts []int
	for _, tokens := range of {
		starts = append(starts, len(order))
		order = append(order, tokens...)
	}
	starts = append(starts, len(order))
	t.fill("order", func(i int) float64 { return float64(order[i]) })
	t.fill("starts", func(i int) float64 { return float64(starts[i]) })
	dx, there, accumulate := t.draw("dx", 1), t.draw("grad", 1), t.choose()
	t.numbers["accumulate"] = flag(accumulate)
	t.stays["grad"] = func(i int) bool { return accumulate && len(of[i/h]) == 0 }
	t.each("grad", func(i int) (float64, float64) {
		v := float32(0)
		if accumulate {
			v = float32(there.at(i))
		}
		for _, token := range of[i/h] {
			v += float32(dx.at(token*h + i%h))
		}
		return float64(v), 0
	})
}

// rotate tries the rotation of queries and keys of so many tokens, in place or
// into a cache of several sequences.
func rotate(t *trial, tokens int) {
	p := *t.Shape.Rotate
	const positions, capacity = 50, 61
	seqs := 1 + tokens/positions
	t.counts[table.Tokens], t.counts[table.Positions], t.counts[table.Slots] = tokens, positions, seqs*capacity
	hd, half, w := p.HeadDim, p.HeadDim/2, p.Width()
	at := func(token int) (seq, pos int) { return token % seqs, token / seqs % positions }
	token := make([]int, seqs*capacity) // 1 + the token of a slot of the cache
	for i := range tokens {
		seq, pos := at(i)
		token[seq*capacity+pos] = i + 1
	}
	qkv := t.draw("qkv", 1)
	t.fill("positions", func(i int) float64 { _, pos := at(i); return float64(pos) })
	sign := 1.0
	var cos, sin values
	if p.Turn {
		if !t.choose() {
			sign = -1
		}
		cos, sin = t.draw("cos", 1), t.draw("sin", 1)
		t.numbers["sign"] = math.Float32bits(float32(sign))
	}
	// turned is an entry of a head of a token that is rotated, as it is stored.
	turned := func(token, head, i int) (v, tol float64) {
		_, pos := at(token)
		x, y := qkv.at(token*w+head*hd+i), qkv.at(token*w+head*hd+(i+half)%hd)
		co, si := cos.at(pos*half+i%half), sign*sin.at(pos*half+i%half)
		if i < half {
			si = -si
		}
		v = x*co + y*si
		e := 3 * ulp32 * (math.Abs(x*co) + math.Abs(y*si))
		return v, e + (math.Abs(v)+e)*roundoff
	}
	last := p.Heads + p.KVHeads // of the heads that are turned
	type part struct {
		array, n int
		want     func(i int) (v, tol float64)
	}
	var parts []part
	if p.Turn {
		stays := func(i int) bool { head := i % w / hd; return head >= last || head >= p.Heads && p.Cache }
		t.stays["qkv"] = stays
		parts = append(parts, part{t.array("qkv"), qkv.len(), func(i int) (float64, float64) {
			if stays(i) {
				return qkv.at(i), 0
			}
			return turned(i/w, i%w/hd, i%hd)
		}})
	}
	if p.Cache {
		t.numbers["capacity"] = capacity
		t.fill("seqs", func(i int) float64 { seq, _ := at(i); return float64(seq) })
		for n, name := range []string{"keys", "values"} {
			there := t.draw(name, 1)
			t.stays[name] = func(i int) bool { slot := i / hd; return token[slot/capacity/p.KVHeads*capacity+slot%capacity] == 0 }
			parts = append(parts, part{t.array(name), there.len(), func(i int) (float64, float64) {
				slot, head := i/hd, 0 // [sequence, head, position]
				seq, pos := slot/capacity/p.KVHeads, slot%capacity
				head = p.Heads + n*p.KVHeads + slot/capacity%p.KVHeads
				from := token[seq*capacity+pos] - 1
				switch {
				case from < 0:
					return there.at(i), 0
				case p.Turn && head < last:
					return turned(from, head, i%hd)
				}
				return qkv.at(from*w + head*hd + i%hd), 0
			}})
		}
	}
	for _, p := range parts {
		t.points += p.n
	}
	t.wants = func() func(int, wanted) {
		return func(i int, want wanted) {
			for _, p := range parts {
				if i < p.n {
					v, tol := p.want(i)
					want(p.array, i, v, tol)
					return
				}
				i -= p.n
			}
		}
	}
}

// loss tries the cross entropy of so many rows.
func loss(t *trial, tokens int) {
	p := *t.Shape.Loss
	const scale = 0.125
	t.counts[table.Tokens] = tokens
	gradient := t.choose()
	if !gradient {
		t.stays["logits"] = func(int) bool { return true }
	}
	t.numbers["scale"], t.numbers["gradient"] = math.Float32bits(scale), flag(gradient)
	logits := t.draw("logits", 3)
	for r := range tokens {
		for i := p.Vocab; i < p.Pitch; i++ {
			logits.set(r*p.Pitch+i, 1000) // padding, which nobody may look at
		}
	}
	targets := t.fill("targets", func(r int) float64 {
		if r%5 == 3 {
			return -1
		}
		return float64(t.rng.IntN(p.Vocab))
	})
	losses, grads := t.array("losses"), t.array("logits")
	t.points = logits.len()
	t.wants = func() func(int, wanted) {
		// Of the last row that was asked for.
		row, top, sum, span := -1, 0.0, 0.0, 0.0
		return func(at int, want wanted) {
			r, i := at/p.Pitch, at%p.Pitch
			if r != row {
				row, top, sum, span = r, math.Inf(-1), 0, 0
				for j := range p.Vocab {
					v := logits.at(r*p.Pitch + j)
					top, span = max(top, v), max(span, math.Abs(v))
				}
				for j := range p.Vocab {
					sum += math.Exp(logits.at(r*p.Pitch+j) - top)
				}
			}
			target := int(targets.at(r))
			// A power of two is off by 2^-22 and by the rounding of its exponent, twice
			// where the maximum moves; a thread's sum has its columns and the block's.
			e := 8.0/(1<<22) + 8*span*ulp32 + float64(p.Pitch/t.Threads+64)*ulp32
			v := 0.0
			if target >= 0 {
				v = top + math.Log(sum) - logits.at(r*p.Pitch+target)
			}
			want(losses, r, v, e+8*ulp32*span)
			tol := 0.0
			switch v = 0; {
			case !gradient:
				v = logits.at(at)
			case target >= 0 && i < p.Vocab:
				v = math.Exp(logits.at(at)-top) / sum * scale
				tol = 2 * e * v
				if i == target {
					v -= scale
					tol += 2 * ulp32 * scale
				}
				tol = t.out[grads].within(v, tol)
			}
			want(grads, at, v, tol)
		}
	}
	t.sample = func(add func(int)) { // targets, of the last row and of some others
		const most = 256
		for r := tokens - 1; r >= 0; r -= max(1, tokens/most) {
			if target := int(targets.at(r)); target >= 0 {
				add(r*p.Pitch + target)
			}
		}
	}
}
