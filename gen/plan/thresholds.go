package plan

// Axis is a size that crosses a threshold.
type Axis string

// The axes. Each has a test that walks its thresholds.
const (
	AxisDepth    Axis = "depth"       // products in each sum of a product
	AxisDepth16  Axis = "depth of 16" // the same, of formats of 16 bits
	AxisColumns  Axis = "columns"     // results of a product
	AxisRows     Axis = "rows"        // of a call: tokens
	AxisStride   Axis = "stride"      // entries of a source row; multiples of it
	AxisRunLen   Axis = "run"         // neighbouring results of a shuffled factor
	AxisBlocks   Axis = "blocks"      // of a factor that may run across them
	AxisNarrow   Axis = "narrow"      // inputs or outputs of a block of such a factor
	AxisBetween  Axis = "between"     // entries of a row between factors
	AxisInputs   Axis = "inputs"      // columns of a weight's gradient
	AxisOutputs  Axis = "outputs"     // rows of a weight's gradient
	AxisWeights  Axis = "weights"     // of a factor
	AxisFlops    Axis = "flops"       // of one stage of a call
	AxisKeys     Axis = "keys"        // of a sequence
	AxisQueries  Axis = "queries"     // of a sequence
	AxisHeadSize Axis = "head size"   // of attention
	AxisEntries  Axis = "entries"     // of a vector
	AxisTokens   Axis = "tokens"      // of a micro-batch
	AxisWidth    Axis = "width"       // of a model: its hidden size
)

// Threshold is a size at which a path changes: At is the last one of
// the lower side. Tests run every operation just below, at and just above.
type Threshold struct {
	Name string
	Axis Axis
	At   int
	// What changes beyond At.
	What string
}
