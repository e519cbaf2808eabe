package decode

import (
	"fmt"
	"slices"

	"github.com/structuredffn/sffn/model"
	rt "github.com/structuredffn/sffn/runtime"
)

// Decoder continues a batch of sequences token by token, with a cache of keys
// and values.
type Decoder struct {
	m      *Model
	caches []*rt.KVCache
	pos    []int // tokens that each sequence holds
	limit  int
	rows   int
	arena  rt.Arena // of what has rows
	ends   rt.Arena // of what has one for each sequence
	pass   *model.Pass
	act    *model.Activations
	attend func(layer int) error
	// What Feed appends: the tokens of all sequences, and where they belong.
	ids   []int32
	spans []rt.Span

	last, logits []float32
}

// NewDecoder returns room for batch sequences of up to capacity tokens.
func (m *Model) NewDecoder(batch, capacity int) (*Decoder, error) {
	if batch < 1 {
		return nil, fmt.Errorf("decode: decoding a batch of %d sequences, want at least 1", batch)
	}
	if capacity < 1 || capacity > m.Spec.MaxPositions {
		return nil, fmt.Errorf("decode: sequences of up to %d tokens, the model takes 1 to %d", capacity, m.Spec.MaxPositions)
	}
	d := &Decoder{m: m, pos: make([]int, batch), limit: capacity, pass: m.NewPass()}
	d.attend = d.attention
	for i := range m.Spec.Layers {
		d.caches = append(d.caches, m.Attention(i).NewKVCache(batch, capacity))
	}
	d.last, d.logits = d.ends.Floats(batch*m.Spec.Hidden), d.ends.Floats(batch*m.Spec.Vocab)
	d.grow(batch)
	return d, nil
}

func (d *Decoder) grow(rows int) {
	if rows > d.rows {
		d.arena.Close()
		d.rows, d.act = rows, d.m.NewActivations(&d.arena, rows)
	}
}

// Close frees the decoder.
func (d *Decoder) Close() {
	for _, c := range d.caches {
		c.Close()
	}
	d.pass.Close()
	d.arena.Close()
	d.ends.Close()
}

// Len is the number of tokens that sequence i holds.
func (d *Decoder) Len(i int) int { return d.pos[i] }

// Fork makes sequence dst hold what sequence src does, as if it had been fed
// the same tokens: a prompt that several share is computed once.
func (d *Decoder) Fork(dst, src int) error {
	for _, s := range [2]int{dst, src} {
		if s < 0 || s >= len(d.pos) {
			return fmt.Errorf("decode: sequence %d of a batch of %d", s, len(d.pos))
		}
	}
	for _, c := range d.caches {
		c.Copy(dst, src, d.pos[src])
	}
	d.pos[dst] = d.pos[src]
	return nil
}

// Truncate forgets all but the first n tokens of sequence i, so that it can go
// on from there another way.
func (d *Decoder) Truncate(i, n int) { d.pos[i] = min(d.pos[i], max(0, n)) }

// Feed appends tokens to sequences, tokens[i] to sequence seqs[i], and returns
// the logits after the last new token of each, [len(seqs), vocab], valid until
// the next call.
func (d *Decoder) Feed(seqs []int, tokens [][]int32) ([]float32, error) {
	if len(tokens) != len(seqs) {
		return nil, fmt.Errorf("decode: tokens of %d sequences for %d sequences", len(tokens), len(seqs))
	}
	d.spans, d.ids, d.pass.Positions = d.spans[:0], d.ids[:0], d.pass.Positions[:0]
	for i, s := range seqs {
		switch {
		case s < 0 || s >= len(d.pos):
			return nil, fmt.Errorf("decode: sequence %d of a batch of %d", s, len(d.pos))
		case slices.Contains(seqs[:i], s):
			return nil, fmt.Errorf("decode: sequence %d comes twice in one call", s)
		case len(tokens[i]) == 0:
			return nil, fmt.Errorf("decode: no tokens for sequence %d", s)
		case d.pos[s]+len(tokens[i]) > d.limit:
			return nil, fmt.Errorf("decode: sequence %d would grow to %d tokens, there is room for %d", s, d.pos[s]+len(tokens[i]), d.limit)
		}
		if err := d.m.CheckTokens(tokens[i]); err != nil {
			return nil, fmt.Errorf("decode: sequence %d: %w", s, err)
		}
		d.spans = append(d.spans, rt.Span{Seq: s, Pos: d.pos[s], Row: len(d.ids), Rows: len(tokens[i])})
		d.ids = append(d.ids, tokens[i]...)
		for j := range tokens[i] {
			d.pass.Positions = append(d.pass.Positions, d.pos[s]+j)
		}
	}
	if len(d.ids) == 0 {
		return nil, nil
	}
	d.grow(len(d.ids))
	if err := d.forward(); err != nil {
		return nil, err
	}
	h, v := d.m.Spec.Hidden, d.m.Spec.Vocab
	for i, sp := range d.spans {
		copy(d.last[i*h:(i+1)*h], d.act.Norm1[(sp.Row+sp.Rows-1)*h:])
		d.pos[sp.Seq] += sp.Rows
	}
	d.pass.Head(d.logits, d.last, len(seqs))
	return d.logits[:len(seqs)*v], nil
}

// forward computes everything up to the last norm.
func (d *Decoder) forward() error {
	a, rows := d.act, len(d.ids)
	d.pass.Embed(a.X, d.ids)
	for i := range d.m.Spec.Layers {
		if err := d.pass.Layer(a.X, i, d.m.network(i, rows), a, rows, d.attend); err != nil {
			return err
		}
	}
	d.pass.Final(a.Norm1, a, rows)
	return nil
}

// attention is that of layer i, of the new rows to all that their sequences hold.
func (d *Decoder) attention(i int) error {
	return d.m.Attention(i).Extend(d.act.Attn, d.act.QKV, d.caches[i], d.spans, d.pass.Attention)
}

// Feeder continues sequences by tokens, as [Decoder.Feed] does: the CPU's
// decoder, or a device's.
type Feeder interface {
	Feed(seqs []int, tokens [][]int32) ([]float32, error)
}

// Generate continues each prompt by up to n tokens, or to the stop token
// (-1 for none), and calls emit for each new token, in order of sequences.
// emit returns false to end its sequence.
func (d *Decoder) Generate(prompts [][]int32, n int, stop int32, s Sampling, emit func(seq int, token int32) bool) error {
	return Generate(d, d.m.Spec.Vocab, d.m.Pool(), prompts, n, stop, s, emit)
}

// Generate is [Decoder.Generate] for any decoder of so many token ids, with its
// sequences from number 0; the pool samples.
func Generate(f Feeder, vocab int, pool *rt.Pool, prompts [][]int32, n int, stop int32, s Sampling, emit func(seq int, token int32) bool) error {
	if err := s.Validate(); err != nil {
		return fmt.Errorf("decode: %w", err)
	}
	samplers := make([]*sampler, len(prompts))
	seqs, last := make([]int, len(prompts)), make([]int32, len(prompts))
	for i := range prompts {
		seqs[i], samplers[i] = i, newSampler(s, i, vocab)
	}
	tokens := slices.Clone(prompts)
	var logits []float32
	sample := func(_, i int) { last[seqs[i]] = samplers[seqs[i]].next(logits[i*vocab : (i+1)*vocab]) }
	for step := 0; step < n && len(seqs) > 0; step++ {
		var err error
		if logits, err = f.Feed(seqs, tokens); err != nil {
			return err
		}
		pool.Run(len(seqs), sample)
		live := 0
		for _, seq := range seqs {
			if last[seq] != stop && emit(seq, last[seq]) {
				seqs[live], tokens[live] = seq, last[seq:seq+1]
				live++
			}
		}
		seqs, tokens = seqs[:live], tokens[:live]
	}
	return nil
}
