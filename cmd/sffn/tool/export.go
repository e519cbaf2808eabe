package tool

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/internal/term"
	"github.com/structuredffn/sffn/model/hub"
)

func newExport() *cobra.Command {
	var name, format, out string
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write a model as others read it",
		Long: `Write a model into a new folder, as others read it, in float32.

--as hf is what Hugging Face's transformers reads: config.json, model.safetensors,
and the tokenizer's file where there is one. A dense model that one of the families
` + hub.Known() + ` expresses gets the names of that one; what came
through sffn import gets the names that it had. Any other, structured ones among
them, comes with modeling_sffn.py, which transformers runs with
trust_remote_code=True.

--as reference is config.yaml and model.safetensors by the project's own names.
sffn import reads each of these.`,
		Example: `  sffn export --model run --as hf --out hub`,
		Args:    cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cli.Require(cmd, "model", "as", "out"); err != nil {
				return err
			}
			if !slices.Contains(hub.Formats, format) {
				return cli.Usagef("--as: unknown format %q; valid are %s", format, strings.Join(hub.Formats, ", "))
			}
			c, err := openModel(name)
			if err != nil {
				return err
			}
			done := term.NewCounter(cmd.ErrOrStderr(), "tensors", len(c.Config.Model.Params()))
			err = hub.Export(c.Dir, c.Config, c.Tokenizer, format, out, done.Set)
			done.Close()
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s parameters of %s\n", out, term.Count(float64(c.Config.Model.Count().Total)), c.Dir)
			return err
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&name, "model", "", "folder of a run or checkpoint")
	fl.StringVar(&format, "as", "", strings.Join(hub.Formats, " or "))
	cli.Complete(cmd, "as", hub.Formats...)
	fl.StringVar(&out, "out", "", "folder to write")
	return cmd
}
