// Package kerneltest checks kernels on the machine at hand against float64.
// The project's tests and the test that sffngen puts beside generated kernels
// run it; whatever is registered is tested.
package kerneltest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/guard"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// Registered runs every registered matrix kernel that this machine can run.
func Registered(t *testing.T) {
	run(t, func(kernel.Info) bool { return true })
}

// Specialised runs those of them that are made for one shape.
func Specialised(t *testing.T) {
	if isas := kernel.Available(); len(isas) == 1 {
		t.Skipf("this machine or build has the %s kernels only, and generated packages hold assembly", isas[0])
	}
	run(t, func(k kernel.Info) bool { return k.Shape != nil })
}

func run(t *testing.T, which func(kernel.Info) bool) {
	ran := 0
	for _, k := range kernel.Registered() {
		if !slices.Contains(kernel.Available(), k.ISA) || !which(k) {
			continue
		}
		ran++
		t.Run(k.Name, func(t *testing.T) { mul(t, k) })
	}
	if ran == 0 {
		t.Fatal("no kernel is registered for this machine")
	}
}

// call is one set of arguments, with the buffers behind them.
type call struct {
	kernel.Args
	k           kernel.Info
	segs        []kernel.Segment
	a, b, c     []float32
	bias, res   []float32
	aux         []float32
	depth, cols int // cols counts the stored columns
}

func mul(t *testing.T, k kernel.Info) {
	r := rand.New(rand.NewPCG(7, 7))
	segments := [][]int{{1}, {2}, {7}, {64}, {5, 3}, {16, 16, 16}}
	steps := []int{1, 3}
	if k.Strip {
		segments, steps = segments[:4], []int{k.MR}
	}
	if k.Shape != nil {
		segments, steps = [][]int{nil}, []int{k.Shape.KStep / 4}
	}
	for _, lens := range segments {
		for _, step := range steps {
			for _, tiles := range []int{1, 2} {
				for options := range 32 {
					if k.Shape != nil && options%5 != 0 && options != 31 {
						continue
					}
					c := newCall(t, r, k, lens, step, tiles, options)
					c.run(t, fmt.Sprintf("segments %v step %d tiles %d options %05b", lens, step, tiles, options))
				}
			}
		}
	}
}

// newCall lays out buffers between guard pages: A ends with the last entry
// that the kernel may read, B with the last panel, C with the last row.
func newCall(t *testing.T, r *rand.Rand, k kernel.Info, lens []int, step, tiles, options int) *call {
	c := &call{k: k}
	if k.NR == plan.LongPanel {
		tiles = 1
	}
	c.MR, c.NR, c.Epilogue, c.NTiles = k.MR, k.NR, k.Epilogue, tiles
	c.cols = tiles * k.NR
	if k.Epilogue == kernel.SwiGLU {
		c.cols /= 2
	}
	lda := 0
	switch {
	case k.Shape != nil:
		c.segs = k.Shape.Segs
		lda, c.LDC = k.Shape.LDA/4, k.Shape.LDC
	case k.Strip:
		c.segs = []kernel.Segment{{Len: lens[0]}}
		lda = 1
	default:
		off := 0
		for _, n := range lens {
			c.segs = append(c.segs, kernel.Segment{Off: 4 * off, Len: n})
			off += n*step + 2
		}
		lda = off + 3
	}
	last := 0
	for _, s := range c.segs {
		c.depth += s.Len
		last = max(last, s.Off/4+(s.Len-1)*step)
	}
	if c.LDC < 4*c.cols {
		if k.Shape != nil && c.LDC != 0 {
			// A kernel of fewer columns than two tiles: one tile is all.
			c.NTiles = 1
			c.cols = k.NR
			if k.Epilogue == kernel.SwiGLU {
				c.cols /= 2
			}
		} else {
			c.LDC = 4 * (c.cols + 1)
		}
	}
	c.LDA, c.KStep = 4*lda, 4*step
	c.a = fill(r, guard.Floats(t, (k.MR-1)*lda+last+1), 1)
	width := plan.PanelWidth(k.NR)
	panels := c.NTiles * k.NR / width
	c.PanelStep = 4 * width * (c.depth + 1) // panels apart, as in a cache of keys
	c.b = fill(r, guard.Floats(t, (panels-1)*c.PanelStep/4+width*c.depth), 1)
	rows := (k.MR-1)*c.LDC/4 + c.cols
	c.c = guard.Floats(t, rows)
	c.LDAux = 4 * (2*c.cols + 5)
	c.UpAux = 4 * (c.cols + 2)
	c.aux = guard.Floats(t, (k.MR-1)*c.LDAux/4+2*c.cols+2)
	if options&1 != 0 {
		c.Flags |= kernel.Accumulate
		fill(r, c.c, 1)
		fill(r, c.aux, 1)
	}
	if options&2 != 0 {
		c.Flags |= kernel.Scale
		c.Alpha = 0.625
	}
	if options&4 != 0 {
		c.bias = fill(r, guard.Floats(t, c.NTiles*k.NR), 1)
		c.Bias = unsafe.Pointer(&c.bias[0])
	}
	if options&8 != 0 && k.Epilogue != kernel.SwiGLU {
		c.res = fill(r, guard.Floats(t, rows), 1)
		c.Residual = unsafe.Pointer(&c.res[0])
	}
	if options&16 != 0 || k.Epilogue == kernel.SwiGLU && options&1 != 0 {
		c.Aux = unsafe.Pointer(&c.aux[0])
		if options&8 != 0 && k.Epilogue == kernel.SwiGLU {
			c.Flags |= kernel.PreOnly
		}
	}
	c.A, c.B, c.C = unsafe.Pointer(&c.a[0]), unsafe.Pointer(&c.b[0]), unsafe.Pointer(&c.c[0])
	c.Segs, c.NSegs = unsafe.Pointer(&c.segs[0]), len(c.segs)
	return c
}

func fill(r *rand.Rand, x []float32, scale float64) []float32 {
	for i := range x {
		x[i] = float32(r.NormFloat64() * scale)
	}
	return x
}

// run compares with float64. The bound is that of a chain of depth rounded
// additions of terms of size about 1, and the activations' own error.
func (c *call) run(t *testing.T, what string) {
	t.Helper()
	before, auxBefore := slices.Clone(c.c), slices.Clone(c.aux)
	c.k.Func(&c.Args)
	tol := 8*math.Sqrt(float64(c.depth)+4)*0x1p-23 + 2e-6
	for i := range c.MR {
		for j := range c.cols {
			at := i*c.LDC/4 + j
			want, pre := c.want(i, j, before, auxBefore)
			got := float64(c.c[at])
			if c.Flags&kernel.PreOnly != 0 {
				if math.Float32bits(c.c[at]) != math.Float32bits(before[at]) {
					t.Fatalf("%s: C[%d,%d] changed", what, i, j)
				}
			} else if !(math.Abs(got-want) <= tol*max(1, math.Abs(want), math.Abs(pre[0]))*4) {
				t.Fatalf("%s: C[%d,%d] = %v, want %v", what, i, j, got, want)
			}
			if c.Aux == nil || c.Epilogue == kernel.Linear {
				continue
			}
			for h, v := range pre {
				got := float64(c.aux[i*c.LDAux/4+j+h*c.UpAux/4])
				if !(math.Abs(got-v) <= tol*max(1, math.Abs(v))*4) {
					t.Fatalf("%s: aux[%d,%d,%d] = %v, want %v", what, i, j, h, got, v)
				}
			}
		}
	}
	c.untouched(t, what, before)
}

// untouched checks what lies between the rows of C.
func (c *call) untouched(t *testing.T, what string, before []float32) {
	t.Helper()
	for at := range c.c {
		if at%(c.LDC/4) >= c.cols && math.Float32bits(c.c[at]) != math.Float32bits(before[at]) {
			t.Fatalf("%s: entry %d between the rows of C changed", what, at)
		}
	}
}

// want is the result at row i and stored column j, and the values before the
// activation.
func (c *call) want(i, j int, before, aux []float32) (float64, []float64) {
	if c.Epilogue != kernel.SwiGLU {
		v := c.sum(i, j)
		if c.Flags&kernel.Accumulate != 0 {
			v += float64(before[i*c.LDC/4+j])
		}
		v = c.addBias(v, j)
		if c.res != nil {
			v += float64(c.res[i*c.LDC/4+j])
		}
		if c.Epilogue == kernel.GELU {
			return v * 0.5 * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(v+0.044715*v*v*v))), []float64{v}
		}
		return v, []float64{v}
	}
	col := j/plan.HalfPanel*plan.Panel + j%plan.HalfPanel
	g, u := c.sum(i, col), c.sum(i, col+plan.HalfPanel)
	if c.Flags&kernel.Accumulate != 0 {
		g += float64(aux[i*c.LDAux/4+j])
		u += float64(aux[i*c.LDAux/4+j+c.UpAux/4])
	}
	g, u = c.addBias(g, col), c.addBias(u, col+plan.HalfPanel)
	return g / (1 + math.Exp(-g)) * u, []float64{g, u}
}

func (c *call) addBias(v float64, col int) float64 {
	if c.bias != nil {
		v += float64(c.bias[col])
	}
	return v
}

func (c *call) sum(i, col int) float64 {
	width := plan.PanelWidth(c.NR)
	b := c.b[col/width*c.PanelStep/4+col%width:]
	s, k := 0.0, 0
	for _, seg := range c.segs {
		for d := range seg.Len {
			s += float64(c.a[i*c.LDA/4+seg.Off/4+d*c.KStep/4]) * float64(b[k*width])
			k++
		}
	}
	if c.Flags&kernel.Scale != 0 {
		s *= float64(c.Alpha)
	}
	return s
}

// FFN checks that a network gives the same bits on every assembly instruction
// set of the machine, and the portable kernels' values.
func FFN(t *testing.T, s spec.FFN) {
	r := rand.New(rand.NewPCG(3, 3))
	weights := func(l spec.Linear) (w rt.Weights) {
		for _, f := range l.Chain() {
			w.Factors = append(w.Factors, fill(r, make([]float32, f.Weights()), 1/math.Sqrt(float64(f.In))))
		}
		if l.Bias {
			w.Bias = fill(r, make([]float32, l.Out), 1)
		}
		return w
	}
	w := rt.FFNWeights{FC1: weights(s.FC1()), FC2: weights(s.FC2())}
	const rows = 8
	x := fill(r, make([]float32, rows*s.Hidden), 1)
	pool := rt.NewPool(1)
	defer pool.Close()
	results := map[kernel.ISA][]float32{}
	for _, isa := range kernel.Available() {
		f, err := rt.NewFFN(s, w, rt.Options{ISA: isa, Pool: pool})
		if err != nil {
			t.Fatal(err)
		}
		ws := f.NewWorkspace()
		y := make([]float32, rows*s.Hidden)
		f.Forward(y, x, nil, rows, nil, ws)
		ws.Close()
		f.Close()
		results[isa] = y
	}
	largest := float32(0)
	for _, v := range results[kernel.Portable] {
		largest = max(largest, v, -v)
	}
	tol := 16 * math.Sqrt(float64(s.Hidden+s.FFN)) * 0x1p-24 * float64(largest)
	for isa, y := range results {
		for i, v := range results[kernel.Portable] {
			if !(math.Abs(float64(y[i]-v)) <= tol) {
				t.Fatalf("%s: %s: y[%d] = %v, the portable kernels say %v", s.Name(), isa, i, y[i], v)
			}
		}
		if best := kernel.Available()[0]; isa != kernel.Portable && !slices.Equal(y, results[best]) {
			t.Fatalf("%s: %s and %s differ", s.Name(), isa, best)
		}
	}
}
