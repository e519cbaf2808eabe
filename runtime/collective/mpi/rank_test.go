//go:build linux && (amd64 || arm64)

package mpi

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/structuredffn/sffn/runtime/collective"
	"github.com/structuredffn/sffn/runtime/collective/collectivetest"
	"github.com/structuredffn/sffn/runtime/memory"
)

// envPart makes a program of this test binary: one rank that plays the named part.
const envPart = "SFFN_MPI_TEST"

func TestMain(m *testing.M) {
	if part := os.Getenv(envPart); part != "" {
		play(part)
	}
	os.Exit(m.Run())
}

// parts are what ranks do in tests. The last rank is the one that fails.
var parts = map[string]func(ctx context.Context, g *Group) error{
	"operations": func(ctx context.Context, g *Group) error {
		var arena memory.Arena
		largest, _ := strconv.Atoi(os.Getenv(envPart + "_FLOATS"))
		for _, each := range []int{0, 1, 7, 1 << 10, largest} {
			if err := collectivetest.Moves(ctx, g, &arena, each); err != nil {
				return err
			}
		}
		messageBytes = 10_000 // from now on all that is larger goes in pieces
		for _, each := range []int{3, 2500, 20_001} {
			if err := collectivetest.Moves(ctx, g, &arena, each); err != nil {
				return err
			}
		}
		if err := collectivetest.Small(ctx, g); err != nil {
			return err
		}
		p := g.Place()
		if p.Hosts != 1 || p.Ranks != g.Size() || p.Local != g.Rank() || p.Cores < 1 || p.Share > p.Cores {
			return fmt.Errorf("the place is %+v", p)
		}
		if p.Threads(1); p.own != nil && !slices.Equal(allowed(), p.own) {
			return fmt.Errorf("it runs on CPUs %v, of which %v are its own", allowed(), p.own)
		}
		// Go's own handlers are in place whatever the library has taken.
		if taken := goHandlers.restore(); taken != nil {
			return fmt.Errorf("handlers of %v are not Go's", taken)
		}
		fmt.Printf("rank %d of %d has it all by %s\n", g.Rank(), g.Size(), g.Library())
		return nil
	},
	// Beside the exchange goroutines allocate, and recover from what Go makes a panic
	// of a signal for.
	"signals": func(ctx context.Context, g *Group) error {
		var stop atomic.Bool
		var done, recovered atomic.Int64
		for range 2 {
			go func() {
				defer done.Add(1)
				for !stop.Load() {
					func() {
						defer func() {
							if recover() != nil {
								recovered.Add(1)
							}
						}()
						var nothing *[4]int
						sink = make([]byte, 10_000)
						nothing[len(sink)%4]++
					}()
				}
			}()
		}
		var arena memory.Arena
		for range 10 {
			if err := collectivetest.Moves(ctx, g, &arena, 20_000); err != nil {
				return err
			}
			runtime.GC()
		}
		stop.Store(true)
		for done.Load() < 2 {
			time.Sleep(time.Millisecond)
		}
		if recovered.Load() == 0 {
			return errors.New("nothing was recovered")
		}
		return nil
	},
	"killed":  last(func(*Group) { syscall.Kill(os.Getpid(), syscall.SIGKILL) }),
	"panic":   last(func(*Group) { panic("the sky falls") }),
	"far":     last(func(*Group) { go panic("the sky falls elsewhere"); select {} }),
	"exit":    last(func(*Group) { Exit(3) }),
	"abort":   last(func(g *Group) { g.Abort(42, "the disk is full") }),
	"hangs":   last(func(*Group) { time.Sleep(time.Hour) }),
	"stopped": last(func(*Group) { syscall.Kill(os.Getpid(), syscall.SIGSTOP); select {} }),
	"shorter": uneven(8),
	"longer":  uneven(20),
	"agreed": func(context.Context, *Group) error {
		return errAgreed
	},
}

var (
	sink       []byte
	goHandlers *handlers
	errAgreed  = errors.New("all agree that this is the end")
)

// last has the last rank fail while the others wait for it.
func last(fails func(g *Group)) func(ctx context.Context, g *Group) error {
	return func(ctx context.Context, g *Group) error {
		if err := g.Barrier().Wait(ctx); err != nil {
			return err
		}
		if g.Rank() == g.Size()-1 {
			fails(g)
		}
		return g.Barrier().Wait(ctx)
	}
}

// play is a rank from its begin to its end.
func play(part string) {
	duration := func(name string) time.Duration {
		d, _ := time.ParseDuration(os.Getenv(envPart + name))
		return d
	}
	goHandlers = handlersNow()
	g, err := Start(Options{Limit: duration("_LIMIT"), Silence: duration("_SILENCE")})
	if err != nil {
		fmt.Fprintln(os.Stderr, "start:", err)
		Exit(1)
	}
	fmt.Printf("begun as %d\n", os.Getpid())
	defer collective.Guard(g)
	if err = parts[part](context.Background(), g); err != nil && !errors.Is(err, errAgreed) {
		g.Abort(4, err.Error())
	}
	code := 0
	if err != nil {
		fmt.Fprintln(os.Stderr, "end:", err)
		code = 1
	}
	if err := g.Close(); err != nil {
		g.Abort(5, err.Error())
	}
	Exit(code)
}

// uneven has the last rank send more or fewer bytes than the others expect.
func uneven(n int) func(ctx context.Context, g *Group) error {
	return func(ctx context.Context, g *Group) error {
		send, recv := make([][]byte, g.Size()), make([][]byte, g.Size())
		for q := range send {
			send[q], recv[q] = make([]byte, 12), make([]byte, 12)
			if g.Rank() == g.Size()-1 && q != g.Rank() {
				send[q] = make([]byte, n)
			}
		}
		if err := g.Exchange(send, recv).Wait(ctx); err != nil {
			return err
		}
		return g.Barrier().Wait(ctx)
	}
}
