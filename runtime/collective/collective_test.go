package collective_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/structuredffn/sffn/runtime/collective"
	"github.com/structuredffn/sffn/runtime/collective/collectivetest"
	"github.com/structuredffn/sffn/runtime/memory"
)

// together runs f as every rank of a group of n, and returns what each ends with.
func together(t *testing.T, n int, f func(ctx context.Context, g collective.Group) error) []error {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(context.Background(), time.Minute, errors.New("it hangs"))
	defer cancel()
	errs := make([]error, n)
	var wg sync.WaitGroup
	for rank, g := range collective.Local(n) {
		wg.Go(func() { errs[rank] = f(ctx, g) })
	}
	wg.Wait()
	return errs
}

// Every operation does what it says, on groups of every size.
func TestOperations(t *testing.T) {
	for _, n := range []int{1, 2, 3, 4, 5} {
		for rank, err := range together(t, n, func(ctx context.Context, g collective.Group) error {
			var arena memory.Arena
			defer arena.Close()
			for _, each := range []int{0, 1, 7, 1500} {
				if err := collectivetest.Moves(ctx, g, &arena, each); err != nil {
					return err
				}
			}
			if err := collectivetest.Small(ctx, g); err != nil {
				return err
			}
			return g.Close()
		}) {
			if err != nil {
				t.Errorf("%d ranks: rank %d: %v", n, rank, err)
			}
		}
	}
}

// A rank that ends the run, leaves it or calls otherwise than the others is an error
// everywhere, which names it; nobody waits for ever.
func TestFailures(t *testing.T) {
	for _, c := range []struct {
		name string
		bad  func(ctx context.Context, g collective.Group) error // rank 1's; the others exchange, and do so again
		want []string
	}{
		{"abort", func(ctx context.Context, g collective.Group) error {
			g.Abort(3, "the disk is full")
			return g.Barrier().Wait(ctx)
		}, []string{"rank 1 has ended the run: the disk is full"}},
		{"close", func(_ context.Context, g collective.Group) error { return g.Close() }, []string{"rank 1", "close", "exchange"}},
		{"other operation", func(ctx context.Context, g collective.Group) error { return g.Barrier().Wait(ctx) }, []string{"rank 1", "barrier", "exchange"}},
		{"other length", func(ctx context.Context, g collective.Group) error {
			x := [][]byte{make([]byte, 5), make([]byte, 4), make([]byte, 4)}
			return g.Exchange(x, [][]byte{make([]byte, 4), make([]byte, 4), make([]byte, 4)}).Wait(ctx)
		}, []string{"rank 1 sends 5 bytes where rank 0 expects 4"}},
		{"missing part", func(ctx context.Context, g collective.Group) error { return g.Exchange(nil, nil).Wait(ctx) }, []string{"rank 1 of 3: exchange: 0 parts to send"}},
		{"own part", func(ctx context.Context, g collective.Group) error {
			return g.Exchange(make([][]byte, 3), [][]byte{nil, {1}, nil}).Wait(ctx)
		}, []string{"rank 1 of 3: exchange: its own part has 0 bytes to send and 1"}},
		{"bounds", func(ctx context.Context, g collective.Group) error {
			return g.AllGather(make([]byte, 3), []int{0, 2, 1, 3}).Wait(ctx)
		}, []string{"rank 1 of 3: all-gather: rank 1's part goes from byte 2 to 1"}},
		{"short bounds", func(ctx context.Context, g collective.Group) error {
			return g.AllGather(make([]byte, 3), []int{0, 1, 2, 4}).Wait(ctx)
		}, []string{"rank 1 of 3: all-gather: bounds are"}},
		{"root", func(ctx context.Context, g collective.Group) error { return g.Broadcast(3, nil).Wait(ctx) }, []string{"rank 1 of 3: broadcast: the root is rank 3"}},
	} {
		errs := together(t, 3, func(ctx context.Context, g collective.Group) error {
			if g.Rank() == 1 {
				return c.bad(ctx, g)
			}
			x := [][]byte{make([]byte, 4), make([]byte, 4), make([]byte, 4)}
			if err := g.Exchange(x, x).Wait(ctx); err == nil {
				return errors.New("the exchange ends well")
			}
			return g.Exchange(x, x).Wait(ctx)
		})
		for rank, err := range errs {
			for _, want := range c.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%s: rank %d ends with %v, want %q", c.name, rank, err, want)
				}
			}
		}
		if e := new(collective.Aborted); c.name == "abort" && (!errors.As(errs[0], &e) || e.Rank != 1 || e.Code != 3) {
			t.Errorf("abort: %+v", e)
		}
	}
}

// Who does not want to wait any longer may come back.
func TestWaitAgain(t *testing.T) {
	gs := collective.Local(2)
	p := gs[0].Barrier()
	ctx, cancel := context.WithCancelCause(context.Background())
	enough := errors.New("enough")
	cancel(enough)
	if err := p.Wait(ctx); err != enough || p.Done() {
		t.Fatalf("%v, done: %v", err, p.Done())
	}
	if err := gs[1].Barrier().Wait(context.Background()); err != nil {
		t.Error(err)
	}
	if err := p.Wait(ctx); err != nil {
		t.Error("what is done fails because of the context:", err)
	}
}
