package train

import (
	"fmt"
	"io"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/term"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/config"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// Cost is the size of a model, and what its training takes.
type Cost struct {
	Name                    string       `json:"name"`
	Params                  int64        `json:"params"`
	FormulaParams           int64        `json:"formula_params"`
	FormulaWithoutEmbedding int64        `json:"formula_params_without_embedding"`
	MLPWeights              int64        `json:"mlp_weight_params"`
	Batch                   int          `json:"batch"`
	Seq                     int          `json:"seq"`
	ForwardFLOPs            float64      `json:"forward_flops"` // of Batch sequences of Seq tokens
	MLPFLOPs                float64      `json:"mlp_flops"`
	TrainFLOPs              float64      `json:"train_flops"` // of all steps
	Steps                   int          `json:"steps"`       // guided and repeated ones included
	GuidedSteps             int          `json:"guided_steps"`
	GuideParams             int64        `json:"guide_params"` // part of all counts above, gone after the guided phase
	Recompute               bool         `json:"recompute"`    // activations are computed again
	Memory                  model.Memory `json:"memory"`
	TrainMemory             int64        `json:"train_memory"`
	Running                 []Running    `json:"running"` // in each format
	Structures              []Stretch    `json:"structures"`
	spec.Form
}

// Running is the memory of the weights of a model that decodes, as packs of a format and
// what is read where it lies.
type Running struct {
	Format kernel.FormatName `json:"format"`
	Bytes  int64             `json:"bytes"`
}

// Stretch is a run of layers whose networks are of one structure: First to Last,
// counted from 0.
type Stretch struct {
	First int `json:"first_layer"`
	Last  int `json:"last_layer"`
	spec.Structure
}

// NewCost counts what a configuration takes on so many threads.
func NewCost(c *config.Config, threads int) Cost {
	n, t, course := c.Model.Count(), c.Train, c.Course()
	mem := model.PredictMemory(c.Model, Format(t), true, t.Recompute, threads)
	plain := c.Model
	plain.Guided = false // guides are gone after training
	var running []Running
	for _, f := range kernel.Formats() {
		m := model.PredictMemory(plain, f, false, false, threads)
		running = append(running, Running{f, m.Weights + m.Packs})
	}
	guides := int64(0)
	if c.Model.Guided {
		guides = c.Model.GuideParams()
	}
	var structures []Stretch
	for _, s := range c.Model.Stretches() {
		structures = append(structures, Stretch{s.First, s.Last, s.Structure()})
	}
	return Cost{
		Structures: structures, Form: c.Model.Form(),
		Name: c.Model.Name, Params: n.Total, FormulaParams: n.Formula, FormulaWithoutEmbedding: n.FormulaWithoutEmbedding, MLPWeights: n.MLPWeights,
		Batch: t.Batch, Seq: t.Seq, ForwardFLOPs: c.Model.ForwardFLOPs(t.Batch, t.Seq), MLPFLOPs: c.Model.MLPFLOPs(t.Batch, t.Seq),
		TrainFLOPs: course.FLOPs, Steps: course.Steps, GuidedSteps: course.Guided, GuideParams: guides,
		Recompute: t.Recompute, Memory: mem, TrainMemory: mem.Total(t.Batch * t.Seq), Running: running,
	}
}

// Print writes the cost, a line for each figure.
func (c Cost) Print(w io.Writer) error {
	mib := func(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
	fmt.Fprintf(w, "%s\n\n", c.Name)
	activations := "activations of a token"
	if c.Recompute {
		activations += ", recomputed"
	}
	rows := [][]string{
		{"parameters", fmt.Sprint(c.Params)},
		{"weights, embedding counted once", fmt.Sprint(c.FormulaParams)},
		{"feed-forward weights", fmt.Sprint(c.MLPWeights)},
		{fmt.Sprintf("forward FLOPs of %d x %d tokens", c.Batch, c.Seq), flops(c.ForwardFLOPs)},
		{"of them feed-forward", flops(c.MLPFLOPs)},
		{fmt.Sprintf("FLOPs of %d training steps", c.Steps), fmt.Sprintf("%.4g", c.TrainFLOPs)},
		{"guided steps", fmt.Sprint(c.GuidedSteps)},
		{"guides, while they last", fmt.Sprint(c.GuideParams)},
		{"memory: weights", mib(c.Memory.Weights)},
		{"packed for the kernels", mib(c.Memory.Packs)},
		{"gradients", mib(c.Memory.Gradients)},
		{"moments", mib(c.Memory.Moments)},
		{activations, fmt.Sprintf("%.1f KiB", float64(c.Memory.PerToken)/(1<<10))},
		{"training in all", mib(c.TrainMemory)},
		{"merged for decoding, in addition", mib(c.Memory.Merged)},
	}
	for _, r := range c.Running {
		rows = append(rows, []string{fmt.Sprintf("weights to decode with --format %s", r.Format), mib(r.Bytes)})
	}
	rows = append(rows, [][]string{{"attention", c.Attention}, {"positions", c.Positions}, {"norms", c.Norms}, {"biases", c.Biases}}...)
	for _, r := range rows {
		fmt.Fprintf(w, "%34s  %s\n", r[0], r[1])
	}
	fmt.Fprintln(w)
	structures := [][]string{{"layers", "feed-forward network"}}
	for _, s := range c.Structures {
		layers := fmt.Sprint(s.First)
		if s.Last > s.First {
			layers += fmt.Sprintf(" to %d", s.Last)
		}
		structures = append(structures, []string{layers, s.Text()})
	}
	return term.Table(w, structures)
}

// flops writes a count exactly as far as it is exact.
func flops(n float64) string {
	if n < 1<<53 {
		return fmt.Sprintf("%.0f", n)
	}
	return fmt.Sprintf("%.4g", n)
}
