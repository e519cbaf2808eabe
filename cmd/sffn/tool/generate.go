package tool

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/gpu"
	"github.com/structuredffn/sffn/model/token"
	"github.com/structuredffn/sffn/runtime/cuda"
)

func newGenerate() *cobra.Command {
	var m machine
	var dev device
	var name string
	var prompts []string
	var tokens int
	var s model.Sampling
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
			if err := require(cmd, "model"); err != nil {
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
			if err := m.open(); err != nil {
				return err
			}
			defer m.close()
			l, err := loadRun(name, m.Options)
			if err != nil {
				return err
			}
			defer l.close()
			d, err := dev.open(cmd.ErrOrStderr(), l.Spec, "--model "+name)
			if err != nil {
				return err
			}
			if d != nil {
				defer d.Close()
			} else if err := merge(l.Model, l.dir, mode, m.Options); err != nil {
				return err
			}
			if len(prompts) == 0 {
				prompts = []string{""}
			}
			texts, err := l.encode(prompts, tokens, cmd.Flags().Changed("tokens"))
			if err != nil {
				return err
			}
			if err := l.generate(cmd, d, texts, s, asJSON); err != nil || !asJSON {
				return err
			}
			return printJSON(cmd.OutOrStdout(), struct {
				Results []*continued `json:"results"`
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
	mergeFlag(cmd, &mode)
	m.flag(cmd)
	dev.flag(cmd)
	return cmd
}

// continued is a text in the making.
type continued struct {
	Prompt    string  `json:"prompt"`
	Text      string  `json:"text"` // what was added
	PromptIDs []int32 `json:"prompt_ids"`
	IDs       []int32 `json:"ids"`
	limit     int     // of IDs
	stream    *token.Stream
}

// encode turns prompts into tokens; an empty one begins a document. Where
// nobody asked for so many tokens, there are as many as fit.
func (l *loaded) encode(prompts []string, tokens int, asked bool) ([]*continued, error) {
	var all []*continued
	for i, p := range prompts {
		prompt := "--prompt"
		if len(prompts) > 1 {
			prompt = fmt.Sprintf("--prompt %d of %d", i+1, len(prompts))
		}
		ids := l.tok.Encode(nil, []byte(p))
		if len(ids) == 0 {
			ids = []int32{l.tok.EndOfDocument()}
		}
		limit := l.Spec.MaxPositions
		if len(ids) > limit {
			return nil, fmt.Errorf("%s has %d tokens, the model takes %d", prompt, len(ids), limit)
		}
		// The last token takes no position: nothing is computed from it.
		room := limit - len(ids) + 1
		if asked && tokens > room {
			return nil, fmt.Errorf("%s has %d tokens, --tokens asks for %d more: the %d positions of the model leave room for %d", prompt, len(ids), tokens, limit, room)
		}
		all = append(all, &continued{Prompt: p, PromptIDs: ids, IDs: []int32{}, limit: min(tokens, room), stream: token.NewStream(l.tok)})
	}
	return all, nil
}

// decoder is the CPU's, or that of a device.
func (l *loaded) decoder(d *cuda.Device, batch, capacity int) (interface {
	model.Feeder
	Close()
}, error) {
	if d != nil {
		return gpu.NewDecoder(d, l.Params, batch, capacity)
	}
	return l.NewDecoder(batch, capacity)
}

// generate streams one text as it comes, and prints several one after the
// other.
func (l *loaded) generate(cmd *cobra.Command, d *cuda.Device, texts []*continued, s model.Sampling, quiet bool) error {
	prompts, tokens, capacity := make([][]int32, len(texts)), 0, 0
	for i, t := range texts {
		prompts[i] = t.PromptIDs
		tokens, capacity = max(tokens, t.limit), max(capacity, len(t.PromptIDs)+t.limit-1)
	}
	dec, err := l.decoder(d, len(texts), capacity)
	if err != nil {
		return err
	}
	defer dec.Close()
	out := cmd.OutOrStdout()
	streamed := !quiet && len(texts) == 1
	var written error
	show := func(piece string) {
		if streamed && written == nil {
			_, written = fmt.Fprint(out, piece)
		}
	}
	show(texts[0].Prompt)
	err = model.Generate(dec, l.Spec.Vocab, l.Pool(), prompts, tokens, l.tok.EndOfDocument(), s, func(i int, id int32) bool {
		t := texts[i]
		t.IDs = append(t.IDs, id)
		piece := t.stream.Next(id)
		t.Text += piece
		show(piece)
		return len(t.IDs) < t.limit && written == nil
	})
	for _, t := range texts {
		piece := t.stream.End()
		t.Text += piece
		show(piece)
	}
	if err := errors.Join(err, written); err != nil {
		return err
	}
	switch {
	case quiet:
	case streamed:
		fmt.Fprintln(out)
	default:
		for i, t := range texts {
			fmt.Fprintf(out, "--- %d\n%s%s\n", i+1, t.Prompt, t.Text)
		}
	}
	warnUntrained(cmd.ErrOrStderr(), l.config.Train.Seq, texts)
	return nil
}

// warnUntrained says that texts left the positions that were trained. The last
// token that a text may have takes none.
func warnUntrained(w io.Writer, trained int, texts []*continued) {
	reach := 0
	for _, t := range texts {
		reach = max(reach, len(t.PromptIDs)+min(len(t.IDs), t.limit-1))
	}
	if reach > trained {
		fmt.Fprintf(w, "warning: positions beyond %d were never trained, and the text reaches %d\n", trained, reach)
	}
}
