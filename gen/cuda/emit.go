// Package cuda writes CUDA C from a plan, runs nvcc on it, and says what came
// out. It decides nothing: tiles, stages and places are the plan's.
package cuda

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"text/template"

	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/runtime/cuda/table"
	"github.com/structuredffn/sffn/templates"
)

// view is what the template needs beside the plan.
type view struct {
	gpu.Product
	K, WarpM, WarpN, BytesA int
	// TilesCol counts the tiles of one block's columns, AllRows the stored rows
	// of C.
	TilesCol, AllRows int
	// Each is the number of results that one thread stores at a time.
	Each     int
	PartialN bool
}

func newView(k gpu.Product) view {
	v := view{
		Product: k, K: gpu.StageDepth,
		WarpM: k.Tile.M / k.Tile.WarpsM, WarpN: k.Tile.N / k.Tile.WarpsN,
		BytesA:   2 * gpu.StageDepth * k.Tile.M,
		TilesCol: ceil(k.Cols(), k.Tile.N), AllRows: k.Blocks * k.C.Rows,
		Each: 8, PartialN: k.Cols()%k.Tile.N != 0,
	}
	switch {
	case k.Float32() || k.Split():
		v.Each = 4
	case k.Epilogue.Activates() && k.Epilogue.Gated():
		v.Each = 16
	}
	return v
}

func ceil(n, by int) int { return (n + by - 1) / by }

// load is what the loader of one operand needs.
type load struct {
	Name                  string
	Summed                bool
	Copies, Chunks, Total int
	Guard                 bool
	At, Ok                string
}

func newLoad(v view, name string, o table.Operand, side, outer int) load {
	l := load{Name: name, Summed: o.Summed, Copies: v.Copies(side), Chunks: gpu.StageDepth / 8, Total: side * gpu.StageDepth / 8}
	if o.Summed {
		l.Chunks = side / 8
	}
	l.Guard = l.Total%v.Tile.Threads() != 0
	row := "r"
	if o.BlockRows > 0 {
		row = fmt.Sprintf("(block * %d + r)", o.BlockRows)
	}
	l.At = fmt.Sprintf("(size_t)%s * %d + %s", row, o.Pitch, cplace(o, "block", "col"))
	var ok []string
	rows, cols := fmt.Sprint(o.Rows), o.Cols.Len
	if o.Rows == 0 {
		rows = "tokens"
	}
	rowStep, colStep := side, gpu.StageDepth
	if o.Summed {
		rowStep, colStep = colStep, rowStep
	}
	if o.Rows%rowStep != 0 || o.Rows == 0 {
		ok = append(ok, "r < "+rows)
	}
	if cols%colStep != 0 {
		ok = append(ok, fmt.Sprintf("col < %d", cols))
	}
	l.Ok = strings.Join(ok, " && ")
	return l
}

// cplace is the C expression of an entry's place in a stored row. The packed
// weights have one block after the other in rows of their own.
func cplace(o table.Operand, block, col string) string {
	p := o.Cols
	if p.Pairs {
		col = paired(col, p.Len)
	}
	switch all := fmt.Sprintf("(%s * %d + %s)", block, p.Len, col); p.Then {
	case table.Deal:
		return fmt.Sprintf("%s %% %d * %d + %s / %d", all, p.Of, p.Len, all, p.Of)
	case table.Riffle:
		return fmt.Sprintf("%s %% %d * %d + %s / %d", all, p.Len, p.Of, all, p.Len)
	}
	at := fmt.Sprintf("(%s)", col)
	if p.Run != p.Len {
		at = fmt.Sprintf("((%s) / %d * %d + (%s) %% %d)", col, p.Run, p.Step, col, p.Run)
	}
	if o.BlockRows == 0 && p.Block != 0 {
		at = fmt.Sprintf("%s * %d + %s", block, p.Block, at)
	}
	return at
}

// paired is the C expression of table.Places.Paired.
func paired(i string, n int) string { return fmt.Sprintf("(%s %% 2 * %d + %s / 2)", i, n/2, i) }

// float32View is what the template of float32 products needs beside the plan.
type float32View struct {
	view
	// Pitch is that of rows in shared memory, Stage the tokens of a stage that
	// launches count parts in.
	Pitch, Stage int
}

func newFloat32View(p any) any {
	v := newView(p.(gpu.Product))
	v.K, v.Each = gpu.Float32Depth, 1
	if v.Epilogue.Activates() && v.Epilogue.Gated() {
		v.Each = 2
	}
	return float32View{v, gpu.Float32Pitch, gpu.StageDepth}
}

// entry is the C expression of the index of an operand's entry: i counts the
// rows or columns that are not summed, k those that are.
func entry(o table.Operand, i, k string) string {
	row, col := i, k
	if o.Summed {
		row, col = k, i
	}
	if o.Pairs {
		row = paired(row, o.Rows)
	}
	if o.BlockRows > 0 {
		row = fmt.Sprintf("(block * %d + %s)", o.BlockRows, row)
	}
	return fmt.Sprintf("(size_t)%s * %d + %s", row, o.Pitch, cplace(o, "block", col))
}

// outer and inner are the C expressions of the row or column and of the
// product, in its stage, that a thread loads in its q-th turn: neighbouring lanes
// load neighbours, and store them in different banks.
func outer(o table.Operand) string {
	if o.Summed {
		return "thread % 64"
	}
	return "thread / 8 + q / 2 * 32"
}
func inner(o table.Operand) string {
	if o.Summed {
		return "thread / 64 + q * 4"
	}
	return "thread % 8 + q % 2 * 8"
}

// swizzle is the C expression of a chunk's place in a stage.
func swizzle(o table.Operand, side int) string {
	if o.Summed {
		return fmt.Sprintf("row * %d + ((chunk ^ (row & 7)) << 4)", 2*side)
	}
	return fmt.Sprintf("row * %d + ((chunk ^ (row >> 1 & 3)) << 4)", 2*gpu.StageDepth)
}

// act is the name of an epilogue's activation: that of its functions on the device.
func act(e table.Epilogue) string {
	name, _ := e.Act()
	return name
}

// activation is the name of that in a kernel's epilogue, empty where there is none.
func activation(k gpu.Kernel) string {
	switch {
	case k.Shape.Product != nil:
		return act(k.Shape.Product.Epilogue)
	case k.Shape.Finish != nil:
		return act(k.Shape.Finish.Epilogue)
	}
	return ""
}

// views make of a family's plan what its template is executed with; families
// that are not here give their templates the plan itself.
var views = map[table.Role]func(any) any{
	"gemm":  func(p any) any { return newView(p.(gpu.Product)) },
	"sgemm": newFloat32View,
}

var kernelTemplates = template.Must(template.New("").Funcs(template.FuncMap{
	"load": newLoad, "cplace": cplace, "swizzle": swizzle, "entry": entry, "outer": outer, "inner": inner, "act": act,
}).ParseFS(templates.FS, "*.cu.tmpl", "*.cuh.tmpl"))

// Mark is the first line of every file that sffngen writes.
const Mark = "// Code generated by sffngen. DO NOT EDIT.\n"

// Source is the CUDA C of one file's kernels.
func Source(file string, kernels []gpu.Kernel) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(Mark + "\n#include \"" + Header + "\"\n")
	var written []string
	for _, k := range kernels {
		if k.File != file {
			continue
		}
		if t := kernelTemplates.Lookup(activation(k) + ".cuh.tmpl"); t != nil && !slices.Contains(written, t.Name()) {
			written = append(written, t.Name())
			b.WriteByte('\n')
			if err := t.Execute(&b, nil); err != nil {
				return nil, fmt.Errorf("cuda: %s: %w", t.Name(), err)
			}
		}
		data := k.Plan
		if v, ok := views[k.Role]; ok {
			data = v(data)
		}
		b.WriteByte('\n')
		if err := kernelTemplates.ExecuteTemplate(&b, string(k.Role)+".cu.tmpl", data); err != nil {
			return nil, fmt.Errorf("cuda: %s: %w", k.Name, err)
		}
	}
	return b.Bytes(), nil
}

// Header is the name of the device vocabulary's file.
const Header = "z_device.cuh"
