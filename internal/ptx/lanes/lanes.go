// Lanes writes the assembly of package ptx: instructions of all lanes of a warp
// at once, which the interpreter otherwise runs lane by lane. Its results have
// the same bits.
package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

func main() {
	ConstraintExpr("amd64,!purego")
	for _, op := range []struct {
		name    string
		sources int
		run     func(x []VecVirtual)
	}{
		{"add32", 2, func(x []VecVirtual) { VPADDD(x[1], x[0], x[0]) }},
		{"sub32", 2, func(x []VecVirtual) { VPSUBD(x[1], x[0], x[0]) }},
		{"mul32", 2, func(x []VecVirtual) { VPMULLD(x[1], x[0], x[0]) }},
		{"mad32", 3, func(x []VecVirtual) { VPMULLD(x[1], x[0], x[0]); VPADDD(x[2], x[0], x[0]) }},
		{"and32", 2, func(x []VecVirtual) { VPAND(x[1], x[0], x[0]) }},
		{"or32", 2, func(x []VecVirtual) { VPOR(x[1], x[0], x[0]) }},
		{"xor32", 2, func(x []VecVirtual) { VPXOR(x[1], x[0], x[0]) }},
		{"shl32", 2, func(x []VecVirtual) { VPSLLVD(x[1], x[0], x[0]) }},
		{"shrU32", 2, func(x []VecVirtual) { VPSRLVD(x[1], x[0], x[0]) }},
		{"shrS32", 2, func(x []VecVirtual) { VPSRAVD(x[1], x[0], x[0]) }},
		{"addF32", 2, func(x []VecVirtual) { VADDPS(x[1], x[0], x[0]) }},
		{"subF32", 2, func(x []VecVirtual) { VSUBPS(x[1], x[0], x[0]) }},
		{"mulF32", 2, func(x []VecVirtual) { VMULPS(x[1], x[0], x[0]) }},
	} {
		TEXT(op.name+"AVX2", NOSPLIT, "func(d, a, b, c *[32]uint32)")
		Pragma("noescape")
		Doc(fmt.Sprintf("%sAVX2 is %s of all lanes.", op.name, op.name))
		d := Mem{Base: Load(Param("d"), GP64())}
		src := make([]Mem, op.sources)
		for i, name := range []string{"a", "b", "c"}[:op.sources] {
			src[i] = Mem{Base: Load(Param(name), GP64())}
		}
		for l := 0; l < 128; l += 32 {
			x := make([]VecVirtual, op.sources)
			for i := range x {
				x[i] = YMM()
				VMOVUPS(src[i].Offset(l), x[i])
			}
			op.run(x)
			VMOVUPS(x[0], d.Offset(l))
		}
		VZEROUPPER()
		RET()
	}
	fma()
	mma()
	Generate()
}

// fma rounds the sum of an exact product to float64, and then to float32.
func fma() {
	TEXT("fmaF32AVX2", NOSPLIT, "func(d, a, b, c *[32]uint32)")
	Pragma("noescape")
	Doc("fmaF32AVX2 is fma of all lanes.")
	d, a, b, c := Mem{Base: Load(Param("d"), GP64())}, Mem{Base: Load(Param("a"), GP64())}, Mem{Base: Load(Param("b"), GP64())}, Mem{Base: Load(Param("c"), GP64())}
	for l := 0; l < 128; l += 16 {
		x, y, z := YMM(), YMM(), YMM()
		VCVTPS2PD(a.Offset(l), x)
		VCVTPS2PD(b.Offset(l), y)
		VCVTPS2PD(c.Offset(l), z)
		VMULPD(y, x, x)
		VADDPD(z, x, x)
		VCVTPD2PSY(x, x.AsX())
		VMOVUPS(x.AsX(), d.Offset(l))
	}
	VZEROUPPER()
	RET()
}

// mma multiplies a 16x16 and a 16x8 matrix of bf16 and adds a float32 one. Four
// lanes of a register hold eight neighbouring entries of a row of A or of a
// column of B, and two registers the even and the odd columns of a row of C.
func mma() {
	TEXT("mmaAVX2", NOSPLIT, "func(d, a *[4]*[32]uint32, b *[2]*[32]uint32, c *[4]*[32]uint32, scratch *[16*16 + 2*16*8]float32)")
	Pragma("noescape")
	Doc("mmaAVX2 multiplies and adds; scratch is for its own use.")
	registers := func(name string) func(i int) Mem {
		p := Load(Param(name), GP64())
		return func(i int) Mem {
			at := GP64()
			MOVQ(Mem{Base: p}.Offset(8*i), at)
			return Mem{Base: at}
		}
	}
	d, a, b, c := registers("d"), registers("a"), registers("b"), registers("c")
	rows := Mem{Base: Load(Param("scratch"), GP64())}
	cols := rows.Offset(4 * 16 * 16)
	sums := cols.Offset(4 * 16 * 8)
	// Rows of A as float32, 64 bytes each.
	for r := range 4 {
		a := a(r)
		for g := range 8 {
			x := YMM()
			VPMOVZXWD(a.Offset(16*g), x)
			VPSLLD(U8(16), x, x)
			VMOVUPS(x, rows.Offset((g+r&1*8)*64+r>>1*32))
		}
	}
	// Rows of B, 32 bytes each, with even columns before odd ones.
	for r := range 2 {
		b := b(r)
		var x [8]VecVirtual
		for i := range x {
			x[i] = XMM()
			VMOVUPS(b.Offset(16*(2*i%8+i/4)), x[i])
		}
		merge := func(x [8]VecVirtual, step int, lo, hi func(...Op)) (y [8]VecVirtual) {
			for i := range 8 {
				if i&step != 0 {
					continue
				}
				y[i], y[i+step] = XMM(), XMM()
				lo(x[i+step], x[i], y[i])
				hi(x[i+step], x[i], y[i+step])
			}
			return y
		}
		x = merge(x, 1, VPUNPCKLWD, VPUNPCKHWD)
		x = merge(x, 2, VPUNPCKLDQ, VPUNPCKHDQ)
		x = merge(x, 4, VPUNPCKLQDQ, VPUNPCKHQDQ)
		for i, k := range []int{0, 4, 2, 6, 1, 5, 3, 7} {
			y := YMM()
			VPMOVZXWD(x[i], y)
			VPSLLD(U8(16), y, y)
			VMOVUPS(y, cols.Offset((8*r+k)*32))
		}
	}
	// Eight rows of sums at a time, products in ascending order.
	half, k, row, col, sum := GP64(), GP64(), GP64(), GP64(), GP64()
	LEAQ(rows, row)
	LEAQ(sums, sum)
	MOVQ(U32(2), half)
	Label("half")
	var s [8]VecVirtual
	for i := range s {
		s[i] = YMM()
		VXORPS(s[i], s[i], s[i])
	}
	LEAQ(cols, col)
	MOVQ(U32(16), k)
	Label("k")
	y := YMM()
	VMOVUPS(Mem{Base: col}, y)
	for i := range s {
		x := YMM()
		VBROADCASTSS(Mem{Base: row}.Offset(64*i), x)
		VMULPS(y, x, x)
		VADDPS(x, s[i], s[i])
	}
	ADDQ(U8(4), row)
	ADDQ(U8(32), col)
	DECQ(k)
	JNZ(LabelRef("k"))
	for i := range s {
		VMOVUPS(s[i], Mem{Base: sum}.Offset(32*i))
	}
	ADDQ(U32(7*64), row)
	ADDQ(U32(8*32), sum)
	DECQ(half)
	JNZ(LabelRef("half"))
	// All of C is read before D is written: they may share registers.
	for r := range 4 {
		c := c(r)
		for g := range 8 {
			x := XMM()
			at := sums.Offset((g+r>>1*8)*32 + r&1*16)
			VMOVUPS(c.Offset(16*g), x)
			VADDPS(at, x, x)
			VMOVUPS(x, at)
		}
	}
	for r := range 4 {
		d := d(r)
		for g := range 8 {
			x := XMM()
			VMOVUPS(sums.Offset((g+r>>1*8)*32+r&1*16), x)
			VMOVUPS(x, d.Offset(16*g))
		}
	}
	VZEROUPPER()
	RET()
}
