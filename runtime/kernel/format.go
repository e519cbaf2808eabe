package kernel

import (
	"fmt"
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
	BFloat16  = Type{"bfloat16", 16}
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

// The formats.
const (
	// F32 is float32 throughout.
	F32 FormatName = "f32"
	// BF16 rounds weights and activations to bfloat16. A sum takes pairs of k, the odd one
	// first: what VDPBF16PS does, two multiply-adds, each rounded to nearest even, that
	// know no subnormal numbers. Elsewhere the kernels of BF16W do the same, but that they
	// know them, of packs whose pairs are swapped, and of rows whose pairs are.
	BF16 FormatName = "bf16"
	// BF16W has the packs of BF16, widened and multiplied with float32 activations in
	// increasing k.
	BF16W FormatName = "bf16w"
	// Int8W has integers of 8 bits in its packs, widened and multiplied with float32
	// activations in increasing k. It is one of keys and values, whose scales are no part of
	// its packs: values have one for each k.
	Int8W FormatName = "int8w"
)

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
	// MaxKC bounds the depth of a block of k: one of the sizes of [Sums], 0 for [MaxKC].
	MaxKC int
	// KPad is what the depths of packs are padded to multiples of, 0 for the group.
	KPad int
	// Scales of type ScaleType belong to columns, or to each ScaleGroup k of one.
	Scales     Scales
	ScaleType  Type
	ScaleGroup int
	// Needs are the features beside those of the instruction set. Where a processor lacks
	// them, [Target.For] takes a lower one.
	Needs map[ISA][]Feature
	// Native lists the instruction sets that multiply the activations' type, each with the
	// feature that it takes, if any. Everywhere else the kernels of the format Widened run.
	Native  map[ISA]Feature
	Widened FormatName
	// Gains is a feature that the kernels of an instruction set gain from: there are two of
	// each, and the one that has it in [Row.With] runs where the processor has it.
	Gains map[ISA]Feature
	// Heights are those of the format's kernels, rising; nil for every one.
	Heights []int
	// KeysValues says that no layer's weights come in the format.
	KeysValues bool
	// Peak is the operation that measures the rate of the format's multiply-adds.
	Peak VecOp
}

var formats = []Format{
	{Name: F32, Weights: Float32, Activations: Float32, Accumulator: Float32, KGroup: 1, MaxKC: MaxKC, Peak: OpPeak},
	{
		Name: BF16, Weights: BFloat16, Activations: BFloat16, Accumulator: Float32, KGroup: 2, MaxKC: MaxKC16,
		Native: map[ISA]Feature{AVX512: HasAVX512BF16, Portable: ""}, Widened: BF16W, Peak: OpPeakBF16,
	},
	{Name: BF16W, Weights: BFloat16, Activations: Float32, Accumulator: Float32, KGroup: 2, MaxKC: MaxKC16, Peak: OpPeak},
	{
		Name: Int8, Weights: Integer8, Activations: Integer8, Accumulator: Integer32, KGroup: 4, KPad: QuantGroup, MaxKC: MaxKCIntegers,
		Scales: ColumnScales, ScaleType: Float32, Needs: vnni, Gains: avxVNNI, Heights: fewHeights, Peak: OpPeakInt8,
	},
	{
		Name: Int4, Weights: Integer4, Activations: Integer8, Accumulator: Integer32, KGroup: 8, KPad: QuantGroup, MaxKC: MaxKCIntegers,
		Scales: GroupScales, ScaleType: BFloat16, ScaleGroup: QuantGroup, Needs: vnni, Gains: avxVNNI, Heights: fewHeights, Peak: OpPeakInt4,
	},
	{Name: Int8W, Weights: Integer8, Activations: Float32, Accumulator: Float32, KGroup: 1, MaxKC: MaxKC, Heights: fewHeights, KeysValues: true, Peak: OpPeak},
}

// fewHeights are those of formats of integers.
var fewHeights = []int{1, 2, 4, 6, 12}

// Formats lists the names of the formats of weights.
func Formats() []FormatName { return namesWhere(func(f Format) bool { return !f.KeysValues }) }

// AllFormats lists those of keys and values, too.
func AllFormats() []FormatName { return namesWhere(func(Format) bool { return true }) }

func namesWhere(which func(Format) bool) (names []FormatName) {
	for _, f := range formats {
		if which(f) {
			names = append(names, f.Name)
		}
	}
	return names
}

// held has, of what keys and values may be held in, the format of their packs.
var held = []struct{ as, packs FormatName }{{F32, F32}, {BF16, BF16W}, {Int8, Int8W}}

// KVFormats lists what keys and values may be held in.
func KVFormats() (names []FormatName) {
	for _, h := range held {
		names = append(names, h.as)
	}
	return names
}

// Held is the format of the packs of keys and values that are held in this one, and
// whether they may be: one whose numbers are widened and multiplied with float32.
func (n FormatName) Held() (FormatName, bool) {
	if n == "" {
		n = F32
	}
	for _, h := range held {
		if h.as == n {
			return h.packs, true
		}
	}
	return "", false
}

// ParseFormat is the format of a name, or an error that lists the valid ones.
func ParseFormat(s string) (FormatName, error) {
	if f, ok := FormatName(s).Format(); ok && !f.KeysValues {
		return f.Name, nil
	}
	return "", fmt.Errorf("unknown format %q; valid: %v", s, Formats())
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

// Packs reports whether kernels read a left operand that was packed for them: rounded to
// the activations' type, its k side by side in the order of the weights' pack, and whole
// groups of them. Others read float32 where it lies.
func (f *Format) Packs() bool { return f.Activations != Float32 }

// KernelsOf is the format whose kernels an instruction set has for this one: its own, or
// the widened one.
func (f *Format) KernelsOf(isa ISA) FormatName {
	if _, native := f.Native[isa]; native || f.Widened == "" {
		return f.Name
	}
	return f.Widened
}

// Kernels is the format whose kernels run on a target and this processor.
func (f *Format) Kernels(t *Target) FormatName {
	if feature := f.Native[t.ISA]; f.Widened != "" && feature != "" && (t.SlowPairs || !Has(feature)) {
		return f.Widened
	}
	return f.KernelsOf(t.ISA)
}

// LeftType is the type of the left operand that kernels of a format read for this one: the
// activations' own, or float32 that holds their values.
func (f *Format) LeftType(kernels FormatName) Type {
	if kernels != f.Name {
		return Float32
	}
	return f.Activations
}

// LeftBytes is the size of k entries of a row of the left operand, whole groups of them.
func (f *Format) LeftBytes(kernels FormatName, k int) int {
	return f.Groups(k) * f.KGroup * f.LeftType(kernels).Bits / 8
}

// LeftStride is the distance in bytes of packed rows of k entries: rows that lie a
// multiple of many cache lines apart would share few sets of the L1 cache, and packing
// stores whole vectors.
func (f *Format) LeftStride(kernels FormatName, k int) int {
	const line = 64
	if f.Name.Quantized() {
		return LeftRow(k)
	}
	return (f.LeftBytes(kernels, k)+line-1)/line*line + line
}

// ColumnUnit is what the number of a pack's columns is a multiple of: kernels of packs
// that are not float32 exist over whole panels alone.
func (n FormatName) ColumnUnit() int {
	if n == "" || n == F32 {
		return HalfPanel
	}
	return Panel
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
