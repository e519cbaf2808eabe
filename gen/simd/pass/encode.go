package pass

import (
	"encoding/binary"
	"fmt"

	"github.com/mmcloughlin/avo/ir"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/structuredffn/sffn/runtime/kernel"
)

// encoding is a row of the table of instructions that neither avo nor Go's assembler
// has: EVEX.F3.0F38.W0 of registers, without a mask.
type encoding struct {
	opcode byte
	needs  []kernel.Feature
}

// Opcodes and features are those of Intel's manual, volume 2.
var encodings = map[string]encoding{
	"VDPBF16PS":     {0x52, []kernel.Feature{kernel.HasAVX512BF16}},
	"VCVTNEPS2BF16": {0x72, []kernel.Feature{kernel.HasAVX512BF16}},
}

// VDPBF16PS adds to each float32 of sum the products of the pairs of bfloat16 in x and
// b, the odd ones first. Registers are all as wide as sum.
func VDPBF16PS(b, x, sum reg.Register) *ir.Instruction {
	return encoded("VDPBF16PS", []operand.Op{b, x, sum}, sum)
}

// VCVTNEPS2BF16 rounds the float32 of x to bfloat16, into the lower half of dst, ties
// to even.
func VCVTNEPS2BF16(x, dst reg.Register) *ir.Instruction {
	return encoded("VCVTNEPS2BF16", []operand.Op{x, dst})
}

// encoded is an instruction whose last operand is what it writes; read are those
// beside the others that it reads.
func encoded(opcode string, ops []operand.Op, read ...operand.Op) *ir.Instruction {
	dst := len(ops) - 1
	i := &ir.Instruction{Opcode: opcode, Operands: ops, Inputs: append(append([]operand.Op(nil), ops[:dst]...), read...), Outputs: ops[dst:]}
	for _, f := range encodings[opcode].needs {
		i.ISA = append(i.ISA, string(f))
	}
	if ops[0].(reg.Register).Size() < 64 {
		i.ISA = append(i.ISA, string(kernel.HasAVX512VL))
	}
	return i
}

// encode replaces the instructions of the table by their bytes, in the words that
// the assembler takes. Registers are allocated.
func encode(f *ir.File) error {
	for _, fn := range f.Functions() {
		var nodes []ir.Node
		for _, n := range fn.Nodes {
			i, ok := n.(*ir.Instruction)
			if !ok {
				nodes = append(nodes, n)
				continue
			}
			e, ok := encodings[i.Opcode]
			if !ok {
				nodes = append(nodes, n)
				continue
			}
			var rs []reg.Physical
			text := i.Opcode
			for _, op := range i.Operands {
				r, ok := op.(reg.Physical)
				if !ok || r.Kind() != reg.KindVector {
					return fmt.Errorf("pass: %s: %s of %s: only vector registers are encoded", fn.Name, i.Opcode, op.Asm())
				}
				rs = append(rs, r)
				text += " " + r.Asm()
			}
			b := e.bytes(rs)
			nodes = append(nodes, ir.NewComment(text),
				&ir.Instruction{Opcode: "LONG", Operands: []operand.Op{operand.U32(binary.LittleEndian.Uint32(b[:]))}},
				&ir.Instruction{Opcode: "WORD", Operands: []operand.Op{operand.U16(binary.LittleEndian.Uint16(b[4:]))}})
		}
		fn.Nodes = nodes
	}
	return nil
}

// bytes encodes the instruction with two or three registers, in the order of Go's
// assembler: the one of r/m, that of vvvv if there are three, and that of reg.
func (e encoding) bytes(rs []reg.Physical) [6]byte {
	rm, dst := rs[0].PhysicalIndex(), rs[len(rs)-1].PhysicalIndex()
	// The prefix holds the upper bits of registers, and those of the second one,
	// inverted.
	var v reg.Index
	if len(rs) == 3 {
		v = rs[1].PhysicalIndex()
	}
	not := func(x reg.Index, bit int) byte { return byte(^x>>bit) & 1 }
	const map0F38, f3 = 2, 2
	width := map[uint]byte{16: 0, 32: 1, 64: 2}[rs[0].Size()]
	return [6]byte{
		0x62,
		not(dst, 3)<<7 | not(rm, 4)<<6 | not(rm, 3)<<5 | not(dst, 4)<<4 | map0F38,
		byte(^v&15)<<3 | 1<<2 | f3,
		width<<5 | not(v, 4)<<3,
		e.opcode,
		0xc0 | byte(dst&7)<<3 | byte(rm&7),
	}
}
