package runtime

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/structuredffn/sffn/gen/spec"
)

// Every chunk runs once, and no worker runs two at a time.
func TestPoolRun(t *testing.T) {
	for _, threads := range []int{1, 2, 3, 16} {
		p := NewPool(threads)
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

// Idle workers park, and a job wakes them.
func TestPoolParks(t *testing.T) {
	p := NewPool(3)
	defer p.Close()
	for range 5 {
		time.Sleep(5 * time.Millisecond)
		var seen sync.Map
		p.Run(300, func(worker, _ int) {
			seen.Store(worker, true)
			time.Sleep(20 * time.Microsecond)
		})
		n := 0
		seen.Range(func(any, any) bool { n++; return true })
		if n != 3 {
			t.Errorf("%d of 3 workers took part", n)
		}
	}
}

// Several goroutines may use one layer, each with its own workspace; a busy
// pool runs the second one's work inline.
func TestConcurrentForward(t *testing.T) {
	pool := NewPool(2)
	defer pool.Close()
	s := spec.FFN{Kind: spec.LowRank, Hidden: 64, FFN: 256, Rank: 16, Act: spec.GELU, Bias: true}
	r := rand.New(rand.NewPCG(1, 1))
	f, err := NewFFN(s, FFNWeights{randomWeights(r, s.FC1()), randomWeights(r, s.FC2())}, Options{Pool: pool})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const m = 50
	x := random(r, m*s.Hidden, 1)
	forward := func() []float32 {
		ws := f.NewWorkspace()
		defer ws.Close()
		y := poisoned(m * s.Hidden)
		f.Forward(y, x, nil, m, nil, ws)
		return y
	}
	want := forward()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				if !slices.Equal(forward(), want) {
					t.Error("a concurrent call gives another result")
				}
			}
		})
	}
	wg.Wait()
}

// More workers than cores cost little: they do not spin.
func TestOversubscribed(t *testing.T) {
	best := func(threads int) time.Duration {
		p := NewPool(threads)
		defer p.Close()
		least := time.Hour
		for range 20 {
			start := time.Now()
			p.Run(64, func(_, i int) {
				x := float32(i)
				for range 20000 {
					x = x*0.5 + 1
				}
				if x < 0 {
					panic("unreachable")
				}
			})
			least = min(least, time.Since(start))
		}
		return least
	}
	one, many := best(1), best(16)
	if many > 3*one+time.Millisecond {
		t.Errorf("16 workers take %v, 1 takes %v", many, one)
	}
}

// The garbage collector stops a running layer within milliseconds: kernels are
// leaves that nothing can interrupt, so the loops around them must be. One
// core is left to the collector; without, it waits for the scheduler's time
// slices of 10 ms beside any busy program. Other programs may hold the cores
// for as long as that, too: plain Go code, measured in turn, tells.
func TestGarbageCollection(t *testing.T) {
	pool := NewPool(max(1, runtime.GOMAXPROCS(0)-1))
	defer pool.Close()
	s := spec.FFN{Kind: spec.Dense, Hidden: 512, FFN: 2048, Act: spec.GELU}
	r := rand.New(rand.NewPCG(1, 1))
	w := FFNWeights{randomWeights(r, s.FC1()), randomWeights(r, s.FC2())}
	g := FFNWeights{emptyLike(w.FC1), emptyLike(w.FC2)}
	f, err := NewFFN(s, w, Options{Pool: pool, Train: true})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const m = 1024
	x, y, dx := random(r, m*s.Hidden, 1), poisoned(m*s.Hidden), poisoned(m*s.Hidden)
	ws, saved := f.NewWorkspace(), f.NewSaved(m)
	defer ws.Close()
	defer saved.Close()
	sums := make([]float32, pool.Threads())
	plain := func() {
		pool.Run(pool.Threads(), func(_, i int) {
			for _, v := range x {
				sums[i] += v
			}
		})
	}
	layer := func() {
		f.Forward(y, x, nil, m, saved, ws)
		f.Backward(dx, g, x, x, m, saved, false, ws)
	}
	var slowest time.Duration
	for range 10 {
		limit := 3*collections(plain) + 3*time.Millisecond
		took := collections(layer)
		t.Logf("runtime.GC() beside a running layer: median %v, at most %v expected", took, limit)
		if took <= limit {
			return
		}
		slowest = took
	}
	t.Errorf("runtime.GC() takes %v beside a running layer, far longer than beside plain Go code", slowest)
}

// Workers that hold every P let other goroutines run between kernels, long
// before the scheduler's time slice of 10 ms is over.
func TestYields(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	pool := NewPool(1)
	defer pool.Close()
	s := spec.FFN{Kind: spec.Dense, Hidden: 256, FFN: 1024, Act: spec.GELU}
	r := rand.New(rand.NewPCG(1, 1))
	f, err := NewFFN(s, FFNWeights{randomWeights(r, s.FC1()), randomWeights(r, s.FC2())}, Options{Pool: pool})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const m = 2048
	x, y := random(r, m*s.Hidden, 1), poisoned(m*s.Hidden)
	ws := f.NewWorkspace()
	defer ws.Close()
	var turns atomic.Int64
	var stop atomic.Bool
	done := make(chan bool)
	go func() {
		for !stop.Load() {
			turns.Add(1)
			runtime.Gosched()
		}
		close(done)
	}()
	for turns.Load() == 0 {
		runtime.Gosched()
	}
	before := turns.Load()
	f.Forward(y, x, nil, m, nil, ws)
	// Now and then the scheduler takes the worker itself again.
	got, want := turns.Load()-before, int64(ws.scratch[0].calls/yieldCalls*3/4)
	stop.Store(true)
	<-done
	if want < 8 || got < want {
		t.Errorf("another goroutine ran %d times beside %d calls of kernels, want %d or more", got, ws.scratch[0].calls, want)
	}
}

// collections is the median time of a collection while f runs over and over.
func collections(f func()) time.Duration {
	var stop atomic.Bool
	var wg sync.WaitGroup
	started := make(chan bool)
	wg.Go(func() {
		f()
		close(started)
		for !stop.Load() {
			f()
		}
	})
	<-started
	var took []time.Duration
	for range 15 {
		start := time.Now()
		runtime.GC()
		took = append(took, time.Since(start))
		time.Sleep(time.Millisecond)
	}
	stop.Store(true)
	wg.Wait()
	slices.Sort(took)
	return took[len(took)/2]
}

// A panic in any worker reaches the caller of Run, whose pool goes on.
func TestPoolPanics(t *testing.T) {
	broken := errors.New("broken")
	for _, threads := range []int{1, 2, 3, 16} {
		p := NewPool(threads)
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
