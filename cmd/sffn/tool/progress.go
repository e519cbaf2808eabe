package tool

import (
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/structuredffn/sffn/model/train"
)

// bar is a progress bar on a terminal that has room for one, and nothing
// elsewhere.
type bar struct {
	p    *mpb.Progress
	b    *mpb.Bar
	text atomic.Value // string, which the bar's goroutine reads
}

func newBar(w io.Writer, name string, total int) *bar {
	if terminalWidth(w) < narrow {
		return &bar{}
	}
	b := &bar{p: mpb.New(mpb.WithOutput(w), mpb.WithAutoRefresh())}
	b.text.Store("")
	b.b = b.p.AddBar(int64(total),
		mpb.PrependDecorators(decor.Name(name+" "), decor.CountersNoUnit("%d/%d")),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return b.text.Load().(string) })))
	return b
}

// narrow is a width where a bar says nothing; terminals that do not know their
// own, as of containers, say 0.
const narrow = 40

func (b *bar) set(n int) {
	if b.b != nil {
		b.b.SetCurrent(int64(n))
	}
}

func (b *bar) close() {
	if b.b != nil {
		b.b.Abort(false)
		b.p.Wait()
	}
}

// trainingLog shows a run: a bar on a terminal, and lines elsewhere.
type trainingLog struct {
	w    io.Writer
	peak float64 // FLOPS, 0 where it is not known
	bar  *bar
	last time.Time
}

func newTrainingLog(w io.Writer, steps int, peak float64) *trainingLog {
	return &trainingLog{w: w, peak: peak, bar: newBar(w, "step", steps)}
}

// logEvery is the time between lines where there is no terminal.
const logEvery = 10 * time.Second

func (l *trainingLog) step(p train.Progress) {
	line := fmt.Sprintf("loss %.4f  %s tokens/s", p.Loss, count(p.TokensPerSecond))
	if l.peak > 0 {
		line += fmt.Sprintf("  %.0f %% of peak", 100*p.FLOPS/l.peak)
	}
	line += fmt.Sprintf("  ETA %s", p.ETA.Round(time.Second))
	if p.ValLoss != nil {
		line += fmt.Sprintf("  validation %.4f", *p.ValLoss)
	}
	l.bar.text.Store(" " + line)
	l.bar.set(p.Step)
	if l.bar.b == nil && (p.Step == 1 || p.Step == p.Steps || p.ValLoss != nil || time.Since(l.last) >= logEvery) {
		l.last = time.Now()
		fmt.Fprintf(l.w, "step %d/%d  %s\n", p.Step, p.Steps, line)
	}
}

func (l *trainingLog) note(s string) {
	if l.bar.p != nil {
		fmt.Fprintln(l.bar.p, s)
		return
	}
	fmt.Fprintln(l.w, s)
}
