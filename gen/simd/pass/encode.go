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
// has: W0 of map 0F38, of registers, without a mask.
type encoding struct {
	prefix byte // of the manual's 66, F3 and F2, counted from 1
	opcode byte
	vex    bool // in place of EVEX
	needs  []kernel.Feature
}

// Prefixes, opcodes and features are those of Intel's manual, volume 2. What both prefixes
// have has the assembler's name for the one of VEX.
var encodings = map[string]encoding{
	"VDPBF16PS":     {2, 0x52, false, []kernel.Feature{kernel.HasAVX512BF16}},
	"VCVTNEPS2BF16": {2, 0x72, false, []kernel.Feature{kernel.HasAVX512BF16}},
	vexVPDPBUSD:     {1, 0x50, true, []kernel.Feature{kernel.HasAVXVNNI}},
}

const vexVPDPBUSD = "{vex} VPDPBUSD"

// VPDPBUSD adds to each int32 of sum the products of four int8 of x and four uint8 of w,
// in registers of 256 bits of a processor that may have no AVX-512.
func VPDPBUSD(x, w, sum reg.Register) *ir.Instruction {
	return encoded(vexVPDPBUSD, []operand.Op{x, w, sum}, sum)
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
	e := encodings[opcode]
	for _, f := range e.needs {
		i.ISA = append(i.ISA, string(f))
	}
	if !e.vex && ops[0].(reg.Register).Size() < 64 {
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
			b, err := e.bytes(rs)
			if err != nil {
				return fmt.Errorf("pass: %s: %s: %w", fn.Name, text, err)
			}
			nodes = append(nodes, ir.NewComment(text), &ir.Instruction{Opcode: "LONG", Operands: []operand.Op{operand.U32(binary.LittleEndian.Uint32(b))}})
			if b = b[4:]; len(b) == 1 {
				nodes = append(nodes, &ir.Instruction{Opcode: "BYTE", Operands: []operand.Op{operand.U8(b[0])}})
			} else {
				nodes = append(nodes, &ir.Instruction{Opcode: "WORD", Operands: []operand.Op{operand.U16(binary.LittleEndian.Uint16(b))}})
			}
		}
		fn.Nodes = nodes
	}
	return nil
}

// bytes encodes the instruction with two or three registers, in the order of Go's
// assembler: the one of r/m, that of vvvv if there are three, and that of reg. VEX has
// places for the lower sixteen registers, of at most 256 bits.
func (e encoding) bytes(rs []reg.Physical) ([]byte, error) {
	rm, dst := rs[0].PhysicalIndex(), rs[len(rs)-1].PhysicalIndex()
	// The prefix holds the upper bits of registers, and those of the second one,
	// inverted.
	var v reg.Index
	if len(rs) == 3 {
		v = rs[1].PhysicalIndex()
	}
	not := func(x reg.Index, bit int) byte { return byte(^x>>bit) & 1 }
	const map0F38 = 2
	width := map[uint]byte{16: 0, 32: 1, 64: 2}[rs[0].Size()]
	modRM := 0xc0 | byte(dst&7)<<3 | byte(rm&7)
	if e.vex {
		if max(rm, v, dst) > 15 || width > 1 {
			return nil, fmt.Errorf("VEX has no such registers")
		}
		return []byte{0xc4, not(dst, 3)<<7 | 1<<6 | not(rm, 3)<<5 | map0F38, byte(^v&15)<<3 | width<<2 | e.prefix, e.opcode, modRM}, nil
	}
	return []byte{
		0x62,
		not(dst, 3)<<7 | not(rm, 4)<<6 | not(rm, 3)<<5 | not(dst, 4)<<4 | map0F38,
		byte(^v&15)<<3 | 1<<2 | e.prefix,
		width<<5 | not(v, 4)<<3,
		e.opcode,
		modRM,
	}, nil
}
