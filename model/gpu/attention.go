package gpu

import (
	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/runtime/cuda"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// attend runs attention over batch sequences of a layer's rows.
func (t *trace) attend(r *runner, l *layer, c *layerTrace, batch, seq int) {
	r.launch(t.Attend.Forward, attendCounts(batch, seq), cuda.Args{"qkv": c.qkv, "o": c.attn, "lse": c.lse, "scale": l.scale})
}

func attendCounts(batch, seq int) table.Counts {
	return table.Counts{table.Tokens: batch * seq, table.Sequences: batch, table.SeqLen: seq}
}

// attendBackward computes dqkv from dattn.
func (t *trace) attendBackward(r *runner, l *layer, c *layerTrace, batch, seq int) {
	n := attendCounts(batch, seq)
	r.launch(t.Attend.Delta, n, cuda.Args{"do": t.dattn, "o": c.attn, "delta": t.delta})
	for _, k := range []gpu.Kernel{t.Attend.Queries, t.Attend.Keys} {
		r.launch(k, n, cuda.Args{"qkv": c.qkv, "do": t.dattn, "lse": c.lse, "delta": t.delta, "dqkv": t.dqkv, "scale": l.scale})
	}
}

// extend appends the keys and values of n rows to a layer's cache, and runs each
// row's attention on its sequence up to itself.
func (t *Decoder) extend(r *runner, l *layer, c cache, n int, s spans) {
	b, slots := &t.room, len(t.pos)*t.capacity
	counts := table.Counts{table.Tokens: n, table.Positions: t.spec.MaxPositions, table.Slots: slots, table.Sequences: s.count, table.SeqLen: s.longest}
	a := cuda.Args{"qkv": b.qkv, "positions": s.positions, "seqs": s.seqs, "keys": c.keys, "values": c.values, "capacity": cuda.Int(t.capacity)}
	if t.cos.Size() > 0 {
		a["cos"], a["sin"], a["sign"] = t.cos, t.sin, cuda.Float32(1)
	}
	r.launch(t.Cache, counts, a)
	a = cuda.Args{"qkv": b.qkv, "o": b.attn, "keys": c.keys, "values": c.values, "capacity": cuda.Int(t.capacity), "scale": l.scale}
	k := t.Attend.Decode
	if s.longest > 1 {
		k = t.Attend.Prefill
	}
	if r.d.Kernel(k.Kernel).Shape.Attention.Rows {
		a["positions"], a["seqs"] = s.positions, s.seqs
	} else {
		a["spans"] = s.list
	}
	r.launch(k, counts, a)
}

// spans are the rows of a pass: of each its position and sequence; and of each
// sequence, in list, its number, the position and the row of its first new token,
// and how many there are.
type spans struct {
	ids, positions, seqs, list cuda.Buffer
	count, longest             int
}
