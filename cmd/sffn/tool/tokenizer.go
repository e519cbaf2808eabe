package tool

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/internal/term"
	"github.com/structuredffn/sffn/model/data"
	"github.com/structuredffn/sffn/model/data/source"
	"github.com/structuredffn/sffn/model/token"
	"github.com/structuredffn/sffn/model/token/learn"
)

func newTokenizer() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tokenizer",
		Short: "Train a tokenizer, or show what one is made of",
		Args:  cli.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newTokenizerTrain(), newTokenizerInfo())
	return cmd
}

func newTokenizerTrain() *cobra.Command {
	var c corpusFlags
	var opt learn.Options
	var out string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "train",
		Short: "Learn a vocabulary of byte-level byte-pair encoding from text",
		Long: `Learn a vocabulary of byte-level byte-pair encoding from text, and write it as a
tokenizer.json, which Hugging Face's tokenizers reads and encodes alike. The
documents that sffn prepare holds out of the same text take no part.

The text is what sffn prepare takes. Words, as --pattern cuts them, are counted
on all cores; the same text gives the same file. Where there are more different
words than fit in memory, the rarest are dropped, which is said.`,
		Example: `  sffn tokenizer train --corpus goroot --vocab 4096 --out tokenizer.json
  sffn tokenizer train --text web.jsonl.zst --vocab 32000 --special '<|endoftext|>' --special '<|user|>' --out tokenizer.json`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cli.Require(cmd, "vocab", "out"); err != nil {
				return err
			}
			sources, err := c.sources("")
			if err != nil {
				return err
			}
			if opt.Threads < 0 {
				return cli.Usagef("--threads: %d is out of range, want 1 or more, or 0 for all cores", opt.Threads)
			}
			f, err := disk.New(out)
			if err != nil {
				return fmt.Errorf("--out: %w", err)
			}
			defer f.Close()
			ctx, stop := cli.Interrupts()
			defer stop()
			res, err := learnFrom(ctx, cmd.ErrOrStderr(), sources, opt)
			if cut := cli.CutBy(ctx, "interrupted before there was anything to write"); cut != nil {
				return cut
			}
			if err != nil {
				return err
			}
			if _, err := f.Write(res.Model.JSON()); err != nil {
				return fmt.Errorf("--out: %s: %w", out, err)
			}
			if err := f.Commit(); err != nil {
				return fmt.Errorf("--out: %w", err)
			}
			if asJSON {
				return term.JSON(cmd.OutOrStdout(), struct {
					Out         string `json:"out"`
					Vocab       int    `json:"vocab"`
					Bytes       int64  `json:"text_bytes"`
					Words       int    `json:"words"`
					Occurrences int64  `json:"occurrences"`
					Dropped     int64  `json:"dropped"`
				}{out, res.Vocab, res.Bytes, res.Words, res.Occurrences, res.Dropped})
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %d ids from %sB of text, %d different words\n", out, res.Vocab, term.Count(float64(res.Bytes)), res.Words)
			if res.Vocab < opt.Vocab {
				fmt.Fprintf(cmd.OutOrStdout(), "the text has no more pairs: %d ids were asked for\n", opt.Vocab)
			}
			if res.Dropped > 0 {
				fmt.Fprintf(cmd.OutOrStdout(), "rare words were dropped: %s of the text's words\n", term.Percent(float64(res.Dropped)/float64(res.Occurrences)))
			}
			return nil
		},
	}
	c.flags(cmd)
	fl := cmd.Flags()
	fl.IntVar(&opt.Vocab, "vocab", 0, "number of ids: the 256 bytes, merges and special tokens")
	fl.StringVar(&opt.Pattern, "pattern", "gpt2", "what cuts text into words: gpt2, llama3, or a regular expression")
	fl.StringArrayVar(&opt.Special, "special", nil, "special token; may come several times; "+learn.EndOfDocument+" is added unless one, such as </s>, ends documents")
	fl.IntVar(&opt.Words, "words", learn.DefaultWords, "different words that are counted, at most")
	fl.IntVar(&opt.Threads, "threads", 0, "threads that count (default all processors)")
	fl.StringVar(&out, "out", "", "tokenizer.json to write")
	fl.BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// learnFrom shows how far it is: in the text, then in the vocabulary.
func learnFrom(ctx context.Context, log io.Writer, sources []source.Source, opt learn.Options) (*learn.Result, error) {
	texts, err := data.NewTexts(ctx, sources)
	if err != nil {
		return nil, err
	}
	reading := term.NewCounter(log, "MB of text", int(texts.Total/1e6))
	var merging *term.Counter
	defer func() {
		reading.Close()
		if merging != nil {
			merging.Close()
		}
	}()
	opt.Progress = func(p learn.Progress) {
		if p.Ids == 0 {
			reading.Set(int(p.Bytes / 1e6))
			return
		}
		if merging == nil {
			merging = term.NewCounter(log, "ids", opt.Vocab)
		}
		merging.Set(p.Ids)
	}
	return learn.Train(ctx, texts.All(), opt)
}

// tokenizerInfo is what tokenizer info prints as JSON.
type tokenizerInfo struct {
	Name          string         `json:"name"`
	Vocab         int            `json:"vocab"`
	EndOfDocument int32          `json:"end_of_document"`
	Before        []int32        `json:"before"` // a text, by the tokenizer's own rule
	After         []int32        `json:"after"`
	Prefixed      bool           `json:"prefixed"` // a space is put before a text
	BytesPerToken float64        `json:"bytes_per_token"`
	Hash          string         `json:"hash"`
	Parts         []part         `json:"parts,omitempty"`
	Special       []specialToken `json:"special"`
}

type part struct {
	Name string `json:"name"`
	What string `json:"what"`
}

type specialToken struct {
	ID   int32  `json:"id"`
	Text string `json:"text"`
}

func newTokenizerInfo() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "info NAME|FILE",
		Short: "Show what a tokenizer is made of",
		Long: `Show what a tokenizer is made of: byte, gpt2, or a file as --tokenizer takes it
elsewhere. The bytes of a token are the mean over the vocabulary.`,
		Example: `  sffn tokenizer info gpt2
  sffn tokenizer info tokenizer.json --json`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return cli.Usagef("%d arguments, want one: byte, gpt2, or a tokenizer's file", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			tok, err := openTokenizer(args[0])
			if err != nil {
				return err
			}
			info := describeTokenizer(tok)
			if asJSON {
				return term.JSON(cmd.OutOrStdout(), info)
			}
			for _, row := range info.table(tok) {
				if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%-18s%s\n", row[0], row[1]); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func describeTokenizer(tok token.Tokenizer) tokenizerInfo {
	before, after := tok.Frame()
	info := tokenizerInfo{Name: tok.Name(), Vocab: tok.Vocab(), EndOfDocument: tok.EndOfDocument(), Before: append([]int32{}, before...), After: append([]int32{}, after...),
		Prefixed: tok.Prefixed(), Hash: token.HashText(tok), Special: []specialToken{}}
	if d, ok := tok.(token.Described); ok {
		for _, p := range d.Describe() {
			info.Parts = append(info.Parts, part{p[0], p[1]})
		}
	}
	bytes, pieces := 0, 0
	for id := range int32(tok.Vocab()) {
		if s := tok.Special(id); s != "" {
			info.Special = append(info.Special, specialToken{id, s})
		} else if n := len(tok.Decode(nil, id)); n > 0 {
			bytes, pieces = bytes+n, pieces+1
		}
	}
	info.BytesPerToken = float64(bytes) / float64(max(1, pieces))
	return info
}

// shown bounds the special tokens that the table lists.
const shown = 12

func (t *tokenizerInfo) table(tok token.Tokenizer) [][]string {
	name := func(ids []int32) string {
		var all []string
		for _, id := range ids {
			all = append(all, fmt.Sprintf("%s (%d)", tok.Special(id), id))
		}
		if len(all) == 0 {
			return "nothing"
		}
		return strings.Join(all, " ")
	}
	rows := [][]string{
		{"tokenizer", t.Name},
		{"vocabulary", fmt.Sprint(t.Vocab)},
		{"bytes of a token", fmt.Sprintf("%.2f", t.BytesPerToken)},
		{"ends a document", name([]int32{t.EndOfDocument})},
		{"before a text", name(t.Before)},
		{"behind a text", name(t.After)},
		{"hash", t.Hash},
	}
	if t.Prefixed {
		rows = append(rows, []string{"", "a space is put before a text"})
	}
	for _, p := range t.Parts {
		rows = append(rows, []string{p.Name, p.What})
	}
	var special []string
	for i, s := range t.Special {
		if i == shown {
			special = append(special, fmt.Sprintf("and %d more", len(t.Special)-shown))
			break
		}
		special = append(special, fmt.Sprintf("%s (%d)", s.Text, s.ID))
	}
	return append(rows, []string{"special tokens", strings.Join(special, " ")})
}
