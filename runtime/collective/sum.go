package collective

import (
	"context"
	"math/bits"
	"sync"

	"github.com/structuredffn/sffn/runtime/vec"
)

// sumBlock is how many entries are summed at a time; all partial sums of a block
// stay in the nearest cache.
const sumBlock = 1024

// scratch has the partial sums of a block, one for each level of the tree.
var scratch = sync.Pool{New: func() any { return new([][]float32) }}

// Sum writes to dst [n] the sums of parts[q][from:from+n] over all q, entry by
// entry, as a fixed binary tree: of k parts, the first ones up to the largest power
// of two below k, plus the others. So 2^j parts that lie together, the first of
// which is a multiple of 2^j, may have been summed before, and the bits are the
// same. dst may be that stretch of one of the parts.
func Sum(v *vec.Table, dst []float32, parts [][]float32, from int) {
	levels := scratch.Get().(*[][]float32)
	defer scratch.Put(levels)
	for len(*levels) <= bits.Len(uint(len(parts))) {
		*levels = append(*levels, make([]float32, sumBlock))
	}
	for i := 0; i < len(dst); i += sumBlock {
		n := min(sumBlock, len(dst)-i)
		tree(v, *levels, parts, from+i, n)
		copy(dst[i:i+n], (*levels)[0])
	}
}

// tree leaves the sums of n entries in levels[0].
func tree(v *vec.Table, levels, parts [][]float32, from, n int) {
	if len(parts) == 1 {
		copy(levels[0][:n], parts[0][from:from+n])
		return
	}
	half := 1 << (bits.Len(uint(len(parts)-1)) - 1)
	tree(v, levels, parts[:half], from, n)
	if rest := parts[half:]; len(rest) == 1 {
		v.Add(levels[0][:n], rest[0][from:from+n])
	} else {
		tree(v, levels[1:], rest, from, n)
		v.Add(levels[0][:n], levels[1][:n])
	}
}

// Collect begins to bring together what all ranks have of this rank's part of data,
// which is from bounds[rank] to bounds[rank+1]; the others get theirs. parts[q] is
// that of rank q once p is done, and its own that of data; the others lie in room,
// which holds (Size-1) times the part. Sum makes the reduce-scatter of it, in
// stretches by as many threads as there are.
func Collect(g Group, data []float32, bounds []int, room []float32) (parts [][]float32, p Pending) {
	rank, size := g.Rank(), g.Size()
	send, parts := make([][]float32, size), make([][]float32, size)
	own := bounds[rank+1] - bounds[rank]
	for q := range size {
		send[q] = data[bounds[q]:bounds[q+1]]
		if q == rank {
			parts[q] = send[q]
			continue
		}
		parts[q], room = room[:own:own], room[own:]
	}
	return parts, Exchange(g, send, parts)
}

// ReduceScatter waits until this rank's part of data, from bounds[rank] to
// bounds[rank+1], is the sum over all ranks, as Sum adds; the other parts stay as
// they are. room holds (Size-1) times the part.
func ReduceScatter(ctx context.Context, g Group, v *vec.Table, data []float32, bounds []int, room []float32) error {
	parts, p := Collect(g, data, bounds, room)
	if err := p.Wait(ctx); err != nil {
		return err
	}
	Sum(v, parts[g.Rank()], parts, 0)
	return nil
}
