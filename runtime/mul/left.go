package mul

import (
	"unsafe"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/plan/cpu"
	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/vec"
)

// leftPack makes the packed rows that kernels read in place of the source rows: those of
// formats that round what they multiply, and those whose groups of k lie in two segments.
type leftPack struct {
	runs   []leftRun
	depth  int
	typ    kernel.Type
	stride int // bytes
	vec    *vec.Table
	// inputs are what entries are multiplied by before they become integers, whole groups
	// of them.
	inputs []float32
	// swap says that entries of type float32 hold what the format's activations can, with
	// the two of each pair of k swapped.
	swap bool
}

// leftRun is a stretch of k: entries off, off+step, ... of a source row.
type leftRun struct{ off, step, len int }

// newLeftPack is nil where the kernels of a target read the source rows.
func newLeftPack(p plan.Product, t *kernel.Target) *leftPack {
	f, _ := p.Format.Format()
	if !f.Packs() && (f.KGroup == 1 || wholeGroups(&f, p)) {
		return nil
	}
	kernels := f.Kernels(t)
	l := &leftPack{depth: p.Depth(), typ: f.LeftType(kernels), stride: f.LeftStride(kernels, p.Depth()), vec: vec.On(t), swap: f.Packs() && kernels != f.Name}
	if p.Format.Quantized() {
		l.inputs = make([]float32, kernel.QuantGroups(l.depth)*kernel.QuantGroup)
	}
	for _, s := range p.K {
		l.runs = append(l.runs, leftRun{s.Store.Off, s.Store.Step, s.Store.Len})
	}
	return l
}

// wholeGroups reports whether no segment of any block of k but the last cuts a group.
func wholeGroups(f *kernel.Format, p plan.Product) bool {
	k0 := 0
	for _, kc := range p.KBlocks {
		if !cpu.WholeGroups(f, p.Segments(k0, kc)) {
			return false
		}
		k0 += kc
	}
	return true
}

// leftRows are packed rows of a worker, and what they were packed from: products of one
// stage that read the same block need them once.
type leftRows struct {
	buf   []float32
	of    *float32 // nil where they are of no use any more
	rows  int
	block int
}

// forget says that the source rows are not what they were.
func (r *leftRows) forget() { r.of = nil }

// leftOf is where the kernels find m rows of the left operand, and how far apart they are.
func (q *Product) leftOf(s *Scratch, src []float32, m int) (rows unsafe.Pointer, stride int) {
	l, have := q.left, &s.leftRows
	if l == nil {
		return unsafe.Pointer(&src[0]), kernel.EntryBytes * q.SrcWidth
	}
	if have.of != &src[0] || have.rows != m || have.block != q.Block {
		l.pack(s.floats(&have.buf, m*l.stride/kernel.EntryBytes), src, m, q.SrcWidth)
		have.of, have.rows, have.block = &src[0], m, q.Block
	}
	return unsafe.Pointer(&have.buf[0]), l.stride
}

// pack packs m rows of width entries. Vectors end beyond a run: the next one, or the
// padding of the row, lies there.
func (l *leftPack) pack(dst, src []float32, m, width int) {
	if l.inputs != nil {
		l.quantize(dst, src, m, width)
		return
	}
	ld := l.stride / kernel.EntryBytes
	at := 0
	for _, r := range l.runs {
		x, ldX := src[r.off:], width
		if r.step != 1 {
			var row [gathered]float32
			for i := range m {
				for k := 0; k < r.len; k += gathered {
					n := min(gathered, r.len-k)
					for j := range n {
						row[j] = x[i*width+(k+j)*r.step]
					}
					l.run(dst[i*ld:], row[:n], at+k, 1, n, ld, n)
				}
			}
		} else {
			l.run(dst, x, at, m, r.len, ld, ldX)
		}
		at += r.len
	}
	if l.typ == kernel.Float32 && l.depth%2 > 0 {
		missing := l.depth // the other half of the last group
		if l.swap {
			missing--
		}
		for i := range m {
			dst[i*ld+missing] = 0
		}
	}
}

// gathered is the number of entries that are put side by side before they are packed.
const gathered = 256

// run packs n entries of m rows of x to place at of those of dst.
func (l *leftPack) run(dst, x []float32, at, m, n, ld, ldX int) {
	switch {
	case l.typ == kernel.BFloat16:
		halves := unsafe.Slice((*uint16)(unsafe.Pointer(&dst[0])), 2*len(dst))
		l.vec.ToBF16(halves[at:], x, m, n, 2*ld, ldX)
	case l.swap:
		l.swapped(dst, x, at, m, n, ld, ldX)
	default:
		for i := range m {
			copy(dst[i*ld+at:], x[i*ldX:][:n])
		}
	}
}

// swapped is run with pairs of k swapped, of which a run may begin and end with a half.
func (l *leftPack) swapped(dst, x []float32, at, m, n, ld, ldX int) {
	one := func(j, to int) {
		for i := range m {
			dst[i*ld+to] = vec.FromBF16(vec.BF16(x[i*ldX+j]))
		}
	}
	if at%2 > 0 {
		one(0, at-1)
		x, at, n = x[1:], at+1, n-1
	}
	if n%2 > 0 {
		n--
		one(n, at+n+1)
	}
	if n > 0 {
		l.vec.SwapBF16(dst[at:], x, m, n, ld, ldX)
	}
}

// quantize packs m rows of width entries as integers ([kernel.Int8]).
func (l *leftPack) quantize(dst, src []float32, m, width int) {
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(&dst[0])), kernel.EntryBytes*len(dst))
	if len(l.runs) == 1 && l.runs[0].step == 1 {
		for i := range m {
			l.vec.Quantize(bytes[i*l.stride:], src[i*width+l.runs[0].off:][:l.depth], l.inputs)
		}
		return
	}
	row := make([]float32, l.depth)
	for i := range m {
		at := row
		for _, r := range l.runs {
			x := src[i*width+r.off:]
			for k := range r.len {
				at[k] = x[k*r.step]
			}
			at = at[r.len:]
		}
		l.vec.Quantize(bytes[i*l.stride:], row, l.inputs)
	}
}
