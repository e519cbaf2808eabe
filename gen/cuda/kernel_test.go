package cuda

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/gen/specfile"
	"github.com/structuredffn/sffn/internal/f64ref"
)

// shippedDir holds the kernels of the paper's S shapes.
var shippedDir = filepath.Join("..", "..", "generated", "gpt2s")

func shippedConfigs(t *testing.T) (cs []*specfile.Config) {
	for _, name := range []string{"dense", "lowrank-63", "lowrank-32", "blockdense-63", "blockdense-32", "blockshuffle-63", "blockshuffle-32"} {
		c, err := specfile.Load("gpt2s-" + name)
		if err != nil {
			t.Fatal(err)
		}
		cs = append(cs, c)
	}
	return cs
}

func shipped(t *testing.T) []plan.GPUFFN {
	var specs []spec.FFN
	for _, c := range shippedConfigs(t) {
		specs = append(specs, c.Model.LayerFFN(c.Model.Layers-1))
	}
	return planned(t, specs)
}

// operands are the inputs of one kernel in float64.
type operands struct{ a, b, bias, pre []float64 }

func (d *device) operands(k plan.GPUProduct, tokens int) operands {
	o := operands{a: d.draw(operandSize(k, k.A, tokens), 1), b: d.draw(operandSize(k, k.B, tokens), 1/math.Sqrt(float64(cmp.Or(k.Depth(), tokens))))}
	if k.Bias {
		o.bias = d.draw(k.C.Pitch, 0.5)
	}
	if k.Epilogue == plan.GPUGELUBackward || k.Epilogue == plan.GPUSwiGLUBackward {
		o.pre = d.draw(tokens*outWidth(k), 1)
	}
	return o
}

// sum is entry (i,j) of one block in float64 and the sum of the absolute values,
// to which the error of float32 sums is relative.
func (o operands) sum(k plan.GPUProduct, block, i, j, tokens int) (sum, abs float64) {
	for n := range cmp.Or(k.Depth(), tokens) {
		p := o.a[at(k.A, block, i, n)] * o.b[at(k.B, block, j, n)]
		sum += p
		abs += math.Abs(p)
	}
	if o.bias != nil {
		sum += o.bias[k.C.Cols.At(block, j)]
	}
	return sum, abs
}

// want lists what a kernel must store for entry (i,j) of a block, and how far
// it may be off: half an ulp of the stored type, K+2 roundings of a float32 sum,
// and 2^-11 of tanh.approx where there is one.
type want struct {
	place      int
	value, tol float64
}

func (o operands) want(k plan.GPUProduct, block, i, j, tokens int) []want {
	v, abs := o.sum(k, block, i, j, tokens)
	e := float64(cmp.Or(k.Depth(), tokens)+2) / (1 << 24) * (abs + math.Abs(v))
	const tanh = 1.0 / 2048
	rounded := func(place int, v, e float64) want { return want{place, v, e + (math.Abs(v)+e)*roundoff} }
	if k.Float32() {
		return []want{{at(k.C, block, i, j), v, e}}
	}
	place := i*k.C.Pitch + k.C.Cols.At(block, j)
	switch k.Epilogue {
	case plan.GPUGELU:
		y, slope := f64ref.GELU(v)
		return []want{rounded(place, y, e*(math.Abs(slope)+0.1)+math.Abs(v)*tanh)}
	case plan.GPUSwiGLU:
		if j%2 == 1 {
			return nil
		}
		u, eu := o.sum(k, block, i, j+1, tokens)
		eu = e / (abs + math.Abs(v)) * (eu + math.Abs(u))
		s, slope := f64ref.SiLU(v)
		return []want{rounded(place/2, s*u, (e*(math.Abs(slope)+0.1)+math.Abs(v)*tanh)*(math.Abs(u)+eu)+math.Abs(s)*eu)}
	case plan.GPUGELUBackward:
		h := o.pre[place]
		_, slope := f64ref.GELU(h)
		return []want{rounded(place, v*slope, e*math.Abs(slope)+math.Abs(v)*tanh*(0.5+math.Abs(h)*(1+0.14*h*h)))}
	case plan.GPUSwiGLUBackward:
		g, u := o.pre[2*place], o.pre[2*place+1]
		s, slope := f64ref.SiLU(g)
		return []want{
			rounded(2*place, v*u*slope, (e*math.Abs(slope)+math.Abs(v)*tanh*(1+math.Abs(g)))*math.Abs(u)),
			rounded(2*place+1, v*s, e*math.Abs(s)+math.Abs(v*g)*tanh),
		}
	}
	return []want{rounded(place, v, e)}
}

// kernel runs one kernel on random operands and compares up to n of its
// outputs, all of them where n is 0.
func (d *device) kernel(k plan.GPUProduct, tokens, n int) error {
	o := d.operands(k, tokens)
	a := arrays{"a": d.bf16(o.a), "b": d.bf16(o.b)}
	if o.bias != nil {
		a["bias"] = d.float32(o.bias)
	}
	if o.pre != nil {
		a["pre"] = d.bf16(o.pre)
	}
	c, err := d.product(k, a, tokens, 1)
	if err != nil {
		return err
	}
	got := values(c, k.Float32())
	rows := cmp.Or(k.Rows(), tokens)
	check := func(b, i, j int) error {
		for _, w := range o.want(k, b, i, j, tokens) {
			if g := got[w.place]; !(math.Abs(g-w.value) <= w.tol) {
				return fmt.Errorf("%s: %d tokens: block %d, entry (%d,%d): %v, want %v within %.2g", k.Name(), tokens, b, i, j, g, w.value, w.tol)
			}
		}
		return nil
	}
	if n > 0 {
		for range n {
			if err := check(d.rng.IntN(k.Blocks), d.rng.IntN(rows), d.rng.IntN(k.Cols())); err != nil {
				return err
			}
		}
		return nil
	}
	for b := range k.Blocks {
		for i := range rows {
			for j := range k.Cols() {
				if err := check(b, i, j); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// Every shipped kernel with one number of tokens each, in turn, and one
// schedule; with -full all six numbers and three schedules. The kernels of
// TestNetworks, from the same templates, always run them all. 2000 outputs of
// each launch are compared; findings and unwritten outputs count everywhere.
func TestShippedKernels(t *testing.T) {
	ks := plan.GPUTable(shipped(t)...)
	kernels := loadPTX(t, shippedDir, ks)
	if len(ks) != len(kernels) {
		t.Errorf("%d kernels are planned, %d are in the PTX", len(ks), len(kernels))
	}
	for i, k := range products(ks) {
		counts, seeds := tokenCounts[i%len(tokenCounts):][:1], 1
		if *full {
			counts, seeds = tokenCounts, 3
		}
		t.Run(k.Name(), func(t *testing.T) {
			for seed := range seeds {
				for _, m := range counts {
					if k.Tile.M == 16 {
						m = min(m, plan.FewTokens)
					}
					d := &device{t: t, kernels: kernels, rng: rand.New(rand.NewPCG(uint64(seed), uint64(i))), seed: uint64(seed)}
					if err := d.kernel(k, m, 2000); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
}

// Every small kernel, all outputs, within the tolerance of each.
func TestSmallKernels(t *testing.T) {
	ks := plan.GPUTable(planned(t, small)...)
	kernels := loadPTX(t, smallDir, ks)
	for i, k := range products(ks) {
		for _, m := range tokenCounts[3*(i%2):][:2] {
			d := &device{t: t, kernels: kernels, rng: rand.New(rand.NewPCG(1, uint64(i))), seed: uint64(i)}
			if err := d.kernel(k, m, 0); err != nil {
				t.Error(err)
			}
		}
	}
}
