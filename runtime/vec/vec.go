// Package vec holds the elementwise operations of a transformer: norms,
// activations, softmax, rotary positions, the optimizer's update. A Table
// runs them on one instruction set; the portable form of each is its readable
// definition.
package vec

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"sync"
	"unsafe"

	_ "github.com/structuredffn/sffn/generated/anyshape" // registers the assembly
	"github.com/structuredffn/sffn/runtime/kernel"
)

// Table runs the operations on one instruction set. Operands of one call have
// the same length; lengths are the caller's contract, and a shorter operand
// panics.
type Table struct {
	target kernel.Target
	fns    [kernel.NumVecOps]kernel.VecFunc
	// columnRows is the number of rows of one call that sums columns.
	columnRows int
	// strip is the width of the strips that the kernel packs, 0 for any; lanes is
	// the longest run that is copied at once.
	strip, lanes int
}

var tables sync.Map // of *Table, by kernel.Target

// On returns the table of a target whose instruction set this machine has.
func On(target *kernel.Target) *Table {
	if known, ok := tables.Load(*target); ok {
		return known.(*Table)
	}
	t := &Table{target: *target, columnRows: target.ColumnRows, strip: kernel.VecRowOf(target.ISA).StripRows, lanes: max(8, target.ISA.Lanes())}
	for op, f := range portable {
		t.fns[op] = f
	}
	portableActivations(t.fns[:])
	for op := range kernel.NumVecOps {
		// Where the processor lacks what an instruction set's kernel needs, a lower set's runs.
		for _, isa := range kernel.ISAs[slices.Index(kernel.ISAs, target.ISA):] {
			if f := kernel.Vec(isa, op); f != nil {
				t.fns[op] = f
				break
			}
		}
	}
	known, _ := tables.LoadOrStore(*target, t)
	return known.(*Table)
}

// For returns the table of an instruction set that this machine has.
func For(isa kernel.ISA) *Table {
	t := kernel.For(isa)
	return On(&t)
}

// run runs a kernel. The prologue of this function is where the garbage
// collector stops a loop of calls: kernels are leaves.
//
//go:noinline
func run(f kernel.VecFunc, a *kernel.VecArgs) { f(noEscape(a)) }

func (t *Table) call(op kernel.VecOp, a *kernel.VecArgs) { run(t.fns[op], a) }

// noEscape hides from the compiler that a kernel gets the pointer: no kernel
// keeps it, but a call through a function value would move every VecArgs to
// the heap.
func noEscape(a *kernel.VecArgs) *kernel.VecArgs {
	p := uintptr(unsafe.Pointer(a))
	return *(**kernel.VecArgs)(unsafe.Pointer(&p))
}

const chunk = kernel.VecChunk

// each calls op on stretches of the operands.
func (t *Table) each(op kernel.VecOp, a kernel.VecArgs, xs ...[]float32) {
	n := len(xs[0])
	for _, x := range xs {
		if len(x) < n {
			panic(fmt.Sprintf("vec: %s of %d entries with an operand of %d", op, n, len(x)))
		}
	}
	for at := 0; at < n; at += chunk {
		a.N = min(chunk, n-at)
		for i, x := range xs {
			a.P[i] = unsafe.Pointer(&x[at])
		}
		t.call(op, &a)
	}
}

// reduce calls op on chunks and adds the results in order.
func (t *Table) reduce(op kernel.VecOp, a *kernel.VecArgs, xs ...[]float32) (r0, r1 float32) {
	n := len(xs[0])
	for at := 0; at < n; at += chunk {
		a.N = min(chunk, n-at)
		for i, x := range xs {
			a.P[i] = unsafe.Pointer(&x[at : at+a.N][0])
		}
		t.call(op, a)
		r0 += a.R[0]
		r1 += a.R[1]
	}
	return r0, r1
}

// Activate computes activations of rows of n results from pre, the values before
// them: rows of n, or of gated ones of n gates and n ups. y may be pre where a result
// has one column.
func (t *Table) Activate(e kernel.Epilogue, y, pre []float32, n int) {
	op, _ := e.Ops()
	if !e.Gated() {
		t.each(op, kernel.VecArgs{}, y, pre)
		return
	}
	for at := 0; at < len(y); at += n {
		h := pre[2*at : 2*(at+n)]
		t.each(op, kernel.VecArgs{}, y[at:at+n], h[:n], h[n:])
	}
}

// ActivationBackward replaces the gradient of an activation's results in a, rows of
// n, by the results, computed again from pre, the values before it, and fills dpre,
// their gradients.
func (t *Table) ActivationBackward(e kernel.Epilogue, a, dpre, pre []float32, n int) {
	_, op := e.Ops()
	if !e.Gated() {
		t.each(op, kernel.VecArgs{}, a, dpre, pre, a)
		return
	}
	for at := 0; at < len(a); at += n {
		y, d, h := a[at:at+n], dpre[2*at:2*(at+n)], pre[2*at:2*(at+n)]
		t.each(op, kernel.VecArgs{}, y, d[:n], d[n:], h[:n], h[n:], y)
	}
}

// LayerNorm normalises rows of h entries: y = (x-mean)*rstd*w + b, with rstd =
// 1/sqrt(variance + eps) of the biased variance. mean and rstd have one entry a row.
func (t *Table) LayerNorm(y, mean, rstd, x, w, b []float32, rows, h int, eps float64) {
	var a kernel.VecArgs
	for r := range rows {
		row := x[r*h : (r+1)*h]
		sum, _ := t.reduce(kernel.OpSum, &a, row)
		m := sum / float32(h)
		a.S[0] = m
		dev, _ := t.reduce(kernel.OpSumDeviations, &a, row)
		mean[r] = m
		rstd[r] = float32(1 / math.Sqrt(float64(dev)/float64(h)+eps))
		t.normalize(y[r*h:(r+1)*h], row, w, b, m, rstd[r])
	}
}

func (t *Table) normalize(y, x, w, b []float32, mean, rstd float32) {
	a := kernel.VecArgs{}
	a.S[0], a.S[1] = mean, rstd
	t.each(kernel.OpNormalize, a, y, x, w, b)
}

// RMSNorm normalises rows of h entries: y = x*rstd*w, rstd = 1/sqrt(mean(x^2)
// + eps). zero is a vector of h zeros; y may be x.
func (t *Table) RMSNorm(y, rstd, x, w, zero []float32, rows, h int, eps float64) {
	var a kernel.VecArgs
	for r := range rows {
		row := x[r*h : (r+1)*h]
		squares, _ := t.reduce(kernel.OpSumDeviations, &a, row)
		rstd[r] = float32(1 / math.Sqrt(float64(squares)/float64(h)+eps))
		t.normalize(y[r*h:(r+1)*h], row, w, zero, 0, rstd[r])
	}
}

// LayerNormBackward adds to dx the gradient of x, and to dw and db their sums
// over these rows, in order:
//
//	g = dy*w, n = (x-mean)*rstd
//	dx += rstd*(g - mean(g) - n*mean(g*n)), dw += sum dy*n, db += sum dy
func (t *Table) LayerNormBackward(dx, dw, db, dy, x, w, mean, rstd []float32, rows, h int) {
	for r := range rows {
		at, end := r*h, (r+1)*h
		g, gn := t.normSums(dy[at:end], x[at:end], w, dw, db, mean[r], rstd[r])
		t.normApply(dx[at:end], dy[at:end], x[at:end], w, mean[r], rstd[r], g/float32(h), gn/float32(h))
	}
}

// RMSNormBackward is LayerNormBackward with mean 0 and without the term
// mean(g). db is scratch.
func (t *Table) RMSNormBackward(dx, dw, db, dy, x, w, rstd []float32, rows, h int) {
	for r := range rows {
		at, end := r*h, (r+1)*h
		_, gn := t.normSums(dy[at:end], x[at:end], w, dw, db, 0, rstd[r])
		t.normApply(dx[at:end], dy[at:end], x[at:end], w, 0, rstd[r], 0, gn/float32(h))
	}
}

func (t *Table) normSums(dy, x, w, dw, db []float32, mean, rstd float32) (g, gn float32) {
	var a kernel.VecArgs
	a.S[0], a.S[1] = mean, rstd
	return t.reduce(kernel.OpNormSums, &a, dy, x, w, dw, db)
}

func (t *Table) normApply(dx, dy, x, w []float32, mean, rstd, m1, m2 float32) {
	var a kernel.VecArgs
	a.S[0], a.S[1], a.S[2], a.S[3] = mean, rstd, m1, m2
	t.each(kernel.OpNormApply, a, dx, dy, x, w)
}

// Sum is the sum of x.
func (t *Table) Sum(x []float32) float32 {
	var a kernel.VecArgs
	sum, _ := t.reduce(kernel.OpSum, &a, x)
	return sum
}

// Max is the largest entry of x, -Inf where it has none; NaN counts for nothing.
func (t *Table) Max(x []float32) float32 {
	m := float32(math.Inf(-1))
	var a kernel.VecArgs
	for at := 0; at < len(x); at += chunk {
		a.N, a.P[0] = min(chunk, len(x)-at), unsafe.Pointer(&x[at])
		t.call(kernel.OpMax, &a)
		m = max(m, a.R[0])
	}
	return m
}

// ExpSum computes y = exp(x*scale - shift) and returns the sum; y may be x.
func (t *Table) ExpSum(y, x []float32, scale, shift float32) float32 {
	return t.ExpSumBelow(y, x, 0, scale, shift)
}

// ExpSumBelow computes y = exp((x-top)*scale - shift) and returns the sum; y may
// be x. Where x is top, the exponent is -shift, however large both are. Exponents
// are 88 at most: beyond, instruction sets differ.
func (t *Table) ExpSumBelow(y, x []float32, top, scale, shift float32) float32 {
	var a kernel.VecArgs
	a.S[0], a.S[1], a.S[2] = scale, shift, top
	sum, _ := t.reduce(kernel.OpExpSum, &a, y, x)
	return sum
}

// SoftmaxBackward computes ds = p*(dp-delta)*scale; ds may be p or dp.
func (t *Table) SoftmaxBackward(ds, p, dp []float32, delta, scale float32) {
	var a kernel.VecArgs
	a.S[0], a.S[1] = delta, scale
	t.each(kernel.OpSoftmaxBackward, a, ds, p, dp)
}

// Dot is the inner product of x and y.
func (t *Table) Dot(x, y []float32) float32 {
	var a kernel.VecArgs
	d, _ := t.reduce(kernel.OpDot, &a, x, y)
	return d
}

// SumSquares is the sum of squares: float32 in stretches of 4096, float64
// over them.
func (t *Table) SumSquares(x []float32) float64 {
	var a kernel.VecArgs
	sum := 0.0
	for at := 0; at < len(x); at += kernel.SquaresChunk {
		s, _ := t.reduce(kernel.OpSumDeviations, &a, x[at:min(len(x), at+kernel.SquaresChunk)])
		sum += float64(s)
	}
	return sum
}

// Scale multiplies x by a.
func (t *Table) Scale(x []float32, a float32) {
	t.each(kernel.OpScale, kernel.VecArgs{S: [10]float32{a}}, x)
}

// Multiply multiplies x by f, entry by entry.
func (t *Table) Multiply(x, f []float32) { t.each(kernel.OpMultiply, kernel.VecArgs{}, x, f) }

// Add adds x to y.
func (t *Table) Add(y, x []float32) { t.Axpy(y, 1, x) }

// Axpy adds a*x to y.
func (t *Table) Axpy(y []float32, a float32, x []float32) {
	t.each(kernel.OpAxpy, kernel.VecArgs{S: [10]float32{a}}, y, x)
}

// ColSum adds to dst [cols] the rows of x [rows, ld], in order.
func (t *Table) ColSum(dst, x []float32, rows, cols, ld int) {
	if cols == 0 {
		return
	}
	_ = dst[cols-1]
	for r := 0; r < rows; r += t.columnRows {
		n := min(t.columnRows, rows-r)
		_ = x[(r+n-1)*ld+cols-1]
		a := kernel.VecArgs{N: cols, Rows: n, Stride: 4 * ld}
		a.P[0], a.P[1] = unsafe.Pointer(&dst[0]), unsafe.Pointer(&x[r*ld])
		t.call(kernel.OpColSum, &a)
	}
}

// RoPE rotates heads of 2*half entries, stride entries apart: entries j and
// j+half are a pair, (a, c) -> (a cos - c sin, c cos + a sin).
func (t *Table) RoPE(x, cos, sin []float32, heads, stride, half int) {
	t.rotate(x, cos, sin, heads, stride, half, 1)
}

// RoPEBackward rotates back: the gradient of RoPE.
func (t *Table) RoPEBackward(x, cos, sin []float32, heads, stride, half int) {
	t.rotate(x, cos, sin, heads, stride, half, -1)
}

func (t *Table) rotate(x, cos, sin []float32, heads, stride, half int, sign float32) {
	_, _, _ = x[(heads-1)*stride+2*half-1], cos[half-1], sin[half-1]
	a := kernel.VecArgs{N: half, Rows: heads, Stride: 4 * stride}
	a.S[0] = sign
	a.P = [6]unsafe.Pointer{unsafe.Pointer(&x[0]), unsafe.Pointer(&x[half]), unsafe.Pointer(&cos[0]), unsafe.Pointer(&sin[0])}
	t.call(kernel.OpRotate, &a)
}

// AdamWStep are the scalars of one optimizer step. Bias1 and Bias2 are
// 1-beta^t, t counted from 1; gradients are multiplied by GradScale first.
type AdamWStep struct {
	LR, Beta1, Beta2, Eps, Decay, Bias1, Bias2, GradScale float64
}

// AdamW updates parameters p and moments m and v with gradients g:
//
//	g = g*GradScale; p *= 1-LR*Decay
//	m = Beta1 m + (1-Beta1) g; v = Beta2 v + (1-Beta2) g^2
//	p -= LR (m/Bias1) / (sqrt(v/Bias2) + Eps)
func (t *Table) AdamW(p, g, m, v []float32, c AdamWStep) {
	t.each(kernel.OpAdamW, kernel.VecArgs{S: [10]float32{
		float32(1 - c.LR*c.Decay), float32(c.Beta1), float32(1 - c.Beta1), float32(c.Beta2), float32(1 - c.Beta2),
		float32(c.GradScale), float32(c.LR / c.Bias1), float32(1 / c.Bias2), float32(c.Eps),
	}}, p, g, m, v)
}

// Spread stores the rows of a tight tile [rows, n] with a distance of step
// between neighbours, into rows of dst that are ld entries apart; where add
// is not nil, each is added to what add, laid out as dst, holds in its place.
// The tile must be a whole number of 16 entries wide.
type Spread struct {
	t     *Table
	step  int
	table []byte
}

// NewSpread prepares the table of a distance.
func (t *Table) NewSpread(step int) *Spread {
	s := &Spread{t: t, step: step}
	// Vector v of 16 destinations holds, in its lanes whose place is a
	// multiple of step, entry place/step of the tile's vector.
	for v := range step {
		mask := uint32(0)
		for lane := range 16 {
			place := 16*v + lane
			if place%step == 0 {
				mask |= 1 << lane
			}
			s.table = binary.LittleEndian.AppendUint32(s.table, uint32(place/step))
		}
		s.table = binary.LittleEndian.AppendUint32(s.table, mask)
	}
	return s
}

// Run spreads rows of n entries; dst and add begin at the first row's first
// destination.
func (s *Spread) Run(dst, tile, add []float32, rows, n, ld int) {
	_, _ = dst[(rows-1)*ld+(n-1)*s.step], tile[rows*n-1]
	if n%16 != 0 {
		panic("vec: a tile to spread is not a whole number of vectors wide")
	}
	a := kernel.VecArgs{N: n, Rows: rows, Stride: 4 * ld, Step: 4 * s.step}
	a.P[0], a.P[1], a.P[3] = unsafe.Pointer(&dst[0]), unsafe.Pointer(&tile[0]), unsafe.Pointer(&s.table[0])
	op := kernel.OpSpread
	if add != nil {
		_ = add[(rows-1)*ld+(n-1)*s.step]
		a.P[2], op = unsafe.Pointer(&add[0]), kernel.OpSpreadAdd
	}
	s.t.call(op, &a)
}

// WeaveBlocks is the largest number of blocks that Weave takes.
const WeaveBlocks = 4

// Weave deals out tiles [block][rows][n] of 2 or 4 blocks, step entries apart, in turn: row
// by row the first entry of each block, then the second of each. Rows of dst are ld entries
// apart; where add is not nil, each is added to what add, laid out as dst, holds in its
// place. The lines of as many rows of next are asked for. n is a whole number of 16.
func (t *Table) Weave(dst, tiles, add, next []float32, blocks, rows, n, step, ld int) {
	_, _ = dst[(rows-1)*ld+n*blocks-1], tiles[(blocks-1)*step+rows*n-1]
	op, opAdd := kernel.OpWeave2, kernel.OpWeave2Add
	if blocks == WeaveBlocks {
		op, opAdd = kernel.OpWeave4, kernel.OpWeave4Add
	}
	if n%16 != 0 || blocks != 2 && blocks != WeaveBlocks {
		panic(fmt.Sprintf("vec: %d blocks of %d entries to weave, want 2 or %d of whole sixteens", blocks, n, WeaveBlocks))
	}
	a := kernel.VecArgs{N: n, Rows: rows, Stride: 4 * ld, Step: 4 * step}
	a.P[0], a.P[1], a.P[3] = unsafe.Pointer(&dst[0]), unsafe.Pointer(&tiles[0]), unsafe.Pointer(unsafe.SliceData(next))
	if add != nil {
		_ = add[(rows-1)*ld+n*blocks-1]
		a.P[2], op = unsafe.Pointer(&add[0]), opAdd
	}
	t.call(op, &a)
}

// Runs moves runs of neighbouring entries of rows to other places.
type Runs struct {
	t     *Table
	table []runOf
	// to and from are the entries that a row of either side has at least.
	to, from int
}

// runOf is a run that one vector holds: offsets in bytes, and its entries.
type runOf struct{ to, from, n int }

// NewRuns lists the runs that send entry from[i] of a row to place to[i] of another.
func (t *Table) NewRuns(to, from []int) *Runs {
	r := &Runs{t: t}
	for i := 0; i < len(to); {
		n := 1
		for n < t.lanes && i+n < len(to) && to[i+n] == to[i]+n && from[i+n] == from[i]+n {
			n++
		}
		r.table = append(r.table, runOf{kernel.EntryBytes * to[i], kernel.EntryBytes * from[i], n})
		r.to, r.from = max(r.to, to[i]+n), max(r.from, from[i]+n)
		i += n
	}
	return r
}

// Len is the number of runs, Run's work for each row.
func (r *Runs) Len() int { return len(r.table) }

// Run moves the runs of so many rows, which are ldTo and ldFrom entries apart.
func (r *Runs) Run(to, from []float32, rows, ldTo, ldFrom int) {
	if len(r.table) == 0 || rows == 0 {
		return
	}
	_, _ = to[(rows-1)*ldTo+r.to-1], from[(rows-1)*ldFrom+r.from-1]
	a := kernel.VecArgs{Groups: len(r.table), Rows: rows, Stride: kernel.EntryBytes * ldTo, Step: kernel.EntryBytes * ldFrom}
	a.P[0], a.P[1], a.P[3] = unsafe.Pointer(&to[0]), unsafe.Pointer(&from[0]), unsafe.Pointer(&r.table[0])
	r.t.call(kernel.OpCopyRuns, &a)
}

// Transpose puts entry i of row r of src, of rows of n entries that are ldSrc apart, to place
// r of row i of dst, of rows that are ldDst apart.
func (t *Table) Transpose(dst, src []float32, rows, n, ldDst, ldSrc int) {
	if rows == 0 || n == 0 {
		return
	}
	_, _ = dst[(n-1)*ldDst+rows-1], src[(rows-1)*ldSrc+n-1]
	const square = 16
	whole, wide := rows/square*square, n/square*square
	if whole > 0 && wide > 0 {
		a := kernel.VecArgs{N: wide, Rows: whole, Stride: 4 * ldSrc, Step: 4 * ldDst}
		a.P[0], a.P[1] = unsafe.Pointer(&dst[0]), unsafe.Pointer(&src[0])
		t.call(kernel.OpTranspose, &a)
	}
	for r := range rows {
		from := wide
		if r >= whole {
			from = 0
		}
		at := from*ldDst + r
		for _, x := range src[r*ldSrc:][from:n] {
			dst[at] = x
			at += ldDst
		}
	}
}

// PackPanels packs panels of 32 neighbouring columns: dst has a panel [row][32] every ldDst
// entries, src is the first column of rows that are ld entries apart.
func (t *Table) PackPanels(dst, src []float32, rows, panels, ldDst, ld int) {
	t.pack(t.fns[kernel.OpPackPanels], dst, src, nil, rows, panels, kernel.Panel, 1, ld, ldDst)
}

// PackStrips packs strips of mr columns that are step entries apart: dst has a strip
// [row][mr] every ldDst entries, src is the first column of rows that are ld entries
// apart. Where sums, one entry a column, is not nil, the rows are added to it, in order.
func (t *Table) PackStrips(dst, src, sums []float32, rows, strips, mr, step, ldDst, ld int) {
	ops := [...]kernel.VecOp{kernel.OpPackStrips, kernel.OpPackStripsStep}
	if sums != nil {
		ops = [...]kernel.VecOp{kernel.OpSumStrips, kernel.OpSumStripsStep}
	}
	op := ops[min(1, step-1)]
	f := t.fns[op]
	if mr != t.strip {
		f = portable[op]
	}
	t.pack(f, dst, src, sums, rows, strips, mr, step, ld, ldDst)
}

func (t *Table) pack(f kernel.VecFunc, dst, src, sums []float32, rows, groups, n, step, ld, ldDst int) {
	if rows == 0 {
		return
	}
	_, _ = dst[(groups-1)*ldDst+rows*n-1], src[(rows-1)*ld+(groups*n-1)*step]
	a := kernel.VecArgs{N: n, Rows: rows, Groups: groups, Stride: 4 * ld, Step: 4 * step, GroupStep: 4 * ldDst}
	a.P[0], a.P[1] = unsafe.Pointer(&dst[0]), unsafe.Pointer(&src[0])
	if sums != nil {
		a.P[2] = unsafe.Pointer(&sums[:groups*n][0])
	}
	run(f, &a)
}

// Read loads every entry of x and does nothing with it: the fastest that the
// instruction set can read memory on one core.
func (t *Table) Read(x []float32) {
	const chunk = 1 << 16 // entries, between which the loop can be preempted
	for len(x) > 0 {
		n := min(len(x), chunk)
		a := kernel.VecArgs{N: n}
		a.P[0] = unsafe.Pointer(&x[0])
		t.call(kernel.OpRead, &a)
		x = x[n:]
	}
}

// Peak runs about the given number of operations, two for each multiply-add of a
// format, in independent chains in registers, and returns how many it ran: what the
// instructions of the format's products can do at best on one core.
func (t *Table) Peak(f kernel.FormatName, operations float64) float64 {
	format, _ := f.Format()
	if k := format.Kernels(&t.target); k != format.KernelsOf(t.target.ISA) {
		format, _ = k.Format() // the instruction is not there, or not used
	}
	var a kernel.VecArgs
	done := 0.0
	for done < operations {
		a.N = 1 << 10
		t.call(format.Peak, &a)
		done += float64(a.N) * float64(a.R[0])
	}
	return done
}

// ToBF16 rounds rows of n entries, ldSrc apart, to bfloat16; those of dst are ldDst
// apart. They are followed by zeros up to a whole vector of the kernel, at most that of the
// target, for which there must be room.
func (t *Table) ToBF16(dst []uint16, src []float32, rows, n, ldDst, ldSrc int) {
	if rows == 0 || n == 0 {
		return
	}
	width := (n + t.lanes - 1) / t.lanes * t.lanes
	_, _ = dst[(rows-1)*ldDst+width-1], src[(rows-1)*ldSrc+n-1]
	t.call(kernel.OpBF16, &kernel.VecArgs{P: [6]unsafe.Pointer{unsafe.Pointer(&dst[0]), unsafe.Pointer(&src[0])}, N: n, Rows: rows, Step: 2 * ldDst, Stride: 4 * ldSrc})
}

// PairBF16 puts rows of n entries of even and odd, rounded to bfloat16, side by side:
// each entry of dst is one of even in its lower half and one of odd in its upper half.
// Rows of even and of odd are ldSrc apart, those of dst n.
func (t *Table) PairBF16(dst []uint32, even, odd []float32, rows, n, ldSrc int) {
	if rows == 0 || n == 0 {
		return
	}
	last := (rows-1)*ldSrc + n - 1
	_, _, _ = dst[rows*n-1], even[last], odd[last]
	t.call(kernel.OpBF16Pairs, &kernel.VecArgs{P: [6]unsafe.Pointer{unsafe.Pointer(&dst[0]), unsafe.Pointer(&even[0]), unsafe.Pointer(&odd[0])}, N: n, Rows: rows, Step: 4 * n, Stride: 4 * ldSrc})
}

// RoundBF16 rounds rows of n entries, ldSrc apart, to what bfloat16 can hold; those of
// dst are ldDst apart.
func (t *Table) RoundBF16(dst, src []float32, rows, n, ldDst, ldSrc int) {
	t.roundRows(kernel.OpRoundBF16, dst, src, rows, n, ldDst, ldSrc)
}

// SwapBF16 is RoundBF16 with the two of each pair swapped; n is even.
func (t *Table) SwapBF16(dst, src []float32, rows, n, ldDst, ldSrc int) {
	if n%2 > 0 {
		panic(fmt.Sprintf("vec: rows of %d entries have no whole pairs", n))
	}
	t.roundRows(kernel.OpSwapBF16, dst, src, rows, n, ldDst, ldSrc)
}

func (t *Table) roundRows(op kernel.VecOp, dst, src []float32, rows, n, ldDst, ldSrc int) {
	if rows == 0 || n == 0 {
		return
	}
	_, _ = dst[(rows-1)*ldDst+n-1], src[(rows-1)*ldSrc+n-1]
	t.call(op, &kernel.VecArgs{P: [6]unsafe.Pointer{unsafe.Pointer(&dst[0]), unsafe.Pointer(&src[0])}, N: n, Rows: rows, Step: 4 * ldDst, Stride: 4 * ldSrc})
}
