package tool

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/internal/term"
	"github.com/structuredffn/sffn/model/hub"
	"github.com/structuredffn/sffn/model/token"
)

func newImport() *cobra.Command {
	var tokenizer, out string
	cmd := &cobra.Command{
		Use:   "import DIR",
		Short: "Make a run of a model that others trained",
		Long: `Make a run of a model that others trained: a folder as Hugging Face's transformers
saves it, with config.json and safetensors (one file or several; F32, F16 or BF16),
or one that sffn export wrote. Known are ` + hub.Known() + `.
What a model here cannot express is an error that names the field of config.json.

The run has one checkpoint, step-00000000, of weights without an optimizer's
moments: eval, generate, logits and info read it, and train --resume refuses it.
Weights are float32 there.

The folder's tokenizer.json or tokenizer.model goes with it. --tokenizer takes
another one instead, or none: then the model takes ids only, as it does where the
folder has none.`,
		Example: `  sffn import gpt2/ --out run
  sffn import llama/ --out run --tokenizer none
  sffn generate --model run --prompt 'func main() {'`,
		Args: oneFolder,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := cli.Require(cmd, "out"); err != nil {
				return err
			}
			m, err := hub.Open(args[0])
			if err != nil {
				return err
			}
			defer m.Close()
			tok, err := importTokenizer(args[0], tokenizer)
			if err != nil {
				return err
			}
			log := cmd.ErrOrStderr()
			for _, note := range m.Notes {
				fmt.Fprintln(log, note)
			}
			done := term.NewCounter(log, "tensors", len(m.Config.Model.Params()))
			dir, err := m.Save(out, tok, done.Set)
			done.Close()
			if err != nil {
				return err
			}
			with := "no tokenizer: it takes ids only"
			if tok != nil {
				with = fmt.Sprintf("tokenizer %s of %d ids", tok.Name(), tok.Vocab())
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s, %s parameters, %s\n", dir, m.Format, term.Count(float64(m.Config.Model.Count().Total)), with)
			return err
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&out, "out", "", "folder of the run")
	fl.StringVar(&tokenizer, "tokenizer", "", "byte, gpt2, a file or folder of a tokenizer, or none (default: the folder's)")
	cli.Complete(cmd, "tokenizer", append([]string{noTokenizer}, token.Names...)...)
	return cmd
}

const noTokenizer = "none"

// oneFolder wants the folder that a command reads.
func oneFolder(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cli.Usagef("the folder is missing: %s", cmd.UseLine())
	}
	return cli.NoArgs(cmd, args[1:])
}

// importTokenizer opens the tokenizer of that name, or the folder's; nil is none.
func importTokenizer(dir, name string) (token.Tokenizer, error) {
	if name == "" {
		name = noTokenizer
		if hasTokenizer(dir) {
			tok, err := token.Open(dir)
			if err != nil {
				err = fmt.Errorf("%w; --tokenizer takes another one, or none", err)
			}
			return tok, err
		}
	}
	if name == noTokenizer {
		return nil, nil
	}
	return openTokenizer(name)
}

// hasTokenizer says that a tokenizer's file lies in a folder.
func hasTokenizer(dir string) bool {
	return slices.ContainsFunc(token.FileNames, func(name string) bool {
		_, err := os.Stat(filepath.Join(dir, name))
		return err == nil
	})
}
