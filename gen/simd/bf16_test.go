package simd

import (
	"encoding/binary"
	"math"
	"strings"
	"testing"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/structuredffn/sffn/gen/simd/pass"
	"github.com/structuredffn/sffn/internal/bound"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// A format that multiplies more than one k at a time, by instructions that are
// encoded after register allocation: bfloat16 weights and activations, a pair of each
// a lane.
var bf16 = kernel.Format{Name: "bf16", Weights: bf16w.Weights, Activations: bf16w.Weights, Accumulator: kernel.Float32, KGroup: 2,
	Needs: map[kernel.ISA][]kernel.Feature{kernel.AVX512: {kernel.HasAVX512BF16}}}

var bf16Step = step{
	k:    2,
	load: func(e *asm, m operand.Mem, _ int, b reg.VecVirtual) { e.VMOVUPS(m, b) },
	left: func(e *asm, m operand.Mem, ks int, x reg.VecVirtual) {
		pair := e.XMM()
		if ks == 2 {
			e.VMOVSD(m, pair)
		} else {
			e.VMOVSS(m, pair)
		}
		e.Instruction(pass.VCVTNEPS2BF16(pair, pair))
		e.VPBROADCASTD(pair, x)
	},
	multiply: func(e *asm, x, b, sum reg.VecVirtual) { e.Instruction(pass.VDPBF16PS(b, x, sum)) },
}

func init() {
	kernel.AddFormat(bf16)
	steps[bf16.Name] = bf16Step
}

// flushed is x, or a zero of its sign where it is subnormal.
func flushed(x float32) float32 {
	if math.Abs(float64(x)) < 0x1p-126 {
		return float32(math.Copysign(0, float64(x)))
	}
	return x
}

// dot is what VDPBF16PS adds: two multiply-adds, the odd k first, that know no
// subnormal numbers.
func dot(x, w [2]float32, sum float32) float32 {
	for _, d := range []int{1, 0} {
		sum = flushed(bound.FMA(flushed(x[d]), flushed(w[d]), sum))
	}
	return sum
}

func TestBF16(t *testing.T) {
	depths := []int{64, 65}
	rows := rowsOf(bf16.Name, depths...)
	ps := products(rows)
	var calls []Call
	for _, p := range ps {
		// The pack of bf16w, but that what is missing of a group counts for nothing.
		pack := packBF16W(p.w, p.depth)
		if p.depth%2 > 0 {
			for panel := range pack.Layout.Panels() {
				last := pack.Panel(0, panel)[p.depth/2*kernel.Panel*bf16.GroupBytes():]
				for at := 0; at < len(last); at += bf16.GroupBytes() {
					binary.LittleEndian.PutUint16(last[at+2:], 0)
				}
			}
		}
		c := p.ofBF16
		c.Kernel, c.B = p.Name(), pack.From(0, p.at/kernel.Panel)
		calls = append(calls, c)
	}
	for i, c := range runCalls(t, rows, calls) {
		p := ps[i]
		for row := range p.MR {
			for j := range p.cols {
				sum, k := float32(0), 0
				for _, s := range p.segs {
					a := p.a[row*p.ofBF16.LDA/kernel.EntryBytes+s.Off/kernel.EntryBytes:]
					for d := 0; d < s.Len; d += 2 {
						var x, w [2]float32
						for h := range min(2, s.Len-d) {
							x[h], w[h] = widen(roundBF16(a[d+h])), widen(p.w[(k+h)*columns+p.at+j])
						}
						sum = dot(x, w, sum)
						k += 2
					}
				}
				if got := c[row*ldc+j]; math.Float32bits(got) != math.Float32bits(sum) {
					t.Fatalf("%s, segments %v: entry %d,%d is %v, want %v", p.Name(), p.segs, row, j, got, sum)
				}
			}
		}
	}
	k := rows[0]
	k.Shape.KStep *= 2
	if _, err := Mul("kernels", []kernel.Row{k}); err == nil || !strings.Contains(err.Error(), "neighbours only") {
		t.Errorf("k that lie apart: %v", err)
	}
}
