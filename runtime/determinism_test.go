package runtime_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/plan/cpu"
	"github.com/structuredffn/sffn/gen/spec"
	_ "github.com/structuredffn/sffn/generated/demo"  // specialised kernels of some shapes
	_ "github.com/structuredffn/sffn/generated/gpt2s" // and of others
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// network is everything that one forward and backward pass computes.
type network struct {
	y, dx []float32
	grads rt.FFNWeights
}

func (n network) equal(t *testing.T, what string, o network) {
	t.Helper()
	check := func(name string, a, b []float32) {
		t.Helper()
		for i := range a {
			if math.Float32bits(a[i]) != math.Float32bits(b[i]) {
				t.Fatalf("%s: %s[%d] = %v and %v", what, name, i, a[i], b[i])
			}
		}
	}
	check("y", n.y, o.y)
	check("dx", n.dx, o.dx)
	for i := range n.grads.FC1.Factors {
		check("gradient of fc1", n.grads.FC1.Factors[i], o.grads.FC1.Factors[i])
	}
	for i := range n.grads.FC2.Factors {
		check("gradient of fc2", n.grads.FC2.Factors[i], o.grads.FC2.Factors[i])
	}
	check("gradient of fc1's bias", n.grads.FC1.Bias, o.grads.FC1.Bias)
	check("gradient of fc1's guide", n.grads.FC1.Guide, o.grads.FC1.Guide)
	check("gradient of fc2's guide", n.grads.FC2.Guide, o.grads.FC2.Guide)
	check("gradient of fc2's bias", n.grads.FC2.Bias, o.grads.FC2.Bias)
}

func normal(r *rand.Rand, n int, std float64) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(std * r.NormFloat64())
	}
	return x
}

// pass runs m rows through a network with weights and inputs drawn from a
// fixed seed: row i is the same for every m.
func pass(t *testing.T, f spec.FFN, isa kernel.ISA, threads, m int) network {
	t.Helper()
	return passWith(t, f, rt.Options{ISA: isa}, threads, m)
}

func passWith(t *testing.T, f spec.FFN, opt rt.Options, threads, m int) network {
	t.Helper()
	r := rand.New(rand.NewPCG(5, 5))
	weights := func(l spec.Linear) (w, g rt.Weights) {
		for _, c := range l.Chain() {
			w.Factors = append(w.Factors, normal(r, c.Weights(), 1/math.Sqrt(float64(c.In))))
			g.Factors = append(g.Factors, make([]float32, c.Weights()))
		}
		if l.Bias {
			w.Bias, g.Bias = normal(r, l.Out, 1), make([]float32, l.Out)
		}
		if l.Guide {
			w.Guide, g.Guide = normal(r, l.Out*l.In, 1/math.Sqrt(float64(l.In))), make([]float32, l.Out*l.In)
		}
		return w, g
	}
	var w rt.FFNWeights
	var n network
	w.FC1, n.grads.FC1 = weights(f.FC1())
	w.FC2, n.grads.FC2 = weights(f.FC2())
	x := normal(rand.New(rand.NewPCG(6, 6)), m*f.Hidden, 1)
	dy := normal(rand.New(rand.NewPCG(7, 7)), m*f.Hidden, 1)
	opt.Pool, opt.Train = rt.NewPool(threads), true
	defer opt.Pool.Close()
	ffn, err := rt.NewFFN(f, w, opt)
	if err != nil {
		t.Fatal(err)
	}
	defer ffn.Close()
	ffn.SetGuides(rt.Guide{On: f.Guide, Ratio: 0.7}, rt.Guide{On: f.Guide, Ratio: 0.2})
	ws, saved := ffn.NewWorkspace(), ffn.NewSaved(m)
	defer ws.Close()
	defer saved.Close()
	n.y, n.dx = make([]float32, m*f.Hidden), make([]float32, m*f.Hidden)
	ffn.Forward(n.y, x, nil, m, saved, ws)
	ffn.Backward(n.dx, n.grads, dy, x, m, saved, false, ws)
	return n
}

// generated lists networks that have specialised kernels: of every kind, with
// one and with several blocks of k.
var generated = []spec.FFN{
	{Kind: spec.Dense, Hidden: 128, FFN: 384, Act: spec.SwiGLU, Bias: true},
	{Kind: spec.LowRank, Hidden: 128, FFN: 384, Rank: 32, Act: spec.SwiGLU, Bias: true},
	{Kind: spec.Dense, Hidden: 768, FFN: 3072, Act: spec.GELU, Bias: true},
	{Kind: spec.LowRank, Hidden: 768, FFN: 3072, Rank: 192, Act: spec.GELU, Bias: true},
	{Kind: spec.BlockDense, Hidden: 768, FFN: 3072, Rank: 256, Blocks: 2, Act: spec.GELU, Bias: true},
	{Kind: spec.BlockShuffle, Hidden: 768, FFN: 3072, Blocks: 4, Act: spec.GELU, Bias: true},
	{Kind: spec.LowRank, Hidden: 128, FFN: 384, Rank: 32, Act: spec.SwiGLU, Bias: true, Guide: true},
	{Kind: spec.BlockShuffle, Hidden: 768, FFN: 3072, Blocks: 2, Act: spec.GELU, Bias: true, Guide: true},
}

// unusual lists networks of odd widths, which run any-shape kernels.
var unusual = []spec.FFN{
	{Kind: spec.Dense, Hidden: 13, FFN: 71, Act: spec.SwiGLU},
	{Kind: spec.LowRank, Hidden: 100, FFN: 900, Rank: 13, Act: spec.SwiGLU, Bias: true},
	{Kind: spec.LowRank, Hidden: 100, FFN: 900, Rank: 13, Act: spec.GELUErf, Bias: true, Guide: true},
	{Kind: spec.BlockDense, Hidden: 60, FFN: 90, Rank: 30, Blocks: 3, Act: spec.GELU, Bias: true},
	{Kind: spec.BlockShuffle, Hidden: 84, FFN: 120, Blocks: 6, Act: spec.SwiGLU, Bias: true},
	{Kind: spec.BlockShuffle, Hidden: 192, FFN: 768, Blocks: 2, Act: spec.GELU},
	{Kind: spec.BTT, Hidden: 192, FFN: 384, Rank: 3, Act: spec.SwiGLU, Bias: true, Guide: true},
	{Kind: spec.BLAST, Hidden: 192, FFN: 384, Rank: 72, Blocks: 16, Act: spec.GELU, Bias: true, Guide: true},
	{Kind: spec.BlockShuffle, Hidden: 84, FFN: 120, Blocks: 6, Act: spec.SwiGLU, Bias: true, Guide: true},
	{Kind: spec.BlockDense, Hidden: 60, FFN: 900, Rank: 30, Blocks: 3, Act: spec.GELU, Guide: true},
}

// assembly lists the instruction sets whose sums must have the same bits.
func assembly(t *testing.T) []kernel.ISA {
	isas := slices.DeleteFunc(kernel.Available(), func(i kernel.ISA) bool { return i == kernel.Portable })
	if len(isas) == 0 {
		t.Skip("this machine or build has portable kernels only")
	}
	return isas
}

func linked(k kernel.Row) bool {
	_, ok := kernel.Lookup(k.Name())
	return ok
}

func TestAnyShapeEqualsSpecialised(t *testing.T) {
	for _, isa := range assembly(t) {
		for _, f := range generated {
			for _, m := range []int{1, 61} {
				special := pass(t, f, isa, 2, m)
				t.Run(fmt.Sprintf("%s/%s/%d", isa, f.Name(), m), func(t *testing.T) {
					p := plan.NewFFN(f)
					if !slices.ContainsFunc(cpu.Specialised(kernel.For(isa), p.FC1, p.FC2), linked) {
						t.Fatal("the network has no specialised kernels")
					}
					any := passWith(t, f, rt.Options{ISA: isa, AnyShape: true}, 2, m)
					any.equal(t, "any-shape and specialised kernels", special)
				})
			}
		}
	}
}

func TestInstructionSetsAgree(t *testing.T) {
	isas := assembly(t)
	if len(isas) < 2 {
		t.Skipf("this machine has %v only", isas)
	}
	for _, f := range append(slices.Clone(generated), unusual...) {
		for _, m := range []int{1, 7, 50} {
			a := pass(t, f, isas[0], 2, m)
			pass(t, f, isas[1], 2, m).equal(t, fmt.Sprintf("%s and %s, %s, %d rows", isas[1], isas[0], f.Name(), m), a)
		}
	}
}

// Row i does not depend on the rows beside it.
func TestRowsAgree(t *testing.T) {
	isas := kernel.Available()
	for _, f := range append(slices.Clone(generated), unusual...) {
		for _, isa := range isas {
			rows := 2048
			if isa == kernel.Portable || f.Hidden == 768 && isa != isas[0] {
				rows = 70 // the others take their time
			}
			all := pass(t, f, isa, 2, rows)
			for _, m := range []int{1, 2, 5, 6, 7, 11, 14, 15, 17, 33, 64} {
				few := pass(t, f, isa, 2, m)
				if !slices.Equal(few.y, all.y[:len(few.y)]) || !slices.Equal(few.dx, all.dx[:len(few.dx)]) {
					t.Errorf("%s, %s: %d rows alone differ from the same among %d", isa, f.Name(), m, rows)
				}
			}
		}
	}
}

func TestWorkersAgree(t *testing.T) {
	for _, isa := range kernel.Available() {
		for _, f := range append(slices.Clone(generated[:2]), unusual...) {
			for _, m := range []int{1, 40, 300} {
				if m == 300 && isa == kernel.Portable {
					continue
				}
				one := pass(t, f, isa, 1, m)
				for _, threads := range []int{2, 3, 16} {
					pass(t, f, isa, threads, m).equal(t, fmt.Sprintf("%s, %s, %d rows: %d threads and 1", isa, f.Name(), m, threads), one)
				}
			}
		}
	}
}
