package term

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/structuredffn/sffn/model/train"
)

// Bar is a progress bar on a terminal that has room for one, and nothing
// elsewhere.
type Bar struct {
	p    *mpb.Progress
	b    *mpb.Bar
	text atomic.Pointer[string] // the bar reads it when it likes
}

// NewBar returns a bar of so many steps.
func NewBar(w io.Writer, name string, total int) *Bar {
	if terminalWidth(w) < narrow {
		return &Bar{}
	}
	b := &Bar{p: mpb.New(mpb.WithOutput(w), mpb.WithAutoRefresh())}
	b.text.Store(new(string))
	b.b = b.p.AddBar(int64(total),
		mpb.PrependDecorators(decor.Name(name+" "), decor.CountersNoUnit("%d/%d")),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return *b.text.Load() })))
	return b
}

// narrow is a width where a bar says nothing; terminals that do not know their
// own, as of containers, say 0.
const narrow = 40

// Set says how many steps are done.
func (b *Bar) Set(n int) {
	if b.b != nil {
		b.b.SetCurrent(int64(n))
	}
}

// show also sets what follows the bar.
func (b *Bar) show(n int, text string) {
	if b.b != nil {
		b.text.Store(&text)
		b.Set(n)
	}
}

// Close leaves the bar as it is.
func (b *Bar) Close() {
	if b.b != nil {
		b.b.Abort(false)
		b.p.Wait()
	}
}

// Counter shows how many of something are done: a bar on a terminal, and lines
// elsewhere, where it takes more than a moment. Where nobody knows how many there
// will be, total is 0 and there are lines everywhere.
type Counter struct {
	w     io.Writer
	name  string
	total int
	bar   *Bar
	end   chan struct{}

	mu   sync.Mutex // of what follows, and of writing
	n    int
	next time.Time // when a line is due
}

// firstLine is the time before the first line of a counter.
const firstLine = 2 * time.Second

// NewCounter starts counting.
func NewCounter(w io.Writer, name string, total int) *Counter {
	c := &Counter{w: w, name: name, total: total, bar: &Bar{}, end: make(chan struct{}), next: time.Now().Add(firstLine)}
	if total > 0 {
		c.bar = NewBar(w, name, total)
	}
	if c.bar.b == nil {
		every := time.NewTicker(firstLine / 2)
		go func() {
			defer every.Stop()
			for {
				select {
				case <-c.end:
					return
				case now := <-every.C:
					c.tick(now)
				}
			}
		}()
	}
	return c
}

// Set says how many are done.
func (c *Counter) Set(n int) {
	c.bar.Set(n)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n = n
}

// tick says how far it is, where that is due.
func (c *Counter) tick(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Before(c.next) {
		return
	}
	c.next = now.Add(logEvery)
	if c.total == 0 {
		fmt.Fprintln(c.w, c.name)
	} else {
		fmt.Fprintf(c.w, "%s %d/%d\n", c.name, c.n, c.total)
	}
}

// Close ends the lines.
func (c *Counter) Close() {
	close(c.end)
	c.bar.Close()
}

// TrainingLog shows a run: a bar on a terminal, and lines elsewhere.
type TrainingLog struct {
	w    io.Writer
	peak float64 // FLOPS, 0 where it is not known
	bar  *Bar

	mu   sync.Mutex // of what follows, and of writing
	last time.Time  // of the last line
	// at is how far the run has come; loss what its last step had to say.
	at   train.Batch
	loss string
	done chan struct{}
}

// NewTrainingLog begins with a run of so many steps; peak is the rate of operations
// that the machine can do, 0 where nobody knows.
func NewTrainingLog(w io.Writer, steps int, peak float64) *TrainingLog {
	return &TrainingLog{w: w, peak: peak, bar: NewBar(w, "step", steps), done: make(chan struct{})}
}

// Follow adds a line where nothing else has come for so long, until Close.
func (l *TrainingLog) Follow() {
	every := time.NewTicker(logEvery)
	go func() {
		defer every.Stop()
		for {
			select {
			case <-l.done:
				return
			case now := <-every.C:
				l.tick(now)
			}
		}
	}()
}

// Close ends the log.
func (l *TrainingLog) Close() {
	close(l.done)
	l.bar.Close()
}

// logEvery is the time between lines where there is no terminal.
const logEvery = 10 * time.Second

// Step shows a step that is done.
func (l *TrainingLog) Step(p train.Progress) {
	line := fmt.Sprintf("loss %.4f  %s tokens/s", p.Loss, Count(p.TokensPerSecond))
	if l.peak > 0 {
		line += fmt.Sprintf("  %.0f %% of peak", 100*p.FLOPS/l.peak)
	}
	line += fmt.Sprintf("  ETA %s", p.ETA.Round(time.Second))
	if p.ValLoss != nil {
		line += fmt.Sprintf("  validation %.4f", *p.ValLoss)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.loss = line
	l.at = train.Batch{Step: min(p.Step+1, p.Steps), Steps: p.Steps}
	l.bar.show(p.Step, " "+line)
	if p.Step == 1 || p.Step == p.Steps || p.ValLoss != nil || time.Since(l.last) >= logEvery {
		l.line(time.Now(), fmt.Sprintf("step %d/%d  %s", p.Step, p.Steps, line))
	}
}

// Batch follows what is shorter than a step: the first one has a line, as a sign
// of life.
func (l *TrainingLog) Batch(b train.Batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at = b
	if b.Of == 1 {
		return
	}
	done := b.Step
	if !b.Validation {
		done--
	}
	l.bar.show(done, fmt.Sprintf(" %s  %s", part(b), l.loss))
	if now := time.Now(); b.Done < b.Of && (l.last.IsZero() || now.Sub(l.last) >= logEvery) {
		l.line(now, l.place())
	}
}

// tick says where the run is, where no line has for long.
func (l *TrainingLog) tick(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.last) >= logEvery {
		l.line(now, l.place())
	}
}

func (l *TrainingLog) place() string {
	if l.at.Step == 0 {
		return "starting"
	}
	return fmt.Sprintf("step %d/%d  %s", l.at.Step, l.at.Steps, part(l.at))
}

// part says how far a step has come.
func part(b train.Batch) string {
	name := "micro-batches"
	if b.Validation {
		name = "validation batches"
	}
	if b.Of == 0 {
		return "at work"
	}
	return fmt.Sprintf("%d of %d %s", b.Done, b.Of, name)
}

func (l *TrainingLog) line(now time.Time, s string) {
	if l.bar.b == nil {
		l.last = now
		fmt.Fprintln(l.w, s)
	}
}

// Note shows a line of text.
func (l *TrainingLog) Note(s string) {
	if l.bar.p != nil {
		fmt.Fprintln(l.bar.p, s)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintln(l.w, s)
}
