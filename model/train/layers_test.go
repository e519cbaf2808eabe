package train

import (
	"bytes"
	"context"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/f64ref"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/checkpoint"
	"github.com/structuredffn/sffn/model/decode"
	rt "github.com/structuredffn/sffn/runtime"
)

// A model with a layer of every kind, normed heads and a window trains, with guides at
// first, stops, and goes on with the same bits; in float64 its weights have the loss
// that was measured, and they decode the same one by one, cached and in one pass.
func TestLayersThatDiffer(t *testing.T) {
	dir := t.TempDir()
	prepare(t, filepath.Join(dir, "data"))
	src := strings.Replace(tiny, "layers: 2", "layers: 6", 1)
	src = strings.Replace(src, "q_heads: 2", "q_heads: 4\n  attn_dim: 64\n  kv_heads: 2\n  bias: false\n  qkv_bias: true\n  qk_norm: true\n  window: 20\n  norm_eps: 1e-6\n"+
		"  rotary_scaling: {type: llama3, factor: 4, low_freq_factor: 1, high_freq_factor: 4, original_max_positions: 24}", 1)
	src = strings.Replace(src, "{kind: lowrank, rank: 8}", "{kind: lowrank, rank: 8, except: [{layers: 2, kind: blockshuffle, blocks: 4}, {layers: 3, kind: blockdense, rank: 12, blocks: 2}, {layers: 4, kind: btt, rank: 3, ffn_split: 6}, {layers: 5, kind: blast, rank: 9, blocks: 4}]}", 1)
	begin := func(name string, threads int, src string) *Run {
		r := newRun(t, filepath.Join(dir, "data"), filepath.Join(dir, name), threads, "")
		r.Config = parse(t, strings.Replace(src, "steps: 30", "guide: {max_step_ratio: 0.5}, steps: 24", 1))
		return r
	}
	r := begin("whole", 2, src)
	kinds := map[spec.Kind]bool{}
	for _, s := range r.Config.Model.Stretches() {
		kinds[s.Kind] = true
	}
	if len(kinds) != len(spec.Kinds()) {
		t.Fatalf("the model has the kinds %v", kinds)
	}
	first := math.NaN()
	r.OnStep = func(p Progress) {
		if p.Step == 1 {
			first = p.Loss
		}
	}
	whole := train(t, r)
	if !(whole.ValLoss < first-0.5) {
		t.Errorf("the loss fell from %v to %v", first, whole.ValLoss)
	}

	// Interrupted with guides and resumed by the same layers in other words.
	ctx, cancel := context.WithCancel(context.Background())
	cut := begin("cut", 1, src)
	cut.OnStep = func(p Progress) {
		if p.Step == 7 {
			cancel()
		}
	}
	if res, err := cut.Train(ctx); err != nil || res.Step != 7 {
		t.Fatalf("interrupted: %+v, %v", res, err)
	}
	list := "[{kind: dense}, {kind: lowrank, rank: 8}, {kind: blockshuffle, blocks: 4}, {kind: blockdense, rank: 12, blocks: 2}, {kind: btt, rank: 3, ffn_split: 6}, {kind: blast, rank: 9, blocks: 4}]"
	mlp := src[strings.Index(src, "mlp: ")+len("mlp: "):]
	mlp = mlp[:strings.Index(mlp, "]}")+2]
	again := begin("cut", 2, strings.Replace(src, mlp, list, 1))
	again.Resume = true
	if res := train(t, again); !bytes.Equal(weights(t, res.Checkpoint), weights(t, whole.Checkpoint)) {
		t.Error("the run that resumed ends with other weights")
	}
	// Other blocks in one layer are another run.
	other := begin("whole", 2, strings.Replace(src, "rank: 12, blocks: 2", "rank: 12, blocks: 4", 1))
	other.Resume = true
	if _, err := other.Train(t.Context()); err == nil || !strings.Contains(err.Error(), "the configuration is not the one of") {
		t.Errorf("resumed with other blocks in one layer: %v", err)
	}

	c, _, err := checkpoint.Describe(whole.Checkpoint)
	if err != nil {
		t.Fatal(err)
	}
	m := c.Model
	m.Guided = false
	p := model.NewParams(m)
	defer p.Close()
	if err := checkpoint.Load(whole.Checkpoint, p); err != nil {
		t.Fatal(err)
	}
	ref := &f64ref.Model{Model: m, Get: func(name string) (w []float64) {
		for _, v := range p.Get(name) {
			w = append(w, float64(v))
		}
		return w
	}}
	seq := c.Train.Seq
	ids, targets, err := r.Data.Validation.Windows(c.Train.EvalTokens/seq, seq)
	if err != nil {
		t.Fatal(err)
	}
	loss := 0.0
	for at := 0; at < len(ids); at += seq {
		loss += ref.Loss(ids[at:at+seq], targets[at:at+seq]) * float64(seq) / float64(len(ids))
	}
	if !(math.Abs(loss-whole.ValLoss) < 1e-5) {
		t.Errorf("the loss is %v, in float64 %v", whole.ValLoss, loss)
	}

	pool := rt.NewPool(2)
	defer pool.Close()
	net, err := model.New(m, p, rt.Options{Pool: pool})
	if err != nil {
		t.Fatal(err)
	}
	defer net.Close()
	dec := decode.Of(net)
	defer dec.Close()
	want := ref.Logits(ids[:seq])
	for _, merged := range []bool{false, true} {
		if merged {
			if _, err := dec.Merge(false, nil); err != nil {
				t.Fatal(err)
			}
		}
		for _, cached := range []bool{false, true} {
			at := 0
			if err := dec.Logits(ids[:seq], cached, func(row []float32) error {
				for _, v := range row {
					if !(math.Abs(float64(v)-want[at]) < 1e-4*(1+math.Abs(want[at]))) {
						t.Fatalf("cached %v, merged %v: logit %d is %v, in float64 %v", cached, merged, at, v, want[at])
					}
					at++
				}
				return nil
			}); err != nil || at != len(want) {
				t.Fatalf("%d logits of %d, %v", at, len(want), err)
			}
		}
	}
}
