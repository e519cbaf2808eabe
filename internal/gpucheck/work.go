package gpucheck

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/structuredffn/sffn/internal/term"
	"github.com/structuredffn/sffn/model/config"
	"github.com/structuredffn/sffn/runtime/cuda"
	"github.com/structuredffn/sffn/runtime/cuda/driver"
)

// Job is what one child process does. A kernel that hangs, or that loses the
// context, leaves the process that launched it of no use, so each part has its
// own, and part kernels another one after such a kernel.
type Job struct {
	// Part is its name; without one the device is described.
	Part string `json:"part,omitempty"`
	// From is the kernel that part kernels begins at, in its order.
	From int `json:"from,omitempty"`
	// Verdicts is [cuda.Device.Verdicts]: the parts of a run share their self-tests.
	Verdicts string `json:"verdicts,omitempty"`
}

// message is what a child tells its parent, a line of JSON each. Any is a sign of
// life, also an empty one.
type message struct {
	Log string `json:"log,omitempty"` // a line of progress
	// At is what is at work, Proving the kernel of part kernels, with the rows that
	// it was right at, and Launched the kernel of a launch that has not come back.
	At       string       `json:"at,omitempty"`
	Proving  *KernelProof `json:"proving,omitempty"`
	Launched string       `json:"launched,omitempty"`
	// Part is what came of the part so far; the others have what is new in the
	// report, by its index in this child's.
	Part     *Part               `json:"part,omitempty"`
	Device   *DeviceInfo         `json:"device,omitempty"`
	Kernels  map[int]KernelProof `json:"kernels,omitempty"`
	Products map[int]ProductTime `json:"products,omitempty"`
	Passes   map[int]PassTime    `json:"passes,omitempty"`
	Models   map[int]ModelTime   `json:"models,omitempty"`
	// Error keeps the child from doing anything. Done ends its work; Lost says that
	// the context was, and Launched the kernel that was launched last.
	Error string `json:"error,omitempty"`
	Done  bool   `json:"done,omitempty"`
	Lost  bool   `json:"lost,omitempty"`
}

// messages writes them, of any goroutine.
type messages struct {
	mu sync.Mutex
	w  io.Writer
}

func (o *messages) send(m message) error {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	_, err = o.w.Write(append(data, '\n'))
	return err
}

// Write is for lines of progress.
func (o *messages) Write(b []byte) (int, error) {
	return len(b), o.send(message{Log: strings.TrimSuffix(string(b), "\n")})
}

// alive gives signs of life until stop is called, but not while one call of the
// driver goes on and on: its kernel is named, and then there is silence.
func (o *messages) alive(w *watch, every time.Duration) (stop func()) {
	done := make(chan struct{})
	before, named := uint64(0), uint64(0)
	go term.Every(every, done, func(time.Time) {
		calls := w.calls.Load()
		switch atWork := calls%2 == 1; {
		case !atWork || calls != before:
			o.send(message{})
		case calls != named:
			o.send(message{Launched: w.last()})
			named = calls
		}
		before = calls
	})
	return func() { close(done) }
}

// aliveEvery is how often a child gives a sign of life, for a limit of silence.
func aliveEvery(limit time.Duration) time.Duration { return min(limit/4, time.Second) }

// Work is the child: it does a job of [Run] on the driver that load finds, and
// writes to out what comes of it. The error is that of writing.
func Work(ctx context.Context, load func() (*driver.API, error), cfg Config, job Job, out io.Writer) error {
	cfg.Limit = cmp.Or(cfg.Limit, DefaultLimit)
	o, w := &messages{w: out}, &watch{}
	defer o.alive(w, aliveEvery(cfg.Limit))()
	cfg.Log = o
	api, err := load()
	var d *cuda.Device
	if err == nil {
		api = w.on(api)
		d, err = cuda.Open(api, cfg.Device)
	}
	if err != nil {
		return o.send(message{Error: err.Error()})
	}
	d.Verdicts = job.Verdicts
	c := &check{Config: cfg, Context: ctx, d: d, watch: w, out: o, from: job.From, loaded: map[string]*cuda.Kernel{},
		report: newReport(), part: &Part{Name: job.Part}}
	defer func() {
		if !w.lost.Load() {
			c.d.Close() // what went wrong is in the report by then
		}
	}()
	c.describe()
	if job.Part == "" {
		c.logf("device: %s, %.1f GB, %s", d, float64(d.TotalMemory)/1e9, d.UUID)
		c.logf("driver: CUDA %s, loaded from %s", c.report.Device.Driver, d.Library)
		return o.send(message{Device: &c.report.Device, Done: true})
	}
	c.run()
	m := c.news()
	m.Done, m.Lost, m.Launched = true, w.lost.Load(), w.last()
	if job.Part == devicePart {
		m.Device = &c.report.Device
	}
	return o.send(m)
}

// check is one part at work.
type check struct {
	Config
	context.Context
	d      *cuda.Device
	watch  *watch
	out    *messages
	report *Report // what this child adds to it
	sent   Report  // and what of that the parent knows
	part   *Part
	doing  string // the piece at work
	loaded map[string]*cuda.Kernel
	// from is where part kernels begins, proving the one at work.
	from    int
	proving *KernelProof
}

// errLost ends a part that has lost its context; errNothing one without anything
// to check.
var (
	errLost    = errors.New("the device's context is lost")
	errNothing = errors.New("nothing was checked")
)

// run runs the part. Its panics are problems, too.
func (c *check) run() {
	err := func() (err error) {
		defer func() {
			if v := recover(); v != nil {
				err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
			}
		}()
		if p := partOf(c.part.Name); p.run != nil {
			return p.run(c)
		}
		return fmt.Errorf("unknown part %q", c.part.Name)
	}()
	ended := errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
	switch {
	case errors.Is(err, errLost): // the parent says what it means
	case errors.Is(err, errNothing):
		c.note("%v", err)
	case ended && c.Err() != nil:
		c.part.Cut = true
	case err != nil:
		c.problem("%v", err)
	case c.part.Checks == 0 && len(c.part.Problems) == 0 && c.from == 0:
		c.note("%v", errNothing)
	}
}

// each does one thing with every model.
func (c *check) each(models []*config.Config, do func(*config.Config) error) error {
	for _, cfg := range models {
		if err := do(cfg); err != nil {
			return fmt.Errorf("%s: %w", cfg.Model.Name, err)
		}
	}
	return nil
}

// at says what begins, and when to end; see tick.
func (c *check) at(format string, args ...any) error {
	c.doing = fmt.Sprintf(format, args...)
	return c.tick()
}

// tick is called between the pieces of a part: the parent learns what there is,
// and the error says when to end.
func (c *check) tick() error {
	if c.out != nil {
		if err := c.out.send(c.news()); err != nil {
			return err
		}
	}
	if c.watch != nil && c.watch.lost.Load() {
		return errLost
	}
	return c.Err()
}

// news is what the parent does not know yet.
func (c *check) news() message {
	var bad []string
	m := message{At: c.doing, Proving: c.proving,
		Kernels:  added(&c.sent.Kernels, c.report.Kernels, &bad),
		Products: added(&c.sent.Products, c.report.Products, &bad),
		Passes:   added(&c.sent.Passes, c.report.Passes, &bad),
		Models:   added(&c.sent.Models, c.report.Models, &bad)}
	for _, s := range append(bad, finite(&c.report.Device)...) {
		c.problem("%s", s)
	}
	m.Part = c.part
	return m
}

// added are the entries that are new since the last time, or changed. Numbers that
// are not finite become 0 and are named.
func added[T any](sent *[]T, now []T, bad *[]string) map[int]T {
	m := map[int]T{}
	for i := range now {
		if i < len(*sent) && reflect.DeepEqual((*sent)[i], now[i]) {
			continue
		}
		*bad = append(*bad, finite(&now[i])...)
		m[i] = now[i]
	}
	*sent = append((*sent)[:0], now...)
	return m
}

func (c *check) logf(format string, args ...any) {
	if c.Log != nil {
		fmt.Fprintf(c.Log, format+"\n", args...)
	}
}

// problem notes that something failed.
func (c *check) problem(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	c.logf("  FAILED: %s", s)
	c.part.problem(s)
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
