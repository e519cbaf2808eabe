package gpucheck

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// DefaultLimit is the one of a Config without.
	DefaultLimit = time.Minute
	// Grace is how long a child may take to end when it is asked to, before it is
	// killed.
	Grace = 3 * time.Second
	// killWait is how long the parent waits for one that was killed: a driver may
	// keep it from ending.
	killWait = 5 * time.Second
	// saveEvery is how often a long part saves, logEvery how often it says what is at
	// work.
	saveEvery = 10 * time.Second
	logEvery  = 5 * time.Second
	// mostEnded bounds the kernels after which part kernels goes on with a new child.
	mostEnded = 20
)

// run is the parent's side of a run.
type run struct {
	Config
	report        *Report
	saved, logged time.Time
}

// Run checks a device in child processes, one a part, and gathers what they
// report. The error says what kept it from running at all: no driver, no device, a
// part that there is not; what fails is in the report. A context that ends cuts it
// short, with what there is; its cause says why.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	for _, name := range cfg.Parts {
		if What(name) == "" {
			return nil, fmt.Errorf("unknown part %q; there are %s", name, strings.Join(Parts(), ", "))
		}
	}
	cfg.Limit = cmp.Or(cfg.Limit, DefaultLimit)
	r := &run{Config: cfg, report: newReport()}
	r.report.Quick = cfg.Quick
	switch e := r.child(ctx, Job{}, &Part{}, nil); {
	case e.cut != "":
		return nil, fmt.Errorf("cut short before the device was open: %s", e.cut)
	case e.failed != "":
		return nil, errors.New(e.failed)
	}
	for _, p := range parts {
		if cfg.Parts == nil || slices.Contains(cfg.Parts, p.name) {
			r.report.Parts = append(r.report.Parts, &Part{Name: p.name, What: p.what, Verdict: Cut, Cut: true})
		}
	}
	r.save()
	// What passes the self-test in one part is not tried again in the next.
	verdicts, err := os.MkdirTemp("", "gpucheck-")
	if err == nil {
		defer os.RemoveAll(verdicts)
	}
	for _, p := range r.report.Parts {
		if ctx.Err() != nil {
			break
		}
		r.part(ctx, p, verdicts)
		r.save()
	}
	r.report.Complete, r.report.Passed = true, len(r.report.Problems) == 0
	for _, p := range r.report.Parts {
		r.report.Complete = r.report.Complete && !p.Cut
		r.report.Passed = r.report.Passed && p.Verdict == Passed
	}
	r.save()
	return r.report, nil
}

func (r *run) save() {
	r.saved = time.Now()
	r.report.Seconds = time.Since(r.report.Began).Seconds()
	if r.Saved != nil {
		r.Saved(r.report)
	}
}

func (r *run) logf(format string, args ...any) {
	r.logged = time.Now()
	if r.Log != nil {
		fmt.Fprintf(r.Log, format+"\n", args...)
	}
}

// part runs one part, with a new child after each kernel that has ended one.
func (r *run) part(ctx context.Context, p *Part, verdicts string) {
	start := time.Now()
	p.Verdict, p.Cut = Running, false
	r.logf("== %s: %s", p.Name, p.What)
	limit := r.limit(p.Name)
	var over <-chan time.Time
	if limit > 0 {
		t := time.NewTimer(limit)
		defer t.Stop()
		over = t.C
	}
	for ended := 1; ; ended++ {
		before := len(r.report.Kernels)
		e := r.child(ctx, Job{Part: p.Name, From: before, Verdicts: verdicts}, p, over)
		if e.cut != "" {
			p.Cut = true
			r.note(p, "cut short: "+e.cut)
			break
		}
		if e.failed == "" {
			break
		}
		if p.Name == kernelsPart && e.proving != nil && !e.lost {
			e.proving.Problem = e.at + ": " + e.failed
			r.problem(p, e.proving.Problem)
			r.report.Kernels = append(r.report.Kernels, *e.proving)
		}
		if p.Name != kernelsPart || len(r.report.Kernels) == before {
			r.problem(p, e.where()+e.failed+"; the rest of the part was not run")
			break
		}
		if ended == mostEnded {
			r.problem(p, fmt.Sprintf("%d kernels have ended their process; those behind them were not run", ended))
			break
		}
	}
	p.Seconds = time.Since(start).Seconds()
	switch {
	case len(p.Problems) > 0:
		p.Verdict = Failed
	case p.Cut:
		p.Verdict = Cut
	case p.Checks == 0:
		p.Verdict = Nothing
	default:
		p.Verdict = Passed
	}
	r.logf("%s: %s, %d checks, %.1f s", p.Name, p.verdict(), p.Checks, p.Seconds)
}

func (r *run) problem(p *Part, s string) {
	r.logf("  FAILED: %s", s)
	p.problem(s)
}

func (r *run) note(p *Part, s string) {
	r.logf("  %s", s)
	p.Notes = append(p.Notes, s)
}

// end is how a child came to its end: cut says why it was cut short, failed what
// else kept it from finishing.
type end struct {
	cut, failed  string
	at, launched string
	proving      *KernelProof
	lost         bool
}

// where says what was at work.
func (e *end) where() string {
	s := ""
	if e.at != "" {
		s = e.at + ", "
	}
	if e.launched != "" {
		s += "after the launch of " + e.launched + ", "
	}
	if s == "" {
		return ""
	}
	return strings.TrimSuffix(s, ", ") + ": "
}

// child runs a child process to its end, and adds what it reports to the part and
// the report. It is asked to end, and killed where it does not, when the context
// ends or the part's time is over; and killed when it is silent for too long.
func (r *run) child(ctx context.Context, job Job, p *Part, over <-chan time.Time) (e end) {
	cmd := r.Start(job)
	words := &tail{}
	cmd.Stderr, cmd.WaitDelay = words, killWait
	in, err := cmd.StdinPipe()
	if err != nil {
		return end{failed: err.Error()}
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		return end{failed: err.Error()}
	}
	if err := cmd.Start(); err != nil {
		return end{failed: err.Error()}
	}
	said, exit, left := make(chan message), make(chan error, 1), make(chan struct{})
	defer close(left)
	go func() {
		for lines := bufio.NewReader(out); ; {
			line, err := lines.ReadBytes('\n')
			if len(bytes.TrimSpace(line)) > 0 {
				var m message
				if json.Unmarshal(line, &m) != nil { // words of a library
					m = message{Log: string(bytes.TrimSpace(line))}
				}
				select {
				case said <- m:
				case <-left:
				}
			}
			if err != nil {
				break
			}
		}
		exit <- cmd.Wait()
	}()

	m := merger{r.report, p, *p, time.Now(), len(r.report.Kernels), len(r.report.Products), len(r.report.Passes), len(r.report.Models)}
	every := aliveEvery(r.Limit)
	tick := time.NewTicker(every)
	defer tick.Stop()
	// Silence is counted in ticks: there are none while this process is stopped.
	silent, done, hangs := time.Duration(0), false, false
	var grace, gone <-chan time.Time
	asked := ctx.Done()
	ask := func(why string) {
		if asked, over = nil, nil; !done {
			e.cut = why
		}
		grace = time.After(Grace)
		in.Close()
	}
	kill := func() {
		grace = nil
		if gone == nil {
			cmd.Process.Kill()
			gone = time.After(killWait)
		}
	}
	killed := r.Kill
	shown := ""
	for {
		select {
		case msg := <-said:
			silent = 0
			if msg.Log != "" {
				r.logf("%s", msg.Log)
			}
			e.failed = cmp.Or(msg.Error, e.failed)
			e.launched = cmp.Or(msg.Launched, e.launched)
			if m.merge(msg) {
				e.at, e.proving, e.launched = msg.At, msg.Proving, msg.Launched
			}
			if msg.Done {
				done, e.lost = true, msg.Lost
				if msg.Part == nil || !msg.Part.Cut {
					e.cut = ""
				}
			}
		case err := <-exit:
			switch {
			case done && e.lost && e.cut == "":
				e.failed = errLost.Error()
			case e.cut != "" && !done && e.failed == "":
				e.cut += e.unfinished()
			case done || e.failed != "" || e.cut != "":
			case hangs:
				e.failed = fmt.Sprintf("no sign of life for %v: its process was ended", r.Limit)
			default:
				e.failed = "its process ended: " + cmp.Or(words.last(), "without a word")
				if err != nil {
					e.failed += " (" + err.Error() + ")"
				}
			}
			return e
		case <-tick.C:
			if silent += every; silent > r.Limit && gone == nil && e.cut == "" {
				hangs = true
				kill()
			}
			if now := e.where(); time.Since(r.logged) > logEvery && now != shown {
				shown = now
				r.logf("  .. %s%d checks", now, p.Checks)
			}
			if p.Verdict == Running && time.Since(r.saved) > saveEvery {
				p.Seconds = time.Since(m.began).Seconds()
				r.save()
			}
		case <-asked:
			ask(context.Cause(ctx).Error())
		case <-over:
			ask(fmt.Sprintf("over its %v", r.limit(p.Name)))
		case <-grace:
			kill()
		case <-killed:
			killed = nil
			kill()
		case <-gone: // the system does not end it
			if e.cut != "" {
				e.cut += e.unfinished()
			} else if !done {
				e.failed = fmt.Sprintf("no sign of life for %v, and its process cannot be ended", r.Limit)
			}
			return e
		}
	}
}

// unfinished says what a child was killed at that was asked to end.
func (e *end) unfinished() string {
	return strings.TrimSuffix("; killed "+strings.TrimSuffix(e.where(), ": "), " ")
}

// merger adds what a child reports to what there was before it.
type merger struct {
	report                            *Report
	part                              *Part
	before                            Part
	began                             time.Time
	kernels, products, passes, models int
}

// merge adds a message's part of the report. It says whether it had one.
func (m *merger) merge(msg message) bool {
	if msg.Device != nil {
		m.report.Device = *msg.Device
	}
	if msg.Part == nil {
		return false
	}
	p := m.part
	p.Checks = m.before.Checks + msg.Part.Checks
	p.Problems, p.Notes = slices.Clone(m.before.Problems), slices.Concat(m.before.Notes, msg.Part.Notes)
	for _, s := range msg.Part.Problems {
		p.problem(s)
	}
	put(&m.report.Kernels, m.kernels, msg.Kernels)
	put(&m.report.Products, m.products, msg.Products)
	put(&m.report.Passes, m.passes, msg.Passes)
	put(&m.report.Models, m.models, msg.Models)
	return true
}

// put adds entries by their indices, from the first of a child's.
func put[T any](to *[]T, first int, entries map[int]T) {
	for _, i := range slices.Sorted(maps.Keys(entries)) {
		switch at := first + i; {
		case at < len(*to):
			(*to)[at] = entries[i]
		case at == len(*to):
			*to = append(*to, entries[i])
		}
	}
}

// tail keeps the end of what is written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b...)
	if n := len(t.b) - 8<<10; n > 0 {
		t.b = t.b[n:]
	}
	return len(b), nil
}

// last is what a process said in the end: the head of a trace of Go, or the last
// line.
func (t *tail) last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(t.b)), "\n")
	for _, l := range lines {
		if strings.HasPrefix(l, "panic: ") || strings.HasPrefix(l, "fatal error: ") || strings.HasPrefix(l, "SIG") {
			return l
		}
	}
	return lines[len(lines)-1]
}
