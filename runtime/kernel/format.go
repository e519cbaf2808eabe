package kernel

import (
	"fmt"
	"math/bits"
	"slices"
)

// Type is how a number is held.
type Type struct {
	Name string
	Bits int
}

// The types of the shipped formats.
var (
	Float32   = Type{"float32", 32}
	Integer4  = Type{"int4", 4}
	Integer8  = Type{"int8", 8}
	Integer32 = Type{"int32", 32}
)

// EntryBytes is the size of an entry of activations, parameters, gradients and
// scratch: all that callers hold is float32, whatever the format of the packs.
const EntryBytes = 4

// Scales says what a format's scales belong to.
type Scales string

// Where scales are: nowhere, one a column of a panel, or one a column and group of
// k.
const (
	NoScales     Scales = ""
	ColumnScales Scales = "column"
	GroupScales  Scales = "group"
)

// FormatName names a format; empty is F32.
type FormatName string

// F32 is the format of training: float32 throughout.
const F32 FormatName = "f32"

// Format is a row of the table of formats: how the weights of a product are packed,
// and what multiplies them. All sizes of packs follow from it.
type Format struct {
	Name FormatName
	// Weights is the type in the pack, Activations the one that a kernel turns the
	// float32 of its left operand into, Accumulator that of the sums.
	Weights, Activations, Accumulator Type
	// KGroup is the number of neighbouring k of a column that lie side by side: 1, 2
	// or 4.
	KGroup int
	// KPad is what the depths of packs are padded to multiples of, 0 for the group.
	KPad int
	// Scales of type ScaleType belong to columns, or to each ScaleGroup k of one.
	Scales     Scales
	ScaleType  Type
	ScaleGroup int
	// Needs are the features beside those of the instruction set.
	Needs map[ISA][]Feature
}

var formats = []Format{
	{Name: F32, Weights: Float32, Activations: Float32, Accumulator: Float32, KGroup: 1},
	{
		Name: Int8, Weights: Integer8, Activations: Integer8, Accumulator: Integer32, KGroup: 4, KPad: QuantGroup,
		Scales: ColumnScales, ScaleType: Float32, Needs: vnni,
	},
	{
		Name: Int4, Weights: Integer4, Activations: Integer8, Accumulator: Integer32, KGroup: 8, KPad: QuantGroup,
		Scales: GroupScales, ScaleType: Type{"bfloat16", 16}, ScaleGroup: QuantGroup, Needs: vnni,
	},
}

// AddFormat adds a row to the table of formats: for tests of formats to come.
func AddFormat(f Format) {
	if f.KGroup < 1 || f.Weights.Bits*f.KGroup%8 != 0 || bits.OnesCount(uint(f.GroupBytes())) != 1 {
		panic(fmt.Sprintf("kernel: format %s: groups of %d x %d bits are no power of two of bytes", f.Name, f.KGroup, f.Weights.Bits))
	}
	formats = append(formats, f)
}

// Format is the row of a name, and whether there is one.
func (n FormatName) Format() (Format, bool) {
	if n == "" {
		n = F32
	}
	i := slices.IndexFunc(formats, func(f Format) bool { return f.Name == n })
	if i < 0 {
		return Format{}, false
	}
	return formats[i], true
}

// GroupBytes is the size of one group of k of a column.
func (f *Format) GroupBytes() int { return f.Weights.Bits * f.KGroup / 8 }

// Groups is the number of groups of kc products; the last one may have padding.
func (f *Format) Groups(kc int) int {
	if f.KPad > 0 {
		kc = (kc + f.KPad - 1) / f.KPad * f.KPad
	}
	return (kc + f.KGroup - 1) / f.KGroup
}

// PanelBytes is the size of a panel of so many columns over kc products, scales
// included.
func (f *Format) PanelBytes(columns, kc int) int {
	n := f.Groups(kc) * columns * f.GroupBytes()
	switch f.Scales {
	case ColumnScales:
		n += columns * f.ScaleType.Bits / 8
	case GroupScales:
		n += (kc + f.ScaleGroup - 1) / f.ScaleGroup * columns * f.ScaleType.Bits / 8
	}
	return n
}
