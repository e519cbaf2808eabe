package model

import (
	"math"
	"math/bits"
	"time"
)

// Dropout has Backward set entries of the embeddings, and of what attention and the
// feed-forward networks add to the residual stream, to 0: each with probability P.
// The others are divided by 1-P (Srivastava et al. 2014; where GPT-2 has it, but for
// that of attention's probabilities). The zero value drops nothing.
//
// Which entries these are is a function of Seed, Step and Micro, of the place in the
// model, and of row and column: the same for any number of threads, and where the
// backward pass computes activations again.
type Dropout struct {
	P           float64 // 0 to below 1
	Seed        uint64
	Step, Micro int
}

// SetDropout says what Backward drops from now on. Loss and Logits drop nothing.
func (tr *Trace) SetDropout(d Dropout) {
	if d.P == 0 {
		tr.drop = dropper{}
		return
	}
	s, m := uint64(d.Step), uint64(d.Micro)
	k := philox([4]uint32{uint32(s), uint32(s >> 32), uint32(m), uint32(m >> 32)}, [2]uint32{uint32(d.Seed), uint32(d.Seed >> 32)})
	tr.drop = dropper{on: true, below: uint32(min(math.Round(d.P*(1<<32)), math.MaxUint32)), scale: float32(1 / (1 - d.P)), key: [2]uint32{k[0], k[1]}, last: k[2]}
}

// dropper drops the entries whose random number is below a bound.
type dropper struct {
	on    bool
	below uint32
	scale float32
	// key, and the last word of the counter, are those of a micro-batch.
	key  [2]uint32
	last uint32
}

// The places in the model: the embeddings, then two in each layer.
const dropEmbedding = 0

func dropAttention(layer int) uint32 { return uint32(1 + 2*layer) }
func dropFFN(layer int) uint32       { return uint32(2 + 2*layer) }

// row computes y = add + x, of which entries are dropped; add may be nil, and y may
// be x.
func (d *dropper) row(y, x, add []float32, place, row uint32) {
	for c := 0; c < len(y); c += 4 {
		random := philox([4]uint32{uint32(c / 4), row, place, d.last}, d.key)
		for j := range min(4, len(y)-c) {
			keep := d.scale
			if random[j] < d.below {
				keep = 0
			}
			v := float32(x[c+j] * keep) // rounded, or some processors would not
			if add != nil {
				v += add[c+j]
			}
			y[c+j] = v
		}
	}
}

// dropped is a pass of dropout at work.
type dropped struct {
	y, x, add []float32
	place     uint32
}

// dropRows runs row on so many rows of the width of the stream, where anything is dropped.
func (p *Pass) dropRows(y, x, add []float32, place uint32, rows int) {
	if !p.drop.on {
		return
	}
	defer p.t.prof.since(&p.t.prof.Dropout, time.Now())
	p.dropped = dropped{y, x, add, place}
	p.run(rows, p.runDrop)
}

func (p *Pass) dropStep(_, i int) {
	r0, r1 := p.chunk(i)
	h, d := p.t.Spec.Hidden, &p.dropped
	for r := r0; r < r1; r++ {
		var add []float32
		if d.add != nil {
			add = d.add[r*h : (r+1)*h]
		}
		p.drop.row(d.y[r*h:(r+1)*h], d.x[r*h:(r+1)*h], add, d.place, uint32(r))
	}
}

// residual is what a linear adds to its result: x, or nothing where entries of the
// result are dropped before.
func (p *Pass) residual(x []float32) []float32 {
	if p.drop.on {
		return nil
	}
	return x
}

// dropGradient is the gradient of what was dropped in a place, from dx, that of
// its sum with the stream.
func (tr *Trace) dropGradient(dx []float32, place uint32) []float32 {
	if !tr.pass.drop.on {
		return dx
	}
	dy := tr.dfinal[:len(dx)] // the head and the last norm are done with it
	tr.pass.dropRows(dy, dx, nil, place, tr.batch*tr.seq)
	return dy
}

// philox is the generator Philox4x32-10: four random words, a function of a counter
// and a key (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
func philox(c [4]uint32, k [2]uint32) [4]uint32 {
	for range 10 {
		hi0, lo0 := bits.Mul32(0xD2511F53, c[0])
		hi1, lo1 := bits.Mul32(0xCD9E8D57, c[2])
		c = [4]uint32{hi1 ^ c[1] ^ k[0], lo1, hi0 ^ c[3] ^ k[1], lo0}
		k[0] += 0x9E3779B9
		k[1] += 0xBB67AE85
	}
	return c
}
