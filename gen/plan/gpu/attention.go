package gpu

import (
	"fmt"
	"math/bits"

	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// Attention is the plan of one kernel of attention. Tensor cores run tiles of 64
// rows of one head against tiles of the other side; Rows kernels run one row of one
// head, its sum in parts over a block's warps: for few rows, and for heads that
// tensor cores do not fit.
type Attention struct{ table.Attention }

// widestHead is the largest head size of tensor cores.
const widestHead = 128

// Matrix reports whether tensor cores run heads of this size.
func (a Attention) Matrix() bool {
	return a.HeadDim >= mmaK && a.HeadDim <= widestHead && bits.OnesCount(uint(a.HeadDim)) == 1
}

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
	if a.Pass != table.AttendForward && a.HeadDim > wideHead {
		return mmaK
	}
	return attendRows
}

// Chunks are the 16-byte pieces of a row, and Shift what
// permutes them so that the eight rows of a fragment lie in different banks.
func (a Attention) Chunks() int { return a.HeadDim / chunk }
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
	if a.Pass == table.AttendForward {
		return 1
	}
	return 2
}

// SumsBytes is the room for the numbers of a stage's queries: lse and delta.
func (a Attention) SumsBytes() int {
	if a.Pass == table.AttendKeys {
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
	if a.Pass == table.AttendKeys {
		return 2
	}
	return 1
}

// tiled reports whether the kernel is one of tiles on tensor cores.
func (a Attention) tiled() bool { return !a.Rows && a.Pass != table.AttendDelta }

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
	k := Kernel{Kernel: table.Kernel{File: "attention", Shape: table.Shape{Attention: &a.Attention}, Threads: a.Threads()}, Plan: a, BlocksPerSM: 2}
	if a.Rows && a.Matrix() { // tiles are for more
		k.Rows.To = 1
	}
	qkv := array("qkv", table.ArrayBF16, table.Read, tokenRows(a.Width()))
	out := array("o", table.ArrayBF16, table.Read, tokenRows(a.Out()))
	lse := array("lse", table.ArrayFloat32, table.Read, tokenRows(a.Heads))
	dout, delta, dqkv := out, lse, qkv
	dout.Name, delta.Name, dqkv.Name, dqkv.Access = "do", "delta", "dqkv", table.Updated
	seq := table.Param{Name: "seq", Type: table.Uint32, Count: table.SeqLen}
	scale := table.Param{Name: "scale", Type: table.Float32}
	heads := a.Heads
	switch a.Pass {
	case table.AttendForward:
		out.Access, lse.Access, lse.Optional = table.Written, table.Written, true
		k.Params = []table.Param{qkv, out, lse}
		if a.Cache {
			cache := array("keys", table.ArrayBF16, table.Read, table.Extent{N: a.KVHeads * a.HeadDim, Of: table.Slots})
			values := cache
			values.Name = "values"
			k.Params = []table.Param{qkv, out, cache, values}
			if a.Rows {
				k.Params = append(k.Params, array("positions", table.ArrayInt32, table.Read, tokenRows(1)), array("seqs", table.ArrayInt32, table.Read, tokenRows(1)))
			} else {
				// Of each sequence: its number in the cache, the position and the row
				// of its first new token, and how many there are.
				k.Params = append(k.Params, array("spans", table.ArrayInt32, table.Read, table.Extent{N: 4, Of: table.Sequences}))
			}
			seq = table.Param{Name: "capacity", Type: table.Uint32}
		}
	case table.AttendDelta:
		delta.Access = table.Written
		k.Role = table.RoleDelta
		k.Grid = [3]table.Extent{tokenRows(1), fixed(1), fixed(1)}
		k.Params = []table.Param{dout, out, delta}
		k.Counts.OtherStores = 1
		k.BlocksPerSM = 4
		return k
	case table.AttendQueries:
		k.Params = []table.Param{qkv, dout, lse, delta, dqkv}
	case table.AttendKeys:
		k.Params = []table.Param{qkv, dout, lse, delta, dqkv}
		heads = a.KVHeads
	}
	k.Params = append(k.Params, seq, scale)
	if a.Rows {
		k.Role = table.RoleAttendRows
		k.Grid = [3]table.Extent{tokenRows(1), fixed(heads), fixed(1)}
		k.SharedBytes = up(4*a.Warps()*(a.Sums()*a.HeadDim+2), 16)
		k.Counts.OtherStores = a.Sums()
		if a.Pass == table.AttendForward && !a.Cache {
			k.Counts.OtherStores++
		}
		return k
	}
	k.Role = table.RoleAttend
	k.Grid = [3]table.Extent{{N: 1, Of: table.SeqLen, Each: attendRows}, fixed(heads), {N: 1, Of: table.Sequences}}
	k.SharedBytes = a.Fixed()*a.TileBytes() + attendStages*(a.StageBytes()+a.SumsBytes())
	depth, other := a.HeadDim/mmaK, a.Other()/mmaK
	scores := map[bool]int{true: 1, false: 2}[a.Pass == table.AttendForward]
	k.Counts.MMA = scores*depth*2*other + a.Sums()*other*2*depth
	k.Counts.LDMatrix = scores*depth*(1+other) + a.Sums()*other*depth
	each := a.Chunks() / 2 // copies a thread for a tile of attendRows
	k.Counts.Copies = a.Fixed()*each + attendStages*2*each*a.Other()/attendRows
	k.Counts.Stores = a.Sums() * each
	if a.Pass == table.AttendForward && !a.Cache {
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
	a := Attention{table.Attention{Heads: heads, KVHeads: kvHeads, HeadDim: size}}
	a.Rows = !a.Matrix()
	kernel := func(p table.AttendPass, cache, rows bool) Kernel {
		b := a
		b.Pass, b.Cache, b.Rows = p, cache, rows
		return b.Kernel()
	}
	return Attends{
		Forward: kernel(table.AttendForward, false, a.Rows), Delta: kernel(table.AttendDelta, false, false),
		Queries: kernel(table.AttendQueries, false, a.Rows), Keys: kernel(table.AttendKeys, false, a.Rows),
		Prefill: kernel(table.AttendForward, true, a.Rows), Decode: kernel(table.AttendForward, true, true),
	}
}

// Kernels lists them.
func (a Attends) Kernels() []Kernel {
	return Unique([]Kernel{a.Forward, a.Delta, a.Queries, a.Keys, a.Prefill, a.Decode})
}
