package golden

import (
	"fmt"
	"slices"
	"strings"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/train"
	rt "github.com/structuredffn/sffn/runtime"
)

func (d *data) modelSpec() (spec.Model, error) {
	m, k := d.Model, d.Method
	s := spec.Model{
		Name: d.Name, Vocab: m.Vocab, Hidden: m.Hidden, FFN: m.FFN, Layers: m.Layers,
		AttnDim: m.AttnDim, QHeads: m.QHeads, KVHeads: m.KVHeads, MaxPositions: m.MaxPositions,
		Kind: kind(k.Name), Rank: k.Kwargs.Rank, Blocks: k.Kwargs.Blocks, FirstLayerDense: k.Kwargs.FirstLayer == nil || *k.Kwargs.FirstLayer,
		Act: spec.Act(m.Act), Bias: m.Bias, Norm: spec.Norm(m.Norm), Position: spec.Position(m.Position.Name), RotaryBase: m.Position.Base,
		Guided:           k.Kwargs.Training.Enabled || d.Training.guided(),
		ScaleAttnByLayer: m.ScaleAttn, TieEmbeddings: m.Tie, InitStd: m.Init.Range,
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

// bind reads the parameters and makes a model of them.
func (d *data) bind(s spec.Model, prefix string, opt rt.Options) (*model.Model, error) {
	p := model.NewParams(s)
	for _, q := range slices.Concat(p.List(), p.Guides()) {
		if err := d.file.ReadFloat32s(p.Get(q.Name), prefix+q.Name, q.Shape); err != nil {
			return nil, err
		}
	}
	opt.Train = true
	return model.New(s, p, opt)
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
	m, err := d.bind(s, "param.", opt)
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
	dec, err := m.NewDecoder(1, total)
	if err != nil {
		return err
	}
	defer dec.Close()
	var got []int32
	err = dec.Generate([][]int32{prompt}, len(want), -1, model.Sampling{}, func(_ int, token int32) bool {
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

	steps, err := m.NewDecoder(1, total)
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

func trajectoryCase(d *data, opt rt.Options) error {
	s, err := d.modelSpec()
	if err != nil {
		return err
	}
	tokens, err := d.tokens("tokens")
	if err != nil {
		return err
	}
	val, err := d.tokens("val_tokens")
	if err != nil {
		return err
	}
	starts, err := d.file.Int64s("row_start")
	if err != nil {
		return err
	}
	width := d.Seq + 1
	if d.Seq < 1 || d.Micro < 1 || d.Accum < 1 || len(starts) != d.Steps*d.Accum || len(tokens)%width != 0 || len(val)%width != 0 {
		return fmt.Errorf("%s: tokens, val_tokens or row_start do not fit %d steps of %d x %d rows of %d", d.File, d.Steps, d.Accum, d.Micro, width)
	}
	guided, err := d.guidance(s)
	if err != nil {
		return err
	}
	m, err := d.bind(s, "init.", opt)
	if err != nil {
		return err
	}
	defer m.Close()
	grads := model.NewParams(s)
	defer func() { grads.Close() }()
	o := d.Optimizer
	adam := train.NewAdamW(m, o.Betas[0], o.Betas[1], o.Eps, o.Decay, d.Clip)
	defer adam.Close()
	tr := m.NewTrace(max(d.Micro, len(val)/width) * d.Seq)
	defer tr.Close()

	var losses, norms, rates []float64
	for step := range d.Steps {
		if guided != nil && step == d.Guided {
			if err := d.dropGuides(m, adam, guided); err != nil {
				return err
			}
			grads.Close()
			grads = model.NewParams(m.Spec)
			guided = nil
		}
		mean := 0.0
		for micro := range d.Accum {
			row := int(starts[step*d.Accum+micro])
			if row < 0 || (row+d.Micro)*width > len(tokens) {
				return fmt.Errorf("%s: row_start[%d][%d] = %d is outside the tokens", d.File, step, micro, row)
			}
			ids, targets := split(tokens[row*width:(row+d.Micro)*width], width)
			if guided != nil {
				adam.Used = guided.Set(m, step, micro)
			}
			loss, err := tr.Backward(grads, ids, targets, d.Micro, 1/float64(d.Accum), micro > 0)
			if err != nil {
				return err
			}
			mean += loss / float64(d.Accum)
		}
		lr := d.LR
		if lr.LR == 0 {
			lr.LR = o.LR
		}
		rate := lr.lr().At(step)
		norms = append(norms, adam.Step(grads, rate))
		m.Repack()
		losses, rates = append(losses, mean), append(rates, rate)
	}
	compare(d, "loss", losses)
	compare(d, "grad_norm", norms)
	compare(d, "lr", rates)
	d.compareParams("final.", m.Params)
	ids, targets := split(val, width)
	loss, err := tr.Loss(ids, targets, len(val)/width)
	if err != nil {
		return err
	}
	compare(d, "val_loss", []float64{loss})
	return d.decode(m)
}

// guidance is the guided phase of a run, nil where there is none. It takes the
// place of random numbers from the file.
func (d *data) guidance(s spec.Model) (*train.Guidance, error) {
	if !d.Training.guided() {
		return nil, nil
	}
	k := d.Training.Kwargs
	planned := d.Steps - d.Repeated
	if !(k.Ratio > 0 && k.Ratio <= 1) {
		return nil, fmt.Errorf("manifest.json: max_step_ratio %v is out of range", k.Ratio)
	}
	if c := s.Course(spec.Budget{Steps: planned, Batch: 1, Seq: 1, Guide: &spec.Guide{MaxStepRatio: k.Ratio, FixedFLOP: k.Mode == "fixedflop"}}); planned < 1 || c.Guided != d.Guided || c.Steps != d.Steps {
		return nil, fmt.Errorf("manifest.json: %d steps, %d guided and %d repeated do not follow from max_step_ratio %v and mode %q", d.Steps, d.Guided, d.Repeated, k.Ratio, k.Mode)
	}
	g := &train.Guidance{Steps: d.Guided, Course: k.Scheduler}
	var ratios []float64
	for step := range d.Guided {
		ratios = append(ratios, g.Ratio(step))
	}
	compare(d, "ratio", ratios)
	if !k.Reduce {
		return g, nil
	}
	n := len(s.Guides())
	u, err := d.floats("guide_u", d.Guided, d.Accum, n)
	if err != nil {
		return nil, err
	}
	g.Uniform = func(dst []float64, step, micro int) { copy(dst, wide(u[(step*d.Accum+micro)*len(dst):][:len(dst)])) }
	var used []int64
	for step := range d.Guided {
		for _, v := range u[step*d.Accum*n : (step+1)*d.Accum*n] {
			used = append(used, 0)
			if float64(v) < g.Ratio(step) {
				used[len(used)-1] = 1
			}
		}
	}
	same(d, "guide_used", used)
	return g, nil
}

// dropGuides ends the guided phase, after which the reference leaves the guides
// as they are.
func (d *data) dropGuides(m *model.Model, adam *train.AdamW, g *train.Guidance) error {
	for _, q := range m.Params.Guides() {
		compare(d, "final."+q.Name, m.Params.Get(q.Name))
		layer := "final." + strings.TrimSuffix(q.Name, "guide_linear")
		same(d, layer+"count", []int64{int64(g.Steps)})
		compare(d, layer+"ratio", []float64{g.Ratio(g.Steps)})
	}
	if err := m.DropGuides(); err != nil {
		return err
	}
	adam.DropGuides()
	return nil
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
