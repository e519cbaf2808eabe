package gpu

import (
	"fmt"
	"math/bits"
)

// What the launches of attention depend on: the number of sequences of a batch
// and the tokens of each, or of the longest where their numbers differ. Tokens
// are all rows.
const (
	Sequences Count = "sequences"
	SeqLen    Count = "seq"
)

// AttendPass is one of the kernels of causal attention,
//
//	P = softmax(scale Q K^T), O = P V
//	dS = P*(dO V^T - rowsum(dO*O))*scale, dQ = dS K, dK = dS^T Q, dV = P^T dO
//
// where forward leaves lse [tokens, heads], the logarithms to base 2 of the
// rows' sums, and Delta the sums over dO*O. Query heads share key heads in groups,
// whose gradients are summed in order.
type AttendPass string

// The passes.
const (
	AttendForward AttendPass = "forward"
	AttendDelta   AttendPass = "delta"
	AttendQueries AttendPass = "queries"
	AttendKeys    AttendPass = "keys"
)

// Attention is one kernel of attention. With Cache, which forward has, keys
// and values are those of a cache, and the rows of a launch continue sequences.
// Tensor cores run tiles of 64 rows of one head against tiles of the other side;
// Rows kernels run one row of one head, its sum in parts over a block's warps: for
// few rows, and for heads that tensor cores do not fit.
type Attention struct {
	Heads, KVHeads, HeadDim int
	Pass                    AttendPass
	Cache, Rows             bool
}

// widestHead is the largest head size of tensor cores.
const widestHead = 128

// Matrix reports whether tensor cores run heads of this size.
func (a Attention) Matrix() bool {
	return a.HeadDim >= mmaK && a.HeadDim <= widestHead && bits.OnesCount(uint(a.HeadDim)) == 1
}

// Group is the number of query heads that share a key head, and Width that of
// the entries of a row of qkv.
func (a Attention) Group() int { return a.Heads / a.KVHeads }
func (a Attention) Width() int { return (a.Heads + 2*a.KVHeads) * a.HeadDim }
func (a Attention) Out() int   { return a.Heads * a.HeadDim }

// attendRows are the rows of a tile on tensor cores, 16 for each of its warps, and
// attendStages the stages that tiles of the other side pass through.
const (
	attendRows   = 64
	attendStages = 2
)

// wideHead is the largest head size for which a backward pass has registers and
// shared memory enough for high tiles.
const wideHead = 64

// Other is the number of rows of a tile of the other side.
func (a Attention) Other() int {
	if a.Pass != AttendForward && a.HeadDim > wideHead {
		return mmaK
	}
	return attendRows
}

// TileRows is attendRows, Chunks the 16-byte pieces of a row, and Shift what
// permutes them so that the eight rows of a fragment lie in different banks.
func (a Attention) TileRows() int { return attendRows }
func (a Attention) Chunks() int   { return a.HeadDim / chunk }
func (a Attention) Shift() string {
	switch a.Chunks() {
	case 2:
		return "row >> 2 & 1"
	case 4:
		return "row >> 1 & 3"
	}
	return "row & 7"
}

// TileBytes is a tile of attendRows, StageBytes the two tiles of a stage of the
// other side, and Fixed the tiles that stay.
func (a Attention) TileBytes() int  { return 2 * attendRows * a.HeadDim }
func (a Attention) StageBytes() int { return 4 * a.Other() * a.HeadDim }
func (a Attention) Fixed() int {
	if a.Pass == AttendForward {
		return 1
	}
	return 2
}

// SumsBytes is the room for the numbers of a stage's queries: lse and delta.
func (a Attention) SumsBytes() int {
	if a.Pass == AttendKeys {
		return 8 * a.Other()
	}
	return 0
}

// Lanes of a warp share a row of the other side, Each entries a lane, and Keys
// such rows are in a warp at once.
func (a Attention) Lanes() int {
	l := 1
	for a.HeadDim%(4*l) == 0 && a.HeadDim/(2*l) >= chunk && l < 32 {
		l *= 2
	}
	return l
}
func (a Attention) Each() int { return a.HeadDim / a.Lanes() }
func (a Attention) Keys() int { return 32 / a.Lanes() }

// attendThreads are those of a block that handles a row: in the end each has two
// entries of its head.
const attendThreads = 256

// Threads of a block, and its warps.
func (a Attention) Threads() int {
	if a.tiled() {
		return 2 * attendRows
	}
	return attendThreads
}
func (a Attention) Warps() int { return a.Threads() / 32 }

// Sums is the number of vectors that a Rows kernel sums.
func (a Attention) Sums() int {
	if a.Pass == AttendKeys {
		return 2
	}
	return 1
}

// tiled reports whether the kernel is one of tiles on tensor cores.
func (a Attention) tiled() bool { return !a.Rows && a.Pass != AttendDelta }

// base is the name but for the row:
//
//	attend_<pass>[_cache][_rows]_<query heads>x<key heads>x<head size>[_<rows>x<rows of the other side>_s<stages>]
//
// with what tiles have on tensor cores.
func (a Attention) base() string {
	name := "attend_" + string(a.Pass)
	if a.Cache {
		name += "_cache"
	}
	if a.Rows {
		name += "_rows"
	}
	name = fmt.Sprintf("%s_%dx%dx%d", name, a.Heads, a.KVHeads, a.HeadDim)
	if a.tiled() {
		name += fmt.Sprintf("_%dx%d_s%d", attendRows, a.Other(), attendStages)
	}
	return name
}

// Kernel is the row of the kernel table; its name ends with _r<row>.
func (a Attention) Kernel() Kernel { return a.row().named(a.base()) }

func (a Attention) row() Kernel {
	k := Kernel{File: "attention", Plan: a, Threads: a.Threads(), BlocksPerSM: 2}
	array := func(name string, t Type, access Access, n Extent) Param {
		return Param{Name: name, Type: t, Access: access, Len: n}
	}
	qkv := array("qkv", ArrayBF16, Read, tokenRows(a.Width()))
	out := array("o", ArrayBF16, Read, tokenRows(a.Out()))
	lse := array("lse", ArrayFloat32, Read, tokenRows(a.Heads))
	dout, delta, dqkv := out, lse, qkv
	dout.Name, delta.Name, dqkv.Name, dqkv.Access = "do", "delta", "dqkv", Updated
	seq := Param{Name: "seq", Type: Uint32, Count: SeqLen}
	scale := Param{Name: "scale", Type: Float32}
	heads := a.Heads
	switch a.Pass {
	case AttendForward:
		out.Access, lse.Access, lse.Optional = Written, Written, true
		k.Params = []Param{qkv, out, lse}
		if a.Cache {
			cache := array("keys", ArrayBF16, Read, Extent{N: a.KVHeads * a.HeadDim, Of: Slots})
			values := cache
			values.Name = "values"
			k.Params = []Param{qkv, out, cache, values}
			if a.Rows {
				k.Params = append(k.Params, array("positions", ArrayInt32, Read, tokenRows(1)), array("seqs", ArrayInt32, Read, tokenRows(1)))
			} else {
				// Of each sequence: its number in the cache, the position and the row
				// of its first new token, and how many there are.
				k.Params = append(k.Params, array("spans", ArrayInt32, Read, Extent{N: 4, Of: Sequences}))
			}
			seq = Param{Name: "capacity", Type: Uint32}
		}
	case AttendDelta:
		delta.Access = Written
		k.Template = "delta"
		k.Grid = [3]Extent{tokenRows(1), fixed(1), fixed(1)}
		k.Params = []Param{dout, out, delta}
		k.Counts.OtherStores = 1
		k.BlocksPerSM = 4
		return k
	case AttendQueries:
		k.Params = []Param{qkv, dout, lse, delta, dqkv}
	case AttendKeys:
		k.Params = []Param{qkv, dout, lse, delta, dqkv}
		heads = a.KVHeads
	}
	k.Params = append(k.Params, seq, scale)
	if a.Rows {
		k.Template = "attend_rows"
		k.Grid = [3]Extent{tokenRows(1), fixed(heads), fixed(1)}
		k.SharedBytes = up(4*a.Warps()*(a.Sums()*a.HeadDim+2), 16)
		k.Counts.OtherStores = a.Sums()
		if a.Pass == AttendForward && !a.Cache {
			k.Counts.OtherStores++
		}
		return k
	}
	k.Template = "attend"
	k.Grid = [3]Extent{{N: 1, Of: SeqLen, Each: attendRows}, fixed(heads), {N: 1, Of: Sequences}}
	k.SharedBytes = a.Fixed()*a.TileBytes() + attendStages*(a.StageBytes()+a.SumsBytes())
	depth, other := a.HeadDim/mmaK, a.Other()/mmaK
	scores := map[bool]int{true: 1, false: 2}[a.Pass == AttendForward]
	k.Counts.MMA = scores*depth*2*other + a.Sums()*other*2*depth
	k.Counts.LDMatrix = scores*depth*(1+other) + a.Sums()*other*depth
	each := a.Chunks() / 2 // copies a thread for a tile of attendRows
	k.Counts.Copies = a.Fixed()*each + attendStages*2*each*a.Other()/attendRows
	k.Counts.Stores = a.Sums() * each
	if a.Pass == AttendForward && !a.Cache {
		k.Counts.OtherStores = 2
	}
	return k
}

// Attends are the kernels of a model's attention. Heads that tensor cores do
// not fit have Rows kernels for all of it; Decode is one, for few new tokens.
type Attends struct {
	Forward, Delta, Queries, Keys Kernel
	Prefill, Decode               Kernel
}

func newAttends(heads, kvHeads, size int) Attends {
	a := Attention{Heads: heads, KVHeads: kvHeads, HeadDim: size}
	a.Rows = !a.Matrix()
	kernel := func(p AttendPass, cache, rows bool) Kernel {
		b := a
		b.Pass, b.Cache, b.Rows = p, cache, rows
		return b.Kernel()
	}
	return Attends{
		Forward: kernel(AttendForward, false, a.Rows), Delta: kernel(AttendDelta, false, false),
		Queries: kernel(AttendQueries, false, a.Rows), Keys: kernel(AttendKeys, false, a.Rows),
		Prefill: kernel(AttendForward, true, a.Rows), Decode: kernel(AttendForward, true, true),
	}
}

// Kernels lists them.
func (a Attends) Kernels() []Kernel {
	return Unique([]Kernel{a.Forward, a.Delta, a.Queries, a.Keys, a.Prefill, a.Decode})
}
