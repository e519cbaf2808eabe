package tool

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/internal/term"
	"github.com/structuredffn/sffn/model/data"
	"github.com/structuredffn/sffn/model/token"
)

func newPrepare() *cobra.Command {
	var corpus, tokenizer, out string
	var text []string
	cmd := &cobra.Command{
		Use:   "prepare",
		Short: "Turn text into a folder of tokens for training",
		Long: `Turn text into a folder of tokens for training.

--corpus goroot is the Go source of this machine: the standard library without
tests, commands, vendored, generated and duplicate files. --text reads files,
and the text files below folders. A twentieth of the documents, chosen by the
hash of their paths, is held out for validation; files of less than 200 are cut
into documents of 32 KB first. Where that leaves nothing for one of the splits,
the last twentieth of the longest document is held out. An interrupt (SIGINT,
SIGTERM, SIGHUP) ends it, with exit code 130, 143 or 129.`,
		Example: `  sffn prepare --corpus goroot --out data
  sffn prepare --text book.txt --text notes/ --out data`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cli.Require(cmd, "out"); err != nil {
				return err
			}
			tok, err := token.New(tokenizer)
			if err != nil {
				return cli.Usagef("--tokenizer: %w", err)
			}
			ctx, stop := cli.Interrupts()
			defer stop()
			docs, err := readCorpus(ctx, cmd.ErrOrStderr(), corpus, text)
			if err == nil {
				encoding := term.NewCounter(cmd.ErrOrStderr(), "documents", len(docs))
				err = data.Prepare(ctx, out, docs, tok, func(done, _ int) { encoding.Set(done) })
				encoding.Close()
			}
			if cut := cli.CutBy(ctx, "interrupted before %s was whole; the same command begins again", out); cut != nil && errors.Is(err, context.Canceled) {
				return cut
			}
			if err != nil {
				return err
			}
			set, err := data.Open(out)
			if err != nil {
				return err
			}
			defer set.Close()
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d documents, %d training and %d validation tokens (%s tokenizer)\n",
				out, len(docs), set.Train.Len(), set.Validation.Len(), tok.Name())
			return err
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&corpus, "corpus", "", "a corpus that every machine has: goroot")
	cli.Complete(cmd, "corpus", "goroot")
	fl.StringArrayVar(&text, "text", nil, "text file or folder; may come several times")
	fl.StringVar(&tokenizer, "tokenizer", "byte", "tokenizer: byte")
	cli.Complete(cmd, "tokenizer", "byte")
	fl.StringVar(&out, "out", "", "folder to write")
	return cmd
}

// readCorpus reads the corpus of that name, or else files and folders of text.
func readCorpus(ctx context.Context, log io.Writer, corpus string, text []string) ([]data.Document, error) {
	reading := term.NewCounter(log, "reading text", 0)
	defer reading.Close()
	switch {
	case (corpus == "") == (len(text) == 0):
		return nil, cli.Usagef("give either --corpus goroot or --text FILE-or-DIR")
	case corpus == "goroot":
		return data.GoRoot(ctx)
	case corpus != "":
		return nil, cli.Usagef("--corpus: unknown corpus %q; valid is goroot, or use --text", corpus)
	}
	return data.Text(ctx, text)
}
