package bench

import (
	"fmt"
	"slices"
	"strings"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/bench/peer"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/train"
	rt "github.com/structuredffn/sffn/runtime"
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

// newModel makes a model with any weights.
func (b *Bench) newModel(s spec.Model, train bool) (*model.Model, *model.Params, error) {
	p := model.NewParams(s)
	for _, q := range p.List() {
		v := p.Get(q.Name)
		if strings.Contains(q.Name, "ln") && strings.HasSuffix(q.Name, ".weight") {
			for i := range v {
				v[i] = 1
			}
			continue
		}
		copy(v, normal(len(v), 0.02))
	}
	opt := b.Options
	opt.Train = train
	m, err := model.New(s, p, opt)
	if err != nil {
		p.Close()
		return nil, nil, err
	}
	return m, p, nil
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
	torch, stop, err := b.torch(peer.Job{Mode: "train", Model: &s, Batch: batch, IDs: ids, Targets: ids, LR: 1e-6}, "train")
	if err != nil {
		return ModelResult{}, err
	}
	defer stop()
	modelFLOPs := 3 * float64(s.ForwardFLOPs(batch, seq))
	// Attention: two products forward and five backward, which compute the
	// scores again, each over half of the pairs.
	pairs := float64(batch) * attentionFLOPs(s, seq, seq)
	flops := modelFLOPs - 3*pairs + (1+2.5)*pairs/2
	if recompute {
		again := pairs * float64(s.Layers-1) / float64(s.Layers)
		flops += float64(s.RecomputeFLOPs(batch, seq)) - again/2
	}
	ops := append([]op{{name: "train", flops: flops, time: tries(step)}}, torch...)
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
	m, p, err := b.newModel(s, true)
	if err != nil {
		return nil, nil, err
	}
	newTrace := m.NewTrace
	if recompute {
		newTrace = m.NewRecomputingTrace
	}
	tr := newTrace(batch * seq)
	grads := model.NewParams(s)
	adam := train.NewAdamW(m, 0.9, 0.95, 1e-8, 0.1, 1)
	ids := tokens(batch*seq, s.Vocab)
	step = func(int) error {
		if _, err := tr.Backward(grads, ids, ids, batch, 1, false); err != nil {
			return err
		}
		adam.Step(grads, 1e-6)
		m.Repack()
		return nil
	}
	stop = func() {
		adam.Close()
		grads.Close()
		tr.Close()
		m.Close()
		p.Close()
	}
	return step, stop, nil
}

// decodeSteps are the places after a prompt at which tokens are decoded.
const decodeSteps = 16

// Decode times filling in prompts of context tokens and decoding one token a
// sequence after them.
func (b *Bench) Decode(s spec.Model, batch, context int) ([]ModelResult, error) {
	if context+decodeSteps > s.MaxPositions {
		return nil, fmt.Errorf("%s takes %d positions, %d and %d more do not fit", s.Name, s.MaxPositions, context, decodeSteps)
	}
	n := float64(batch)
	kv := 8 * float64(s.Layers) * n * float64(context) * float64(s.KVHeads*s.HeadDim())
	bytes := float64(model.PredictMemory(s, false, false, 1).Packs) + kv
	size := min(int(bytes), memoryBytes())
	decoders := make([]*decoder, 1)
	if b.Cold {
		size = memoryBytes()
		decoders = make([]*decoder, 1+int(float64(size)/bytes))
	}
	ids := make([][]int32, batch)
	for i := range ids {
		ids[i] = tokens(context+1, s.Vocab)
	}
	for i := range decoders {
		d, err := b.decoder(s, ids)
		if err != nil {
			return nil, err
		}
		defer d.close()
		if err := d.feed(0, context); err != nil {
			return nil, err
		}
		decoders[i] = d
	}
	torch, stop, err := b.torch(peer.Job{Mode: "decode", Model: &s, Batch: batch, Seq: context, Steps: decodeSteps, IDs: slices.Concat(ids...)}, "prefill", "decode")
	if err != nil {
		return nil, err
	}
	defer stop()
	layers, head := 2*float64(s.Count().FormulaWithoutEmbedding), 2*float64(s.Head().Weights())
	var arena rt.Arena
	defer arena.Close()
	var results []ModelResult
	for _, o := range []op{
		{name: "prefill", flops: n * (float64(context)*layers + head + attentionFLOPs(s, context, context)/2),
			time: tries(func(int) error { return decoders[0].feed(0, context) })},
		{name: "decode", flops: n * (layers + head + attentionFLOPs(s, 1, context)), bytes: bytes,
			time: tries(func(i int) error {
				return decoders[i%len(decoders)].feed(context+i/len(decoders)%decodeSteps, 1)
			})},
	} {
		ops := []op{o}
		for _, t := range torch {
			if t.name == o.name {
				ops = append(ops, t)
			}
		}
		var read []float32
		tokens := n * float64(context)
		if o.bytes > 0 {
			read, tokens = readable(&arena, size), n
		}
		samples, err := b.measure(read, ops...)
		if err != nil {
			return nil, err
		}
		r := ModelResult{Model: s.Name, Op: o.name, Batch: batch, Seq: context, Threads: b.Pool.Threads(), Rate: rate(samples, ops, 0)}
		r.Tokens = tokens / r.Seconds
		results = append(results, r)
	}
	return results, nil
}

// decoder is a model that continues sequences.
type decoder struct {
	*model.Decoder
	m    *model.Model
	p    *model.Params
	seqs []int
	// ids are tokens of each sequence, part what is fed of them.
	ids, part [][]int32
}

func (b *Bench) decoder(s spec.Model, ids [][]int32) (*decoder, error) {
	m, p, err := b.newModel(s, false)
	if err != nil {
		return nil, err
	}
	d := &decoder{m: m, p: p, ids: ids, part: make([][]int32, len(ids))}
	if d.Decoder, err = m.NewDecoder(len(ids), len(ids[0])-1+decodeSteps); err != nil {
		return nil, err
	}
	for i := range ids {
		d.seqs = append(d.seqs, i)
	}
	return d, nil
}

// feed appends n tokens to what each sequence holds of its first keep tokens.
func (d *decoder) feed(keep, n int) error {
	for i := range d.seqs {
		d.Truncate(i, keep)
		at := min(keep, len(d.ids[i])-n)
		d.part[i] = d.ids[i][at : at+n]
	}
	_, err := d.Feed(d.seqs, d.part)
	return err
}

func (d *decoder) close() {
	d.Decoder.Close()
	d.m.Close()
	d.p.Close()
}
