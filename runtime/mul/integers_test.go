package mul

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"unsafe"

	"github.com/structuredffn/sffn/gen/plan/cpu"
	"github.com/structuredffn/sffn/internal/guard"
	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/quant"
	"github.com/structuredffn/sffn/runtime/vec"
)

// integerCall is a product of integers: so many rows, over panels of 32 columns.
type integerCall struct {
	m              *quant.Matrix
	rows, panels   int
	x              [][]float32
	left           []byte
	pack           *kernel.Packed
	bias, residual []float32
	ldc            int
	with           int // bit 0: bias, bit 1: residual
}

// guardedBytes end at a protected page.
func guardedBytes(t testing.TB, n int) []byte {
	f := guard.Floats(t, (n+3)/4)
	return unsafe.Slice((*byte)(unsafe.Pointer(&f[0])), 4*len(f))[:n]
}

func newIntegerCall(t testing.TB, r *rand.Rand, f kernel.FormatName, rows, panels, depth int) *integerCall {
	c := &integerCall{m: quant.New(f, 1, panels*kernel.Panel-3, depth), rows: rows, panels: panels, ldc: panels*kernel.Panel + 5}
	w := make([]float32, depth)
	for o := range c.m.Out {
		for k := range w {
			w[k] = float32(r.NormFloat64())
		}
		c.m.SetRow(o, w, nil)
	}
	inputs := make([]float32, kernel.QuantGroups(depth)*kernel.QuantGroup)
	copy(inputs, c.m.Inputs)
	c.left = guardedBytes(t, rows*kernel.LeftRow(depth))
	for i := range rows {
		x := make([]float32, depth)
		for k := range x {
			x[k] = float32(r.NormFloat64())
		}
		c.x = append(c.x, x)
		vec.For(kernel.Portable).Quantize(c.left[i*kernel.LeftRow(depth):], x, inputs)
	}
	format, _ := f.Format()
	c.pack = kernel.NewPacked(format, kernel.Layout{Columns: panels * kernel.Panel, KBlocks: []int{depth}, Panel: kernel.Panel}, func(n int) []byte { return guardedBytes(t, n) })
	for p := range panels {
		columns := make([]int, kernel.Panel)
		for j := range columns {
			if columns[j] = p*kernel.Panel + j; columns[j] >= c.m.Out {
				columns[j] = -1
			}
		}
		packIntegers(c.pack.Panel(0, p), c.m, 0, columns)
	}
	c.bias, c.residual = guard.Floats(t, panels*kernel.Panel), guard.Floats(t, (rows-1)*c.ldc+panels*kernel.Panel)
	for _, x := range [][]float32{c.bias, c.residual} {
		for i := range x {
			x[i] = float32(r.NormFloat64())
		}
	}
	return c
}

// run is the result of a kernel, in memory that ends at a protected page.
func (c *integerCall) run(t testing.TB, k kernel.Info, y []float32) {
	for i := range y {
		y[i] = float32(math.NaN())
	}
	seg := kernel.Segment{Len: c.m.In}
	a := &kernel.Args{A: unsafe.Pointer(&c.left[kernel.LeftHead]), LDA: kernel.LeftRow(c.m.In), B: unsafe.Pointer(&c.pack.Data[0]), PanelStep: c.pack.PanelStep(0),
		C: unsafe.Pointer(&y[0]), LDC: kernel.EntryBytes * c.ldc, NTiles: c.panels, Segs: unsafe.Pointer(&seg), NSegs: 1, MR: k.MR, NR: k.NR}
	if c.with&1 != 0 {
		a.Bias = unsafe.Pointer(&c.bias[0])
	}
	if c.with&2 != 0 {
		a.Residual = unsafe.Pointer(&c.residual[0])
	}
	k.Func(a)
}

// check compares a result with the products of what the integers stand for.
func (c *integerCall) check(y []float32) error {
	w := make([]float32, c.m.In)
	for i := range c.rows {
		row := c.left[i*kernel.LeftRow(c.m.In):]
		scale := *(*float32)(unsafe.Pointer(&row[0]))
		for j := range c.panels * kernel.Panel {
			sum, size := 0.0, 0.0
			if j < c.m.Out {
				c.m.Weights(w, j)
				for k := range w {
					p := float64(w[k]) * float64(scale) * float64(left(unsafe.Pointer(&row[kernel.LeftHead]), k))
					sum += p
					size += math.Abs(p)
				}
			}
			// Weights are rounded; sums of a group are exact or rounded, and added; then two
			// factors, a bias and a residual.
			roundings := float64(2*kernel.QuantGroups(c.m.In) + 6)
			err := size
			if c.with&1 != 0 {
				sum += float64(c.bias[j])
				err += math.Abs(float64(c.bias[j]))
			}
			if c.with&2 != 0 {
				sum += float64(c.residual[i*c.ldc+j])
				err += math.Abs(float64(c.residual[i*c.ldc+j]))
			}
			if got := float64(y[i*c.ldc+j]); !(math.Abs(got-sum) <= roundings*0x1p-24*err) {
				return fmt.Errorf("entry %d,%d is %v, want %v", i, j, got, sum)
			}
		}
		for j := c.panels * kernel.Panel; j < c.ldc && i < c.rows-1; j++ {
			if v := y[i*c.ldc+j]; v == v {
				return fmt.Errorf("entry %d,%d is %v, where there is no column", i, j, v)
			}
		}
	}
	return nil
}

// integerKernels are those of a format that this machine runs, by height.
func integerKernels(f kernel.FormatName) (byHeight map[int][]kernel.Info, missing []kernel.ISA) {
	byHeight = map[int][]kernel.Info{}
	for _, isa := range kernel.Available() {
		t := kernel.For(isa)
		for _, k := range cpu.Any(t) {
			switch info, ok := kernel.Lookup(k.Name()); {
			case k.Format != f:
			case !ok || !kernel.Has(k.Needs()...):
				missing = append(missing, isa)
			default:
				byHeight[k.MR] = append(byHeight[k.MR], info)
			}
		}
	}
	return byHeight, missing
}

// Kernels of integers compute the products of what the integers stand for, with the same
// bits on every instruction set, and for a row whatever the rows beside it.
func TestIntegers(t *testing.T) {
	for _, f := range []kernel.FormatName{kernel.Int8, kernel.Int4} {
		byHeight, missing := integerKernels(f)
		if len(missing) > 0 {
			t.Logf("%s: this machine or build lacks %v", f, missing)
		}
		r := rand.New(rand.NewPCG(8, 8))
		for _, depth := range []int{1, 33, 100, 800} {
			tall := newIntegerCall(t, r, f, 12, 3, depth)
			one := byHeight[1][len(byHeight[1])-1]
			for tall.with = range 4 {
				var rows []float32
				for i := range tall.rows {
					c := *tall
					c.rows, c.left, c.residual = 1, c.left[i*kernel.LeftRow(depth):], c.residual[i*c.ldc:]
					y := make([]float32, c.ldc)
					c.run(t, one, y)
					rows = append(rows, y...)
				}
				for mr, ks := range byHeight {
					c := *tall
					c.rows = mr
					for _, k := range ks {
						y := guard.Floats(t, (mr-1)*c.ldc+c.panels*kernel.Panel)
						c.run(t, k, y)
						if err := c.check(y); err != nil {
							t.Fatalf("%s of %d k, operands %d: %v", k.Name, depth, c.with, err)
						}
						for i, v := range y {
							if i%c.ldc < c.panels*kernel.Panel && math.Float32bits(v) != math.Float32bits(rows[i]) {
								t.Fatalf("%s of %d k, operands %d: entry %d,%d is %v, of one row by %s %v", k.Name, depth, c.with, i/c.ldc, i%c.ldc, v, one.Name, rows[i])
							}
						}
					}
				}
			}
		}
	}
}

// The check of integers fails where a kernel leaves out the last group, takes the scale of
// a neighbour, or the start of another row.
func TestIntegersFaults(t *testing.T) {
	for _, f := range []kernel.FormatName{kernel.Int8, kernel.Int4} {
		byHeight, _ := integerKernels(f)
		k := byHeight[2][0]
		r := rand.New(rand.NewPCG(9, 9))
		for what, spoil := range map[string]func(c *integerCall, a *kernel.Args){
			"nothing":                 func(*integerCall, *kernel.Args) {},
			"a group left out":        func(c *integerCall, a *kernel.Args) { (*kernel.Segment)(a.Segs).Len -= kernel.QuantGroup },
			"rows that lie elsewhere": func(c *integerCall, a *kernel.Args) { a.LDA = 0 },
			"another panel":           func(c *integerCall, a *kernel.Args) { a.PanelStep = 0 },
			"no bias":                 func(c *integerCall, a *kernel.Args) { a.Bias = nil },
			"another start": func(c *integerCall, a *kernel.Args) {
				*(*int32)(unsafe.Add(a.A, 4-kernel.LeftHead)) += 128
				*(*int32)(a.A) += 8
			},
		} {
			c := newIntegerCall(t, r, f, 2, 2, 96)
			c.with = 3
			bad := k
			bad.Func = func(a *kernel.Args) { spoil(c, a); k.Func(a) }
			y := make([]float32, 2*c.ldc)
			c.run(t, bad, y)
			if err := c.check(y); (err == nil) != (what == "nothing") {
				t.Errorf("%s: %s: %v", f, what, err)
			}
		}
	}
}

func exactFMA(x, y, z float32) float32 {
	p := new(big.Float).SetPrec(1000).Mul(big.NewFloat(float64(x)), big.NewFloat(float64(y)))
	s, _ := p.Add(p, big.NewFloat(float64(z))).Float32()
	return s
}

// fma rounds once: against sums that are exact.
func TestFMA(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	for range 50_000 {
		x := float32(r.IntN(1<<20) - 1<<19)
		y := math.Float32frombits(r.Uint32()&0x007f0000 | uint32(100+r.IntN(40))<<23)
		z := math.Float32frombits(r.Uint32()&0x807fffff | uint32(100+r.IntN(60))<<23)
		if got, want := fma(x, y, z), exactFMA(x, y, z); got != want {
			t.Fatalf("%v * %v + %v = %v, want %v", x, y, z, got, want)
		}
	}
}

// Products run the kernel of those that differ in a feature that this processor has.
func TestGains(t *testing.T) {
	target := kernel.For(kernel.AVX2)
	if !slices.Contains(kernel.Available(), kernel.AVX2) {
		t.Skipf("this machine or build has %v only, and no kernels of AVX2", kernel.Available())
	}
	for _, f := range []kernel.FormatName{kernel.Int8, kernel.Int4} {
		all, err := anyShape(&target, family{format: f})
		if err != nil {
			t.Fatal(err)
		}
		for mr := 1; mr <= target.Tallest(f); mr *= 2 {
			want := fmt.Sprintf("mul_%s_any_%dx32_avx2", f, mr)
			if kernel.Has(kernel.HasAVXVNNI) {
				want = fmt.Sprintf("mul_%s_any_%dx32_avxvnni_avx2", f, mr)
			}
			k, ok := kernel.Lookup(want)
			if got := all[kernel.Full][mr].run; !ok || reflect.ValueOf(got).Pointer() != reflect.ValueOf(k.Func).Pointer() {
				t.Errorf("%d rows of %s do not run %s", mr, f, want)
			}
		}
	}
}
