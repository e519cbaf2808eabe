// Package collectivetest has what every collective.Group must do.
package collectivetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/structuredffn/sffn/runtime/collective"
	"github.com/structuredffn/sffn/runtime/memory"
)

// value is what rank `from` sends to rank `to` as entry i.
func value(from, to, i int) float32 { return float32(1000*from+100*to+i%1_000_003) + 0.5 }

// bounds cuts what n ranks share into parts of other lengths, the least of them a
// number of times `each`: 0 for empty ones.
func bounds(n, each, least int) []int {
	b := make([]int, n+1)
	for q := range n {
		b[q+1] = b[q] + each*(least+(q+1)%3)
	}
	return b
}

// Moves has every operation go on at once, all parts of a few times `each` entries,
// and looks at what came of them. Memory is the arena's.
func Moves(ctx context.Context, g collective.Group, arena *memory.Arena, each int) error {
	me, n := g.Rank(), g.Size()
	send, recv := make([][]float32, n), make([][]float32, n)
	for q := range n {
		size := each * ((me + q) % 3)
		send[q], recv[q] = arena.Floats(size), arena.Floats(size)
		for i := range send[q] {
			send[q][i] = value(me, q, i)
		}
	}
	var gathers []collective.Pending
	var bs [2][]int
	var all [2][]float32
	for least := range all {
		b := bounds(n, each, least)
		x := arena.Floats(b[n])
		for i := b[me]; i < b[me+1]; i++ {
			x[i] = value(me, 9, i)
		}
		bs[least], all[least] = b, x
		gathers = append(gathers, collective.AllGather(g, x, b))
	}
	root := n / 2
	word := arena.Bytes(each)
	if me == root {
		copy(word, bytes.Repeat([]byte("content "), each/8+1))
	}
	for _, p := range append(gathers, collective.Exchange(g, send, recv), g.Broadcast(root, word), g.Barrier()) {
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
				return fmt.Errorf("exchange of %d: entry %d of rank %d is %v", each, i, q, v)
			}
		}
		for least, b := range bs {
			for i := b[q]; i < b[q+1]; i++ {
				if v := all[least][i]; v != value(q, 9, i) {
					return fmt.Errorf("all-gather of %d: entry %d of rank %d is %v", each, i, q, v)
				}
			}
		}
	}
	if !bytes.Equal(word, bytes.Repeat([]byte("content "), each/8+1)[:each]) {
		return fmt.Errorf("broadcast of %d gives %.20q", each, word)
	}
	return nil
}

// Small moves values and texts of every length on the heap, in many operations.
func Small(ctx context.Context, g collective.Group) error {
	me, n := g.Rank(), g.Size()
	for round := range 200 {
		ranks, err := collective.All(ctx, g, int32(me), int32(-round))
		if err != nil {
			return err
		}
		for q := range n {
			if ranks[2*q] != int32(q) || ranks[2*q+1] != int32(-round) {
				return fmt.Errorf("round %d: all values are %v", round, ranks)
			}
		}
	}
	for _, length := range []int{0, 1, 1000, collective.Small/n + 5} {
		texts, err := collective.AllBytes(ctx, g, slices.Repeat([]byte{byte(me + 1)}, length*(me%2)+me/2))
		if err != nil {
			return err
		}
		for q := range n {
			if !slices.Equal(texts[q], slices.Repeat([]byte{byte(q + 1)}, length*(q%2)+q/2)) {
				return fmt.Errorf("%d bytes: rank %d's are %d, of which the first are %.20v", length, q, len(texts[q]), texts[q])
			}
		}
	}
	return nil
}
