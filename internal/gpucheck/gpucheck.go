// Package gpucheck is the proofs of the GPU kernels as one program, for a machine
// with nothing but a driver: what runs on the interpreter of PTX in the tests
// runs on a device here, and is timed.
package gpucheck

import (
	"cmp"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"runtime/debug"
	"slices"
	"time"

	"github.com/structuredffn/sffn/internal/gpuproof"
	"github.com/structuredffn/sffn/model/config"
	"github.com/structuredffn/sffn/model/gpu"
	"github.com/structuredffn/sffn/runtime/cuda"
	"github.com/structuredffn/sffn/runtime/cuda/table"
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
	Kernels, Trained, Timed []*config.Config
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
	// Limit is how long a child may be silent: it gives signs of life, but none while
	// one launch goes on and on. PartLimit is how long a part may take; where it is 0
	// that of Quick's parts, or as long as it needs.
	Limit, PartLimit time.Duration
	// Start makes the command of a child process that calls [Work] with this
	// configuration, the job, and its standard output. It ends where its standard
	// input does.
	Start func(Job) *exec.Cmd
	// Kill, where not nil, ends the child at work at once when it is closed.
	Kill <-chan struct{}
	// Log gets lines of progress.
	Log io.Writer
	// Saved is called with the report before the first part, after each, and now and
	// then in long ones: it may be cut short at any time.
	Saved func(*Report)
}

// Verdicts of parts.
const (
	Passed  = "passed"
	Failed  = "failed"
	Cut     = "cut short"
	Running = "running"
	Nothing = "nothing checked"
)

// Part is what came of one part.
type Part struct {
	Name    string  `json:"name"`
	What    string  `json:"what"`
	Verdict string  `json:"verdict"`
	Seconds float64 `json:"seconds"`
	// Cut says that the part did not come to its end, whatever it found until then.
	Cut bool `json:"cut,omitempty"`
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
	Complete bool `json:"complete"`
	Passed   bool `json:"passed"`
	// Problems are those of the report itself.
	Problems []string   `json:"problems,omitempty"`
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

// part is one row of the table of parts.
type part struct {
	name, what string
	quick      time.Duration // how long it may take in a quick run
	run        func(c *check) error
}

// Parts that the parent knows by name.
const (
	devicePart  = "device"
	kernelsPart = "kernels"
)

// parts are what there is, in the order in which it runs: what is quick and says
// the most comes first. Together with the time that what is cut short may take to
// end, quick ones stay below six minutes.
var parts = []part{
	{devicePart, "the device, the driver and both kinds of code", 40 * time.Second, (*check).device},
	{kernelsPart, "every kernel against float64", 95 * time.Second, (*check).kernels},
	{"golden", "golden layers and models", 25 * time.Second, (*check).golden},
	{"train", "training steps against the CPU's, resumed once", 35 * time.Second, func(c *check) error { return c.each(c.Trained, c.train) }},
	{"decode", "greedy decoding, with graphs and without", 25 * time.Second, func(c *check) error { return c.each(c.Trained, c.decode) }},
	{"speed", "TFLOP/s of products and GB/s of passes", 55 * time.Second, (*check).speed},
	{"models", "steps and tokens a second of whole models", 55 * time.Second, func(c *check) error { return c.each(c.Timed, c.model) }},
}

// Parts lists the names of the parts.
func Parts() (names []string) {
	for _, p := range parts {
		names = append(names, p.name)
	}
	return names
}

// partOf is the part of a name, an empty one where there is none.
func partOf(name string) part {
	for _, p := range parts {
		if p.name == name {
			return p
		}
	}
	return part{}
}

// What says what a part does.
func What(name string) string { return partOf(name).what }

// limit is how long a part may take, 0 where it may take what it needs.
func (c *Config) limit(name string) time.Duration {
	if c.PartLimit > 0 || !c.Quick {
		return c.PartLimit
	}
	return partOf(name).quick
}

// maxProblems bounds those of a part: a device that is wrong is wrong
// everywhere.
const maxProblems = 50

func (p *Part) problem(s string) {
	switch n := len(p.Problems); {
	case n < maxProblems:
		p.Problems = append(p.Problems, s)
	case n == maxProblems:
		p.Problems = append(p.Problems, "more of them, which are not listed")
	}
}

func newReport() *Report {
	return &Report{Format: formatVersion, Program: version(), Began: time.Now().UTC().Truncate(time.Second), Parts: []*Part{}, Kernels: []KernelProof{}, Products: []ProductTime{}, Passes: []PassTime{}, Models: []ModelTime{}}
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

// table lists the kernels of the models, by name.
func (c *check) table() ([]table.Kernel, error) {
	var ks []table.Kernel
	for _, m := range c.Kernels {
		k, err := gpu.Kernels(m.Model)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.Model.Name, err)
		}
		ks = append(ks, k...)
	}
	if c.Match != nil {
		ks = slices.DeleteFunc(ks, func(k table.Kernel) bool { return !c.Match.MatchString(k.Name) })
	}
	if len(ks) == 0 {
		return nil, fmt.Errorf("%w: no kernel is left", errNothing)
	}
	byName := func(a, b table.Kernel) int { return cmp.Compare(a.Name, b.Name) }
	slices.SortFunc(ks, byName)
	return slices.CompactFunc(ks, func(a, b table.Kernel) bool { return byName(a, b) == 0 }), nil
}

// compile has the driver take kernels that nobody has tried, and returns the rows of
// what the program has for those that are asked for.
func (c *check) compile(ks []table.Kernel) (rows []table.Kernel, err error) {
	var wanted []table.Kernel
	for _, k := range ks {
		if c.loaded[k.Name] == nil {
			wanted = append(wanted, k)
		}
	}
	found, err := c.d.Compile(wanted)
	if err != nil {
		return nil, err
	}
	for name, k := range found {
		c.loaded[name], c.loaded[k.Name] = k, k
	}
	for _, k := range ks {
		rows = append(rows, c.loaded[k.Name].Kernel)
	}
	return rows, nil
}

// prover is one on the device.
func (c *check) prover(kernels map[string]*cuda.Kernel, samples int) (*gpuproof.Prover, *cuda.Runner, error) {
	r, err := c.d.NewRunner(kernels)
	if err != nil {
		return nil, nil, err
	}
	return &gpuproof.Prover{Runner: r, Seed: 1, Samples: samples, Twice: true}, r, nil
}
