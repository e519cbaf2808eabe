package train

import (
	"errors"
	"math"
	"time"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/config"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// Engine computes the steps of a run: this machine's CPU, or a device.
type Engine interface {
	// Backward runs batch sequences forward and backward. It returns their mean
	// cross entropy, over the targets that are not [model.Ignored], and keeps the gradients of scale times it: added to those
	// that are there where accumulate.
	Backward(ids, targets []int32, batch int, scale float64, accumulate bool) (loss float64, err error)
	// Step updates the parameters and returns the norm of the gradients before
	// clipping; where that is not finite, it leaves everything as it is.
	Step(lr float64) (norm float64, err error)
	Evaluator
	// Norms are the L2 norms of the gradients and of the parameters, by LayerKind.
	Norms() (grads, weights map[string]float64, err error)
	// Fetch leaves parameters and moments where Start had them.
	Fetch() error
	// Close frees the engine, not what Start had.
	Close()
}

// Evaluator computes losses: an engine, or a model's trace.
type Evaluator interface {
	// Loss is the mean cross entropy of batch sequences, as Backward has it.
	Loss(ids, targets []int32, batch int) (float64, error)
}

// Start is what an engine begins with. Parameters and moments are the host's;
// where M or V is nil, those moments are 0 and nobody fetches them. Steps counts
// the updates that the moments have seen.
type Start struct {
	Spec         spec.Model
	Params, M, V *model.Params
	Steps        int
	Train        config.Train
}

// CPU is the engine of the CPU's kernels. Grads are those that Backward keeps.
type CPU struct {
	Model *model.Model
	Grads *model.Params
	adam  *AdamW
	trace *model.Trace
}

// NewCPU returns an engine of parameters, with zero moments and room for
// micro-batches of the configuration's size.
func NewCPU(m spec.Model, p *model.Params, t config.Train, opt rt.Options) (*CPU, error) {
	opt.Train, opt.Format = true, Format(t)
	mod, err := model.New(m, p, opt)
	if err != nil {
		return nil, err
	}
	c := &CPU{Model: mod, Grads: model.NewParams(m), adam: NewAdamW(mod, t.Beta1, t.Beta2, t.Eps, t.WeightDecay, t.Clip)}
	c.adam.UniformLR, c.adam.DecayMatrices = t.UniformLR, !t.DecayAll
	if rows := t.Batch * t.Seq; t.Recompute {
		c.trace = mod.NewRecomputingTrace(rows)
	} else {
		c.trace = mod.NewTrace(rows)
	}
	return c, nil
}

// Format is that of the products of training.
func Format(t config.Train) kernel.FormatName {
	if t.Precision == config.BF16 {
		return kernel.BF16
	}
	return kernel.F32
}

// Backward is that of [Engine].
func (c *CPU) Backward(ids, targets []int32, batch int, scale float64, accumulate bool) (float64, error) {
	return c.trace.Backward(c.Grads, ids, targets, batch, scale, accumulate)
}

// Step is that of [Engine].
func (c *CPU) Step(lr float64) (float64, error) {
	start := time.Now()
	norm := c.adam.Step(c.Grads, lr)
	c.Model.Profile().Optimizer += time.Since(start)
	if !math.IsNaN(norm) && !math.IsInf(norm, 0) {
		c.Model.Repack()
	}
	return norm, nil
}

// Loss is that of [Engine].
func (c *CPU) Loss(ids, targets []int32, batch int) (float64, error) {
	return c.trace.Loss(ids, targets, batch)
}

// Norms is that of [Engine].
func (c *CPU) Norms() (grads, weights map[string]float64, err error) {
	return norms(c.Model, c.Grads), norms(c.Model, c.Model.Params), nil
}

// Fetch is that of [Engine]: nothing is anywhere else.
func (c *CPU) Fetch() error { return nil }

// Close is that of [Engine].
func (c *CPU) Close() {
	c.trace.Close()
	c.adam.Close()
	c.Grads.Close()
	c.Model.Close()
}

// dropGuides ends the guided phase.
func (c *CPU) dropGuides() error {
	if err := c.Model.DropGuides(); err != nil {
		return err
	}
	c.adam.DropGuides()
	c.Grads.Close()
	c.Grads = model.NewParams(c.Model.Spec)
	return nil
}

// CheckDevice says what of a run no device computes.
func (r *Run) CheckDevice() error {
	switch t := r.Config.Train; {
	case r.Config.Course().Guided > 0:
		return errors.New("guide: self-guided training runs on the CPU only")
	case !t.UniformLR && len(r.Config.Model.Rates(spec.Linear.Rates)) > 0:
		return errors.New("mlp: only the CPU updates kinds whose factors have learning rates of their own; uniform_lr leaves these out")
	case t.Dropout > 0:
		return errors.New("dropout: only the CPU drops anything")
	case t.Precision == config.BF16:
		return errors.New("precision: that of the CPU; a device multiplies in bf16 where its kernels do")
	case t.Recompute:
		return errors.New("recompute: only the CPU computes activations again")
	case r.Reduce != nil:
		return errors.New("gradients of several processes are reduced on the CPU only")
	}
	return nil
}
