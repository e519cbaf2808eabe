package runtimetest

import (
	"fmt"

	"pgregory.net/rapid"

	"github.com/structuredffn/sffn/runtime/kernel"
)

// DrawSchedule draws a legal schedule that runs the kernels of another: what the
// emitter was told stays.
func DrawSchedule(t *rapid.T, s kernel.Schedule) kernel.Schedule {
	n := func(name string, lo, hi int) int { return rapid.IntRange(lo, hi).Draw(t, name) }
	narrower := kernel.MaxMR
	for _, w := range []kernel.Width{kernel.Half, kernel.Full, kernel.Long, kernel.Pair} {
		if tile := &s.Tiles[w]; tile.Max > 0 {
			tile.Max = n(fmt.Sprint("max", w), 1, min(narrower, tile.Max))
			narrower = tile.Max
			tile.Main = n(fmt.Sprint("main", w), 1, tile.Max)
		}
	}
	if rapid.Bool().Draw(t, "pairs") {
		s.Tiles[kernel.Pair] = kernel.Tile{}
	}
	s.Across = kernel.AcrossTile{Rows: n("across_rows", 1, s.Across.Rows), Columns: n("across_columns", 1, s.Across.Columns), Depth: n("across_depth", 1, kernel.RowBlock), Ahead: s.Across.Ahead}
	s.ChunkBytes = 1 << n("chunk_bytes", 0, 21)
	s.LoneRows, s.PairTall = n("lone_rows", 0, kernel.MaxMR), rapid.Bool().Draw(t, "pair_tall")
	s.ShallowBytes, s.SetBytes = n("shallow_bytes", 0, 64<<10), 64<<n("set_bytes", 0, 7)
	s.PanelBytes, s.FewRows = n("panel_bytes", 1, 1<<20), n("few_rows", 0, 200)
	s.RowTiles = n("row_tiles", 1, kernel.MaxMR)
	s.MinRowChunk = n("min_row_chunk", s.RowTiles, 60)
	s.MaxRowChunk = s.RowTiles * n("max_row_chunk", (s.MinRowChunk+s.RowTiles-1)/s.RowTiles, 100)
	s.ChunksPerThread, s.UnitsPerThread = n("chunks_per_thread", 1, 6), n("units_per_thread", 1, 12)
	s.InlineFlops = n("inline_flops", 0, 200_000)
	s.StripRows, s.LeftStrips = n("strip_rows", 1, s.StripRows), n("left_strips", 1, 9)
	s.GradientBytes = n("gradient_bytes", 1, 1<<20)
	s.WeightUnitsPerThread, s.SmallUnit = n("weight_units_per_thread", 1, 9), n("small_unit", 1, 1<<18)
	s.BiasColumns, s.ColumnRows, s.MergeRows = n("bias_columns", 1, 300), n("column_rows", 1, 300), n("merge_rows", 1, 300)
	return s
}
