// Package pool shares out work among threads that stay.
package pool

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/klauspost/cpuid/v2"
)

// Pool is a set of persistent workers that share out chunks of work. The
// caller of Run is worker 0. Idle workers spin for a bounded time, so that a
// dispatch costs well under a microsecond, then park.
type Pool struct {
	threads int
	busy    atomic.Bool

	// The job: written by the caller while it is closed and no worker active.
	n    int64
	f    func(worker, i int)
	next atomic.Int64
	// failure is the first panic of the job.
	failure atomic.Pointer[failure]

	seq    atomic.Uint64 // counts jobs; workers wait for it to move
	open   atomic.Bool
	active atomic.Int64
	stop   atomic.Bool

	workers []*worker
	spins   int
	// crowded says that the workers leave no P to other goroutines.
	crowded bool
}

type worker struct {
	parked atomic.Bool
	wake   chan struct{}
}

// maxSpins bounds the spinning of an idle worker, about 50 microseconds.
const maxSpins = 1 << 15

// DefaultThreads is the number of threads that Go may use, but no more than
// physical cores: the threads of one core share its multiply-add units.
func DefaultThreads() int {
	return min(runtime.GOMAXPROCS(0), max(1, runtime.NumCPU()/max(1, cpuid.CPU.ThreadsPerCore)))
}

// New starts a pool of the given number of threads, the caller's
// included; 0 means DefaultThreads. Close it when done.
func New(threads int) *Pool {
	if threads <= 0 {
		threads = DefaultThreads()
	}
	p := &Pool{threads: threads, spins: maxSpins, crowded: threads >= runtime.GOMAXPROCS(0)}
	if threads > runtime.GOMAXPROCS(0) {
		p.spins = 0 // a spinning worker would hold the core that another needs
	}
	for id := 1; id < threads; id++ {
		w := &worker{wake: make(chan struct{}, 1)}
		p.workers = append(p.workers, w)
		go p.loop(w, id)
	}
	return p
}

// Default is a pool that is shared by the layers that name no pool.
var Default = sync.OnceValue(func() *Pool { return New(0) })

// Threads is the number of workers, the caller included.
func (p *Pool) Threads() int { return p.threads }

// Crowded reports whether the workers leave no P to other goroutines.
func (p *Pool) Crowded() bool { return p.crowded }

// Run calls f for every i in [0, n), on any worker, and returns when all
// calls have. worker is below Threads and at work on one chunk at a time, so
// it may index scratch that belongs to the caller. When the pool is busy with
// another caller's job, all of it runs inline as worker 0. Where a call panics,
// chunks that nobody has begun are left out, and Run panics in the caller's
// goroutine once all workers have stopped; the pool is good for other jobs.
func (p *Pool) Run(n int, f func(worker, i int)) {
	if n <= 1 || p.threads == 1 || !p.busy.CompareAndSwap(false, true) {
		for i := range n {
			f(0, i)
		}
		return
	}
	p.n, p.f = int64(n), f
	p.next.Store(0)
	p.open.Store(true)
	p.seq.Add(1)
	// Wake no more workers than there are chunks beside the caller's first.
	for _, w := range p.workers[:min(len(p.workers), n-1)] {
		if w.parked.CompareAndSwap(true, false) {
			w.wake <- struct{}{}
		}
	}
	defer p.finish()
	p.work(0)
}

// finish ends a job once all workers have stopped, and passes on what failed.
func (p *Pool) finish() {
	p.open.Store(false)
	for i := 0; p.active.Load() != 0; i++ {
		if i >= p.spins/8 {
			runtime.Gosched()
		}
	}
	p.f = nil
	failed := p.failure.Swap(nil)
	p.busy.Store(false)
	if failed != nil {
		panic(failed)
	}
}

func (p *Pool) work(id int) {
	whole := false
	defer p.caught(id, &whole)
	for i := p.next.Add(1) - 1; i < p.n; i = p.next.Add(1) - 1 {
		p.f(id, int(i))
	}
	whole = true
}

// join takes part in the job that is open, if there is one still.
func (p *Pool) join(id int) {
	p.active.Add(1)
	defer p.active.Add(-1)
	if p.open.Load() {
		p.work(id)
	}
}

// failure is a panic on its way from a worker to the caller of Run.
type failure struct {
	value  any
	worker int
	stack  []byte // of the worker, which is gone by then
}

// Error gives the panic's own words first.
func (f *failure) Error() string {
	return fmt.Sprintf("%v\n\nin worker %d:\n%s", f.value, f.worker, f.stack)
}

// Unwrap is the panic's value where that is an error.
func (f *failure) Unwrap() error {
	err, _ := f.value.(error)
	return err
}

// caught keeps the panic of a chunk and leaves the job's other chunks out. A
// chunk that ends its goroutine ends the caller's in its own way, but a worker's
// would be missed.
func (p *Pool) caught(id int, whole *bool) {
	v := recover()
	if *whole {
		return
	}
	if v == nil && id > 0 {
		v = "a chunk of work ended its worker's goroutine (runtime.Goexit, or a test's FailNow)"
	}
	if v != nil {
		p.failure.CompareAndSwap(nil, &failure{v, id, debug.Stack()})
	}
	p.next.Store(p.n)
}

func (p *Pool) loop(w *worker, id int) {
	var seen uint64
	for {
		for i := 0; p.seq.Load() == seen; i++ {
			if p.stop.Load() {
				return
			}
			if i < p.spins {
				continue
			}
			w.parked.Store(true)
			// A job or Close between the check above and the flag would not
			// wake this worker: look again before sleeping.
			if p.seq.Load() != seen || p.stop.Load() {
				if w.parked.CompareAndSwap(true, false) {
					continue
				}
			}
			<-w.wake
		}
		seen = p.seq.Load()
		// A worker that comes late finds the job closed, or the next one open:
		// both are sound, because the caller rewrites a job only while it is
		// closed and nobody is active.
		p.join(id)
	}
}

// Close ends the workers. The pool must be idle.
func (p *Pool) Close() {
	p.stop.Store(true)
	for _, w := range p.workers {
		if w.parked.CompareAndSwap(true, false) {
			w.wake <- struct{}{}
		}
	}
	p.threads, p.workers = 1, nil
}
