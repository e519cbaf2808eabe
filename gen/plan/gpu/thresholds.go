package gpu

import (
	"cmp"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// Threshold is a size at which a GPU kernel, or the plan of its family,
// changes its path.
type Threshold struct {
	plan.Threshold
	// Step is the distance of neighbouring sizes: widths in bf16 are whole chunks.
	Step int
	// Size is the kernel's own where the axis is a constant of it, 0 where it is a
	// count of launches. Below, at and above then are kernels of other shapes.
	Size int
}

// The axes of GPU kernels beside those of the CPU. The counts of launches are
// axes, too.
const (
	AxisHeads  plan.Axis = "heads"
	AxisPieces plan.Axis = "pieces" // of a row, which a block's threads share
)

// EngineThresholds are those of calls of whole models: rows at which other
// kernels run, or the same ones several times.
func EngineThresholds() []plan.Threshold {
	return []plan.Threshold{
		{Name: "FewTokens", Axis: plan.AxisTokens, At: FewTokens, What: "kernels for many tokens"},
		{Name: "PromptRows", Axis: plan.AxisTokens, At: PromptRows, What: "a prompt in two passes"},
		{Name: "HeadRows", Axis: plan.AxisTokens, At: HeadRows, What: "logits in two goes"},
	}
}

// Thresholds lists those of a kernel and of its family's plan.
func (k Kernel) Thresholds() []Threshold {
	return k.Plan.(interface{ thresholds() []Threshold }).thresholds()
}

// counted is a threshold of a count of launches.
func counted(name string, of table.Count, at, step int, what string) Threshold {
	return Threshold{plan.Threshold{Name: name, Axis: plan.Axis(of), At: at, What: what}, step, 0}
}

// fixedAt is one of a constant of kernels.
func fixedAt(name string, axis plan.Axis, at, step, size int, what string) Threshold {
	return Threshold{plan.Threshold{Name: name, Axis: axis, At: at, What: what}, step, size}
}

func (k Product) thresholds() (ts []Threshold) {
	cols, step := k.Cols(), chunk
	if k.Precision == table.Float32s {
		step = 1
		ts = append(ts, fixedAt("Tile.N", plan.AxisColumns, k.Tile.N, 1, cols, "two tiles of columns"))
		if k.Pass == table.BackwardWeight {
			return append(ts, fixedAt("Tile.M", plan.AxisOutputs, k.Tile.M, 1, k.Rows(), "two tiles of rows"),
				counted("Float32Depth", table.Tokens, Float32Depth, 1, "two stages"),
				counted("2 Float32Depth", table.Tokens, 2*Float32Depth, 1, "three stages"),
				counted("StageDepth", table.Tokens, StageDepth, 1, "a part's second stage"))
		}
		return append(ts, counted("Tile.M", table.Tokens, k.Tile.M, 1, "two tiles of rows"),
			fixedAt("Float32Depth", plan.AxisDepth, Float32Depth, 1, k.Depth(), "two stages"),
			fixedAt("2 Float32Depth", plan.AxisDepth, 2*Float32Depth, 1, k.Depth(), "three stages"))
	}
	sides := func(axis plan.Axis, size int) {
		ts = append(ts, fixedAt("lowSide", axis, lowSide, step, size, "a tile of the high side"),
			fixedAt("highSide", axis, highSide, step, size, "three tiles of the low side"),
			fixedAt("3 lowSide", axis, 3*lowSide, step, size, "two tiles of the high side"))
	}
	pipeline := func(add func(name string, at int, what string)) {
		add("StageDepth", StageDepth, "two stages")
		add("Stages-1", (k.Stages-1)*StageDepth, "copies in the loop")
		add("Stages", k.Stages*StageDepth, "the room of a stage used again")
		add("2 Stages", 2*k.Stages*StageDepth, "the room of a stage used a third time")
	}
	if k.Pass == table.BackwardWeight {
		sides(plan.AxisColumns, cols)
		sides(plan.AxisOutputs, k.Rows())
		pipeline(func(name string, at int, what string) { ts = append(ts, counted(name, table.Tokens, at, 1, what)) })
		return append(ts, counted("partStages", table.Tokens, (2*partStages-1)*StageDepth, 1, "a sum in two parts"))
	}
	depth := func(name string, at int, what string) {
		ts = append(ts, fixedAt(name, plan.AxisDepth, at, step, k.Depth(), what))
	}
	ts = append(ts, counted("Tile.M", table.Tokens, k.Tile.M, 1, "two tiles of rows"))
	switch {
	case k.Split():
		// Where the model of launches cuts a sum, parts have no fewer stages than
		// the pipeline, but for the last.
		depth("parts", 4*k.Stages*StageDepth, "a fifth part, of one stage")
	case k.Tile.M == fewTile:
		ts = append(ts, fixedAt("Tile.N", plan.AxisColumns, k.Tile.N, step, cols, "two tiles of columns"))
		pipeline(depth)
	default:
		sides(plan.AxisColumns, cols)
		pipeline(depth)
	}
	return ts
}

func (k Finish) thresholds() []Threshold {
	return []Threshold{fixedAt("finishThreads", plan.AxisColumns, finishThreads*k.Each(), cmp.Or(k.Each(), chunk), k.C.Pitch, "two blocks a row")}
}

func (s Sum) thresholds() []Threshold {
	return []Threshold{
		counted("Across", table.Entries, s.Across(), 1, "two blocks"),
		counted("Down", table.Parts, s.Down, 1, "a second part for a thread"),
		counted("unrolled", table.Parts, (unrolled-1)*s.Down, 1, "loads of several parts at a time"),
	}
}

func (k Columns) thresholds() []Threshold {
	several := (unrolled - 1) * k.Down() // rows of a part
	if several > columnsRows {
		several *= columnsParts
	}
	return []Threshold{
		counted("Down", table.Tokens, k.Down(), 1, "a second row for a thread"),
		counted("unrolled", table.Tokens, several, 1, "loads of several rows at a time"),
		counted("columnsRows", table.Tokens, columnsRows, 1, "two parts"),
		counted("columnsParts", table.Tokens, columnsParts*columnsRows, 1, "longer parts"),
		fixedAt("Across", plan.AxisColumns, k.Across()*k.Each(), k.Each(), k.Width, "two blocks of columns"),
	}
}

func (k Cast) thresholds() []Threshold {
	return []Threshold{counted("sumThreads", table.Entries, chunk*sumThreads, chunk, "two blocks")}
}

// pieced are the thresholds of blocks that share so many pieces of a row.
func pieced(pieces, step int) []Threshold {
	return []Threshold{
		fixedAt("a warp", AxisPieces, 32, step, pieces, "two warps"),
		fixedAt("passThreads", AxisPieces, passThreads, step, pieces, "a second piece for a thread"),
	}
}

func (n Norm) thresholds() []Threshold {
	ts := pieced(n.Pieces(), 1)
	if n.Backward {
		ts = append(ts, counted("NormRows", table.Tokens, NormRows, 1, "two partial sums"))
	}
	return ts
}

func (e Embed) thresholds() []Threshold { return pieced(e.Quads, chunk/quad) }

func (r Rotate) thresholds() []Threshold {
	if !r.Turn {
		return pieced(r.Pieces(), 2) // keys and values
	}
	return pieced(r.Pieces(), 1)
}

func (l Loss) thresholds() []Threshold { return pieced(l.Pitch/chunk, 1) }

func (a Attention) thresholds() []Threshold {
	if a.Pass == table.AttendDelta {
		return []Threshold{fixedAt("heads of a block", AxisHeads, a.Threads()/a.Lanes(), 1, a.Heads, "a second head for a thread")}
	}
	// Rows of the other side, of all heads that share one.
	other, heads := table.SeqLen, 1
	if a.Cache {
		other = table.Count(plan.AxisKeys)
	}
	if a.Pass == table.AttendKeys {
		heads = a.Group()
	}
	var ts []Threshold
	if !a.Cache { // which has both kinds of kernels for all heads
		ts = append(ts, fixedAt("mmaK", plan.AxisHeadSize, mmaK, chunk, a.HeadDim, "no tensor cores, but for powers of two"),
			fixedAt("widestHead", plan.AxisHeadSize, widestHead, 32, a.HeadDim, "no tensor cores"))
	}
	if a.Rows {
		all := a.Warps() * a.Keys()
		return append(ts, counted("Keys", other, max(1, a.Keys()/heads), 1, "keys for a second warp"),
			counted("Warps", other, max(1, all/heads), 1, "keys for a warp's second turn"),
			counted("2 Warps", other, max(1, 2*all/heads), 1, "and for its third"))
	}
	if a.Pass != table.AttendForward { // other sizes are powers of two
		ts = append(ts, fixedAt("wideHead", plan.AxisHeadSize, wideHead, wideHead, a.HeadDim, "lower tiles of the other side"))
	}
	return append(ts, counted("attendRows", table.SeqLen, attendRows, 1, "two tiles of rows"),
		counted("Other", other, a.Other(), 1, "two tiles of the other side"),
		counted("2 Other", other, attendStages*a.Other(), 1, "the room of a stage used again"))
}

func (u Update) thresholds() []Threshold {
	switch u {
	case SumSquares:
		return []Threshold{
			counted("passThreads", table.Entries, quad*passThreads, quad, "a second piece for a thread"),
			counted("SquaresEach", table.Entries, SquaresEach, quad, "two sums"),
		}
	case ClipNorm:
		return []Threshold{counted("passThreads", table.Entries, passThreads, 1, "a second sum for a thread")}
	case AdamW, PackBF16:
		return []Threshold{counted("passThreads", table.Entries, chunk*passThreads, chunk, "two blocks")}
	}
	return nil
}
