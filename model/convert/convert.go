// Package convert makes structured models of dense ones, layer by layer, and, with text to
// calibrate on, by what each layer gives on it.
package convert

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/checkpoint"
	"github.com/structuredffn/sffn/model/decode"
	"github.com/structuredffn/sffn/model/project"
	"github.com/structuredffn/sffn/model/safetensors"
	rt "github.com/structuredffn/sffn/runtime"
)

// Conversion makes a structured model of a dense one.
type Conversion struct {
	From *decode.Checkpoint
	Aim  Aim
	// Calibration is nil where the weights alone are looked at.
	Calibration *Calibration
	// Options say how; results do not depend on the threads.
	Options rt.Options
	// Progress, where not nil, is told how many steps are done.
	Progress func(done int)

	run      string
	to       spec.Model
	done, of int
	sweeps   int // of projections, 0 for as many as it takes
}

func (c *Conversion) step() {
	c.done++
	if c.Progress != nil {
		c.Progress(c.done)
	}
}

// Begin looks at what is asked for, before any work: it says how many steps there are.
// The run's folder may have no checkpoint yet.
func (c *Conversion) Begin(run string) (steps int, err error) {
	if err := c.From.State.Trainable(c.From.Dir); err != nil {
		return 0, err
	}
	if err := checkpoint.Vacant(run); err != nil {
		return 0, err
	}
	if c.to, err = c.Aim.Model(c.From.Config.Model); err != nil {
		return 0, err
	}
	c.run, c.done, c.of = run, 0, len(c.Aim.changed(c.to))
	if c.Calibration != nil {
		if err := c.Calibration.check(c.to); err != nil {
			return 0, err
		}
		c.of += c.to.Layers
		if c.allots() {
			c.of += c.to.Layers
		}
	}
	return c.of, nil
}

// whitens says that projections follow the calibration.
func (c *Conversion) whitens() bool { return c.Calibration != nil && c.Calibration.Whiten }

// allots says that layers get ranks of their own.
func (c *Conversion) allots() bool {
	return c.Calibration != nil && c.Calibration.Allot && c.Aim.Budget > 0 && c.Aim.Kind != spec.Dense
}

// Run converts the model, and writes it as a checkpoint of step 0 into the folder of
// the run, after Begin. Beside the converted weights it holds the dense ones of one
// layer, in float64, and with a calibration the dense model, two rows of each token's
// hidden width, and the moments of one layer.
func (c *Conversion) Run(ctx context.Context) (*Report, error) {
	from := c.From.Config.Model
	w, err := checkpoint.OpenWeights(c.From.Dir)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	r := &Report{From: c.From.Dir, Kind: c.Aim.Kind}
	if c.allots() {
		if err := c.allot(ctx, w, r); err != nil {
			return nil, err
		}
	}
	to := c.to
	var text *Stream
	if c.Calibration != nil {
		m, err := c.From.Load(c.Options)
		if err != nil {
			return nil, err
		}
		defer m.Close()
		if text, err = NewStream(m, c.Calibration); err != nil {
			return nil, err
		}
		defer text.Close()
	}
	converted := map[string][]float32{} // by the names of parameters
	for i := range to.Layers {
		if text != nil {
			if err := text.mix(ctx, i); err != nil {
				return nil, err
			}
			c.step()
		}
		if to.LayerFFN(i) == from.LayerFFN(i) {
			r.Layers = append(r.Layers, LayerReport{Layer: i, Structure: to.Structure(i)})
			if !c.Aim.kept(i) {
				c.step()
			}
			if text != nil {
				if err := text.advance(ctx, text.m.FFN(i)); err != nil {
					return nil, err
				}
			}
			continue
		}
		err := model.WithNetwork(from, i, w.Read, func(dense rt.FFNWeights) error {
			l, err := c.layer(ctx, to.LayerFFN(i), from.LayerFFN(i), dense, text)
			if err != nil {
				return fmt.Errorf("layer %d: %w", i, err)
			}
			l.put(converted, i, to)
			r.Layers = append(r.Layers, l.report(i, to))
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return r, c.save(ctx, r, w, converted)
}

// network is a feed-forward network that was converted.
type network struct {
	rt.FFNWeights
	fc1, fc2 project.Projection
}

// layer converts a network. text, where not nil, stands before it, and passes it.
func (c *Conversion) layer(ctx context.Context, to, from spec.FFN, w rt.FFNWeights, text *Stream) (network, error) {
	n, err := c.convert(ctx, to, from, w, text)
	if err != nil {
		return n, err
	}
	c.step()
	return n, c.pass(ctx, to, n, text)
}

// convert is layer without a step of the text.
func (c *Conversion) convert(ctx context.Context, to, from spec.FFN, w rt.FFNWeights, text *Stream) (n network, err error) {
	var moments *project.Moments
	if to.Kind == spec.Dense {
		if text != nil {
			if moments, err = text.activations(ctx, from, w.FC1); err != nil {
				return n, err
			}
		}
		return c.narrow(ctx, to, from, w, moments)
	}
	if text != nil {
		if moments, err = text.inputs(ctx); err != nil {
			return n, err
		}
	}
	if n.FC1, n.fc1, err = c.linear(ctx, to.FC1(), w.FC1, moments); err != nil {
		return n, fmt.Errorf("fc1: %w", err)
	}
	if text != nil {
		if moments, err = text.activations(ctx, to, n.FC1); err != nil {
			return n, err
		}
	}
	if n.FC2, n.fc2, err = c.linear(ctx, to.FC2(), w.FC2, moments); err != nil {
		return n, fmt.Errorf("fc2: %w", err)
	}
	return n, nil
}

// pass sends the text through a network that was converted.
func (c *Conversion) pass(ctx context.Context, f spec.FFN, n network, text *Stream) error {
	if text == nil {
		return nil
	}
	ffn, err := rt.NewFFN(f, n.FFNWeights, c.Options)
	if err != nil {
		return err
	}
	defer ffn.Close()
	return text.advance(ctx, ffn)
}

func (c *Conversion) linear(ctx context.Context, to spec.Linear, w rt.Weights, moments *project.Moments) (out rt.Weights, p project.Projection, err error) {
	goal := project.Goal{Measure: moments, Sweeps: c.sweeps}
	if c.whitens() {
		goal.Follow = moments
	}
	if p, err = project.Project(ctx, to, wide(w.Factors[0]), goal, c.Options); err != nil {
		return out, p, err
	}
	out.Bias = slices.Clone(w.Bias)
	for _, f := range p.Factors {
		out.Factors = append(out.Factors, single(f))
	}
	p.Factors = nil
	return out, p, nil
}

func wide(x []float32) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = float64(v)
	}
	return y
}

func single(x []float64) []float32 {
	y := make([]float32, len(x))
	for i, v := range x {
		y[i] = float32(v)
	}
	return y
}

// put names the parameters of layer i.
func (n network) put(all map[string][]float32, i int, m spec.Model) {
	f := m.LayerFFN(i)
	for _, l := range []struct {
		name string
		spec spec.Linear
		w    rt.Weights
	}{{"fc1", f.FC1(), n.FC1}, {"fc2", f.FC2(), n.FC2}} {
		name := model.LayerName(i) + ".mlp." + l.name + "."
		for j, factor := range l.spec.Chain() {
			all[name+factor.Param] = l.w.Factors[j]
		}
		if l.spec.Bias {
			all[name+"bias"] = l.w.Bias
		}
	}
}

// save writes the checkpoint; what was not converted goes through a tensor at a time.
func (c *Conversion) save(ctx context.Context, r *Report, w *checkpoint.Weights, converted map[string][]float32) error {
	m := c.to
	config, err := c.From.Config.WithNetworks(m)
	if err != nil {
		return err
	}
	if !config.Model.SameLayers(m) {
		return errors.New("convert: the configuration does not say what the model is")
	}
	var values []safetensors.Value
	for _, q := range m.Params() {
		v := safetensors.Value{Name: q.Name, Shape: q.Shape, Data: converted[q.Name]}
		if v.Data == nil {
			v.Stream = func(write func([]float32) error) error {
				if err := ctx.Err(); err != nil {
					return err
				}
				x := make([]float32, q.Size())
				if err := w.Read(x, q); err != nil {
					return err
				}
				return write(x)
			}
		}
		values = append(values, v)
	}
	state := checkpoint.State{Name: c.From.State.Name + "-" + string(r.Kind), Steps: config.Train.Steps}
	r.count(m, c.From.Config.Model)
	r.Out, err = checkpoint.SaveWeights(c.run, config.Source, state, c.From.Tokenizer, values)
	return err
}
