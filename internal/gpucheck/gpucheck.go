// Package gpucheck is the proofs of the GPU kernels as one program, for a machine
// with nothing but a driver: what runs on the interpreter of PTX in the tests
// runs on a device here, and is timed.
package gpucheck

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/specfile"
	"github.com/structuredffn/sffn/internal/gpuproof"
	"github.com/structuredffn/sffn/model/gpu"
	"github.com/structuredffn/sffn/runtime/cuda"
	"github.com/structuredffn/sffn/runtime/cuda/driver"
)

// Config says what is checked.
type Config struct {
	// Device is the one of [cuda.Open].
	Device string
	// Parts are those that run, all where there are none; Quick takes fewer sizes,
	// models and repetitions.
	Parts []string
	Quick bool
	// Kernels are the models whose kernels are proven and timed; Trained those that
	// take Steps steps and decode, Timed those of the tables of steps and tokens.
	Kernels, Trained, Timed []*specfile.Config
	Steps                   int
	// Match, where not nil, leaves out kernels of other names in the parts that
	// prove and time them.
	Match *regexp.Regexp
	// Golden says whether the golden cases run: the program has their kernels.
	Golden bool
	// Rows are the sizes that kernels are proven at, TimedRows those of their times,
	// Contexts the lengths of the tables.
	Rows, TimedRows, Contexts []int
	// Repeats of a measurement.
	Repeats int
	// Python is what has torch, python3 where it is empty; none for "none".
	Python string
	// Log gets lines of progress.
	Log io.Writer
	// Saved is called with the report after each part, and now and then in long
	// ones: it may be cut short at any time.
	Saved func(*Report) error
}

// Verdicts of parts.
const (
	Passed  = "passed"
	Failed  = "failed"
	Cut     = "cut short"
	Running = "running"
)

// Part is what came of one part.
type Part struct {
	Name    string  `json:"name"`
	What    string  `json:"what"`
	Verdict string  `json:"verdict"`
	Seconds float64 `json:"seconds"`
	// Checks counts what was compared, Problems says what failed, each in a line.
	Checks   int      `json:"checks"`
	Problems []string `json:"problems,omitempty"`
	Notes    []string `json:"notes,omitempty"`
}

// Report is what gpucheck writes.
type Report struct {
	Format  int       `json:"format"`
	Program string    `json:"program"` // version of the program
	Began   time.Time `json:"began"`
	Seconds float64   `json:"seconds"`
	Quick   bool      `json:"quick"`
	// Complete says that no part was cut short, Passed that all passed.
	Complete bool       `json:"complete"`
	Passed   bool       `json:"passed"`
	Device   DeviceInfo `json:"device"`
	Parts    []*Part    `json:"parts"`
	// Kernels has the proofs by kernel, Products, Passes and Models the times.
	Kernels  []KernelProof `json:"kernels"`
	Products []ProductTime `json:"products"`
	Passes   []PassTime    `json:"passes"`
	Models   []ModelTime   `json:"models"`
}

// formatVersion of reports.
const formatVersion = 1

// check is one run.
type check struct {
	Config
	context.Context
	api    *driver.API
	d      *cuda.Device
	report *Report
	part   *Part
	loaded map[string]*cuda.Kernel // by name, untested
	saved  time.Time
}

// part is one row of the table of parts.
type part struct {
	name, what string
	run        func(c *check) error
}

// parts are what there is, in the order in which it runs: what is quick and says
// the most comes first.
var parts = []part{
	{"device", "the device, the driver and both kinds of code", (*check).device},
	{"kernels", "every kernel against float64", (*check).kernels},
	{"golden", "golden layers and models", (*check).golden},
	{"train", "training steps against the CPU's, resumed once", (*check).train},
	{"decode", "greedy decoding, with graphs and without", (*check).decode},
	{"speed", "TFLOP/s of products and GB/s of passes", (*check).speed},
	{"models", "steps and tokens a second of whole models", (*check).models},
}

// Parts lists the names of the parts.
func Parts() (names []string) {
	for _, p := range parts {
		names = append(names, p.name)
	}
	return names
}

// What says what a part does.
func What(name string) string {
	for _, p := range parts {
		if p.name == name {
			return p.what
		}
	}
	return ""
}

// Run checks a device. The error says what kept it from running at all: no
// driver, no device, a part that there is not; what fails is in the report. A
// context that ends cuts it short, with what there is.
func Run(ctx context.Context, api *driver.API, cfg Config) (*Report, error) {
	for _, name := range cfg.Parts {
		if What(name) == "" {
			return nil, fmt.Errorf("unknown part %q; there are %s", name, strings.Join(Parts(), ", "))
		}
	}
	d, err := cuda.Open(api, cfg.Device)
	if err != nil {
		return nil, err
	}
	c := &check{Config: cfg, Context: ctx, api: api, d: d, loaded: map[string]*cuda.Kernel{},
		report: &Report{Format: formatVersion, Program: version(), Began: time.Now().UTC().Truncate(time.Second), Quick: cfg.Quick, Kernels: []KernelProof{}, Products: []ProductTime{}, Passes: []PassTime{}, Models: []ModelTime{}}}
	defer func() { c.d.Close() }() // what went wrong is in the report by then
	c.describe()
	for _, p := range parts {
		if cfg.Parts == nil || slices.Contains(cfg.Parts, p.name) {
			c.report.Parts = append(c.report.Parts, &Part{Name: p.name, What: p.what, Verdict: Cut})
		}
	}
	for _, p := range c.report.Parts {
		if ctx.Err() != nil {
			break
		}
		c.run(p)
		if err := c.save(); err != nil {
			return c.report, err
		}
	}
	c.report.Complete, c.report.Passed = true, true
	for _, p := range c.report.Parts {
		c.report.Complete = c.report.Complete && p.Verdict != Cut
		c.report.Passed = c.report.Passed && p.Verdict == Passed
	}
	return c.report, c.save()
}

// version of the program that was built.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			v += " " + s.Value
		}
		if s.Key == "vcs.modified" && s.Value == "true" {
			v += " modified"
		}
	}
	return v
}

// run runs a part, and keeps it from ending the others.
func (c *check) run(p *Part) {
	start := time.Now()
	c.part = p
	p.Verdict = Running
	c.logf("== %s: %s", p.Name, p.What)
	err := func() (err error) {
		defer func() {
			if v := recover(); v != nil {
				err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
			}
		}()
		for _, q := range parts {
			if q.name == p.Name {
				return q.run(c)
			}
		}
		return nil
	}()
	if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		c.problem("%v", err)
	}
	p.Seconds = time.Since(start).Seconds()
	switch {
	case len(p.Problems) > 0:
		p.Verdict = Failed
	case c.Err() != nil && err != nil:
		p.Verdict = Cut
	default:
		p.Verdict = Passed
	}
	c.logf("%s: %s, %d checks, %.1f s", p.Name, p.Verdict, p.Checks, p.Seconds)
}

func (c *check) logf(format string, args ...any) {
	if c.Log != nil {
		fmt.Fprintf(c.Log, format+"\n", args...)
	}
}

// maxProblems bounds those of a part: a device that is wrong is wrong
// everywhere.
const maxProblems = 50

// problem notes that something failed.
func (c *check) problem(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	c.logf("  FAILED: %s", s)
	switch n := len(c.part.Problems); {
	case n < maxProblems:
		c.part.Problems = append(c.part.Problems, s)
	case n == maxProblems:
		c.part.Problems = append(c.part.Problems, "more of them, which are not listed")
	}
}

// note keeps a fact that is no failure.
func (c *check) note(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	c.logf("  %s", s)
	c.part.Notes = append(c.part.Notes, s)
}

// check counts a comparison, and notes what it says.
func (c *check) check(what string, err error) bool {
	c.part.Checks++
	if err != nil {
		c.problem("%s: %v", what, err)
	}
	return err == nil
}

// saveEvery is how often a long part saves.
const saveEvery = 10 * time.Second

// tick is called between the pieces of a part: it saves now and then, and says
// when to end.
func (c *check) tick() error {
	if time.Since(c.saved) > saveEvery {
		if err := c.save(); err != nil {
			return err
		}
	}
	return c.Err()
}

func (c *check) save() error {
	c.saved = time.Now()
	c.report.Seconds = time.Since(c.report.Began).Seconds()
	if c.Saved == nil {
		return nil
	}
	return c.Saved(c.report)
}

// table lists the kernels of the models, by name.
func (c *check) table() ([]plan.GPUKernel, error) {
	var ks []plan.GPUKernel
	for _, m := range c.Kernels {
		k, err := gpu.Kernels(m.Model)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.Model.Name, err)
		}
		ks = append(ks, k...)
	}
	if c.Match != nil {
		ks = slices.DeleteFunc(ks, func(k plan.GPUKernel) bool { return !c.Match.MatchString(k.Name) })
	}
	if len(ks) == 0 {
		return nil, errors.New("no kernel is to be checked")
	}
	return plan.GPUUnique(ks), nil
}

// compile has the driver take kernels that nobody has tried.
func (c *check) compile(ks []plan.GPUKernel) error {
	var wanted []plan.GPUKernel
	for _, k := range ks {
		if c.loaded[k.Name] == nil {
			wanted = append(wanted, k)
		}
	}
	found, err := c.d.Compile(wanted)
	if err != nil {
		return err
	}
	for name, k := range found {
		c.loaded[name] = k
	}
	return nil
}

// prover is one on the device.
func (c *check) prover(kernels map[string]*cuda.Kernel, samples int) (*gpuproof.Prover, *cuda.Runner, error) {
	r, err := c.d.NewRunner(kernels)
	if err != nil {
		return nil, nil, err
	}
	return &gpuproof.Prover{Runner: r, Seed: 1, Samples: samples, Twice: true}, r, nil
}
