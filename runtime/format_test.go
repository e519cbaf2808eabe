package runtime

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/spec"
	fma "github.com/structuredffn/sffn/internal/bound"
	"github.com/structuredffn/sffn/internal/runtimetest"
	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/vec"
)

// Layers and networks of every kind in each format, in every way that a model calls
// them: with groups of k that segments cut, strided inputs, results through scratch,
// fewer columns than a panel, guides and both activations. Integers only run forward:
// integers_test.go.
func TestFormats(t *testing.T) {
	specs := []any{
		spec.Linear{Kind: spec.Dense, In: 7, Out: 5, Bias: true},
		spec.Linear{Kind: spec.LowRank, In: 65, Out: 96, Rank: 32, Guide: true},
		spec.Linear{Kind: spec.BlockShuffle, In: 42, Out: 30, Blocks: 6, Bias: true, Guide: true},
		spec.Linear{Kind: spec.BTT, In: 35, Out: 63, Rank: 3},
		spec.Linear{Kind: spec.BLAST, In: 64, Out: 96, Rank: 20, Blocks: 4},
		spec.FFN{Kind: spec.Dense, Hidden: 33, FFN: 70, Act: spec.GELU, Bias: true},
		spec.FFN{Kind: spec.LowRank, Hidden: 40, FFN: 80, Rank: 11, Act: spec.SwiGLU, Bias: true, Guide: true},
		spec.FFN{Kind: spec.BlockDense, Hidden: 48, FFN: 66, Rank: 36, Blocks: 3, Act: spec.GELU},
		spec.FFN{Kind: spec.BlockShuffle, Hidden: 64, FFN: 96, Blocks: 2, Act: spec.SwiGLU},
		spec.FFN{Kind: spec.BLAST, Hidden: 64, FFN: 128, Rank: 9, Blocks: 4, Act: spec.GELU},
	}
	for _, format := range kernel.Formats()[1:] {
		if format.Quantized() {
			continue
		}
		for i, s := range specs {
			u := newSubject(s, rand.New(rand.NewPCG(2, uint64(i))))
			t.Run(fmt.Sprintf("%s/%s", format, u.name), func(t *testing.T) {
				for _, m := range []int{1, 2, 15, 61} {
					everyWay(t, u, m, format)
				}
			})
		}
	}
}

// pairTargets are those of the instruction sets at hand; where the processor multiplies pairs
// of bfloat16, the one that does and the one that widens them.
func pairTargets() (all []kernel.Target) {
	for _, isa := range kernel.Available() {
		target := kernel.For(isa)
		f, _ := kernel.BF16.Format()
		for _, target.SlowPairs = range []bool{false, true} {
			if target.SlowPairs && f.Kernels(&target) == f.Kernels(&all[len(all)-1]) {
				break
			}
			all = append(all, target)
		}
	}
	return all
}

// One factor's entries are the chains that the formats define, to the bit: of rounded
// pairs with the odd one first, or of rounded weights alone, in blocks of k.
func TestFormatChains(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	for _, in := range []int{1, 2, 31, kernel.MaxKC16 + 5} {
		const out, m = 37, 4
		w, x := runtimetest.Random(r, in*out, 1), runtimetest.Random(r, in*m, 1)
		for _, format := range []kernel.FormatName{kernel.BF16, kernel.BF16W} {
			want := make([]float32, m*out)
			for i := range m {
				for o := range out {
					k0 := 0
					for _, kc := range plan.KBlocks(in, format) {
						sum := float32(0)
						each := func(k int) {
							a, b := x[i*in+k], vec.FromBF16(vec.BF16(w[o*in+k]))
							if format == kernel.BF16 {
								a = vec.FromBF16(vec.BF16(a))
							}
							sum = fma.FMA(a, b, sum)
						}
						for k := k0; k < k0+kc; k += 2 {
							pair := []int{k, k + 1}
							if format == kernel.BF16 {
								pair = []int{k + 1, k}
							}
							for _, k := range pair {
								if k < k0+kc {
									each(k)
								}
							}
						}
						want[i*out+o] += sum
						k0 += kc
					}
				}
			}
			for _, target := range pairTargets() {
				if target.ISA == kernel.Portable && format == kernel.BF16W {
					continue // Go has no fused multiply-add in float32
				}
				l, err := NewLinear(spec.Linear{Kind: spec.Dense, In: in, Out: out}, Weights{Factors: [][]float32{w}}, Options{ISA: target.ISA, Target: &target, Format: format})
				if err != nil {
					t.Fatal(err)
				}
				ws := l.NewWorkspace()
				y := runtimetest.Poisoned(m * out)
				l.Forward(y, x, nil, m, nil, ws)
				runtimetest.SameBits(t, fmt.Sprintf("%s, %d inputs on %s, slow pairs %t", format, in, target.ISA, target.SlowPairs), y, want)
				ws.Close()
				l.Close()
			}
		}
	}
}

// The gradient of a weight in bf16 is the chain of the rounded rows, in pairs with the odd
// one first, over each block of rows: to the bit, on every instruction set. In bf16w it is
// that of float32.
func TestFormatGradients(t *testing.T) {
	const in, out = 35, 29
	r := rand.New(rand.NewPCG(5, 5))
	w := runtimetest.Random(r, in*out, 1)
	for _, m := range []int{1, 2, kernel.RowBlock + 7} {
		x, dy := runtimetest.Random(r, m*in, 1), runtimetest.Random(r, m*out, 1)
		for _, format := range []kernel.FormatName{kernel.BF16, kernel.BF16W} {
			round := func(v float32) float32 { return vec.FromBF16(vec.BF16(v)) }
			if format == kernel.BF16W {
				round = func(v float32) float32 { return v }
			}
			want := make([]float32, out*in)
			for o := range out {
				for i := range in {
					for r0 := 0; r0 < m; r0 += kernel.RowBlock {
						sum := float32(0)
						for row := r0; row < min(m, r0+kernel.RowBlock); row += 2 {
							pair := []int{row, row + 1}
							if format == kernel.BF16 {
								pair = []int{row + 1, row}
							}
							for _, row := range pair {
								if row < m {
									sum = fma.FMA(round(dy[row*out+o]), round(x[row*in+i]), sum)
								}
							}
						}
						want[o*in+i] += sum
					}
				}
			}
			for _, target := range pairTargets() {
				if target.ISA == kernel.Portable && format == kernel.BF16W {
					continue // Go has no fused multiply-add in float32
				}
				l, err := NewLinear(spec.Linear{Kind: spec.Dense, In: in, Out: out}, Weights{Factors: [][]float32{w}}, Options{ISA: target.ISA, Target: &target, Format: format, Train: true})
				if err != nil {
					t.Fatal(err)
				}
				ws, saved := l.NewWorkspace(), l.NewSaved(m)
				l.Forward(make([]float32, m*out), x, nil, m, saved, ws)
				g := Weights{Factors: [][]float32{runtimetest.Poisoned(in * out)}}
				l.Backward(nil, g, dy, x, m, saved, false, ws)
				runtimetest.SameBits(t, fmt.Sprintf("%s, %d rows on %s, slow pairs %t", format, m, target.ISA, target.SlowPairs), g.Factors[0], want)
				ws.Close()
				saved.Close()
				l.Close()
			}
		}
	}
}

// What is subnormal counts as zero where the processor multiplies bfloat16, and in the
// portable kernels: weights, activations, and sums on the way.
func TestFormatOfSubnormals(t *testing.T) {
	const tiny = 0x1p-130
	w, x := []float32{tiny, 1, 0x1p-80, 1}, []float32{1, tiny, 0x1p-50, 2}
	f, _ := kernel.BF16.Format()
	for _, target := range pairTargets() {
		l, err := NewLinear(spec.Linear{Kind: spec.Dense, In: 4, Out: 1}, Weights{Factors: [][]float32{w}}, Options{ISA: target.ISA, Target: &target, Format: kernel.BF16})
		if err != nil {
			t.Fatal(err)
		}
		ws := l.NewWorkspace()
		for _, c := range []struct{ last, want, known float32 }{{2, 2, 2}, {0, 0, 0x1p-130}} {
			x[3] = c.last
			y := runtimetest.Poisoned(1)
			l.Forward(y, x, nil, 1, nil, ws)
			want := c.want
			if f.Kernels(&target) != f.Name {
				want = c.known // where two multiply-adds know them
			}
			if y[0] != want {
				t.Errorf("%s, slow pairs %t: %v, want %v", target.ISA, target.SlowPairs, y[0], want)
			}
		}
		ws.Close()
		l.Close()
	}
}

// A format that does not exist is an error that says which do.
func TestUnknownFormat(t *testing.T) {
	_, err := NewLinear(spec.Linear{Kind: spec.Dense, In: 4, Out: 1}, Weights{Factors: [][]float32{make([]float32, 4)}}, Options{Format: "fp7"})
	if err == nil || err.Error() != `runtime: unknown format "fp7"; valid: [f32 bf16 bf16w int8 int4]` {
		t.Error(err)
	}
}
