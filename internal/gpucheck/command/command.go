// Package command is the command line of gpucheck, on any driver.
package command

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	"github.com/structuredffn/sffn/gen/specfile"
	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/internal/goldenkernels"
	"github.com/structuredffn/sffn/internal/gpucheck"
	"github.com/structuredffn/sffn/runtime/cuda/driver"
)

// Exit codes: what the device does is right or wrong, a usage error, and 128 and
// the signal's number where one cut it short.
const (
	good   = 0
	failed = 1
	usage  = 2
)

const help = `gpucheck proves and times the GPU kernels of sffn on this machine's NVIDIA GPU.
It needs nothing but the driver.

usage: gpucheck [flags] [part ...]

Parts, all of them where none is named:
%s
It writes gpucheck.json, every figure, and gpucheck.md, one page, after each part
and every ten seconds: what is cut short leaves what it had. Exit codes: 0 all
passed, 1 something failed or there is no device, 2 bad usage, 130 interrupted.

Flags:
`

// list is a flag of values with commas between them.
type list []string

func (l *list) String() string { return strings.Join(*l, ",") }
func (l *list) Set(s string) error {
	*l = strings.Split(s, ",")
	return nil
}

// Run is the command. load finds the driver.
func Run(args []string, load func() (*driver.API, error), stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet("gpucheck", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {
		var parts strings.Builder
		for _, name := range gpucheck.Parts() {
			fmt.Fprintf(&parts, "  %-10s %s\n", name, gpucheck.What(name))
		}
		fmt.Fprintf(fs.Output(), help, parts.String())
		fs.PrintDefaults()
	}
	var models, trained, timed, rows, timedRows, contexts list
	quick := fs.Bool("quick", false, "fewer sizes, models and repetitions: at most six minutes")
	device := fs.String("device", "", "the GPU by its number, from 0, or the beginning of its UUID; the first one where it is empty")
	out := fs.String("out", ".", "folder of the report")
	steps := fs.Int("steps", 0, "training steps; 50 where it is 0")
	repeats := fs.Int("repeats", 0, "repetitions of each measurement; 7 where it is 0, or 3 with -quick")
	python := fs.String("python", "", "Python whose torch.matmul is timed beside the products: python3 where it is empty, or none")
	golden := fs.Bool("golden", true, "run the golden cases in part golden")
	match := fs.String("match", "", "prove and time only kernels whose names match this regular expression")
	quiet := fs.Bool("quiet", false, "print the page alone")
	fs.Var(&models, "kernels", "models whose kernels are proven and timed, presets or configuration files with commas between them")
	fs.Var(&trained, "trained", "models that train and decode beside the CPU")
	fs.Var(&timed, "timed", "models of the table of steps and tokens")
	fs.Var(&rows, "rows", "rows that kernels are proven with")
	fs.Var(&timedRows, "timed-rows", "rows that kernels are timed with")
	fs.Var(&contexts, "contexts", "lengths of the table of steps and tokens")
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return good
	case err != nil:
		return usage
	}
	cfg := gpucheck.Config{Device: *device, Parts: fs.Args(), Quick: *quick, Steps: *steps, Repeats: *repeats, Python: *python, Golden: *golden}
	if len(cfg.Parts) == 0 {
		cfg.Parts = nil
	}
	cfg.Defaults()
	var err error
	if *match != "" {
		if cfg.Match, err = regexp.Compile(*match); err != nil {
			err = fmt.Errorf("-match: %w", err)
		}
	}
	set := func(to *[]*specfile.Config, names list) {
		if names != nil {
			var e error
			*to, e = configs(names)
			err = errors.Join(err, e)
		}
	}
	set(&cfg.Kernels, models)
	set(&cfg.Trained, trained)
	set(&cfg.Timed, timed)
	for _, n := range []struct {
		to   *[]int
		from list
		name string
	}{{&cfg.Rows, rows, "rows"}, {&cfg.TimedRows, timedRows, "timed-rows"}, {&cfg.Contexts, contexts, "contexts"}} {
		if n.from == nil {
			continue
		}
		*n.to = nil
		for _, s := range n.from {
			v, e := strconv.Atoi(s)
			if e != nil || v < 1 {
				err = errors.Join(err, fmt.Errorf("-%s: %q, want whole numbers of 1 and more with commas between them", n.name, s))
			}
			*n.to = append(*n.to, v)
		}
	}
	for _, p := range cfg.Parts {
		if gpucheck.What(p) == "" {
			err = errors.Join(err, fmt.Errorf("unknown part %q; there are %s", p, strings.Join(gpucheck.Parts(), ", ")))
		}
	}
	if *steps < 0 || *steps == 1 || *repeats < 0 {
		err = errors.Join(err, errors.New("-steps: want 2 or more, and -repeats: 1 or more"))
	}
	if err != nil {
		fmt.Fprintf(stderr, "gpucheck: %v\n", err)
		return usage
	}
	return check(cfg, load, *out, *quiet, stdout, stderr)
}

// check runs it, and writes the report as it goes.
func check(cfg gpucheck.Config, load func() (*driver.API, error), out string, quiet bool, stdout, stderr io.Writer) int {
	fail := func(err error) int {
		fmt.Fprintf(stderr, "gpucheck: %v\n", err)
		return failed
	}
	api, err := load()
	if err != nil {
		return fail(err)
	}
	if err := os.MkdirAll(out, 0o777); err != nil {
		return fail(err)
	}
	if !quiet {
		cfg.Log = stderr
	}
	cfg.Saved = func(r *gpucheck.Report) error {
		data, err := json.MarshalIndent(r, "", " ")
		if err != nil {
			return err
		}
		return errors.Join(
			disk.Replace(filepath.Join(out, "gpucheck.json"), func(w io.Writer) error { _, err := w.Write(append(data, '\n')); return err }),
			disk.Replace(filepath.Join(out, "gpucheck.md"), r.Summary))
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	caught := make(chan os.Signal, 1)
	go func() {
		select {
		case s := <-signals:
			caught <- s
			fmt.Fprintf(stderr, "gpucheck: %v: ends with the launch at work; a second one ends at once\n", s)
			signal.Stop(signals)
			stop()
		case <-ctx.Done():
		}
	}()
	r, err := gpucheck.Run(ctx, api, cfg)
	if r != nil {
		err = errors.Join(err, r.Summary(stdout))
	}
	select {
	case s := <-caught:
		if n, ok := s.(syscall.Signal); ok {
			return 128 + int(n)
		}
	default:
	}
	switch {
	case err != nil:
		return fail(err)
	case !r.Passed:
		return failed
	}
	return good
}

// configs loads presets, golden models and files.
func configs(names []string) (cs []*specfile.Config, err error) {
	for _, name := range names {
		c, e := goldenkernels.Config(name)
		if e == nil {
			goldenkernels.Register()
		} else {
			c, e = specfile.Load(name)
		}
		err = errors.Join(err, e)
		cs = append(cs, c)
	}
	return cs, err
}
