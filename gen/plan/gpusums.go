package plan

import "fmt"

// Kernels lists the launches of a product: its own and, where that leaves
// parts, in its array c, the one that adds them up, as its array parts.
func (k GPUProduct) Kernels() []GPUKernel {
	if !k.Split() {
		return []GPUKernel{k.Kernel()}
	}
	return []GPUKernel{k.Kernel(), GPUFinish{k}.Kernel()}
}

// GPUFinish adds the parts of a product's sums in their order and does its
// epilogue. Where each entry lies is the product's business: rows of parts and of
// results are in the same order.
type GPUFinish struct{ GPUProduct }

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
func (k GPUFinish) Each() int {
	switch {
	case k.Sums:
		return 4
	case k.Epilogue == GPUSwiGLU:
		return 16
	}
	return 8
}

// Groups is the number of threads a row.
func (k GPUFinish) Groups() int { return k.C.Pitch / k.Each() }

// Threads of a block.
func (k GPUFinish) Threads() int { return finishThreads }

// Name of the kernel, that of its row.
func (k GPUFinish) Name() string { return k.Kernel().Name }

// Kernel is the row of the kernel table:
// finish_<width>x<parts>[_bias][_<epilogue>][_sums]_r<row>.
func (k GPUFinish) Kernel() GPUKernel {
	whole := k.GPUProduct
	whole.Parts = 1
	p := whole.Kernel().Params // a, b, bias, pre, c, tokens, split
	return GPUKernel{
		Template: "finish", File: "sums", Plan: k,
		Threads: finishThreads, BlocksPerSM: k.BlocksPerSM,
		Counts: GPUCounts{Stores: k.Stores()},
		Grid:   [3]GPUExtent{{N: 1, Of: Tokens}, fixed(up(k.Groups(), finishThreads) / finishThreads), fixed(1)},
		Params: []GPUParam{
			{Name: "parts", Type: ArrayFloat32, Access: Read, Len: tokenRows(k.Parts * k.C.Pitch)},
			p[2], p[3], p[4], p[5],
		},
	}.named(fmt.Sprintf("finish_%dx%d%s", k.C.Pitch, k.Parts, k.suffix()))
}

// GPUSum adds up parts of float32 sums, in a fixed order, to or in place of what
// is there: gradients. Down threads share an entry.
type GPUSum struct{ Down int }

// SumParts is made for few parts of many entries, like those of weights, SumRows
// for many of few, like those of biases and norms.
var (
	SumParts = GPUSum{Down: 1}
	SumRows  = GPUSum{Down: sumThreads / 32}
)

// Threads and BlocksPerSM are those of the kernel, for its template, and Across
// the entries of a block.
func (GPUSum) Threads() int     { return sumThreads }
func (GPUSum) BlocksPerSM() int { return 8 }
func (s GPUSum) Across() int    { return sumThreads / s.Down }

// Name of the kernel, that of its row.
func (s GPUSum) Name() string { return s.Kernel().Name }

// Kernel is the row of the kernel table: sum_<threads an entry>_r<row>. Its
// number accumulate is 1 where the sums are added to what is there.
func (s GPUSum) Kernel() GPUKernel {
	shared := 0
	if s.Down > 1 {
		shared = 4 * sumThreads
	}
	return GPUKernel{
		Template: "sum", File: "sums", Plan: s,
		Threads: sumThreads, SharedBytes: shared, BlocksPerSM: s.BlocksPerSM(),
		Counts: GPUCounts{OtherStores: 1},
		Grid:   [3]GPUExtent{{N: 1, Of: Entries, Each: s.Across()}, fixed(1), fixed(1)},
		Params: []GPUParam{
			{Name: "parts", Type: ArrayFloat32, Access: Read, Len: GPUExtent{N: 1, Of: Entries, Times: Parts}},
			{Name: "sum", Type: ArrayFloat32, Access: Updated, Len: GPUExtent{N: 1, Of: Entries}},
			{Name: "n", Type: Uint32, Count: Entries},
			{Name: "count", Type: Uint32, Count: Parts},
			{Name: "accumulate", Type: Uint32},
		},
	}.named(fmt.Sprintf("sum_%d", s.Down))
}

// WeightParts is the number of parts that a sum over so many tokens is cut
// into: as many as fill a chip, of no fewer than partStages each.
func (k GPUProduct) WeightParts(tokens int) int {
	n, stages := k.MostWeightParts(tokens), up(tokens, GPUDepth)/GPUDepth
	return up(stages, k.PartStages(tokens, n)) / k.PartStages(tokens, n)
}

// MostWeightParts is the most parts of so many tokens and of fewer: as parts are
// whole stages, fewer tokens can have more.
func (k GPUProduct) MostWeightParts(tokens int) int {
	g := k.Kernel().Grid
	tiles, stages := g[0].N*g[1].N, up(tokens, GPUDepth)/GPUDepth
	most := GPUs[len(GPUs)-1].Multiprocessors
	return max(1, min(up(most, tiles)/tiles, stages/partStages))
}

// PartStages is the number of stages of each of so many parts, but the last,
// of a sum over tokens: the kernel's argument split.
func (k GPUProduct) PartStages(tokens, parts int) int {
	return up(up(tokens, GPUDepth)/GPUDepth, parts) / parts
}

// GPUColumns sums the columns of rows in parts: the gradient of a bias, of
// Width entries, from that of the layer's output, as it is stored. [SumRows]
// adds the parts.
type GPUColumns struct {
	Width     int
	Precision Precision
}

// Each is the number of neighbouring columns that a thread sums, Across the
// threads side by side and Down those below each other.
func (k GPUColumns) Each() int {
	if k.Float32() {
		return 1
	}
	return chunk
}
func (k GPUColumns) Across() int {
	if k.Float32() {
		return 32
	}
	return 8
}
func (k GPUColumns) Down() int        { return sumThreads / k.Across() }
func (k GPUColumns) Threads() int     { return sumThreads }
func (k GPUColumns) BlocksPerSM() int { return 8 }

// Float32 reports whether the rows are float32.
func (k GPUColumns) Float32() bool { return k.Precision == Float32s }

// Name of the kernel, that of its row.
func (k GPUColumns) Name() string { return k.Kernel().Name }

// Parts is the number of parts for a number of tokens, and Rows how many rows
// each has: the kernel's argument rows.
func (k GPUColumns) Parts(tokens int) int { return up(tokens, k.Rows(tokens)) / k.Rows(tokens) }
func (k GPUColumns) Rows(tokens int) int {
	return max(columnsRows, up(up(tokens, columnsParts)/columnsParts, columnsRows/2))
}

// MostParts is the most parts of so many tokens and of fewer.
func (k GPUColumns) MostParts(tokens int) int {
	return min(columnsParts, up(tokens, columnsRows)/columnsRows)
}

// Kernel is the row of the kernel table: columns_<precision>_<width>_r<row>.
func (k GPUColumns) Kernel() GPUKernel {
	x, counts := ArrayBF16, GPUCounts{Stores: 1}
	if k.Float32() {
		x, counts = ArrayFloat32, GPUCounts{OtherStores: 1}
	}
	side := k.Across() * k.Each()
	return GPUKernel{
		Template: "columns", File: "sums", Plan: k,
		Threads: sumThreads, BlocksPerSM: 8, SharedBytes: 4 * k.Each() * sumThreads,
		Counts: counts,
		Grid:   [3]GPUExtent{fixed(up(k.Width, side) / side), {N: 1, Of: Parts}, fixed(1)},
		Params: []GPUParam{
			{Name: "x", Type: x, Access: Read, Len: tokenRows(k.Width)},
			{Name: "sums", Type: ArrayFloat32, Access: Written, Len: GPUExtent{N: k.Width, Of: Parts}},
			{Name: "tokens", Type: Uint32, Count: Tokens},
			{Name: "rows", Type: Uint32},
		},
	}.named(fmt.Sprintf("columns_%s_%d", k.Precision, k.Width))
}

// GPUCast rounds float32 to bf16, or widens bf16: between a float32 layer and
// the bf16 kernels around it. The number of entries is a multiple of 8.
type GPUCast struct{ Widen bool }

// Name of the kernel, that of its row.
func (k GPUCast) Name() string { return k.Kernel().Name }

// Threads and BlocksPerSM are those of the kernel, for its template.
func (GPUCast) Threads() int     { return sumThreads }
func (GPUCast) BlocksPerSM() int { return 8 }

// Kernel is the row of the kernel table: cast_float32_bf16_r<row>, or
// cast_bf16_float32_r<row>.
func (k GPUCast) Kernel() GPUKernel {
	name, x, y, stores := "cast_float32_bf16", ArrayFloat32, ArrayBF16, 1
	if k.Widen {
		name, x, y, stores = "cast_bf16_float32", y, x, 2
	}
	n := GPUExtent{N: 1, Of: Entries}
	return GPUKernel{
		Template: "cast", File: "sums", Plan: k,
		Threads: sumThreads, BlocksPerSM: 8,
		Counts: GPUCounts{Stores: stores},
		Grid:   [3]GPUExtent{{N: 1, Of: Entries, Each: 8 * sumThreads}, fixed(1), fixed(1)},
		Params: []GPUParam{
			{Name: "x", Type: x, Access: Read, Len: n},
			{Name: "y", Type: y, Access: Written, Len: n},
			{Name: "n", Type: Uint32, Count: Entries},
		},
	}.named(name)
}
