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
	"math"
	"math/rand/v2"
	"runtime"
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
	shared  []uint32
	pieces  []word // the shadow of shared memory, 16 bytes each, and
	words   []word // of its words where pieces are split
	barrier uint16 // number of the barrier interval, from 1
	report  *Report
	rng     *rand.Rand
	limit   int64
	failed  bool

	instructions, mma, copies int64
	multiplication            multiplication
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
			defer idle.Put(b)
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

// idle are blocks whose memory the next launches use again.
var idle sync.Pool

func newBlock(k *Kernel, mem *Memory, report *Report, l Launch) *block {
	b, _ := idle.Get().(*block)
	if b == nil {
		b = &block{}
	}
	*b = block{k: k, mem: mem, args: l.Args, report: report, warps: resized(b.warps, l.Block/warpSize),
		shared: resized(b.shared, l.Shared/4), pieces: resized(b.pieces, l.Shared/16), words: resized(b.words, l.Shared/4)}
	for i := range b.warps {
		w := &b.warps[i]
		*w = warp{block: b, first: i * warpSize, r32: resized(w.r32, max(1, k.r32)), r64: resized(w.r64, max(1, k.r64)), preds: resized(w.preds, k.preds),
			set: resized(w.set, k.r32+k.r64+k.preds), constants: resized(w.constants, k.r32+k.r64+k.preds), paths: w.paths, copies: w.copies}
		w.fill()
	}
	return b
}

// resized is a slice of n elements, of any content, in the place of one that is
// not needed any more.
func resized[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}

// reset makes the block the n-th of the grid, with nothing written yet.
func (b *block) reset(n int, l Launch) {
	b.number, b.barrier, b.failed, b.instructions, b.limit = n, 1, false, 0, l.Limit
	b.rng = rand.New(rand.NewPCG(l.Seed, uint64(n)))
	clear(b.pieces)
	for i := range b.shared {
		b.shared[i] = math.MaxUint32 // NaN, as bf16 and as float32
	}
	for i := range b.warps {
		w := &b.warps[i]
		w.exited, w.atBarrier, w.barrier = 0, 0, 1
		copy(w.set, w.constants)
		w.paths = append(w.paths[:0], path{lanes: allLanes})
		w.copies, w.groups = w.copies[:0], [warpSize]int{}
	}
	for n, at := range b.index {
		if r, ok := b.k.const32[constant{special: specials[1+n]}]; ok {
			for i := range b.warps {
				broadcast(&b.warps[i].r32[r], uint32(at))
			}
		}
	}
}

// fill fills the registers of numbers and of special registers, which nothing
// writes, and notes them as set. Those of the block's index are filled by reset.
func (w *warp) fill() {
	k := w.block.k
	clear(w.constants)
	for c, r := range k.const32 {
		if c.special == specials[0] {
			for l := range warpSize {
				w.r32[r][l] = uint32(w.first + l)
			}
		} else {
			broadcast(&w.r32[r], c.value)
		}
	}
	for v, r := range k.const64 {
		broadcast(&w.r64[r], v)
	}
	for v, r := range k.constPred {
		w.preds[r] = 0
		if v {
			w.preds[r] = allLanes
		}
	}
	for _, at := range k.constants {
		w.constants[at] = allLanes
	}
}

func broadcast[T uint32 | uint64](register *[warpSize]T, v T) {
	for l := range register {
		register[l] = v
	}
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
			w.find(&b.k.code[w.paths[0].pc], 0, Runaway, "the block has run %d instructions", b.instructions)
			return
		case ran:
		case b.waiting((*warp).runnable) != nil:
			w := b.waiting((*warp).runnable)
			w.find(&b.k.code[w.paths[0].pc], 0, Deadlock, "no thread of the block can go on")
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
	pc := first.paths[0].pc
	in := &b.k.code[pc]
	for i := range b.warps {
		w := &b.warps[i]
		if w.exited != 0 {
			w.find(in, 0, Barrier, "thread %d has ended, others wait at %s", w.first, in)
			return false
		}
		if at := w.paths[0].pc; at != pc {
			w.find(in, 0, Barrier, "thread %d waits at %s, thread %d at %s", first.first, in, w.first, &b.k.code[at])
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
		w.paths[0].pc = pc + 1
	}
	return true
}
