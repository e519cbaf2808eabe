package tool

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/term"
	"github.com/structuredffn/sffn/model/hub"
)

func newExport() *cobra.Command {
	var name, out string
	var o hub.Options
	var bare bool
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write a model as others read it",
		Long: `Write a model as others read it.

--as hf is what Hugging Face's transformers reads: config.json, model.safetensors,
and the tokenizer's file where there is one. A dense model that one of the families
` + hub.Known() + ` expresses gets the names of that one; what came
through sffn import gets the names that it had. Any other, structured ones among
them, comes with modeling_sffn.py, which transformers runs with
trust_remote_code=True.

--as gguf is a file for llama.cpp, with the tokenizer and its chat template. Structured
networks are merged into dense matrices. llama.cpp has an architecture for models with
rmsnorm, rope and swiglu, and for those with layernorm, gelu and either rope or absolute
positions; what it has none for is an error that names it.

--as reference is config.yaml and model.safetensors by the project's own names.
sffn import reads hf and reference.`,
		Example: `  sffn export --model run --as hf --out hub
  sffn export --model run --as gguf --dtype bf16 --out model.gguf`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cli.Require(cmd, "model", "as", "out"); err != nil {
				return err
			}
			if !slices.Contains(hub.Formats, o.Format) {
				return cli.Usagef("--as: unknown format %q; valid are %s", o.Format, strings.Join(hub.Formats, ", "))
			}
			if !slices.Contains(hub.Types, o.Type) {
				return cli.Usagef("--dtype: unknown type %q; valid are %s", o.Type, strings.Join(hub.Types, ", "))
			}
			c, err := openModel(name)
			if err != nil {
				return err
			}
			done := term.NewCounter(cmd.ErrOrStderr(), "tensors", len(c.Config.Model.Params()))
			o.Progress = done.Set
			if bare {
				c.Tokenizer = nil
			}
			notes, err := hub.Export(c.Dir, c.Config, c.Tokenizer, out, o)
			done.Close()
			if err != nil {
				return err
			}
			for _, note := range notes {
				fmt.Fprintln(cmd.ErrOrStderr(), note)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s parameters of %s\n", out, term.Count(float64(c.Config.Model.Count().Total)), c.Dir)
			return err
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&name, "model", "", "folder of a run or checkpoint")
	fl.StringVar(&o.Format, "as", "", spec.Names(hub.Formats, "or"))
	cli.Complete(cmd, "as", hub.Formats...)
	fl.StringVar(&o.Type, "dtype", hub.Types[0], "type of the weights: "+spec.Names(hub.Types, "or"))
	cli.Complete(cmd, "dtype", hub.Types...)
	fl.BoolVar(&bare, "no-tokenizer", false, "leave the tokenizer out: what is written takes ids")
	fl.StringVar(&out, "out", "", "folder to write; of gguf, or a file whose name ends in .gguf")
	return cmd
}
