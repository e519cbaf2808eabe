package tool

import (
	"fmt"
	"slices"

	"github.com/klauspost/cpuid/v2"
	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/gen/specfile"
	"github.com/structuredffn/sffn/internal/bench"
	"github.com/structuredffn/sffn/runtime/kernel"
)

func newBench() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure the speed of this machine and its kernels",
		Args:  cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cli.Usagef("say what to measure: sffn bench kernels")
		},
	}
	cmd.AddCommand(newBenchKernels())
	return cmd
}

// paperShapes are the presets that bench kernels measures by default.
var paperShapes = []string{"gpt2s-dense", "gpt2s-lowrank-63", "gpt2s-lowrank-32", "gpt2s-blockdense-63", "gpt2s-blockdense-32", "gpt2s-blockshuffle-63", "gpt2s-blockshuffle-32"}

func newBenchKernels() *cobra.Command {
	var m machine
	var configs []string
	var rows []int
	var repeats int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "kernels",
		Short: "Time feed-forward layers as a share of the machine's multiply-add peak",
		Long: `Time the forward and backward passes of the feed-forward layers of models. Each
repetition first measures the machine's peak of multiply-adds on as many
threads; the share is the median of the ratios, with its quartiles.`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if repeats < 1 {
				return cli.Usagef("--repeats: %d is out of range, want 1 or more", repeats)
			}
			for _, r := range rows {
				if r < 1 || r > 1<<20 {
					return cli.Usagef("--rows: %d is out of range, want 1 to %d", r, 1<<20)
				}
			}
			var ffns []spec.FFN
			for _, name := range configs {
				c, err := specfile.Load(name)
				if err != nil {
					return err
				}
				if f := c.Model.LayerFFN(c.Model.Layers - 1); !slices.Contains(ffns, f) {
					ffns = append(ffns, f)
				}
			}
			if err := m.open(); err != nil {
				return err
			}
			defer m.close()
			out := struct {
				CPU     string         `json:"cpu"`
				ISA     kernel.ISA     `json:"isa"`
				Results []bench.Result `json:"results"`
			}{CPU: cpuid.CPU.BrandName, ISA: m.ISA}
			bar := newBar(cmd.ErrOrStderr(), "layers", len(ffns)*len(rows))
			for _, f := range ffns {
				for _, r := range rows {
					rs, err := bench.FFN(f, r, repeats, m.Options)
					if err != nil {
						return err
					}
					out.Results = append(out.Results, rs...)
					bar.set(len(out.Results) / 4)
				}
			}
			bar.close()
			w := cmd.OutOrStdout()
			if asJSON {
				return printJSON(w, out)
			}
			fmt.Fprintf(w, "%s, %s, %d threads\n", out.CPU, out.ISA, m.Pool.Threads())
			lines := [][]string{{"layer", "op", "rows", "GFLOP/s", "peak", "share", "quartiles"}}
			for _, r := range out.Results {
				lines = append(lines, []string{r.Layer, r.Op, fmt.Sprint(r.M), fmt.Sprintf("%.1f", r.GFLOPS), fmt.Sprintf("%.1f", r.Peak),
					fmt.Sprintf("%.1f %%", 100*r.Share), fmt.Sprintf("%.1f - %.1f", 100*r.Low, 100*r.High)})
			}
			return table(w, lines)
		},
	}
	fl := cmd.Flags()
	fl.StringSliceVar(&configs, "config", paperShapes, "YAML files or presets, comma-separated")
	fl.IntSliceVar(&rows, "rows", []int{1, 16, 2048}, "numbers of rows (tokens)")
	fl.IntVar(&repeats, "repeats", 9, "repetitions of each measurement")
	fl.BoolVar(&asJSON, "json", false, "print one JSON object")
	m.flag(cmd)
	return cmd
}
