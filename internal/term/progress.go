package term

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
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

// Show also sets what follows the bar.
func (b *Bar) Show(n int, text string) {
	if b.b != nil {
		b.text.Store(&text)
		b.Set(n)
	}
}

// On reports whether there is a bar, for which lines of a log would be in the way.
func (b *Bar) On() bool { return b.b != nil }

// Println writes a line above the bar.
func (b *Bar) Println(s string) { fmt.Fprintln(b.p, s) }

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

// LogEvery is the time between lines where there is no terminal.
const LogEvery = 10 * time.Second

// firstLine is the time before the first line of a counter.
const firstLine = 2 * time.Second

// NewCounter starts counting.
func NewCounter(w io.Writer, name string, total int) *Counter {
	c := &Counter{w: w, name: name, total: total, bar: &Bar{}, end: make(chan struct{}), next: time.Now().Add(firstLine)}
	if total > 0 {
		c.bar = NewBar(w, name, total)
	}
	if c.bar.b == nil {
		go Every(firstLine/2, c.end, c.tick)
	}
	return c
}

// Every calls tick again and again, with so much time between, until end is closed.
func Every(d time.Duration, end <-chan struct{}, tick func(now time.Time)) {
	every := time.NewTicker(d)
	defer every.Stop()
	for {
		select {
		case <-end:
			return
		case now := <-every.C:
			tick(now)
		}
	}
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
	c.next = now.Add(LogEvery)
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
