package tool

import (
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
			if mode != "off" && dev == onCUDA {
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
			ids, err := l.encode(prompts, tokens)
			if err != nil {
				return err
			}
			texts, err := l.generate(cmd, d, prompts, ids, tokens, s, asJSON)
			if err != nil || !asJSON {
				return err
			}
			type result struct {
				Prompt string `json:"prompt"`
				Text   string `json:"text"`
			}
			var out struct {
				Results []result `json:"results"`
			}
			for i, p := range prompts {
				out.Results = append(out.Results, result{p, texts[i]})
			}
			return printJSON(cmd.OutOrStdout(), out)
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

// encode turns prompts into tokens; an empty one begins a document.
func (l *loaded) encode(prompts []string, tokens int) ([][]int32, error) {
	var all [][]int32
	for _, p := range prompts {
		ids := l.tok.Encode(nil, []byte(p))
		if len(ids) == 0 {
			ids = []int32{l.tok.EndOfDocument()}
		}
		limit := l.Spec.MaxPositions
		if len(ids) > limit {
			return nil, fmt.Errorf("--prompt has %d tokens, the model takes %d", len(ids), limit)
		}
		// The last token takes no position: nothing is computed from it.
		if room := limit - len(ids) + 1; tokens > room {
			return nil, fmt.Errorf("--prompt has %d tokens, --tokens asks for %d more: the %d positions of the model leave room for %d", len(ids), tokens, limit, room)
		}
		all = append(all, ids)
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
func (l *loaded) generate(cmd *cobra.Command, d *cuda.Device, prompts []string, ids [][]int32, tokens int, s model.Sampling, quiet bool) ([]string, error) {
	longest := 0
	for _, p := range ids {
		longest = max(longest, len(p))
	}
	dec, err := l.decoder(d, len(ids), longest+tokens-1)
	if err != nil {
		return nil, err
	}
	defer dec.Close()
	out := cmd.OutOrStdout()
	stream := !quiet && len(prompts) == 1
	texts := make([]string, len(prompts))
	streams := make([]*token.Stream, len(prompts))
	for i := range streams {
		streams[i] = token.NewStream(l.tok)
	}
	if stream {
		fmt.Fprint(out, prompts[0])
	}
	add := func(i int, piece string) {
		texts[i] += piece
		if stream {
			fmt.Fprint(out, piece)
		}
	}
	added := make([]int, len(prompts))
	err = model.Generate(dec, l.Spec.Vocab, l.Pool(), ids, tokens, l.tok.EndOfDocument(), s, func(i int, id int32) bool {
		add(i, streams[i].Next(id))
		added[i]++
		return true
	})
	for i, st := range streams {
		add(i, st.End())
	}
	switch {
	case err != nil || quiet:
	case stream:
		fmt.Fprintln(out)
	default:
		for i, t := range texts {
			fmt.Fprintf(out, "--- %d\n%s%s\n", i+1, prompts[i], t)
		}
	}
	if err == nil {
		warnUntrained(cmd.ErrOrStderr(), l.config.Train.Seq, ids, added, tokens)
	}
	return texts, err
}

// warnUntrained says that texts left the positions that were trained. Each is a
// prompt and what was added, of so many tokens at most, the last of which
// takes no position.
func warnUntrained(w io.Writer, trained int, prompts [][]int32, added []int, tokens int) {
	reach := 0
	for i, p := range prompts {
		reach = max(reach, len(p)+min(added[i], tokens-1))
	}
	if reach > trained {
		fmt.Fprintf(w, "warning: positions beyond %d were never trained, and the text reaches %d\n", trained, reach)
	}
}
