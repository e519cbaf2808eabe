package pass

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/ir"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/structuredffn/sffn/runtime/kernel"
)

var (
	zmm = []reg.Register{reg.Z0, reg.Z1, reg.Z2, reg.Z3, reg.Z4, reg.Z5, reg.Z6, reg.Z7, reg.Z8, reg.Z9, reg.Z10, reg.Z11, reg.Z12, reg.Z13, reg.Z14, reg.Z15,
		reg.Z16, reg.Z17, reg.Z18, reg.Z19, reg.Z20, reg.Z21, reg.Z22, reg.Z23, reg.Z24, reg.Z25, reg.Z26, reg.Z27, reg.Z28, reg.Z29, reg.Z30, reg.Z31}
	all = append(slices.Clone(avx512), kernel.HasAVX512BF16, kernel.HasAVXVNNI)
)

// compile compiles a function of the instructions.
func compile(t *testing.T, needs []kernel.Feature, is ...*ir.Instruction) (*ir.File, error) {
	t.Helper()
	c := build.NewContext()
	c.Function("f")
	c.SignatureExpr("func()")
	for _, i := range is {
		c.Instruction(i)
	}
	c.VZEROUPPER()
	c.RET()
	f, err := c.Result()
	if err != nil {
		t.Fatal(err)
	}
	return f, Compile(f, Needs{"f": needs})
}

// compiled are the bytes of the instructions.
func compiled(t *testing.T, is ...*ir.Instruction) []byte {
	t.Helper()
	f, err := compile(t, all, is...)
	if err != nil {
		t.Fatal(err)
	}
	var b []byte
	for _, i := range f.Functions()[0].Instructions() {
		switch i.Opcode {
		case "LONG":
			b = binary.LittleEndian.AppendUint32(b, uint32(i.Operands[0].(operand.U32)))
		case "WORD":
			b = binary.LittleEndian.AppendUint16(b, uint16(i.Operands[0].(operand.U16)))
		case "BYTE":
			b = append(b, byte(i.Operands[0].(operand.U8)))
		}
	}
	return b
}

// The bytes are those that the GNU assembler makes, version 2.40.
func TestEncode(t *testing.T) {
	for _, c := range []struct {
		want string
		i    *ir.Instruction
	}{
		{"62f26e4852d9", VDPBF16PS(reg.Z1, reg.Z2, reg.Z3)},
		{"6212764052cf", VDPBF16PS(reg.Z31, reg.Z17, reg.Z9)},
		{"6242064852c0", VDPBF16PS(reg.Z8, reg.Z15, reg.Z24)},
		{"62f27e0872d1", VCVTNEPS2BF16(reg.X1, reg.X2)},
		{"62827e0872c7", VCVTNEPS2BF16(reg.X31, reg.X16)},
		{"62427e0872f1", VCVTNEPS2BF16(reg.X9, reg.X30)},
		{"c4e26d50d9", VPDPBUSD(reg.Y1, reg.Y2, reg.Y3)},
		{"c4423d50cf", VPDPBUSD(reg.Y15, reg.Y8, reg.Y9)},
		{"c4c20550c0", VPDPBUSD(reg.Y8, reg.Y15, reg.Y0)},
		{"c4627d50e7", VPDPBUSD(reg.Y7, reg.Y0, reg.Y12)},
		{"c4e26950d9", VPDPBUSD(reg.X1, reg.X2, reg.X3)},
	} {
		if got := hex.EncodeToString(compiled(t, c.i)); got != c.want {
			t.Errorf("%s %v: %s, want %s", c.i.Opcode, c.i.Operands, got, c.want)
		}
	}
}

// VEX has no registers beyond the sixteenth, and none of 512 bits; what is of AVX-VNNI is
// no function's that does not need it.
func TestEncodeRefused(t *testing.T) {
	for _, c := range []struct {
		i     *ir.Instruction
		needs []kernel.Feature
		want  string
	}{
		{VPDPBUSD(reg.Y16, reg.Y2, reg.Y3), all, "VEX has no such registers"},
		{VPDPBUSD(reg.Y1, reg.Y17, reg.Y3), all, "VEX has no such registers"},
		{VPDPBUSD(reg.Y1, reg.Y2, reg.Y31), all, "VEX has no such registers"},
		{VPDPBUSD(reg.Z1, reg.Z2, reg.Z3), all, "VEX has no such registers"},
		{VPDPBUSD(reg.Y1, reg.Y2, reg.Y3), avx512, "needs AVXVNNI"},
	} {
		if _, err := compile(t, c.needs, c.i); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.i.Operands, err, c.want)
		}
	}
}

// A disassembler reads every register in every place.
func TestDisassembled(t *testing.T) {
	objdump, err := exec.LookPath("objdump")
	if err != nil {
		t.Skip("objdump (package binutils) is missing on this machine: the bytes are compared with the assembler's known ones only")
	}
	var is []*ir.Instruction
	var want []string
	for n := range zmm {
		for _, rs := range [][3]int{{n, 5, 30}, {30, n, 5}, {5, 30, n}, {n, n, n}} {
			is = append(is, VDPBF16PS(zmm[rs[0]], zmm[rs[1]], zmm[rs[2]]))
			want = append(want, fmt.Sprintf("vdpbf16ps %%zmm%d,%%zmm%d,%%zmm%d", rs[0], rs[1], rs[2]))
		}
		for _, rs := range [][2]int{{n, 17}, {6, n}} {
			x := func(i int) reg.Register { return zmm[i].(reg.VecPhysical).AsX() }
			is = append(is, VCVTNEPS2BF16(x(rs[0]), x(rs[1])))
			want = append(want, fmt.Sprintf("vcvtneps2bf16 %%xmm%d,%%xmm%d", rs[0], rs[1]))
		}
		for _, rs := range [][3]int{{n, 5, 12}, {12, n, 5}, {5, 12, n}, {n, n, n}} {
			if n < 16 {
				y := func(i int) reg.Register { return zmm[i].(reg.VecPhysical).AsY() }
				is = append(is, VPDPBUSD(y(rs[0]), y(rs[1]), y(rs[2])))
				want = append(want, fmt.Sprintf("{vex} vpdpbusd %%ymm%d,%%ymm%d,%%ymm%d", rs[0], rs[1], rs[2]))
			}
		}
	}
	file := filepath.Join(t.TempDir(), "code")
	if err := os.WriteFile(file, compiled(t, is...), 0o666); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(objdump, "-D", "-b", "binary", "-m", "i386:x86-64", file).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var got []string
	for _, m := range regexp.MustCompile(`(?m)\t((?:\{vex\} )?v\w+ +\S+)$`).FindAllSubmatch(out, -1) {
		got = append(got, string(bytes.Join(bytes.Fields(m[1]), []byte(" "))))
	}
	if !slices.Equal(got, want) {
		t.Errorf("the disassembler reads\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
