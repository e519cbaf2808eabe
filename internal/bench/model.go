package bench

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/bench/peer"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/config"
	"github.com/structuredffn/sffn/model/decode"
	"github.com/structuredffn/sffn/model/train"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// ModelResult is the speed of a whole model.
type ModelResult struct {
	Model   string `json:"model"`
	Op      string `json:"op"` // train, prefill or decode
	Batch   int    `json:"batch"`
	Seq     int    `json:"seq"` // tokens of each sequence: trained on, filled in, or held while decoding
	Threads int    `json:"threads"`
	// Recompute says that training computes activations again.
	Recompute bool    `json:"recompute,omitempty"`
	Tokens    float64 `json:"tokens_per_second"`
	// Rate counts what is computed, causal attention halved and what is
	// computed twice counted twice.
	Rate
	// ModelShare is, for training, the share of the peak in the FLOPs of the
	// model: three times the forward pass's, attention not halved.
	ModelShare *Spread `json:"model_share_of_peak,omitempty"`
}

// anyTable is how many numbers the weights of anyParams are made of: a prime, so
// that no two rows of a matrix are the same.
const anyTable = 65521

// anyParams are weights that a model may have: normal numbers, of a table that is
// read again and again, for a large model has a billion of them.
func anyParams(s spec.Model) *model.Params {
	p := model.NewParams(s)
	table := normal(anyTable, 0.02)
	var all sync.WaitGroup
	for i, q := range p.List() {
		all.Go(func() {
			v := p.Get(q.Name)
			if strings.Contains(q.Name, "ln") && strings.HasSuffix(q.Name, ".weight") {
				for i := range v {
					v[i] = 1
				}
				return
			}
			for from := i * 7919 % anyTable; len(v) > 0; from = 0 {
				v = v[copy(v, table[from:]):]
			}
		})
	}
	all.Wait()
	return p
}

// training is how models are trained that are timed.
func training(batch, seq int) config.Train {
	return config.Train{Batch: batch, Seq: seq, Accumulate: 1, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, WeightDecay: 0.1, Clip: 1}
}

// tokens draws n tokens.
func tokens(n, vocab int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32((i*7919 + i/3) % vocab)
	}
	return ids
}

// attentionFLOPs counts one layer's two products over all pairs of positions,
// summed over the layers.
func attentionFLOPs(s spec.Model, queries, keys int) float64 {
	return 4 * float64(s.Layers) * float64(queries) * float64(keys) * float64(s.AttnDim)
}

// Train times steps of one micro-batch each, the optimizer included, and the
// recomputation of activations where asked for.
func (b *Bench) Train(s spec.Model, batch, seq int, recompute bool) (ModelResult, error) {
	step, stop, err := b.trainer(s, batch, seq, recompute)
	if err != nil {
		return ModelResult{}, err
	}
	defer stop()
	ids := tokens(batch*seq, s.Vocab)
	programs, stop, err := b.programs(peer.Job{Mode: "train", Model: &s, Batch: batch, IDs: ids, Targets: ids, LR: 1e-6}, "train")
	if err != nil {
		return ModelResult{}, err
	}
	defer stop()
	modelFLOPs := 3 * s.ForwardFLOPs(batch, seq)
	// Attention: two products forward and five backward, which compute the
	// scores again, each over half of the pairs.
	pairs := float64(batch) * attentionFLOPs(s, seq, seq)
	flops := modelFLOPs - 3*pairs + (1+2.5)*pairs/2
	if recompute {
		again := pairs * float64(s.Layers-1) / float64(s.Layers)
		flops += s.RecomputeFLOPs(batch, seq) - again/2
	}
	ops := append([]op{{name: "train", format: b.Format, flops: flops, time: tries(step)}}, programs...)
	samples, err := b.measure(nil, ops...)
	if err != nil {
		return ModelResult{}, err
	}
	r := ModelResult{Model: s.Name, Op: "train", Recompute: recompute, Batch: batch, Seq: seq, Threads: b.Pool.Threads(), Rate: rate(samples, ops, 0)}
	r.Tokens = float64(batch*seq) / r.Seconds
	share := r.Share.times(modelFLOPs / flops)
	r.ModelShare = &share
	return r, nil
}

// trainer makes a model and the steps of its training; stop frees it.
func (b *Bench) trainer(s spec.Model, batch, seq int, recompute bool) (step func(int) error, stop func(), err error) {
	if seq > s.MaxPositions {
		return nil, nil, fmt.Errorf("%s takes %d positions, got %d", s.Name, s.MaxPositions, seq)
	}
	p, t := anyParams(s), training(batch, seq)
	t.Recompute = recompute
	switch b.Format {
	case kernel.BF16:
		t.Precision = config.BF16
	case kernel.BF16W:
		return nil, nil, fmt.Errorf("nothing trains in %s: the weights' gradients have operands of one type; want %s or %s", b.Format, kernel.F32, kernel.BF16)
	}
	e, err := train.NewCPU(s, p, t, b.Options)
	if err != nil {
		p.Close()
		return nil, nil, err
	}
	ids := tokens(batch*seq, s.Vocab)
	step = func(int) error {
		if _, err := e.Backward(ids, ids, batch, 1, false); err != nil {
			return err
		}
		_, err := e.Step(1e-6)
		return err
	}
	stop = func() {
		e.Close()
		p.Close()
	}
	return step, stop, nil
}

// DecodeSteps are the places after a prompt at which tokens are decoded.
const DecodeSteps = 16

// Prefill times filling in one prompt of context tokens.
func (b *Bench) Prefill(s spec.Model, context int) (ModelResult, error) {
	d, err := b.decoder(s, 1, context)
	if err != nil {
		return ModelResult{}, err
	}
	defer d.close()
	programs, stop, err := b.programs(d.job(s), "prefill")
	if err != nil {
		return ModelResult{}, err
	}
	defer stop()
	layers, head := perToken(s)
	ops := append([]op{{name: "prefill", format: b.Format, flops: float64(context)*layers + head + attentionFLOPs(s, context, context)/2,
		time: tries(func(int) error { return d.fill() })}}, programs...)
	samples, err := b.measure(nil, ops...)
	if err != nil {
		return ModelResult{}, err
	}
	r := ModelResult{Model: s.Name, Op: "prefill", Batch: 1, Seq: context, Threads: b.Pool.Threads(), Rate: rate(samples, ops, 0)}
	r.Tokens = float64(context) / r.Seconds
	return r, nil
}

// keyBytes is what a key, or a value, of so many entries takes.
func (b *Bench) keyBytes(entries int) float64 {
	packs, _ := b.KV.Held()
	f, _ := packs.Format()
	bytes := float64(entries*f.Weights.Bits) / 8
	if b.KV == kernel.Int8 {
		bytes += kernel.EntryBytes // its scale
	}
	return bytes
}

// Decode times decoding one token a sequence after prompts of context tokens.
func (b *Bench) Decode(s spec.Model, batch, context int) (ModelResult, error) {
	n := float64(batch)
	kv := float64(s.Layers) * n * float64(context) * float64(2*s.KVHeads) * b.keyBytes(s.HeadDim())
	bytes := float64(model.PredictMemory(s, b.Format, false, false, 1).Packs) + kv
	size := min(int(bytes), memoryBytes())
	decoders := make([]*decoder, 1)
	if b.Cold {
		size = memoryBytes()
		decoders = make([]*decoder, 1+int(float64(size)/bytes))
	}
	for i := range decoders {
		d, err := b.decoder(s, batch, context)
		if err != nil {
			return ModelResult{}, err
		}
		defer d.close()
		if err := d.fill(); err != nil {
			return ModelResult{}, err
		}
		decoders[i] = d
	}
	programs, stop, err := b.programs(decoders[0].job(s), "decode")
	if err != nil {
		return ModelResult{}, err
	}
	defer stop()
	layers, head := perToken(s)
	var arena rt.Arena
	defer arena.Close()
	ops := append([]op{{name: "decode", format: b.Format, flops: n * (layers + head + attentionFLOPs(s, 1, context)), bytes: bytes,
		time: tries(func(i int) error {
			return decoders[i%len(decoders)].next(i / len(decoders) % DecodeSteps)
		})}}, programs...)
	samples, err := b.measure(readable(&arena, size), ops...)
	if err != nil {
		return ModelResult{}, err
	}
	r := ModelResult{Model: s.Name, Op: "decode", Batch: batch, Seq: context, Threads: b.Pool.Threads(), Rate: rate(samples, ops, 0)}
	r.Tokens = n / r.Seconds
	return r, nil
}

// perToken counts the FLOPs of one token in the layers, attention left out, and
// in the head.
func perToken(s spec.Model) (layers, head float64) {
	return 2 * float64(s.Count().FormulaWithoutEmbedding), 2 * float64(s.Head().Weights())
}

// decoder is a model that continues sequences, all of one prompt.
type decoder struct {
	*decode.Decoder
	m    *decode.Model
	seqs []int
	// ids are the tokens of every sequence, the prompt's and one more; last is
	// that one for each.
	ids  []int32
	last [][]int32
}

func (b *Bench) decoder(s spec.Model, batch, context int) (*decoder, error) {
	if context+DecodeSteps > s.MaxPositions {
		return nil, fmt.Errorf("%s takes %d positions, %d and %d more do not fit", s.Name, s.MaxPositions, context, DecodeSteps)
	}
	p := anyParams(s)
	defer p.Close()
	m, err := decode.Load(s, p.Read, b.Options)
	if err != nil {
		return nil, err
	}
	d := &decoder{m: m, ids: tokens(context+1, s.Vocab)}
	if d.Decoder, err = m.NewDecoder(batch, context+DecodeSteps); err != nil {
		return nil, err
	}
	for i := range batch {
		d.seqs, d.last = append(d.seqs, i), append(d.last, d.ids[context:])
	}
	return d, nil
}

// job is the same for other programs.
func (d *decoder) job(s spec.Model) peer.Job {
	return peer.Job{Mode: "decode", Model: &s, Params: func() *model.Params { return anyParams(s) }, Batch: len(d.seqs), Seq: len(d.ids) - 1, Steps: DecodeSteps, IDs: slices.Concat(slices.Repeat([][]int32{d.ids}, len(d.seqs))...)}
}

// fill computes the prompt once, for all sequences.
func (d *decoder) fill() error {
	d.Truncate(0, 0)
	if _, err := d.Feed(d.seqs[:1], [][]int32{d.ids[:len(d.ids)-1]}); err != nil {
		return err
	}
	for _, i := range d.seqs[1:] {
		if err := d.Fork(i, 0); err != nil {
			return err
		}
	}
	return nil
}

// next decodes a token of each sequence at a place behind the prompt.
func (d *decoder) next(place int) error {
	for i := range d.seqs {
		d.Truncate(i, len(d.ids)-1+place)
	}
	_, err := d.Feed(d.seqs, d.last)
	return err
}

func (d *decoder) close() {
	d.Decoder.Close()
	d.m.Close()
}
