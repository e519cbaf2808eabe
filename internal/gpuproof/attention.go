package gpuproof

import (
	"math"

	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// heads is causal attention as its kernels see it: key and value of a position of
// a sequence, wherever they lie.
type heads struct {
	table.Attention
	scale float64
	seq   int // tokens of the longest sequence
	// query, key and value are the first entry of a head's vector in q, k and v.
	q, k, v        values
	query          func(row, head int) int
	keyAt, valueAt func(sequence, pos, head int) int
	sequence, pos  func(row int) int
}

func (a *heads) dot(x values, i int, y values, j int) float64 { return x.dot(i, y, j, a.HeadDim) }

// score is that of a row's query for a position of its sequence.
func (a *heads) score(row, head, pos int) float64 {
	return a.dot(a.q, a.query(row, head), a.k, a.keyAt(a.sequence(row), pos, head/a.Group())) * a.scale
}

// output is a row of one head in float64, the sum of the absolute values of its
// terms, and the logarithm to base 2 of the sum of the exponentials.
func (a *heads) output(row, head int) (o, abs []float64, lse float64) {
	prob := make([]float64, a.pos(row)+1)
	top, sum := math.Inf(-1), 0.0
	for j := range prob {
		prob[j] = a.score(row, head, j)
		top = max(top, prob[j])
	}
	for j := range prob {
		prob[j] = math.Exp(prob[j] - top)
		sum += prob[j]
	}
	o, abs = make([]float64, a.HeadDim), make([]float64, a.HeadDim)
	for j, p := range prob {
		at := a.valueAt(a.sequence(row), j, head/a.Group())
		for i := range o {
			v := p / sum * a.v.at(at+i)
			o[i] += v
			abs[i] += math.Abs(v)
		}
	}
	return o, abs, (top + math.Log(sum)) / math.Ln2
}

// tolerance of a sum of terms of so much in all: on tensor cores the
// probabilities are rounded to bf16 first, and everywhere powers are off by
// 2^-22 and by the rounding of exponents of up to some dozens; a row's numbers
// come from sums over the head and over the keys.
func (a *heads) tolerance(abs float64) float64 {
	e := float64(a.HeadDim+a.seq*a.Group()+100) * 4 * ulp32
	if !a.Rows {
		e += roundoff
	}
	return e * abs
}

// attention tries sequences of n tokens; those of a cache go on after five.
func attention(t *trial, n int) {
	p := *t.Shape.Attention
	switch {
	case p.Cache:
		cached(t, p, 5, n)
	case p.Pass == table.AttendDelta:
		delta(t, p, n)
	default:
		batch(t, p, n)
	}
}

// keys tries sequences that go on by a row or two that see n keys in all.
func keys(t *trial, n int) {
	rows := min(n, 2)
	cached(t, *t.Shape.Attention, n-rows, rows)
}

func delta(t *trial, p table.Attention, tokens int) {
	t.counts[table.Tokens] = tokens
	do, o := t.draw("do", 1), t.draw("o", 1)
	t.each("delta", func(i int) (v, tol float64) {
		abs := 0.0
		for e := i * p.HeadDim; e < (i+1)*p.HeadDim; e++ {
			v += do.at(e) * o.at(e)
			abs += math.Abs(do.at(e) * o.at(e))
		}
		return v, float64(p.HeadDim+8) * ulp32 * abs
	})
}

// batch tries whole sequences of one length, forward or backward.
func batch(t *trial, p table.Attention, seq int) {
	sequences := 1
	if seq <= 65 {
		sequences = 2
	}
	tokens := sequences * seq
	t.counts[table.Tokens], t.counts[table.Sequences], t.counts[table.SeqLen] = tokens, sequences, seq
	qkv := t.draw("qkv", 1)
	width, hd := p.Width(), p.HeadDim
	a := &heads{Attention: p, scale: float64(float32(1 / math.Sqrt(float64(hd)))), seq: seq, q: qkv, k: qkv, v: qkv,
		query:    func(row, head int) int { return row*width + head*hd },
		keyAt:    func(s, pos, head int) int { return (s*seq+pos)*width + (p.Heads+head)*hd },
		valueAt:  func(s, pos, head int) int { return (s*seq+pos)*width + (p.Heads+p.KVHeads+head)*hd },
		sequence: func(row int) int { return row / seq },
		pos:      func(row int) int { return row % seq },
	}
	t.numbers["scale"] = math.Float32bits(float32(a.scale))
	if p.Pass == table.AttendForward {
		t.left["lse"] = !t.choose()
		forward(t, a, tokens)
		return
	}
	backward(t, a, tokens)
}

// forward compares the rows of heads, and their sums.
func forward(t *trial, a *heads, rows int) {
	o, lse := t.array("o"), -1
	if t.has("lse") {
		lse = t.array("lse")
	}
	t.points = rows * a.Heads
	t.wants = func() func(int, wanted) {
		return func(i int, want wanted) {
			row, head := i/a.Heads, i%a.Heads
			v, abs, sum := a.output(row, head)
			for j := range v {
				want(o, row*a.Out()+head*a.HeadDim+j, v[j], t.out[o].within(v[j], a.tolerance(abs[j])))
			}
			if lse >= 0 {
				want(lse, i, sum, float64(a.HeadDim+a.seq+100)*8*ulp32)
			}
		}
	}
	t.ran = func(i int, only func([3]int) bool) bool { return a.ran(i/a.Heads, i%a.Heads, only) }
	t.sample = func(add func(int)) { // the rows that see the most
		for head := range a.Heads {
			add((rows-1)*a.Heads + head)
		}
		for row := 0; row < rows; row += a.TileRows() {
			add((row+t.rng.IntN(min(a.TileRows(), rows-row)))*a.Heads + t.rng.IntN(a.Heads))
		}
	}
}

// ran reports whether the block of a row of a head runs.
func (a *heads) ran(row, head int, only func([3]int) bool) bool {
	if a.Rows {
		return only([3]int{row, head, 0})
	}
	return only([3]int{a.pos(row) / a.TileRows(), head, a.sequence(row)})
}

// backward compares gradients. The sums that the forward pass leaves, and the sums
// over dO*O, are inputs: about what they are for such rows, so that a kernel's own
// arithmetic is what is compared.
func backward(t *trial, a *heads, rows int) {
	do := t.draw("do", 1)
	lse := t.fill("lse", func(i int) float64 {
		return math.Log2(float64(a.pos(i/a.Heads)+1)) + 0.5/math.Ln2 + 0.3*t.rng.NormFloat64()
	})
	delta, there := t.draw("delta", 1), t.draw("dqkv", 1)
	d, width, hd := t.array("dqkv"), a.Width(), a.HeadDim
	// slope is dS of a query's score for a position, its probability, and what is
	// rounded to bf16 on the way to dS and cancels in it.
	slope := func(row, head, pos int) (ds, p, abs float64) {
		p = math.Exp2(a.score(row, head, pos)/math.Ln2 - lse.at(row*a.Heads+head))
		dp := a.dot(do, row*a.Out()+head*hd, a.v, a.valueAt(a.sequence(row), pos, head/a.Group()))
		sum := delta.at(row*a.Heads + head)
		return p * (dp - sum) * a.scale, p, p * (math.Abs(dp) + math.Abs(sum)) * a.scale
	}
	type vector struct{ v, abs []float64 }
	zero := func() vector { return vector{make([]float64, hd), make([]float64, hd)} }
	add := func(s vector, f, abs float64, x values, at int) {
		for i := range s.v {
			s.v[i] += f * x.at(at+i)
			s.abs[i] += abs * math.Abs(x.at(at+i))
		}
	}
	slots := a.Heads + 2*a.KVHeads
	t.stays["dqkv"] = func(i int) bool { return (i%width/hd < a.Heads) != (a.Pass == table.AttendQueries) }
	t.points = rows * slots
	t.wants = func() func(int, wanted) {
		return func(n int, want wanted) {
			row, slot := n/slots, n%slots
			store := func(slot int, s vector) {
				for i, v := range s.v {
					want(d, row*width+slot*hd+i, v, t.out[d].within(v, a.tolerance(s.abs[i])))
				}
			}
			seq, pos := a.sequence(row), a.pos(row)
			switch query := slot < a.Heads; {
			case query != (a.Pass == table.AttendQueries): // the other kernel's
				for i := range hd {
					want(d, row*width+slot*hd+i, there.at(row*width+slot*hd+i), 0)
				}
			case query:
				dq := zero()
				for j := range pos + 1 {
					ds, _, abs := slope(row, slot, j)
					add(dq, ds, abs, a.k, a.keyAt(seq, j, slot/a.Group()))
				}
				store(slot, dq)
			case slot < a.Heads+a.KVHeads: // and the values'
				head := slot - a.Heads
				dk, dv := zero(), zero()
				for r := row; r < row-pos+a.seq; r++ {
					for h := head * a.Group(); h < (head+1)*a.Group(); h++ {
						ds, p, abs := slope(r, h, pos)
						add(dk, ds, abs, a.q, a.query(r, h))
						add(dv, p, p, do, r*a.Out()+h*hd)
					}
				}
				store(slot, dk)
				store(slot+a.KVHeads, dv)
			}
		}
	}
	t.ran = func(n int, only func([3]int) bool) bool {
		head := n % slots
		if head >= a.Heads {
			head = (head - a.Heads) % a.KVHeads
		}
		return a.ran(n/slots, head, only)
	}
	t.sample = func(add func(int)) { // the ends of the last sequence, which see the most
		for slot := range slots {
			add((rows-1)*slots + slot)
			add((rows-a.seq)*slots + slot)
		}
		for row := 0; row < rows; row += a.TileRows() {
			add((row+t.rng.IntN(min(a.TileRows(), rows-row)))*slots + t.rng.IntN(slots))
		}
	}
}

// cached tries sequences that hold different numbers of tokens already and go on
// by different numbers of rows.
func cached(t *trial, p table.Attention, before, n int) {
	const slots = 3
	seq := before + n
	capacity, hd := seq+7, p.HeadDim
	type span struct{ seq, pos, first, rows int }
	spans := []span{{2, before, 0, n}, {0, seq - 1 - n/3, n, 1 + n/3}}
	rows := n + 1 + n/3
	t.counts[table.Tokens], t.counts[table.Sequences], t.counts[table.SeqLen], t.counts[table.Slots] = rows, len(spans), n, slots*capacity
	of := func(row int) span {
		if row < n {
			return spans[0]
		}
		return spans[1]
	}
	at := func(seq, pos, head int) int { return ((seq*p.KVHeads+head)*capacity + pos) * hd }
	a := &heads{Attention: p, scale: float64(float32(1 / math.Sqrt(float64(hd)))), seq: seq, q: t.draw("qkv", 1), k: t.draw("keys", 1), v: t.draw("values", 1),
		query: func(row, head int) int { return row*p.Width() + head*hd },
		keyAt: at, valueAt: at,
		sequence: func(row int) int { return of(row).seq },
		pos:      func(row int) int { s := of(row); return s.pos + row - s.first },
	}
	t.numbers["scale"], t.numbers["capacity"] = math.Float32bits(float32(a.scale)), uint32(capacity)
	if p.Rows {
		t.fill("positions", func(i int) float64 { return float64(a.pos(i)) })
		t.fill("seqs", func(i int) float64 { return float64(a.sequence(i)) })
	} else {
		t.fill("spans", func(i int) float64 {
			s := spans[i/4]
			return float64([]int{s.seq, s.pos, s.first, s.rows}[i%4])
		})
	}
	forward(t, a, rows)
}
