package tool

import (
	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
)

func newScalingRuns() *cobra.Command {
	var s lawSource
	cmd := &cobra.Command{
		Use:   "runs",
		Short: "Print runs as a table that fit reads",
		Long: `Print runs as CSV, as fit, predict and plot see them. Of runs that sffn train
made: name, config, kind (the share of the dense feed-forward weights that a
structured one has), N, N_no_embed, D, M, C, flops (by the model's own count),
loss (the last one on the validation split) and seed.`,
		Example: `  sffn scaling runs --data experiments > runs.csv`,
		Args:    cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.read(cmd.ErrOrStderr()); err != nil {
				return err
			}
			t, err := s.filter("where", s.where)
			if err != nil {
				return err
			}
			return t.Write(cmd.OutOrStdout())
		},
	}
	s.dataFlags(cmd)
	return cmd
}
