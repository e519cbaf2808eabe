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
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/internal/goldenkernels"
	"github.com/structuredffn/sffn/internal/gpucheck"
	"github.com/structuredffn/sffn/model/config"
	"github.com/structuredffn/sffn/runtime/cuda"
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
Each part runs in a process of its own: a kernel that hangs, or that ends it, is
named, and the rest goes on. It writes gpucheck.json, every figure, and gpucheck.md,
one page, before the first part, after each and every ten seconds: what is cut short
leaves what it had. Exit codes: 0 all passed, 1 something failed, was cut short or
had nothing to check, or there is no device, 2 bad usage, 130 interrupted.

Flags:
`

// list is a flag of values with commas between them.
type list []string

func (l *list) String() string { return strings.Join(*l, ",") }
func (l *list) Set(s string) error {
	*l = strings.Split(s, ",")
	if slices.Contains(*l, "") {
		return errors.New("want values with commas between them, and nothing empty")
	}
	return nil
}

// childArg begins the arguments of a child process; its job and the arguments of
// the command follow.
const childArg = "child-process"

// Run is the command. load finds the driver, in the child processes that the
// command starts of its own program: their main function must come here, too.
func Run(args []string, load func() (*driver.API, error), stdout, stderr io.Writer) int {
	if len(args) > 1 && args[0] == childArg {
		return child(args[1], args[2:], load, stderr)
	}
	return parent(args, os.Environ(), stdout, stderr)
}

// parent is the command where it is no child; its children have the environment.
func parent(args, environment []string, stdout, stderr io.Writer) int {
	cfg, o, code := parse(args, stderr)
	if cfg == nil {
		return code
	}
	return check(*cfg, o, args, environment, stdout, stderr)
}

// options are what the command itself needs.
type options struct {
	out   string
	quiet bool
}

// What counts may be: more is a mistake, which would only show late.
const (
	mostRows    = 1 << 17 // and positions
	mostSteps   = 1e6
	mostRepeats = 1e4
)

// parse reads the arguments. Without a configuration the command ends with the
// code.
func parse(args []string, stderr io.Writer) (c *gpucheck.Config, o options, code int) {
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
	cfg := &gpucheck.Config{}
	fs.BoolVar(&cfg.Quick, "quick", false, "fewer sizes, models and repetitions, and a time for each part: at most six minutes")
	fs.StringVar(&cfg.Device, "device", "", "the GPU by its number, from 0, or the beginning of its UUID; the first one where it is empty")
	fs.StringVar(&o.out, "out", ".", "folder of the report")
	fs.IntVar(&cfg.Steps, "steps", 0, "training steps; 50 where it is 0")
	fs.IntVar(&cfg.Repeats, "repeats", 0, "repetitions of each measurement; 7 where it is 0, or 3 with -quick")
	fs.StringVar(&cfg.Python, "python", "", "Python whose torch.matmul is timed beside the products: python3 where it is empty, or none")
	fs.BoolVar(&cfg.Golden, "golden", true, "run the golden cases in part golden")
	match := fs.String("match", "", "prove and time only kernels whose names match this regular expression")
	fs.BoolVar(&o.quiet, "quiet", false, "print the page alone")
	fs.DurationVar(&cfg.Limit, "limit", gpucheck.DefaultLimit, "how long one launch may take before it counts as hanging, and its process is ended")
	fs.DurationVar(&cfg.PartLimit, "part-limit", 0, "how long each part may take before it is cut short; where it is 0, a time of each part's own with -quick, else any")
	fs.Var(&models, "kernels", "models whose kernels are proven and timed, presets or configuration files with commas between them")
	fs.Var(&trained, "trained", "models that train and decode beside the CPU")
	fs.Var(&timed, "timed", "models of the table of steps and tokens")
	fs.Var(&rows, "rows", "rows that kernels are proven with")
	fs.Var(&timedRows, "timed-rows", "rows that kernels are timed with")
	fs.Var(&contexts, "contexts", "lengths of the table of steps and tokens")
	for rest := args; ; { // flags may stand behind parts
		switch err := fs.Parse(rest); {
		case errors.Is(err, flag.ErrHelp):
			return nil, o, good
		case err != nil:
			return nil, o, usage
		}
		if fs.NArg() == 0 {
			break
		}
		cfg.Parts, rest = append(cfg.Parts, fs.Arg(0)), fs.Args()[1:]
	}
	var err error
	wrong := func(format string, args ...any) { err = errors.Join(err, fmt.Errorf(format, args...)) }
	// Defaults take the place of 0.
	if n := cfg.Steps; n < 0 || n == 1 || n > mostSteps {
		wrong("-steps %d: want 2 to %d, or 0 for as many as usual", n, int(mostSteps))
	}
	if n := cfg.Repeats; n < 0 || n > mostRepeats {
		wrong("-repeats %d: want 1 to %d, or 0 for as many as usual", n, int(mostRepeats))
	}
	if cfg.Limit < time.Second {
		wrong("-limit %v: want 1s or more", cfg.Limit)
	}
	if cfg.PartLimit < 0 {
		wrong("-part-limit %v: want 0 or more", cfg.PartLimit)
	}
	if e := cuda.CheckSelector(cfg.Device); e != nil {
		wrong("-device: %w", e)
	}
	cfg.Defaults()
	if *match != "" {
		var e error
		if cfg.Match, e = regexp.Compile(*match); e != nil {
			wrong("-match: %w", e)
		}
	}
	set := func(to *[]*config.Config, names list) {
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
			if e != nil || v < 1 || v > mostRows {
				wrong("-%s: %q, want whole numbers of 1 to %d with commas between them", n.name, s, mostRows)
			}
			*n.to = append(*n.to, v)
		}
	}
	for _, p := range cfg.Parts {
		if gpucheck.What(p) == "" {
			wrong("unknown part %q; there are %s", p, strings.Join(gpucheck.Parts(), ", "))
		}
	}
	if err != nil {
		fmt.Fprintf(stderr, "gpucheck: %v\n", err)
		return nil, o, usage
	}
	return cfg, o, good
}

// child does a job of a run in this process. It ends where its standard input
// does: when the parent asks for it, or is no more.
func child(text string, args []string, load func() (*driver.API, error), stderr io.Writer) int {
	fail := func(err error) int {
		fmt.Fprintf(stderr, "gpucheck: %v\n", err)
		return failed
	}
	cfg, _, code := parse(args, stderr)
	if cfg == nil {
		return code
	}
	var job gpucheck.Job
	if err := json.Unmarshal([]byte(text), &job); err != nil {
		return fail(err)
	}
	// A terminal sends its signals to all its processes; the parent's counts.
	signal.Notify(make(chan os.Signal, 1), signals...)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go func() {
		io.Copy(io.Discard, os.Stdin)
		stop()
		time.Sleep(2 * gpucheck.Grace) // the parent would have ended it
		os.Exit(failed)
	}()
	words := func() (*driver.API, error) {
		api, err := load()
		if d, ok := err.(interface{ Details() string }); ok { // what was tried
			err = errors.New(d.Details())
		}
		return api, err
	}
	if err := gpucheck.Work(ctx, words, *cfg, job, os.Stdout); err != nil {
		return fail(err)
	}
	return good
}

// signals end a run.
var signals = []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP}

// check runs it, and writes the report as it goes.
func check(cfg gpucheck.Config, o options, args, environment []string, stdout, stderr io.Writer) int {
	stderr = &locked{w: stderr}
	fail := func(err error) int {
		fmt.Fprintf(stderr, "gpucheck: %v\n", err)
		return failed
	}
	program, err := os.Executable()
	if err != nil {
		return fail(err)
	}
	cfg.Start = func(job gpucheck.Job) *exec.Cmd {
		text, err := json.Marshal(job)
		cmd := exec.Command(program, append([]string{childArg, string(text)}, args...)...)
		cmd.Env, cmd.Err = environment, errors.Join(cmd.Err, err)
		return cmd
	}
	if !o.quiet {
		cfg.Log = stderr
	}
	var unsaved error
	cfg.Saved = func(r *gpucheck.Report) {
		err := save(r, o.out)
		if err != nil && (unsaved == nil || unsaved.Error() != err.Error()) {
			fmt.Fprintf(stderr, "gpucheck: the report is not saved: %v\n", err)
		}
		unsaved = err
	}
	ctx, stop := context.WithCancelCause(context.Background())
	defer stop(nil)
	kill, caught, came := make(chan struct{}), make(chan syscall.Signal, 1), make(chan os.Signal, 2)
	cfg.Kill = kill
	signal.Notify(came, signals...)
	defer signal.Stop(came)
	end := make(chan struct{})
	defer close(end)
	next := func() (syscall.Signal, bool) {
		select {
		case s := <-came:
			number, _ := s.(syscall.Signal)
			return number, true
		case <-end:
			return 0, false
		}
	}
	go func() {
		s, ok := next()
		if !ok {
			return
		}
		caught <- s
		fmt.Fprintf(stderr, "gpucheck: %v: ends with the launch at work; a second one ends at once\n", s)
		stop(errors.New(s.String()))
		if _, ok := next(); ok {
			close(kill)
			signal.Stop(came)
		}
	}()
	r, err := gpucheck.Run(ctx, cfg)
	if r != nil {
		err = errors.Join(err, r.Summary(stdout))
		if unsaved != nil {
			data, e := r.JSON()
			_, e2 := stdout.Write(data)
			err = errors.Join(err, unsaved, e, e2)
		}
	}
	select {
	case s := <-caught:
		return 128 + int(s)
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

// save writes the report to a folder, which it makes where there is none.
func save(r *gpucheck.Report, folder string) error {
	data, err := r.JSON()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(folder, 0o777); err != nil {
		return err
	}
	return errors.Join(
		disk.Replace(filepath.Join(folder, "gpucheck.json"), func(w io.Writer) error { _, err := w.Write(data); return err }),
		disk.Replace(filepath.Join(folder, "gpucheck.md"), r.Summary))
}

// locked lets several goroutines write.
type locked struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// configs loads presets, golden models and files.
func configs(names []string) (cs []*config.Config, err error) {
	for _, name := range names {
		c, e := goldenkernels.Config(name)
		if e == nil {
			goldenkernels.Register()
		} else {
			c, e = config.Load(name)
		}
		err = errors.Join(err, e)
		cs = append(cs, c)
	}
	return cs, err
}
