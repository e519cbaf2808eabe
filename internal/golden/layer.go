package golden

import (
	"fmt"
	"math"
	"slices"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model/initial"
	"github.com/structuredffn/sffn/model/train"
	rt "github.com/structuredffn/sffn/runtime"
)

// Linear is the layer of a case of kind layer, guided_layer or init.
func (c *Case) Linear() (spec.Linear, error) {
	l := spec.Linear{Kind: kind(c.Layer), In: c.In, Out: c.Out, Rank: c.Rank, Blocks: c.Blocks, Bias: c.Bias, Guide: c.Kind == "guided_layer"}
	if !c.ByRule {
		l.InSplit, l.OutSplit = c.InSplit, c.OutSplit
	}
	if c.RowBlocks != c.ColBlocks {
		l.Blocks, l.OutSplit = c.ColBlocks, c.RowBlocks
	}
	if err := l.Validate(); err != nil {
		return l, fmt.Errorf("manifest.json: %w", err)
	}
	return l, nil
}

// Network is the feed-forward network of a case of kind mlp or guided_mlp.
func (c *Case) Network() (spec.FFN, error) {
	f := spec.FFN{Kind: kind(c.Layer), Hidden: c.Hidden, FFN: c.FFN, Rank: c.Rank, Blocks: c.Blocks, Act: spec.Act(c.Act), Bias: c.Bias, Guide: c.Kind == "guided_mlp"}
	if err := f.Validate(); err != nil {
		return f, fmt.Errorf("manifest.json: %w", err)
	}
	return f, nil
}

// weights reads the parameters of a layer, and makes room for their
// gradients.
func (d *data) weights(l spec.Linear, prefix string) (w, g rt.Weights, err error) {
	for _, p := range l.Params() {
		x, err := d.floats("param."+prefix+p.Name, p.Shape...)
		if err != nil {
			return w, g, err
		}
		if p.Name == "bias" {
			w.Bias, g.Bias = x, make([]float32, len(x))
			continue
		}
		w.Factors = append(w.Factors, x)
		g.Factors = append(g.Factors, make([]float32, len(x)))
	}
	if l.Guide {
		p := l.GuideParam()
		if w.Guide, err = d.floats("param."+prefix+p.Name, p.Shape...); err != nil {
			return w, g, err
		}
		g.Guide = make([]float32, len(w.Guide))
	}
	return w, g, nil
}

// guide reads how a layer's guide is mixed in.
func (d *data) guide(guided bool, name string) (rt.Guide, error) {
	if !guided {
		return rt.Guide{}, nil
	}
	a, err := d.floats(name)
	if err != nil {
		return rt.Guide{}, err
	}
	return rt.Guide{On: true, Ratio: a[0]}, nil
}

func (d *data) compareGradients(l spec.Linear, prefix string, g rt.Weights) {
	for i, f := range l.Chain() {
		compare(d, "grad."+prefix+f.Param, g.Factors[i])
	}
	if l.Bias {
		compare(d, "grad."+prefix+"bias", g.Bias)
	}
	if l.Guide {
		compare(d, "grad."+prefix+l.GuideParam().Name, g.Guide)
	}
}

func layerCase(d *data, opt rt.Options) error {
	l, err := d.Linear()
	if err != nil {
		return err
	}
	w, g, err := d.weights(l, "")
	if err != nil {
		return err
	}
	x, m, err := d.rows("x", l.In)
	if err != nil {
		return err
	}
	dy, err := d.floats("dy", m, l.Out)
	if err != nil {
		return err
	}
	guide, err := d.guide(l.Guide, "ratio")
	if err != nil {
		return err
	}
	opt.Train = true
	layer, err := rt.NewLinear(l, w, opt)
	if err != nil {
		return err
	}
	defer layer.Close()
	layer.SetGuide(guide)
	ws, saved := layer.NewWorkspace(), layer.NewSaved(m)
	defer ws.Close()
	defer saved.Close()
	y, dx := make([]float32, m*l.Out), make([]float32, m*l.In)
	layer.Forward(y, x, nil, m, saved, ws)
	layer.Backward(dx, g, dy, x, m, saved, false, ws)
	compare(d, "y", y)
	compare(d, "dx", dx)
	d.compareGradients(l, "", g)
	merged, err := rt.Merge(l, w, opt)
	if err != nil {
		return err
	}
	compare(d, "W", merged)
	return nil
}

func mlpCase(d *data, opt rt.Options) error {
	f, err := d.Network()
	if err != nil {
		return err
	}
	var w, g rt.FFNWeights
	if w.FC1, g.FC1, err = d.weights(f.FC1(), "fc1."); err != nil {
		return err
	}
	if w.FC2, g.FC2, err = d.weights(f.FC2(), "fc2."); err != nil {
		return err
	}
	x, m, err := d.rows("x", f.Hidden)
	if err != nil {
		return err
	}
	dy, err := d.floats("dy", m, f.Hidden)
	if err != nil {
		return err
	}
	guide, err := d.guide(f.Guide, "ratio")
	if err != nil {
		return err
	}
	opt.Train = true
	ffn, err := rt.NewFFN(f, w, opt)
	if err != nil {
		return err
	}
	defer ffn.Close()
	ffn.SetGuides(guide, guide)
	ws, saved := ffn.NewWorkspace(), ffn.NewSaved(m)
	defer ws.Close()
	defer saved.Close()
	y, dx := make([]float32, len(x)), make([]float32, len(x))
	ffn.Forward(y, x, nil, m, saved, ws)
	ffn.Backward(dx, g, dy, x, m, saved, false, ws)
	compare(d, "y", y)
	compare(d, "dx", dx)
	d.compareGradients(f.FC1(), "fc1.", g.FC1)
	d.compareGradients(f.FC2(), "fc2.", g.FC2)
	return nil
}

func initCase(d *data, opt rt.Options) error {
	l, err := d.Linear()
	if err != nil {
		return err
	}
	var factors [][]float64
	if l.Kind == spec.LowRank {
		raw, err := d.floats("raw.dense", l.Out, l.In)
		if err != nil {
			return err
		}
		lr1, lr2, s := initial.LowRank(wide(raw), l.Out, l.In, l.Rank)
		compare(d, "svals", s)
		compare(d, "gram_lr1", rowGram(lr1, l.Rank, l.In))
		compare(d, "gram_lr2", rowGram(transpose(lr2, l.Out, l.Rank), l.Rank, l.Out))
		if err := d.compareExample(l, lr1, lr2); err != nil {
			return err
		}
		factors = [][]float64{lr1, lr2}
	} else {
		for _, f := range l.Chain() {
			raw, err := d.floats("raw."+f.Param, f.Shape...)
			if err != nil {
				return err
			}
			w := initial.OrthoBlocks(wide(raw), f)
			compare(d, "init."+f.Param, w)
			factors = append(factors, w)
		}
	}
	compare(d, "guide_init", initial.PublishedGuide(l, factors))
	compare(d, "W", initial.Merged(l, factors))
	var narrow [][]float32
	for _, w := range factors {
		narrow = append(narrow, round(w))
	}
	merged, err := rt.Merge(l, rt.Weights{Factors: narrow}, opt)
	if err != nil {
		return err
	}
	compare(d, "W", merged)
	return d.checkDeviations(l)
}

// compareExample holds the factors against the reference's, each component
// with the sign that the reference happened to choose.
func (d *data) compareExample(l spec.Linear, lr1, lr2 []float64) error {
	want, err := d.floats("example.lr1", l.Rank, l.In)
	if err != nil {
		return err
	}
	a, b := slices.Clone(lr1), slices.Clone(lr2)
	for j := range l.Rank {
		dot := 0.0
		for i := range l.In {
			dot += a[j*l.In+i] * float64(want[j*l.In+i])
		}
		if dot < 0 {
			for i := range l.In {
				a[j*l.In+i] *= -1
			}
			for i := range l.Out {
				b[i*l.Rank+j] *= -1
			}
		}
	}
	compare(d, "example.lr1", a)
	compare(d, "example.lr2", b)
	return nil
}

// checkDeviations holds the deviations that the initialiser would draw with
// against the reference's: of each factor, and of the guide or dense draw.
func (d *data) checkDeviations(l spec.Linear) error {
	dev := initial.Fixed(d.InitRange)
	if d.WeightInit == "xavier" {
		dev = initial.FanIn
	}
	var want []float64
	for _, f := range l.Chain() {
		want = append(want, dev(f.In))
	}
	if l.Kind == spec.LowRank {
		want = append(want, dev(l.In))
	}
	if !slices.EqualFunc(want, d.DrawStds, func(a, b float64) bool { return math.Abs(a-b) <= 1e-15 }) {
		return fmt.Errorf("draw_stds: %v, want %v", want, d.DrawStds)
	}
	return nil
}

// rowGram is a a^T of a [n, width].
func rowGram(a []float64, n, width int) []float64 {
	g := make([]float64, n*n)
	for i := range n {
		for j := range n {
			for k := range width {
				g[i*n+j] += a[i*width+k] * a[j*width+k]
			}
		}
	}
	return g
}

func transpose(a []float64, rows, cols int) []float64 {
	t := make([]float64, len(a))
	for i := range rows {
		for j := range cols {
			t[j*rows+i] = a[i*cols+j]
		}
	}
	return t
}

func wide(x []float32) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = float64(v)
	}
	return y
}

func round(x []float64) []float32 {
	y := make([]float32, len(x))
	for i, v := range x {
		y[i] = float32(v)
	}
	return y
}

func ratioCase(d *data, _ rt.Options) error {
	for _, course := range []train.GuideSchedule{train.GuideCosine, train.GuideLinear} {
		for _, total := range d.TMax {
			key := fmt.Sprintf("%s.%d", course, total)
			steps, err := d.file.Int64s("steps." + key)
			if err != nil {
				return err
			}
			var got []float64
			for _, t := range steps {
				got = append(got, course.Ratio(int(t), total))
			}
			compare(d, "ratio."+key, got)
		}
	}
	return nil
}

func lrCase(d *data, _ rt.Options) error {
	for _, s := range d.Schedules {
		steps, err := d.file.Int64s(fmt.Sprintf("steps.%d", s.Index))
		if err != nil {
			return err
		}
		var got []float64
		for _, t := range steps {
			got = append(got, s.lr().At(int(t)))
		}
		compare(d, fmt.Sprintf("lr.%d", s.Index), got)
	}
	return nil
}

func (s scheduleSpec) lr() train.LRSchedule {
	return train.LRSchedule{Peak: s.LR, Min: s.EtaMin, Warmup: s.Warmup, Total: s.TMax}
}
