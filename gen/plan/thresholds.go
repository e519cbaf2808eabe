package plan

// Sizes at which the CPU's path changes, beside those that a target's tiles and
// caches give. Those of sums decide bits: they depend on the shape alone.
const (
	// RowTiles is a common multiple of the tiles' heights: chunks of rows cut
	// no tile.
	RowTiles = 12
	// MinRowChunk rows are worth a chunk of their own, MaxRowChunk rows of
	// activations and one group of panels share the L2 cache.
	MinRowChunk = 2 * RowTiles
	MaxRowChunk = 11 * RowTiles
	// ChunksPerThread keep the last chunks short.
	ChunksPerThread = 4
	// InlineFlops is the work below which a dispatch costs more than it saves.
	InlineFlops = 100_000

	// BiasColumns is the width of a unit of bias gradient.
	BiasColumns = 256
	// LeftStrips is the number of strips that are packed at once: together they
	// are whole cache lines of dY's rows.
	LeftStrips = 4
	// SmallUnit is a number of weights whose gradient stays in the L2 cache from
	// one block of rows to the next.
	SmallUnit = 1 << 17
	// MergeRows is the number of rows of the identity that pass at a time when
	// factors are merged.
	MergeRows = 256

	// KeyBlock and QueryBlock are attention's blocks. They have a fixed place in
	// the sequence, so that a row's result depends on no other row and on no
	// split of the work.
	KeyBlock   = 128
	QueryBlock = 96

	// VecChunk bounds the entries of one call of an elementwise kernel, some tens
	// of microseconds; SquaresChunk the float32 part of a sum of squares;
	// ColumnRows the rows of one call that sums columns.
	VecChunk     = 1 << 14
	SquaresChunk = 4096
	ColumnRows   = 256

	// PassRows is the number of rows of an elementwise unit of a model's work,
	// and of one partial sum of the gradients that sum over rows.
	PassRows = 32
	// HeadRows bounds the logits that exist at one time, HeadRowsStep rows are
	// a unit of the loss.
	HeadRows     = 256
	HeadRowsStep = 8
	// EmbedColumns is the width of a unit of the embedding's gradient.
	EmbedColumns = 64
)

// Axis is a size that crosses a threshold.
type Axis string

// The axes. Each has a test that walks its thresholds.
const (
	AxisDepth    Axis = "depth"     // products in each sum of a product
	AxisColumns  Axis = "columns"   // results of a product
	AxisRows     Axis = "rows"      // of a call: tokens
	AxisStride   Axis = "stride"    // entries of a source row; multiples of it
	AxisRunLen   Axis = "run"       // neighbouring results of a shuffled factor
	AxisInputs   Axis = "inputs"    // columns of a weight's gradient
	AxisOutputs  Axis = "outputs"   // rows of a weight's gradient
	AxisWeights  Axis = "weights"   // of a factor
	AxisFlops    Axis = "flops"     // of one stage of a call
	AxisKeys     Axis = "keys"      // of a sequence
	AxisQueries  Axis = "queries"   // of a sequence
	AxisHeadSize Axis = "head size" // of attention
	AxisEntries  Axis = "entries"   // of a vector
	AxisTokens   Axis = "tokens"    // of a micro-batch
	AxisWidth    Axis = "width"     // of a model: its hidden size
)

// Threshold is a size at which the CPU's path changes: At is the last one of
// the lower side. Tests run every operation just below, at and just above.
type Threshold struct {
	Name string
	Axis Axis
	At   int
	// What changes beyond At.
	What string
}

// walkDepth is the depth of the products for which thresholds of columns are
// listed.
const walkDepth = 40

// Thresholds lists all that a target has, on so many threads.
func (t Target) Thresholds(threads int) []Threshold {
	ts := []Threshold{
		{"maxKC", AxisDepth, maxKC, "two blocks of k"},
		{"2 maxKC", AxisDepth, 2 * maxKC, "three blocks of k"},

		{"HalfPanel", AxisColumns, HalfPanel, "a panel of 32"},
		{"Panel", AxisColumns, Panel, "a long panel"},
		{"LongPanel", AxisColumns, LongPanel, "two panels"},
		{"pair of panels", AxisColumns, 2 * Panel, "a panel beside the pair"},
		{"PanelGroup", AxisColumns, Panel * t.PanelGroup(walkDepth, fewRows+1), "two groups of panels"},
		{"BiasColumns", AxisColumns, BiasColumns, "two units of the bias's gradient"},
		{"minRun", AxisRunLen, minRun - 1, "products that kernels store"},

		{"single panels", AxisRows, 2, "pairs of panels, and prefetching"},
		{"fewRows", AxisRows, fewRows, "groups of panels that half of the L2 cache holds"},
		{"RowBlock", AxisRows, RowBlock, "two chains in each sum of a weight gradient"},
		{"ColumnRows", AxisRows, ColumnRows, "two calls that sum a bias's gradient"},

		{"rows in half as many sets", AxisStride, 2048/4 - 1, "shallow panels in pairs"},
		{"rows in one set", AxisStride, 4096/4 - 1, "lower tiles"},

		{"gradient group", AxisInputs, Panel * t.GradientPanels(), "two groups of panels of x"},
		{"MergeRows", AxisInputs, MergeRows, "two passes of the identity"},
		{"LeftStrips", AxisOutputs, LeftStrips * t.StripMR(), "strips packed in two goes"},
		{"SmallUnit", AxisWeights, SmallUnit, "two units of a weight gradient"},
		{"InlineFlops", AxisFlops, InlineFlops, "units are handed out to the threads"},

		{"KeyBlock", AxisKeys, KeyBlock, "two blocks of keys"},
		{"2 KeyBlock", AxisKeys, 2 * KeyBlock, "three blocks of keys"},
		{"QueryBlock", AxisQueries, QueryBlock, "two blocks of queries"},
		{"2 QueryBlock", AxisQueries, 2 * QueryBlock, "three blocks of queries"},
		{"Panel", AxisHeadSize, Panel, "two panels of values"},
		{"2 Panel", AxisHeadSize, 2 * Panel, "three panels of values"},

		{"VecChunk", AxisEntries, VecChunk, "two calls of an elementwise kernel"},
		{"SquaresChunk", AxisEntries, SquaresChunk, "two parts of a sum of squares"},

		{"PassRows", AxisTokens, PassRows, "two chunks of rows"},
		{"HeadRows", AxisTokens, HeadRows, "logits in two goes"},
		{"HeadRowsStep", AxisTokens, HeadRowsStep, "two units of the loss"},
		{"EmbedColumns", AxisWidth, EmbedColumns, "two units of the embedding's gradient"},
	}
	if t.MaxMR[2*Panel] > 0 {
		ts = append(ts, Threshold{"shallow panels", AxisDepth, shallowBytes / (4 * Panel), "pairs of panels"})
	}
	for _, nr := range t.Widths() {
		ts = append(ts, Threshold{"tallest tile", AxisRows, t.MaxMR[nr], "two tiles"},
			Threshold{"balanced tiles", AxisRows, 2*t.MainMR[nr] - 1, "a tile of full height first"})
	}
	ts = append(ts, Threshold{"StripMR", AxisOutputs, t.StripMR(), "two strips"}, Threshold{"balanced strips", AxisOutputs, 2*t.StripMR() - 1, "a full strip first"})
	if threads == 1 {
		return append(ts, Threshold{"MaxRowChunk", AxisRows, MaxRowChunk, "two chunks of rows"})
	}
	each := ChunksPerThread * threads
	return append(ts, Threshold{"MinRowChunk", AxisRows, each*MinRowChunk - 1, "chunks of rows in place of columns"},
		Threshold{"MaxRowChunk", AxisRows, each*MaxRowChunk - 1, "chunks that grow no more"})
}

// GradientPanels is the number of panels of packed right operand that
// backward-weight keeps in L2.
func (t Target) GradientPanels() int { return max(2, t.PanelGroup(RowBlock, RowBlock)*3/4) }

// RowChunk is the number of rows that pass through all stages of a call
// together, or 0 where rows are so few that columns are handed out instead. How
// the work is split never changes a sum.
func RowChunk(m, threads int) int {
	if threads == 1 {
		// As few chunks as there must be: each reads all weights again.
		chunks := (m + MaxRowChunk - 1) / MaxRowChunk
		rows := (m + chunks - 1) / chunks
		return (rows + RowTiles - 1) / RowTiles * RowTiles
	}
	if chunk := m / (ChunksPerThread * threads) / RowTiles * RowTiles; chunk >= MinRowChunk {
		return min(chunk, MaxRowChunk)
	}
	return 0
}
