package tool

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/internal/term"
	"github.com/structuredffn/sffn/model/decode"
	"github.com/structuredffn/sffn/model/gpu"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/kernel"
)

func newGenerate() *cobra.Command {
	var m machine
	var dev device
	var name string
	var prompts []string
	var tokens int
	var s decode.Sampling
	var asJSON bool
	var mode string
	cmd := &cobra.Command{
		Use:   "generate",
		Short: "Continue a text",
		Long: `Continue a text, until --tokens have been added or the model ends the document.
Without --tokens it is 200, and no more than the model has positions for.

Bytes that are no UTF-8 are shown as U+FFFD. With --json the tokens of prompts
and texts are there, too, as prompt_ids and ids.`,
		Example: `  sffn generate --model run --prompt 'func main() {' --tokens 200
  sffn generate --model run --prompt 'package ' --temperature 0.8 --top-p 0.95 --seed 7`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cli.Require(cmd, "model"); err != nil {
				return err
			}
			if tokens < 1 {
				return cli.Usagef("--tokens: %d is out of range, want 1 or more", tokens)
			}
			if err := s.Validate(); err != nil {
				return cli.Usagef("--%w", err)
			}
			if err := checkMerge(mode); err != nil {
				return err
			}
			if err := dev.check(); err != nil {
				return err
			}
			if mode != "off" && dev.mustGPU() {
				return cli.Usagef("--merge: merged networks run on the CPU, want --device cpu")
			}
			if (m.format != string(kernel.F32) || m.kv != string(kernel.F32)) && dev != onCPU {
				return cli.Usagef("--format, --kv: formats are those of the CPU's kernels, want --device cpu")
			}
			if err := m.open(); err != nil {
				return err
			}
			defer m.close()
			c, err := openModel(name)
			if err != nil {
				return err
			}
			if len(prompts) == 0 {
				prompts = []string{""}
			}
			texts, err := encode(c, prompts, tokens, cmd.Flags().Changed("tokens"))
			if err != nil {
				return err
			}
			d, err := dev.open(cmd.ErrOrStderr(), c.Config.Model, "--model "+name)
			if err != nil {
				return err
			}
			var f decode.Feeder
			if d != nil {
				defer d.Close()
				p, err := c.Params()
				if err != nil {
					return err
				}
				defer p.Close()
				dec, err := gpu.NewDecoder(d, p, len(texts), decode.Positions(texts))
				if err != nil {
					return err
				}
				defer dec.Close()
				f = dec
			} else {
				l, err := loadMerged(c, mode, m.Options)
				if err != nil {
					return err
				}
				defer l.Close()
				dec, err := l.NewDecoder(len(texts), decode.Positions(texts))
				if err != nil {
					return err
				}
				defer dec.Close()
				f = dec
			}
			out := cmd.OutOrStdout()
			streamed := !asJSON && len(texts) == 1
			show := func(_ int, piece string) error {
				if !streamed {
					return nil
				}
				_, err := fmt.Fprint(out, piece)
				return err
			}
			if err := show(0, texts[0].Prompt); err != nil {
				return err
			}
			if err := decode.Continue(f, c.Config.Model.Vocab, m.Pool, c.Tokenizer, texts, s, show); err != nil {
				return err
			}
			switch {
			case asJSON:
			case streamed:
				fmt.Fprintln(out)
			default:
				for i, t := range texts {
					fmt.Fprintf(out, "--- %d\n%s%s\n", i+1, t.Prompt, t.Text)
				}
			}
			if !c.State.WeightsOnly { // of others, nobody says what they were trained on
				warnUntrained(cmd.ErrOrStderr(), c.Config.Train.Seq, texts)
			}
			if !asJSON {
				return nil
			}
			return term.JSON(out, struct {
				Results []*decode.Text `json:"results"`
			}{texts})
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&name, "model", "", "folder of a run or checkpoint")
	fl.StringArrayVar(&prompts, "prompt", nil, "text to continue; several are continued as one batch")
	fl.IntVar(&tokens, "tokens", 200, "tokens to add, at most")
	fl.Float64Var(&s.Temperature, "temperature", 0, "0 takes the likeliest token, 1 samples the model's distribution")
	fl.IntVar(&s.TopK, "top-k", 0, "sample among the k likeliest tokens, 0 for all")
	fl.Float64Var(&s.TopP, "top-p", 0, "sample among the likeliest tokens of this total probability, 0 for all")
	fl.Uint64Var(&s.Seed, "seed", 1, "seed of the sampling")
	fl.BoolVar(&asJSON, "json", false, "print one JSON object")
	fl.StringVar(&mode, "merge", "off", "decode with factors multiplied out beforehand: on, off, or auto: whichever is faster on this machine, measured once")
	cli.Complete(cmd, "merge", mergeModes...)
	m.formatFlags(cmd)
	m.flag(cmd)
	dev.flag(cmd)
	return cmd
}

var mergeModes = []string{"auto", "on", "off"}

func checkMerge(mode string) error {
	if !slices.Contains(mergeModes, mode) {
		return cli.Usagef("--merge: unknown mode %q; valid are %s", mode, strings.Join(mergeModes, ", "))
	}
	return nil
}

// loadMerged reads a model, and merges networks as the mode says.
func loadMerged(c *decode.Checkpoint, mode string, opt rt.Options) (*decode.Model, error) {
	m, err := c.Load(opt)
	if err != nil {
		return nil, err
	}
	switch mode {
	case "on":
		_, err = m.Merge(false, nil)
	case "auto":
		err = m.MergeMeasured(c.Dir)
	}
	if err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// encode turns prompts into tokens. Where nobody asked for so many tokens, there
// are as many as fit.
func encode(c *decode.Checkpoint, prompts []string, tokens int, asked bool) ([]*decode.Text, error) {
	tok, err := c.Text()
	if err != nil {
		return nil, err
	}
	var all []*decode.Text
	for i, p := range prompts {
		prompt := "--prompt"
		if len(prompts) > 1 {
			prompt = fmt.Sprintf("--prompt %d of %d", i+1, len(prompts))
		}
		t, positions := decode.NewText(tok, p), c.Config.Model.MaxPositions
		n, room := len(t.PromptIDs), t.Room(positions)
		if n > positions {
			return nil, fmt.Errorf("%s has %d tokens, the model takes %d", prompt, n, positions)
		}
		if asked && tokens > room {
			return nil, fmt.Errorf("%s has %d tokens, --tokens asks for %d more: the %d positions of the model leave room for %d", prompt, n, tokens, positions, room)
		}
		t.Limit = min(tokens, room)
		all = append(all, t)
	}
	return all, nil
}

// warnUntrained says that texts left the positions that were trained.
func warnUntrained(w io.Writer, trained int, texts []*decode.Text) {
	reach := 0
	for _, t := range texts {
		reach = max(reach, t.Reach())
	}
	if reach > trained {
		fmt.Fprintf(w, "warning: positions beyond %d were never trained, and the text reaches %d\n", trained, reach)
	}
}
