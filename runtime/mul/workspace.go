package mul

import (
	"time"

	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/memory"
	"github.com/structuredffn/sffn/runtime/pool"
)

// Workspace is the scratch memory of one caller. All of its layers share it;
// it grows to what the largest one needs. It must not be used by two calls at
// once.
type Workspace struct {
	pool    *pool.Pool
	workers []Scratch
	bufs    [nSlots]memory.Buffer
	Cuts    [nSlots][]Matrix // the slots' intermediates, factor by factor

	// The stages of the call at work, and the closures that the pool runs on
	// them, made once so that a call allocates nothing.
	target   *kernel.Target
	stages   []Stage
	m        int
	rowChunk int
	chunk    int // units that a worker takes at once
	at       *Stage
	// Units are the gradients that ExecWeights computes.
	Units      []Unit
	accumulate bool
	runRows    func(worker, i int)
	runChunks  func(worker, i int)
	runWeights func(worker, i int)
}

// Slot names a buffer of the workspace.
type Slot int

// The slots of a network; a single layer uses those of fc1.
const (
	SlotAct  Slot = iota // activation
	SlotPre              // values before the activation, where nobody saves them
	SlotDPre             // their gradient
	SlotZ1               // factor intermediates of fc1, or of a single layer
	SlotZ2               // of fc2
	SlotDZ1
	SlotDZ2
	SlotBias
	SlotResidual // rows of a residual that the result overwrites
	nSlots
)

// NewWorkspace returns an empty workspace for calls on the pool.
func NewWorkspace(p *pool.Pool) *Workspace {
	w := &Workspace{pool: p, workers: make([]Scratch, p.Threads())}
	for i := range w.workers {
		s := &w.workers[i]
		s.tile = make([]float32, scratchTile)
		s.pre = make([]float32, scratchTile)
		s.crowded = p.Crowded()
	}
	w.runRows = w.rowStep
	w.runChunks = w.chunkStep
	w.runWeights = w.weightStep
	return w
}

// Floats returns the slot's buffer with n entries of any content.
func (w *Workspace) Floats(s Slot, n int) []float32 {
	return w.bufs[s].Floats(n)
}

// Elementwise is the time that this workspace's calls have spent outside
// matrix products, averaged over the pool's threads.
func (w *Workspace) Elementwise() time.Duration {
	var d time.Duration
	for i := range w.workers {
		d += w.workers[i].Spent
	}
	return d / time.Duration(len(w.workers))
}

// Close frees the workspace's buffers.
func (w *Workspace) Close() {
	for i := range w.bufs {
		w.bufs[i].Close()
	}
}

// Threads is the number of the pool's threads.
func (w *Workspace) Threads() int { return w.pool.Threads() }

// Calls is the number of calls of kernels since somebody last asked.
func (w *Workspace) Calls() (n uint) {
	for i := range w.workers {
		n += w.workers[i].Calls()
	}
	return n
}
