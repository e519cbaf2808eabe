package model

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

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
	arena  rt.Arena
	ws     *rt.Workspace
	aws    *rt.AttnWorkspace
	pass   *passes
	s      stats
	// What Feed appends: the tokens of all sequences, and where they belong.
	ids   []int32
	spans []rt.Span

	x, norm, qkv, attn, last, logits []float32
}

// NewDecoder returns room for batch sequences of up to capacity tokens.
func (t *Model) NewDecoder(batch, capacity int) (*Decoder, error) {
	if batch < 1 {
		return nil, fmt.Errorf("model: decoding a batch of %d sequences, want at least 1", batch)
	}
	if capacity < 1 || capacity > t.Spec.MaxPositions {
		return nil, fmt.Errorf("model: sequences of up to %d tokens, the model takes 1 to %d", capacity, t.Spec.MaxPositions)
	}
	d := &Decoder{m: t, pos: make([]int, batch), limit: capacity, ws: rt.NewWorkspace(t.opt.Pool), pass: t.newPasses()}
	for _, l := range t.layers {
		d.caches = append(d.caches, l.attn.NewKVCache(batch, capacity))
		d.aws = l.attn.NewWorkspace()
	}
	d.grow(batch)
	return d, nil
}

func (d *Decoder) grow(rows int) {
	if rows <= d.rows {
		return
	}
	d.arena.Close()
	s := d.m.Spec
	f := d.arena.Floats
	d.rows, d.s = rows, newStats(rows)
	d.x, d.norm, d.last = f(rows*s.Hidden), f(rows*s.Hidden), f(rows*s.Hidden)
	d.qkv, d.attn, d.logits = f(rows*s.QKV().Out), f(rows*s.AttnDim), f(rows*s.Vocab)
}

// Close frees the decoder.
func (d *Decoder) Close() {
	for _, c := range d.caches {
		c.Close()
	}
	d.ws.Close()
	d.aws.Close()
	d.arena.Close()
}

// Len is the number of tokens that sequence i holds.
func (d *Decoder) Len(i int) int { return d.pos[i] }

// Truncate forgets all but the first n tokens of sequence i, so that it can go
// on from there another way.
func (d *Decoder) Truncate(i, n int) { d.pos[i] = min(d.pos[i], max(0, n)) }

// Feed appends tokens to sequences, tokens[i] to sequence seqs[i], and returns
// the logits after the last new token of each, [len(seqs), vocab], valid until
// the next call.
func (d *Decoder) Feed(seqs []int, tokens [][]int32) ([]float32, error) {
	d.spans, d.ids, d.pass.positions = d.spans[:0], d.ids[:0], d.pass.positions[:0]
	for i, s := range seqs {
		switch {
		case s < 0 || s >= len(d.pos):
			return nil, fmt.Errorf("model: sequence %d of a batch of %d", s, len(d.pos))
		case slices.Contains(seqs[:i], s):
			return nil, fmt.Errorf("model: sequence %d comes twice in one call", s)
		case len(tokens[i]) == 0:
			return nil, fmt.Errorf("model: no tokens for sequence %d", s)
		case d.pos[s]+len(tokens[i]) > d.limit:
			return nil, fmt.Errorf("model: sequence %d would grow to %d tokens, there is room for %d", s, d.pos[s]+len(tokens[i]), d.limit)
		}
		if err := d.m.CheckTokens(tokens[i]); err != nil {
			return nil, fmt.Errorf("model: sequence %d: %w", s, err)
		}
		d.spans = append(d.spans, rt.Span{Seq: s, Pos: d.pos[s], Row: len(d.ids), Rows: len(tokens[i])})
		d.ids = append(d.ids, tokens[i]...)
		for j := range tokens[i] {
			d.pass.positions = append(d.pass.positions, d.pos[s]+j)
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
		copy(d.last[i*h:(i+1)*h], d.norm[(sp.Row+sp.Rows-1)*h:])
		d.pos[sp.Seq] += sp.Rows
	}
	d.m.head.Forward(d.logits, d.last, nil, len(seqs), nil, d.ws)
	return d.logits[:len(seqs)*v], nil
}

// forward computes everything up to the last norm.
func (d *Decoder) forward() error {
	t, m := d.m, len(d.ids)
	d.pass.embed(d.x, d.ids)
	for i := range t.layers {
		l := &t.layers[i]
		d.pass.norm(&l.ln1, d.norm, d.x, d.s, m)
		l.qkv.Forward(d.qkv, d.norm, nil, m, nil, d.ws)
		d.pass.rotate(d.qkv, m, false)
		if err := l.attn.Extend(d.attn, d.qkv, d.caches[i], d.spans, d.aws); err != nil {
			return err
		}
		l.out.Forward(d.x, d.attn, d.x, m, nil, d.ws)
		d.pass.norm(&l.ln2, d.norm, d.x, d.s, m)
		l.decodeFFN(m).Forward(d.x, d.norm, d.x, m, nil, d.ws)
	}
	d.pass.norm(&t.norm, d.norm, d.x, d.s, m)
	return nil
}

// Sampling says how the next token is chosen. The zero value is greedy.
type Sampling struct {
	// Temperature divides the logits; 0 takes the likeliest token.
	Temperature float64
	// TopK keeps the k likeliest tokens, 0 all of them.
	TopK int
	// TopP keeps the likeliest tokens that together reach this probability,
	// 0 or 1 all of them.
	TopP float64
	Seed uint64
}

// Validate reports a setting out of range.
func (s Sampling) Validate() error {
	switch {
	case !(s.Temperature >= 0) || math.IsInf(s.Temperature, 0):
		return fmt.Errorf("temperature: %v is out of range, want 0 (greedy) or more", s.Temperature)
	case s.TopK < 0:
		return fmt.Errorf("top-k: %d is out of range, want 0 (all) or more", s.TopK)
	case !(s.TopP >= 0 && s.TopP <= 1):
		return fmt.Errorf("top-p: %v is out of range, want 0 (all) to 1", s.TopP)
	}
	return nil
}

// sampler chooses the tokens of one sequence. Each has its own generator, so
// that a batch draws what single sequences would.
type sampler struct {
	Sampling
	rng   *rand.Rand
	order []int
	probs []float64
}

func newSampler(s Sampling, seq int) *sampler {
	return &sampler{Sampling: s, rng: rand.New(rand.NewPCG(s.Seed, uint64(seq)))}
}

func argmax(x []float32) int {
	best := 0
	for i, v := range x {
		if v > x[best] {
			best = i
		}
	}
	return best
}

func (s *sampler) next(logits []float32) int32 {
	if s.Temperature == 0 || s.TopK == 1 {
		return int32(argmax(logits))
	}
	s.order = s.order[:0]
	for i := range logits {
		s.order = append(s.order, i)
	}
	// Likeliest first; equal ones by id.
	slices.SortStableFunc(s.order, func(a, b int) int {
		switch {
		case logits[a] > logits[b]:
			return -1
		case logits[a] < logits[b]:
			return 1
		}
		return 0
	})
	if s.TopK > 0 && s.TopK < len(s.order) {
		s.order = s.order[:s.TopK]
	}
	s.probs = s.probs[:0]
	sum := 0.0
	for _, i := range s.order {
		p := math.Exp((float64(logits[i]) - float64(logits[s.order[0]])) / s.Temperature)
		s.probs = append(s.probs, p)
		sum += p
	}
	if s.TopP > 0 && s.TopP < 1 {
		kept := 0.0
		for n, p := range s.probs {
			kept += p
			if kept >= s.TopP*sum {
				s.probs, sum = s.probs[:n+1], kept
				break
			}
		}
	}
	u := s.rng.Float64() * sum
	for n, p := range s.probs {
		if u -= p; u < 0 {
			return int32(s.order[n])
		}
	}
	return int32(s.order[len(s.probs)-1])
}

// Generate continues each prompt by up to n tokens, or to the stop token
// (-1 for none), and calls emit for each new token, in order of sequences.
// emit returns false to end its sequence.
func (d *Decoder) Generate(prompts [][]int32, n int, stop int32, s Sampling, emit func(seq int, token int32) bool) error {
	if err := s.Validate(); err != nil {
		return fmt.Errorf("model: %w", err)
	}
	samplers := make([]*sampler, len(prompts))
	seqs, last := make([]int, len(prompts)), make([]int32, len(prompts))
	for i := range prompts {
		seqs[i], samplers[i] = i, newSampler(s, i)
	}
	tokens := slices.Clone(prompts)
	v := d.m.Spec.Vocab
	for step := 0; step < n && len(seqs) > 0; step++ {
		logits, err := d.Feed(seqs, tokens)
		if err != nil {
			return err
		}
		live := 0
		for i, seq := range seqs {
			tok := samplers[seq].next(logits[i*v : (i+1)*v])
			if tok != stop && emit(seq, tok) {
				last[seq] = tok
				seqs[live], tokens[live] = seq, last[seq:seq+1]
				live++
			}
		}
		seqs, tokens = seqs[:live], tokens[:live]
	}
	return nil
}
