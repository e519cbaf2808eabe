package bench

import (
	"fmt"
	"strings"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/train"
	rt "github.com/structuredffn/sffn/runtime"
)

// ModelResult is the speed of a whole model.
type ModelResult struct {
	Model   string  `json:"model"`
	Op      string  `json:"op"` // train, prefill or decode
	Batch   int     `json:"batch"`
	Seq     int     `json:"seq"` // tokens of each sequence: trained on, filled in, or held while decoding
	Threads int     `json:"threads"`
	Tokens  float64 `json:"tokens_per_second"`
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

// Train times steps of one micro-batch each, the optimizer included.
func (b *Bench) Train(s spec.Model, batch, seq int) (ModelResult, error) {
	if seq > s.MaxPositions {
		return ModelResult{}, fmt.Errorf("%s takes %d positions, got %d", s.Name, s.MaxPositions, seq)
	}
	m, p, err := b.newModel(s, true)
	if err != nil {
		return ModelResult{}, err
	}
	defer p.Close()
	defer m.Close()
	tr := m.NewTrace(batch * seq)
	defer tr.Close()
	grads := model.NewParams(s)
	defer grads.Close()
	adam := train.NewAdamW(m, 0.9, 0.95, 1e-8, 0.1, 1)
	defer adam.Close()
	ids := tokens(batch*seq, s.Vocab)
	var failed error
	step := func(int) {
		if _, err := tr.Backward(grads, ids, ids, batch, 1, false); err != nil {
			failed = err
			return
		}
		adam.Step(grads, 1e-6)
		m.Repack()
	}
	modelFLOPs := 3 * float64(s.ForwardFLOPs(batch, seq))
	// Attention: two products forward and five backward, which compute the
	// scores again, each over half of the pairs.
	pairs := float64(batch) * attentionFLOPs(s, seq, seq)
	o := op{run: step, flops: modelFLOPs - 3*pairs + (1+2.5)*pairs/2}
	r := ModelResult{Model: s.Name, Op: "train", Batch: batch, Seq: seq, Threads: b.Pool.Threads()}
	r.Rate = o.rate(b.measure(nil, o), 0)
	r.Tokens = float64(batch*seq) / r.Seconds
	f := modelFLOPs / o.flops
	r.ModelShare = &Spread{r.Share.Median * f, r.Share.Low * f, r.Share.High * f}
	return r, failed
}

// Decode times filling in prompts of context tokens and decoding one token a
// sequence after them.
func (b *Bench) Decode(s spec.Model, batch, context int) ([]ModelResult, error) {
	const steps = 16
	if context+steps > s.MaxPositions {
		return nil, fmt.Errorf("%s takes %d positions, %d and %d more do not fit", s.Name, s.MaxPositions, context, steps)
	}
	m, p, err := b.newModel(s, false)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	defer m.Close()
	d, err := m.NewDecoder(batch, context+steps)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	seqs := make([]int, batch)
	prompts, next := make([][]int32, batch), make([][]int32, batch)
	for i := range seqs {
		seqs[i] = i
		prompts[i], next[i] = tokens(context, s.Vocab), tokens(1, s.Vocab)
	}
	var failed error
	feed := func(keep int, ids [][]int32) {
		for i := range seqs {
			d.Truncate(i, keep)
		}
		if _, err := d.Feed(seqs, ids); err != nil {
			failed = err
		}
	}
	n := float64(batch)
	layers, head := 2*float64(s.Count().FormulaWithoutEmbedding), 2*float64(s.Head().Weights())
	prefill := op{run: func(int) { feed(0, prompts) }, flops: n * (float64(context)*layers + head + attentionFLOPs(s, context, context)/2)}
	samples := b.measure(nil, prefill)
	results := []ModelResult{{Op: "prefill", Tokens: 0, Rate: prefill.rate(samples, 0)}}
	results[0].Tokens = n * float64(context) / results[0].Seconds

	var arena rt.Arena
	defer arena.Close()
	kv := 8 * float64(s.Layers) * n * float64(context) * float64(s.KVHeads*s.HeadDim())
	decode := op{run: func(i int) { feed(context+i%steps, next) }, flops: n * (layers + head + attentionFLOPs(s, 1, context)),
		bytes: float64(model.PredictMemory(s, false, 1).Packs) + kv}
	feed(0, prompts)
	samples = b.measure(readable(&arena, memoryBytes()), decode)
	results = append(results, ModelResult{Op: "decode", Rate: decode.rate(samples, 0)})
	results[1].Tokens = n / results[1].Seconds
	for i := range results {
		r := &results[i]
		r.Model, r.Batch, r.Seq, r.Threads = s.Name, batch, context, b.Pool.Threads()
	}
	return results, failed
}
