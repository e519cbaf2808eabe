package cuda

import (
	"fmt"
	"math"

	"github.com/structuredffn/sffn/gen/plan"
)

// attention is a batch of sequences of one length in float64: what its kernels
// read, and what they must give.
type attention struct {
	plan.GPUAttention
	sequences, seq int
	scale          float64
	qkv, do        []float64
	// o and lse are the results of forward, delta the sums over do*o, dqkv the
	// gradients; abs bounds dqkv's terms.
	o, lse, delta, dqkv []float64
	absO, absD          []float64
}

func (a *attention) tokens() int { return a.sequences * a.seq }

// at is the first entry of a head's query, or, past the heads, of a key or
// value.
func (a *attention) at(row, head int) int { return row*a.Width() + head*a.HeadDim }

// newAttention draws a batch and computes everything from the definitions.
func (d *device) newAttention(p plan.GPUAttention, sequences, seq int) *attention {
	a := &attention{GPUAttention: p, sequences: sequences, seq: seq, scale: float64(float32(1 / math.Sqrt(float64(p.HeadDim))))}
	n, hd := a.tokens(), p.HeadDim
	a.qkv, a.do = d.draw(n*p.Width(), 1), d.draw(n*p.Out(), 1)
	a.o, a.absO, a.lse, a.delta = make([]float64, n*p.Out()), make([]float64, n*p.Out()), make([]float64, n*p.Heads), make([]float64, n*p.Heads)
	a.dqkv, a.absD = make([]float64, len(a.qkv)), make([]float64, len(a.qkv))
	dot := func(x, y []float64) (s float64) {
		for i := range x {
			s += x[i] * y[i]
		}
		return s
	}
	for row := range n {
		first := row - row%seq
		for h := range p.Heads {
			head := func(v []float64, row, h int) []float64 { return v[a.at(row, h):][:hd] }
			kv := p.Heads + h/p.Group()
			q := head(a.qkv, row, h)
			prob := make([]float64, row-first+1)
			top, sum := math.Inf(-1), 0.0
			for j := range prob {
				prob[j] = dot(q, head(a.qkv, first+j, kv)) * a.scale
				top = max(top, prob[j])
			}
			for j := range prob {
				prob[j] = math.Exp(prob[j] - top)
				sum += prob[j]
			}
			o, absO := a.o[row*p.Out()+h*hd:][:hd], a.absO[row*p.Out()+h*hd:][:hd]
			for j := range prob {
				prob[j] /= sum
				for i, v := range head(a.qkv, first+j, kv+p.KVHeads) {
					o[i] += prob[j] * v
					absO[i] += prob[j] * math.Abs(v)
				}
			}
			do := a.do[row*p.Out()+h*hd:][:hd]
			a.lse[row*p.Heads+h] = (top + math.Log(sum)) / math.Ln2
			delta := dot(do, o)
			a.delta[row*p.Heads+h] = delta
			if p.Pass != plan.AttendQueries && p.Pass != plan.AttendKeys {
				continue
			}
			for j, pr := range prob {
				k, v := head(a.qkv, first+j, kv), head(a.qkv, first+j, kv+p.KVHeads)
				ds := pr * (dot(do, v) - delta) * a.scale
				// What is rounded to bf16 on the way, and what cancels in it.
				abs := pr * (math.Abs(dot(do, v)) + math.Abs(delta)) * a.scale
				for i := range hd {
					for _, g := range []struct {
						row, head int
						v, abs    float64
					}{{row, h, ds * k[i], abs * math.Abs(k[i])}, {first + j, kv, ds * q[i], abs * math.Abs(q[i])}, {first + j, kv + p.KVHeads, pr * do[i], pr * math.Abs(do[i])}} {
						a.dqkv[a.at(g.row, g.head)+i] += g.v
						a.absD[a.at(g.row, g.head)+i] += g.abs
					}
				}
			}
		}
	}
	return a
}

// tolerance of a sum of terms of so much in all: on tensor cores the
// probabilities are rounded to bf16 first, and everywhere powers are off by
// 2^-22 and by the rounding of exponents of up to some dozens; a row's numbers
// come from sums over the head and over the keys.
func (a *attention) tolerance(abs float64) float64 {
	e := float64(a.HeadDim+a.seq*a.Group()+100) * 4 * ulp32
	if !a.Rows {
		e += roundoff
	}
	return e * abs
}

func (a *attention) counts() plan.GPUCountsOf {
	return plan.GPUCountsOf{plan.Tokens: a.tokens(), plan.Sequences: a.sequences, plan.SeqLen: a.seq}
}

func (a *attention) numbers() numbers {
	return numbers{"scale": math.Float32bits(float32(a.scale))}
}

// left reports whether a row's blocks do not run, of kernels of single rows.
func (d *device) left(row int) bool { return d.only != nil && !d.only([3]int{row}) }

func proveAttention(d *device, k plan.GPUKernel, n int) error {
	p := k.Plan.(plan.GPUAttention)
	if p.Cache {
		return proveCached(d, k, n)
	}
	sequences := 1
	if n <= 65 {
		sequences = 2
	}
	a := d.newAttention(p, sequences, n)
	c := a.counts()
	in := arrays{"qkv": d.bf16(a.qkv)}
	if p.Pass == plan.AttendForward {
		in["o"] = d.output(k, "o", c)
		if n != 17 {
			in["lse"] = d.output(k, "lse", c)
		}
		if err := d.run(k, in, a.numbers(), c); err != nil {
			return err
		}
		for i, got := range values(in["o"], false) {
			if d.left(i / p.Out()) {
				continue
			}
			if err := within("o", got, a.o[i], a.tolerance(a.absO[i]), true); err != nil {
				return fmt.Errorf("entry %d: %w", i, err)
			}
		}
		if n == 17 {
			return nil
		}
		for i, got := range values(in["lse"], true) {
			if d.left(i / p.Heads) {
				continue
			}
			if err := within("lse", got, a.lse[i], float64(p.HeadDim+n+100)*8*ulp32, false); err != nil {
				return fmt.Errorf("entry %d: %w", i, err)
			}
		}
		return nil
	}
	in["do"] = d.bf16(a.do)
	if p.Pass == plan.AttendDelta {
		delete(in, "qkv")
		in["o"], in["delta"] = d.bf16(a.o), d.output(k, "delta", c)
		if err := d.run(k, in, nil, c); err != nil {
			return err
		}
		for i, got := range values(in["delta"], true) {
			want, abs := 0.0, 0.0
			for e := range p.HeadDim {
				x := a.do[i*p.HeadDim+e] * rounded(a.o[i*p.HeadDim+e])
				want += x
				abs += math.Abs(x)
			}
			if err := within("delta", got, want, float64(p.HeadDim+8)*ulp32*abs, false); err != nil {
				return fmt.Errorf("entry %d: %w", i, err)
			}
		}
		return nil
	}
	before := d.draw(len(a.dqkv), 1)
	in["lse"], in["delta"], in["dqkv"] = d.float32(a.lse), d.float32(a.delta), d.updated(d.bf16(before))
	if err := d.run(k, in, a.numbers(), c); err != nil {
		return err
	}
	for i, got := range values(in["dqkv"], false) {
		if d.left(i / p.Width()) {
			continue
		}
		query := i%p.Width() < p.Out()
		if query != (p.Pass == plan.AttendQueries) { // the other kernel's
			if got != before[i] {
				return fmt.Errorf("entry %d: was changed, and belongs to another pass", i)
			}
			continue
		}
		if err := within("dqkv", got, a.dqkv[i], a.tolerance(a.absD[i]), true); err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
	}
	return nil
}

// Sequences that hold different numbers of tokens already go on by different
// numbers of rows: what the kernel must give is the end of whole sequences.
func proveCached(d *device, k plan.GPUKernel, n int) error { return d.cached(k, 5, n) }

func (d *device) cached(k plan.GPUKernel, before, n int) error {
	p := k.Plan.(plan.GPUAttention)
	const slots = 3
	a := d.newAttention(p, 2, before+n)
	capacity := a.seq + 7
	spans := []struct{ seq, batch, pos, rows int }{{2, 0, before, n}, {0, 1, a.seq - 1 - n/3, 1 + n/3}}
	c := plan.GPUCountsOf{plan.Sequences: len(spans), plan.SeqLen: n, plan.Slots: slots * capacity}
	cache := [2][]float64{d.draw(p.KVHeads*p.HeadDim*c[plan.Slots], 1), d.draw(p.KVHeads*p.HeadDim*c[plan.Slots], 1)}
	var q, want, abs []float64
	var spanNumbers, positions, seqs []int
	for _, s := range spans {
		spanNumbers = append(spanNumbers, s.seq, s.pos, c[plan.Tokens], s.rows)
		for pos := range s.pos + s.rows {
			row := s.batch*a.seq + pos
			for h := range p.KVHeads {
				for i, x := range cache {
					copy(x[((s.seq*p.KVHeads+h)*capacity+pos)*p.HeadDim:], a.qkv[a.at(row, p.Heads+i*p.KVHeads+h):][:p.HeadDim])
				}
			}
			if pos >= s.pos {
				q = append(q, a.qkv[row*p.Width():][:p.Width()]...)
				want = append(want, a.o[row*p.Out():][:p.Out()]...)
				abs = append(abs, a.absO[row*p.Out():][:p.Out()]...)
				positions, seqs = append(positions, pos), append(seqs, s.seq)
			}
		}
		c[plan.Tokens] += s.rows
	}
	in := arrays{"qkv": d.bf16(q), "keys": d.bf16(cache[0]), "values": d.bf16(cache[1]), "o": d.output(k, "o", c)}
	if p.Rows {
		in["positions"], in["seqs"] = d.int32(positions), d.int32(seqs)
	} else {
		in["spans"] = d.int32(spanNumbers)
	}
	number := a.numbers()
	number["capacity"] = uint32(capacity)
	if err := d.run(k, in, number, c); err != nil {
		return err
	}
	for i, got := range values(in["o"], false) {
		if err := within("o", got, want[i], a.tolerance(abs[i]), true); err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
	}
	return nil
}
