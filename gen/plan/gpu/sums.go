package gpu

import "fmt"

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
	case k.Epilogue == SwiGLU:
		return 16
	}
	return 8
}

// Groups is the number of threads a row.
func (k Finish) Groups() int { return k.C.Pitch / k.Each() }

// Threads of a block.
func (k Finish) Threads() int { return finishThreads }

// Name of the kernel, that of its row.
func (k Finish) Name() string { return k.Kernel().Name }

// Kernel is the row of the kernel table:
// finish_<width>x<parts>[_bias][_<epilogue>][_sums]_r<row>.
func (k Finish) Kernel() Kernel {
	whole := k.Product
	whole.Parts = 1
	p := whole.Kernel().Params // a, b, bias, pre, c, tokens, split
	return Kernel{
		Template: "finish", File: "sums", Plan: k,
		Threads: finishThreads, BlocksPerSM: k.BlocksPerSM,
		Counts: Instructions{Stores: k.Stores()},
		Grid:   [3]Extent{{N: 1, Of: Tokens}, fixed(up(k.Groups(), finishThreads) / finishThreads), fixed(1)},
		Params: []Param{
			{Name: "parts", Type: ArrayFloat32, Access: Read, Len: tokenRows(k.Parts * k.C.Pitch)},
			p[2], p[3], p[4], p[5],
		},
	}.named(fmt.Sprintf("finish_%dx%d%s", k.C.Pitch, k.Parts, k.suffix()))
}

// Sum adds up parts of float32 sums, in a fixed order, to or in place of what
// is there: gradients. Down threads share an entry.
type Sum struct{ Down int }

// SumParts is made for few parts of many entries, like those of weights, SumRows
// for many of few, like those of biases and norms.
var (
	SumParts = Sum{Down: 1}
	SumRows  = Sum{Down: sumThreads / 32}
)

// Threads and BlocksPerSM are those of the kernel, for its template, and Across
// the entries of a block.
func (Sum) Threads() int     { return sumThreads }
func (Sum) BlocksPerSM() int { return 8 }
func (s Sum) Across() int    { return sumThreads / s.Down }

// Name of the kernel, that of its row.
func (s Sum) Name() string { return s.Kernel().Name }

// Kernel is the row of the kernel table: sum_<threads an entry>_r<row>. Its
// number accumulate is 1 where the sums are added to what is there.
func (s Sum) Kernel() Kernel {
	shared := 0
	if s.Down > 1 {
		shared = 4 * sumThreads
	}
	return Kernel{
		Template: "sum", File: "sums", Plan: s,
		Threads: sumThreads, SharedBytes: shared, BlocksPerSM: s.BlocksPerSM(),
		Counts: Instructions{OtherStores: 1},
		Grid:   [3]Extent{{N: 1, Of: Entries, Each: s.Across()}, fixed(1), fixed(1)},
		Params: []Param{
			{Name: "parts", Type: ArrayFloat32, Access: Read, Len: Extent{N: 1, Of: Entries, Times: Parts}},
			{Name: "sum", Type: ArrayFloat32, Access: Updated, Len: Extent{N: 1, Of: Entries}},
			{Name: "n", Type: Uint32, Count: Entries},
			{Name: "count", Type: Uint32, Count: Parts},
			{Name: "accumulate", Type: Uint32},
		},
	}.named(fmt.Sprintf("sum_%d", s.Down))
}

// WeightParts is the number of parts that a sum over so many tokens is cut
// into: as many as fill a chip, of no fewer than partStages each.
func (k Product) WeightParts(tokens int) int {
	n, stages := k.MostWeightParts(tokens), up(tokens, StageDepth)/StageDepth
	return up(stages, k.PartStages(tokens, n)) / k.PartStages(tokens, n)
}

// MostWeightParts is the most parts of so many tokens and of fewer: as parts are
// whole stages, fewer tokens can have more.
func (k Product) MostWeightParts(tokens int) int {
	g := k.Kernel().Grid
	tiles, stages := g[0].N*g[1].N, up(tokens, StageDepth)/StageDepth
	most := Chips[len(Chips)-1].Multiprocessors
	return max(1, min(up(most, tiles)/tiles, stages/partStages))
}

// PartStages is the number of stages of each of so many parts, but the last,
// of a sum over tokens: the kernel's argument split.
func (k Product) PartStages(tokens, parts int) int {
	return up(up(tokens, StageDepth)/StageDepth, parts) / parts
}

// Columns sums the columns of rows in parts: the gradient of a bias, of
// Width entries, from that of the layer's output, as it is stored. [SumRows]
// adds the parts.
type Columns struct {
	Width     int
	Precision Precision
}

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
func (k Columns) Down() int        { return sumThreads / k.Across() }
func (k Columns) Threads() int     { return sumThreads }
func (k Columns) BlocksPerSM() int { return 8 }

// Float32 reports whether the rows are float32.
func (k Columns) Float32() bool { return k.Precision == Float32s }

// Name of the kernel, that of its row.
func (k Columns) Name() string { return k.Kernel().Name }

// Parts is the number of parts for a number of tokens, and Rows how many rows
// each has: the kernel's argument rows.
func (k Columns) Parts(tokens int) int { return up(tokens, k.Rows(tokens)) / k.Rows(tokens) }
func (k Columns) Rows(tokens int) int {
	return max(columnsRows, up(up(tokens, columnsParts)/columnsParts, columnsRows/2))
}

// MostParts is the most parts of so many tokens and of fewer.
func (k Columns) MostParts(tokens int) int {
	return min(columnsParts, up(tokens, columnsRows)/columnsRows)
}

// Kernel is the row of the kernel table: columns_<precision>_<width>_r<row>.
func (k Columns) Kernel() Kernel {
	x, counts := ArrayBF16, Instructions{Stores: 1}
	if k.Float32() {
		x, counts = ArrayFloat32, Instructions{OtherStores: 1}
	}
	side := k.Across() * k.Each()
	return Kernel{
		Template: "columns", File: "sums", Plan: k,
		Threads: sumThreads, BlocksPerSM: 8, SharedBytes: 4 * k.Each() * sumThreads,
		Counts: counts,
		Grid:   [3]Extent{fixed(up(k.Width, side) / side), {N: 1, Of: Parts}, fixed(1)},
		Params: []Param{
			{Name: "x", Type: x, Access: Read, Len: tokenRows(k.Width)},
			{Name: "sums", Type: ArrayFloat32, Access: Written, Len: Extent{N: k.Width, Of: Parts}},
			{Name: "tokens", Type: Uint32, Count: Tokens},
			{Name: "rows", Type: Uint32},
		},
	}.named(fmt.Sprintf("columns_%s_%d", k.Precision, k.Width))
}

// Cast rounds float32 to bf16, or widens bf16: between a float32 layer and
// the bf16 kernels around it. The number of entries is a multiple of 8.
type Cast struct{ Widen bool }

// Name of the kernel, that of its row.
func (k Cast) Name() string { return k.Kernel().Name }

// Threads and BlocksPerSM are those of the kernel, for its template.
func (Cast) Threads() int     { return sumThreads }
func (Cast) BlocksPerSM() int { return 8 }

// Kernel is the row of the kernel table: cast_float32_bf16_r<row>, or
// cast_bf16_float32_r<row>.
func (k Cast) Kernel() Kernel {
	name, x, y, stores := "cast_float32_bf16", ArrayFloat32, ArrayBF16, 1
	if k.Widen {
		name, x, y, stores = "cast_bf16_float32", y, x, 2
	}
	n := Extent{N: 1, Of: Entries}
	return Kernel{
		Template: "cast", File: "sums", Plan: k,
		Threads: sumThreads, BlocksPerSM: 8,
		Counts: Instructions{Stores: stores},
		Grid:   [3]Extent{{N: 1, Of: Entries, Each: 8 * sumThreads}, fixed(1), fixed(1)},
		Params: []Param{
			{Name: "x", Type: x, Access: Read, Len: n},
			{Name: "y", Type: y, Access: Written, Len: n},
			{Name: "n", Type: Uint32, Count: Entries},
		},
	}.named(name)
}
