package ptx

// code is what an instruction does; several names share one.
type code uint8

const (
	opRet code = iota
	opBra
	opBar
	opWarpBar
	opParam
	opMov32
	opMov64
	opAdd32
	opSub32
	opMul32
	opMad32
	opMulHiS32
	opMulHiU32
	opMulWideS32
	opMulWideU32
	opDivU32
	opRemU32
	opAnd32
	opOr32
	opXor32
	opNot32
	opNeg32
	opShl32
	opShrU32
	opShrS32
	opMinS32
	opMaxS32
	opMinU32
	opMaxU32
	opBfi32
	opAdd64
	opSub64
	opMul64
	opAnd64
	opOr64
	opShl64
	opShrU64
	opShrS64
	opCvt64S32
	opCvt64U32
	opCvt32U64
	opSelect32
	opSelect64
	opSetS32
	opSetU32
	opSetS64
	opSetU64
	opSetF32
	opAndPred
	opOrPred
	opMovPred
	opNotPred
	opAddF32
	opSubF32
	opMulF32
	opNegF32
	opFmaF32
	opMaxF32
	opMinF32
	opDivF32
	opRcpF32
	opSqrtF32
	opCvtF32U32
	opTanhF32
	opExp2F32
	opLog2F32
	opPackBF16
	opLoadGlobal
	opStoreGlobal
	opLoadShared
	opStoreShared
	opCopy
	opCommit
	opWait
	opShuffle
	opMatrix
	opMatrixTransposed
	opMMA
)

// comparison is the relation of a setp.
type comparison uint8

const (
	cmpLT comparison = iota + 1
	cmpLE
	cmpGT
	cmpGE
	cmpEQ
	cmpNE
	// cmpUnordered is set in comparisons that are true where an operand is NaN.
	cmpUnordered comparison = 8
)

// opcode describes one instruction by its full name.
type opcode struct {
	code     code
	operands []string
	// size is the bytes that a memory access or parameter moves a lane.
	size int
	cmp  comparison
	// narrow results keep their low 16 bits.
	narrow bool
	// nonCoherent loads go through a cache that stores do not reach: what they
	// read must not be written in the same launch.
	nonCoherent bool
}

// opcodes is the whole subset. An instruction that is not here is an error:
// nothing is run approximately.
var opcodes = map[string]*opcode{
	"ret":                {code: opRet},
	"bra":                {code: opBra, operands: []string{"L"}},
	"bra.uni":            {code: opBra, operands: []string{"L"}},
	"bar.sync":           {code: opBar, operands: []string{"i"}},
	"bar.warp.sync":      {code: opWarpBar, operands: []string{"s"}},
	"ld.param.u32":       {code: opParam, operands: []string{"d", "P"}, size: 4},
	"ld.param.f32":       {code: opParam, operands: []string{"d", "P"}, size: 4},
	"ld.param.u64":       {code: opParam, operands: []string{"D", "P"}, size: 8},
	"mov.u32":            {code: opMov32, operands: []string{"d", "s"}},
	"mov.b32":            {code: opMov32, operands: []string{"d", "s"}},
	"mov.f32":            {code: opMov32, operands: []string{"d", "s"}},
	"mov.u64":            {code: opMov64, operands: []string{"D", "S"}},
	"cvta.to.global.u64": {code: opMov64, operands: []string{"D", "S"}},
	"add.s32":            {code: opAdd32, operands: []string{"d", "s", "s"}},
	"sub.s32":            {code: opSub32, operands: []string{"d", "s", "s"}},
	"mul.lo.s32":         {code: opMul32, operands: []string{"d", "s", "s"}},
	"mad.lo.s32":         {code: opMad32, operands: []string{"d", "s", "s", "s"}},
	"mul.hi.s32":         {code: opMulHiS32, operands: []string{"d", "s", "s"}},
	"mul.hi.u32":         {code: opMulHiU32, operands: []string{"d", "s", "s"}},
	"mul.wide.s32":       {code: opMulWideS32, operands: []string{"D", "s", "s"}},
	"mul.wide.u32":       {code: opMulWideU32, operands: []string{"D", "s", "s"}},
	"div.u32":            {code: opDivU32, operands: []string{"d", "s", "s"}},
	"rem.u32":            {code: opRemU32, operands: []string{"d", "s", "s"}},
	"and.b32":            {code: opAnd32, operands: []string{"d", "s", "s"}},
	"or.b32":             {code: opOr32, operands: []string{"d", "s", "s"}},
	"xor.b32":            {code: opXor32, operands: []string{"d", "s", "s"}},
	"neg.s32":            {code: opNeg32, operands: []string{"d", "s"}},
	"not.b32":            {code: opNot32, operands: []string{"d", "s"}},
	"shl.b32":            {code: opShl32, operands: []string{"d", "s", "s"}},
	"shr.u32":            {code: opShrU32, operands: []string{"d", "s", "s"}},
	"shr.s32":            {code: opShrS32, operands: []string{"d", "s", "s"}},
	"min.s32":            {code: opMinS32, operands: []string{"d", "s", "s"}},
	"max.s32":            {code: opMaxS32, operands: []string{"d", "s", "s"}},
	"min.u32":            {code: opMinU32, operands: []string{"d", "s", "s"}},
	"max.u32":            {code: opMaxU32, operands: []string{"d", "s", "s"}},
	"bfi.b32":            {code: opBfi32, operands: []string{"d", "s", "s", "s", "s"}},
	"add.s64":            {code: opAdd64, operands: []string{"D", "S", "S"}},
	"add.u64":            {code: opAdd64, operands: []string{"D", "S", "S"}},
	"sub.s64":            {code: opSub64, operands: []string{"D", "S", "S"}},
	"mul.lo.s64":         {code: opMul64, operands: []string{"D", "S", "S"}},
	"and.b64":            {code: opAnd64, operands: []string{"D", "S", "S"}},
	"or.b64":             {code: opOr64, operands: []string{"D", "S", "S"}},
	"shl.b64":            {code: opShl64, operands: []string{"D", "S", "s"}},
	"shr.u64":            {code: opShrU64, operands: []string{"D", "S", "s"}},
	"shr.s64":            {code: opShrS64, operands: []string{"D", "S", "s"}},
	"cvt.s64.s32":        {code: opCvt64S32, operands: []string{"D", "s"}},
	"cvt.u64.u32":        {code: opCvt64U32, operands: []string{"D", "s"}},
	"cvt.u32.u64":        {code: opCvt32U64, operands: []string{"d", "S"}},
	"selp.b32":           {code: opSelect32, operands: []string{"d", "s", "s", "q"}},
	"selp.f32":           {code: opSelect32, operands: []string{"d", "s", "s", "q"}},
	"selp.b64":           {code: opSelect64, operands: []string{"D", "S", "S", "q"}},
	"add.s16":            {code: opAdd32, operands: []string{"h", "g", "g"}, narrow: true},
	"sub.s16":            {code: opSub32, operands: []string{"h", "g", "g"}, narrow: true},
	"neg.s16":            {code: opNeg32, operands: []string{"h", "g"}, narrow: true},
	"mul.lo.s16":         {code: opMul32, operands: []string{"h", "g", "g"}, narrow: true},
	"mul.wide.u16":       {code: opMul32, operands: []string{"d", "g", "g"}},
	"and.b16":            {code: opAnd32, operands: []string{"h", "g", "g"}},
	"or.b16":             {code: opOr32, operands: []string{"h", "g", "g"}},
	"xor.b16":            {code: opXor32, operands: []string{"h", "g", "g"}},
	"shl.b16":            {code: opShl32, operands: []string{"h", "g", "s"}, narrow: true},
	"shr.u16":            {code: opShrU32, operands: []string{"h", "g", "s"}},
	"mov.u16":            {code: opMov32, operands: []string{"h", "g"}},
	"cvt.u16.u32":        {code: opMov32, operands: []string{"h", "s"}, narrow: true},
	"cvt.u32.u16":        {code: opMov32, operands: []string{"d", "g"}},
	"cvt.u64.u16":        {code: opCvt64U32, operands: []string{"D", "g"}},

	"and.pred":          {code: opAndPred, operands: []string{"p", "q", "q"}},
	"or.pred":           {code: opOrPred, operands: []string{"p", "q", "q"}},
	"mov.pred":          {code: opMovPred, operands: []string{"p", "q"}},
	"not.pred":          {code: opNotPred, operands: []string{"p", "q"}},
	"add.f32":           {code: opAddF32, operands: []string{"d", "s", "s"}},
	"sub.f32":           {code: opSubF32, operands: []string{"d", "s", "s"}},
	"mul.f32":           {code: opMulF32, operands: []string{"d", "s", "s"}},
	"neg.f32":           {code: opNegF32, operands: []string{"d", "s"}},
	"fma.rn.f32":        {code: opFmaF32, operands: []string{"d", "s", "s", "s"}},
	"max.f32":           {code: opMaxF32, operands: []string{"d", "s", "s"}},
	"min.f32":           {code: opMinF32, operands: []string{"d", "s", "s"}},
	"div.rn.f32":        {code: opDivF32, operands: []string{"d", "s", "s"}},
	"rcp.rn.f32":        {code: opRcpF32, operands: []string{"d", "s"}},
	"sqrt.rn.f32":       {code: opSqrtF32, operands: []string{"d", "s"}},
	"cvt.rn.f32.u32":    {code: opCvtF32U32, operands: []string{"d", "s"}},
	"tanh.approx.f32":   {code: opTanhF32, operands: []string{"d", "s"}},
	"ex2.approx.f32":    {code: opExp2F32, operands: []string{"d", "s"}},
	"lg2.approx.f32":    {code: opLog2F32, operands: []string{"d", "s"}},
	"cvt.rn.bf16x2.f32": {code: opPackBF16, operands: []string{"d", "s", "s"}},

	"cp.async.cg.shared.global":                           {code: opCopy, operands: []string{"s@", "S@", "i", "s"}, size: 16},
	"cp.async.commit_group":                               {code: opCommit},
	"cp.async.wait_group":                                 {code: opWait, operands: []string{"i"}},
	"shfl.sync.bfly.b32":                                  {code: opShuffle, operands: []string{"d", "s", "s", "s", "s"}},
	"ldmatrix.sync.aligned.m8n8.x4.shared.b16":            {code: opMatrix, operands: []string{"d4", "s@"}, size: 16},
	"ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16":      {code: opMatrixTransposed, operands: []string{"d4", "s@"}, size: 16},
	"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32": {code: opMMA, operands: []string{"d4", "s4", "s2", "s4"}},
}

func init() {
	for name, c := range map[string]comparison{"lt": cmpLT, "le": cmpLE, "gt": cmpGT, "ge": cmpGE, "eq": cmpEQ, "ne": cmpNE} {
		for typ, code := range map[string]code{"s32": opSetS32, "u32": opSetU32, "s64": opSetS64, "u64": opSetU64, "f32": opSetF32} {
			src := "s"
			if typ == "s64" || typ == "u64" {
				src = "S"
			}
			opcodes["setp."+name+"."+typ] = &opcode{code: code, operands: []string{"p", src, src}, cmp: c}
		}
	}
	for _, name := range []string{"eq", "ne"} {
		opcodes["setp."+name+".b32"] = opcodes["setp."+name+".u32"]
		opcodes["setp."+name+".b64"] = opcodes["setp."+name+".u64"]
	}
	for name, c := range map[string]comparison{"ltu": cmpLT, "leu": cmpLE, "gtu": cmpGT, "geu": cmpGE, "equ": cmpEQ, "neu": cmpNE} {
		opcodes["setp."+name+".f32"] = &opcode{code: opSetF32, operands: []string{"p", "s", "s"}, cmp: c | cmpUnordered}
	}
	for _, typ := range []string{"f32", "u32"} {
		for vec, n := range map[string]string{"": "", ".v2": "2", ".v4": "4"} {
			size := map[string]int{"": 4, "2": 8, "4": 16}[n]
			opcodes["ld.global"+vec+"."+typ] = &opcode{code: opLoadGlobal, operands: []string{"d" + n, "S@"}, size: size}
			opcodes["ld.global.nc"+vec+"."+typ] = &opcode{code: opLoadGlobal, operands: []string{"d" + n, "S@"}, size: size, nonCoherent: true}
			opcodes["st.global"+vec+"."+typ] = &opcode{code: opStoreGlobal, operands: []string{"S@", "s" + n}, size: size}
			opcodes["ld.shared"+vec+"."+typ] = &opcode{code: opLoadShared, operands: []string{"d" + n, "s@"}, size: size}
			opcodes["st.shared"+vec+"."+typ] = &opcode{code: opStoreShared, operands: []string{"s@", "s" + n}, size: size}
		}
	}
}
