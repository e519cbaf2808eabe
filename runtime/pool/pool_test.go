package pool

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// Every chunk runs once, and no worker runs two at a time.
func TestPoolRun(t *testing.T) {
	for _, threads := range []int{1, 2, 3, 16} {
		p := New(threads)
		if p.Threads() != threads {
			t.Fatalf("%d threads, want %d", p.Threads(), threads)
		}
		for n := range 40 {
			ran := make([]atomic.Int32, n)
			busy := make([]atomic.Bool, threads)
			p.Run(n, func(worker, i int) {
				if busy[worker].Swap(true) {
					t.Error("a worker runs two chunks at a time")
				}
				ran[i].Add(1)
				busy[worker].Store(false)
			})
			for i := range ran {
				if k := ran[i].Load(); k != 1 {
					t.Fatalf("%d threads: chunk %d of %d ran %d times", threads, i, n, k)
				}
			}
		}
		p.Close()
	}
}

// Idle workers park, and a job wakes them: each of its chunks waits until every
// worker has come.
func TestPoolParks(t *testing.T) {
	p := New(3)
	defer p.Close()
	for range 5 {
		park(p)
		var came sync.WaitGroup
		came.Add(3)
		seen := make([]bool, 3)
		p.Run(3, func(worker, _ int) {
			if seen[worker] {
				t.Errorf("worker %d came twice, while the others were to come", worker)
			}
			seen[worker] = true
			came.Done()
			came.Wait()
		})
	}
}

// park waits until all workers are parked.
func park(p *Pool) {
	for _, w := range p.workers {
		for !w.parked.Load() {
			runtime.Gosched()
		}
	}
}

// Workers for whom there is a P spin for the next job; where there are more of
// them they park at once, which leaves the Ps to those that have work.
func TestOversubscribed(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	for threads, spins := range map[int]bool{2: true, 3: false, 16: false} {
		p := New(threads)
		if got := p.spins > 0; got != spins {
			t.Errorf("%d threads on 2 Ps spin: %v, want %v", threads, got, spins)
		}
		var sum atomic.Int64
		p.Run(100, func(_, i int) { sum.Add(int64(i)) })
		if sum.Load() != 99*100/2 {
			t.Errorf("%d threads on 2 Ps: the chunks add up to %d", threads, sum.Load())
		}
		park(p)
		p.Close()
	}
}

// A panic in any worker reaches the caller of Run, whose pool goes on.
func TestPoolPanics(t *testing.T) {
	broken := errors.New("broken")
	for _, threads := range []int{1, 2, 3, 16} {
		p := New(threads)
		defer p.Close()
		for range 20 {
			for _, bad := range []int{0, 7, 39} {
				func() {
					defer func() {
						v := recover()
						err, ok := v.(error)
						if !ok || !errors.Is(err, broken) || !strings.Contains(err.Error(), "broken") {
							t.Errorf("%d threads: recovered %v, want the chunk's own panic", threads, v)
						}
					}()
					p.Run(40, func(_, i int) {
						if i == bad {
							panic(broken)
						}
					})
				}()
				// All threads are there for the next job: each waits for the others.
				var arrived atomic.Int32
				p.Run(threads, func(int, int) {
					arrived.Add(1)
					for threads > 1 && arrived.Load() < int32(threads) {
						runtime.Gosched()
					}
				})
			}
		}
	}
}

// A chunk that ends its goroutine leaves the pool good: in a worker the caller
// is told, in the caller's own the caller ends.
func TestPoolGoexit(t *testing.T) {
	for _, threads := range []int{2, 3} {
		p := New(threads)
		defer p.Close()
		for _, inWorker := range []bool{false, true} {
			var told any
			done := make(chan bool)
			go func() {
				defer close(done)
				defer func() { told = recover() }()
				var arrived atomic.Int32
				p.Run(threads, func(worker, _ int) {
					arrived.Add(1)
					for arrived.Load() < int32(threads) { // all take part
						runtime.Gosched()
					}
					if (worker > 0) == inWorker {
						runtime.Goexit()
					}
				})
			}()
			<-done
			if inWorker && !strings.Contains(fmt.Sprint(told), "Goexit") || !inWorker && told != nil {
				t.Errorf("%d threads, in a worker: %v: the caller is told %v", threads, inWorker, told)
			}
			var n atomic.Int32
			p.Run(40, func(int, int) { n.Add(1) })
			if n.Load() != 40 {
				t.Errorf("%d threads, in a worker: %v: the next job runs %d of 40 chunks", threads, inWorker, n.Load())
			}
		}
	}
}
