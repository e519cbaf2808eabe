package tool

import (
	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/bench"
)

func newBenchMerge() *cobra.Command {
	var b benchmark
	rows := []int{1, 4, 16, 64, 256}
	cmd := &cobra.Command{
		Use:   "merge",
		Short: "Time decoding with factors against factors multiplied out",
		Long: `Time feed-forward networks as decoding runs them, as factors and merged into
dense matrices, and show which of the two --merge auto takes: by a measurement
of its own, as generate makes at load.`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cli.Sizes("rows", 1<<14, rows...); err != nil {
				return err
			}
			fs, err := b.layers()
			if err != nil {
				return err
			}
			return run(&b, cmd, "layers", fs, func(m bench.Bench, f spec.FFN) ([]bench.MergeResult, error) {
				return m.Merge(f, rows)
			}, bench.MergeTable)
		},
	}
	cmd.Flags().IntSliceVar(&rows, "rows", rows, "numbers of rows (tokens), in rising order")
	b.flags(cmd, []string{"gpt2s-lowrank-63", "gpt2s-lowrank-32", "gpt2l-lowrank-63", "gpt2l-lowrank-32"}, 3)
	return cmd
}
