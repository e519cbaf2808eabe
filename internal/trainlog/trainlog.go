// Package trainlog shows a training run: a bar on a terminal, and lines elsewhere.
package trainlog

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/structuredffn/sffn/internal/term"
	"github.com/structuredffn/sffn/model/train"
)

// Log shows a run: a bar on a terminal, and lines elsewhere.
type Log struct {
	w    io.Writer
	peak float64 // FLOPS, 0 where it is not known
	bar  *term.Bar

	mu   sync.Mutex // of what follows, and of writing
	last time.Time  // of the last line
	// at is how far the run has come; loss what its last step had to say.
	at   train.Batch
	loss string
	done chan struct{}
}

// New begins with a run of so many steps; peak is the rate of operations
// that the machine can do, 0 where nobody knows.
func New(w io.Writer, steps int, peak float64) *Log {
	return &Log{w: w, peak: peak, bar: term.NewBar(w, "step", steps), done: make(chan struct{})}
}

// Follow adds a line where nothing else has come for so long, until Close.
func (l *Log) Follow() { go term.Every(term.LogEvery, l.done, l.tick) }

// Close ends the log.
func (l *Log) Close() {
	close(l.done)
	l.bar.Close()
}

// Step shows a step that is done.
func (l *Log) Step(p train.Progress) {
	line := fmt.Sprintf("loss %.4f  %s tokens/s", p.Loss, term.Count(p.TokensPerSecond))
	if l.peak > 0 {
		line += fmt.Sprintf("  %.0f %% of peak", 100*p.FLOPS/l.peak)
	}
	line += fmt.Sprintf("  ETA %s", p.ETA.Round(time.Second))
	if p.ValLoss != nil {
		line += fmt.Sprintf("  validation %.4f", *p.ValLoss)
		if p.ValBits != nil {
			line += fmt.Sprintf(", %.4f bits/byte", *p.ValBits)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.loss = line
	l.at = train.Batch{Step: min(p.Step+1, p.Steps), Steps: p.Steps}
	l.bar.Show(p.Step, " "+line)
	if p.Step == 1 || p.Step == p.Steps || p.ValLoss != nil || time.Since(l.last) >= term.LogEvery {
		l.line(time.Now(), fmt.Sprintf("step %d/%d  %s", p.Step, p.Steps, line))
	}
}

// Batch follows what is shorter than a step: the first one has a line, as a sign
// of life.
func (l *Log) Batch(b train.Batch) {
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
	l.bar.Show(done, fmt.Sprintf(" %s  %s", part(b), l.loss))
	if now := time.Now(); b.Done < b.Of && (l.last.IsZero() || now.Sub(l.last) >= term.LogEvery) {
		l.line(now, l.place())
	}
}

// tick says where the run is, where no line has for long.
func (l *Log) tick(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.last) >= term.LogEvery {
		l.line(now, l.place())
	}
}

func (l *Log) place() string {
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

func (l *Log) line(now time.Time, s string) {
	if !l.bar.On() {
		l.last = now
		fmt.Fprintln(l.w, s)
	}
}

// Note shows a line of text.
func (l *Log) Note(s string) {
	if l.bar.On() {
		l.bar.Println(s)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintln(l.w, s)
}
