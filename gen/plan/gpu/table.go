package gpu

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"

	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// Kernel is a planned kernel of any family: its row of the kernel table, which
// launchers and proofs go by, and what the emitter and the gates of the compiler need
// beside it. Every number but the counts that launches are given is a constant of the
// kernel.
type Kernel struct {
	// The row's name is what the family says of its plan, and the hash of the rest. Its
	// role is the family's text, too, templates/<Role>.cu.tmpl, executed with Plan.
	table.Kernel
	Plan any
	// BlocksPerSM is how many blocks share a multiprocessor.
	BlocksPerSM int
	Counts      Instructions
}

// minCompute is the compute capability that all kernels are made for.
const minCompute = 80

// named completes a row: its name is the family's base, _r, and a hash in decimal
// digits, as all constants of a name, of what it is launched with and held to.
// Machine code is found by name, and so what was made for other threads, shared
// memory, grid or parameters is never launched by this row.
func (k Kernel) named(base string) Kernel {
	row := struct {
		Name, Template, File              string
		Plan                              any
		Threads, SharedBytes, BlocksPerSM int
		Counts                            Instructions
		Grid                              [3]table.Extent
		Params                            []table.Param
	}{"", string(k.Role), k.File, nil, k.Threads, k.SharedBytes, k.BlocksPerSM, k.Counts, k.Grid, k.Params}
	h := fnv.New32a()
	fmt.Fprintf(h, "%+v", row)
	k.Name = fmt.Sprintf("%s_r%d", base, h.Sum32())
	k.Rows.From, k.Compute = max(1, k.Rows.From), minCompute
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

// tokenRows is the extent of rows of n entries, one a token.
func tokenRows(n int) table.Extent { return table.Extent{N: n, Of: table.Tokens} }

// array is a parameter that a kernel cannot do without.
func array(name string, t table.Type, a table.Access, n table.Extent) table.Param {
	return table.Param{Name: name, Type: t, Access: a, Len: n}
}

// fixed is an extent that depends on nothing.
func fixed(n int) table.Extent { return table.Extent{N: n} }

// Unique sorts kernels by name; those that several need come once.
func Unique(ks []Kernel) []Kernel {
	byName := map[string]Kernel{}
	for _, k := range ks {
		byName[k.Name] = k
	}
	return slices.SortedFunc(maps.Values(byName), func(a, b Kernel) int { return cmp.Compare(a.Name, b.Name) })
}

// Rows are those of kernels.
func Rows(ks []Kernel) []table.Kernel {
	rows := make([]table.Kernel, len(ks))
	for i, k := range ks {
		rows[i] = k.Kernel
	}
	return rows
}

// Kernels lists what a layer runs: its products, what finishes those that are
// split, and the sums of parts and of the bias's gradient.
func (l Layer) Kernels() []Kernel {
	ks := []Kernel{SumParts.Kernel()}
	for _, f := range l.Factors {
		for _, p := range f.Products() {
			ks = append(ks, p.Kernels()...)
		}
	}
	if l.Spec.Bias {
		ks = append(ks, l.BiasKernel(), SumRows.Kernel())
	}
	if l.Precision == table.Float32s {
		ks = append(ks, Cast{}.Kernel(), Cast{table.Cast{Widen: true}}.Kernel())
	}
	return ks
}

// BiasKernel sums the gradient of the bias, over rows of the layer's outputs.
func (l Layer) BiasKernel() Kernel {
	return Columns{Columns: table.Columns{Width: l.Factors[len(l.Factors)-1].Forward.C.Pitch, Precision: l.Precision}}.Kernel()
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
	rows := func(o table.Operand) table.Extent {
		switch {
		case o.BlockRows > 0:
			return fixed(k.Blocks * o.Rows * o.Pitch)
		case o.Rows > 0:
			return fixed(o.Rows * o.Pitch)
		}
		return tokenRows(o.Pitch)
	}
	c := table.Param{Name: "c", Type: table.ArrayBF16, Access: table.Written, Len: rows(k.C)}
	pre := table.Param{Name: "pre", Type: table.ArrayBF16, Access: table.Read, Optional: true}
	switch gated := k.Epilogue.Gated(); {
	case k.Epilogue.Activates():
		pre.Access, pre.Len = table.Written, rows(k.C)
		if gated {
			c.Len = tokenRows(k.C.Pitch / 2)
		}
	case k.Epilogue.Slopes() && gated:
		pre.Optional, pre.Len = false, tokenRows(2*k.C.Pitch)
		c.Len = tokenRows(2 * k.C.Pitch)
	case k.Epilogue.Slopes():
		pre.Optional, pre.Len = false, rows(k.C)
	}
	switch {
	case k.Split():
		c.Type, c.Len = table.ArrayFloat32, tokenRows(k.Parts*k.C.Pitch)
		pre = table.Param{Name: "pre", Type: table.ArrayBF16, Access: table.Read, Optional: true}
	case k.Pass == table.BackwardWeight:
		c.Type, c.Len = table.ArrayFloat32, table.Extent{N: c.Len.N, Of: table.Parts}
	case k.Float32():
		c.Type = table.ArrayFloat32
	}
	y := fixed(up(k.Rows(), k.Tile.M) / k.Tile.M)
	if k.Rows() == 0 {
		y = table.Extent{N: 1, Of: table.Tokens, Each: k.Tile.M}
	}
	z := fixed(max(1, k.Parts))
	if k.Pass == table.BackwardWeight {
		z = table.Extent{N: 1, Of: table.Parts}
	}
	shape, stores := k.Product, k.Stores()
	if k.Split() { // the rest is the other kernel's
		shape.Epilogue, shape.Bias, shape.Sums = table.Plain, false, false
		shape.PartDepth = k.PartSteps() * StageDepth
		stores = 1
	}
	g := Kernel{Plan: k, BlocksPerSM: k.BlocksPerSM, Kernel: table.Kernel{
		Role: table.RoleGEMM, File: string(k.Pass), Shape: table.Shape{Product: &shape},
		Threads: k.Tile.Threads(), SharedBytes: k.SharedBytes(), Tile: k.Tile,
		Grid: [3]table.Extent{fixed(k.Blocks * (up(k.Cols(), k.Tile.N) / k.Tile.N)), y, z},
		Params: []table.Param{
			{Name: "a", Type: table.ArrayBF16, Access: table.Read, Len: rows(k.A)},
			{Name: "b", Type: table.ArrayBF16, Access: table.Read, Len: rows(k.B)},
			{Name: "bias", Type: table.ArrayFloat32, Access: table.Read, Len: fixed(k.C.Pitch), Optional: !k.Bias || k.Split()},
			pre, c,
			{Name: "tokens", Type: table.Uint32, Count: table.Tokens},
			// How many stages of the sum one part has.
			{Name: "split", Type: table.Uint32, Unit: StageDepth},
		},
	}, Counts: Instructions{MMA: k.MMA(), LDMatrix: k.LDMatrix(), Copies: k.StaticCopies(), Stores: stores}}
	if k.Tile.M == fewTile {
		g.Rows.To = FewTokens
	}
	if k.Pass == table.BackwardWeight {
		g.Cut = cut(g.Grid[0].N * g.Grid[1].N)
	}
	if k.Precision == table.Float32s {
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
