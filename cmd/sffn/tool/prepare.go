package tool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/internal/term"
	"github.com/structuredffn/sffn/model/data"
	"github.com/structuredffn/sffn/model/data/source"
	"github.com/structuredffn/sffn/model/token"
)

// prepareMemory is what the collector is told to stay within, in bytes: preparing holds
// a part of it, whatever the corpus.
const prepareMemory = 300 << 20

func newPrepare() *cobra.Command {
	var p data.Preparation
	var c corpusFlags
	var tokenizer, mix, out string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "prepare",
		Short: "Turn text into a folder of tokens for training",
		Long: `Turn text into a folder of tokens for training.

--corpus goroot is the Go source of this machine: the standard library without
tests, commands, vendored, generated and duplicate files. --text reads files,
the files below folders in the order of their names, pipes, and - for standard
input: text, JSON lines (.jsonl, .ndjson) and Parquet (.parquet), of which
--field has the text; text and JSON lines may be compressed (gzip, zstd). A file
.json is JSON lines where its first line is an object, which below a folder has
the field. Pipes and standard input are JSON lines where --field or --format
jsonl is given, else text. Text files of less than 200 are cut into documents of
32 KB.

A twentieth of the documents, chosen by the hash of their text (of goroot: of
their path), is held out for validation. Where that leaves nothing for one of
the splits, one of the documents changes sides; where one has half of the text
or more, its end is held out.

--mix code=0.3,web=0.7 takes documents from several sources so that their text
has these shares, and ends with the first source that does; with --max-tokens
sources begin again. A source's name is that of --text name=PATH, or of the
file up to the first dot; files of the same name are one source.

The folder has the same bytes for any number of threads. An interrupt (SIGINT,
SIGTERM, SIGHUP) ends it, with exit code 130, 143 or 129, and the same command
goes on from there. A stream cannot be read again: an interrupt is its end, and
the folder whole.`,
		Example: `  sffn prepare --corpus goroot --out data
  sffn prepare --text book.txt --text notes/ --out data
  sffn prepare --text code=src/ --text web=pages.jsonl.zst --mix code=0.3,web=0.7 --max-tokens 1000000000 --out data
  zcat dump.jsonl.gz | sffn prepare --text - --field content --tokenizer gpt2 --out data`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := cli.Require(cmd, "out")
			if err != nil {
				return err
			}
			if p.Tokenizer, err = openTokenizer(tokenizer); err != nil {
				return err
			}
			if p.Sources, err = c.sources(out); err != nil {
				return err
			}
			if p.Mix, err = shares(mix); err != nil {
				return err
			}
			if cmd.Flags().Changed("threads") && p.Threads < 1 {
				return cli.Usagef("--threads: %d is out of range, want 1 or more", p.Threads)
			}
			if cmd.Flags().Changed("max-tokens") && p.MaxTokens < 1 {
				return cli.Usagef("--max-tokens: %d is out of range, want 1 or more", p.MaxTokens)
			}
			if err := p.Check(); err != nil {
				return cli.Usagef("%w", err)
			}
			debug.SetMemoryLimit(min(debug.SetMemoryLimit(-1), prepareMemory))
			ctx, stop := cli.Interrupts()
			defer stop()
			progress := newPrepareProgress(cmd.ErrOrStderr(), p.MaxTokens)
			p.Progress, p.Note = progress.set, progress.note
			res, err := p.Run(ctx, out)
			progress.close()
			again := "begins again"
			if data.Unfinished(out) {
				again = "goes on"
			}
			if cut := cli.CutBy(ctx, "interrupted before %s was whole; the same command %s", out, again); cut != nil && errors.Is(err, context.Canceled) {
				return cut
			}
			if err != nil {
				return err
			}
			set, err := data.Open(out)
			if err != nil {
				return err
			}
			set.Close()
			if err := prepared(cmd.OutOrStdout(), out, p.Tokenizer, res, asJSON); err != nil {
				return err
			}
			if res.Ended {
				return cli.CutBy(ctx, "interrupted: %s has what came until then, and is whole", out)
			}
			return nil
		},
	}
	fl := cmd.Flags()
	c.flags(cmd)
	fl.StringVar(&mix, "mix", "", "shares of the sources in the text: NAME=SHARE,NAME=SHARE")
	fl.Int64Var(&p.MaxTokens, "max-tokens", 0, "end with the document that reaches so many tokens")
	tokenizerFlag(cmd, &tokenizer, "byte")
	fl.BoolVar(&p.Ordinary, "ordinary", false, "take no text for a special token, however it is spelled")
	fl.IntVar(&p.Threads, "threads", 0, "threads that encode (default all processors)")
	fl.StringVar(&out, "out", "", "folder to write")
	fl.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// corpusFlags say which text a command reads.
type corpusFlags struct {
	corpus, format, field string
	text                  []string
}

func (c *corpusFlags) flags(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&c.corpus, "corpus", "", "a corpus that every machine has: goroot")
	cli.Complete(cmd, "corpus", source.GoRootName)
	fl.StringArrayVar(&c.text, "text", nil, "file, folder, pipe or - to read, or NAME=PATH; may come several times")
	fl.StringVar(&c.format, "format", string(source.Auto), "format of the text: "+strings.Join(source.Formats, ", ")+" (by the names of files)")
	cli.Complete(cmd, "format", source.Formats...)
	fl.StringVar(&c.field, "field", "", "field of JSON lines, column of Parquet, that has the text (default "+source.DefaultField+")")
}

// sourceName is what a name of a source may be.
var sourceName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)

// sources are those that the flags name; paths of the same name are one.
// The folder except is none of them, nor a part of one.
func (c *corpusFlags) sources(except string) (all []source.Source, err error) {
	corpus, text, format, field := c.corpus, c.text, c.format, c.field
	switch {
	case corpus == "" && len(text) == 0:
		return nil, cli.Usagef("give --corpus goroot or --text FILE-or-DIR")
	case corpus == source.GoRootName:
		all = append(all, source.GoRoot{})
	case corpus != "":
		return nil, cli.Usagef("--corpus: unknown corpus %q; valid is %s, or use --text", corpus, source.GoRootName)
	}
	valid := false
	for _, f := range source.Formats {
		valid = valid || f == format
	}
	if !valid {
		return nil, cli.Usagef("--format: unknown format %q; valid are %s", format, strings.Join(source.Formats, ", "))
	}
	byName := map[string]*source.Files{}
	stdin := 0
	for _, arg := range text {
		name, path := "", arg
		if before, after, ok := strings.Cut(arg, "="); ok && sourceName.MatchString(before) {
			if _, err := os.Stat(arg); err != nil { // a file may have such a name, too
				name, path = before, after
			}
		}
		if path == "" {
			return nil, cli.Usagef("--text: %q names no file; want FILE, DIR, - or NAME=PATH", arg)
		}
		if same(path, except) {
			return nil, cli.Usagef("--text: %s is the folder of --out; choose another to write to", path)
		}
		if path == source.Stdin {
			if stdin++; stdin > 1 {
				return nil, cli.Usagef("--text: standard input can be read once only")
			}
		}
		if name == "" {
			name = baseName(path)
		}
		if corpus != "" && name == corpus {
			return nil, cli.Usagef("--text: %s has the name of --corpus; give it another with NAME=PATH", arg)
		}
		if f := byName[name]; f != nil {
			f.Paths = append(f.Paths, path)
			continue
		}
		f := &source.Files{Named: name, Paths: []string{path}, Format: source.Format(format), Field: field, Except: except}
		byName[name] = f
		all = append(all, f)
	}
	return all, nil
}

// baseName is the name of a source that has been given none.
func baseName(path string) string {
	if path == source.Stdin {
		return "stdin"
	}
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	base := filepath.Base(path)
	name, _, _ := strings.Cut(strings.TrimLeft(base, "."), ".")
	return cmp.Or(name, base)
}

// shares reads --mix; there are none where it is empty.
func shares(mix string) (map[string]float64, error) {
	if mix == "" {
		return nil, nil
	}
	all := map[string]float64{}
	for _, item := range strings.Split(mix, ",") {
		name, value, ok := strings.Cut(item, "=")
		x, err := strconv.ParseFloat(value, 64)
		if !ok || name == "" || err != nil {
			return nil, cli.Usagef("--mix: %q is no NAME=SHARE, as in code=0.3,web=0.7", item)
		}
		if _, twice := all[name]; twice {
			return nil, cli.Usagef("--mix: %s comes twice", name)
		}
		all[name] = x
	}
	return all, nil
}

// prepared prints what a preparation has made.
func prepared(w io.Writer, out string, tok token.Tokenizer, res *data.Result, asJSON bool) error {
	documents := int64(0)
	for _, s := range res.Sources {
		documents += s.Documents
	}
	all := struct {
		Out           string  `json:"out"`
		Tokenizer     string  `json:"tokenizer"`
		Vocab         int     `json:"vocab"`
		Documents     int64   `json:"documents"`
		Tokens        int64   `json:"tokens"`
		TextBytes     int64   `json:"text_bytes"`
		BytesPerToken float64 `json:"bytes_per_token"`
		HeldOut       float64 `json:"held_out"` // share of the tokens
		*data.Result
	}{Out: out, Tokenizer: tok.Name(), Vocab: tok.Vocab(), Documents: documents, Tokens: res.Train.Tokens + res.Validation.Tokens,
		TextBytes: res.Train.TextBytes + res.Validation.TextBytes, Result: res}
	all.BytesPerToken = float64(all.TextBytes) / float64(all.Tokens)
	all.HeldOut = float64(res.Validation.Tokens) / float64(all.Tokens)
	if asJSON {
		return term.JSON(w, all)
	}
	_, err := fmt.Fprintf(w, "%s: %d documents, %d training and %d validation tokens (%s tokenizer)\n%d bytes of text, %.3f a token, %s held out\n",
		out, documents, res.Train.Tokens, res.Validation.Tokens, tok.Name(), all.TextBytes, all.BytesPerToken, term.Percent(all.HeldOut))
	if err == nil && len(res.Sources) > 1 {
		rows := [][]string{{"source", "documents", "text", "share", "passes"}}
		for _, s := range res.Sources {
			rows = append(rows, []string{s.Name, fmt.Sprint(s.Documents), term.Count(float64(s.TextBytes)) + "B",
				term.Percent(float64(s.TextBytes) / float64(all.TextBytes)), fmt.Sprint(s.Passes + 1)})
		}
		err = term.Table(w, rows)
	}
	return err
}

// prepareProgress shows how far a preparation is: a bar on a terminal, where it is known
// how much there is, and lines elsewhere.
type prepareProgress struct {
	w     io.Writer
	max   int64 // tokens
	bar   *term.Bar
	start time.Time
	first data.Progress
	next  time.Time // when a line is due
}

// firstPrepareLine is the time before the first line.
const firstPrepareLine = 2 * time.Second

func newPrepareProgress(w io.Writer, max int64) *prepareProgress {
	now := time.Now()
	return &prepareProgress{w: w, max: max, start: now, next: now.Add(firstPrepareLine)}
}

func (p *prepareProgress) set(at data.Progress) {
	now := time.Now()
	if p.bar == nil {
		p.first = at
		p.bar = &term.Bar{}
		if at.Total > 0 {
			p.bar = term.NewBar(p.w, "MB", int(at.Total/1e6))
		}
	}
	eta := ""
	if left, ok := p.left(at, now.Sub(p.start)); ok {
		eta = fmt.Sprintf(", ETA %s", left.Round(time.Second))
	}
	text := fmt.Sprintf("%s documents, %s tokens%s", term.Count(float64(at.Documents)), term.Count(float64(at.Tokens)), eta)
	if p.bar.On() {
		p.bar.Show(int(min(at.Read, at.Total)/1e6), text)
		return
	}
	if now.Before(p.next) {
		return
	}
	p.next = now.Add(term.LogEvery)
	if at.Total > 0 {
		text = fmt.Sprintf("%sB of %sB, %s", term.Count(float64(at.Read)), term.Count(float64(at.Total)), text)
	}
	fmt.Fprintln(p.w, text)
}

// left is the time that is left: until the end of the files, or of the tokens.
func (p *prepareProgress) left(at data.Progress, spent time.Duration) (time.Duration, bool) {
	left, ok := 0.0, false
	if read := at.Read - p.first.Read; at.Total > 0 && read > 0 {
		left, ok = float64(max(0, at.Total-at.Read))/float64(read), true
	}
	if tokens := at.Tokens - p.first.Tokens; p.max > 0 && tokens > 0 {
		if x := float64(max(0, p.max-at.Tokens)) / float64(tokens); !ok || x < left {
			left, ok = x, true
		}
	}
	return time.Duration(left * float64(spent)), ok
}

func (p *prepareProgress) note(text string) {
	if p.bar != nil && p.bar.On() {
		p.bar.Println(text)
		return
	}
	fmt.Fprintln(p.w, text)
}

func (p *prepareProgress) close() {
	if p.bar != nil {
		p.bar.Close()
	}
}
