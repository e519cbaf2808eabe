package collective

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/vec"
)

// together runs f as every rank of a group of n, and returns what each ends with.
func together(t *testing.T, n int, f func(ctx context.Context, g Group) error) []error {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(context.Background(), time.Minute, errors.New("it hangs"))
	defer cancel()
	errs := make([]error, n)
	var wg sync.WaitGroup
	for rank, g := range Local(n) {
		wg.Go(func() { errs[rank] = f(ctx, g) })
	}
	wg.Wait()
	return errs
}

// value is what rank `from` sends to rank `to` as entry i.
func value(from, to, i int) float32 { return float32(1000*from+100*to+i) + 0.5 }

// bounds cuts what n ranks share into parts of other lengths, some empty.
func bounds(n, each int) []int {
	b := make([]int, n+1)
	for q := range n {
		b[q+1] = b[q] + each*(q%3)
	}
	return b
}

func TestMoves(t *testing.T) {
	for _, n := range []int{1, 2, 3, 5} {
		for rank, err := range together(t, n, func(ctx context.Context, g Group) error { return moves(ctx, g, 7) }) {
			if err != nil {
				t.Errorf("%d ranks: rank %d: %v", n, rank, err)
			}
		}
	}
}

// moves has every operation go on at once, and looks at what came of them.
func moves(ctx context.Context, g Group, each int) error {
	me, n := g.Rank(), g.Size()
	send, recv := make([][]float32, n), make([][]float32, n)
	for q := range n {
		send[q], recv[q] = make([]float32, each*((me+q)%3)), make([]float32, each*((me+q)%3))
		for i := range send[q] {
			send[q][i] = value(me, q, i)
		}
	}
	b := bounds(n, each)
	all := make([]float32, b[n])
	for i := b[me]; i < b[me+1]; i++ {
		all[i] = value(me, 9, i)
	}
	word := []byte("nothing")
	root := n / 2
	if me == root {
		word = []byte("content")
	}
	for _, p := range []Pending{Exchange(g, send, recv), AllGather(g, all, b), g.Broadcast(root, word), g.Barrier()} {
		if err := p.Wait(ctx); err != nil {
			return err
		}
		if !p.Done() {
			return errors.New("it is not done behind Wait")
		}
	}
	for q := range n {
		for i, v := range recv[q] {
			if v != value(q, me, i) {
				return fmt.Errorf("exchange: entry %d of rank %d is %v", i, q, v)
			}
		}
		for i := b[q]; i < b[q+1]; i++ {
			if all[i] != value(q, 9, i) {
				return fmt.Errorf("all-gather: entry %d of rank %d is %v", i, q, all[i])
			}
		}
	}
	if string(word) != "content" {
		return fmt.Errorf("broadcast gives %q", word)
	}
	ranks, err := All(ctx, g, int32(me), int32(-me))
	if err != nil {
		return err
	}
	texts, err := AllBytes(ctx, g, slices.Repeat([]byte{byte(me)}, 3*(me%2)))
	if err != nil {
		return err
	}
	for q := range n {
		if ranks[2*q] != int32(q) || ranks[2*q+1] != int32(-q) {
			return fmt.Errorf("all values are %v", ranks)
		}
		if !slices.Equal(texts[q], slices.Repeat([]byte{byte(q)}, 3*(q%2))) {
			return fmt.Errorf("all bytes are %v", texts)
		}
	}
	return g.Close()
}

// treeOf is the sum as the comment of Sum says it.
func treeOf(x []float32) float32 {
	if len(x) == 1 {
		return x[0]
	}
	half := 1
	for 2*half < len(x) {
		half *= 2
	}
	return treeOf(x[:half]) + treeOf(x[half:])
}

// Sums are those of the tree on every instruction set, whatever the stretch, onto one
// of the parts, too; parts that are summed in groups of two or four first give the
// same bits.
func TestSum(t *testing.T) {
	for _, isa := range kernel.Available() {
		v := vec.For(isa)
		for _, n := range []int{1, 2, 3, 4, 7, 8, 12} {
			const size = 2*sumBlock + 37
			parts := make([][]float32, n)
			for q := range parts {
				parts[q] = make([]float32, size)
				for i := range parts[q] {
					parts[q][i] = float32(math.Sin(float64(1+i*n+q))) * float32(math.Pow(10, float64(i%7)))
				}
			}
			want := make([]float32, size)
			column := make([]float32, n)
			plain := 0
			for i := range want {
				inOrder := float32(0)
				for q := range parts {
					column[q] = parts[q][i]
					inOrder += column[q]
				}
				if want[i] = treeOf(column); inOrder == want[i] {
					plain++
				}
			}
			if n > 3 && plain > size*9/10 {
				t.Fatalf("%d parts: the sums tell no order from another", n)
			}
			got := make([]float32, size)
			Sum(v, got, parts, 0)
			if !slices.Equal(got, want) {
				t.Errorf("%v, %d parts: other sums than those of the tree", isa, n)
			}
			clear(got)
			Sum(v, got[5:5+sumBlock], parts, 5)
			if !slices.Equal(got[5:5+sumBlock], want[5:5+sumBlock]) {
				t.Errorf("%v, %d parts: a stretch has other sums", isa, n)
			}
			for _, group := range []int{2, 4} {
				if n%group != 0 {
					continue
				}
				var sums [][]float32
				for q := 0; q < n; q += group {
					s := make([]float32, size)
					Sum(v, s, parts[q:q+group], 0)
					sums = append(sums, s)
				}
				Sum(v, got, sums, 0)
				if !slices.Equal(got, want) {
					t.Errorf("%v, %d parts: summed in groups of %d they have other bits", isa, n, group)
				}
			}
			Sum(v, parts[n-1], parts, 0)
			if !slices.Equal(parts[n-1], want) {
				t.Errorf("%v, %d parts: onto one of them the sums are others", isa, n)
			}
		}
	}
}

func TestReduceScatter(t *testing.T) {
	v := vec.For(kernel.Portable)
	for rank, err := range together(t, 4, func(ctx context.Context, g Group) error {
		b := bounds(4, 1500)
		me := g.Rank()
		data := make([]float32, b[4])
		entry := func(q, i int) float32 { return float32(math.Sin(float64(q*100_000 + i))) }
		for i := range data {
			data[i] = entry(me, i)
		}
		if err := ReduceScatter(ctx, g, v, data, b, make([]float32, 3*(b[me+1]-b[me]))); err != nil {
			return err
		}
		for i, got := range data {
			want := entry(me, i)
			if i >= b[me] && i < b[me+1] {
				want = treeOf([]float32{entry(0, i), entry(1, i), entry(2, i), entry(3, i)})
			}
			if got != want {
				return fmt.Errorf("entry %d is %v, want %v", i, got, want)
			}
		}
		return nil
	}) {
		if err != nil {
			t.Errorf("rank %d: %v", rank, err)
		}
	}
}

// A rank that ends the run, leaves it or calls otherwise than the others is an error
// everywhere, which names it; nobody waits for ever.
func TestFailures(t *testing.T) {
	for _, c := range []struct {
		name string
		bad  func(ctx context.Context, g Group) error // rank 1's; the others exchange, and do so again
		want []string
	}{
		{"abort", func(ctx context.Context, g Group) error {
			g.Abort(3, "the disk is full")
			return g.Barrier().Wait(ctx)
		}, []string{"rank 1 has ended the run: the disk is full"}},
		{"close", func(_ context.Context, g Group) error { return g.Close() }, []string{"rank 1", "close", "exchange"}},
		{"other operation", func(ctx context.Context, g Group) error { return g.Barrier().Wait(ctx) }, []string{"rank 1", "barrier", "exchange"}},
		{"other length", func(ctx context.Context, g Group) error {
			x := [][]byte{make([]byte, 5), make([]byte, 4), make([]byte, 4)}
			return g.Exchange(x, [][]byte{make([]byte, 4), make([]byte, 4), make([]byte, 4)}).Wait(ctx)
		}, []string{"rank 1 sends 5 bytes where rank 0 expects 4"}},
		{"missing part", func(ctx context.Context, g Group) error { return g.Exchange(nil, nil).Wait(ctx) }, []string{"rank 1 of 3: exchange: 0 parts to send"}},
		{"own part", func(ctx context.Context, g Group) error {
			return g.Exchange(make([][]byte, 3), [][]byte{nil, {1}, nil}).Wait(ctx)
		}, []string{"rank 1 of 3: exchange: its own part has 0 bytes to send and 1"}},
		{"bounds", func(ctx context.Context, g Group) error {
			return g.AllGather(make([]byte, 3), []int{0, 2, 1, 3}).Wait(ctx)
		}, []string{"rank 1 of 3: all-gather: rank 1's part goes from byte 2 to 1"}},
		{"short bounds", func(ctx context.Context, g Group) error {
			return g.AllGather(make([]byte, 3), []int{0, 1, 2, 4}).Wait(ctx)
		}, []string{"rank 1 of 3: all-gather: bounds are"}},
		{"root", func(ctx context.Context, g Group) error { return g.Broadcast(3, nil).Wait(ctx) }, []string{"rank 1 of 3: broadcast: the root is rank 3"}},
	} {
		errs := together(t, 3, func(ctx context.Context, g Group) error {
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
		if e := new(Aborted); c.name == "abort" && (!errors.As(errs[0], &e) || e.Rank != 1 || e.Code != 3) {
			t.Errorf("abort: %+v", e)
		}
	}
}

// Who does not want to wait any longer may come back.
func TestWaitAgain(t *testing.T) {
	gs := Local(2)
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
