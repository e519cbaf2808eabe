package tool

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/internal/term"
	"github.com/structuredffn/sffn/model/checkpoint"
	"github.com/structuredffn/sffn/model/decode"
	"github.com/structuredffn/sffn/model/token"
)

// maxTokenized bounds the text that tokenize takes at once, in bytes.
const maxTokenized = 256 << 20

func newTokenize() *cobra.Command {
	var o struct {
		tokenizer, file                        string
		decode, asJSON, pieces, ordinary, bare bool
		special                                bool
	}
	cmd := &cobra.Command{
		Use:   "tokenize",
		Short: "Turn a text into token ids, and back",
		Long: `Turn a text into token ids, and back. The text is a file, or comes from the
standard input.

What spells a special token, such as <|endoftext|>, is that token, unless
--ordinary is given; what the tokenizer puts before and behind a text, such as
<s>, is there unless --bare is given. --pieces shows what each id stands for.

--decode reads ids, a JSON array or the object that --json prints, and writes the
text. Special tokens are left out of it, unless --special is given.`,
		Example: `  sffn tokenize --tokenizer gpt2 --text book.txt --json > ids.json
  echo 'func main() {' | sffn tokenize --tokenizer tokenizer.json --pieces
  sffn tokenize --tokenizer gpt2 --decode --text ids.json`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cli.Require(cmd, "tokenizer"); err != nil {
				return err
			}
			if o.decode && (o.pieces || o.ordinary || o.bare) {
				return cli.Usagef("--pieces, --ordinary and --bare are for encoding, --decode is given")
			}
			if o.special && !o.decode {
				return cli.Usagef("--special is for --decode")
			}
			tok, err := openTokenizer(o.tokenizer)
			if err != nil {
				return err
			}
			out := bufio.NewWriterSize(cmd.OutOrStdout(), 1<<16)
			if o.decode {
				ids, err := token.ReadIDs(o.file, tok.Vocab(), 0, math.MaxInt/16)
				if err != nil {
					return err
				}
				text := token.Text(tok, ids, o.special)
				if o.asJSON {
					return term.JSON(cmd.OutOrStdout(), struct {
						Text string `json:"text"`
					}{string(text)})
				}
				if _, err := out.Write(text); err != nil {
					return err
				}
				return out.Flush()
			}
			text, err := disk.ReadText(o.file, maxTokenized, " to tokenize at once")
			if err != nil {
				return err
			}
			ids := encodeWhole(tok, text, o.ordinary, o.bare)
			switch {
			case o.asJSON:
				err = writeIDs(out, ids)
			case o.pieces:
				err = writePieces(out, tok, ids)
			default:
				err = writePlain(out, ids)
			}
			if err != nil {
				return err
			}
			return out.Flush()
		},
	}
	fl := cmd.Flags()
	tokenizerFlag(cmd, &o.tokenizer, "")
	fl.StringVar(&o.file, "text", "/dev/stdin", "file to read")
	fl.BoolVar(&o.decode, "decode", false, "turn ids into text")
	fl.BoolVar(&o.asJSON, "json", false, `print one JSON object: {"ids": [...]}, or {"text": "..."} with --decode`)
	fl.BoolVar(&o.pieces, "pieces", false, "print a line for each id, with its text")
	fl.BoolVar(&o.ordinary, "ordinary", false, "take what spells a special token for text")
	fl.BoolVar(&o.bare, "bare", false, "leave out what the tokenizer puts before and behind a text")
	fl.BoolVar(&o.special, "special", false, "write special tokens as they are spelled")
	return cmd
}

// tokenizerFlag adds the flag that names a tokenizer.
func tokenizerFlag(cmd *cobra.Command, name *string, value string) {
	cmd.Flags().StringVar(name, "tokenizer", value, "byte, gpt2, or a file: tokenizer.json (Hugging Face), tokenizer.model (SentencePiece), or the folder of a model or a run")
	cli.Complete(cmd, "tokenizer", token.Names...)
}

// openTokenizer opens what the flag names; that of a run is its newest checkpoint's.
func openTokenizer(name string) (token.Tokenizer, error) {
	tok, err := token.Open(name)
	if dir, none := checkpoint.Find(name); err != nil && none == nil {
		c, err := decode.Open(dir)
		if err != nil {
			return nil, fmt.Errorf("--tokenizer: %w", err)
		}
		if c.Tokenizer == nil {
			return nil, fmt.Errorf("--tokenizer: %s has none", dir)
		}
		return c.Tokenizer, nil
	}
	if errors.Is(err, token.ErrUnknown) {
		return nil, cli.Usagef("--tokenizer: %w", err)
	} else if err != nil {
		return nil, fmt.Errorf("--tokenizer: %w", err)
	}
	return tok, nil
}

func encodeWhole(tok token.Tokenizer, text []byte, ordinary, bare bool) []int32 {
	encode, ids := tok.Encode, []int32{}
	if ordinary {
		encode = tok.EncodeOrdinary
	}
	before, after := tok.Frame()
	if bare {
		before, after = nil, nil
	}
	return append(encode(append(ids, before...), text), after...)
}

func writeIDs(w io.Writer, ids []int32) error {
	if _, err := io.WriteString(w, `{"ids": [`); err != nil {
		return err
	}
	if err := writeList(w, ids, ", "); err != nil {
		return err
	}
	_, err := io.WriteString(w, "]}\n")
	return err
}

func writePlain(w io.Writer, ids []int32) error {
	if err := writeList(w, ids, " "); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func writeList(w io.Writer, ids []int32, between string) error {
	var b []byte
	for i, id := range ids {
		b = b[:0]
		if i > 0 {
			b = append(b, between...)
		}
		if _, err := w.Write(strconv.AppendInt(b, int64(id), 10)); err != nil {
			return err
		}
	}
	return nil
}

func writePieces(w io.Writer, tok token.Tokenizer, ids []int32) error {
	for _, id := range ids {
		piece := strconv.QuoteToGraphic(string(tok.Decode(nil, id)))
		if s := tok.Special(id); s != "" {
			piece = s
		}
		if _, err := fmt.Fprintf(w, "%8d  %s\n", id, piece); err != nil {
			return err
		}
	}
	return nil
}
