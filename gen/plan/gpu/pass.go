package gpu

import (
	"fmt"
	"strings"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/runtime/cuda/table"
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

// Norm is the plan of a layer or RMS norm over rows.
type Norm struct{ table.Norm }

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

// SumBytes is the shared memory of one pair of sums.
func (n Norm) SumBytes() int { return sumBytes(2, n.Threads()) }

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

// Kernel is the norm's row of the kernel table:
// norm[_backward]_<kind>_<width>[_add[_b<blocks of y>]]_r<row>.
func (n Norm) Kernel() Kernel { return n.row().named(n.base()) }

func (n Norm) row() Kernel {
	n.Rows = NormRows
	k := Kernel{Kernel: table.Kernel{Role: table.RoleNorm, File: passFile, Shape: table.Shape{Norm: &n.Norm}, Threads: n.Threads()}, Plan: n, BlocksPerSM: 1024 / n.Threads() / 2}
	row := tokenRows(n.Hidden)
	stats := tokenRows(n.Stats())
	weight := table.Param{Name: "w", Type: table.ArrayFloat32, Access: table.Read, Len: fixed(n.Hidden)}
	x := table.Param{Name: "x", Type: table.ArrayFloat32, Access: table.Read, Len: row}
	if !n.Backward {
		k.SharedBytes = n.SumBytes()
		k.Grid = [3]table.Extent{tokenRows(1), fixed(1), fixed(1)}
		k.Params = append(k.Params, x)
		k.Counts = Instructions{Stores: n.Shares() * n.Piece() / chunk, OtherStores: 1}
		if n.Add {
			k.Params = append(k.Params, table.Param{Name: "y", Type: table.ArrayBF16, Access: table.Read, Len: row},
				table.Param{Name: "s", Type: table.ArrayFloat32, Access: table.Written, Len: row})
			k.Counts.Stores += n.Shares() * n.Piece() / quad
		}
		k.Params = append(k.Params, weight)
		if !n.RMS {
			k.Params = append(k.Params, table.Param{Name: "b", Type: table.ArrayFloat32, Access: table.Read, Len: fixed(n.Hidden)})
		}
		k.Params = append(k.Params, table.Param{Name: "out", Type: table.ArrayBF16, Access: table.Written, Len: row},
			table.Param{Name: "stats", Type: table.ArrayFloat32, Access: table.Written, Len: stats, Optional: true},
			table.Param{Name: "eps", Type: table.Float32})
		return k
	}
	k.SharedBytes = 2 * n.SumBytes()
	k.Grid = [3]table.Extent{{N: 1, Of: table.Tokens, Each: NormRows}, fixed(1), fixed(1)}
	k.Counts.Stores = n.Shares() * n.Piece() / quad * (1 + n.Stats())
	k.Params = []table.Param{
		{Name: "dout", Type: table.ArrayBF16, Access: table.Read, Len: row},
		{Name: "s", Type: table.ArrayFloat32, Access: table.Read, Len: row},
		{Name: "stats", Type: table.ArrayFloat32, Access: table.Read, Len: stats}, weight,
		{Name: "dx", Type: table.ArrayFloat32, Access: table.Read, Len: row, Optional: true},
		{Name: "ds", Type: table.ArrayFloat32, Access: table.Written, Len: row},
	}
	if n.Add {
		k.Params = append(k.Params, table.Param{Name: "dy", Type: table.ArrayBF16, Access: table.Written, Len: row})
		if stores := n.Shares() * n.Blocks; n.Run() == chunk {
			k.Counts.Stores += stores
		} else {
			k.Counts.OtherStores += stores
		}
	}
	k.Params = append(k.Params, table.Param{Name: "sums", Type: table.ArrayFloat32, Access: table.Written, Len: table.Extent{N: n.Width(), Of: table.Tokens, Each: NormRows}},
		table.Param{Name: "tokens", Type: table.Uint32, Count: table.Tokens})
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

// Embed is the plan of the sums of embeddings, or of their gradients.
type Embed struct {
	table.Embed
	Threads, Each, Quads int
}

func newEmbed(hidden, vocab, positions int, backward bool) Embed {
	q := hidden / quad
	t := rowThreads(q)
	return Embed{Embed: table.Embed{Hidden: hidden, Positions: positions, Vocab: vocab, Backward: backward}, Threads: t, Each: shares(q, t), Quads: q}
}

// Guarded kernels have threads without a piece.
func (e Embed) Guarded() bool { return e.Each*e.Threads != e.Quads }

// Kernel is the row of the kernel table: embed_<width>[_positions]_r<row> or
// embed_backward_<width>_r<row>.
func (e Embed) Kernel() Kernel {
	shape := table.Embed{Hidden: e.Hidden, Backward: e.Backward} // back, tables may have any rows
	if !e.Backward {
		shape.Vocab, shape.Positions = e.Vocab, max(0, e.Positions)
	}
	k := Kernel{Kernel: table.Kernel{Role: table.RoleEmbed, File: passFile, Shape: table.Shape{Embed: &shape}, Threads: e.Threads}, Plan: e, BlocksPerSM: 1024 / e.Threads, Counts: Instructions{Stores: e.Each}}
	ids := func(name string) table.Param {
		return table.Param{Name: name, Type: table.ArrayInt32, Access: table.Read, Len: tokenRows(1)}
	}
	x := table.Param{Name: "x", Type: table.ArrayFloat32, Access: table.Written, Len: tokenRows(e.Hidden)}
	if e.Backward {
		k.Grid = [3]table.Extent{{N: 1, Of: table.TableRows}, fixed(1), fixed(1)}
		x.Access = table.Read
		x.Name = "dx"
		k.Params = []table.Param{x, ids("order"),
			{Name: "starts", Type: table.ArrayInt32, Access: table.Read, Len: table.Extent{N: 1, Of: table.TableRows, Plus: 1}},
			{Name: "grad", Type: table.ArrayFloat32, Access: table.Updated, Len: table.Extent{N: e.Hidden, Of: table.TableRows}},
			{Name: "accumulate", Type: table.Uint32}}
		return k.named(fmt.Sprintf("embed_backward_%d", e.Hidden))
	}
	k.Grid = [3]table.Extent{tokenRows(1), fixed(1), fixed(1)}
	name := fmt.Sprintf("embed_%d", e.Hidden)
	k.Params = []table.Param{ids("ids"), {Name: "table", Type: table.ArrayFloat32, Access: table.Read, Len: fixed(e.Vocab * e.Hidden)}}
	if e.Positions > 0 {
		name += "_positions"
		k.Params = append(k.Params, ids("positions"), table.Param{Name: "places", Type: table.ArrayFloat32, Access: table.Read, Len: fixed(e.Positions * e.Hidden)})
	}
	k.Params = append(k.Params, x)
	return k.named(name)
}

// Rotate is the plan of the rotation of queries and keys, in place or to the cache.
type Rotate struct{ table.Rotate }

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
	if r.Turn {
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
	if r.Turn {
		b = append(b, "rotate")
	}
	if r.Cache {
		b = append(b, "cache")
	}
	k := Kernel{Kernel: table.Kernel{Role: table.RoleRotate, File: passFile, Shape: table.Shape{Rotate: &r.Rotate}, Threads: r.Threads(),
		Grid: [3]table.Extent{tokenRows(1), fixed(1), fixed(1)}}, Plan: r, BlocksPerSM: 1024 / r.Threads()}
	if n := 2; r.Wide() {
		k.Counts.Stores = n
	} else {
		k.Counts.OtherStores = r.HeadDim / 2 // words of a head
	}
	qkv := table.Param{Name: "qkv", Type: table.ArrayBF16, Access: table.Updated, Len: tokenRows(r.Width())}
	if !r.Turn {
		qkv.Access = table.Read
	}
	k.Params = []table.Param{qkv, {Name: "positions", Type: table.ArrayInt32, Access: table.Read, Len: tokenRows(1)}}
	if r.Turn {
		half := table.Extent{N: r.HeadDim / 2, Of: table.Positions}
		k.Params = append(k.Params, table.Param{Name: "cos", Type: table.ArrayFloat32, Access: table.Read, Len: half},
			table.Param{Name: "sin", Type: table.ArrayFloat32, Access: table.Read, Len: half},
			table.Param{Name: "sign", Type: table.Float32})
	}
	if r.Cache {
		c := table.Param{Type: table.ArrayBF16, Access: table.Updated, Len: table.Extent{N: r.KVHeads * r.HeadDim, Of: table.Slots}}
		keys, values := c, c
		keys.Name, values.Name = "keys", "values"
		k.Params = append(k.Params, table.Param{Name: "seqs", Type: table.ArrayInt32, Access: table.Read, Len: tokenRows(1)}, keys, values,
			table.Param{Name: "capacity", Type: table.Uint32})
	}
	return k.named(fmt.Sprintf("%s_%dx%dx%d", strings.Join(b, "_"), r.Heads, r.KVHeads, r.HeadDim))
}

// Loss is the plan of the cross entropy of rows of logits.
type Loss struct{ table.Loss }

// Threads and Warps of a block; each thread handles eight neighbours at once.
func (l Loss) Threads() int { return rowThreads(l.Pitch / chunk) }
func (l Loss) Warps() int   { return l.Threads() / 32 }

// SumBytes is the shared memory of one sum.
func (l Loss) SumBytes() int { return sumBytes(1, l.Threads()) }

// Kernel is the row of the kernel table: loss_<vocabulary>_r<row>.
func (l Loss) Kernel() Kernel {
	return Kernel{Plan: l, BlocksPerSM: 1024 / l.Threads(), Counts: Instructions{Stores: 1, OtherStores: 1}, Kernel: table.Kernel{
		Role: table.RoleLoss, File: passFile, Shape: table.Shape{Loss: &l.Loss},
		Threads: l.Threads(), SharedBytes: 2 * l.SumBytes(),
		Grid: [3]table.Extent{tokenRows(1), fixed(1), fixed(1)},
		Params: []table.Param{
			{Name: "logits", Type: table.ArrayBF16, Access: table.Updated, Len: tokenRows(l.Pitch)},
			{Name: "targets", Type: table.ArrayInt32, Access: table.Read, Len: tokenRows(1)},
			{Name: "losses", Type: table.ArrayFloat32, Access: table.Written, Len: tokenRows(1)},
			{Name: "scale", Type: table.Float32},
			{Name: "gradient", Type: table.Uint32},
		}}}.named(fmt.Sprintf("loss_%d", l.Vocab))
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

// Warps are those of a block, for the template, Each the gradients of one partial
// sum, and Loops the turns of its threads.
func (Update) Warps() int { return passThreads / 32 }
func (Update) Each() int  { return SquaresEach }
func (Update) Loops() int { return SquaresEach / passThreads / quad }

// Kernel is the row of the kernel table: <update>_r<row>.
func (u Update) Kernel() Kernel {
	k := Kernel{Kernel: table.Kernel{Role: table.Role(u), File: passFile, Shape: table.Shape{Update: &table.Update{}}, Threads: passThreads,
		Grid: [3]table.Extent{{N: 1, Of: table.Entries, Each: chunk * passThreads}, fixed(1), fixed(1)}}, Plan: u, BlocksPerSM: 4}
	all := table.Extent{N: 1, Of: table.Entries}
	entries := table.Param{Name: "entries", Type: table.Uint32, Count: table.Entries}
	numbers := func(names ...string) (ps []table.Param) {
		for _, n := range names {
			ps = append(ps, table.Param{Name: n, Type: table.Float32})
		}
		return ps
	}
	switch u {
	case AdamW:
		k.Params = []table.Param{array("w", table.ArrayFloat32, table.Updated, all), array("m", table.ArrayFloat32, table.Updated, all), array("v", table.ArrayFloat32, table.Updated, all),
			array("grad", table.ArrayFloat32, table.Read, all), array("pack", table.ArrayBF16, table.Updated, all), array("norm", table.ArrayFloat32, table.Read, fixed(2)), entries}
		k.Params = append(k.Params, numbers("keep", "beta1", "rest1", "beta2", "rest2", "rate", "scale2", "eps")...)
		k.Counts.Stores = 7
	case PackBF16:
		k.Params = []table.Param{array("w", table.ArrayFloat32, table.Read, all), array("pack", table.ArrayBF16, table.Written, all), entries}
		k.Counts.Stores = 1
	case SumSquares:
		k.Grid[0].Each, k.Shape.Update.Each = SquaresEach, SquaresEach
		k.SharedBytes = sumBytes(1, k.Threads)
		k.Params = []table.Param{array("grad", table.ArrayFloat32, table.Read, all), array("sums", table.ArrayFloat32, table.Written, k.Grid[0]), entries}
		k.Counts.OtherStores = 1
	case ClipNorm:
		k.Grid[0] = fixed(1)
		k.SharedBytes = sumBytes(1, k.Threads)
		k.Params = append([]table.Param{array("sums", table.ArrayFloat32, table.Read, all), array("norm", table.ArrayFloat32, table.Written, fixed(2)), entries}, numbers("limit")...)
		k.Counts.OtherStores = 1
	}
	return k.named(string(u))
}
