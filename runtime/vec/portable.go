package vec

import (
	"encoding/binary"
	"math"
	"unsafe"

	"github.com/structuredffn/sffn/runtime/kernel"
)

// portable holds the readable definition of every operation but those of
// activations, which have theirs in a table of their own. P are its
// vectors of N entries, S its scalars, R its results.
var portable = map[kernel.VecOp]kernel.VecFunc{
	// R0 = sum P0.
	kernel.OpSum: func(a *kernel.VecArgs) {
		var s float64
		for _, x := range p(a, 0) {
			s += float64(x)
		}
		a.R[0] = float32(s)
	},
	// R0 = sum (P0 - S0)^2.
	kernel.OpSumDeviations: func(a *kernel.VecArgs) {
		var s float64
		for _, x := range p(a, 0) {
			d := float64(x - a.S[0])
			s += d * d
		}
		a.R[0] = float32(s)
	},
	// P0 = (P1 - S0)*S1*P2 + P3.
	kernel.OpNormalize: func(a *kernel.VecArgs) {
		y, x, w, b := p(a, 0), p(a, 1), p(a, 2), p(a, 3)
		for i := range y {
			y[i] = (x[i]-a.S[0])*a.S[1]*w[i] + b[i]
		}
	},
	// n = (P1 - S0)*S1, g = P0*P2: R0 = sum g, R1 = sum g*n, P3 += P0*n, P4 += P0.
	kernel.OpNormSums: func(a *kernel.VecArgs) {
		dy, x, w, dw, db := p(a, 0), p(a, 1), p(a, 2), p(a, 3), p(a, 4)
		var s1, s2 float64
		for i := range dy {
			n, g := (x[i]-a.S[0])*a.S[1], dy[i]*w[i]
			s1 += float64(g)
			s2 += float64(g) * float64(n)
			dw[i] += dy[i] * n
			db[i] += dy[i]
		}
		a.R = [2]float32{float32(s1), float32(s2)}
	},
	// P0 += S1*(P1*P3 - S2 - (P2-S0)*S1*S3).
	kernel.OpNormApply: func(a *kernel.VecArgs) {
		dx, dy, x, w := p(a, 0), p(a, 1), p(a, 2), p(a, 3)
		for i := range dx {
			dx[i] += a.S[1] * (dy[i]*w[i] - a.S[2] - (x[i]-a.S[0])*a.S[1]*a.S[3])
		}
	},
	// R0 = max P0; NaN counts for nothing.
	// R0 = max |P0 * P1|, NaN where there is any.
	kernel.OpLargest: func(a *kernel.VecArgs) {
		var largest uint32
		f := p(a, 1)
		for i, x := range p(a, 0) {
			largest = max(largest, math.Float32bits(float32(x*f[i]))&math.MaxInt32)
		}
		a.R[0] = math.Float32frombits(largest)
	},
	// Groups of 32 k: -8 times the sum of their integers, an int32, then the integers,
	// bytes: P0 = round((P1 * P2) * S0), ties to even, of magnitudes up to 127.
	kernel.OpQuantize: func(a *kernel.VecArgs) {
		x, f := p(a, 1), p(a, 2)
		dst := unsafe.Slice((*byte)(a.P[0]), a.N/kernel.QuantGroup*kernel.LeftGroupBytes)
		for at := 0; at < a.N; at += kernel.QuantGroup {
			group := dst[at/kernel.QuantGroup*kernel.LeftGroupBytes:][:kernel.LeftGroupBytes]
			sum := int32(0)
			for i := range kernel.QuantGroup {
				q := int8(math.RoundToEven(float64(float32(float32(x[at+i]*f[at+i]) * a.S[0]))))
				group[4+i] = byte(q)
				sum += int32(q)
			}
			binary.NativeEndian.PutUint32(group, uint32(-8*sum))
		}
	},
	kernel.OpMax: func(a *kernel.VecArgs) {
		m := float32(math.Inf(-1))
		for _, x := range p(a, 0) {
			if x > m {
				m = x
			}
		}
		a.R[0] = m
	},
	// P0 = exp((P1-S2)*S0 - S1), R0 = its sum.
	kernel.OpExpSum: func(a *kernel.VecArgs) {
		y, x := p(a, 0), p(a, 1)
		var s float64
		for i, v := range x {
			y[i] = float32(math.Exp(float64(v-a.S[2])*float64(a.S[0]) - float64(a.S[1])))
			s += float64(y[i])
		}
		a.R[0] = float32(s)
	},
	// P0 = P1*(P2 - S0)*S1.
	kernel.OpSoftmaxBackward: func(a *kernel.VecArgs) {
		ds, pr, dp := p(a, 0), p(a, 1), p(a, 2)
		for i := range ds {
			ds[i] = pr[i] * (dp[i] - a.S[0]) * a.S[1]
		}
	},
	// R0 = sum P0*P1.
	kernel.OpDot: func(a *kernel.VecArgs) {
		x, y := p(a, 0), p(a, 1)
		var s float64
		for i := range x {
			s += float64(x[i]) * float64(y[i])
		}
		a.R[0] = float32(s)
	},
	// P0 *= S0.
	kernel.OpScale: func(a *kernel.VecArgs) {
		x := p(a, 0)
		for i := range x {
			x[i] *= a.S[0]
		}
	},
	// P0 *= P1.
	kernel.OpMultiply: func(a *kernel.VecArgs) {
		x, f := p(a, 0), p(a, 1)
		for i := range x {
			x[i] *= f[i]
		}
	},
	// P0 += S0*P1.
	kernel.OpAxpy: func(a *kernel.VecArgs) {
		y, x := p(a, 0), p(a, 1)
		for i := range y {
			y[i] += a.S[0] * x[i]
		}
	},
	// P0 += the sum of Rows rows, P1 and on, Stride bytes apart.
	kernel.OpColSum: func(a *kernel.VecArgs) {
		dst := p(a, 0)
		for r := range a.Rows {
			for j, x := range unsafe.Slice((*float32)(unsafe.Add(a.P[1], r*a.Stride)), a.N) {
				dst[j] += x
			}
		}
	},
	// (P0, P1) = (P0 P2 - P1 s, P1 P2 + P0 s), s = S0*P3, for Rows heads.
	kernel.OpRotate: func(a *kernel.VecArgs) {
		cos, sin := p(a, 2), p(a, 3)
		for r := range a.Rows {
			x := unsafe.Slice((*float32)(unsafe.Add(a.P[0], r*a.Stride)), a.N)
			y := unsafe.Slice((*float32)(unsafe.Add(a.P[1], r*a.Stride)), a.N)
			for i, c := range cos {
				s := a.S[0] * sin[i]
				x[i], y[i] = x[i]*c-y[i]*s, y[i]*c+x[i]*s
			}
		}
	},
	// The update that AdamW documents; S holds 1-LR*Decay, Beta1, 1-Beta1,
	// Beta2, 1-Beta2, GradScale, LR/Bias1, 1/Bias2, Eps.
	kernel.OpAdamW: func(a *kernel.VecArgs) {
		w, g, m, v := p(a, 0), p(a, 1), p(a, 2), p(a, 3)
		s := &a.S
		for i := range w {
			d := g[i] * s[5]
			m[i] = m[i]*s[1] + d*s[2]
			v[i] = v[i]*s[3] + d*d*s[4]
			w[i] = w[i]*s[0] - m[i]*s[6]/(float32(math.Sqrt(float64(v[i]*s[7])))+s[8])
		}
	},
	// Rows rows of N entries of P1, stored Step bytes apart from P0 on, rows
	// Stride bytes apart.
	kernel.OpSpread: func(a *kernel.VecArgs) { spread(a, nil) },
	// The same, each added to what P2 holds in its place.
	kernel.OpSpreadAdd: func(a *kernel.VecArgs) { spread(a, a.P[2]) },
	// Rows rows of 2 or 4 blocks of N entries, dealt out in turn from P0 on, rows Stride
	// bytes apart. Blocks lie Step bytes apart in P1, rows of one tight. P3 is where the
	// rows that come next will be stored.
	kernel.OpWeave2: func(a *kernel.VecArgs) { weave(a, 2, nil) },
	kernel.OpWeave4: func(a *kernel.VecArgs) { weave(a, 4, nil) },
	// The same, each added to what P2 holds in its place.
	kernel.OpWeave2Add: func(a *kernel.VecArgs) { weave(a, 2, a.P[2]) },
	kernel.OpWeave4Add: func(a *kernel.VecArgs) { weave(a, 4, a.P[2]) },
	// Rows rows of Groups times N entries of P1, rows Stride bytes apart and
	// entries Step, packed tight into P0: all rows of one group, then the next.
	kernel.OpPackPanels:     pack,
	kernel.OpPackStrips:     pack,
	kernel.OpPackStripsStep: pack,
	// The same, and each column is added, row by row, to one of P2's sums.
	kernel.OpSumStrips:     sumStrips,
	kernel.OpSumStripsStep: sumStrips,
	// Runs of entries move, in every row, to other places.
	kernel.OpCopyRuns: func(a *kernel.VecArgs) {
		for _, r := range unsafe.Slice((*runOf)(a.P[3]), a.Groups) {
			for i := range a.Rows {
				dst := unsafe.Slice((*float32)(unsafe.Add(a.P[0], i*a.Stride+r.to)), r.n)
				copy(dst, unsafe.Slice((*float32)(unsafe.Add(a.P[1], i*a.Step+r.from)), r.n))
			}
		}
	},
	// P0 is read, and R0 some number that depends on it.
	kernel.OpRead: func(a *kernel.VecArgs) {
		for _, v := range p(a, 0) {
			a.R[0] += v
		}
	},
	// Of each of Rows rows of N entries, Stride bytes apart, P0 = bf16(P1) in half the room,
	// Step bytes apart, followed by zeros up to a whole vector of as many lanes as there are.
	kernel.OpBF16: func(a *kernel.VecArgs) {
		for r := range a.Rows {
			y := unsafe.Slice((*uint16)(unsafe.Add(a.P[0], r*a.Step)), a.N)
			for i, x := range unsafe.Slice((*float32)(unsafe.Add(a.P[1], r*a.Stride)), a.N) {
				y[i] = BF16(x)
			}
		}
	},
	// Of each of Rows rows of N entries P0 = bf16(P1) | bf16(P2) << 16; those of P0 lie Step
	// bytes apart, the others Stride.
	kernel.OpBF16Pairs: func(a *kernel.VecArgs) {
		for r := range a.Rows {
			y := unsafe.Slice((*uint32)(unsafe.Add(a.P[0], r*a.Step)), a.N)
			x0, x1 := unsafe.Slice((*float32)(unsafe.Add(a.P[1], r*a.Stride)), a.N), unsafe.Slice((*float32)(unsafe.Add(a.P[2], r*a.Stride)), a.N)
			for i := range y {
				y[i] = uint32(BF16(x0[i])) | uint32(BF16(x1[i]))<<16
			}
		}
	},
	// Of each of Rows rows of N entries P0 = P1 rounded to bfloat16; rows of P0 lie Step
	// bytes apart, those of P1 Stride.
	kernel.OpRoundBF16: func(a *kernel.VecArgs) {
		for r := range a.Rows {
			y := unsafe.Slice((*float32)(unsafe.Add(a.P[0], r*a.Step)), a.N)
			for i, x := range unsafe.Slice((*float32)(unsafe.Add(a.P[1], r*a.Stride)), a.N) {
				y[i] = FromBF16(BF16(x))
			}
		}
	},
	// The same, neighbours swapped; N is even.
	kernel.OpSwapBF16: func(a *kernel.VecArgs) {
		for r := range a.Rows {
			y := unsafe.Slice((*float32)(unsafe.Add(a.P[0], r*a.Step)), a.N)
			x := unsafe.Slice((*float32)(unsafe.Add(a.P[1], r*a.Stride)), a.N)
			for i := 0; i < a.N; i += 2 {
				y[i], y[i+1] = FromBF16(BF16(x[i+1])), FromBF16(BF16(x[i]))
			}
		}
	},
	// The first N entries of Rows rows of P1, Stride bytes apart, transposed: entry i of row r
	// is entry r of the i-th row of P0, of rows Step bytes apart. N and Rows are multiples
	// of 16.
	kernel.OpTranspose: func(a *kernel.VecArgs) {
		for r := range a.Rows {
			for i, x := range unsafe.Slice((*float32)(unsafe.Add(a.P[1], r*a.Stride)), a.N) {
				*(*float32)(unsafe.Add(a.P[0], i*a.Step+4*r)) = x
			}
		}
	},
	// N rounds of R0 operations each, two a multiply-add of the format, in no memory.
	kernel.OpPeak:     multiplyAdds[float32],
	kernel.OpPeakBF16: multiplyAdds[float32],
	kernel.OpPeakInt8: multiplyAdds[int32],
	kernel.OpPeakInt4: multiplyAdds[int32],
}

func multiplyAdds[T float32 | int32](a *kernel.VecArgs) {
	var s [8]T
	for range a.N {
		for i := range s {
			s[i] += s[i] * s[i]
		}
	}
	a.R[0] = 2 * float32(len(s))
}

func weave(a *kernel.VecArgs, blocks int, add unsafe.Pointer) {
	for r := range a.Rows {
		dst := unsafe.Slice((*float32)(unsafe.Add(a.P[0], r*a.Stride)), blocks*a.N)
		for b := range blocks {
			for i, x := range unsafe.Slice((*float32)(unsafe.Add(a.P[1], b*a.Step+4*r*a.N)), a.N) {
				at := i*blocks + b
				if add != nil {
					x += *(*float32)(unsafe.Add(add, r*a.Stride+4*at))
				}
				dst[at] = x
			}
		}
	}
}

func spread(a *kernel.VecArgs, add unsafe.Pointer) {
	for r := range a.Rows {
		for i, x := range unsafe.Slice((*float32)(unsafe.Add(a.P[1], 4*r*a.N)), a.N) {
			at := r*a.Stride + i*a.Step
			if add != nil {
				x += *(*float32)(unsafe.Add(add, at))
			}
			*(*float32)(unsafe.Add(a.P[0], at)) = x
		}
	}
}

func pack(a *kernel.VecArgs) {
	for g := range a.Groups {
		dst := unsafe.Slice((*float32)(unsafe.Add(a.P[0], g*a.GroupStep)), a.Rows*a.N)
		for r := range a.Rows {
			row, to := unsafe.Add(a.P[1], r*a.Stride+g*a.N*a.Step), dst[r*a.N:(r+1)*a.N]
			if a.Step == kernel.EntryBytes {
				copy(to, unsafe.Slice((*float32)(row), a.N))
				continue
			}
			for i := range to {
				to[i] = *(*float32)(unsafe.Add(row, i*a.Step))
			}
		}
	}
}

func sumStrips(a *kernel.VecArgs) {
	pack(a)
	all := unsafe.Slice((*float32)(a.P[2]), a.Groups*a.N)
	for g := range a.Groups {
		strip, sums := unsafe.Slice((*float32)(unsafe.Add(a.P[0], g*a.GroupStep)), a.Rows*a.N), all[g*a.N:(g+1)*a.N]
		for ; len(strip) > 0; strip = strip[a.N:] {
			for i, x := range strip[:a.N] {
				sums[i] += x
			}
		}
	}
}

// BF16 rounds to the nearest bfloat16, ties to even; subnormal numbers become zeros of
// their sign. NaN keeps its upper bits, and is quiet.
func BF16(x float32) uint16 {
	u := math.Float32bits(x)
	sign, a := u&0x80000000, u&0x7fffffff
	switch {
	case a > 0x7f800000:
		return uint16(u>>16) | 0x0040
	case a < 0x00800000:
		return uint16(sign >> 16)
	}
	return uint16((sign | a + 0x7fff + a>>16&1) >> 16)
}

// FromBF16 is the number that a bfloat16 is.
func FromBF16(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) }

// p is operand i.
func p(a *kernel.VecArgs, i int) []float32 { return unsafe.Slice((*float32)(a.P[i]), a.N) }
