package ptx

import (
	"fmt"
	"sync"
)

// Kind says what went wrong.
type Kind string

// The kinds of findings.
const (
	Race          Kind = "race"
	AsyncPending  Kind = "copy in flight"
	Uninitialised Kind = "uninitialised read"
	OutOfBounds   Kind = "out of bounds"
	Misaligned    Kind = "misaligned"
	BankConflict  Kind = "bank conflict"
	Divergent     Kind = "divergent collective"
	Barrier       Kind = "mismatched barrier"
	Deadlock      Kind = "deadlock"
	WrittenTwice  Kind = "written twice"
	// NonCoherent is a load that may be served by a cache which stores do not
	// reach (ld.global.nc), of memory that the same launch writes.
	NonCoherent Kind = "non-coherent load"
	Runaway     Kind = "runaway"
)

// Finding is one thing that a kernel must not do, the first time that it did
// it at one instruction.
type Finding struct {
	Kind   Kind
	Kernel string
	// Block is the index of the thread block, Thread the thread in it.
	Block  [3]int
	Thread int
	// Line and Instruction are the place in the PTX.
	Line        int
	Instruction string
	Msg         string
	// Count is how often it happened.
	Count int
}

func (f Finding) String() string {
	return fmt.Sprintf("%s: %s: block (%d,%d,%d) thread %d, PTX line %d (%s): %s (%d times)",
		f.Kernel, f.Kind, f.Block[0], f.Block[1], f.Block[2], f.Thread, f.Line, f.Instruction, f.Msg, f.Count)
}

// Report is what a launch found.
type Report struct {
	Findings []Finding
	// MMA and Copies count tensor-core instructions and asynchronous copies
	// that were run, a warp's as one.
	MMA, Copies int64

	mu sync.Mutex
}

// maxFindings bounds a report; a kernel that is wrong is wrong everywhere.
const maxFindings = 100

func (r *Report) add(f Finding) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.Findings {
		if g := &r.Findings[i]; g.Kind == f.Kind && g.Line == f.Line {
			g.Count++
			return
		}
	}
	if len(r.Findings) < maxFindings {
		f.Count = 1
		r.Findings = append(r.Findings, f)
	}
}

// find reports a finding of one lane.
func (w *warp) find(in *instr, lane int, kind Kind, format string, args ...any) {
	b := w.block
	b.failed = true
	b.report.add(Finding{Kind: kind, Kernel: b.k.Name, Block: b.index, Thread: w.first + lane,
		Line: in.line, Instruction: in.name, Msg: fmt.Sprintf(format, args...)})
}
