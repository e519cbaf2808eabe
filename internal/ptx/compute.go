package ptx

import "math"

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
		w.set64[in.d[0]] |= mask
		return
	}
	d, part := target(&w.r32[in.d[0]], &w.kept32, mask)
	w.compute32(in, d)
	if in.op.narrow {
		for l := range d {
			d[l] &= 0xffff
		}
	}
	keep(&w.r32[in.d[0]], part, mask)
	w.set32[in.d[0]] |= mask
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

// lanes32 are a source's values.
func (w *warp) lanes32(in *instr, i int) *[warpSize]uint32 {
	if i < len(in.s) && in.classes[i].narrow() {
		return &w.r32[in.s[i]]
	}
	return &zero32
}

func (w *warp) lanes64(in *instr, i int) *[warpSize]uint64 {
	if i < len(in.s) && in.classes[i] == class64 {
		return &w.r64[in.s[i]]
	}
	return &zero64
}

var (
	zero32 [warpSize]uint32
	zero64 [warpSize]uint64
)

func (w *warp) compute32(in *instr, d *[warpSize]uint32) {
	a, b, c := w.lanes32(in, 0), w.lanes32(in, 1), w.lanes32(in, 2)
	switch in.op.code {
	case opMov32:
		*d = *a
	case opAdd32:
		for l := range d {
			d[l] = a[l] + b[l]
		}
	case opSub32:
		for l := range d {
			d[l] = a[l] - b[l]
		}
	case opMul32:
		for l := range d {
			d[l] = a[l] * b[l]
		}
	case opMad32:
		for l := range d {
			d[l] = a[l]*b[l] + c[l]
		}
	case opMulHiS32:
		for l := range d {
			d[l] = uint32(int64(int32(a[l])) * int64(int32(b[l])) >> 32)
		}
	case opMulHiU32:
		for l := range d {
			d[l] = uint32(uint64(a[l]) * uint64(b[l]) >> 32)
		}
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
		for l := range d {
			d[l] = a[l] & b[l]
		}
	case opOr32:
		for l := range d {
			d[l] = a[l] | b[l]
		}
	case opXor32:
		for l := range d {
			d[l] = a[l] ^ b[l]
		}
	case opNot32:
		for l := range d {
			d[l] = ^a[l]
		}
	case opNeg32:
		for l := range d {
			d[l] = -a[l]
		}
	case opShl32:
		for l := range d {
			d[l] = a[l] << b[l]
		}
	case opShrU32:
		for l := range d {
			d[l] = a[l] >> b[l]
		}
	case opShrS32:
		for l := range d {
			d[l] = uint32(int32(a[l]) >> b[l])
		}
	case opMinS32:
		for l := range d {
			d[l] = uint32(min(int32(a[l]), int32(b[l])))
		}
	case opMaxS32:
		for l := range d {
			d[l] = uint32(max(int32(a[l]), int32(b[l])))
		}
	case opMinU32:
		for l := range d {
			d[l] = min(a[l], b[l])
		}
	case opMaxU32:
		for l := range d {
			d[l] = max(a[l], b[l])
		}
	case opBfi32:
		n := w.lanes32(in, 3)
		for l := range d {
			field := (uint32(1)<<(n[l]&255) - 1) << (c[l] & 255)
			d[l] = b[l]&^field | a[l]<<(c[l]&255)&field
		}
	case opCvt32U64:
		for l, v := range w.lanes64(in, 0) {
			d[l] = uint32(v)
		}
	case opSelect32:
		p := w.preds[in.s[2]]
		for l := range d {
			d[l] = b[l]
			if p>>l&1 != 0 {
				d[l] = a[l]
			}
		}
	case opAddF32:
		for l := range d {
			d[l] = bits32(f32(a[l]) + f32(b[l]))
		}
	case opSubF32:
		for l := range d {
			d[l] = bits32(f32(a[l]) - f32(b[l]))
		}
	case opMulF32:
		for l := range d {
			d[l] = bits32(f32(a[l]) * f32(b[l]))
		}
	case opNegF32:
		for l := range d {
			d[l] = a[l] ^ 1<<31
		}
	case opFmaF32:
		for l := range d {
			// The product of two float32 is exact in float64; the sum is rounded
			// twice, which differs from one rounding by far less than the tests' tolerance.
			d[l] = bits32(float32(float64(f32(a[l]))*float64(f32(b[l])) + float64(f32(c[l]))))
		}
	case opMaxF32:
		for l := range d {
			d[l] = bits32(atMost(f32(b[l]), f32(a[l])))
		}
	case opMinF32:
		for l := range d {
			d[l] = bits32(-atMost(-f32(b[l]), -f32(a[l])))
		}
	case opDivF32:
		for l := range d {
			d[l] = bits32(f32(a[l]) / f32(b[l]))
		}
	case opRcpF32:
		for l := range d {
			d[l] = bits32(1 / f32(a[l]))
		}
	case opSqrtF32:
		for l := range d {
			d[l] = bits32(float32(math.Sqrt(float64(f32(a[l])))))
		}
	case opCvtF32U32:
		for l := range d {
			d[l] = bits32(float32(a[l]))
		}
	case opExp2F32:
		for l := range d {
			d[l] = bits32(approx22(math.Exp2(float64(f32(a[l])))))
		}
	case opLog2F32:
		for l := range d {
			d[l] = bits32(approx22(math.Log2(float64(f32(a[l])))))
		}
	case opTanhF32:
		for l := range d {
			d[l] = bits32(tanhApprox(f32(a[l])))
		}
	case opPackBF16:
		for l := range d {
			d[l] = roundBF16(f32(a[l]))<<16 | roundBF16(f32(b[l]))
		}
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
	a32, b32 := w.lanes32(in, 0), w.lanes32(in, 1)
	a, b := w.lanes64(in, 0), w.lanes64(in, 1)
	switch in.op.code {
	case opMov64:
		*d = *a
	case opAdd64:
		for l := range d {
			d[l] = a[l] + b[l]
		}
	case opSub64:
		for l := range d {
			d[l] = a[l] - b[l]
		}
	case opMul64:
		for l := range d {
			d[l] = a[l] * b[l]
		}
	case opAnd64:
		for l := range d {
			d[l] = a[l] & b[l]
		}
	case opOr64:
		for l := range d {
			d[l] = a[l] | b[l]
		}
	case opShl64:
		for l := range d {
			d[l] = a[l] << b32[l]
		}
	case opShrU64:
		for l := range d {
			d[l] = a[l] >> b32[l]
		}
	case opShrS64:
		for l := range d {
			d[l] = uint64(int64(a[l]) >> b32[l])
		}
	case opMulWideS32:
		for l := range d {
			d[l] = uint64(int64(int32(a32[l])) * int64(int32(b32[l])))
		}
	case opMulWideU32:
		for l := range d {
			d[l] = uint64(a32[l]) * uint64(b32[l])
		}
	case opCvt64S32:
		for l := range d {
			d[l] = uint64(int64(int32(a32[l])))
		}
	case opCvt64U32:
		for l := range d {
			d[l] = uint64(a32[l])
		}
	case opSelect64:
		p := w.preds[in.s[2]]
		for l := range d {
			d[l] = b[l]
			if p>>l&1 != 0 {
				d[l] = a[l]
			}
		}
	default:
		panic("ptx: no arithmetic for " + in.name)
	}
}

// predicate runs comparisons and the logic of predicates.
func (w *warp) predicate(in *instr, mask uint32) {
	var p uint32
	a32, b32 := w.lanes32(in, 0), w.lanes32(in, 1)
	a, b := w.lanes64(in, 0), w.lanes64(in, 1)
	for l := range warpSize {
		ok := false
		switch in.op.code {
		case opSetS32:
			ok = compare(in.op.cmp, int32(a32[l]), int32(b32[l]))
		case opSetU32:
			ok = compare(in.op.cmp, a32[l], b32[l])
		case opSetF32:
			ok = compare(in.op.cmp, f32(a32[l]), f32(b32[l]))
		case opSetS64:
			ok = compare(in.op.cmp, int64(a[l]), int64(b[l]))
		case opSetU64:
			ok = compare(in.op.cmp, a[l], b[l])
		}
		if ok {
			p |= 1 << l
		}
	}
	switch in.op.code {
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
	w.setPred[in.d[0]] |= mask
}

func compare[T int32 | uint32 | float32 | int64 | uint64](c comparison, a, b T) bool {
	if c&cmpUnordered != 0 && (a != a || b != b) {
		return true
	}
	switch c &^ cmpUnordered {
	case cmpLT:
		return a < b
	case cmpLE:
		return a <= b
	case cmpGT:
		return a > b
	case cmpGE:
		return a >= b
	case cmpEQ:
		return a == b
	}
	// PTX's ne is ordered: false where an operand is NaN.
	return a < b || a > b
}
