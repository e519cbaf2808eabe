package cpu

import (
	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/runtime/kernel"
)

func at(name string, axis plan.Axis, at int, what string) plan.Threshold {
	return plan.Threshold{Name: name, Axis: axis, At: at, What: what}
}

// walkDepth is the depth of the products for which thresholds of columns are
// listed.
const walkDepth = 40

// Thresholds lists all that a target has, on so many threads.
func Thresholds(t kernel.Target, threads int) []plan.Threshold {
	f32, _ := kernel.F32.Format()
	ts := []plan.Threshold{
		at("MaxKC", plan.AxisDepth, kernel.MaxKC, "two blocks of k"),
		at("2 MaxKC", plan.AxisDepth, 2*kernel.MaxKC, "three blocks of k"),
		at("MaxKC16", plan.AxisDepth16, kernel.MaxKC16, "two blocks of k of bfloat16"),

		at("HalfPanel", plan.AxisColumns, kernel.HalfPanel, "a panel of 32"),
		at("Panel", plan.AxisColumns, kernel.Panel, "a long panel"),
		at("LongPanel", plan.AxisColumns, kernel.LongPanel, "two panels"),
		at("pair of panels", plan.AxisColumns, 2*kernel.Panel, "a panel beside the pair"),
		at("QuantGroup", plan.AxisDepth, kernel.QuantGroup, "two groups of k of integers"),
		at("PanelGroup", plan.AxisColumns, kernel.Panel*t.PanelGroup(f32.PanelBytes(kernel.Panel, walkDepth), t.FewRows+1), "two groups of panels"),
		at("BiasColumns", plan.AxisColumns, t.BiasColumns, "two units of the bias's gradient"),
		at("ShortRun", plan.AxisRunLen, plan.ShortRun-1, "runs that are moved as vectors"),
		at("MinRun", plan.AxisRunLen, plan.MinRun-1, "products that kernels store"),

		at("LaneGroup", plan.AxisBlocks, kernel.LaneGroup-1, "lanes across blocks"),
		at("one group of lanes", plan.AxisBlocks, kernel.LaneGroup, "two groups of lanes, with blocks in common"),
		at("two groups of lanes", plan.AxisBlocks, 2*kernel.LaneGroup, "three groups of lanes"),
		at("AcrossWidth", plan.AxisNarrow, plan.AcrossWidth, "products block by block"),
		at("Across", plan.AxisNarrow, t.Across.Columns, "two tiles side by side"),
		at("Across", plan.AxisRows, t.Across.Rows, "two tiles across blocks"),
		at("Across", plan.AxisRows, t.Across.Depth, "a chain of a gradient across blocks in two goes"),
		at("ChunkBytes", plan.AxisBetween, t.ChunkBytes/(kernel.EntryBytes*t.MaxRowChunk), "smaller chunks of rows"),

		at("Int8Rows", plan.AxisRows, t.Int8Rows, "two tiles of int8"),
		at("Int4Rows", plan.AxisRows, t.Int4Rows, "two tiles of int4"),
		at("FewRows", plan.AxisRows, t.FewRows, "groups of panels that half of the L2 cache holds"),
		at("RowBlock", plan.AxisRows, kernel.RowBlock, "two chains in each sum of a weight gradient"),
		at("ColumnRows", plan.AxisRows, t.ColumnRows, "two calls that sum a bias's gradient"),

		at("rows in half as many sets", plan.AxisStride, t.SetBytes/2/kernel.EntryBytes-1, "shallow panels in pairs"),
		at("rows in one set", plan.AxisStride, t.SetBytes/kernel.EntryBytes-1, "lower tiles"),

		at("gradient group", plan.AxisInputs, kernel.Panel*t.GradientPanels(), "two groups of panels of x"),
		at("MergeRows", plan.AxisInputs, t.MergeRows, "two passes of the identity"),
		at("LeftStrips", plan.AxisOutputs, t.LeftStrips*t.StripRows, "strips packed in two goes"),
		at("SmallUnit", plan.AxisWeights, t.SmallUnit, "two units of a weight gradient"),
		at("InlineFlops", plan.AxisFlops, t.InlineFlops, "units are handed out to the threads"),

		at("KeyBlock", plan.AxisKeys, kernel.KeyBlock, "two blocks of keys"),
		at("2 KeyBlock", plan.AxisKeys, 2*kernel.KeyBlock, "three blocks of keys"),
		at("QueryBlock", plan.AxisQueries, kernel.QueryBlock, "two blocks of queries"),
		at("2 QueryBlock", plan.AxisQueries, 2*kernel.QueryBlock, "three blocks of queries"),
		at("Panel", plan.AxisHeadSize, kernel.Panel, "two panels of values"),
		at("2 Panel", plan.AxisHeadSize, 2*kernel.Panel, "three panels of values"),

		at("VecChunk", plan.AxisEntries, kernel.VecChunk, "two calls of an elementwise kernel"),
		at("SquaresChunk", plan.AxisEntries, kernel.SquaresChunk, "two parts of a sum of squares"),

		at("PassRows", plan.AxisTokens, kernel.PassRows, "two chunks of rows"),
		at("HeadRows", plan.AxisTokens, kernel.HeadRows, "logits in two goes"),
		at("HeadRowsStep", plan.AxisTokens, plan.HeadRowsStep, "two units of the loss"),
		at("EmbedColumns", plan.AxisWidth, plan.EmbedColumns, "two units of the embedding's gradient"),
	}
	if t.LoneRows > 0 {
		ts = append(ts, at("LoneRows", plan.AxisRows, t.LoneRows, "pairs of panels, and prefetching"))
	}
	if t.Tiles[kernel.Pair].Max > 0 {
		ts = append(ts, at("shallow panels", plan.AxisDepth, t.ShallowBytes/f32.PanelBytes(kernel.Panel, 1), "pairs of panels"))
	}
	for _, tile := range t.Tiles {
		if tile.Max > 0 {
			ts = append(ts, at("tallest tile", plan.AxisRows, tile.Max, "two tiles"),
				at("balanced tiles", plan.AxisRows, 2*tile.Main-1, "a tile of full height first"))
		}
	}
	ts = append(ts, at("StripRows", plan.AxisOutputs, t.StripRows, "two strips"), at("balanced strips", plan.AxisOutputs, 2*t.StripRows-1, "a full strip first"))
	if threads == 1 {
		return append(ts, at("MaxRowChunk", plan.AxisRows, t.MaxRowChunk, "two chunks of rows"))
	}
	each := t.ChunksPerThread * threads
	return append(ts, at("MinRowChunk", plan.AxisRows, each*t.MinRowChunk-1, "chunks of rows in place of columns"),
		at("MaxRowChunk", plan.AxisRows, each*t.MaxRowChunk-1, "chunks that grow no more"))
}
