package gpu

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
)

// Kernel describes a kernel of any family: one row of the table that the
// emitter, the gates, the tests and the launchers read. Every number but the
// counts that launches are given is a constant of the kernel.
type Kernel struct {
	// Name is the entry point: what the family says of its plan, and the hash of
	// the rest of this row. Template is the family's text,
	// templates/<Template>.cu.tmpl, executed with Plan; File is the generated file
	// that holds the kernel.
	Name, Template, File string
	Plan                 any
	// Threads of a block, its bytes of dynamic shared memory, and how many blocks
	// share a multiprocessor.
	Threads, SharedBytes, BlocksPerSM int
	Counts                            Instructions
	Grid                              [3]Extent
	Params                            []Param
}

// named completes a row: its name is the family's base, _r, and a hash of the row
// in decimal digits, as all constants of a name. Kernels are found by name, and so
// one that was made for another row, of other threads, shared memory, grid or
// parameters, is missing, and never launched by this row.
func (k Kernel) named(base string) Kernel {
	row := k
	row.Name, row.Plan = "", nil
	h := fnv.New32a()
	fmt.Fprintf(h, "%+v", row)
	k.Name = fmt.Sprintf("%s_r%d", base, h.Sum32())
	return k
}

// MaxRegisters of a thread: what is left when BlocksPerSM blocks share the
// 65536 of a multiprocessor, and no more than leaves the compiler some room: 232,
// or 248 of the 255 that there are in blocks of 128 threads and less.
func (k Kernel) MaxRegisters() int {
	most := 232
	if k.Threads <= 128 {
		most = 248
	}
	return min(most, 65536/(k.BlocksPerSM*k.Threads)&^7)
}

// Instructions are the instructions in the text of a kernel that a plan answers
// for: tensor-core instructions, loads of four fragments, 16-byte asynchronous
// copies and 16-byte stores to global memory, and copies and stores of other
// sizes.
type Instructions struct{ MMA, LDMatrix, Copies, Stores, OtherCopies, OtherStores int }

// Extent is a number that may depend on counts of a launch: N times the
// groups of Each (1 where that is 0) in Of, times Times, plus Plus; empty counts
// are 1.
type Extent struct {
	N          int
	Of         Count
	Each, Plus int
	Times      Count
}

// Count names a number that a launch is given.
type Count string

// The counts.
const (
	// Tokens are the rows of the batch; Parts those that a sum over tokens is cut
	// into.
	Tokens Count = "tokens"
	Parts  Count = "parts"
)

// Counts are the counts of one launch.
type Counts map[Count]int

// In is the extent's value.
func (e Extent) In(c Counts) int {
	n := e.N
	if e.Of != "" {
		each := max(1, e.Each)
		n *= up(c[e.Of], each) / each
	}
	if e.Times != "" {
		n *= c[e.Times]
	}
	return n + e.Plus
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
	Name string
	Type Type
	// Arrays: what becomes of them, their entries, and whether the address may
	// be 0.
	Access   Access
	Len      Extent
	Optional bool
	// Count is the count that a number is; empty where the caller sets it. Unit is
	// what one of it stands for where that is a constant of the kernel.
	Count Count
	Unit  int
}

// Bytes of an array for the counts of a launch.
func (p Param) Bytes(c Counts) int { return p.Type.Bytes() * p.Len.In(c) }

// Blocks is the grid for the counts of a launch.
func (k Kernel) Blocks(c Counts) [3]int {
	return [3]int{k.Grid[0].In(c), k.Grid[1].In(c), k.Grid[2].In(c)}
}

// tokenRows is the extent of rows of n entries, one a token.
func tokenRows(n int) Extent { return Extent{N: n, Of: Tokens} }

// fixed is an extent that depends on nothing.
func fixed(n int) Extent { return Extent{N: n} }

// Unique sorts kernels by name; those that several need come once.
func Unique(ks []Kernel) []Kernel {
	byName := map[string]Kernel{}
	for _, k := range ks {
		byName[k.Name] = k
	}
	return slices.SortedFunc(maps.Values(byName), func(a, b Kernel) int { return cmp.Compare(a.Name, b.Name) })
}

// Kernels lists what a layer runs: its products, what finishes those that are
// split, and the sums of parts and of the bias's gradient.
func (l Layer) Kernels() []Kernel {
	ks := []Kernel{SumParts.Kernel()}
	width := 0
	for _, f := range l.Factors {
		for _, p := range f.Products() {
			ks = append(ks, p.Kernels()...)
		}
		width = f.Forward.C.Pitch
	}
	if l.Spec.Bias {
		ks = append(ks, Columns{Width: width, Precision: l.Precision}.Kernel(), SumRows.Kernel())
	}
	if l.Precision == Float32s {
		ks = append(ks, Cast{}.Kernel(), Cast{Widen: true}.Kernel())
	}
	return ks
}

// Kernels lists what a network runs.
func (f FFN) Kernels() []Kernel { return append(f.FC1.Kernels(), f.FC2.Kernels()...) }

// Table lists kernels by name; those that several of its arguments need come
// once.
func Table[T interface{ Kernels() []Kernel }](of ...T) []Kernel {
	var ks []Kernel
	for _, o := range of {
		ks = append(ks, o.Kernels()...)
	}
	return Unique(ks)
}

// Kernel is the product's row of the kernel table.
func (k Product) Kernel() Kernel {
	rows := func(o Operand) Extent {
		switch {
		case o.BlockRows > 0:
			return fixed(k.Blocks * o.Rows * o.Pitch)
		case o.Rows > 0:
			return fixed(o.Rows * o.Pitch)
		}
		return tokenRows(o.Pitch)
	}
	c := Param{Name: "c", Type: ArrayBF16, Access: Written, Len: rows(k.C)}
	pre := Param{Name: "pre", Type: ArrayBF16, Access: Read, Optional: true}
	switch k.Epilogue {
	case GELU, SwiGLU:
		pre.Access, pre.Len = Written, rows(k.C)
	case GELUBackward:
		pre.Optional, pre.Len = false, rows(k.C)
	case SwiGLUBackward:
		pre.Optional, pre.Len = false, tokenRows(2*k.C.Pitch)
		c.Len = tokenRows(2 * k.C.Pitch)
	}
	if k.Epilogue == SwiGLU {
		c.Len = tokenRows(k.C.Pitch / 2)
	}
	switch {
	case k.Split():
		c.Type, c.Len = ArrayFloat32, tokenRows(k.Parts*k.C.Pitch)
		pre = Param{Name: "pre", Type: ArrayBF16, Access: Read, Optional: true}
	case k.Pass == BackwardWeight:
		c.Type, c.Len = ArrayFloat32, Extent{N: c.Len.N, Of: Parts}
	case k.Float32():
		c.Type = ArrayFloat32
	}
	y := fixed(up(k.Rows(), k.Tile.M) / k.Tile.M)
	if k.Rows() == 0 {
		y = Extent{N: 1, Of: Tokens, Each: k.Tile.M}
	}
	z := fixed(max(1, k.Parts))
	if k.Pass == BackwardWeight {
		z = Extent{N: 1, Of: Parts}
	}
	stores := k.Stores()
	if k.Split() {
		stores = 1
	}
	g := Kernel{
		Template: "gemm", File: string(k.Pass), Plan: k,
		Threads: k.Tile.Threads(), SharedBytes: k.SharedBytes(), BlocksPerSM: k.BlocksPerSM,
		Counts: Instructions{MMA: k.MMA(), LDMatrix: k.LDMatrix(), Copies: k.StaticCopies(), Stores: stores},
		Grid:   [3]Extent{fixed(k.Blocks * (up(k.Cols(), k.Tile.N) / k.Tile.N)), y, z},
		Params: []Param{
			{Name: "a", Type: ArrayBF16, Access: Read, Len: rows(k.A)},
			{Name: "b", Type: ArrayBF16, Access: Read, Len: rows(k.B)},
			{Name: "bias", Type: ArrayFloat32, Access: Read, Len: fixed(k.C.Pitch), Optional: !k.Bias || k.Split()},
			pre, c,
			{Name: "tokens", Type: Uint32, Count: Tokens},
			// How many stages of the sum one part has.
			{Name: "split", Type: Uint32, Unit: StageDepth},
		},
	}
	if k.Precision == Float32s {
		k.float32(&g)
	}
	return g.named(k.base())
}

// Files lists the generated files that hold the kernels.
func Files(ks []Kernel) []string {
	files := map[string]bool{}
	for _, k := range ks {
		files[k.File] = true
	}
	return slices.Sorted(maps.Keys(files))
}
