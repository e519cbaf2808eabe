package runtime

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
)

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
