package mul

import (
	"math"
	"sync"
	"unsafe"

	"github.com/structuredffn/sffn/gen/plan/cpu"
	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/vec"
)

// The portable kernel serves every tile; it is registered under each name, so
// that dispatch and tests treat it like the assembly.
func init() {
	for _, k := range cpu.Any(kernel.For(kernel.Portable)) {
		f := func(a *kernel.Args) { mulPortable(a, k.Format) }
		switch {
		case k.Across:
			f = acrossPortable
		case k.Format == kernel.Int8:
			f = int8Portable
		case k.Format == kernel.Int4:
			f = int4Portable
		}
		kernel.Register(kernel.Info{Name: k.Name(), Row: k, Func: f})
	}
}

// mulPortable is the readable definition of a matrix-product kernel. For each
// of NTiles tiles, MR rows i and NR columns j,
//
//	s      = sum_k A[i,k] * B[k,j]           as the format sums, see portableSum
//	s      = alpha * s                       with Scale
//	s      = s + C[i,j]                      with Accumulate
//	s      = s + bias[j] + residual[i,j]     where they are given
//	aux    = s                               where it is given, before an activation
//	C[i,j] = act(s)
//
// Of gated activations B's panels hold 16 gates and 16 ups; C[i,j] = silu(g) * u has
// half as many columns, and there is no residual. A tile of 48 columns is a
// product's last: NTiles is 1.
func mulPortable(a *kernel.Args, format kernel.FormatName) {
	width := kernel.PanelWidth(a.NR)
	for t := range a.NTiles * (a.NR / width) {
		b := unsafe.Add(a.B, t*a.PanelStep)
		for i := range a.MR {
			var sum [kernel.LongPanel]float32
			s := sum[:width]
			portableSum(format, s, a, i, b)
			if a.Flags&kernel.Scale != 0 {
				for j := range s {
					s[j] *= a.Alpha
				}
			}
			if a.Epilogue.Gated() {
				gated(a, i, t, s)
				continue
			}
			col := kernel.EntryBytes * t * width
			c := unsafe.Slice((*float32)(unsafe.Add(a.C, i*a.LDC+col)), width)
			if a.Flags&kernel.Accumulate != 0 {
				add(s, c)
			}
			add(s, floats(a.Bias, col, width))
			add(s, floats(a.Residual, i*a.LDC+col, width))
			if a.Epilogue != kernel.Linear {
				copy(floats(a.Aux, i*a.LDAux+col, width), s)
				portable().Activate(a.Epilogue, s, s, width)
			}
			copy(c, s)
		}
	}
}

// portableSum adds up the products of row i of A, which lies in segments, and a panel, as
// a format does. (A switch, not a table: what s points to stays on the stack.)
func portableSum(format kernel.FormatName, s []float32, a *kernel.Args, i int, panel unsafe.Pointer) {
	switch format {
	case kernel.F32:
		// In the order of the segments: s[j] += A[i,k] * B[k][j].
		eachLeft(a, i, func(k int, v float32) {
			for j, w := range floats(panel, kernel.EntryBytes*len(s)*k, len(s)) {
				s[j] += v * w
			}
		})
	case kernel.BF16W:
		// In the order of the segments: s[j] += A[i,k] * widened(B[k/2][j][k%2]).
		eachLeft(a, i, func(k int, v float32) {
			for j, w := range halves(panel, k/2, len(s)) {
				s[j] += v * vec.FromBF16(w[k%2])
			}
		})
	case kernel.Int8W:
		// In the order of the segments: s[j] += A[i,k] * B[k][j].
		eachLeft(a, i, func(k int, v float32) {
			for j, w := range unsafe.Slice((*int8)(unsafe.Add(panel, len(s)*k)), len(s)) {
				s[j] += v * float32(w)
			}
		})
	case kernel.BF16:
		// Pairs of k, the odd one first, of one segment of packed rows:
		// s[j] = A[i,p][0]*B[p][j][0] + (A[i,p][1]*B[p][j][1] + s[j]), each rounded once; what is
		// subnormal counts as zero.
		seg := (*kernel.Segment)(a.Segs)
		for p := range seg.Len / 2 {
			x := *(*[2]uint16)(unsafe.Add(a.A, i*a.LDA+seg.Off+p*a.KStep))
			for j, w := range halves(panel, p, len(s)) {
				for h := 1; h >= 0; h-- {
					s[j] = flushed(multiplyAdd(flushed(vec.FromBF16(x[h])), flushed(vec.FromBF16(w[h])), s[j]))
				}
			}
		}
	default:
		panic("mul: no portable sum of format " + string(format))
	}
}

// eachLeft calls f with every entry of a row of A.
func eachLeft(a *kernel.Args, row int, f func(k int, v float32)) {
	k := 0
	for _, seg := range unsafe.Slice((*kernel.Segment)(a.Segs), a.NSegs) {
		for d := range seg.Len {
			f(k, *(*float32)(unsafe.Add(a.A, row*a.LDA+seg.Off+d*a.KStep)))
			k++
		}
	}
}

// halves are those of group p of a panel.
func halves(panel unsafe.Pointer, p, width int) [][2]uint16 {
	return unsafe.Slice((*[2]uint16)(unsafe.Add(panel, kernel.EntryBytes*width*p)), width)
}

// multiplyAdd is x*y + s of bfloat16 x and y, rounded once: their product is exact in
// float32, or else beyond its exponents.
func multiplyAdd(x, y, s float32) float32 {
	exact := float64(x) * float64(y)
	if p := float32(exact); float64(p) == exact {
		return s + p
	}
	return float32(float64(s) + exact)
}

// flushed is x, or a zero of its sign where it is subnormal.
func flushed(x float32) float32 {
	if x > -0x1p-126 && x < 0x1p-126 {
		return float32(math.Copysign(0, float64(x)))
	}
	return x
}

// acrossPortable is the readable definition of a kernel whose lanes run across blocks.
// For MR rows i and each of NTiles*NR columns j, every entry is a vector of neighbouring
// blocks, and
//
//	C[i,j] = (C[i,j] with Continue, else 0) + sum_k A[i,k] * B[k,j]
//
// lane by lane, each one chain in increasing k.
func acrossPortable(a *kernel.Args) {
	vector := func(p unsafe.Pointer, off int) []float32 { return floats(p, off, kernel.LaneGroup) }
	depth := (*kernel.Segment)(a.Segs).Len
	for i := range a.MR {
		for j := range a.NTiles * a.NR {
			var sum [kernel.LaneGroup]float32
			c := vector(a.C, i*a.LDC+j*a.ColC)
			if a.Flags&kernel.Continue != 0 {
				copy(sum[:], c)
			}
			for k := range depth {
				x, y := vector(a.A, i*a.LDA+k*a.KStep), vector(a.B, k*a.LDB+j*a.ColB)
				for l := range sum {
					sum[l] += x[l] * y[l]
				}
			}
			copy(c, sum[:])
		}
	}
}

// portable has the elementwise operations in Go.
var portable = sync.OnceValue(func() *vec.Table { return vec.For(kernel.Portable) })

// gated ends a panel of 16 gates and 16 ups.
func gated(a *kernel.Args, row, panel int, s []float32) {
	g, u := s[:kernel.HalfPanel], s[kernel.HalfPanel:]
	col := kernel.EntryBytes * panel * kernel.HalfPanel
	auxG := floats(a.Aux, row*a.LDAux+col, kernel.HalfPanel)
	auxU := floats(a.Aux, row*a.LDAux+col+a.UpAux, kernel.HalfPanel)
	if a.Flags&kernel.Accumulate != 0 {
		add(g, auxG)
		add(u, auxU)
	}
	add(s, floats(a.Bias, 2*col, len(s)))
	copy(auxG, g)
	copy(auxU, u)
	if a.Flags&kernel.PreOnly == 0 {
		portable().Activate(a.Epilogue, floats(a.C, row*a.LDC+col, kernel.HalfPanel), s, kernel.HalfPanel)
	}
}

// floats is a view of n entries off bytes after p, empty where p is nil.
func floats(p unsafe.Pointer, off, n int) []float32 {
	if p == nil {
		return nil
	}
	return unsafe.Slice((*float32)(unsafe.Add(p, off)), n)
}

func add(s, t []float32) {
	for j, v := range t {
		s[j] += v
	}
}
