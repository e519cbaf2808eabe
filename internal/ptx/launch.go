// Package ptx runs the PTX that nvcc makes of this project's kernels, strictly:
// an instruction outside the subset is an error, and whatever a GPU would let
// pass or leave undefined is reported with the kernel, block, thread and PTX
// line: races on shared memory, reads of memory or registers that nobody
// wrote, accesses out of bounds or misaligned, bank conflicts, collectives
// without the whole warp, mismatched barriers, deadlock, and outputs written
// twice. Warps run in random order.
//
// Sources: NVIDIA, Parallel Thread Execution ISA, sections 9.7.9 (cp.async),
// 9.7.13 (bar) and 9.7.14 (ldmatrix, mma).
package ptx

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// Launch says how a kernel is started.
type Launch struct {
	Grid   [3]int
	Block  int // threads, a multiple of 32
	Shared int // bytes of dynamic shared memory
	// Seed picks the schedule.
	Seed uint64
	// Args holds one value a parameter.
	Args []uint64
	// Only, if not nil, chooses the blocks that run.
	Only func(index [3]int) bool
	// Limit bounds the instructions of one block's warps; 0 is a hundred million.
	Limit int64
}

const (
	defaultLimit = 100_000_000
	maxShared    = 227 << 10
	maxGrid      = 1 << 20
)

// block is one thread block while it runs.
type block struct {
	k       *Kernel
	mem     *Memory
	args    []uint64
	index   [3]int
	number  int
	warps   []warp
	shared  []byte
	shadow  []word
	barrier uint16 // number of the barrier interval, from 1
	report  *Report
	rng     *rand.Rand
	limit   int64
	failed  bool

	instructions, mma, copies int64
}

// stopped reports whether the block has a finding after which it makes no
// sense to go on.
func (b *block) stopped() bool { return b.failed || b.instructions > b.limit }

// Run launches the kernel on the memory and returns what it found. An error
// means that the launch itself is not possible.
func (k *Kernel) Run(mem *Memory, l Launch) (*Report, error) {
	if err := k.check(&l); err != nil {
		return nil, err
	}
	report := &Report{}
	var next atomic.Int64
	var wg sync.WaitGroup
	blocks := l.Grid[0] * l.Grid[1] * l.Grid[2]
	for range min(runtime.GOMAXPROCS(0), blocks) {
		wg.Go(func() {
			b := newBlock(k, mem, report, l)
			for {
				n := int(next.Add(1)) - 1
				if n >= blocks {
					break
				}
				b.index = [3]int{n % l.Grid[0], n / l.Grid[0] % l.Grid[1], n / l.Grid[0] / l.Grid[1]}
				if l.Only != nil && !l.Only(b.index) {
					continue
				}
				b.reset(n, l)
				b.run()
			}
			atomic.AddInt64(&report.MMA, b.mma)
			atomic.AddInt64(&report.Copies, b.copies)
		})
	}
	wg.Wait()
	mem.settle()
	return report, nil
}

func (k *Kernel) check(l *Launch) error {
	grid := 1
	for _, n := range l.Grid {
		if n < 1 || n > maxGrid || grid*n > maxGrid {
			return fmt.Errorf("ptx: %s: grid %v, want 1 to %d blocks", k.Name, l.Grid, maxGrid)
		}
		grid *= n
	}
	switch {
	case l.Block < warpSize || l.Block > k.Threads || l.Block%warpSize != 0:
		return fmt.Errorf("ptx: %s: %d threads, want a multiple of %d up to %d", k.Name, l.Block, warpSize, k.Threads)
	case l.Shared < 0 || l.Shared > maxShared || l.Shared%16 != 0:
		return fmt.Errorf("ptx: %s: %d bytes of shared memory, want a multiple of 16 up to %d", k.Name, l.Shared, maxShared)
	case len(l.Args) != len(k.Params):
		return fmt.Errorf("ptx: %s: %d arguments, want %d", k.Name, len(l.Args), len(k.Params))
	}
	if l.Limit == 0 {
		l.Limit = defaultLimit
	}
	return nil
}

func newBlock(k *Kernel, mem *Memory, report *Report, l Launch) *block {
	b := &block{k: k, mem: mem, args: l.Args, report: report, warps: make([]warp, l.Block/warpSize),
		shared: make([]byte, l.Shared), shadow: make([]word, l.Shared/4)}
	for i := range b.warps {
		b.warps[i] = warp{block: b, first: i * warpSize, index: map[int]int{},
			r32: make([][warpSize]uint32, k.r32), set32: make([]uint32, k.r32),
			r64: make([][warpSize]uint64, k.r64), set64: make([]uint32, k.r64),
			preds: make([]uint32, k.preds), setPred: make([]uint32, k.preds)}
		b.warps[i].constants()
	}
	return b
}

// reset makes the block the n-th of the grid, with nothing written yet.
func (b *block) reset(n int, l Launch) {
	b.number, b.barrier, b.failed, b.instructions, b.limit = n, 1, false, 0, l.Limit
	b.rng = rand.New(rand.NewPCG(l.Seed, uint64(n)))
	clear(b.shadow)
	for i := range b.shared {
		b.shared[i] = 0xff // NaN, as bf16 and as float32
	}
	for i := range b.warps {
		w := &b.warps[i]
		w.exited, w.atBarrier, w.barrier = 0, 0, 1
		copy(w.set32, w.const32)
		copy(w.set64, w.const64)
		copy(w.setPred, w.constPred)
		for l := range warpSize {
			w.pc[l], w.groups[l], w.copies[l] = 0, 0, w.copies[l][:0]
		}
		for n, r := range w.index {
			for l := range w.r32[r] {
				w.r32[r][l] = uint32(b.index[n])
			}
		}
	}
}

// constants fills the registers of numbers and of special registers, which nothing
// writes, and notes them as set.
func (w *warp) constants() {
	for c, r := range w.block.k.const32 {
		for l := range warpSize {
			v := c.value
			switch c.special {
			case "%tid.x":
				v = uint32(w.first + l)
			}
			w.r32[r][l] = v
		}
		w.set32[r] = allLanes
		if n := slices.Index(specials[1:], c.special); n >= 0 { // each block has its own
			w.index[n] = r
		}
	}
	for v, r := range w.block.k.const64 {
		for l := range warpSize {
			w.r64[r][l] = v
		}
		w.set64[r] = allLanes
	}
	for v, r := range w.block.k.constPred {
		w.preds[r], w.setPred[r] = 0, allLanes
		if v {
			w.preds[r] = allLanes
		}
	}
	w.const32, w.const64, w.constPred = slices.Clone(w.set32), slices.Clone(w.set64), slices.Clone(w.setPred)
}

// maxBurst is the most instructions that a warp runs before another may.
const maxBurst = 64

// run schedules the warps until all have ended.
func (b *block) run() {
	order := b.rng.Perm(len(b.warps))
	for {
		ran := false
		b.rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		for _, i := range order {
			rotate := 0
			if b.rng.IntN(2) == 0 {
				rotate = b.rng.IntN(warpSize)
			}
			ran = b.warps[i].run(1+b.rng.IntN(maxBurst), rotate) || ran
			if b.failed {
				return
			}
		}
		switch {
		case b.instructions > b.limit:
			w := b.waiting(func(w *warp) uint32 { return ^w.exited })
			w.find(&b.k.code[w.pc[0]], 0, Runaway, "the block has run %d instructions", b.instructions)
			return
		case ran:
		case b.waiting((*warp).runnable) != nil:
			w := b.waiting((*warp).runnable)
			w.find(&b.k.code[w.pc[0]], 0, Deadlock, "no thread of the block can go on")
			return
		case b.waiting(func(w *warp) uint32 { return ^w.exited }) == nil:
			return
		default:
			if !b.release() {
				return
			}
		}
	}
}

// waiting is a warp with lanes in the set, or nil.
func (b *block) waiting(set func(*warp) uint32) *warp {
	for i := range b.warps {
		if set(&b.warps[i]) != 0 {
			return &b.warps[i]
		}
	}
	return nil
}

// release lets the block go on when all of its threads are at one barrier.
func (b *block) release() bool {
	first := b.waiting(func(w *warp) uint32 { return w.atBarrier })
	pc := first.pc[0]
	in := &b.k.code[pc]
	for i := range b.warps {
		w := &b.warps[i]
		if w.exited != 0 {
			w.find(in, 0, Barrier, "thread %d has ended, others wait at %s", w.first, in)
			return false
		}
		if w.pc[0] != pc {
			w.find(in, 0, Barrier, "thread %d waits at %s, thread %d at %s", first.first, in, w.first, &b.k.code[w.pc[0]])
			return false
		}
	}
	if b.barrier++; b.barrier == 0 {
		first.find(in, 0, Runaway, "more than 65535 barriers")
		return false
	}
	for i := range b.warps {
		w := &b.warps[i]
		w.atBarrier = 0
		w.goTo(allLanes, pc+1)
	}
	return true
}
