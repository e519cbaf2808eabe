//go:build !purego

package ptx

import "github.com/klauspost/cpuid/v2"

//go:generate go run ./lanes -out z_lanes_amd64.s -stubs z_lanes_amd64.go -pkg ptx

func init() {
	if !cpuid.CPU.Supports(cpuid.AVX2) {
		return
	}
	multiply = func(m *multiplication) { mmaAVX2(&m.d, &m.a, &m.b, &m.c, &m.scratch) }
	vectors = [opMMA]func(d, a, b, c *[warpSize]uint32){
		opAdd32: add32AVX2, opSub32: sub32AVX2, opMul32: mul32AVX2, opMad32: mad32AVX2,
		opAnd32: and32AVX2, opOr32: or32AVX2, opXor32: xor32AVX2,
		opShl32: shl32AVX2, opShrU32: shrU32AVX2, opShrS32: shrS32AVX2,
		opAddF32: addF32AVX2, opSubF32: subF32AVX2, opMulF32: mulF32AVX2, opFmaF32: fmaF32AVX2,
	}
}
