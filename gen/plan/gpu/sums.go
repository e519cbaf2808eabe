package gpu

import (
	"fmt"

	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// Kernels lists the launches of a product: its own and, where that leaves
// parts, in its array c, the one that adds them up, as its array parts.
func (k Product) Kernels() []Kernel {
	if !k.Split() {
		return []Kernel{k.Kernel()}
	}
	return []Kernel{k.Kernel(), Finish{k}.Kernel()}
}

// Finish adds the parts of a product's sums in their order and does its
// epilogue. Where each entry lies is the product's business: rows of parts and of
// results are in the same order.
type Finish struct{ Product }

// finishThreads and sumThreads are the threads of a block of kernels that do one
// thing to every entry; the first are few, because so are the entries.
const (
	finishThreads = 64
	sumThreads    = 256
)

// Where sums over tokens are cut: partStages are the stages that a part of a
// weight's gradient has at least, columnsRows the rows of a part of a bias's, of
// which there are no more than columnsParts.
const (
	partStages   = 8
	columnsRows  = 64
	columnsParts = 32
)

// unrolled are the loads that a loop over parts or rows has on their way at a
// time: the templates' unrolling.
const unrolled = 4

// Each is the number of sums that one thread finishes.
func (k Finish) Each() int {
	switch {
	case k.Sums:
		return 4
	case k.Epilogue.Activates() && k.Epilogue.Gated():
		return 16
	}
	return 8
}

// Groups is the number of threads a row.
func (k Finish) Groups() int { return k.C.Pitch / k.Each() }

// Kernel is the row of the kernel table:
// finish_<width>x<parts>[_bias][_<epilogue>][_sums]_r<row>.
func (k Finish) Kernel() Kernel {
	whole := k.Product
	whole.Parts = 1
	p := whole.Kernel().Params // a, b, bias, pre, c, tokens, split
	f := table.Finish{Width: k.C.Pitch, Parts: k.Parts, Precision: k.Precision, Epilogue: k.Epilogue, Bias: k.Bias, Sums: k.Sums}
	return Kernel{Plan: k, BlocksPerSM: k.BlocksPerSM, Counts: Instructions{Stores: k.Stores()}, Kernel: table.Kernel{
		Role: table.RoleFinish, File: "sums", Shape: table.Shape{Finish: &f}, Rows: table.Range{To: FewTokens},
		Threads: finishThreads,
		Grid:    [3]table.Extent{{N: 1, Of: table.Tokens}, fixed(up(k.Groups(), finishThreads) / finishThreads), fixed(1)},
		Params: []table.Param{
			{Name: "parts", Type: table.ArrayFloat32, Access: table.Read, Len: tokenRows(k.Parts * k.C.Pitch)},
			p[2], p[3], p[4], p[5],
		},
	}}.named(fmt.Sprintf("finish_%dx%d%s", k.C.Pitch, k.Parts, k.suffix()))
}

// Sum is the plan of sums of parts.
type Sum struct{ table.Sum }

// SumParts is made for few parts of many entries, like those of weights, SumRows
// for many of few, like those of biases and norms.
var (
	SumParts = Sum{table.Sum{Down: 1}}
	SumRows  = Sum{table.Sum{Down: sumThreads / 32}}
)

// Across is the number of entries of a block.
func (s Sum) Across() int { return sumThreads / s.Down }

// Kernel is the row of the kernel table: sum_<threads an entry>_r<row>. Its
// number accumulate is 1 where the sums are added to what is there.
func (s Sum) Kernel() Kernel {
	shared := 0
	if s.Down > 1 {
		shared = 4 * sumThreads
	}
	return Kernel{Plan: s, BlocksPerSM: 8, Counts: Instructions{OtherStores: 1}, Kernel: table.Kernel{
		Role: table.RoleSum, File: "sums", Shape: table.Shape{Sum: &s.Sum},
		Threads: sumThreads, SharedBytes: shared,
		Grid: [3]table.Extent{{N: 1, Of: table.Entries, Each: s.Across()}, fixed(1), fixed(1)},
		Params: []table.Param{
			{Name: "parts", Type: table.ArrayFloat32, Access: table.Read, Len: table.Extent{N: 1, Of: table.Entries, Times: table.Parts}},
			{Name: "sum", Type: table.ArrayFloat32, Access: table.Updated, Len: table.Extent{N: 1, Of: table.Entries}},
			{Name: "n", Type: table.Uint32, Count: table.Entries},
			{Name: "count", Type: table.Uint32, Count: table.Parts},
			{Name: "accumulate", Type: table.Uint32},
		},
	}}.named(fmt.Sprintf("sum_%d", s.Down))
}

// cut says how a weight's gradient is cut: into as many parts as fill the largest
// chip, of no fewer than partStages each, where a part has so many tiles.
func cut(tiles int) table.Cut {
	return table.Cut{Unit: StageDepth, Least: partStages, Most: ceil(Chips[len(Chips)-1].Multiprocessors, tiles)}
}

func ceil(n, by int) int { return up(n, by) / by }

// Columns is the plan of the sums of the columns of rows in parts: the gradient of a
// bias, from that of the layer's output, as it is stored. [SumRows] adds the parts.
type Columns struct{ table.Columns }

// Each is the number of neighbouring columns that a thread sums, Across the
// threads side by side and Down those below each other.
func (k Columns) Each() int {
	if k.Float32() {
		return 1
	}
	return chunk
}
func (k Columns) Across() int {
	if k.Float32() {
		return 32
	}
	return 8
}
func (k Columns) Down() int { return sumThreads / k.Across() }

// Float32 reports whether the rows are float32.
func (k Columns) Float32() bool { return k.Precision == table.Float32s }

// Kernel is the row of the kernel table: columns_<precision>_<width>_r<row>.
func (k Columns) Kernel() Kernel {
	x, counts := table.ArrayBF16, Instructions{Stores: 1}
	if k.Float32() {
		x, counts = table.ArrayFloat32, Instructions{OtherStores: 1}
	}
	side := k.Across() * k.Each()
	return Kernel{Plan: k, BlocksPerSM: 8, Counts: counts, Kernel: table.Kernel{
		Role: table.RoleColumns, File: "sums", Shape: table.Shape{Columns: &k.Columns},
		Threads: sumThreads, SharedBytes: 4 * k.Each() * sumThreads,
		Cut:  table.Cut{Unit: columnsRows / 2, Least: 2, Most: columnsParts, Short: true},
		Grid: [3]table.Extent{fixed(up(k.Width, side) / side), {N: 1, Of: table.Parts}, fixed(1)},
		Params: []table.Param{
			{Name: "x", Type: x, Access: table.Read, Len: tokenRows(k.Width)},
			{Name: "sums", Type: table.ArrayFloat32, Access: table.Written, Len: table.Extent{N: k.Width, Of: table.Parts}},
			{Name: "tokens", Type: table.Uint32, Count: table.Tokens},
			{Name: "rows", Type: table.Uint32},
		},
	}}.named(fmt.Sprintf("columns_%s_%d", k.Precision, k.Width))
}

// Cast is the plan of the change of a type, between a float32 layer and the bf16
// kernels around it.
type Cast struct{ table.Cast }

// Kernel is the row of the kernel table: cast_float32_bf16_r<row>, or
// cast_bf16_float32_r<row>.
func (k Cast) Kernel() Kernel {
	name, x, y, stores := "cast_float32_bf16", table.ArrayFloat32, table.ArrayBF16, 1
	if k.Widen {
		name, x, y, stores = "cast_bf16_float32", y, x, 2
	}
	n := table.Extent{N: 1, Of: table.Entries}
	return Kernel{Plan: k, BlocksPerSM: 8, Counts: Instructions{Stores: stores}, Kernel: table.Kernel{
		Role: table.RoleCast, File: "sums", Shape: table.Shape{Cast: &k.Cast},
		Threads: sumThreads,
		Grid:    [3]table.Extent{{N: 1, Of: table.Entries, Each: 8 * sumThreads}, fixed(1), fixed(1)},
		Params: []table.Param{
			{Name: "x", Type: x, Access: table.Read, Len: n},
			{Name: "y", Type: y, Access: table.Written, Len: n},
			{Name: "n", Type: table.Uint32, Count: table.Entries},
		},
	}}.named(name)
}
