package simd

import (
	"testing"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/pass"
	"github.com/mmcloughlin/avo/reg"

	"github.com/structuredffn/sffn/runtime/kernel"
)

// Each kernel below is one that the check exists for: avo itself takes it.
func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name, want string
		isa        kernel.ISA
		body       func(c *build.Context)
	}{
		{"good", "", kernel.AVX2, func(c *build.Context) {
			v := c.YMM()
			c.VXORPS(v, v, v)
			c.VZEROUPPER()
			c.RET()
		}},
		{"no VZEROUPPER", "RET without VZEROUPPER", kernel.AVX2, func(c *build.Context) {
			v := c.YMM()
			c.VXORPS(v, v, v)
			c.RET()
		}},
		{"no vectors, no VZEROUPPER", "", kernel.AVX2, func(c *build.Context) {
			r := c.GP64()
			c.XORQ(r, r)
			c.RET()
		}},
		{"an early return", "RET without VZEROUPPER", kernel.AVX512, func(c *build.Context) {
			v, r := c.ZMM(), c.GP64()
			c.VPXORD(v, v, v)
			c.TESTQ(r, r)
			c.JZ(operand.LabelRef("end"))
			c.VZEROUPPER()
			c.RET()
			c.Label("end")
			c.RET()
		}},
		{"AVX-512 in AVX2", "VPXORD needs AVX512F, which avx2 does not promise", kernel.AVX2, func(c *build.Context) {
			v := c.ZMM()
			c.VPXORD(v, v, v)
			c.VZEROUPPER()
			c.RET()
		}},
		{"Y16", "VMOVUPS uses Y16, which needs AVX-512", kernel.AVX2, func(c *build.Context) {
			c.VMOVUPS(operand.Mem{Base: reg.RAX}, reg.Y16)
			c.VZEROUPPER()
			c.RET()
		}},
		{"VNNI", "VPDPBUSD needs AVX512VNNI, which avx512 does not promise", kernel.AVX512, func(c *build.Context) {
			v := c.ZMM()
			c.VPDPBUSD(v, v, v)
			c.VZEROUPPER()
			c.RET()
		}},
		{"stack pointer", "ADDQ changes SP", kernel.AVX2, func(c *build.Context) {
			c.ADDQ(operand.U8(8), reg.RSP)
			c.RET()
		}},
		{"frame pointer", "XORQ changes BP", kernel.AVX2, func(c *build.Context) {
			c.XORQ(reg.RBP, reg.RBP)
			c.RET()
		}},
	} {
		ctx := build.NewContext()
		ctx.Function("f")
		ctx.SignatureExpr("func()")
		c.body(ctx)
		f, err := ctx.Result()
		if err != nil {
			t.Fatal(err)
		}
		if err := pass.Compile.Execute(f); err != nil {
			t.Errorf("%s: refused before the check: %v", c.name, err)
			continue
		}
		switch err := check(f, c.isa); {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (err == nil || err.Error() != "simd: f: "+c.want):
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
}
