package gpucheck

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	plan "github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/gen/spec"
	vectors "github.com/structuredffn/sffn/internal/golden"
	"github.com/structuredffn/sffn/internal/goldenkernels"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/config"
	"github.com/structuredffn/sffn/model/decode"
	"github.com/structuredffn/sffn/model/gpu"
	"github.com/structuredffn/sffn/model/safetensors"
	"github.com/structuredffn/sffn/model/train"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/cuda"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// goldenCase is a case of the reference's, whose tensors are read.
type goldenCase struct {
	*vectors.Case
	file *safetensors.File
	err  error // of the first tensor that could not be read
}

// get is a tensor of the case.
func (g *goldenCase) get(name string) []float32 {
	v, err := g.file.Float32s(name)
	g.err = errors.Join(g.err, err)
	return v
}

func (g *goldenCase) ids(name string) []int32 {
	v, err := g.file.Int64s(name)
	g.err = errors.Join(g.err, err)
	ids := make([]int32, len(v))
	for i, x := range v {
		ids[i] = int32(x)
	}
	return ids
}

// golden runs the reference's layers, networks and models through the code that
// trains and decodes on a device.
func (c *check) golden() error {
	if !c.Golden {
		return fmt.Errorf("%w: the golden cases are left out", errNothing)
	}
	goldenkernels.Register()
	cases, err := vectors.List(vectors.Cases())
	if err != nil {
		return err
	}
	refused := 0
	for i := range cases {
		g := &goldenCase{Case: &cases[i]}
		if err := c.at("%s", g.Name); err != nil {
			return err
		}
		kind, isGuided := strings.CutPrefix(g.Kind, "guided_")
		layer := spec.Kind(g.Layer) // "linear" of dense ones
		absent := isGuided || slices.Contains(spec.Kinds(), layer) && !layer.OnGPU()
		var run func() error
		switch kind {
		case "layer":
			run = func() error { return c.goldenLayer(g) }
		case "mlp":
			run = func() error { return c.goldenFFN(g) }
		case "model":
			name, ok := goldenkernels.Cases[g.Name]
			if !ok {
				continue // no kernels for its shapes
			}
			run = func() error { return c.goldenModel(g, name) }
		default: // trajectories are the train part's, what is around models is the CPU's
			continue
		}
		if g.file, err = safetensors.OpenFS(vectors.Cases(), g.File); err != nil {
			return err
		}
		err := run()
		g.file.Close()
		// No device computes guides, nor layers of some kinds: the plan must say so, and
		// of nothing else.
		switch {
		case absent && errors.Is(err, gpu.ErrUnsupported) && strings.Contains(err.Error(), "have no GPU kernels"):
			refused++
			continue
		case absent && err == nil:
			err = errors.New("a layer ran that devices have no kernels for")
		}
		c.check(g.Name, errors.Join(err, g.err))
	}
	c.note("%d cases are refused, of guides and of kinds that devices have no kernels for", refused)
	if c.part.Checks < goldenLeast {
		return fmt.Errorf("only %d cases ran, want %d", c.part.Checks, goldenLeast)
	}
	return nil
}

// goldenLeast are the layers, networks and models that the program carries.
const goldenLeast = 33

// rounding is how far n roundings to bf16, each of which moves a vector by
// 2^-8/sqrt(3) of its length at most, and tanh.approx move a result.
func rounding(n int) float64 { return math.Sqrt(float64(n)/3)/256 + 1.0/1024 }

// within compares in the norm, relative.
func within(what string, got, want []float32, tol float64) error {
	if len(got) != len(want) {
		return fmt.Errorf("%s has %d entries, want %d", what, len(got), len(want))
	}
	var diff, norm float64
	for i, w := range want {
		d := float64(got[i]) - float64(w)
		diff += d * d
		norm += float64(w) * float64(w)
	}
	if rel := math.Sqrt(diff / norm); !(rel <= tol) {
		return fmt.Errorf("%s: relative error %.2e, want at most %.2e", what, rel, tol)
	}
	return nil
}

// layer compares a layer with a case, its tokens once, or as often as casts need,
// and so often that they are no longer few.
func (c *check) layer(g *goldenCase, l *gpu.Layer, in int, y, grads, weights float64) error {
	if err := c.d.Load(l.Kernels()); err != nil {
		return err
	}
	x, dy := g.get("x"), g.get("dy")
	least := 1
	for least*len(x)%8 != 0 {
		least++
	}
	tokens := len(x) / in
	for _, times := range []int{least, (plan.FewTokens/(least*tokens) + 1) * least} {
		r, err := l.Run(c.d, func(name string) []float32 { return g.get("param." + name) }, slices.Repeat(x, times), slices.Repeat(dy, times))
		if err != nil {
			return err
		}
		tolY, tolG, tolW := y, grads, weights
		if l.Precision == table.Float32s && y == 0 { // a layer by itself: n sums, each with half an ulp a product
			n := float64((3*weightsOf(r)+1)*(max(in, len(dy)/tokens, times*tokens)+4)) / (1 << 24)
			tolY, tolG, tolW = n, n, n
		} else if y == 0 {
			n := rounding(3*weightsOf(r) + 1)
			tolY, tolG, tolW = n, n, n
		}
		errs := []error{within("y", r.Y, slices.Repeat(g.get("y"), times), tolY), within("dx", r.DX, slices.Repeat(g.get("dx"), times), tolG)}
		for name, v := range r.Grads {
			for i := range v {
				v[i] /= float32(2 * times)
			}
			errs = append(errs, within("grad."+name, v, g.get("grad."+name), tolW))
		}
		if err := errors.Join(errs...); err != nil {
			return fmt.Errorf("%d tokens: %w", times*tokens, err)
		}
	}
	return nil
}

// weightsOf counts the factors of a layer: what is rounded, for each, is what it
// reads, its weights and what it leaves.
func weightsOf(r *gpu.LayerResult) (n int) {
	for name := range r.Grads {
		if !strings.HasSuffix(name, "bias") {
			n++
		}
	}
	return n
}

func (c *check) goldenLayer(g *goldenCase) error {
	s, err := g.Linear()
	if err != nil {
		return err
	}
	l, err := gpu.NewLinear(s)
	if err != nil {
		return err
	}
	return c.layer(g, l, g.In, 0, 0, 0)
}

func (c *check) goldenFFN(g *goldenCase) error {
	s, err := g.Network()
	if err != nil {
		return err
	}
	l, err := gpu.NewFFN(s)
	if err != nil {
		return err
	}
	// The casts round x, dy and the results. Gates and ups, whose product is taken,
	// move together with x: by up to 1+1.28 times as much, which is how steep SiLU
	// is, so that x counts six times, and once more in the gradients of weights.
	return c.layer(g, l, g.Hidden, rounding(7), rounding(8), rounding(8))
}

// roundings counts those to bf16 on the way to a gradient. A layer of n factors
// rounds 2n+7 activations, 2n+2 weights and 2n+8 gradients; five come at the end.
// Errors of logits and scores come back times their size, a few units: twice the
// count.
func roundings(m spec.Model) int {
	n := 5
	for i := range m.Layers {
		n += 6*len(m.LayerFFN(i).FC1().Chain()) + 17
	}
	return 2 * n
}

// goldenModel compares a model's loss and every gradient, the logits of every
// position, and its greedy tokens.
func (c *check) goldenModel(g *goldenCase, name string) error {
	cfg, err := goldenkernels.Config(name)
	if err != nil {
		return err
	}
	p := model.NewParams(cfg.Model)
	defer p.Close()
	for _, q := range p.List() {
		copy(p.Get(q.Name), g.get("param."+q.Name))
	}
	e, err := c.engine(cfg, train.Start{Spec: cfg.Model, Params: p, Train: cfg.Train}, 2, 32)
	if err != nil {
		return err
	}
	defer e.Close()
	loss, err := e.Backward(g.ids("input_ids"), g.ids("labels"), 2, 1, false)
	if err != nil {
		return err
	}
	var errs []error
	if want := float64(g.get("loss")[0]); !(math.Abs(loss-want) <= want/256) {
		errs = append(errs, fmt.Errorf("loss %v, want %v", loss, want))
	}
	grads := model.NewParams(cfg.Model)
	defer grads.Close()
	if err := e.Gradients(grads.Get); err != nil {
		return err
	}
	for _, q := range grads.List() {
		errs = append(errs, within("grad."+q.Name, grads.Get(q.Name), g.get("grad."+q.Name), rounding(roundings(cfg.Model))))
	}
	prompt, want := g.ids("prompt"), g.ids("decode.ids")
	all := slices.Concat(prompt, want)
	for _, graphs := range c.graphs() {
		errs = append(errs, c.goldenDecode(g, cfg, p, prompt, want, all, graphs))
	}
	return errors.Join(errs...)
}

func (c *check) goldenDecode(g *goldenCase, cfg *config.Config, p *model.Params, prompt, want, all []int32, graphs bool) error {
	pool := rt.NewPool(1)
	defer pool.Close()
	dec, err := gpu.NewDecoder(c.d, p, 2, len(all))
	if err != nil {
		return err
	}
	defer dec.Close()
	dec.NoGraphs = !graphs
	var got []int32
	if err := decode.Generate(dec, cfg.Model.Vocab, pool, [][]int32{prompt}, len(want), -1, decode.Sampling{}, func(_ int, id int32) bool {
		got = append(got, id)
		return true
	}); err != nil {
		return err
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("decoded %v, want %v (graphs: %v)", got, want, graphs)
	}
	var logits []float32
	for i := range all {
		row, err := dec.Feed([]int{1}, [][]int32{all[i : i+1]})
		if err != nil {
			return err
		}
		logits = append(logits, row...)
	}
	return within(fmt.Sprintf("logits (graphs: %v)", graphs), logits, g.get("decode.logits"), rounding(roundings(cfg.Model)/2))
}

// graphs are the ways to decode: with graphs and without, unless the device waits
// for each launch, which no graph lets it do.
func (c *check) graphs() []bool {
	if !c.d.Sync {
		return []bool{true, false}
	}
	if note := "decoding with graphs is left out, as each launch is waited for (" + cuda.EnvSync + ")"; !slices.Contains(c.part.Notes, note) {
		c.note("%s", note)
	}
	return []bool{false}
}

// engine puts a training run on the device, of batches of one size.
func (c *check) engine(cfg *config.Config, s train.Start, batch, seq int) (*gpu.Engine, error) {
	ks, err := gpu.Kernels(cfg.Model)
	if err != nil {
		return nil, err
	}
	if err := c.d.Load(ks); err != nil {
		return nil, err
	}
	s.Train.Batch, s.Train.Seq = batch, seq
	return gpu.NewEngine(c.d, s)
}
