package tool

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/term"
	"github.com/structuredffn/sffn/model/hub"
)

func newExport() *cobra.Command {
	var name, out, shard string
	var o hub.Options
	var bare bool
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write a model as others read it",
		Long: `Write a model as others read it.

--as hf is what Hugging Face's transformers reads: config.json, model.safetensors
(several files of --shard-size), the tokenizer's file and what came beside it. A dense model that one of the families
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
			var err error
			if o.Shard, err = parseShard(shard); err != nil {
				return err
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
			if o.Format == "gguf" {
				out = hub.GGUFName(out)
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
	fl.StringVar(&shard, "shard-size", "5GB", "bytes of tensors in a file of hf or reference: a number, and KB, MB or GB")
	fl.BoolVar(&bare, "no-tokenizer", false, "leave the tokenizer out: what is written takes ids")
	fl.StringVar(&out, "out", "", "folder to write; of gguf, model.gguf in it, or a file whose name ends in .gguf")
	return cmd
}

// parseShard reads a number of bytes, of which KB, MB and GB are 10^3, 10^6 and 10^9.
func parseShard(text string) (int64, error) {
	number, unit := text, int64(1)
	for name, n := range map[string]int64{"KB": 1e3, "MB": 1e6, "GB": 1e9} {
		if rest, ok := strings.CutSuffix(text, name); ok {
			number, unit = strings.TrimSpace(rest), n
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 1 || n > math.MaxInt64/unit {
		return 0, cli.Usagef("--shard-size: %q is no size, want a number and KB, MB or GB, such as 5GB", text)
	}
	return n * unit, nil
}
