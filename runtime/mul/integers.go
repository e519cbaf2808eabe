package mul

import (
	"encoding/binary"
	"math"
	"unsafe"

	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/quant"
)

// int8Portable is the readable definition of a kernel of int8 ([kernel.Int8]). For each of
// NTiles panels, MR rows i and 32 columns j, with exact sums,
//
//	s      = start[i] + sum_k A[i,k] * (B[k,j] + 128)
//	s      = float32(s) * column scale[j] * row scale[i]
//	C[i,j] = s + bias[j] + residual[i,j]              where they are given
func int8Portable(a *kernel.Args) {
	groups := kernel.QuantGroups((*kernel.Segment)(a.Segs).Len)
	for t := range a.NTiles {
		b := unsafe.Add(a.B, t*a.PanelStep)
		scales := floats(b, groups*kernel.QuantGroup*kernel.Panel, kernel.Panel)
		for i := range a.MR {
			row := unsafe.Add(a.A, i*a.LDA)
			var sum [kernel.Panel]int32
			for j := range sum {
				sum[j] = *(*int32)(unsafe.Add(row, 4-kernel.LeftHead))
			}
			for k := range groups * kernel.QuantGroup {
				x := int32(left(row, k))
				line := unsafe.Slice((*uint8)(unsafe.Add(b, k/4*4*kernel.Panel)), 4*kernel.Panel)
				for j := range sum {
					sum[j] += x * int32(line[4*j+k%4])
				}
			}
			var s [kernel.Panel]float32
			for j := range s {
				s[j] = float32(float32(sum[j]) * scales[j])
			}
			quantResult(a, t, i, &s)
		}
	}
}

// int4Portable is the readable definition of a kernel of int4 ([kernel.Int4]). For each of
// NTiles panels, MR rows i and 32 columns j, with sums of the 32 k of a group g that are
// exact,
//
//	s      = sum_g float32(start[i,g] + sum_k A[i,k] * (B[k,j] + 8)) * scale[g,j]    one chain of fused multiply-adds
//	s      = s * row scale[i]
//	C[i,j] = s + bias[j] + residual[i,j]                                             where they are given
func int4Portable(a *kernel.Args) {
	groups := kernel.QuantGroups((*kernel.Segment)(a.Segs).Len)
	const weights = kernel.QuantGroup / 2 * kernel.Panel
	for t := range a.NTiles {
		for i := range a.MR {
			row := unsafe.Add(a.A, i*a.LDA)
			var s [kernel.Panel]float32
			for g := range groups {
				b := unsafe.Add(a.B, t*a.PanelStep+g*(weights+2*kernel.Panel))
				scales := unsafe.Slice((*uint16)(unsafe.Add(b, weights)), kernel.Panel)
				start := *(*int32)(unsafe.Add(row, g*kernel.LeftGroupBytes))
				for j := range s {
					sum := start
					for k := range kernel.QuantGroup {
						w := *(*uint8)(unsafe.Add(b, k/8*4*kernel.Panel+4*j+k%4)) >> (k / 4 % 2 * 4) & 15
						sum += int32(left(row, g*kernel.QuantGroup+k)) * int32(w)
					}
					s[j] = fma(float32(sum), math.Float32frombits(uint32(scales[j])<<16), s[j])
				}
			}
			quantResult(a, t, i, &s)
		}
	}
}

// left is the integer of a row at k.
func left(row unsafe.Pointer, k int) int8 {
	return *(*int8)(unsafe.Add(row, k/kernel.QuantGroup*kernel.LeftGroupBytes+4+k%kernel.QuantGroup))
}

// quantResult scales the sums of row i and panel t and stores them.
func quantResult(a *kernel.Args, t, i int, s *[kernel.Panel]float32) {
	scale, col := *(*float32)(unsafe.Add(a.A, i*a.LDA-kernel.LeftHead)), kernel.EntryBytes*kernel.Panel*t
	for j := range s {
		s[j] = float32(s[j] * scale)
	}
	add(s[:], floats(a.Bias, col, kernel.Panel))
	add(s[:], floats(a.Residual, i*a.LDC+col, kernel.Panel))
	copy(floats(a.C, i*a.LDC+col, kernel.Panel), s[:])
}

// fma is x*y + z, rounded once, where the product of x and y is exact in float64: the sum
// is rounded to odd there, so that rounding it again errs no more (Boldo and Melquiond
// 2008).
func fma(x, y, z float32) float32 {
	p, c := float64(x)*float64(y), float64(z)
	s := p + c
	b := s - p
	lost := (p - (s - b)) + (c - b)
	if u := math.Float64bits(s); lost != 0 && u&1 == 0 && !math.IsInf(s, 0) && lost == lost {
		if lost > 0 == (s > 0) {
			u++
		} else {
			u--
		}
		s = math.Float64frombits(u)
	}
	return float32(s)
}

// packIntegers fills a panel of 32 columns ([kernel.Int8]), each a row of the matrix's
// block; negative ones are padding, and zeros, as is what pads the depth.
func packIntegers(panel []byte, m *quant.Matrix, block int, columns []int) {
	groups := kernel.QuantGroups(m.In)
	if m.Format == kernel.Int8 {
		for i := range panel {
			panel[i] = 128
		}
	} else {
		for i := range panel {
			panel[i] = 8 | 8<<4
		}
	}
	const weights = kernel.QuantGroup / 2 * kernel.Panel
	for c := range kernel.Panel {
		var values []int8
		var of []float32
		if columns[c] >= 0 {
			values, of = m.Row(block*m.Out + columns[c])
		}
		if m.Format == kernel.Int8 {
			for k, v := range values {
				panel[k/4*4*kernel.Panel+4*c+k%4] = byte(int(v) + 128)
			}
			s := float32(0)
			if of != nil {
				s = of[0]
			}
			binary.NativeEndian.PutUint32(panel[groups*kernel.QuantGroup*kernel.Panel+4*c:], math.Float32bits(s))
			continue
		}
		for g := range groups {
			group := panel[g*(weights+2*kernel.Panel):]
			for i := range min(kernel.QuantGroup, max(0, len(values)-g*kernel.QuantGroup)) {
				at, shift := i/8*4*kernel.Panel+4*c+i%4, i/4%2*4
				group[at] = group[at]&^(15<<shift) | byte(int(values[g*kernel.QuantGroup+i])+8)<<shift
			}
			s := float32(0)
			if of != nil {
				s = of[g]
			}
			binary.NativeEndian.PutUint16(group[weights+2*c:], uint16(math.Float32bits(s)>>16))
		}
	}
}

// SetInputs says what the left operand is multiplied by before it becomes integers: before
// the panels of a matrix are packed.
func (q *Product) SetInputs(m *quant.Matrix) {
	copy(q.left.inputs, m.Inputs[q.Block*m.In:(q.Block+1)*m.In])
}

// PackIntegers fills panel number panel from the factor's weights.
func (q *Product) PackIntegers(panel int, m *quant.Matrix) {
	packIntegers(q.pack.Panel(0, panel), m, q.Block, q.cols[panel*kernel.Panel:][:kernel.Panel])
}
