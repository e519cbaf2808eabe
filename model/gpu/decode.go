package gpu

import (
	"errors"
	"fmt"
	"slices"

	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/runtime/cuda"
)

// Decoder continues a batch of sequences on a device, with a cache of keys and
// values there. It is a [decode.Feeder].
type Decoder struct {
	// NoGraphs enqueues the kernels of each step one by one, which takes longer and
	// leaves the same bits; set it before the first step, or leave it as it is. It
	// is set where the device waits for each kernel ([cuda.Device.Sync]).
	NoGraphs bool
	*network
	r        runner
	pos      []int // tokens that each sequence holds
	capacity int
	caches   []cache
	mem      memory
	room     room
	last     cuda.Buffer // what the head gets
	logits   cuda.Buffer
	// in and out are the host's sides of what goes to the device and comes back:
	// spans; logits.
	in, out *cuda.Host
	result  []float32
	// steps are the graphs of one token for each of so many sequences.
	steps map[int]*cuda.Graph
}

// cache holds one layer's keys and values, [sequence, head, position, size].
type cache struct{ keys, values cuda.Buffer }

// room is space for the activations of some rows, which all layers share.
type room struct {
	rows                       int
	in                         cuda.Buffer // spans
	x, s1, s2, n, qkv, attn, y cuda.Buffer
	ffns                       []ffnSaved // by network of the plan
	scratch                    []ffnScratch
	parts                      cuda.Buffer
}

// promptRows bounds the rows of one pass over a prompt; tests lower it.
var promptRows = gpu.PromptRows

// NewDecoder puts a model on a device, with room for batch sequences of up to
// capacity tokens.
func NewDecoder(d *cuda.Device, p *model.Params, batch, capacity int) (*Decoder, error) {
	m := p.Spec()
	if batch < 1 {
		return nil, fmt.Errorf("gpu: decoding a batch of %d sequences, want at least 1", batch)
	}
	if capacity < 1 || capacity > m.MaxPositions {
		return nil, fmt.Errorf("gpu: sequences of up to %d tokens, the model takes 1 to %d", capacity, m.MaxPositions)
	}
	ps, err := newPlans(m)
	if err != nil {
		return nil, err
	}
	s, err := d.NewStream()
	if err != nil {
		return nil, err
	}
	t := &Decoder{NoGraphs: d.Sync, r: runner{d: d, s: s}, pos: make([]int, batch), capacity: capacity, mem: memory{d: d}, steps: map[int]*cuda.Graph{}}
	if err := t.fill(ps, p, batch); err != nil {
		t.Close()
		return nil, fmt.Errorf("%s on %s: %w", m.Name, d.Name, err)
	}
	return t, nil
}

func (t *Decoder) fill(ps plans, p *model.Params, batch int) error {
	w, err := newWeights(&t.r, newLayout(ps), p.Get)
	if err != nil {
		return err
	}
	if t.network, err = newNetwork(&t.r, ps, w, nil); err != nil {
		w.close()
		return err
	}
	m := t.spec
	for range t.network.layers {
		n := batch * m.KVHeads * t.capacity * m.HeadDim()
		t.caches = append(t.caches, cache{t.mem.bf16(n), t.mem.bf16(n)})
	}
	rows := max(batch, min(promptRows, batch*t.capacity))
	t.makeRoom(rows, batch)
	if t.mem.err != nil {
		return t.mem.err
	}
	if t.in, err = t.r.d.AllocHost(spanBytes(rows)); err != nil {
		return err
	}
	if t.out, err = t.r.d.AllocHost(4 * batch * t.Logits); err != nil {
		return err
	}
	t.result = make([]float32, batch*m.Vocab)
	return t.r.err
}

func (t *Decoder) makeRoom(rows, batch int) {
	m, mem := t.spec, &t.mem
	h := m.Hidden
	t.room = room{rows: rows, in: mem.bytes(spanBytes(rows)), x: mem.float32(rows * h), s1: mem.float32(rows * h), s2: mem.float32(rows * h), n: mem.bf16(rows * h),
		qkv: mem.bf16(rows * m.QKV().Out), attn: mem.bf16(rows * m.AttnDim), y: mem.bf16(rows * h), ffns: make([]ffnSaved, len(t.FFNs)), scratch: make([]ffnScratch, len(t.FFNs))}
	t.last, t.logits = mem.bf16(batch*h), mem.float32(batch*t.Logits)
	parts := t.head.partBytes(min(batch, gpu.FewTokens), false)
	for i, l := range t.network.layers {
		parts = max(parts, l.qkv.partBytes(rows, false), l.out.partBytes(rows, false), l.ffn.partBytes(rows, false))
		if f := t.FFN[i]; t.room.ffns[f].act.Size() == 0 {
			t.room.ffns[f], t.room.scratch[f] = l.ffn.save(mem, rows, false), l.ffn.scratch(mem, rows, false)
		}
	}
	t.room.parts = mem.bytes(parts)
}

// Close frees what the decoder holds of the device.
func (t *Decoder) Close() {
	for _, g := range t.steps {
		g.Close()
	}
	for _, h := range []*cuda.Host{t.in, t.out} {
		if h != nil {
			h.Close()
		}
	}
	t.mem.free()
	if t.network != nil {
		t.network.mem.free()
		t.w.close()
	}
	t.r.s.Close() // its errors came up before
}

// Truncate forgets all but the first n tokens of sequence i.
func (t *Decoder) Truncate(i, n int) { t.pos[i] = min(t.pos[i], max(0, n)) }

// Feed appends tokens to sequences and returns the logits after the last new
// token of each, as [decode.Decoder.Feed] does.
func (t *Decoder) Feed(seqs []int, tokens [][]int32) ([]float32, error) {
	rows := 0
	for i, s := range seqs {
		switch n := len(tokens[i]); {
		case s < 0 || s >= len(t.pos):
			return nil, fmt.Errorf("gpu: sequence %d of a batch of %d", s, len(t.pos))
		case slices.Contains(seqs[:i], s):
			return nil, fmt.Errorf("gpu: sequence %d comes twice in one call", s)
		case n == 0:
			return nil, fmt.Errorf("gpu: no tokens for sequence %d", s)
		case t.pos[s]+n > t.capacity:
			return nil, fmt.Errorf("gpu: sequence %d would grow to %d tokens, there is room for %d", s, t.pos[s]+n, t.capacity)
		default:
			rows += n
		}
		if err := checkTokens(tokens[i], t.spec.Vocab); err != nil {
			return nil, fmt.Errorf("gpu: sequence %d: %w", s, err)
		}
	}
	if rows == 0 {
		return nil, nil
	}
	if rows == len(seqs) {
		if err := t.step(seqs, tokens); err != nil {
			return nil, err
		}
	} else if err := t.prompt(seqs, tokens); err != nil {
		return nil, err
	}
	for i, s := range seqs {
		t.pos[s] += len(tokens[i])
		copy(t.result[i*t.spec.Vocab:(i+1)*t.spec.Vocab], cuda.Of[float32](t.out)[i*t.Logits:])
	}
	return t.result[:len(seqs)*t.spec.Vocab], nil
}

// step decodes one token a sequence: with graphs that is one launch, of a graph
// that is recorded the first time.
func (t *Decoder) step(seqs []int, tokens [][]int32) error {
	n := len(seqs)
	for i, s := range seqs {
		t.row(n, i, tokens[i][0], t.pos[s], s)
	}
	s := t.spans(n, nil)
	work := func() error {
		t.pass(n, s)
		t.choose(t.room.n, n)
		return t.r.err
	}
	if t.NoGraphs {
		t.r.do(work)
		t.r.do(t.r.s.Wait)
		return t.r.err
	}
	g := t.steps[n]
	if g == nil {
		var err error
		if g, err = t.r.s.Capture(work); err != nil {
			return err
		}
		t.steps[n] = g
	}
	return errors.Join(g.Launch(t.r.s), t.r.s.Wait())
}

// prompt appends any tokens, in passes of promptRows rows.
func (t *Decoder) prompt(seqs []int, tokens [][]int32) error {
	type place struct{ seq, token int }
	var all []place
	for i := range seqs {
		for j := range tokens[i] {
			all = append(all, place{i, j})
		}
	}
	h := t.spec.Hidden
	for len(all) > 0 {
		n := min(t.room.rows, len(all))
		var list [][4]int32
		for i, p := range all[:n] {
			pos, seq := t.pos[seqs[p.seq]]+p.token, seqs[p.seq]
			t.row(n, i, tokens[p.seq][p.token], pos, seq)
			if k := len(list) - 1; k >= 0 && list[k][0] == int32(seq) {
				list[k][3]++
				continue
			}
			list = append(list, [4]int32{int32(seq), int32(pos), int32(i), 1})
		}
		t.pass(n, t.spans(n, list))
		for i, p := range all[:n] {
			if p.token == len(tokens[p.seq])-1 {
				t.r.do(func() error { return t.r.s.Copy(t.last.Slice(2*p.seq*h, 2*h), t.room.n.Slice(2*i*h, 2*h)) })
			}
		}
		t.r.do(t.r.s.Wait) // before the host writes the next rows
		all = all[n:]
	}
	t.choose(t.last, len(seqs))
	t.r.do(t.r.s.Wait)
	return t.r.err
}

// row is one of n rows of the next pass.
func (t *Decoder) row(n, i int, id int32, pos, seq int) {
	in := cuda.Of[int32](t.in)
	in[i], in[n+i], in[2*n+i] = id, int32(pos), int32(seq)
}

// spanBytes is the memory of the spans of so many rows.
func spanBytes(rows int) int { return 4 * 7 * rows }

// spans are those of n rows that have been set; list may be left out where each
// sequence has one row.
func (t *Decoder) spans(n int, list [][4]int32) spans {
	b := t.room.in
	s := spans{ids: b.Slice(0, 4*n), positions: b.Slice(4*n, 4*n), seqs: b.Slice(8*n, 4*n), list: b.Slice(12*n, 16*len(list)), count: len(list), longest: 1}
	for i, l := range list {
		copy(cuda.Of[int32](t.in)[3*n+4*i:], l[:])
		s.longest = max(s.longest, int(l[3]))
	}
	return s
}

// pass runs n rows up to the last norm.
func (t *Decoder) pass(n int, s spans) {
	r, b := &t.r, &t.room
	r.do(func() error { return r.s.Push(b.in, t.in, 12*n+16*s.count) })
	t.embed(r, b.x, s.ids, s.positions, n)
	x, y := b.x, cuda.Buffer{}
	for i := range t.network.layers {
		l, f := &t.network.layers[i], t.FFN[i]
		l.norm1.forward(r, b.n, b.s1, x, y, cuda.Buffer{}, n)
		if i > 0 {
			x = b.s1
		}
		l.qkv.run(r, b.qkv, b.n, nil, cuda.Buffer{}, n, b.parts)
		t.extend(r, l, t.caches[i], n, s)
		l.out.run(r, b.y, b.attn, nil, cuda.Buffer{}, n, b.parts)
		l.norm2.forward(r, b.n, b.s2, x, b.y, cuda.Buffer{}, n)
		x, y = b.s2, b.y
		l.ffn.run(r, y, b.n, b.ffns[f], b.scratch[f], n, b.parts)
	}
	t.final.forward(r, b.n, b.s1, x, y, cuda.Buffer{}, n)
}

// choose runs the head on n rows and brings their logits to the host.
func (t *Decoder) choose(x cuda.Buffer, n int) {
	h, f := t.spec.Hidden, t.head.factors[0]
	for at := 0; at < n; at += gpu.FewTokens {
		k := min(gpu.FewTokens, n-at)
		f.few.run(&t.r, k, t.room.parts, cuda.Args{"a": x.Slice(2*at*h, 2*k*h), "b": f.w, "c": t.logits.Slice(4*at*t.Logits, 4*k*t.Logits)})
	}
	t.r.do(func() error { return t.r.s.Pull(t.out, t.logits, 4*n*t.Logits) })
}
