// Command same compares the tools of two commits: what they compute, bit for bit,
// or with -speed how fast they are. It is for changes that are to keep both.
//
// For the bits it trains the models of configs with both tools on each instruction
// set of this machine, decodes, writes logits, and compares every tensor of the
// checkpoints (parameters, guides, moments), every step of the metrics, every token
// and every logit. The second commit runs twice: as it is built, where small
// models have any-shape kernels, and with the kernels that it generates for them,
// which are to give the first one's bits, too.
package main

import (
	"context"
	"embed"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/structuredffn/sffn/runtime/kernel"
)

//go:embed configs/*.yaml
var configs embed.FS

// Steps of training, each of which has a checkpoint but in the wide model's runs.
// Portable kernels are some fifty times slower.
const (
	steps             = 30
	stepsPortable     = 10
	stepsPortableWide = 2
	wide              = "wide"
)

func stepsOn(isa kernel.ISA, config string) int {
	switch {
	case isa != kernel.Portable:
		return steps
	case config == wide:
		return stepsPortableWide
	}
	return stepsPortable
}

// errDiffers ends the program with code 1 and no further words.
var errDiffers = errors.New("the commits differ")

// options are the command line.
type options struct {
	base, head string // commits; no head is the working tree
	speed      bool
	part       string
	rounds     int
}

func main() {
	var o options
	flag.StringVar(&o.base, "base", "", "commit to compare with")
	flag.StringVar(&o.head, "head", "", "commit to compare (default: the working tree)")
	flag.BoolVar(&o.speed, "speed", false, "compare speed instead of bits")
	flag.StringVar(&o.part, "part", "", "with -speed: kernels, ffn, train or decode (default: all)")
	flag.IntVar(&o.rounds, "rounds", 5, "with -speed: how often each tool is measured")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	err := o.run(ctx)
	switch {
	case err == errDiffers:
		os.Exit(1)
	case err != nil:
		fmt.Fprintln(os.Stderr, "same:", err)
		os.Exit(2)
	}
}

func (o options) run(ctx context.Context) error {
	if o.base == "" || flag.NArg() > 0 || o.rounds < 1 {
		return errors.New("want -base COMMIT, at least one round and no further arguments: make same BASE=HEAD~1")
	}
	measured, err := partsOf(o.part)
	if err != nil {
		return err
	}
	root, err := command(ctx, "", nil, "git", "rev-parse", "--show-toplevel")
	if err != nil {
		return err
	}
	if err := os.Chdir(strings.TrimSpace(string(root))); err != nil {
		return err
	}
	hash, err := revision(ctx, o.base)
	if err != nil {
		return err
	}
	commit, other := "", "the working tree"
	if o.head != "" {
		if commit, err = revision(ctx, o.head); err != nil {
			return err
		}
		other = commit
	}
	room := filepath.Join("build", "same")
	if err := os.RemoveAll(room); err != nil {
		return err
	}
	files, err := writeConfigs(filepath.Join(room, "configs"))
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "building %s\n", hash)
	if err := build(ctx, hash, filepath.Join(room, "base"), nil); err != nil {
		return err
	}
	specialised := files
	if o.speed {
		specialised = nil
	}
	fmt.Fprintf(os.Stderr, "building %s\n", other)
	if err := build(ctx, commit, filepath.Join(room, "head"), specialised); err != nil {
		return err
	}
	if o.speed {
		fmt.Printf("Speed of %s and of %s, medians of %d rounds in turn\n\n", hash, other, o.rounds)
		return speed(ctx, room, measured, o.rounds)
	}
	fmt.Printf("Bits of %s and of %s, which also runs with kernels that it generates for each shape\n\n", hash, other)
	return bits(ctx, room, files)
}

// writeConfigs writes the configurations as files.
func writeConfigs(dir string) (files []string, err error) {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, err
	}
	entries, err := configs.ReadDir("configs")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		text, err := configs.ReadFile(path.Join("configs", e.Name()))
		if err != nil {
			return nil, err
		}
		name := filepath.Join(dir, e.Name())
		if err := os.WriteFile(name, text, 0o666); err != nil {
			return nil, err
		}
		files = append(files, name)
	}
	return files, nil
}

// bits prints a row for each configuration, instruction set and kind of kernels.
func bits(ctx context.Context, room string, files []string) error {
	began := time.Now()
	text := filepath.Join(room, "text.txt")
	if err := writeText(text); err != nil {
		return err
	}
	in := func(tree, name string) program {
		return program{filepath.Join(room, tree, name), filepath.Join(room, tree, "data")}
	}
	base, head := in("base", "sffn"), in("head", "sffn")
	for _, t := range []program{base, head} {
		if err := t.prepare(ctx, text); err != nil {
			return err
		}
	}
	available, err := base.isas(ctx, files[0])
	if err != nil {
		return err
	}
	const row = "%-20s %-9s %-12s %5v %8v %11v %7v  %s\n"
	fmt.Printf(row, "configuration", "ISA", "kernels", "steps", "tensors", "bytes", "tokens", "")
	total, different := Comparison{}, 0
	for _, isa := range available {
		for _, config := range files {
			name := strings.TrimSuffix(filepath.Base(config), ".yaml")
			j := job{config: config, steps: stepsOn(isa, name), last: name == wide, isa: isa}
			work := filepath.Join(room, "results")
			want := filepath.Join(work, "base")
			if err := base.results(ctx, j, want); err != nil {
				return err
			}
			for _, kernels := range []string{"as linked", "specialised"} {
				t := head
				if kernels == "specialised" {
					if isa == kernel.Portable {
						continue // has none
					}
					t = in("head", "sffn-specialised")
				}
				got := filepath.Join(work, kernels)
				if err := t.results(ctx, j, got); err != nil {
					return err
				}
				c, err := compare(want, got)
				if err != nil {
					return err
				}
				verdict := "same"
				if len(c.Differences) > 0 {
					verdict = "DIFFERS"
					different++
				}
				fmt.Printf(row, name, isa, kernels, c.Steps, c.Tensors, c.Bytes, c.Tokens, verdict)
				for _, d := range c.Differences {
					fmt.Printf("    %s\n", d)
				}
				total.Tensors += c.Tensors
				total.Bytes += c.Bytes
				total.Tokens += c.Tokens
				total.Steps += c.Steps
			}
			if err := os.RemoveAll(work); err != nil {
				return err
			}
		}
	}
	fmt.Printf("\n%d tensors of %d bytes, %d steps and %d tokens compared in %v; ", total.Tensors, total.Bytes, total.Steps, total.Tokens, time.Since(began).Round(time.Second))
	if different > 0 {
		fmt.Printf("%d rows DIFFER\n", different)
		return errDiffers
	}
	fmt.Println("all the same")
	return nil
}
