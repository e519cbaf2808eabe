// Package cpu makes the decisions of plans for CPUs: the table of targets with
// their schedules, and which kernels run a product on each.
package cpu

import "github.com/structuredffn/sffn/runtime/kernel"

// Targets is the table of targets. What decides bits is not here but in
// [kernel.Sums].
func Targets() []kernel.Target {
	// 6x64 and 12x32 keep 24 accumulators, the loaded panel rows and one
	// broadcast in 32 registers; 14x32 serves up to 14 rows in one pass.
	// Tiles of 6 rows stay within the ways of the L1 cache where rows lie a
	// multiple of 4096 bytes apart.
	avx512 := common
	avx512.Tiles = [...]kernel.Tile{kernel.Pair: tile(6, 6, 1), kernel.Full: tile(14, 12, 1), kernel.Half: tile(14, 12, 1), kernel.Long: tile(8, 6, 1)}
	avx512.Across = kernel.AcrossTile{Rows: 6, Columns: 4, Depth: 16, Ahead: 1}
	avx512.StripRows = 12
	// 12x32 of int8; int4 has sums of integers beside those of float32.
	avx512.Int8Rows, avx512.Int4Rows = 12, 6
	avx512.PairTall = true
	avx512 = caches(avx512, 1<<20)

	// With two units of full width a tile of 12 rows over one panel, which loads
	// less, is ahead of pairs; the activations of twice as many rows are still worth
	// reading the weights half as often.
	full := avx512
	full.PairTall = false
	full.MaxRowChunk *= 2
	full.ChunkBytes *= 2
	full.LoneRows = 0    // two streams of weights come faster than one
	full.LeftStrips = 32 // long stretches of dY's rows, which lie far apart

	// 6x16 keeps 12 accumulators in 16 registers; a 32-wide panel is swept in
	// two halves, a 48-wide one in three.
	avx2 := common
	avx2.Tiles = [...]kernel.Tile{kernel.Full: tile(6, 6, 2), kernel.Half: tile(6, 6, 1), kernel.Long: tile(6, 6, 3)}
	// 4x3 across blocks: 12 accumulators, three vectors of one operand, one of the other.
	avx2.Across = kernel.AcrossTile{Rows: 4, Columns: 3, Depth: 16, Ahead: 1}
	avx2.StripRows = 6
	avx2.Int8Rows, avx2.Int4Rows = 4, 2
	avx2 = caches(avx2, 256<<10)

	// The portable kernel takes any tile; small ones stay in the L1 cache.
	portable := avx2
	for w := range portable.Tiles {
		portable.Tiles[w].Sweeps = min(1, portable.Tiles[w].Max)
	}
	return []kernel.Target{
		{Name: "avx512", ISA: kernel.AVX512, Schedule: avx512},
		{Name: "avx512full", ISA: kernel.AVX512, FullWidth: true, Schedule: full},
		{Name: "avx2", ISA: kernel.AVX2, Schedule: avx2},
		{Name: "portable", ISA: kernel.Portable, Schedule: portable},
	}
}

// common is what the targets share.
var common = kernel.Schedule{
	Unroll: 4, PrefetchC: true, AheadColumns: 8, AheadRows: 2, // half of what a tile reads
	LoneRows: 2, ShallowBytes: 32 << 10, SetBytes: 4096,
	FewRows:  64, // their inputs leave room in the L2 cache for panels to come
	RowTiles: 12, // a common multiple of the tiles' heights: chunks of rows cut no tile
	// A chunk of 2 x 12 rows at least, of 11 x 12 at most. Of two rows of 5,888 entries
	// between factors 4 x 12 pass at a time: 2 x 12 read the weights too often, 11 x 12 do
	// not find what the factor before has made.
	MinRowChunk: 24, MaxRowChunk: 132, ChunkBytes: 9 << 18, ChunksPerThread: 4, UnitsPerThread: 8, InlineFlops: 100_000,
	LeftStrips: 4, WeightUnitsPerThread: 6, SmallUnit: 1 << 17, BiasColumns: 256, ColumnRows: 256, MergeRows: 256,
}

func tile(most, main, sweeps int) kernel.Tile {
	return kernel.Tile{Max: most, Main: main, Sweeps: sweeps}
}

// caches gives half of an L2 cache to panels, and three quarters of that to those
// of gradients.
func caches(s kernel.Schedule, l2 int) kernel.Schedule {
	s.PanelBytes, s.GradientBytes = l2/2, l2*3/8
	return s
}

// Target is the target of a name.
func Target(name string) (kernel.Target, bool) {
	for _, t := range Targets() {
		if t.Name == name {
			return t, true
		}
	}
	return kernel.Target{}, false
}

// Vecs are the elementwise kernels: one row an instruction set with assembly.
func Vecs() (rows []kernel.VecRow) {
	for _, t := range Targets() {
		if t.ISA != kernel.Portable && (len(rows) == 0 || rows[len(rows)-1].ISA != t.ISA) {
			rows = append(rows, kernel.VecRow{ISA: t.ISA, StripRows: t.StripRows, PackAhead: 16})
		}
	}
	return rows
}
