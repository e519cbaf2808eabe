// Package table describes GPU kernels as data: what each computes, how it is
// launched for given counts, what it reads and writes. sffngen writes such rows beside
// the kernels' text, launchers go by them, and proofs are made from them. It is a
// leaf: nothing of it knows how a kernel was planned.
package table

import (
	"encoding/json"
	"fmt"
	"math/bits"
)

// Kernel is one row of a table of kernels.
type Kernel struct {
	// Name is the kernel's entry point, File the generated file that holds it.
	Name string `json:"name"`
	File string `json:"file"`
	// Role is what it is launched for, and Shape what it computes: kernels of one
	// role, shape and range of rows take the same arrays and may stand in for each
	// other.
	Role  Role  `json:"role"`
	Shape Shape `json:"shape"`
	// Rows are the numbers of rows of a batch that it is made for.
	Rows Range `json:"rows"`
	// Compute is the least compute capability of its devices: ten times the major
	// number plus the minor one.
	Compute int `json:"compute"`
	// Threads of a block, and its bytes of dynamic shared memory.
	Threads     int `json:"threads"`
	SharedBytes int `json:"shared"`
	// Tile is a block's share of a product's results, nothing for other kernels.
	Tile Tile `json:"tile,omitzero"`
	// Cut says into how many parts a sum over rows goes, where it is cut.
	Cut    Cut       `json:"cut,omitzero"`
	Grid   [3]Extent `json:"grid"`
	Params []Param   `json:"params"`
	// Hash is that of the rest of the row with the kernel's text: [Kernel.Sum].
	Hash string `json:"hash"`
}

// Range is a number of rows of a batch from From to To, without end where To is 0.
type Range struct {
	From int `json:"from"`
	To   int `json:"to,omitzero"`
}

// Tile is the share of a thread block and of its warps.
type Tile struct {
	// M and N are the rows and columns of results, WarpsM x WarpsN the warps
	// that share them.
	M      int `json:"m"`
	N      int `json:"n"`
	WarpsM int `json:"warps_m"`
	WarpsN int `json:"warps_n"`
}

// Threads counts the threads of a block.
func (t Tile) Threads() int { return 32 * t.WarpsM * t.WarpsN }

// Extent is a number that may depend on counts of a launch: N times the
// groups of Each (1 where that is 0) in Of, times Times, plus Plus; empty counts
// are 1.
type Extent struct {
	N     int   `json:"n"`
	Of    Count `json:"of,omitzero"`
	Each  int   `json:"each,omitzero"`
	Plus  int   `json:"plus,omitzero"`
	Times Count `json:"times,omitzero"`
}

// Count names a number that a launch is given.
type Count string

// The counts.
const (
	// Tokens are the rows of the batch; Parts those that a sum over tokens is cut
	// into.
	Tokens Count = "tokens"
	Parts  Count = "parts"
	// Entries of an array that is handled one by one: parameters, gradients.
	Entries Count = "entries"
	// TableRows are those of a table that is handled row by row.
	TableRows Count = "rows"
	// Positions of the rotary table.
	Positions Count = "positions"
	// Slots are the positions of all sequences of a cache: sequences times
	// capacity.
	Slots Count = "slots"
	// Sequences of a batch, and SeqLen the tokens of each, or of the longest where
	// their numbers differ.
	Sequences Count = "sequences"
	SeqLen    Count = "seq"
)

// Counts are those of one launch.
type Counts map[Count]int

// In is the extent's value for counts that are not negative, or the most that an
// int holds.
func (e Extent) In(c Counts) int {
	n := e.N
	if e.Of != "" {
		each := max(1, e.Each)
		groups := c[e.Of] / each
		if c[e.Of]%each != 0 {
			groups++
		}
		n = times(n, groups)
	}
	if e.Times != "" {
		n = times(n, c[e.Times])
	}
	if n > maxInt-e.Plus {
		return maxInt
	}
	return n + e.Plus
}

const maxInt = 1<<63 - 1

// times is a product of numbers that are not negative, or the most that an int
// holds.
func times(a, b int) int {
	if hi, lo := bits.Mul64(uint64(a), uint64(b)); hi == 0 && lo <= maxInt {
		return int(lo)
	}
	return maxInt
}

// Type is the type of a parameter.
type Type string

// The types: arrays in global memory, and single numbers.
const (
	ArrayBF16    Type = "bf16[]"
	ArrayFloat32 Type = "float32[]"
	ArrayInt32   Type = "int32[]"
	Uint32       Type = "uint32"
	Float32      Type = "float32"
)

// Bytes of one entry.
func (t Type) Bytes() int {
	if t == ArrayBF16 {
		return 2
	}
	return 4
}

// Array reports whether the parameter is an address.
func (t Type) Array() bool { return t == ArrayBF16 || t == ArrayFloat32 || t == ArrayInt32 }

// Access says what a kernel does with an array.
type Access string

// The accesses. Written arrays are written whole, each entry once; Updated ones
// are read first, by the thread that writes them.
const (
	Read    Access = "read"
	Written Access = "written"
	Updated Access = "updated"
)

// Param is one parameter, in the order of the kernel's.
type Param struct {
	Name string `json:"name"`
	Type Type   `json:"type"`
	// Arrays: what becomes of them, their entries, and whether the address may
	// be 0.
	Access   Access `json:"access,omitzero"`
	Len      Extent `json:"len,omitzero"`
	Optional bool   `json:"optional,omitzero"`
	// Count is the count that a number is; empty where the caller sets it. Unit is
	// what one of it stands for where that is a constant of the kernel.
	Count Count `json:"count,omitzero"`
	Unit  int   `json:"unit,omitzero"`
}

// Bytes of an array for the counts of a launch.
func (p Param) Bytes(c Counts) int { return times(p.Type.Bytes(), p.Len.In(c)) }

// Blocks is the grid for the counts of a launch.
func (k Kernel) Blocks(c Counts) [3]int {
	return [3]int{k.Grid[0].In(c), k.Grid[1].In(c), k.Grid[2].In(c)}
}

// Param is the parameter of a name, and whether there is one.
func (k Kernel) Param(name string) (p Param, ok bool) {
	for _, p := range k.Params {
		if p.Name == name {
			return p, true
		}
	}
	return Param{}, false
}

// Cut says how a sum over rows is cut into parts, which another kernel adds up:
// each part but the last has the same number of units of Unit rows, there are no
// more than Most parts, and each has Least units or more. With Short the last one
// may have fewer.
type Cut struct {
	Unit  int  `json:"unit"`
	Least int  `json:"least"`
	Most  int  `json:"most"`
	Short bool `json:"short,omitzero"`
}

// Units of each part of a sum over so many rows.
func (c Cut) Units(rows int) int {
	units := ceil(rows, c.Unit)
	if c.Short {
		return max(c.Least, ceil(units, c.Most))
	}
	return ceil(units, max(1, min(c.Most, units/c.Least)))
}

// Parts of a sum over so many rows.
func (c Cut) Parts(rows int) int { return ceil(ceil(rows, c.Unit), c.Units(rows)) }

// MostParts is the most parts of so many rows and of fewer: as parts are whole
// units, fewer rows can have more.
func (c Cut) MostParts(rows int) int {
	units := ceil(rows, c.Unit)
	if c.Short {
		return min(c.Most, ceil(units, c.Least))
	}
	return max(1, min(c.Most, units/c.Least))
}

func ceil(n, by int) int { return (n + by - 1) / by }

// Purpose is the same for kernels that may stand in for each other: of one role, shape
// and range of rows.
func (k Kernel) Purpose() string {
	p, err := json.Marshal(struct {
		Role  Role
		Shape Shape
		Rows  Range
	}{k.Role, k.Shape, k.Rows})
	if err != nil {
		panic(err) // it is made of numbers and words
	}
	return string(p)
}

// Family names the kernels that do one thing, whatever their sizes: of attention, both
// those of tiles and those of rows.
func (k Kernel) Family() string {
	f, s := string(k.Role), k.Shape
	mark := func(is bool, what string) {
		if is {
			f += " " + what
		}
	}
	switch {
	case s.Product != nil:
		f += " " + string(s.Product.Precision) + " " + string(s.Product.Pass)
		mark(s.Product.Split(), "parts")
		mark(!s.Product.Split() && k.Rows.To > 0, "few")
	case s.Sum != nil:
		f += fmt.Sprint(" ", s.Sum.Down)
	case s.Columns != nil:
		f += " " + string(s.Columns.Precision)
	case s.Cast != nil:
		mark(s.Cast.Widen, "widening")
	case s.Norm != nil:
		mark(s.Norm.Backward, "backward")
	case s.Embed != nil:
		mark(s.Embed.Backward, "backward")
	case s.Rotate != nil:
		mark(!s.Rotate.Turn, "without rotation")
		mark(s.Rotate.Cache, "into the cache")
	case s.Attention != nil:
		f = "attention " + string(s.Attention.Pass)
		mark(s.Attention.Cache, "cache")
	}
	return f
}
