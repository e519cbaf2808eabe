package pass

import (
	"slices"
	"testing"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	avo "github.com/mmcloughlin/avo/pass"
	"github.com/mmcloughlin/avo/reg"

	"github.com/structuredffn/sffn/runtime/kernel"
)

var avx2, avx512 = kernel.AVX2.Needs(), kernel.AVX512.Needs()

func vnni(c *build.Context) {
	v := c.ZMM()
	c.VPDPBUSD(v, v, v)
	c.VZEROUPPER()
	c.RET()
}

// Each kernel below is one that the check exists for: avo itself takes it.
func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name, want string
		has        []kernel.Feature
		body       func(c *build.Context)
	}{
		{"good", "", avx2, func(c *build.Context) {
			v := c.YMM()
			c.VXORPS(v, v, v)
			c.VZEROUPPER()
			c.RET()
		}},
		{"no VZEROUPPER", "RET without VZEROUPPER", avx2, func(c *build.Context) {
			v := c.YMM()
			c.VXORPS(v, v, v)
			c.RET()
		}},
		{"no vectors, no VZEROUPPER", "", avx2, func(c *build.Context) {
			r := c.GP64()
			c.XORQ(r, r)
			c.RET()
		}},
		{"an early return", "RET without VZEROUPPER", avx512, func(c *build.Context) {
			v, r := c.ZMM(), c.GP64()
			c.VPXORD(v, v, v)
			c.TESTQ(r, r)
			c.JZ(operand.LabelRef("end"))
			c.VZEROUPPER()
			c.RET()
			c.Label("end")
			c.RET()
		}},
		{"AVX-512 in AVX2", "VPXORD needs AVX512F, which is not among [AVX2 FMA3]", avx2, func(c *build.Context) {
			v := c.ZMM()
			c.VPXORD(v, v, v)
			c.VZEROUPPER()
			c.RET()
		}},
		{"Y16", "VMOVUPS uses Y16, which needs AVX512F", avx2, func(c *build.Context) {
			c.VMOVUPS(operand.Mem{Base: reg.RAX}, reg.Y16)
			c.VZEROUPPER()
			c.RET()
		}},
		{"Y16 of a processor without VL", "VMOVUPS uses Y16, which needs AVX512VL", slices.DeleteFunc(kernel.AVX512.Needs(), func(f kernel.Feature) bool { return f == kernel.HasAVX512VL }), func(c *build.Context) {
			c.VMOVUPS(operand.Mem{Base: reg.RAX}, reg.Y16)
			c.VZEROUPPER()
			c.RET()
		}},
		{"VNNI", "VPDPBUSD needs AVX512VNNI, which is not among [AVX2 FMA3 AVX512F AVX512DQ AVX512BW AVX512VL]", avx512, vnni},
		{"VNNI of a format that needs it", "", append(slices.Clone(avx512), kernel.HasAVX512VNNI), vnni},
		{"BF16", "VDPBF16PS needs AVX512BF16, which is not among [AVX2 FMA3 AVX512F AVX512DQ AVX512BW AVX512VL]", avx512, func(c *build.Context) {
			v := c.ZMM()
			c.VPXORD(v, v, v)
			c.Instruction(VDPBF16PS(v, v, v))
			c.VZEROUPPER()
			c.RET()
		}},
		{"stack pointer", "ADDQ changes SP", avx2, func(c *build.Context) {
			c.ADDQ(operand.U8(8), reg.RSP)
			c.RET()
		}},
		{"frame pointer", "XORQ changes BP", avx2, func(c *build.Context) {
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
		if err := avo.Compile.Execute(f); err != nil {
			t.Errorf("%s: refused before the check: %v", c.name, err)
			continue
		}
		switch err := check(f, Needs{"f": c.has}); {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (err == nil || err.Error() != "pass: f: "+c.want):
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
}
