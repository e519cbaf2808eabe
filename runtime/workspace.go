package runtime

import (
	"time"

	"github.com/structuredffn/sffn/runtime/kernel"
)

// Workspace is the scratch memory of one caller. All of its layers share it;
// it grows to what the largest one needs. It must not be used by two calls at
// once.
type Workspace struct {
	pool    *Pool
	scratch []scratch
	bufs    [nSlots]buffer
	cuts    [nSlots][]matrix // the slots' intermediates, factor by factor

	// The stages of the call at work, and the closures that the pool runs on
	// them, made once so that a call allocates nothing.
	target     *kernel.Target
	stages     []stage
	m          int
	rowChunk   int
	chunk      int // units that a worker takes at once
	at         *stage
	units      []weightUnit
	accumulate bool
	half       half
	runRows    func(worker, i int)
	runChunks  func(worker, i int)
	runWeights func(worker, i int)
}

// slot names a buffer of the workspace.
type slot int

const (
	slotAct  slot = iota // activation
	slotPre              // values before the activation, where nobody saves them
	slotDPre             // their gradient
	slotZ1               // factor intermediates of fc1, or of a single layer
	slotZ2               // of fc2
	slotDZ1
	slotDZ2
	slotBias
	slotResidual // rows of a residual that the result overwrites
	nSlots
)

type buffer struct {
	arena Arena
	data  []float32
}

// NewWorkspace returns an empty workspace for calls on the pool.
func NewWorkspace(pool *Pool) *Workspace {
	w := &Workspace{pool: pool, scratch: make([]scratch, pool.Threads())}
	for i := range w.scratch {
		s := &w.scratch[i]
		s.tile = make([]float32, scratchTile)
		s.pre = make([]float32, scratchTile)
		s.crowded = pool.Crowded()
	}
	w.runRows = w.rowStep
	w.runChunks = w.chunkStep
	w.runWeights = w.weightStep
	return w
}

// floats returns the slot's buffer with n entries of any content.
func (w *Workspace) floats(s slot, n int) []float32 {
	b := &w.bufs[s]
	if len(b.data) < n {
		b.arena.Close()
		b.data = b.arena.Floats(n)
	}
	return b.data[:n]
}

// Elementwise is the time that this workspace's calls have spent outside
// matrix products, averaged over the pool's threads.
func (w *Workspace) Elementwise() time.Duration {
	var d time.Duration
	for i := range w.scratch {
		d += w.scratch[i].spent
	}
	return d / time.Duration(len(w.scratch))
}

// Close frees the workspace's buffers.
func (w *Workspace) Close() {
	w.half = half{}
	for i := range w.bufs {
		w.bufs[i].arena.Close()
		w.bufs[i].data = nil
	}
}
