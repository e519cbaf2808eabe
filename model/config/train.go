package config

import (
	"errors"
	"fmt"
	"math"

	"github.com/structuredffn/sffn/gen/spec"
)

// Train are the settings of a training run.
//
// The comments on the fields make docs/config.md, as those of [specfile.Section] do.
type Train struct {
	// Steps is the number of updates of the weights.
	Steps int `yaml:"steps"` // steps; 1 to 2^40
	// Batch is the number of sequences in a micro-batch, which is what memory has
	// to hold. All sequences of a step are at most 2^40 tokens.
	Batch int `yaml:"batch"` // sequences; 1 to 2^40
	// Accumulate is the number of micro-batches whose gradients make a step.
	Accumulate int `yaml:"accumulate"` // micro-batches; 1 to 2^40
	// Seq is the length of a sequence.
	Seq int `yaml:"seq"` // tokens; 1 to MaxPositions; 256 or MaxPositions, the smaller
	// LR is the peak of the learning rate, which rises to it along a line.
	LR float64 `yaml:"lr"` // above 0, at most 1000
	// MinLR is what is left of the peak at the end.
	MinLR float64 `yaml:"min_lr"` // share of LR; 0 to 1
	// Warmup is how long the learning rate rises.
	Warmup float64 `yaml:"warmup"` // share of Steps; 0 to 1
	// Schedule is the course of the learning rate after Warmup: along half a cosine to
	// the end (cosine), or the peak until Decay (wsd).
	Schedule string `yaml:"schedule"` // cosine, wsd
	// Decay is how long the learning rate of wsd falls, at the end: with one minus the
	// root of the share that has passed. Together with Warmup it is at most 1.
	Decay float64 `yaml:"decay"` // share of Steps; 0 to 1

	// UniformLR gives all factors the same learning rate. Otherwise those of {rated}
	// have multiples of it that their widths decide.
	UniformLR bool `yaml:"uniform_lr,omitempty"`

	// WeightDecay is AdamW's decoupled decay, of matrices: embeddings and the weights
	// of linears.
	WeightDecay float64 `yaml:"weight_decay"` // per step and LR; 0 to 1000
	// DecayAll decays the weights of norms and the biases too.
	DecayAll bool `yaml:"decay_all,omitempty"`
	// Beta1 is the decay of AdamW's first moment.
	Beta1 float64 `yaml:"beta1"` // per step; 0 to 0.999999
	// Beta2 is the decay of AdamW's second moment.
	Beta2 float64 `yaml:"beta2"` // per step; 0 to 0.9999999
	// Eps is added to the root of AdamW's second moment.
	Eps float64 `yaml:"eps"` // 2^-149 to 1
	// Clip is the largest global norm of the gradients; larger ones are scaled
	// down to it.
	Clip float64 `yaml:"clip"` // L2 norm; 1e-12 to 1e12
	// Dropout is how much is dropped of the embeddings, and of what attention and the
	// feed-forward networks add to the residual stream; attention's own probabilities
	// stay whole.
	Dropout float64 `yaml:"dropout,omitempty"` // share; 0 to 0.99
	// Seed decides the initial weights, the order of the data, the guides' draws and
	// what is dropped.
	Seed uint64 `yaml:"seed"` // 0 to 2^64-1
	// EvalEvery is how often the validation loss is measured; it always is at the
	// end, and 0 means only there.
	EvalEvery int `yaml:"eval_every"` // steps; 0 to 2^40
	// EvalTokens is how much of the validation split that takes, at least one
	// sequence.
	EvalTokens int `yaml:"eval_tokens"` // tokens; 0 to 2^40
	// NormEvery is how often the norms of gradients and weights are logged by kind
	// of layer; 0 is never.
	NormEvery int `yaml:"norm_every"` // steps; 0 to 2^40
	// SpikeThreshold is how far above the losses before it a loss counts as a
	// spike; 0 is never.
	SpikeThreshold float64 `yaml:"spike_threshold"` // standard deviations; 0 to 1e9
	// SpikePatience is how long a spike may last before the run halts; with 0 it
	// never does.
	SpikePatience int `yaml:"spike_patience"` // steps; 0 to 2^40
	// Recompute keeps only the layers' inputs for the backward pass, which
	// computes the rest again: less memory, more time, the same bits.
	Recompute bool `yaml:"recompute,omitempty"`
	// Precision is what products multiply: float32, or factors that are rounded to bfloat16
	// (bf16) in the forward pass and both gradients. Sums, weights, gradients, moments,
	// norms, attention and the loss stay float32.
	Precision string `yaml:"precision"` // float32, bf16
	// Guide turns on self-guided training: the keys that follow.
	Guide Guide `yaml:"guide,omitempty"` // no guides
}

// Guide are the settings of self-guided training (paper, section 5). The zero
// value is training without guides.
type Guide struct {
	// MaxStepRatio is the guided part of training.
	MaxStepRatio float64 `yaml:"max_step_ratio"` // share of Steps; above 0, at most 1
	// Schedule is the course of the guide's ratio from 1 to 0.
	Schedule string `yaml:"schedule"` // cosine, linear
	// Mode says whether as many steps as were guided follow after Steps, on the
	// data of the first ones (fixedflop), or none (fixedstep).
	Mode string `yaml:"mode"` // fixedstep, fixedflop
	// ReduceFLOP leaves guides out at random, the more the smaller their ratio.
	ReduceFLOP bool `yaml:"reduce_flop"`
	// Start is the guide's first value: the matrix that the factors amount to
	// (merged), or the product that the paper's code takes, which
	// leaves out the shuffles of kinds that have them (published).
	Start string `yaml:"start"` // merged, published
}

// UnmarshalYAML fills in what a guide section leaves out.
func (g *Guide) UnmarshalYAML(unmarshal func(any) error) error {
	type plain Guide
	p := plain{MaxStepRatio: 0.5, Schedule: "cosine", Mode: "fixedstep", Start: "merged"}
	if err := unmarshal(&p); err != nil {
		return err
	}
	*g = Guide(p)
	return nil
}

// On reports whether anything is guided.
func (g Guide) On() bool { return g != Guide{} }

// unset is the length of sequences where none is given: its default depends on
// the model.
const unset = math.MinInt

// newTrain returns the defaults: the settings of the paper's runs, but for the decay
// of norms and biases.
func newTrain() Train {
	return Train{Steps: 1000, Batch: 1, Accumulate: 1, Seq: unset, LR: 6e-4, MinLR: 0.1, Warmup: 0.1, Schedule: "cosine", Decay: 0.2, Precision: Float32,
		WeightDecay: 0.1, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, Clip: 1, Seed: 1, EvalTokens: 1 << 16,
		NormEvery: 10, SpikeThreshold: 8, SpikePatience: 100}
}

// maxStep bounds the tokens of a step, so that no count of them overflows.
const maxStep = 1 << 40

// The values of Train.Precision.
const (
	Float32 = "float32"
	BF16    = "bf16"
)

func (t Train) validate(m spec.Model) error {
	var errs []error
	fail := func(field, format string, args ...any) {
		errs = append(errs, &spec.FieldError{Field: field, Msg: fmt.Sprintf(format, args...)})
	}
	count := func(field string, v, lo int) {
		if v < lo || v > 1<<40 {
			fail(field, "%d is out of range, want %d or more", v, lo)
		}
	}
	count("steps", t.Steps, 1)
	count("batch", t.Batch, 1)
	count("accumulate", t.Accumulate, 1)
	count("seq", t.Seq, 1)
	if n := float64(t.Batch) * float64(t.Accumulate) * float64(t.Seq); n > maxStep {
		fail("batch", "%d sequences of %d tokens, %d times a step, are %.3g tokens, want at most %d", t.Batch, t.Seq, t.Accumulate, n, int64(maxStep))
	}
	count("eval_every", t.EvalEvery, 0)
	count("eval_tokens", t.EvalTokens, 0)
	count("norm_every", t.NormEvery, 0)
	count("spike_patience", t.SpikePatience, 0)
	if t.Seq > m.MaxPositions {
		fail("seq", "%d is more than the model's max_positions %d", t.Seq, m.MaxPositions)
	}
	within := func(field string, v, lo, hi float64) {
		if !(v >= lo && v <= hi) {
			fail(field, "%v is out of range, want %v to %v", v, lo, hi)
		}
	}
	within("lr", t.LR, math.SmallestNonzeroFloat64, 1e3)
	within("min_lr", t.MinLR, 0, 1)
	within("warmup", t.Warmup, 0, 1)
	within("decay", t.Decay, 0, 1)
	if t.Precision != Float32 && t.Precision != BF16 {
		fail("precision", "unknown precision %q; valid are %s, %s", t.Precision, Float32, BF16)
	}
	if t.Schedule != "cosine" && t.Schedule != "wsd" {
		fail("schedule", "unknown schedule %q; valid are cosine, wsd", t.Schedule)
	} else if t.Schedule == "wsd" && t.Warmup >= 0 && t.Warmup <= 1 && t.Decay <= 1 && t.Warmup+t.Decay > 1 {
		fail("decay", "%v of the steps, after a warmup of %v, are more than all", t.Decay, t.Warmup)
	}
	within("weight_decay", t.WeightDecay, 0, 1e3)
	within("dropout", t.Dropout, 0, 0.99)
	within("beta1", t.Beta1, 0, 0.999999)
	within("beta2", t.Beta2, 0, 0.9999999)
	within("eps", t.Eps, math.SmallestNonzeroFloat32, 1)
	within("clip", t.Clip, 1e-12, 1e12)
	within("spike_threshold", t.SpikeThreshold, 0, 1e9)
	if t.Guide.On() {
		errs = append(errs, t.Guide.validate(m))
	}
	return errors.Join(errs...)
}

func (g Guide) validate(m spec.Model) error {
	var errs []error
	if !(g.MaxStepRatio > 0 && g.MaxStepRatio <= 1) {
		errs = append(errs, &spec.FieldError{Field: "guide.max_step_ratio", Msg: fmt.Sprintf("%v is out of range, want more than 0, at most 1", g.MaxStepRatio)})
	}
	for _, f := range []struct {
		name, got string
		valid     [2]string
	}{{"schedule", g.Schedule, [2]string{"cosine", "linear"}}, {"mode", g.Mode, [2]string{"fixedstep", "fixedflop"}}, {"start", g.Start, [2]string{"merged", "published"}}} {
		if f.got != f.valid[0] && f.got != f.valid[1] {
			errs = append(errs, &spec.FieldError{Field: "guide." + f.name, Msg: fmt.Sprintf("unknown %s %q; valid are %s, %s", f.name, f.got, f.valid[0], f.valid[1])})
		}
	}
	if !m.Structured() {
		errs = append(errs, &spec.FieldError{Field: "guide", Msg: "no layer of the model is structured, so that there is nothing to guide; leave it out"})
	}
	return errors.Join(errs...)
}
