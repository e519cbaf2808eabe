package tool

import (
	"fmt"
	"io"

	"github.com/klauspost/cpuid/v2"
	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/gen/specfile"
	"github.com/structuredffn/sffn/internal/term"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/checkpoint"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// information is what info prints with --json.
type information struct {
	Name                    string               `json:"name"`
	Params                  int64                `json:"params"`
	FormulaParams           int64                `json:"formula_params"`
	FormulaWithoutEmbedding int64                `json:"formula_params_without_embedding"`
	MLPWeights              int64                `json:"mlp_weight_params"`
	Batch                   int                  `json:"batch"`
	Seq                     int                  `json:"seq"`
	ForwardFLOPs            float64              `json:"forward_flops"` // of Batch sequences of Seq tokens
	MLPFLOPs                float64              `json:"mlp_flops"`
	TrainFLOPs              float64              `json:"train_flops"` // of all steps
	Steps                   int                  `json:"steps"`       // guided and repeated ones included
	GuidedSteps             int                  `json:"guided_steps"`
	GuideParams             int64                `json:"guide_params"` // part of all counts above, gone after the guided phase
	Recompute               bool                 `json:"recompute"`    // activations are computed again
	Memory                  model.Memory         `json:"memory"`
	TrainMemory             int64                `json:"train_memory"`
	Kernels                 []model.LayerKernels `json:"kernels"`
	CPU                     string               `json:"cpu"`
	ISA                     kernel.ISA           `json:"isa"`
	Available               []kernel.ISA         `json:"isa_available"`
	Threads                 int                  `json:"threads"`
	Warnings                []string             `json:"warnings"`
}

func newInfo() *cobra.Command {
	var config, name string
	var presets, asJSON bool
	cmd := &cobra.Command{
		Use:   "info",
		Short: "Show the size and cost of a model, and how it runs here",
		Args:  cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if presets && config == "" && name == "" {
				return printPresets(cmd.OutOrStdout(), asJSON)
			}
			if presets {
				return errWhatInfo
			}
			c, err := infoConfig(config, name)
			if err != nil {
				return err
			}
			isa, err := kernel.Default()
			if err != nil {
				return &cli.UsageError{Err: err}
			}
			i := inform(c, isa)
			if asJSON {
				return term.JSON(cmd.OutOrStdout(), i)
			}
			return i.print(cmd.OutOrStdout())
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&config, "config", "", "YAML file or preset")
	cli.CompleteConfig(cmd, "config")
	fl.StringVar(&name, "model", "", "folder of a run or checkpoint")
	fl.BoolVar(&presets, "presets", false, "list the presets instead")
	fl.BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

var errWhatInfo = cli.Usagef("give one of --config FILE|PRESET, --model RUN or --presets")

func infoConfig(config, name string) (*specfile.Config, error) {
	switch {
	case (config == "") == (name == ""):
		return nil, errWhatInfo
	case config != "":
		return specfile.Load(config)
	}
	return runConfig(name)
}

// printPresets lists the built-in configurations.
func printPresets(w io.Writer, asJSON bool) error {
	type preset struct {
		Name       string `json:"preset"`
		Params     int64  `json:"params"`
		MLPWeights int64  `json:"mlp_weight_params"`
		Structure  string `json:"structure"`
	}
	var out struct {
		Presets []preset `json:"presets"`
	}
	rows := [][]string{{"preset", "parameters", "ffn weights", "structure"}}
	for _, name := range specfile.Presets() {
		c, err := specfile.Load(name)
		if err != nil {
			return err
		}
		m := c.Model
		m.Guided = false // guides are gone after training
		s := string(m.Kind)
		if m.Rank > 0 {
			s += fmt.Sprintf(", rank %d", m.Rank)
		}
		if m.Blocks > 0 {
			s += fmt.Sprintf(", %d blocks", m.Blocks)
		}
		if c.Model.Guided {
			s += ", guided"
		}
		n := m.Count()
		out.Presets = append(out.Presets, preset{name, n.Total, n.MLPWeights, s})
		rows = append(rows, []string{name, term.Count(float64(n.Total)), term.Count(float64(n.MLPWeights)), s})
	}
	if asJSON {
		return term.JSON(w, out)
	}
	return term.Table(w, rows)
}

// runConfig reads the configuration of a run or checkpoint, as it decodes:
// without guides.
func runConfig(name string) (*specfile.Config, error) {
	dir, err := checkpoint.Find(name)
	if err != nil {
		return nil, fmt.Errorf("--model: %w", err)
	}
	c, _, err := checkpoint.Describe(dir)
	if err != nil {
		return nil, err
	}
	c.Model.Guided = false
	return c, nil
}

func inform(c *specfile.Config, isa kernel.ISA) information {
	n, t, threads := c.Model.Count(), c.Train, rt.DefaultThreads()
	mem := model.PredictMemory(c.Model, true, t.Recompute, threads)
	course := c.Course()
	guides := int64(0)
	if c.Model.Guided {
		guides = c.Model.GuideParams()
	}
	return information{
		Name: c.Model.Name, Params: n.Total, FormulaParams: n.Formula, FormulaWithoutEmbedding: n.FormulaWithoutEmbedding, MLPWeights: n.MLPWeights,
		Batch: t.Batch, Seq: t.Seq, ForwardFLOPs: c.Model.ForwardFLOPs(t.Batch, t.Seq), MLPFLOPs: c.Model.MLPFLOPs(t.Batch, t.Seq),
		TrainFLOPs: course.FLOPs, Steps: course.Steps, GuidedSteps: course.Guided, GuideParams: guides,
		Recompute: t.Recompute, Memory: mem, TrainMemory: mem.Total(t.Batch * t.Seq), Kernels: model.Kernels(c.Model, isa),
		CPU: cpuid.CPU.BrandName, ISA: isa, Available: kernel.Available(), Threads: threads, Warnings: c.Model.Warnings(),
	}
}

// flops writes a count exactly as far as it is exact.
func flops(n float64) string {
	if n < 1<<53 {
		return fmt.Sprintf("%.0f", n)
	}
	return fmt.Sprintf("%.4g", n)
}

func (i information) print(w io.Writer) error {
	mib := func(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
	fmt.Fprintf(w, "%s\n\n", i.Name)
	activations := "activations of a token"
	if i.Recompute {
		activations += ", recomputed"
	}
	rows := [][]string{
		{"parameters", fmt.Sprint(i.Params)},
		{"weights, embedding counted once", fmt.Sprint(i.FormulaParams)},
		{"feed-forward weights", fmt.Sprint(i.MLPWeights)},
		{fmt.Sprintf("forward FLOPs of %d x %d tokens", i.Batch, i.Seq), flops(i.ForwardFLOPs)},
		{"of them feed-forward", flops(i.MLPFLOPs)},
		{fmt.Sprintf("FLOPs of %d training steps", i.Steps), fmt.Sprintf("%.4g", i.TrainFLOPs)},
		{"guided steps", fmt.Sprint(i.GuidedSteps)},
		{"guides, while they last", fmt.Sprint(i.GuideParams)},
		{"memory: weights", mib(i.Memory.Weights)},
		{"packed for the kernels", mib(i.Memory.Packs)},
		{"gradients", mib(i.Memory.Gradients)},
		{"moments", mib(i.Memory.Moments)},
		{activations, fmt.Sprintf("%.1f KiB", float64(i.Memory.PerToken)/(1<<10))},
		{"training in all", mib(i.TrainMemory)},
		{"merged for decoding, in addition", mib(i.Memory.Merged)},
	}
	for _, r := range rows {
		fmt.Fprintf(w, "%34s  %s\n", r[0], r[1])
	}
	fmt.Fprintf(w, "\n%s: %s of %v, %d threads\n\n", i.CPU, i.ISA, i.Available, i.Threads)
	kernels := [][]string{{"layer", "count", "specialised kernels linked"}}
	for _, k := range i.Kernels {
		kernels = append(kernels, []string{k.Layer, fmt.Sprint(k.Count), fmt.Sprintf("%d of %d", k.Linked, k.Wanted)})
	}
	if err := term.Table(w, kernels); err != nil {
		return err
	}
	for _, s := range i.Warnings {
		fmt.Fprintln(w, "warning:", s)
	}
	return nil
}
