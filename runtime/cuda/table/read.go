package table

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
)

// File is the name of the file of a folder's rows: JSON in gzip.
const File = "z_kernels.json.gz"

// version changes with what rows mean.
const version = 1

// What a table may have: rows; and what a row may say. No kernel needs as much.
const (
	MaxRows   = 1 << 16
	MaxParams = 32
	maxName   = 512
	maxDim    = 1 << 31 // of a width, a vocabulary, a pitch
	maxThread = 1024
	maxShared = 1 << 20
)

// file is a table as it is written.
type file struct {
	Version int      `json:"version"`
	Kernels []Kernel `json:"kernels"`
}

// Encode writes rows, one a line.
func Encode(ks []Kernel) ([]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "{\"version\":%d,\"kernels\":[", version)
	for i, k := range ks {
		if err := k.validate(); err != nil {
			return nil, fmt.Errorf("kernel %s: %w", k.Name, err)
		}
		row, err := json.Marshal(k)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('\n')
		b.Write(row)
	}
	b.WriteString("\n]}\n")
	return b.Bytes(), nil
}

// Decode reads what Encode wrote. Whatever a launcher or a proof could not go by
// is an error that names the row.
func Decode(data []byte) ([]Kernel, error) {
	var f file
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, fmt.Errorf("kernels' table: %w", err)
	}
	if head.Version != version {
		return nil, fmt.Errorf("kernels' table: version %d, this program reads %d: generate the kernels again", head.Version, version)
	}
	if err := d.Decode(&f); err != nil {
		return nil, fmt.Errorf("kernels' table: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("kernels' table: something comes after its end")
	}
	if len(f.Kernels) > MaxRows {
		return nil, fmt.Errorf("kernels' table: %d rows, at most %d", len(f.Kernels), MaxRows)
	}
	seen := map[string]bool{}
	for i, k := range f.Kernels {
		err := k.validate()
		if err == nil && seen[k.Name] {
			err = errors.New("it comes twice")
		}
		if err != nil {
			return nil, fmt.Errorf("kernels' table: row %d, kernel %.*q: %w", i+1, maxName, k.Name, err)
		}
		seen[k.Name] = true
	}
	return f.Kernels, nil
}

var word = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// validate says what of a row is out of bounds.
func (k Kernel) validate() error {
	v := validator{}
	v.word("name", k.Name)
	v.word("file", k.File)
	v.word("hash", "h"+k.Hash)
	v.dim("threads", k.Threads, 32, maxThread)
	if k.Threads%32 != 0 {
		v.fail("threads: %d, want a multiple of 32", k.Threads)
	}
	v.dim("shared", k.SharedBytes, 0, maxShared)
	v.dim("compute", k.Compute, 10, 1000)
	v.dim("rows.from", k.Rows.From, 1, maxDim)
	if k.Rows.To != 0 {
		v.dim("rows.to", k.Rows.To, k.Rows.From, maxDim)
	}
	for i, e := range k.Grid {
		v.extent(fmt.Sprintf("grid[%d]", i), e)
	}
	if len(k.Params) > MaxParams {
		v.fail("%d params, at most %d", len(k.Params), MaxParams)
	}
	names := map[string]bool{}
	for i, p := range k.Params {
		at := fmt.Sprintf("params[%d]", i)
		v.word(at+".name", p.Name)
		if names[p.Name] {
			v.fail("%s: a second %s", at, p.Name)
		}
		names[p.Name] = true
		v.dim(at+".unit", p.Unit, 0, maxDim)
		switch {
		case p.Type.Array():
			oneOf(&v, at+".access", p.Access, Read, Written, Updated)
			v.extent(at+".len", p.Len)
			if p.Count != "" {
				v.fail("%s: an array is no count", at)
			}
		default:
			oneOf(&v, at+".type", p.Type, Uint32, Float32)
			v.count(at+".count", p.Count)
			if p.Access != "" || p.Len != (Extent{}) || p.Optional || p.Count != "" && p.Type != Uint32 {
				v.fail("%s: a number has neither access nor length, and counts are uint32", at)
			}
		}
	}
	v.cut(k)
	v.shape(k)
	return errors.Join(v.errs...)
}

// validator collects what is wrong.
type validator struct{ errs []error }

func (v *validator) fail(format string, args ...any) {
	v.errs = append(v.errs, fmt.Errorf(format, args...))
}

func (v *validator) word(what, s string) {
	if len(s) > maxName || !word.MatchString(s) {
		v.fail("%s: %.32q, want letters, digits and _", what, s)
	}
}

func (v *validator) dim(what string, n, lo, hi int) {
	if n < lo || n > hi {
		v.fail("%s: %d, want %d to %d", what, n, lo, hi)
	}
}

func oneOf[T ~string](v *validator, what string, s T, valid ...T) {
	if !slices.Contains(valid, s) {
		v.fail("%s: %.32q, want one of %q", what, s, valid)
	}
}

func (v *validator) count(what string, c Count) {
	oneOf(v, what, c, "", Tokens, Parts, Entries, TableRows, Positions, Slots, Sequences, SeqLen)
}

func (v *validator) extent(what string, e Extent) {
	v.dim(what+".n", e.N, 0, math.MaxInt64)
	v.dim(what+".each", e.Each, 0, maxDim)
	v.dim(what+".plus", e.Plus, 0, maxDim)
	v.count(what+".of", e.Of)
	v.count(what+".times", e.Times)
}

func (v *validator) cut(k Kernel) {
	if cuts := k.Role == RoleColumns || k.Shape.Product != nil && k.Shape.Product.Pass == BackwardWeight; !cuts {
		if k.Cut != (Cut{}) {
			v.fail("cut: nothing of its sums is cut")
		}
		return
	}
	v.dim("cut.unit", k.Cut.Unit, 1, maxDim)
	v.dim("cut.least", k.Cut.Least, 1, maxDim)
	v.dim("cut.most", k.Cut.Most, 1, maxDim)
}

// shape holds a shape to its role.
func (v *validator) shape(k Kernel) {
	s := k.Shape
	there := 0
	for _, is := range []bool{s.Product != nil, s.Finish != nil, s.Sum != nil, s.Columns != nil, s.Cast != nil, s.Norm != nil, s.Embed != nil, s.Rotate != nil, s.Loss != nil, s.Attention != nil, s.Update != nil} {
		if is {
			there++
		}
	}
	want := false
	switch k.Role {
	case RoleGEMM, RoleSGEMM:
		if want = s.Product != nil; want {
			v.product(*s.Product, k.Tile, map[Role]Precision{RoleGEMM: BF16, RoleSGEMM: Float32s}[k.Role])
		}
	case RoleFinish:
		if want = s.Finish != nil; want {
			v.dim("width", s.Finish.Width, 1, maxDim)
			v.dim("parts", s.Finish.Parts, 2, maxDim)
			v.epilogue(s.Finish.Precision, s.Finish.Epilogue)
		}
	case RoleSum:
		if want = s.Sum != nil; want {
			v.dim("down", s.Sum.Down, 1, maxThread)
		}
	case RoleColumns:
		if want = s.Columns != nil; want {
			v.dim("width", s.Columns.Width, 1, maxDim)
			v.epilogue(s.Columns.Precision, Plain)
		}
	case RoleCast:
		want = s.Cast != nil
	case RoleNorm:
		if want = s.Norm != nil; want {
			v.dim("hidden", s.Norm.Hidden, 1, maxDim)
			v.dim("blocks", s.Norm.Blocks, 1, max(1, s.Norm.Hidden))
			v.dim("norm.rows", s.Norm.Rows, 1, maxDim)
			if s.Norm.Hidden%max(1, s.Norm.Blocks) != 0 {
				v.fail("blocks: %d of a width of %d", s.Norm.Blocks, s.Norm.Hidden)
			}
		}
	case RoleEmbed:
		if want = s.Embed != nil; want {
			v.dim("hidden", s.Embed.Hidden, 1, maxDim)
			v.dim("positions", s.Embed.Positions, 0, maxDim)
			lo := 1
			if s.Embed.Backward {
				lo = 0
			}
			v.dim("vocab", s.Embed.Vocab, lo, maxDim)
		}
	case RoleRotate:
		if want = s.Rotate != nil; want {
			v.heads(s.Rotate.Heads, s.Rotate.KVHeads, s.Rotate.HeadDim)
			if !s.Rotate.Turn && !s.Rotate.Cache || s.Rotate.HeadDim%2 != 0 {
				v.fail("rotate: %+v, want an even head, turned or put into a cache", *s.Rotate)
			}
		}
	case RoleLoss:
		if want = s.Loss != nil; want {
			v.dim("vocab", s.Loss.Vocab, 1, maxDim)
			v.dim("pitch", s.Loss.Pitch, s.Loss.Vocab, maxDim)
		}
	case RoleAttend, RoleAttendRows, RoleDelta:
		if want = s.Attention != nil; want {
			a := *s.Attention
			v.heads(a.Heads, a.KVHeads, a.HeadDim)
			if a.KVHeads > 0 && a.Heads%a.KVHeads != 0 {
				v.fail("heads: %d share %d", a.Heads, a.KVHeads)
			}
			oneOf(v, "pass", a.Pass, AttendForward, AttendDelta, AttendQueries, AttendKeys)
			if (a.Pass == AttendDelta) != (k.Role == RoleDelta) || a.Rows != (k.Role == RoleAttendRows) || a.Cache && a.Pass != AttendForward {
				v.fail("pass: %+v is no %s", a, k.Role)
			}
		}
	case RoleAdamW, RolePackBF16, RoleSumSquares, RoleClipNorm:
		if want = s.Update != nil; want {
			lo := 0
			if k.Role == RoleSumSquares {
				lo = 1
			}
			v.dim("each", s.Update.Each, lo, maxDim)
		}
	default:
		v.fail("role: %.32q is unknown", k.Role)
		return
	}
	if there != 1 || !want {
		v.fail("shape: want that of %s and no other", k.Role)
	}
	if k.Tile != (Tile{}) && s.Product == nil {
		v.fail("tile: only products have one")
	}
}

func (v *validator) heads(heads, kv, dim int) {
	v.dim("heads", heads, 1, 1<<16)
	v.dim("kv_heads", kv, 1, 1<<16)
	v.dim("head_dim", dim, 1, 1<<16)
}

func (v *validator) epilogue(p Precision, e Epilogue) {
	oneOf(v, "precision", p, BF16, Float32s)
	oneOf(v, "epilogue", e, Epilogues()...)
}

func (v *validator) product(p Product, t Tile, precision Precision) {
	oneOf(v, "pass", p.Pass, Forward, BackwardData, BackwardWeight)
	v.epilogue(p.Precision, p.Epilogue)
	if p.Precision != precision {
		v.fail("precision: %s, want %s", p.Precision, precision)
	}
	v.dim("blocks", p.Blocks, 1, maxDim)
	for _, n := range []struct {
		what string
		n    int
	}{{"tile.m", t.M}, {"tile.n", t.N}, {"tile.warps_m", t.WarpsM}, {"tile.warps_n", t.WarpsN}} {
		v.dim(n.what, n.n, 1, 1<<12)
	}
	v.dim("parts", p.Parts, 0, 1<<16)
	if p.Split() {
		v.dim("part_depth", p.PartDepth, 1, maxDim)
		if p.Pass == BackwardWeight || p.Epilogue != Plain || p.Bias || p.Sums {
			v.fail("parts: what is in parts has its epilogue elsewhere, and gradients are cut")
		}
	}
	v.operand("a", p.A, p.Blocks)
	v.operand("b", p.B, p.Blocks)
	v.operand("c", p.C, p.Blocks)
	if (p.Pass == BackwardWeight) != (p.Depth() == 0) {
		v.fail("pass: only gradients of weights are summed over tokens")
	}
	if p.A.Inner() != p.B.Inner() {
		v.fail("a, b: sums over %d and over %d", p.A.Inner(), p.B.Inner())
	}
	if p.Cols() < 1 {
		v.fail("b: tokens are rows of results, not columns")
	}
}

// operand holds the places of an operand to its rows.
func (v *validator) operand(what string, o Operand, blocks int) {
	v.dim(what+".rows", o.Rows, 0, maxDim)
	v.dim(what+".pitch", o.Pitch, 1, maxDim)
	v.dim(what+".block_rows", o.BlockRows, 0, maxDim)
	c := o.Cols
	v.dim(what+".cols.len", c.Len, 1, maxDim)
	v.dim(what+".cols.run", c.Run, 1, maxDim)
	v.dim(what+".cols.step", c.Step, 0, maxDim)
	v.dim(what+".cols.block", c.Block, 0, maxDim)
	v.dim(what+".cols.of", c.Of, 0, maxDim)
	oneOf(v, what+".cols.then", c.Then, NoShuffle, Deal, Riffle)
	if len(v.errs) > 0 {
		return
	}
	last := (c.Len-1)/c.Run*c.Step + min(c.Len, c.Run) - 1
	switch {
	case c.Then != NoShuffle && (c.Of != blocks || times(c.Of, c.Len) > o.Pitch):
		v.fail("%s.cols: %d blocks of %d are shuffled in a row of %d", what, c.Of, c.Len, o.Pitch)
	case c.Then == NoShuffle && o.BlockRows == 0 && times(blocks-1, c.Block)+last >= o.Pitch,
		o.BlockRows > 0 && (c.Len > o.Pitch || o.Rows > o.BlockRows):
		v.fail("%s.cols: entries lie outside of a row of %d", what, o.Pitch)
	case c.Pairs && c.Len%2 != 0 || o.Pairs && o.Rows%2 != 0:
		v.fail("%s: gates and ups are an odd number", what)
	}
}
