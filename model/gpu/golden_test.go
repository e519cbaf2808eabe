package gpu

import (
	"math"
	"slices"
	"testing"

	"github.com/structuredffn/sffn/gen/specfile"
	"github.com/structuredffn/sffn/model"
	rt "github.com/structuredffn/sffn/runtime"
)

func (g *golden) ids(name string) []int32 {
	g.t.Helper()
	g.get("loss") // opens the file
	v, err := g.file.Int64s(name)
	must(g.t, err)
	ids := make([]int32, len(v))
	for i, x := range v {
		ids[i] = int32(x)
	}
	return ids
}

// Golden models: their loss and every gradient, the logits of every position,
// and twenty greedy tokens, through the device's training step and decoder.
func TestGoldenModels(t *testing.T) {
	cases := goldens(t)
	for name, file := range map[string]string{
		"model_dense_ln_gelu_tied":            "golden-dense",
		"model_lowrank_rms_swiglu_untied_gqa": "golden-lowrank",
		"model_dense_abspos_scaleattn":        "golden-absolute",
	} {
		t.Run(name, func(t *testing.T) {
			g := cases[name]
			g.t = t
			goldenModel(t, g, config(t, file))
		})
	}
}

func goldenModel(t *testing.T, g *golden, c *specfile.Config) {
	p := model.NewParams(c.Model)
	defer p.Close()
	for _, q := range p.List() {
		copy(p.Get(q.Name), g.get("param."+q.Name))
	}
	zero := copyOf(t, p)
	clear(zero.Data)
	c.Train.Batch, c.Train.Seq = 2, 32
	e := newEngine(t, c, p, zero, zero, 0, 1)
	loss, err := e.Backward(g.ids("input_ids"), g.ids("labels"), 2, 1, false)
	must(t, err)
	if want := float64(g.get("loss")[0]); math.Abs(loss-want) > want/256 {
		t.Errorf("loss %v, want %v", loss, want)
	}
	grads := e.gradients(t)
	for _, q := range grads.List() {
		near(t, "grad."+q.Name, grads.Get(q.Name), g.get("grad."+q.Name), roundings(c))
	}

	prompt, want := g.ids("prompt"), g.ids("decode.ids")
	all := slices.Concat(prompt, want)
	pool := rt.NewPool(1)
	defer pool.Close()
	dec, err := NewDecoder(e.r.d, p, 2, len(all))
	must(t, err)
	defer dec.Close()
	var got []int32
	must(t, model.Generate(dec, c.Model.Vocab, pool, [][]int32{prompt}, len(want), -1, model.Sampling{}, func(_ int, id int32) bool {
		got = append(got, id)
		return true
	}))
	if !slices.Equal(got, want) {
		t.Errorf("decoded %v, want %v", got, want)
	}
	var logits []float32
	for i := range all {
		row, err := dec.Feed([]int{1}, [][]int32{all[i : i+1]})
		must(t, err)
		logits = append(logits, row...)
	}
	near(t, "decode.logits", logits, g.get("decode.logits"), roundings(c)/2)
}
