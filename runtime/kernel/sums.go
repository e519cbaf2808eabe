package kernel

// The sizes that decide bits: where sums break. There is one set for all targets,
// numbers of threads and shapes, so that results have the same bits on each.
const (
	// MaxKC bounds the depth of a block of k: each is one chain of fused
	// multiply-adds. Deeper tiles overflow the L1 cache.
	MaxKC = 768
	// MaxKC16 is that of formats whose weights have 16 bits. Tiles over panels of so many
	// bytes read them from the L2 cache at full speed: what a block costs is to load and
	// store the sums.
	MaxKC16 = 3072
	// RowBlock is the number of rows that a weight gradient sums in one chain.
	RowBlock = 256
	// KeyBlock and QueryBlock are attention's blocks. They have a fixed place in
	// the sequence, so that a row's result depends on no other row and on no
	// split of the work.
	KeyBlock   = 128
	QueryBlock = 96
	// VecChunk bounds the entries of one call of an elementwise kernel, some tens
	// of microseconds, and of one part of its sums; SquaresChunk those of the
	// float32 part of a sum of squares.
	VecChunk     = 1 << 14
	SquaresChunk = 4096
	// PassRows is the number of rows of an elementwise unit of a model's work,
	// and of one partial sum of the gradients that sum over rows.
	PassRows = 32
	// HeadRows bounds the logits that exist at one time: the head's gradient is
	// summed over so many rows, then over these sums.
	HeadRows = 256
)

// Sums are these sizes as a value: what generated code was made for.
type Sums struct {
	MaxKC        int `json:"max_kc"`
	MaxKC16      int `json:"max_kc_16"`
	RowBlock     int `json:"row_block"`
	KeyBlock     int `json:"key_block"`
	QueryBlock   int `json:"query_block"`
	VecChunk     int `json:"vec_chunk"`
	SquaresChunk int `json:"squares_chunk"`
	PassRows     int `json:"pass_rows"`
	HeadRows     int `json:"head_rows"`
}

// AllSums are those of this module.
var AllSums = Sums{MaxKC, MaxKC16, RowBlock, KeyBlock, QueryBlock, VecChunk, SquaresChunk, PassRows, HeadRows}
