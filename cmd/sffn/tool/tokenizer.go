package tool

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/internal/term"
	"github.com/structuredffn/sffn/model/token"
)

func newTokenizer() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tokenizer",
		Short: "Train a tokenizer, or show what one is made of",
		Args:  cli.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newTokenizerInfo())
	return cmd
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
			tok, err := token.Open(args[0])
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
