package mul

import (
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/runtimetest"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// Stages without products see each row once, after the stages before them, whatever
// the chunks; local matrices pass their rows on.
func TestStagesOfRows(t *testing.T) {
	target := kernel.For(kernel.Available()[0])
	const width = 3
	for _, threads := range []int{1, 2, 3, 16} {
		ws := NewWorkspace(runtimetest.PoolOf(threads))
		defer ws.Close()
		each := target.ChunksPerThread * threads
		for _, m := range []int{1, 2, target.RowTiles, target.RowTiles + 1, each*target.MinRowChunk - 1, each * target.MinRowChunk, target.MaxRowChunk + 1, each*target.MaxRowChunk + 1} {
			src, dst := make([]float32, m*width), runtimetest.Poisoned(m*width)
			for i := range src {
				src[i] = float32(i)
			}
			seen := make([]atomic.Int32, m)
			ws.Begin(&target, m, width)
			kept := ws.Local(SlotResidual, width)
			if n := ws.LocalRows(); len(kept.Data) != n*width || n < min(m, target.RowTiles) {
				t.Fatalf("%d rows, %d threads: a local matrix of %d entries for %d rows", m, threads, len(kept.Data), n)
			}
			widths := Widths{Dst: width, Src: width}
			ws.Add(Stage{Src: Whole(src), Dst: kept, Widths: widths})
			ws.Add(Stage{Src: kept, Dst: Whole(dst), Widths: widths})
			ws.Add(Stage{Src: Whole(src), Dst: Whole(dst), Widths: widths, Rows: func(dst, pre, src []float32) {
				for i, v := range src {
					if i%width == 0 {
						seen[int(v)/width].Add(1) // entry i of src is i
					}
					dst[i] += 2 * v
				}
			}})
			ws.Exec()
			for r := range seen {
				if n := seen[r].Load(); n != 1 {
					t.Fatalf("%d rows, %d threads: row %d passes %d times", m, threads, r, n)
				}
			}
			for i, v := range dst {
				if v != 3*src[i] {
					t.Fatalf("%d rows, %d threads: entry %d is %v, want %v", m, threads, i, v, 3*src[i])
				}
			}
		}
	}
}

// A buffer of a workspace grows, and its other buffers stay.
func TestFloats(t *testing.T) {
	ws := NewWorkspace(runtimetest.PoolOf(1))
	defer ws.Close()
	act, pre := ws.Floats(SlotAct, 10), ws.Floats(SlotPre, 20)
	act[9], pre[19] = 1, 2
	if ws.Floats(SlotAct, 5)[:10][9] != 1 {
		t.Error("asking for less loses what was there")
	}
	if n := len(ws.Floats(SlotAct, 1<<20)); n != 1<<20 {
		t.Errorf("%d entries", n)
	}
	if pre[19] != 2 || ws.Floats(SlotPre, 20)[19] != 2 {
		t.Error("a buffer changes with another one")
	}
}

// Workers that hold every P let other goroutines run between kernels, long
// before the scheduler's time slice of 10 ms is over.
func TestYields(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	// A pool as large as GOMAXPROCS, which looks at that when it is made.
	pool := runtimetest.NewPool(t, 1)
	target := kernel.For(kernel.Available()[0])
	u := subjects(spec.Linear{Kind: spec.Dense, In: 256, Out: 1024}, rand.New(rand.NewPCG(1, 1)))[0]
	b := u.bind(t, &target, 1)
	ws := NewWorkspace(pool)
	defer ws.Close()
	b.ws.Close()
	b.ws = ws
	const m = 4096
	x, y := runtimetest.Random(u.r, m*256, 1), runtimetest.Poisoned(m*1024)
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
	b.runForward(y, nil, x, nil, nil, m, Weight{})
	// Now and then the scheduler takes the worker itself again.
	calls := ws.Calls()
	got, want := turns.Load()-before, int64(calls/YieldCalls*3/4)
	stop.Store(true)
	<-done
	if want < 8 || got < want {
		t.Errorf("another goroutine ran %d times beside %d calls of kernels, want %d or more", got, calls, want)
	}
}
