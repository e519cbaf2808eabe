package tool

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/model/safetensors"
	"github.com/structuredffn/sffn/model/token"
)

func newLogits() *cobra.Command {
	var m machine
	var name, file, out string
	var cached bool
	cmd := &cobra.Command{
		Use:   "logits",
		Short: "Write a model's logits for given tokens, to compare with others",
		Long: `Write the logits after each of the given tokens to a safetensors file: one
tensor, logits [tokens, vocabulary] of float32.

--ids is a JSON array of token ids, or an object that has it as "ids". One pass
over all tokens computes the logits. --cached decodes instead, as generate does:
about the first half of the tokens in pieces of 1, 2, 3, .. tokens, the rest one
by one. Both give the same bytes.`,
		Example: `  sffn logits --model run --ids ids.json --out logits.safetensors
  sffn logits --model run --ids ids.json --out cached.safetensors --cached`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cli.Require(cmd, "model", "ids", "out"); err != nil {
				return err
			}
			if same(file, out) {
				return cli.Usagef("--out %s is the file of --ids", out)
			}
			f, err := disk.New(out)
			if err != nil {
				return fmt.Errorf("--out: %w", err)
			}
			defer f.Close()
			if err := m.open(); err != nil {
				return err
			}
			defer m.close()
			c, err := openModel(name)
			if err != nil {
				return err
			}
			ids, err := token.ReadIDs(file, c.Config.Model.Vocab, 1, c.Config.Model.MaxPositions)
			if err != nil {
				return fmt.Errorf("--ids: %w", err)
			}
			l, err := c.Load(m.Options)
			if err != nil {
				return err
			}
			defer l.Close()
			logits := safetensors.Value{Name: "logits", Shape: []int{len(ids), l.Spec.Vocab}, Stream: func(write func([]float32) error) error {
				return l.Logits(ids, cached, write)
			}}
			if err := safetensors.Write(f, []safetensors.Value{logits}, nil); err != nil {
				return fmt.Errorf("--out: %s: %w", out, err)
			}
			if err := f.Commit(); err != nil {
				return fmt.Errorf("--out: %w", err)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: logits %v of %s\n", out, logits.Shape, c.Dir)
			return err
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&name, "model", "", "folder of a run or checkpoint")
	fl.StringVar(&file, "ids", "", `file of token ids: a JSON array, or an object that has it as "ids"`)
	fl.StringVar(&out, "out", "", "safetensors file to write")
	fl.BoolVar(&cached, "cached", false, "decode with the cache of keys and values instead of one pass over all tokens")
	m.formatFlags(cmd)
	m.flag(cmd)
	return cmd
}

// same reports whether two names are those of one file.
func same(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}
