package tool

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/model/safetensors"
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
			if err := require(cmd, "model", "ids", "out"); err != nil {
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
			l, err := loadRun(name, m.Options)
			if err != nil {
				return err
			}
			defer l.close()
			ids, err := readIDs(file, l.Spec.Vocab, l.Spec.MaxPositions)
			if err != nil {
				return fmt.Errorf("--ids: %w", err)
			}
			logits := safetensors.Value{Name: "logits", Shape: []int{len(ids), l.Spec.Vocab}, Stream: func(write func([]float32) error) error {
				return l.Logits(ids, cached, write)
			}}
			if err := safetensors.Write(f, []safetensors.Value{logits}, nil); err != nil {
				return fmt.Errorf("--out: %s: %w", out, err)
			}
			if err := f.Commit(); err != nil {
				return fmt.Errorf("--out: %w", err)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: logits %v of %s\n", out, logits.Shape, l.dir)
			return err
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&name, "model", "", "folder of a run or checkpoint")
	fl.StringVar(&file, "ids", "", `file of token ids: a JSON array, or an object that has it as "ids"`)
	fl.StringVar(&out, "out", "", "safetensors file to write")
	fl.BoolVar(&cached, "cached", false, "decode with the cache of keys and values instead of one pass over all tokens")
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

// maxIDsFile bounds a file of ids: some bytes for each position of any model.
const maxIDsFile = 16 << 20

// readIDs reads token ids for a model of so large a vocabulary and so many
// positions from a JSON file: an array, or an object that has it as "ids".
func readIDs(name string, vocab, positions int) ([]int32, error) {
	f, err := disk.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxIDsFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxIDsFile {
		return nil, fmt.Errorf("%s: too long for token ids, want at most %d bytes", name, maxIDsFile)
	}
	return parseIDs(name, text, vocab, positions)
}

// idsForm is what a file of ids looks like.
const idsForm = `want an array of token ids, [76, 105], or an object {"ids": [76, 105]}`

// parseIDs reads the text of such a file. It keeps no more ids than there are
// positions.
func parseIDs(name string, text []byte, vocab, positions int) ([]int32, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	// wrong puts a place before a message: so many bytes before the end of the
	// last token.
	wrong := func(back int, format string, args ...any) error {
		return fmt.Errorf("%s:%s: %w", name, place(text, int(dec.InputOffset())-back), fmt.Errorf(format, args...))
	}
	next := func() (json.Token, error) {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, wrong(0, "the text ends here, %s", idsForm)
		} else if err != nil {
			return nil, wrong(0, "%w, %s", err, idsForm)
		}
		return tok, nil
	}
	var ids []int32
	array := func(tok json.Token) error {
		if tok != json.Delim('[') {
			return wrong(1, "%s", idsForm)
		}
		for dec.More() {
			tok, err := next()
			if err != nil {
				return err
			}
			number, ok := tok.(json.Number)
			if !ok {
				return wrong(1, "ids[%d] is no number, %s", len(ids), idsForm)
			}
			id, err := strconv.ParseInt(number.String(), 10, 32)
			if err != nil || id < 0 || id >= int64(vocab) {
				return wrong(len(number), "ids[%d] is %.20s, want an id of the model's vocabulary, a whole number from 0 to %d", len(ids), number, vocab-1)
			}
			if len(ids) == positions {
				return wrong(len(number), "ids[%d] is one too many, the model has %d positions", len(ids), positions)
			}
			ids = append(ids, int32(id))
		}
		_, err := next() // the array's end
		return err
	}
	tok, err := next()
	if err != nil {
		return nil, err
	}
	if tok == json.Delim('{') {
		found := false
		for dec.More() {
			key, err := next()
			if err != nil {
				return nil, err
			}
			if key != "ids" {
				var other json.RawMessage
				if err := dec.Decode(&other); err != nil {
					return nil, wrong(0, "%v: %w", key, err)
				}
				continue
			}
			if found {
				return nil, wrong(1, "ids comes twice")
			}
			found = true
			if tok, err = next(); err != nil {
				return nil, err
			}
			if err := array(tok); err != nil {
				return nil, err
			}
		}
		if _, err := next(); err != nil {
			return nil, err
		}
		if !found {
			return nil, wrong(1, "the object has no ids, %s", idsForm)
		}
	} else if err := array(tok); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, wrong(0, "there is more behind the ids, %s", idsForm)
	}
	if len(ids) == 0 {
		return nil, wrong(1, "the list of ids is empty, want 1 to %d, the positions of the model", positions)
	}
	return ids, nil
}
