package kernel

// The formats of integers. Activations are int8 with a scale for each row, so that sums of
// products are exact: equal on every instruction set.
//
// A pack has the k of 32 neighbours as a group, whose last one may have padding. In an
// int8 pack byte b of 4-byte entry c of line q is w[4q+b][c] + 128; behind a panel are its
// columns' scales, float32. In an int4 pack byte b of entry c of line j of a group is
// w[8j+b][c] + 8 in its lower half, and w[8j+4+b][c] + 8 in the upper one; behind each
// group are its columns' scales, bfloat16. Weights have an offset, so that they are
// unsigned, as the instructions want one operand: what this adds to a sum is the same for
// all columns, and the sum begins at minus that.
//
// A row of the left operand is a group of k after the other, each -8 times the sum of its
// integers, an int32, then the integers. In front of the first group are the row's scale,
// a float32, and -128 times the sum of all integers, an int32.
const (
	// Int8 has a scale for each column.
	Int8 FormatName = "int8"
	// Int4 has a scale for each group of k of a column.
	Int4 FormatName = "int4"
	// QuantGroup is the number of k of a group.
	QuantGroup = 32
	// LeftGroupBytes is the size of a group of the left operand, LeftHead that of what
	// is in front of a row.
	LeftGroupBytes = QuantGroup + 4
	LeftHead       = 8
	// MaxKCIntegers bounds the depth of a product, whose sums have one block: 127 x 127
	// times that is an int32.
	MaxKCIntegers = 1 << 17
)

// vnni is what kernels of integers need for the instructions that sum four products of
// bytes.
var vnni = map[ISA][]Feature{AVX512: {HasAVX512VNNI}}

// avxVNNI is what has these instructions for the registers of AVX2.
var avxVNNI = map[ISA]Feature{AVX2: HasAVXVNNI}

// Quantized says that weights are integers with scales.
func (n FormatName) Quantized() bool { return n == Int8 || n == Int4 }

// QuantGroups is the number of groups of k of a depth.
func QuantGroups(k int) int { return (k + QuantGroup - 1) / QuantGroup }

// LeftRow is the distance in bytes of rows of the left operand of a depth: an odd number
// of cache lines, so that rows do not share the sets of the L1 cache.
func LeftRow(k int) int {
	const line = 64
	return (LeftHead+QuantGroups(k)*LeftGroupBytes+line-1)/line*line | line
}

// QuantAhead is the number of lines beyond each line of a panel for which kernels ask.
// One row of int8 is read as fast without.
func QuantAhead(f FormatName, mr int) int {
	if f == Int8 && mr == 1 {
		return 0
	}
	return 64
}
