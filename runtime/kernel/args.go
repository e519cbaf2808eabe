package kernel

import "unsafe"

// Args is what every matrix-product kernel takes, through one pointer. A call
// computes NTiles neighbouring tiles of MR rows x NR columns,
//
//	C[i,j] = act(alpha * sum_k A[i,k]*B[k,j] (+ C[i,j]) + bias[j] + residual[i,j])
//
// each sum one chain of fused multiply-adds in increasing k. MR, NR and the
// activation belong to the kernel; offsets and strides are in bytes; a nil
// Bias, Residual or Aux is left out. Assembly reads the fields by offset:
// the generator derives the offsets from this struct.
//
// A kernel whose lanes run across blocks ([Row.Across]) has a vector of [LaneGroup]
// neighbouring entries, one of each block, wherever others have an entry: A, B and C
// have a distance for each of their two indices, C[i,j] = sum_k A[i,k]*B[k,j] lane by
// lane, and there is nothing else, but for the flag Continue.
type Args struct {
	// A is the first row of the left operand: entry (i, k) lies at
	// A + i*LDA + the place of k, where the segments list the places of all k
	// in order. Of formats that pack it ([Format.Packs]) rows hold entries of
	// [Format.LeftType] side by side, whole groups of k, and there is one segment.
	A unsafe.Pointer
	// B is the first packed panel: [group of k][32] in the kernel's format (or 16, or
	// 48, where NR is). Segments but the last are whole groups.
	B unsafe.Pointer
	// C is the first row of the tile.
	C unsafe.Pointer
	// Bias holds one entry a column, in the order of the packed columns.
	Bias unsafe.Pointer
	// Residual has the strides of C and is added after the bias.
	Residual unsafe.Pointer
	// Aux receives the values before the activation; of gated ones the gates, and
	// UpAux bytes further the ups. Kernels without an activation leave it alone.
	Aux unsafe.Pointer
	// Segs points to NSegs segments.
	Segs  unsafe.Pointer
	NSegs int
	// LDA, LDC and LDAux step to the next row; KStep to the next k inside a
	// segment.
	LDA, KStep, LDC, LDAux, UpAux int
	// NTiles counts the column tiles; PanelStep leads from one panel of B to
	// the next.
	NTiles, PanelStep int
	// Ahead, where not 0, is the address of what the call asks the level-2 cache for while it
	// multiplies: its row's lines every four k from there on. The call
	// leaves it at the next line, so it may point past a buffer: nothing is read
	// through it. Strip kernels ask for nothing.
	Ahead uintptr
	Alpha float32
	Flags Flags

	// MR, NR and Epilogue repeat the tile for the portable kernel, which
	// serves all of them.
	MR, NR   int
	Epilogue Epilogue

	// LDB steps to the next k of B, ColB and ColC to the next column of B and C, where
	// the lanes run across blocks.
	LDB, ColB, ColC int
}

// Flags are the switches of a matrix product.
type Flags uint32

const (
	// Accumulate adds the sum to what C holds: the earlier blocks of k.
	Accumulate Flags = 1 << iota
	// Scale multiplies the sum by Alpha, before anything is added to it: sums
	// of two products with a weight each meet in C.
	Scale
	// PreOnly makes a gated kernel store Aux and leave out the activation: for
	// all blocks of k but the last. Its Accumulate reads Aux, because C has no
	// room for both halves. Other kernels take no notice of it.
	PreOnly
	// Continue begins each sum at what C holds: a chain that was interrupted goes on.
	Continue
	// AskB makes a kernel that asks for vectors of the groups of lanes to come ask for
	// those of B beside those of A. It and Continue are for kernels whose lanes run across
	// blocks alone, which know no other flag.
	AskB
)

// Segment is a stretch of Len values of k, the first Off bytes from the row's
// start.
type Segment struct {
	Off int `json:"offset"`
	Len int `json:"length"`
}

// Func is a matrix-product kernel.
type Func func(*Args)

// ABI counts the meanings that the fields of Args have had. Generated packages
// assert theirs when they are compiled, and the layout of the struct with it.
const ABI = 5
