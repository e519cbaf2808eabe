// Command tokencheck compares our tokenizers with the libraries that their files
// come from, on any text. It needs Python with the packages tokenizers and
// sentencepiece, and is no part of the tests.
//
//	tokencheck compare [-ordinary] [-python PYTHON] TOKENIZER [TEXT...]
//	tokencheck text OUT
//	tokencheck merges RANKS OUT
//	tokencheck ranks RANKS OUT
//
// compare encodes documents on one core with both, says where they first differ
// and how fast each was. TEXT is a file, a folder (each file is a document) or a
// .jsonl file of strings; without any it is the hostile text that text writes as
// such a file. merges makes gpt2.merges.gz of the package hf from tiktoken's file
// of its ranks, ranks a tokenizer.json with GPT-2's pattern. published.py, beside
// this file, builds the tokenizer.json files of well-known models.
package main

import (
	"bufio"
	_ "embed"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/structuredffn/sffn/internal/gz"
	"github.com/structuredffn/sffn/model/token"
	"github.com/structuredffn/sffn/model/token/hf"
)

//go:embed reference.py
var reference string

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "tokencheck:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	usage := fmt.Errorf("usage: tokencheck compare|text|merges|ranks ..., see the comment of the command")
	if len(args) == 0 {
		return usage
	}
	switch command, args := args[0], args[1:]; {
	case command == "compare":
		return compare(args)
	case command == "text" && len(args) == 1:
		return writeText(args[0])
	case command == "merges" && len(args) == 2, command == "ranks" && len(args) == 2:
		f, err := os.Open(args[0])
		if err != nil {
			return err
		}
		defer f.Close()
		tokens, err := readRanks(f)
		if err != nil {
			return err
		}
		pairs, err := merges(tokens)
		if err != nil {
			return err
		}
		if command == "ranks" {
			return os.WriteFile(args[1], hf.Model{Merges: pairs, Special: []string{"<|endoftext|>"}}.JSON(), 0o666)
		}
		var columns [4][]byte
		for _, p := range pairs {
			for i, b := range []int32{p[0], p[0] >> 8, p[1], p[1] >> 8} {
				columns[i] = append(columns[i], byte(b))
			}
		}
		var all []byte
		for _, c := range columns {
			all = append(all, c...)
		}
		return os.WriteFile(args[1], gz.Pack(all), 0o666)
	}
	return usage
}

func writeText(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(f)
	err = texts(func(s string) { fmt.Fprintf(out, "%s\n", line(s)) })
	if err == nil {
		err = out.Flush()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

// line is a JSON string.
func line(s string) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings have an encoding
	}
	return b
}

// documents yields those of the arguments.
func documents(names []string, yield func(string)) error {
	if len(names) == 0 {
		return texts(yield)
	}
	for _, name := range names {
		if filepath.Ext(name) == ".jsonl" {
			f, err := os.Open(name)
			if err != nil {
				return err
			}
			defer f.Close()
			for dec := json.NewDecoder(f); ; {
				var s string
				if err := dec.Decode(&s); err == io.EOF {
					break
				} else if err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				yield(s)
			}
			continue
		}
		err := filepath.WalkDir(name, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			text, err := os.ReadFile(path)
			if err == nil && len(text) > 0 {
				yield(replaced(text))
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func compare(args []string) error {
	flags := flag.NewFlagSet("compare", flag.ContinueOnError)
	ordinary := flags.Bool("ordinary", false, "special tokens in a text are text")
	python := flags.String("python", "python3", "a Python with tokenizers and sentencepiece")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return fmt.Errorf("compare needs a tokenizer")
	}
	name := flags.Arg(0)
	content, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	start := time.Now()
	tok, err := token.Parse(name, content)
	if err != nil {
		return err
	}
	fmt.Printf("%s: read in %v, %d ids\n", name, time.Since(start).Round(time.Millisecond), tok.Vocab())
	runtime.GOMAXPROCS(1)
	return compareWith(tok, *python, name, *ordinary, flags.Args()[1:])
}

func compareWith(tok token.Tokenizer, python, name string, ordinary bool, texts []string) error {
	arguments := []string{"-c", reference, name}
	if ordinary {
		arguments = append(arguments, "ordinary")
	}
	cmd := exec.Command(python, arguments...)
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	out := bufio.NewReaderSize(pipe, 1<<20)
	toPython := bufio.NewWriterSize(in, 1<<20)
	var bytes, count, documentCount, lost int
	var spent time.Duration // of processors
	var ids, want []int32
	differ := 0
	var failure error
	err = documents(texts, func(s string) {
		if failure != nil {
			return
		}
		text := []byte(s)
		start := processorTime()
		if ordinary {
			ids = tok.EncodeOrdinary(ids[:0], text)
		} else {
			ids = tok.Encode(ids[:0], text)
		}
		spent += processorTime() - start
		bytes, count, documentCount = bytes+len(text), count+len(ids), documentCount+1
		if _, failure = toPython.Write(append(line(s), '\n')); failure == nil {
			failure = toPython.Flush()
		}
		var n uint32
		if failure == nil {
			failure = binary.Read(out, binary.NativeEndian, &n)
		}
		if failure != nil {
			return
		}
		want = append(want[:0], make([]int32, n)...)
		if failure = binary.Read(out, binary.NativeEndian, want); failure != nil {
			return
		}
		if at, same := firstDifference(ids, want); !same {
			if differ++; differ <= 20 {
				report(tok, documentCount, at, ids, want)
			}
		}
		if back := decode(tok, ids); back != s {
			lost++
		}
	})
	if closeErr := in.Close(); err == nil {
		err = closeErr
	}
	if waitErr := cmd.Wait(); waitErr != nil {
		return fmt.Errorf("%w: %s", waitErr, stderr.String())
	}
	if err == nil {
		err = failure
	}
	if err != nil {
		return err
	}
	lines := strings.Fields(stderr.String())
	seconds, err := strconv.ParseFloat(lines[len(lines)-1], 64)
	if err != nil {
		return fmt.Errorf("%w: %s", err, stderr.String())
	}
	fmt.Printf("%d documents, %.1f MB, %d ids: %d documents differ; %d do not decode to what they were\n", documentCount, float64(bytes)/1e6, count, differ, lost)
	fmt.Printf("ours %.1f MB/s, the library %.1f MB/s, by processor time on one core\n", float64(bytes)/1e6/spent.Seconds(), float64(bytes)/1e6/seconds)
	if differ > 0 {
		return fmt.Errorf("%d documents differ", differ)
	}
	return nil
}

// processorTime is what this process has used of processors.
func processorTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(err) // it takes no wrong argument
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func firstDifference(a, b []int32) (at int, same bool) {
	for at < len(a) && at < len(b) && a[at] == b[at] {
		at++
	}
	return at, at == len(a) && at == len(b)
}

// report prints the ids of both around the first that differ.
func report(tok token.Tokenizer, document, at int, ids, want []int32) {
	fmt.Printf("document %d differs at id %d of %d and %d:\n", document, at, len(ids), len(want))
	for _, side := range []struct {
		name string
		ids  []int32
	}{{"ours", ids}, {"library", want}} {
		fmt.Printf("  %-8s", side.name)
		for i := max(0, at-3); i < min(len(side.ids), at+6); i++ {
			fmt.Printf(" %d%+q", side.ids[i], string(tok.Decode(nil, side.ids[i]))+tok.Special(side.ids[i]))
		}
		fmt.Println()
	}
}

// decode returns the text of ids, with special tokens as they are spelled.
func decode(tok token.Tokenizer, ids []int32) string {
	var b []byte
	for _, id := range ids {
		b = append(tok.Decode(b, id), tok.Special(id)...)
	}
	if tok.Prefixed() && len(b) > 0 && b[0] == ' ' {
		b = b[1:]
	}
	if !utf8.Valid(b) {
		return replaced(b)
	}
	return string(b)
}
