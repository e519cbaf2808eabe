// Package kerneltest checks kernels on the machine at hand against float64.
// The project's tests and the test that sffngen puts beside generated kernels
// run it; whatever is registered is tested.
package kerneltest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"unsafe"

	"github.com/structuredffn/sffn/internal/bound"
	"github.com/structuredffn/sffn/internal/guard"
	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/vec"
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
	room := newRoom(t)
	for _, k := range kernel.Registered() {
		if !k.Runs() || !which(k) {
			continue
		}
		ran++
		t.Run(k.Name, func(t *testing.T) {
			if err := room.check(k); err != nil {
				t.Fatal(err)
			}
		})
	}
	if ran == 0 {
		t.Fatal("no kernel is registered for this machine")
	}
}

// problem is a product to compute: its operands, and what the sums are.
type problem struct {
	k kernel.Info
	// source are where the k lie in a row of a, segs where in one of left.
	source, segs         []kernel.Segment
	step, lda, ldc       int // entries
	tiles, panelStep     int
	columns, cols, depth int // cols counts the stored columns, columns the packed ones
	// a and b hold NaN wherever a kernel has no business.
	a, b []float32
	// left and right are what the kernel reads: a and b, or what its format packs of them.
	left, right     []float32
	ldLeft, ldRight int // bytes from one row or panel to the next
	// sums has the sum of each row and packed column, and bits the same as one
	// chain of fused multiply-adds.
	sums []bound.Num
	bits []float32
}

// room is where the operands lie: each between two protected pages.
type room struct{ a, b, bias, c, residual, aux *guard.Pages }

func newRoom(t testing.TB) *room {
	p := func() *guard.Pages { return guard.NewPages(t) }
	return &room{p(), p(), p(), p(), p(), p()}
}

// check runs a kernel on products of every form that it can be called with.
func (m *room) check(k kernel.Info) error {
	if k.Across {
		return m.checkAcross(k)
	}
	if k.Format.Quantized() {
		return m.checkIntegers(k)
	}
	r := rand.New(rand.NewPCG(7, 7))
	segments := [][]int{{1}, {2}, {7}, {64}, {5, 3}, {16, 16, 16}, {516}}
	steps := []int{1, 3}
	f, _ := k.Format.Format()
	if f.KGroup > 1 {
		segments[4] = []int{4, 3}
	}
	if k.Strip || f.Packs() {
		segments, steps = append(segments[:4:4], segments[6]), steps[:1]
	}
	if k.Strip {
		steps = []int{k.MR}
	}
	if k.Shape != nil {
		segments, steps = [][]int{nil}, []int{k.Shape.KStep / 4}
	}
	for _, lens := range segments {
		for _, step := range steps {
			for _, tiles := range []int{1, 2} {
				p := newProblem(r, k, lens, step, tiles)
				for _, side := range guard.Sides {
					if err := m.solve(p, side, r); err != nil {
						return fmt.Errorf("segments %v step %d tiles %d, buffers that border on protected memory at the %v: %w", lens, step, tiles, side, err)
					}
				}
			}
		}
	}
	return nil
}

// newProblem draws operands whose sums have results of size 1.
func newProblem(r *rand.Rand, k kernel.Info, lens []int, step, tiles int) *problem {
	p := &problem{k: k, step: step, tiles: tiles, lda: 1}
	off := 0
	for _, n := range lens {
		p.segs = append(p.segs, kernel.Segment{Off: 4 * off, Len: n})
		off += n*step + 2
	}
	if !k.Strip {
		p.lda = off + 3
	}
	if k.NR == kernel.LongPanel {
		p.tiles = 1 // a product's last columns
	}
	stored := k.NR
	if k.Epilogue.Gated() {
		stored /= 2
	}
	if s := k.Shape; s != nil {
		p.segs, p.lda, p.ldc = s.Segs, s.LDA/4, s.LDC/4
		if p.ldc > 0 && p.ldc < p.tiles*stored {
			p.tiles = 1 // there are no more columns
		}
	}
	if f, _ := k.Format.Format(); k.Shape != nil && f.Packs() {
		p.lda = k.Shape.K() + 3
	}
	p.columns, p.cols = p.tiles*k.NR, p.tiles*stored
	if p.ldc == 0 {
		p.ldc = p.cols + 1
	}
	p.source = p.segs
	end := 0
	for _, s := range p.segs {
		p.depth += s.Len
		end = max(end, s.Off/4+(s.Len-1)*step+1)
	}
	p.a = poison((k.MR-1)*p.lda + end)
	width := kernel.PanelWidth(k.NR)
	panels := p.columns / width
	p.panelStep = width * (p.depth + 1) // panels apart, as in a cache of keys
	p.b = poison((panels-1)*p.panelStep + width*p.depth)
	for i := range k.MR {
		p.each(func(_, at int) { p.a[i*p.lda+at] = float32(r.NormFloat64()) })
	}
	scale := 1 / math.Sqrt(float64(p.depth))
	for i := range panels {
		normal(r, p.b[i*p.panelStep:][:width*p.depth], scale)
	}
	p.pack(width, panels)
	p.sum(width)
	return p
}

// pack rounds the operands to what the kernel's format holds, and lays them out as it
// reads them. Of groups of k that packed rows fill, what is missing is zeros in both.
func (p *problem) pack(width, panels int) {
	p.left, p.right, p.ldLeft, p.ldRight = p.a, p.b, 4*p.lda, 4*p.panelStep
	f, _ := p.k.Format.Format()
	if f.Name == kernel.Int8W {
		p.packBytes(width, panels)
		return
	}
	if f.Weights != kernel.BFloat16 {
		return
	}
	round := func(x []float32) {
		for i, v := range x {
			if v == v {
				x[i] = vec.FromBF16(vec.BF16(v))
			}
		}
	}
	round(p.b)
	p.ldRight = f.PanelBytes(width, p.depth) + 64
	p.right = poison(((panels-1)*p.ldRight + f.PanelBytes(width, p.depth)) / 4)
	halves := bits16(p.right)
	for i := range panels {
		for k := range f.Groups(p.depth) * f.KGroup {
			for c := range width {
				at := i*p.ldRight/2 + (k/2*width+c)*2 + k%2
				if k < p.depth {
					halves[at] = vec.BF16(p.b[i*p.panelStep+k*width+c])
				} else if f.Packs() {
					halves[at] = 0
				}
			}
		}
	}
	if !f.Packs() {
		return
	}
	round(p.a)
	depth := f.Groups(p.depth) * f.KGroup
	p.ldLeft = f.LeftStride(f.Name, p.depth)
	if s := p.k.Shape; s != nil && p.k.MR > 1 {
		p.ldLeft = s.LDA
	}
	// place is that of row i and k among the halves of the packed rows.
	place := func(i, k int) int { return i*p.ldLeft/2 + k }
	size := (p.k.MR-1)*p.ldLeft + f.LeftBytes(f.Name, p.depth)
	if p.k.Strip {
		place = func(i, k int) int { return (k/2*p.k.MR+i)*2 + k%2 }
		p.ldLeft, size = 4, f.LeftBytes(f.Name, p.depth)*p.k.MR
	}
	p.left = poison(size / 4)
	left := bits16(p.left)
	for i := range p.k.MR {
		for k := p.depth; k < depth; k++ {
			left[place(i, k)] = 0
		}
		p.each(func(k, at int) { left[place(i, k)] = vec.BF16(p.a[i*p.lda+at]) })
	}
	p.segs = []kernel.Segment{{Len: depth}}
}

// packBytes makes integers of b, and packs of them.
func (p *problem) packBytes(width, panels int) {
	p.ldRight = width*p.depth + 64
	p.right = poison(((panels-1)*p.ldRight + width*p.depth) / 4)
	bytes := unsafe.Slice((*int8)(unsafe.Pointer(&p.right[0])), 4*len(p.right))
	for i := range panels {
		for j := range width * p.depth {
			b := &p.b[i*p.panelStep+j]
			whole := max(-127, min(127, math.RoundToEven(float64(*b)*64*math.Sqrt(float64(p.depth)))))
			*b, bytes[i*p.ldRight+j] = float32(whole), int8(whole)
		}
	}
}

// bits16 views entries as twice as many of 16 bits.
func bits16(x []float32) []uint16 { return unsafe.Slice((*uint16)(unsafe.Pointer(&x[0])), 2*len(x)) }

// each calls f with the number of every k and its place in a row of A.
func (p *problem) each(f func(k, at int)) {
	k := 0
	for _, s := range p.source {
		for d := range s.Len {
			f(k, s.Off/4+d*p.step)
			k++
		}
	}
}

func (p *problem) sum(width int) {
	p.sums, p.bits = make([]bound.Num, p.k.MR*p.columns), make([]float32, p.k.MR*p.columns)
	places := p.order()
	for i := range p.k.MR {
		for j := range p.columns {
			b := p.b[j/width*p.panelStep+j%width:]
			var c bound.Chain
			bits := float32(0)
			for _, q := range places {
				x, y := p.a[i*p.lda+q.at], b[q.k*width]
				c.Add(float64(x), bound.Of(y))
				bits = bound.FMA(x, y, bits)
			}
			p.sums[i*p.columns+j], p.bits[i*p.columns+j] = c.Num(), bits
		}
	}
}

// placed is a k, and its place in a row of a.
type placed struct{ k, at int }

// order lists every k in the order in which the format adds its products.
func (p *problem) order() (ps []placed) {
	p.each(func(k, at int) { ps = append(ps, placed{k, at}) })
	if p.k.Format == kernel.BF16 {
		for k := 0; k+1 < len(ps); k += 2 {
			ps[k], ps[k+1] = ps[k+1], ps[k]
		}
	}
	return ps
}

func poison(n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(math.NaN())
	}
	return x
}

func normal(r *rand.Rand, x []float32, scale float64) []float32 {
	for i := range x {
		x[i] = float32(r.NormFloat64() * scale)
	}
	return x
}

// solve runs the kernel with every set of options.
func (m *room) solve(p *problem, side guard.Side, r *rand.Rand) error {
	a, b := m.a.Floats(len(p.left), side), m.b.Floats(len(p.right), side)
	copy(a, p.left)
	copy(b, p.right)
	for options := range 32 {
		if (p.k.Shape != nil || p.depth > 500) && options%5 != 0 && options != 31 {
			continue
		}
		c := m.newCall(p, side, r, options)
		c.A, c.B = unsafe.Pointer(&a[0]), unsafe.Pointer(&b[0])
		args := c.Args // what the kernel makes of its own is not looked at
		err := guard.Catch(func() { p.k.Func(&args) })
		if err == nil {
			err = c.check()
		}
		if err != nil {
			return fmt.Errorf("options %05b: %w", options, err)
		}
	}
	return nil
}

// call is one set of arguments.
type call struct {
	kernel.Args
	*problem
	c, aux []float32
	// What the call finds, tight: bias by packed column, the others by row and
	// stored column, aux with two columns for a gated one.
	bias, res, cBefore, auxBefore []float32
}

// The options of a call.
const (
	accumulate = 1 << iota
	scale
	withBias
	// withResidual adds a residual, which is C itself where the buffers begin
	// at a protected page. Gated kernels have none: they leave the activation out, if
	// there is room for its halves.
	withResidual
	// withAux gives room for the values before the activation. A kernel without
	// one leaves it alone, and stores C whatever else it is told.
	withAux
)

func (m *room) newCall(p *problem, side guard.Side, r *rand.Rand, options int) *call {
	k := &p.k
	gated := k.Epilogue.Gated()
	c := &call{problem: p}
	c.MR, c.NR, c.Epilogue, c.NTiles = k.MR, k.NR, k.Epilogue, p.tiles
	c.LDA, c.KStep, c.LDC, c.PanelStep = p.ldLeft, 4*p.step, 4*p.ldc, p.ldRight
	c.Segs, c.NSegs = unsafe.Pointer(&p.segs[0]), len(p.segs)
	rows := func(pages *guard.Pages, before []float32, ld, off int) []float32 {
		x := pages.Floats((k.MR-1)*ld+off+p.cols, side)
		for i := range k.MR {
			copy(x[i*ld+off:], before[i*p.cols:][:p.cols])
		}
		return x
	}
	before := func(set bool) []float32 {
		if set {
			return normal(r, make([]float32, k.MR*p.cols), 1)
		}
		return poison(k.MR * p.cols)
	}
	c.cBefore = before(options&accumulate != 0 && !gated || options&withResidual != 0)
	c.c = rows(m.c, c.cBefore, p.ldc, 0)
	c.C = unsafe.Pointer(&c.c[0])
	c.LDAux, c.UpAux = 4*(2*p.cols+5), 4*(p.cols+2)
	c.auxBefore = before(options&accumulate != 0)
	if gated {
		up := before(options&accumulate != 0)
		c.aux = rows(m.aux, up, c.LDAux/4, c.UpAux/4)
		for i := range k.MR {
			copy(c.aux[i*c.LDAux/4:], c.auxBefore[i*p.cols:][:p.cols])
		}
		c.auxBefore = append(c.auxBefore, up...)
	} else {
		c.aux = rows(m.aux, c.auxBefore, c.LDAux/4, 0)
	}
	if options&accumulate != 0 {
		c.Flags |= kernel.Accumulate
	}
	if options&scale != 0 {
		c.Flags |= kernel.Scale
		c.Alpha = 0.7
		c.Ahead = uintptr(c.C) // some address
	}
	if options&withBias != 0 {
		c.bias = m.bias.Floats(p.columns, side)
		normal(r, c.bias, 1)
		c.Bias = unsafe.Pointer(&c.bias[0])
	}
	if options&withResidual != 0 && !gated {
		c.res, c.Residual = c.cBefore, c.C
		if side == guard.End {
			c.res = before(true)
			c.Residual = unsafe.Pointer(&rows(m.residual, c.res, p.ldc, 0)[0])
		}
	}
	if options&withAux != 0 || gated && options&accumulate != 0 {
		c.Aux = unsafe.Pointer(&c.aux[0])
		if k.Epilogue == kernel.Linear || gated && options&withResidual != 0 {
			c.Flags |= kernel.PreOnly
		}
	}
	return c
}

// result is what a row and stored column must hold: C, and the values before
// the activation.
type result struct {
	c   bound.Num
	pre []bound.Num
}

// want follows the definition of Args. Up to the activation the order of all
// sums is part of it: assembly has no room for an error there.
func (c *call) want(i, j int) (w result) {
	cols := []int{j}
	if c.Epilogue.Gated() {
		col := j/kernel.HalfPanel*kernel.Panel + j%kernel.HalfPanel
		cols = []int{col, col + kernel.HalfPanel}
	}
	for h, col := range cols {
		v, bits := c.sums[i*c.columns+col], c.bits[i*c.columns+col]
		if c.Flags&kernel.Scale != 0 {
			v, bits = v.Mul(bound.Of(c.Alpha)), bits*c.Alpha
		}
		add := func(x float32) { v, bits = v.Add(bound.Of(x)), bits+x }
		if c.Flags&kernel.Accumulate != 0 {
			if c.Epilogue.Gated() {
				add(c.auxBefore[(h*c.MR+i)*c.cols+j])
			} else {
				add(c.cBefore[i*c.cols+j])
			}
		}
		if c.bias != nil {
			add(c.bias[col])
		}
		if c.res != nil {
			add(c.res[i*c.cols+j])
		}
		if c.k.ISA != kernel.Portable {
			v = bound.Of(bits)
		}
		w.pre = append(w.pre, v)
	}
	switch {
	case c.Epilogue == kernel.Linear:
		w.c = w.pre[0]
	default:
		w.c, _ = w.pre[0].Activation(string(c.Epilogue))
		if c.Epilogue.Gated() {
			w.c = w.c.Mul(w.pre[1])
		}
	}
	return w
}

// check compares what the call left behind.
func (c *call) check() error {
	for i := range c.MR {
		for j := range c.cols {
			w := c.want(i, j)
			at := i*c.ldc + j
			if c.Flags&kernel.PreOnly != 0 && c.Epilogue.Gated() {
				if !same(c.c[at], c.cBefore[i*c.cols+j]) {
					return fmt.Errorf("entry %d,%d of C changed, where the activation is left out", i, j)
				}
			} else if !w.c.Holds(c.c[at]) {
				return fmt.Errorf("entry %d,%d of C is %v, want %v within %.2g", i, j, c.c[at], w.c.V, w.c.E)
			}
			for h, v := range w.pre {
				at := i*c.LDAux/4 + j + h*c.UpAux/4
				if c.Aux == nil || c.Epilogue == kernel.Linear {
					if before := c.auxBefore[(h*c.MR+i)*c.cols+j]; !same(c.aux[at], before) {
						return fmt.Errorf("entry %d,%d,%d of aux changed, where nobody asked for it", i, j, h)
					}
				} else if !v.Holds(c.aux[at]) {
					return fmt.Errorf("entry %d,%d,%d of aux is %v, want %v within %.2g", i, j, h, c.aux[at], v.V, v.E)
				}
			}
		}
	}
	if at := touched(c.c, c.ldc, c.cols, c.cols, c.cols); at >= 0 {
		return fmt.Errorf("entry %d of C changed, which lies between its rows", at)
	}
	up, end := c.UpAux/4, c.UpAux/4+c.cols
	if !c.Epilogue.Gated() {
		up, end = c.cols, c.cols
	}
	if at := touched(c.aux, c.LDAux/4, c.cols, up, end); at >= 0 {
		return fmt.Errorf("entry %d of aux changed, which lies between its rows", at)
	}
	return nil
}

// touched finds a change in what belongs to no row: rows are ld apart and hold
// columns [0, n) and [m, end).
func touched(x []float32, ld, n, m, end int) int {
	poison := float32(math.NaN())
	for row := 0; row < len(x); row += ld {
		for j := n; j < ld && row+j < len(x); j++ {
			if (j < m || j >= end) && !same(x[row+j], poison) {
				return row + j
			}
		}
	}
	return -1
}

func same(x, y float32) bool { return math.Float32bits(x) == math.Float32bits(y) }
