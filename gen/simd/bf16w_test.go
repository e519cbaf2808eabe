package simd

import (
	"bytes"
	"encoding/binary"
	"encoding/gob"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/structuredffn/sffn/gen/bind"
	"github.com/structuredffn/sffn/internal/bound"
	"github.com/structuredffn/sffn/internal/scratch"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// This file is all that a format takes: its row of the table of formats, its inner
// step, the rows of its kernels, and how weights are packed. The format is bf16w:
// weights are bfloat16, in pairs of k, widened in registers and multiplied by
// float32 activations in increasing k.

var bf16w = kernel.Format{Name: "bf16w", Weights: kernel.Type{Name: "bfloat16", Bits: 16}, Activations: kernel.Float32, Accumulator: kernel.Float32, KGroup: 2}

// Entry c of a vector is w[2p][c] | w[2p+1][c] << 16: a bfloat16 is the upper half of
// a float32.
var bf16wStep = step{
	k: 1,
	load: func(e *asm, m operand.Mem, d int, b reg.VecVirtual) {
		if d == 0 {
			e.VPSLLD(operand.U8(16), m, b)
			return
		}
		e.VMOVUPS(e.bits(0xffff0000), b)
		e.VPANDD(m, b, b)
	},
	left:     broadcast,
	multiply: fma,
}

func init() {
	kernel.AddFormat(bf16w)
	steps[bf16w.Name] = bf16wStep
}

const (
	columns = 96
	ldc     = columns + 4 // entries
	main64  = 6           // rows of the main tile, over two panels
)

func lda(depth int) int { return depth + 3 }

// rowsOf are the kernels of a format over blocks of k of the depths given: the main
// tile over two panels and over the last one, one row, and those for any shape.
func rowsOf(format kernel.FormatName, depths ...int) (rows []kernel.Row) {
	row := func(mr, nr int, s *kernel.Shape) {
		if s != nil && mr == 1 {
			s.LDA, s.LDC = 0, 0
		}
		rows = append(rows, kernel.Row{ISA: kernel.AVX512, Format: format, MR: mr, NR: nr, Shape: s, Sweeps: 1, Unroll: 4, PrefetchC: true, Ahead: 4})
	}
	for _, k := range depths {
		for _, tile := range [][2]int{{main64, 2 * kernel.Panel}, {main64, kernel.Panel}, {1, kernel.Panel}} {
			row(tile[0], tile[1], &kernel.Shape{LDA: kernel.EntryBytes * lda(k), KStep: kernel.EntryBytes, LDC: kernel.EntryBytes * ldc, Segs: []kernel.Segment{{Len: k}}})
		}
	}
	row(main64, 2*kernel.Panel, nil)
	row(1, kernel.Panel, nil)
	return rows
}

// roundBF16 rounds to the nearest bfloat16, ties to even.
func roundBF16(x float32) uint16 {
	u := math.Float32bits(x)
	return uint16((u + 0x7fff + u>>16&1) >> 16)
}

func widen(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) }

// packBF16W packs w, [k][columns]. Where the depth is odd, nothing may read the
// other half of the last group.
func packBF16W(w []uint16, depth int) *kernel.Packed {
	p := newPacked(bf16w, depth)
	for panel := range p.Layout.Panels() {
		dst := p.Panel(0, panel)
		for k := range 2 * bf16w.Groups(depth) {
			for c := range kernel.Panel {
				h := roundBF16(float32(math.NaN()))
				if k < depth {
					h = w[k*columns+panel*kernel.Panel+c]
				}
				binary.LittleEndian.PutUint16(dst[4*(k/2*kernel.Panel+c)+2*(k%2):], h)
			}
		}
	}
	return p
}

// packWidened packs the same weights as float32.
func packWidened(w []uint16, depth int) *kernel.Packed {
	f32, _ := kernel.F32.Format()
	p := newPacked(f32, depth)
	for panel := range p.Layout.Panels() {
		dst := kernel.Floats(p.Panel(0, panel))
		for k := range depth {
			for c := range kernel.Panel {
				dst[k*kernel.Panel+c] = widen(w[k*columns+panel*kernel.Panel+c])
			}
		}
	}
	return p
}

func newPacked(f kernel.Format, depth int) *kernel.Packed {
	return kernel.NewPacked(f, kernel.Layout{Columns: columns, KBlocks: []int{depth}, Panel: kernel.Panel}, func(n int) []byte { return make([]byte, n) })
}

// Call is a call of a kernel in the program that the test builds.
type Call struct {
	Kernel    string
	A         []float32
	B         []byte
	C         int // entries
	Segs      []kernel.Segment
	LDA, LDC  int // bytes
	Tiles     int
	PanelStep int
}

// program runs the calls that it reads and writes what they leave in C. Each
// operand borders on memory that faults on any access.
const program = `package main

import (
	"encoding/gob"
	"log"
	"math"
	"os"
	"syscall"
	"unsafe"

	_ "example.com/bf16w/kernels"
	"github.com/structuredffn/sffn/runtime/kernel"
)

type call struct {
	Kernel    string
	A         []float32
	B         []byte
	C         int
	Segs      []kernel.Segment
	LDA, LDC  int
	Tiles     int
	PanelStep int
}

// guarded is memory that ends at a protected page.
func guarded(n int) []byte {
	size := os.Getpagesize()
	room := (n + size - 1) / size * size
	m, err := syscall.Mmap(-1, 0, room+size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err == nil {
		err = syscall.Mprotect(m[room:], syscall.PROT_NONE)
	}
	if err != nil {
		log.Fatal(err)
	}
	return m[room-n : room]
}

func main() {
	var calls []call
	if err := gob.NewDecoder(os.Stdin).Decode(&calls); err != nil {
		log.Fatal(err)
	}
	var results [][]float32
	for _, c := range calls {
		k, ok := kernel.Lookup(c.Kernel)
		if !ok {
			log.Fatalf("no kernel %s", c.Kernel)
		}
		a, b, y := kernel.Floats(guarded(kernel.EntryBytes*len(c.A))), guarded(len(c.B)), kernel.Floats(guarded(kernel.EntryBytes*c.C))
		copy(a, c.A)
		copy(b, c.B)
		for i := range y {
			y[i] = float32(math.NaN())
		}
		k.Func(&kernel.Args{A: unsafe.Pointer(&a[0]), B: unsafe.Pointer(&b[0]), C: unsafe.Pointer(&y[0]), Segs: unsafe.Pointer(&c.Segs[0]), NSegs: len(c.Segs),
			LDA: c.LDA, KStep: kernel.EntryBytes, LDC: c.LDC, NTiles: c.Tiles, PanelStep: c.PanelStep})
		results = append(results, y)
	}
	if err := gob.NewEncoder(os.Stdout).Encode(results); err != nil {
		log.Fatal(err)
	}
}
`

// runCalls emits the kernels, compiles them in a module of their own, and runs the
// calls there.
func runCalls(t *testing.T, rows []kernel.Row, calls []Call) (results [][]float32) {
	files, err := Mul("kernels", rows)
	if err != nil {
		t.Fatal(err)
	}
	if files["z_register_amd64.go"], err = bind.Register("kernels", rows); err != nil {
		t.Fatal(err)
	}
	var missing []kernel.Feature
	for _, k := range rows {
		for _, f := range k.Needs() {
			if !kernel.Has(f) && !slices.Contains(missing, f) {
				missing = append(missing, f)
			}
		}
	}
	if len(missing) > 0 {
		t.Skipf("%v is missing on this machine, or all assembly in this build: %s is emitted, not run", missing, rows[0].Format)
	}
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if err := scratch.Write(dir, "example.com/bf16w", root); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "kernels"), 0o777); err != nil {
		t.Fatal(err)
	}
	write("main.go", []byte(program))
	for name, data := range files {
		write(filepath.Join("kernels", name), data)
	}
	var in, out, log bytes.Buffer
	if err := gob.NewEncoder(&in).Encode(calls); err != nil {
		t.Fatal(err)
	}
	cmd := scratch.Go(t.Context(), dir, "run", ".")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = &in, &out, &log
	if err := cmd.Run(); err != nil {
		t.Fatalf("go run: %v\n%s", err, &log)
	}
	if err := gob.NewDecoder(&out).Decode(&results); err != nil {
		t.Fatal(err)
	}
	return results
}

// drawBF16 are weights of size 1/sqrt(depth), some of them subnormal, zero or
// large.
func drawBF16(r *rand.Rand, depth int) []uint16 {
	w := make([]uint16, depth*columns)
	for i := range w {
		switch x := r.NormFloat64() / math.Sqrt(float64(depth)); r.IntN(40) {
		case 0:
			w[i] = uint16(r.IntN(0x80)) | uint16(r.IntN(2))<<15 // subnormal, or a zero
		case 1:
			w[i] = roundBF16(float32(1e6 * x))
		default:
			w[i] = roundBF16(float32(x))
		}
	}
	return w
}

// product is one of the test's products: A lies in segments of k with a gap.
type product struct {
	kernel.Row
	depth      int
	segs       []kernel.Segment
	a          []float32
	w          []uint16
	ofBF16, of Call // the same product by either format
	cols, at   int  // columns, and the first one
}

func newProduct(r *rand.Rand, k kernel.Row, w []uint16, segs []kernel.Segment, panel, tiles int) *product {
	p := &product{Row: k, segs: segs, w: w, cols: tiles * k.NR, at: panel * kernel.Panel}
	for _, s := range segs {
		p.depth += s.Len
	}
	last := segs[len(segs)-1]
	end := last.Off/kernel.EntryBytes + last.Len
	stride := lda(end)
	p.a = make([]float32, (k.MR-1)*stride+end)
	for i := range p.a {
		p.a[i] = float32(math.NaN())
	}
	for i := range k.MR {
		for _, s := range segs {
			for d := range s.Len {
				p.a[i*stride+s.Off/kernel.EntryBytes+d] = float32(r.NormFloat64())
			}
		}
	}
	call := func(format kernel.FormatName, pack *kernel.Packed) Call {
		k.Format = format
		return Call{Kernel: k.Name(), A: p.a, B: pack.From(0, panel), C: (k.MR-1)*ldc + p.cols, Segs: segs,
			LDA: kernel.EntryBytes * stride, LDC: kernel.EntryBytes * ldc, Tiles: tiles, PanelStep: pack.PanelStep(0)}
	}
	p.ofBF16, p.of = call(bf16w.Name, packBF16W(w, p.depth)), call(kernel.F32, packWidened(w, p.depth))
	return p
}

// check compares what the format's kernel leaves in C with the sum in float64, and
// with what the kernel of float32 leaves there.
func (p *product) check(c, f32 []float32) error {
	stride := p.ofBF16.LDA / kernel.EntryBytes
	for i := range p.MR {
		for j := range p.cols {
			var sum bound.Chain
			k := 0
			for _, s := range p.segs {
				for d := range s.Len {
					sum.Add(float64(p.a[i*stride+s.Off/kernel.EntryBytes+d]), bound.Of(widen(p.w[k*columns+p.at+j])))
					k++
				}
			}
			at := i*ldc + j
			if want := sum.Num(); !want.Holds(c[at]) {
				return fmt.Errorf("entry %d,%d is %v, want %v within %.2g", i, j, c[at], want.V, want.E)
			}
			if math.Float32bits(c[at]) != math.Float32bits(f32[at]) {
				return fmt.Errorf("entry %d,%d is %v, and %v by float32", i, j, c[at], f32[at])
			}
		}
		for j := p.cols; j < ldc && i < p.MR-1; j++ {
			if c[i*ldc+j] == c[i*ldc+j] {
				return fmt.Errorf("entry %d,%d is %v, where there is no column", i, j, c[i*ldc+j])
			}
		}
	}
	return nil
}

// products has those of every kernel.
func products(rows []kernel.Row) (ps []*product) {
	r := rand.New(rand.NewPCG(21, 3))
	add := func(k kernel.Row, segs ...kernel.Segment) {
		depth := 0
		for _, s := range segs {
			depth += s.Len
		}
		panel, tiles := 0, 1
		switch {
		case k.MR == 1:
			tiles = columns / kernel.Panel
		case k.NR == kernel.Panel:
			panel = columns/kernel.Panel - 1
		}
		ps = append(ps, newProduct(r, k, drawBF16(r, depth), segs, panel, tiles))
	}
	for _, k := range rows {
		if k.Shape != nil {
			add(k, k.Shape.Segs...)
			continue
		}
		for _, depth := range []int{1, 2, 3, 4, 5, 6, 7, 64, 65} {
			add(k, kernel.Segment{Len: depth})
		}
		add(k, kernel.Segment{Len: 14}, kernel.Segment{Off: kernel.EntryBytes * 17, Len: 9})
	}
	return ps
}

// The format's kernels compute what those of float32 do from the same weights, to
// the bit: the main tile and one row, for one shape, of even and odd depth, and for
// any.
func TestBF16W(t *testing.T) {
	depths := []int{64, 65}
	rows := rowsOf(bf16w.Name, depths...)
	ps := products(rows)
	var calls []Call
	for _, p := range ps {
		calls = append(calls, p.ofBF16, p.of)
	}
	// A test of the test: with the halves of each group swapped, the sums are others.
	swapped := ps[0].ofBF16
	swapped.B = bytes.Clone(swapped.B)
	for i := 0; i < len(swapped.B); i += 4 {
		b := swapped.B[i:]
		b[0], b[1], b[2], b[3] = b[2], b[3], b[0], b[1]
	}
	results := runCalls(t, append(rows, rowsOf(kernel.F32, depths...)...), append(calls, swapped))
	for i, p := range ps {
		if err := p.check(results[2*i], results[2*i+1]); err != nil {
			t.Errorf("%s, segments %v: %v", p.Name(), p.segs, err)
		}
	}
	if ps[0].check(results[len(results)-1], results[1]) == nil {
		t.Error("the halves of all groups are swapped, and nobody notices")
	}
	if bytes := len(ps[0].ofBF16.B); 2*bytes != len(ps[0].of.B) {
		t.Errorf("a pack takes %d bytes, and %d in float32", bytes, len(ps[0].of.B))
	}
}

// What no kernel of the format can be made of is refused, with the reason.
func TestBF16WRefused(t *testing.T) {
	for _, c := range []struct {
		want   string
		change func(k *kernel.Row)
	}{
		{"unroll: 3 cuts the groups of 2 k of bf16w", func(k *kernel.Row) { k.Unroll = 3 }},
		{"segments: those of 33 k cut the groups of 2 of bf16w", func(k *kernel.Row) {
			k.Shape.Segs = []kernel.Segment{{Len: 33}, {Off: 200, Len: 33}}
		}},
	} {
		k := rowsOf(bf16w.Name, 64)[0]
		if err := k.Validate(); err != nil {
			t.Fatal(err)
		}
		c.change(&k)
		if err := k.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
	// Register files have what they have: AVX2 cannot shift what lies in memory.
	k := rowsOf(bf16w.Name, 64)[2]
	k.ISA, k.Sweeps = kernel.AVX2, 2
	if _, err := Mul("kernels", []kernel.Row{k}); err == nil || !strings.Contains(err.Error(), "AVX512") {
		t.Errorf("AVX2: %v", err)
	}
}
