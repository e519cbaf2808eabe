package ptx

import (
	"math"
	"math/bits"
)

// compute runs arithmetic: the results of all lanes, of which those in mask
// are kept.
func (w *warp) compute(in *instr, mask uint32) {
	if in.op.code >= opSetS32 && in.op.code <= opNotPred {
		w.predicate(in, mask)
		return
	}
	if classOf(in.op.operands[0]) == class64 {
		d, part := target(&w.r64[in.d[0]], &w.kept64, mask)
		w.compute64(in, d)
		keep(&w.r64[in.d[0]], part, mask)
		w.wrote(in, mask)
		return
	}
	d, part := target(&w.r32[in.d[0]], &w.kept32, mask)
	if run := vectors[in.op.code]; run != nil {
		run(d, &w.r32[in.r32[0]], &w.r32[in.r32[1]], &w.r32[in.r32[2]])
	} else {
		w.compute32(in, d, mask)
	}
	if in.op.narrow {
		for l := range d {
			d[l] &= 0xffff
		}
	}
	keep(&w.r32[in.d[0]], part, mask)
	w.wrote(in, mask)
}

// target is where results go: the register itself, because a lane's result
// depends on that lane alone, or part where some lanes keep what they have.
func target[T uint32 | uint64](register, part *[warpSize]T, mask uint32) (_, _ *[warpSize]T) {
	if mask == allLanes {
		return register, nil
	}
	return part, part
}

// keep moves the results of the lanes in mask to the register.
func keep[T uint32 | uint64](register, part *[warpSize]T, mask uint32) {
	if part == nil {
		return
	}
	for l := range register {
		if mask>>l&1 != 0 {
			register[l] = part[l]
		}
	}
}

// each computes all lanes of d from those of one register, each2 and each3 from
// those of two and three. They are inlined, and with them what they are given.
func each[D, A uint32 | uint64](d *[warpSize]D, a *[warpSize]A, f func(A) D) {
	for l := range d {
		d[l] = f(a[l])
	}
}

// eachOnce is each of what takes long, for the lanes in mask; lanes after one with the
// same operand have its result.
func eachOnce(d, a *[warpSize]uint32, mask uint32, f func(uint32) uint32) {
	if mask == 0 {
		return
	}
	last := a[bits.TrailingZeros32(mask)]
	y := f(last)
	for m := mask; m != 0; m &= m - 1 {
		l := bits.TrailingZeros32(m)
		if x := a[l]; x != last {
			last, y = x, f(x)
		}
		d[l] = y
	}
}

func each2[D, A, B uint32 | uint64](d *[warpSize]D, a *[warpSize]A, b *[warpSize]B, f func(A, B) D) {
	for l := range d {
		d[l] = f(a[l], b[l])
	}
}

func each3[D uint32 | uint64](d, a, b, c *[warpSize]D, f func(_, _, _ D) D) {
	for l := range d {
		d[l] = f(a[l], b[l], c[l])
	}
}

// choose takes the lanes of a where p has a bit, and those of b elsewhere.
func choose[T uint32 | uint64](d, a, b *[warpSize]T, p uint32) {
	for l := range d {
		if p>>l&1 != 0 {
			d[l] = a[l]
		} else {
			d[l] = b[l]
		}
	}
}

// vectors are instructions of compute32 in assembly, where there is some.
var vectors [opMMA]func(d, a, b, c *[warpSize]uint32)

func (w *warp) compute32(in *instr, d *[warpSize]uint32, mask uint32) {
	a, b, c := &w.r32[in.r32[0]], &w.r32[in.r32[1]], &w.r32[in.r32[2]]
	switch in.op.code {
	case opMov32:
		*d = *a
	case opAdd32:
		each2(d, a, b, func(x, y uint32) uint32 { return x + y })
	case opSub32:
		each2(d, a, b, func(x, y uint32) uint32 { return x - y })
	case opMul32:
		each2(d, a, b, func(x, y uint32) uint32 { return x * y })
	case opMad32:
		each3(d, a, b, c, func(x, y, z uint32) uint32 { return x*y + z })
	case opMulHiS32:
		each2(d, a, b, func(x, y uint32) uint32 { return uint32(int64(int32(x)) * int64(int32(y)) >> 32) })
	case opMulHiU32:
		each2(d, a, b, func(x, y uint32) uint32 { return uint32(uint64(x) * uint64(y) >> 32) })
	case opDivU32, opRemU32:
		// What a division by zero gives is not defined: all ones.
		for l := range d {
			switch {
			case b[l] == 0:
				d[l] = math.MaxUint32
			case in.op.code == opDivU32:
				d[l] = a[l] / b[l]
			default:
				d[l] = a[l] % b[l]
			}
		}
	case opAnd32:
		each2(d, a, b, func(x, y uint32) uint32 { return x & y })
	case opOr32:
		each2(d, a, b, func(x, y uint32) uint32 { return x | y })
	case opXor32:
		each2(d, a, b, func(x, y uint32) uint32 { return x ^ y })
	case opNot32:
		each(d, a, func(x uint32) uint32 { return ^x })
	case opNeg32:
		each(d, a, func(x uint32) uint32 { return -x })
	case opShl32:
		each2(d, a, b, func(x, y uint32) uint32 { return x << y })
	case opShrU32:
		each2(d, a, b, func(x, y uint32) uint32 { return x >> y })
	case opShrS32:
		each2(d, a, b, func(x, y uint32) uint32 { return uint32(int32(x) >> y) })
	case opMinS32:
		each2(d, a, b, func(x, y uint32) uint32 { return uint32(min(int32(x), int32(y))) })
	case opMaxS32:
		each2(d, a, b, func(x, y uint32) uint32 { return uint32(max(int32(x), int32(y))) })
	case opMinU32:
		each2(d, a, b, func(x, y uint32) uint32 { return min(x, y) })
	case opMaxU32:
		each2(d, a, b, func(x, y uint32) uint32 { return max(x, y) })
	case opBfi32:
		n := &w.r32[in.r32[3]]
		for l := range d {
			field := (uint32(1)<<(n[l]&255) - 1) << (c[l] & 255)
			d[l] = b[l]&^field | a[l]<<(c[l]&255)&field
		}
	case opCvt32U64:
		each(d, &w.r64[in.r64[0]], func(x uint64) uint32 { return uint32(x) })
	case opSelect32:
		choose(d, a, b, w.preds[in.s[2]])
	case opAddF32:
		each2(d, a, b, func(x, y uint32) uint32 { return bits32(f32(x) + f32(y)) })
	case opSubF32:
		each2(d, a, b, func(x, y uint32) uint32 { return bits32(f32(x) - f32(y)) })
	case opMulF32:
		each2(d, a, b, func(x, y uint32) uint32 { return bits32(f32(x) * f32(y)) })
	case opNegF32:
		each(d, a, func(x uint32) uint32 { return x ^ 1<<31 })
	case opFmaF32:
		for l := range d {
			// The product of two float32 is exact in float64; the sum is rounded
			// twice, which differs from one rounding by far less than the tests' tolerance.
			d[l] = bits32(float32(float64(f32(a[l]))*float64(f32(b[l])) + float64(f32(c[l]))))
		}
	case opMaxF32:
		each2(d, a, b, func(x, y uint32) uint32 { return bits32(atMost(f32(y), f32(x))) })
	case opMinF32:
		each2(d, a, b, func(x, y uint32) uint32 { return bits32(-atMost(-f32(y), -f32(x))) })
	case opDivF32:
		each2(d, a, b, func(x, y uint32) uint32 { return bits32(f32(x) / f32(y)) })
	case opRcpF32:
		each(d, a, func(x uint32) uint32 { return bits32(1 / f32(x)) })
	case opSqrtF32:
		each(d, a, func(x uint32) uint32 { return bits32(float32(math.Sqrt(float64(f32(x))))) })
	case opCvtF32U32:
		each(d, a, func(x uint32) uint32 { return bits32(float32(x)) })
	case opExp2F32:
		eachOnce(d, a, mask, func(x uint32) uint32 { return bits32(approx22(math.Exp2(float64(f32(x))))) })
	case opLog2F32:
		eachOnce(d, a, mask, func(x uint32) uint32 { return bits32(approx22(math.Log2(float64(f32(x))))) })
	case opTanhF32:
		eachOnce(d, a, mask, func(x uint32) uint32 { return bits32(tanhApprox(f32(x))) })
	case opPackBF16:
		each2(d, a, b, func(x, y uint32) uint32 { return roundBF16(f32(x))<<16 | roundBF16(f32(y)) })
	default:
		panic("ptx: no arithmetic for " + in.name)
	}
}

func f32(v uint32) float32    { return math.Float32frombits(v) }
func bits32(v float32) uint32 { return math.Float32bits(v) }

// atMost is the larger one; a NaN gives way, as PTX's max does.
func atMost(a, b float32) float32 {
	switch {
	case a != a:
		return b
	case b != b:
		return a
	}
	return max(a, b)
}

// approx22 keeps 22 bits behind the point of a result, as little as the
// approximate instructions promise.
func approx22(x float64) float32 {
	v := math.Float32bits(float32(x))
	if x != x || math.IsInf(x, 0) {
		return math.Float32frombits(v)
	}
	return math.Float32frombits(v &^ 1)
}

func (w *warp) compute64(in *instr, d *[warpSize]uint64) {
	a32, b32 := &w.r32[in.r32[0]], &w.r32[in.r32[1]]
	a, b := &w.r64[in.r64[0]], &w.r64[in.r64[1]]
	switch in.op.code {
	case opMov64:
		*d = *a
	case opAdd64:
		each2(d, a, b, func(x, y uint64) uint64 { return x + y })
	case opSub64:
		each2(d, a, b, func(x, y uint64) uint64 { return x - y })
	case opMul64:
		each2(d, a, b, func(x, y uint64) uint64 { return x * y })
	case opAnd64:
		each2(d, a, b, func(x, y uint64) uint64 { return x & y })
	case opOr64:
		each2(d, a, b, func(x, y uint64) uint64 { return x | y })
	case opShl64:
		each2(d, a, b32, func(x uint64, y uint32) uint64 { return x << y })
	case opShrU64:
		each2(d, a, b32, func(x uint64, y uint32) uint64 { return x >> y })
	case opShrS64:
		each2(d, a, b32, func(x uint64, y uint32) uint64 { return uint64(int64(x) >> y) })
	case opMulWideS32:
		each2(d, a32, b32, func(x, y uint32) uint64 { return uint64(int64(int32(x)) * int64(int32(y))) })
	case opMulWideU32:
		each2(d, a32, b32, func(x, y uint32) uint64 { return uint64(x) * uint64(y) })
	case opCvt64S32:
		each(d, a32, func(x uint32) uint64 { return uint64(int64(int32(x))) })
	case opCvt64U32:
		each(d, a32, func(x uint32) uint64 { return uint64(x) })
	case opSelect64:
		choose(d, a, b, w.preds[in.s[2]])
	default:
		panic("ptx: no arithmetic for " + in.name)
	}
}

// predicate runs comparisons and the logic of predicates.
func (w *warp) predicate(in *instr, mask uint32) {
	var p uint32
	a32, b32 := &w.r32[in.r32[0]], &w.r32[in.r32[1]]
	a64, b64 := &w.r64[in.r64[0]], &w.r64[in.r64[1]]
	switch in.op.code {
	case opSetS32:
		p = compare(in.op.cmp, a32, b32, func(x, y uint32) bool { return int32(x) < int32(y) })
	case opSetU32:
		p = compare(in.op.cmp, a32, b32, func(x, y uint32) bool { return x < y })
	case opSetF32:
		p = compareFloats(in.op.cmp, a32, b32)
	case opSetS64:
		p = compare(in.op.cmp, a64, b64, func(x, y uint64) bool { return int64(x) < int64(y) })
	case opSetU64:
		p = compare(in.op.cmp, a64, b64, func(x, y uint64) bool { return x < y })
	case opAndPred:
		p = w.preds[in.s[0]] & w.preds[in.s[1]]
	case opOrPred:
		p = w.preds[in.s[0]] | w.preds[in.s[1]]
	case opMovPred:
		p = w.preds[in.s[0]]
	case opNotPred:
		p = ^w.preds[in.s[0]]
	}
	d := &w.preds[in.d[0]]
	*d = *d&^mask | p&mask
	w.wrote(in, mask)
}

// where has a bit for every lane in which f holds.
func where[T uint32 | uint64](a, b *[warpSize]T, f func(x, y T) bool) (lanes uint32) {
	for l := range a {
		bit := uint32(0)
		if f(a[l], b[l]) {
			bit = 1
		}
		lanes |= bit << l
	}
	return lanes
}

func compare[T uint32 | uint64](c comparison, a, b *[warpSize]T, less func(x, y T) bool) uint32 {
	switch c {
	case cmpLT:
		return where(a, b, less)
	case cmpLE:
		return ^where(b, a, less)
	case cmpGT:
		return where(b, a, less)
	case cmpGE:
		return ^where(a, b, less)
	}
	equal := where(a, b, func(x, y T) bool { return x == y })
	if c == cmpEQ {
		return equal
	}
	return ^equal
}

// compareFloats is false where an operand is NaN, that of unordered comparisons
// true.
func compareFloats(c comparison, a, b *[warpSize]uint32) (lanes uint32) {
	if c&cmpUnordered != 0 {
		lanes = where(a, b, func(x, y uint32) bool { return f32(x) != f32(x) || f32(y) != f32(y) })
	}
	switch c &^ cmpUnordered {
	case cmpLT:
		lanes |= where(a, b, func(x, y uint32) bool { return f32(x) < f32(y) })
	case cmpLE:
		lanes |= where(a, b, func(x, y uint32) bool { return f32(x) <= f32(y) })
	case cmpGT:
		lanes |= where(a, b, func(x, y uint32) bool { return f32(x) > f32(y) })
	case cmpGE:
		lanes |= where(a, b, func(x, y uint32) bool { return f32(x) >= f32(y) })
	case cmpEQ:
		lanes |= where(a, b, func(x, y uint32) bool { return f32(x) == f32(y) })
	case cmpNE: // PTX's ne is ordered
		lanes |= where(a, b, func(x, y uint32) bool { return f32(x) < f32(y) || f32(x) > f32(y) })
	}
	return lanes
}
