package tool

import (
	"fmt"
	"io"
	"slices"

	"github.com/klauspost/cpuid/v2"
	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/gen/specfile"
	"github.com/structuredffn/sffn/internal/term"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/checkpoint"
	"github.com/structuredffn/sffn/model/config"
	"github.com/structuredffn/sffn/model/train"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// information is what info prints with --json.
type information struct {
	train.Cost
	Kernels   []model.LayerKernels `json:"kernels"`
	CPU       string               `json:"cpu"`
	ISA       kernel.ISA           `json:"isa"`
	Target    string               `json:"target"`
	Available []kernel.ISA         `json:"isa_available"`
	Threads   int                  `json:"threads"`
	Warnings  []string             `json:"warnings"`
	// Scales is what --ranks asks for, Peak the FLOPS that it counts on.
	Scales []train.Scale `json:"scales,omitempty"`
	Peak   float64       `json:"peak_flops,omitempty"`
}

func newInfo() *cobra.Command {
	var config, name string
	var presets, asJSON bool
	var counts []int
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
			if err := cli.Sizes("ranks", maxRanks, counts...); err != nil {
				return err
			}
			c, err := infoConfig(config, name)
			if err != nil {
				return err
			}
			isa, err := kernel.Default()
			if err != nil {
				return &cli.UsageError{Err: err}
			}
			threads := rt.DefaultThreads()
			i := information{Cost: train.NewCost(c, threads, 1), Kernels: model.Kernels(c.Model, isa), CPU: cpuid.CPU.BrandName, ISA: isa, Target: kernel.For(isa).Name,
				Available: kernel.Available(), Threads: threads, Warnings: c.Model.Warnings()}
			if len(counts) > 0 {
				pool := rt.NewPool(threads)
				i.Peak = rt.Peak(pool, isa, train.Format(c.Train))
				pool.Close()
			}
			for _, n := range counts {
				s, err := train.NewScale(c, threads, n, i.Peak)
				if err != nil {
					return cli.Usagef("--ranks: %w", err)
				}
				i.Scales = append(i.Scales, s)
			}
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
	fl.IntSliceVar(&counts, "ranks", nil, "also show what training takes of each of so many ranks, such as 8,64,512")
	fl.BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// maxRanks bounds what --ranks counts for.
const maxRanks = config.MaxLanes

var errWhatInfo = cli.Usagef("give one of --config FILE|PRESET, --model RUN or --presets")

func infoConfig(file, name string) (*config.Config, error) {
	switch {
	case (file == "") == (name == ""):
		return nil, errWhatInfo
	case file != "":
		return config.Load(file)
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
		c, err := config.Load(name)
		if err != nil {
			return err
		}
		m := c.Model
		m.Guided = false // guides are gone after training
		s := m.Structure(m.Layers).Text()
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
func runConfig(name string) (*config.Config, error) {
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

func (i information) print(w io.Writer) error {
	if err := i.Cost.Print(w); err != nil {
		return err
	}
	fmt.Fprintf(w, "\n%s: target %s; %s of %v, %d threads\n\n", i.CPU, i.Target, i.ISA, i.Available, i.Threads)
	kernels := [][]string{{"layer", "count", "specialised kernels linked"}}
	for _, k := range i.Kernels {
		kernels = append(kernels, []string{k.Layer, fmt.Sprint(k.Count), fmt.Sprintf("%d of %d", k.Linked, k.Wanted)})
	}
	if err := term.Table(w, kernels); err != nil {
		return err
	}
	if err := i.printScales(w); err != nil {
		return err
	}
	for _, s := range i.Warnings {
		fmt.Fprintln(w, "warning:", s)
	}
	return nil
}

// printScales writes what training takes of each of several ranks.
func (i information) printScales(w io.Writer) error {
	if len(i.Scales) == 0 {
		return nil
	}
	if slices.ContainsFunc(i.Scales, func(s train.Scale) bool { return i.Accumulate%s.Ranks != 0 }) {
		fmt.Fprintf(w, "\nRanks share the micro-batches of a step, of which the configuration has %d: accumulate has to be a multiple of their number.\n", i.Accumulate)
	}
	fmt.Fprintf(w, "\nEach of several ranks, a machine like this one at its peak of %s FLOPS: a model, not a measurement.\n"+
		"Gradients hide behind the backward pass of a micro-batch, parameters behind the forward pass.\n\n", term.Count(i.Peak))
	rows := [][]string{{"ranks", "memory", "gradients sent a step", "parameters received", "both, were it dense", "network to hide gradients", "parameters"}}
	bytes := func(n int64) string { return term.Count(float64(n)) + "B" }
	rate := func(x float64) string { return term.Count(8*x) + "bit/s" }
	for _, s := range i.Scales {
		rows = append(rows, []string{fmt.Sprint(s.Ranks), bytes(s.Memory), bytes(s.Gradients), bytes(s.Parameters), bytes(s.Dense), rate(s.Backward), rate(s.Forward)})
	}
	return term.Table(w, rows)
}
