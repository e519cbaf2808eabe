package gpu

import (
	"fmt"
	"strings"

	"github.com/structuredffn/sffn/gen/spec"
)

// What launches of the kernels around the products depend on, beside Tokens.
const (
	// Entries of an array that is handled one by one: parameters, gradients.
	Entries Count = "entries"
	// Rows of a table or of a matrix that is summed over its rows.
	TableRows Count = "rows"
	// Positions of the rotary table.
	Positions Count = "positions"
)

// The file of the kernels that pass once over their data.
const passFile = "passes"

// quad is the number of float32 that one 16-byte access moves.
const quad = 4

// passThreads is the largest block of a kernel that passes over rows.
const passThreads = 256

// rowThreads is the size of a block that handles n pieces of a row.
func rowThreads(n int) int { return up(min(n, passThreads), 32) }

// shares is how many of n pieces each of the threads handles at most.
func shares(n, threads int) int { return up(n, threads) / threads }

// sumBytes is the shared memory of sums of so many floats over the block.
func sumBytes(floats, threads int) int { return up(4*floats*threads/32, 16) }

// Norm is a layer or RMS norm over rows of Hidden entries, forward
//
//	s = x + y, n = (s - mean)*rstd, out = n*w + b
//
// and backward, with g = dout*w,
//
//	ds = dx + rstd*(g - mean(g) - n*mean(g*n)), dw = sum dout*n, db = sum dout
//
// where y, the output of the sublayer before, is there with Add, and RMS norms
// have neither mean nor b. Chains that end with a shuffle store y block by block:
// Blocks of them, one otherwise. Backward leaves ds, and with Add in bf16 and y's
// order for that sublayer's backward pass; sums over rows in parts of NormRows.
type Norm struct {
	Hidden, Blocks     int
	RMS, Add, Backward bool
}

// NormRows are the rows of one partial sum of a norm's parameter gradients.
const NormRows = 16

// Run is the number of neighbours that a thread moves from one block of y, and
// Piece that of neighbours in a row that it handles: 16 bytes of bf16 or more.
func (n Norm) Run() int {
	if n.Blocks == 2 || n.Blocks == 4 {
		return chunk / n.Blocks
	}
	return chunk
}
func (n Norm) Piece() int   { return n.Blocks * n.Run() }
func (n Norm) Pieces() int  { return n.Hidden / n.Piece() }
func (n Norm) Threads() int { return rowThreads(n.Pieces()) }
func (n Norm) Warps() int   { return n.Threads() / 32 }
func (n Norm) Shares() int  { return shares(n.Pieces(), n.Threads()) }

// Guarded kernels have threads without a piece.
func (n Norm) Guarded() bool { return n.Shares()*n.Threads() != n.Pieces() }

// Width of a row of partial sums: dw, and db of layer norms.
func (n Norm) Width() int {
	if n.RMS {
		return n.Hidden
	}
	return 2 * n.Hidden
}

// Rows of one partial sum.
func (n Norm) Rows() int { return NormRows }

// Stats are the numbers that a row leaves for its backward pass.
func (n Norm) Stats() int {
	if n.RMS {
		return 1
	}
	return 2
}

// SumBytes is the shared memory of one pair of sums.
func (n Norm) SumBytes() int { return sumBytes(2, n.Threads()) }

// Name of the kernel, that of its row.
func (n Norm) Name() string { return n.Kernel().Name }

// base is the name but for the row.
func (n Norm) base() string {
	var b strings.Builder
	b.WriteString("norm")
	if n.Backward {
		b.WriteString("_backward")
	}
	kind := spec.LayerNorm
	if n.RMS {
		kind = spec.RMSNorm
	}
	fmt.Fprintf(&b, "_%s_%d", kind, n.Hidden)
	if n.Add {
		b.WriteString("_add")
		if n.Blocks > 1 {
			fmt.Fprintf(&b, "_b%d", n.Blocks)
		}
	}
	return b.String()
}

// BlocksPerSM is how many blocks share a multiprocessor.
func (n Norm) BlocksPerSM() int { return 1024 / n.Threads() / 2 }

// Kernel is the norm's row of the kernel table:
// norm[_backward]_<kind>_<width>[_add[_b<blocks of y>]]_r<row>.
func (n Norm) Kernel() Kernel { return n.row().named(n.base()) }

func (n Norm) row() Kernel {
	k := Kernel{Template: "norm", File: passFile, Plan: n, Threads: n.Threads(), BlocksPerSM: n.BlocksPerSM()}
	row := tokenRows(n.Hidden)
	stats := tokenRows(n.Stats())
	weight := Param{Name: "w", Type: ArrayFloat32, Access: Read, Len: fixed(n.Hidden)}
	x := Param{Name: "x", Type: ArrayFloat32, Access: Read, Len: row}
	if !n.Backward {
		k.SharedBytes = n.SumBytes()
		k.Grid = [3]Extent{tokenRows(1), fixed(1), fixed(1)}
		k.Params = append(k.Params, x)
		k.Counts = Instructions{Stores: n.Shares() * n.Piece() / chunk, OtherStores: 1}
		if n.Add {
			k.Params = append(k.Params, Param{Name: "y", Type: ArrayBF16, Access: Read, Len: row},
				Param{Name: "s", Type: ArrayFloat32, Access: Written, Len: row})
			k.Counts.Stores += n.Shares() * n.Piece() / quad
		}
		k.Params = append(k.Params, weight)
		if !n.RMS {
			k.Params = append(k.Params, Param{Name: "b", Type: ArrayFloat32, Access: Read, Len: fixed(n.Hidden)})
		}
		k.Params = append(k.Params, Param{Name: "out", Type: ArrayBF16, Access: Written, Len: row},
			Param{Name: "stats", Type: ArrayFloat32, Access: Written, Len: stats, Optional: true})
		return k
	}
	k.SharedBytes = 2 * n.SumBytes()
	k.Grid = [3]Extent{{N: 1, Of: Tokens, Each: NormRows}, fixed(1), fixed(1)}
	k.Counts.Stores = n.Shares() * n.Piece() / quad * (1 + n.Stats())
	k.Params = []Param{
		{Name: "dout", Type: ArrayBF16, Access: Read, Len: row},
		{Name: "s", Type: ArrayFloat32, Access: Read, Len: row},
		{Name: "stats", Type: ArrayFloat32, Access: Read, Len: stats}, weight,
		{Name: "dx", Type: ArrayFloat32, Access: Read, Len: row, Optional: true},
		{Name: "ds", Type: ArrayFloat32, Access: Written, Len: row},
	}
	if n.Add {
		k.Params = append(k.Params, Param{Name: "dy", Type: ArrayBF16, Access: Written, Len: row})
		if stores := n.Shares() * n.Blocks; n.Run() == chunk {
			k.Counts.Stores += stores
		} else {
			k.Counts.OtherStores += stores
		}
	}
	k.Params = append(k.Params, Param{Name: "sums", Type: ArrayFloat32, Access: Written, Len: Extent{N: n.Width(), Of: Tokens, Each: NormRows}},
		Param{Name: "tokens", Type: Uint32, Count: Tokens})
	return k
}

// interleave is the number of blocks that an order of outputs has: entry i lies
// in block i mod blocks.
func interleave(places []int) (int, error) {
	blocks := 1
	if len(places) > 1 && places[1] != 1 {
		blocks = len(places) / places[1]
	}
	for i, p := range places {
		if len(places)%blocks != 0 || p != i%blocks*(len(places)/blocks)+i/blocks {
			return 0, fmt.Errorf("output %d is stored at %d: norms read rows in order or dealt out to blocks in turn", i, p)
		}
	}
	return blocks, nil
}

// Embed sums the embeddings of a token and, where they are learned, of its
// position; Backward adds the rows of the gradient to the rows of one table,
// in the order of the tokens: for each row of the table, order lists the tokens
// from starts[row] to starts[row+1].
type Embed struct {
	Hidden               int
	Positions            int // rows of the table of positions, 0 for none
	Vocab                int
	Backward             bool
	Threads, Each, Quads int
}

func newEmbed(hidden, vocab, positions int, backward bool) Embed {
	q := hidden / quad
	t := rowThreads(q)
	return Embed{Hidden: hidden, Positions: positions, Vocab: vocab, Backward: backward, Threads: t, Each: shares(q, t), Quads: q}
}

// Guarded kernels have threads without a piece.
func (e Embed) Guarded() bool { return e.Each*e.Threads != e.Quads }

// Kernel is the row of the kernel table: embed_<width>[_positions]_r<row> or
// embed_backward_<width>_r<row>.
func (e Embed) Kernel() Kernel {
	k := Kernel{Template: "embed", File: passFile, Plan: e, Threads: e.Threads, BlocksPerSM: 1024 / e.Threads, Counts: Instructions{Stores: e.Each}}
	ids := func(name string) Param {
		return Param{Name: name, Type: ArrayInt32, Access: Read, Len: tokenRows(1)}
	}
	x := Param{Name: "x", Type: ArrayFloat32, Access: Written, Len: tokenRows(e.Hidden)}
	if e.Backward {
		k.Grid = [3]Extent{{N: 1, Of: TableRows}, fixed(1), fixed(1)}
		x.Access = Read
		x.Name = "dx"
		k.Params = []Param{x, ids("order"),
			{Name: "starts", Type: ArrayInt32, Access: Read, Len: Extent{N: 1, Of: TableRows, Plus: 1}},
			{Name: "grad", Type: ArrayFloat32, Access: Updated, Len: Extent{N: e.Hidden, Of: TableRows}},
			{Name: "accumulate", Type: Uint32}}
		return k.named(fmt.Sprintf("embed_backward_%d", e.Hidden))
	}
	k.Grid = [3]Extent{tokenRows(1), fixed(1), fixed(1)}
	name := fmt.Sprintf("embed_%d", e.Hidden)
	k.Params = []Param{ids("ids"), {Name: "table", Type: ArrayFloat32, Access: Read, Len: fixed(e.Vocab * e.Hidden)}}
	if e.Positions > 0 {
		name += "_positions"
		k.Params = append(k.Params, ids("positions"), Param{Name: "places", Type: ArrayFloat32, Access: Read, Len: fixed(e.Positions * e.Hidden)})
	}
	k.Params = append(k.Params, x)
	return k.named(name)
}

// Rotate turns the queries and keys of rows of qkv to their positions, in
// place: entries j and j+HeadDim/2 of a head are a pair, (a, c) -> (a cos - c
// sin, c cos + a sin), and back where sign is -1. With Cache, keys and values
// go to the cache [sequence, head, capacity, HeadDim] instead, the keys turned
// where Rotate, and queries are turned in place.
type Rotate struct {
	Heads, KVHeads, HeadDim int
	Rotate, Cache           bool
}

// Width of a row of qkv.
func (r Rotate) Width() int { return (r.Heads + 2*r.KVHeads) * r.HeadDim }

// Run is the number of neighbours that a thread moves at once: eight where the
// halves of heads allow, or all of a half in words.
func (r Rotate) Run() int {
	if r.HeadDim%(2*chunk) == 0 {
		return chunk
	}
	return r.HeadDim / 2
}

// Wide kernels move 16 bytes at once.
func (r Rotate) Wide() bool { return r.Run() == chunk }

// HeadPieces, First and Pieces count what the threads share: pairs of pieces, a
// head has HeadPieces of them; heads before First are left alone.
func (r Rotate) HeadPieces() int { return r.HeadDim / 2 / r.Run() }
func (r Rotate) First() int {
	if r.Rotate {
		return 0
	}
	return r.Heads
}
func (r Rotate) Last() int {
	if r.Cache {
		return r.Heads + 2*r.KVHeads
	}
	return r.Heads + r.KVHeads
}
func (r Rotate) Pieces() int  { return (r.Last() - r.First()) * r.HeadPieces() }
func (r Rotate) Threads() int { return rowThreads(r.Pieces()) }

// Kernel is the row of the kernel table: [rotate][_cache]_<query heads>x<key
// heads>x<head size>_r<row>.
func (r Rotate) Kernel() Kernel {
	var b []string
	if r.Rotate {
		b = append(b, "rotate")
	}
	if r.Cache {
		b = append(b, "cache")
	}
	k := Kernel{Template: "rotate", File: passFile, Plan: r, Threads: r.Threads(), BlocksPerSM: 1024 / r.Threads(),
		Grid: [3]Extent{tokenRows(1), fixed(1), fixed(1)}}
	if n := 2; r.Wide() {
		k.Counts.Stores = n
	} else {
		k.Counts.OtherStores = r.HeadDim / 2 // words of a head
	}
	qkv := Param{Name: "qkv", Type: ArrayBF16, Access: Updated, Len: tokenRows(r.Width())}
	if !r.Rotate {
		qkv.Access = Read
	}
	k.Params = []Param{qkv, {Name: "positions", Type: ArrayInt32, Access: Read, Len: tokenRows(1)}}
	if r.Rotate {
		half := Extent{N: r.HeadDim / 2, Of: Positions}
		k.Params = append(k.Params, Param{Name: "cos", Type: ArrayFloat32, Access: Read, Len: half},
			Param{Name: "sin", Type: ArrayFloat32, Access: Read, Len: half},
			Param{Name: "sign", Type: Float32})
	}
	if r.Cache {
		c := Param{Type: ArrayBF16, Access: Updated, Len: Extent{N: r.KVHeads * r.HeadDim, Of: Slots}}
		keys, values := c, c
		keys.Name, values.Name = "keys", "values"
		k.Params = append(k.Params, Param{Name: "seqs", Type: ArrayInt32, Access: Read, Len: tokenRows(1)}, keys, values,
			Param{Name: "capacity", Type: Uint32})
	}
	return k.named(fmt.Sprintf("%s_%dx%dx%d", strings.Join(b, "_"), r.Heads, r.KVHeads, r.HeadDim))
}

// Slots are the positions of all sequences of a cache: sequences times
// capacity.
const Slots Count = "slots"

// Loss is the cross entropy of rows of logits, which it replaces by their
// gradient times scale where its number gradient is not 0:
//
//	loss = log(sum exp(logit)) - logit[target], dlogit = (softmax - [target])*scale
//
// Rows whose target is negative count for nothing. Columns from Vocab on are
// padding: their logits are ignored, and their gradient is 0.
type Loss struct{ Vocab, Pitch int }

// Threads and Warps of a block; each thread handles eight neighbours at once.
func (l Loss) Threads() int { return rowThreads(l.Pitch / chunk) }
func (l Loss) Warps() int   { return l.Threads() / 32 }

// SumBytes is the shared memory of one sum.
func (l Loss) SumBytes() int { return sumBytes(1, l.Threads()) }

// Kernel is the row of the kernel table: loss_<vocabulary>_r<row>.
func (l Loss) Kernel() Kernel {
	return Kernel{Template: "loss", File: passFile, Plan: l,
		Threads: l.Threads(), BlocksPerSM: 1024 / l.Threads(), SharedBytes: 2 * l.SumBytes(), Counts: Instructions{Stores: 1, OtherStores: 1},
		Grid: [3]Extent{tokenRows(1), fixed(1), fixed(1)},
		Params: []Param{
			{Name: "logits", Type: ArrayBF16, Access: Updated, Len: tokenRows(l.Pitch)},
			{Name: "targets", Type: ArrayInt32, Access: Read, Len: tokenRows(1)},
			{Name: "losses", Type: ArrayFloat32, Access: Written, Len: tokenRows(1)},
			{Name: "scale", Type: Float32},
			{Name: "gradient", Type: Uint32},
		}}.named(fmt.Sprintf("loss_%d", l.Vocab))
}

// Update is one of the kernels that pass over arrays of any length, of which
// every model has the same.
type Update string

// The kernels: AdamW updates parameters and moments and rounds the parameters
// to bf16,
//
//	g = g*clip; m = beta1*m + (1-beta1)*g; v = beta2*v + (1-beta2)*g*g
//	w = w*keep - m*rate/(sqrt(v*scale2) + eps)
//
// with keep 1 - lr*decay, rate lr/(1-beta1^t), scale2 1/(1-beta2^t), and clip from
// memory, where a number that is not finite leaves everything as it is;
// PackBF16 only rounds. SumSquares leaves one sum for each SquaresEach gradients;
// ClipNorm makes of them norm, the root of their sum, and clip,
// min(1, limit/(norm + 1e-6)), or norm where that is not finite.
const (
	AdamW      Update = "adamw"
	PackBF16   Update = "pack_bf16"
	SumSquares Update = "sum_squares"
	ClipNorm   Update = "clip_norm"
)

// Updates lists them.
var Updates = []Update{AdamW, ClipNorm, PackBF16, SumSquares}

// SquaresEach are the gradients of one partial sum of squares.
const SquaresEach = 8192

// Threads, Warps and BlocksPerSM are those of the kernel, for its template, Each
// the gradients of one partial sum, and Loops the turns of its threads.
func (Update) Threads() int     { return passThreads }
func (Update) Warps() int       { return passThreads / 32 }
func (Update) BlocksPerSM() int { return 4 }
func (Update) Each() int        { return SquaresEach }
func (Update) Loops() int       { return SquaresEach / passThreads / quad }

// Name of the kernel, that of its row.
func (u Update) Name() string { return u.Kernel().Name }

// Kernel is the row of the kernel table: <update>_r<row>.
func (u Update) Kernel() Kernel {
	k := Kernel{Template: string(u), File: passFile, Plan: u, Threads: u.Threads(), BlocksPerSM: u.BlocksPerSM(),
		Grid: [3]Extent{{N: 1, Of: Entries, Each: chunk * passThreads}, fixed(1), fixed(1)}}
	all := Extent{N: 1, Of: Entries}
	entries := Param{Name: "entries", Type: Uint32, Count: Entries}
	numbers := func(names ...string) (ps []Param) {
		for _, n := range names {
			ps = append(ps, Param{Name: n, Type: Float32})
		}
		return ps
	}
	array := func(name string, t Type, a Access, n Extent) Param {
		return Param{Name: name, Type: t, Access: a, Len: n}
	}
	switch u {
	case AdamW:
		k.Params = []Param{array("w", ArrayFloat32, Updated, all), array("m", ArrayFloat32, Updated, all), array("v", ArrayFloat32, Updated, all),
			array("grad", ArrayFloat32, Read, all), array("pack", ArrayBF16, Updated, all), array("norm", ArrayFloat32, Read, fixed(2)), entries}
		k.Params = append(k.Params, numbers("keep", "beta1", "rest1", "beta2", "rest2", "rate", "scale2", "eps")...)
		k.Counts.Stores = 7
	case PackBF16:
		k.Params = []Param{array("w", ArrayFloat32, Read, all), array("pack", ArrayBF16, Written, all), entries}
		k.Counts.Stores = 1
	case SumSquares:
		k.Grid[0].Each = SquaresEach
		k.SharedBytes = sumBytes(1, k.Threads)
		k.Params = []Param{array("grad", ArrayFloat32, Read, all), array("sums", ArrayFloat32, Written, k.Grid[0]), entries}
		k.Counts.OtherStores = 1
	case ClipNorm:
		k.Grid[0] = fixed(1)
		k.SharedBytes = sumBytes(1, k.Threads)
		k.Params = append([]Param{array("sums", ArrayFloat32, Read, all), array("norm", ArrayFloat32, Written, fixed(2)), entries}, numbers("limit")...)
		k.Counts.OtherStores = 1
	}
	return k.named(string(u))
}
