package golden

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/config"
	"github.com/structuredffn/sffn/model/decode"
	"github.com/structuredffn/sffn/model/train"
	rt "github.com/structuredffn/sffn/runtime"
)

func (d *data) modelSpec() (spec.Model, error) {
	m, k := d.Model, d.Method
	s := spec.Model{
		Name: d.Name, Vocab: m.Vocab, Hidden: m.Hidden, FFN: m.FFN, Layers: m.Layers,
		AttnDim: m.AttnDim, QHeads: m.QHeads, KVHeads: m.KVHeads, MaxPositions: m.MaxPositions,
		Kind: kind(k.Name), Rank: k.Kwargs.Rank, Blocks: k.Kwargs.Blocks,
		Act: spec.Act(m.Act), QKVBias: m.Bias, OutputBias: m.Bias, FFNBias: m.Bias, Norm: spec.Norm(m.Norm), NormEps: 1e-5, Position: spec.Position(m.Position.Name), RotaryBase: m.Position.Base,
		Guided:           k.Kwargs.Training.Enabled || d.Training.guided(),
		ScaleAttnByLayer: m.ScaleAttn, TieEmbeddings: m.Tie, InitStd: m.Init.Range,
	}
	if first := k.Kwargs.FirstLayer; first == nil || *first {
		s.SetStructure(0, 0, spec.Structure{Kind: spec.Dense})
	}
	if err := s.Validate(); err != nil {
		return s, fmt.Errorf("manifest.json: %w", err)
	}
	// Before anything is allocated from these numbers, the file has to have
	// the weights.
	prefix := "param."
	if d.Kind == "trajectory" {
		prefix = "init."
	}
	for _, p := range slices.Concat(s.Params(), s.Guides()) {
		t, ok := d.file.Lookup(prefix + p.Name)
		if !ok || !slices.Equal(t.Shape, p.Shape) {
			return s, fmt.Errorf("%s: %s%s has shape %v, want %v", d.File, prefix, p.Name, t.Shape, p.Shape)
		}
	}
	return s, nil
}

// params reads the parameters.
func (d *data) params(s spec.Model, prefix string) (*model.Params, error) {
	p := model.NewParams(s)
	for _, q := range slices.Concat(p.List(), p.Guides()) {
		if err := d.file.ReadFloat32s(p.Get(q.Name), prefix+q.Name, q.Shape); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// compareParams compares the parameters or gradients of a model; a tied head
// is the embedding under a second name.
func (d *data) compareParams(prefix string, p *model.Params) {
	for _, q := range slices.Concat(p.List(), p.Guides()) {
		compare(d, prefix+q.Name, p.Get(q.Name))
	}
	if name := prefix + "lm_head.weight"; p.Get("lm_head.weight") == nil && d.Tensors[name].Role == "expected" {
		compare(d, name, p.Get("model.wte.weight"))
	}
}

func modelCase(d *data, opt rt.Options) error {
	s, err := d.modelSpec()
	if err != nil {
		return err
	}
	ids, err := d.tokens("input_ids")
	if err != nil {
		return err
	}
	labels, err := d.tokens("labels")
	if err != nil {
		return err
	}
	p, err := d.params(s, "param.")
	if err != nil {
		return err
	}
	defer p.Close()
	opt.Train = true
	m, err := model.New(s, p, opt)
	if err != nil {
		return err
	}
	defer m.Close()
	var guides []rt.Guide
	for _, q := range s.Guides() {
		g, err := d.guide(true, "param."+strings.TrimSuffix(q.Name, "guide_linear")+"ratio")
		if err != nil {
			return err
		}
		guides = append(guides, g)
	}
	m.SetGuides(guides)
	tr := m.NewTrace(len(ids))
	defer tr.Close()
	logits := make([]float32, len(ids)*s.Vocab)
	if err := tr.Logits(logits, ids, d.Batch); err != nil {
		return err
	}
	compare(d, "logits", logits)
	grads := model.NewParams(s)
	defer grads.Close()
	loss, err := tr.Backward(grads, ids, labels, d.Batch, 1, false)
	if err != nil {
		return err
	}
	compare(d, "loss", []float64{loss})
	d.compareParams("grad.", grads)
	return d.decode(m)
}

// decode continues the prompt greedily with the cache, and compares the
// tokens, and the logits of one full pass and of the cached steps.
func (d *data) decode(m *model.Model) error {
	prompt, err := d.tokens("prompt")
	if err != nil {
		return err
	}
	want, err := d.tokens("decode.ids")
	if err != nil {
		return err
	}
	d.done["decode.ids"] = true
	total := len(prompt) + len(want)
	dec, err := decode.Of(m).NewDecoder(1, total)
	if err != nil {
		return err
	}
	defer dec.Close()
	var got []int32
	err = dec.Generate([][]int32{prompt}, len(want), -1, decode.Sampling{}, func(_ int, token int32) bool {
		got = append(got, token)
		return true
	})
	if err != nil {
		return err
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("decode.ids = %v, want %v", got, want)
	}

	ids := slices.Concat(prompt, want)
	tr := m.NewTrace(total)
	defer tr.Close()
	full := make([]float32, total*m.Spec.Vocab)
	if err := tr.Logits(full, ids, 1); err != nil {
		return err
	}
	compare(d, "decode.logits", full)

	steps, err := decode.Of(m).NewDecoder(1, total)
	if err != nil {
		return err
	}
	defer steps.Close()
	var cached []float32
	for i := range ids {
		row, err := steps.Feed([]int{0}, [][]int32{ids[i : i+1]})
		if err != nil {
			return err
		}
		cached = append(cached, row...)
	}
	compare(d, "decode.logits", cached)
	return nil
}

// trajectoryCase trains with the loop of every run, on the case's parameters,
// sequences and random numbers.
func trajectoryCase(d *data, opt rt.Options) error {
	s, err := d.modelSpec()
	if err != nil {
		return err
	}
	seqs, err := d.sequences()
	if err != nil {
		return err
	}
	val, err := d.tokens("val_tokens")
	if err != nil {
		return err
	}
	if width := d.Seq + 1; len(val) == 0 || len(val)%width != 0 {
		return fmt.Errorf("%s: val_tokens has %d entries, want rows of %d", d.File, len(val), width)
	}
	c, err := d.config(s)
	if err != nil {
		return err
	}
	uniform, err := d.guidance(c)
	if err != nil {
		return err
	}
	p, err := d.params(s, "init.")
	if err != nil {
		return err
	}
	run := train.Run{Config: c, Options: opt}
	loop, err := run.NewLoop(p, seqs, uniform)
	if err != nil {
		return err
	}
	defer loop.Close()
	// The reference leaves the guides as they are after their phase.
	loop.OnGuidesEnd = func(p *model.Params, steps int, ratio float64) {
		for _, q := range p.Guides() {
			compare(d, "final."+q.Name, p.Get(q.Name))
			layer := "final." + strings.TrimSuffix(q.Name, "guide_linear")
			same(d, layer+"count", []int64{int64(steps)})
			compare(d, layer+"ratio", []float64{ratio})
		}
	}
	var losses, norms, rates []float64
	for range d.Steps {
		p, err := loop.Step(context.Background())
		if err != nil {
			return err
		}
		losses, norms, rates = append(losses, p.Loss), append(norms, p.GradNorm), append(rates, p.LR)
	}
	compare(d, "loss", losses)
	compare(d, "grad_norm", norms)
	compare(d, "lr", rates)
	same(d, "row_start", seqs.read)
	d.compareParams("final.", loop.Model().Params)
	loss, err := loop.Loss(split(val, d.Seq+1))
	if err != nil {
		return err
	}
	compare(d, "val_loss", []float64{loss})
	return d.decode(loop.Model())
}

// sequences are the rows of a case's tokens, in order.
type sequences struct {
	name   string
	tokens []int32
	width  int
	read   []int64 // first rows that were asked for
}

func (d *data) sequences() (*sequences, error) {
	tokens, err := d.tokens("tokens")
	if err != nil {
		return nil, err
	}
	starts, err := d.file.Int64s("row_start")
	if err != nil {
		return nil, err
	}
	width := d.Seq + 1
	if d.Seq < 1 || d.Micro < 1 || d.Accum < 1 || len(starts)%d.Accum != 0 || len(starts)/d.Accum != d.Steps || len(tokens)%width != 0 || d.Micro > len(tokens)/width {
		return nil, fmt.Errorf("%s: tokens or row_start do not fit %d steps of %d x %d rows of %d", d.File, d.Steps, d.Accum, d.Micro, width)
	}
	return &sequences{name: d.File, tokens: tokens, width: width}, nil
}

func (s *sequences) Read(ids, targets []int32, first uint64, rows int) error {
	if have := len(s.tokens) / s.width; first > uint64(have-rows) {
		return fmt.Errorf("%s: tokens has %d rows, want %d to %d", s.name, have, first, first+uint64(rows))
	}
	s.read = append(s.read, int64(first))
	at := int(first) * s.width
	x, y := split(s.tokens[at:at+rows*s.width], s.width)
	copy(ids, x)
	copy(targets, y)
	return nil
}

// config is the run that a case describes.
func (d *data) config(s spec.Model) (*config.Config, error) {
	o, lr, k := d.Optimizer, d.LR, d.Training.Kwargs
	if lr.LR == 0 {
		lr.LR = o.LR
	}
	c := &config.Config{Model: s, Train: config.Train{
		Steps: d.Steps - d.Repeated, Batch: d.Micro, Accumulate: d.Accum, Seq: d.Seq,
		// Half a step more: the share is cut to whole steps.
		LR: lr.LR, MinLR: lr.EtaMin / lr.LR, Warmup: (float64(lr.Warmup) + 0.5) / float64(lr.TMax),
		WeightDecay: o.Decay, DecayAll: true, Beta1: o.Betas[0], Beta2: o.Betas[1], Eps: o.Eps, Clip: d.Clip,
	}}
	if d.Training.guided() {
		if !(k.Ratio > 0 && k.Ratio <= 1) {
			return nil, fmt.Errorf("manifest.json: max_step_ratio %v is out of range", k.Ratio)
		}
		c.Train.Guide = config.Guide{MaxStepRatio: k.Ratio, Schedule: string(k.Scheduler), Mode: k.Mode, ReduceFLOP: k.Reduce}
	}
	if got := c.Course(); c.Train.Steps < 1 || got.Guided != d.Guided || got.Steps != d.Steps {
		return nil, fmt.Errorf("manifest.json: %d steps, %d guided and %d repeated do not follow from max_step_ratio %v and mode %q", d.Steps, d.Guided, d.Repeated, k.Ratio, k.Mode)
	}
	if lr.TMax != d.Steps {
		return nil, fmt.Errorf("manifest.json: T_max %d, want that of the trainer's schedule, all of the %d steps", lr.TMax, d.Steps)
	}
	return c, nil
}

// guidance compares the guides' ratios, and takes the place of random numbers
// from the file, where the case has any.
func (d *data) guidance(c *config.Config) (uniform func(u []float64, step, micro int), err error) {
	if !d.Training.guided() {
		return nil, nil
	}
	var ratios []float64
	for step := range d.Guided {
		ratios = append(ratios, d.Training.Kwargs.Scheduler.Ratio(step, d.Guided))
	}
	compare(d, "ratio", ratios)
	if !c.Train.Guide.ReduceFLOP {
		return nil, nil
	}
	n := len(c.Model.Guides())
	u, err := d.floats("guide_u", d.Guided, d.Accum, n)
	if err != nil {
		return nil, err
	}
	var used []int64
	for step := range d.Guided {
		for _, v := range u[step*d.Accum*n : (step+1)*d.Accum*n] {
			used = append(used, 0)
			if float64(v) < ratios[step] {
				used[len(used)-1] = 1
			}
		}
	}
	same(d, "guide_used", used)
	return func(dst []float64, step, micro int) { copy(dst, wide(u[(step*d.Accum+micro)*n:][:n])) }, nil
}

// split cuts rows of ids into inputs, all but the last of each row, and
// targets, all but the first.
func split(rows []int32, width int) (ids, targets []int32) {
	for ; len(rows) > 0; rows = rows[width:] {
		ids = append(ids, rows[:width-1]...)
		targets = append(targets, rows[1:width]...)
	}
	return ids, targets
}
