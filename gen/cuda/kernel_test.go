package cuda

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
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

func shipped(t *testing.T) []plan.GPUKernel {
	var models []spec.Model
	var ks []plan.GPUKernel
	for _, c := range shippedConfigs(t) {
		m, err := plan.NewGPUModel(c.Model, "")
		if err != nil {
			t.Fatal(err)
		}
		ks, models = append(ks, m.Kernels()...), append(models, c.Model)
	}
	passes, err := passTable(models)
	if err != nil {
		t.Fatal(err)
	}
	return plan.GPUUnique(append(ks, passes...))
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
// and 2^-11 of tanh.approx, or 2^-19 of a float32 exponential, whose argument has
// an absolute error of half an ulp of 16, where there is one.
type want struct {
	place      int
	value, tol float64
}

func (o operands) want(k plan.GPUProduct, block, i, j, tokens int) []want {
	v, abs := o.sum(k, block, i, j, tokens)
	e := float64(cmp.Or(k.Depth(), tokens)+2) / (1 << 24) * (abs + math.Abs(v))
	ulp, tanh := roundoff, 1.0/2048
	if k.Float32() {
		ulp, tanh = 1.0/(1<<24), 1.0/(1<<19)
	}
	rounded := func(place int, v, e float64) want { return want{place, v, e + (math.Abs(v)+e)*ulp} }
	if k.Epilogue == "" {
		return []want{rounded(at(k.C, block, i, j), v, e)}
	}
	col := k.C.Cols.At(block, j)
	place := i*k.C.Pitch + col
	// Gates and ups take turns, or those of a row come one after the other.
	act, gate, up := place/2, 2*place, 2*place+1
	if k.Precision == plan.Float32s {
		act, gate, up = i*k.C.Pitch/2+col, 2*i*k.C.Pitch+col, (2*i+1)*k.C.Pitch+col
	}
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
		return []want{rounded(act, s*u, (e*(math.Abs(slope)+0.1)+math.Abs(v)*tanh)*(math.Abs(u)+eu)+math.Abs(s)*eu)}
	case plan.GPUGELUBackward:
		h := o.pre[place]
		_, slope := f64ref.GELU(h)
		return []want{rounded(place, v*slope, e*math.Abs(slope)+math.Abs(v)*tanh*(0.5+math.Abs(h)*(1+0.14*h*h)))}
	}
	g, u := o.pre[gate], o.pre[up]
	s, slope := f64ref.SiLU(g)
	return []want{
		rounded(gate, v*u*slope, (e*math.Abs(slope)+math.Abs(v)*tanh*(1+math.Abs(g)))*math.Abs(u)),
		rounded(up, v*s, e*math.Abs(s)+math.Abs(v*g)*tanh),
	}
}

// of are the operands of the first tokens.
func (o operands) of(k plan.GPUProduct, tokens int) operands {
	o.a, o.b = o.a[:operandSize(k, k.A, tokens)], o.b[:operandSize(k, k.B, tokens)]
	if o.pre != nil {
		o.pre = o.pre[:tokens*outWidth(k)]
	}
	return o
}

// kernel runs one kernel on random operands and compares up to n of its
// outputs, all of them where n is 0.
func (d *device) kernel(k plan.GPUProduct, tokens, n int) error {
	return d.check(k, d.operands(k, tokens), tokens, n)
}

func (d *device) check(k plan.GPUProduct, o operands, tokens, n int) error {
	return d.checkParts(k, o, tokens, 1, n)
}

// checkParts is check with sums over tokens in parts, which are added up here.
func (d *device) checkParts(k plan.GPUProduct, o operands, tokens, parts, n int) error {
	a := arrays{"a": d.array(o.a, k.Precision), "b": d.array(o.b, k.Precision)}
	if o.bias != nil {
		a["bias"] = d.float32(o.bias)
	}
	if o.pre != nil {
		a["pre"] = d.array(o.pre, k.Precision)
	}
	c, err := d.product(k, a, tokens, parts)
	if err != nil {
		return err
	}
	got := values(c, k.Float32())
	for i := len(got) / parts; i < len(got); i++ {
		got[i%(len(got)/parts)] += got[i]
	}
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
		for n > 0 {
			b, i, j := d.rng.IntN(k.Blocks), d.rng.IntN(rows), d.rng.IntN(k.Cols())
			if d.only != nil && !d.only([3]int{b*ceil(k.Cols(), k.Tile.N) + j/k.Tile.N, i / k.Tile.M, 0}) {
				continue
			}
			if err := check(b, i, j); err != nil {
				return err
			}
			n--
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
// schedule; with -full, as .ci/run has it, all six numbers and three schedules.
// The kernels of TestNetworks, from the same templates, always run them all. 500
// outputs of each launch are compared; findings and unwritten outputs count
// everywhere. With -full all thread blocks run once and a share of them, down to
// an eighth, in the other seventeen runs: another one each time.
func TestShippedKernels(t *testing.T) {
	ks := shipped(t)
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
			t.Parallel()
			d := &device{t: t, rng: rand.New(rand.NewPCG(0, uint64(i)))}
			o := d.operands(k, slices.Max(counts))
			for seed := range seeds {
				for _, m := range counts {
					if k.Tile.M == 16 {
						m = min(m, plan.FewTokens)
					}
					d := &device{t: t, kernels: kernels, rng: rand.New(rand.NewPCG(uint64(seed), uint64(i))), seed: uint64(seed)}
					if *full && (seed > 0 || m != 17) {
						n := share(k.Kernel().Blocks(plan.GPUCountsOf{plan.Tokens: m, plan.Parts: 1}))
						d.only = func(at [3]int) bool { return (at[0]+3*at[1]+m+seed)%n == 0 }
					}
					if err := d.check(k, o.of(k, m), m, 500); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
}

// share is the n of which one nth of a grid is enough: 8, or what leaves four
// blocks. It is a power of two, so that no sum of x and 3y misses them all.
func share(grid [3]int) int {
	n := 8
	for n > 1 && grid[0]*grid[1] < 4*n {
		n /= 2
	}
	return n
}

// Every small kernel and every golden one, all outputs, within the tolerance of
// each.
func TestSmallKernels(t *testing.T) {
	for _, dir := range []string{smallDir, goldenDir} {
		ks := table(t, dir)
		kernels := loadPTX(t, dir, ks)
		for i, k := range products(ks) {
			for _, m := range tokenCounts[3*(i%2):][:2] {
				d := &device{t: t, kernels: kernels, rng: rand.New(rand.NewPCG(1, uint64(i))), seed: uint64(i)}
				if err := d.kernel(k, m, 0); err != nil {
					t.Error(err)
				}
			}
		}
	}
}
