package tool

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/internal/term"
	"github.com/structuredffn/sffn/model/data"
	"github.com/structuredffn/sffn/model/eval"
)

func newEval() *cobra.Command {
	var m machine
	var models []string
	var orders []int
	var dataDir string
	var tokens int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "eval",
		Short: "Measure the loss of models on held-out text",
		Long: `Measure the loss of one or more models on the validation split of a folder that
sffn prepare made: windows of the model's training length, evenly spaced.
--count-models adds tables that count how often a token follows the 1, 2, ...
before it, made from the training split and measured on the same tokens.`,
		Example: `  sffn eval --model run --data data
  sffn eval --model structured --model dense --data data --count-models 1,5`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cli.Require(cmd, "model", "data"); err != nil {
				return err
			}
			if tokens < 1 {
				return cli.Usagef("--tokens: %d is out of range, want 1 or more", tokens)
			}
			for _, order := range orders {
				if order < 0 {
					return cli.Usagef("--count-models: order %d, want 0 or more", order)
				}
			}
			set, err := data.Open(dataDir)
			if err != nil {
				return err
			}
			defer set.Close()
			if err := m.open(); err != nil {
				return err
			}
			defer m.close()
			var rs []eval.Result
			seq := 0
			for _, name := range models {
				c, err := openModel(name)
				if err != nil {
					return err
				}
				r, err := eval.Checkpoint(c, name, set, tokens, m.Options)
				if err != nil {
					return err
				}
				rs, seq = append(rs, r), c.Config.Train.Seq
			}
			if len(orders) > 0 {
				counted, err := eval.Counts(set, orders, tokens, seq)
				if err != nil {
					return fmt.Errorf("--count-models: %w", err)
				}
				rs = append(rs, counted...)
			}
			if asJSON {
				if err := term.JSON(cmd.OutOrStdout(), struct {
					Tokens int           `json:"tokens"`
					Models []eval.Result `json:"models"`
				}{tokens, rs}); err != nil {
					return err
				}
				return eval.CheckFinite(rs)
			}
			if err := term.Table(cmd.OutOrStdout(), eval.Table(rs)); err != nil {
				return err
			}
			return eval.CheckFinite(rs)
		},
	}
	fl := cmd.Flags()
	fl.StringArrayVar(&models, "model", nil, "folder of a run or checkpoint; may come several times")
	fl.StringVar(&dataDir, "data", "", "folder that sffn prepare made")
	fl.IntVar(&tokens, "tokens", 1<<17, "validation tokens to measure on, at most")
	fl.IntSliceVar(&orders, "count-models", nil, "also measure count models of these orders, such as 1,5")
	fl.BoolVar(&asJSON, "json", false, "print one JSON object")
	m.flag(cmd)
	return cmd
}
