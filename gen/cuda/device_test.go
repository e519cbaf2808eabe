package cuda

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/gpuproof"
	"github.com/structuredffn/sffn/internal/ptx"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// device runs whole networks on the PTX interpreter and fails the test on
// findings.
type device struct {
	interpreter
	t   *testing.T
	rng *rand.Rand
}

// newDevice returns one with kernels; seed picks the schedules.
func newDevice(t *testing.T, kernels map[string]*ptx.Kernel, rng *rand.Rand, seed uint64) *device {
	return &device{interpreter: interpreter{Kernels: kernels, Seed: seed}, t: t, rng: rng}
}

// newProver returns a prover of kernels on the interpreter that compares so many
// entries of each launch, or all. draw picks the operands, seed the schedules.
func newProver(kernels map[string]*ptx.Kernel, draw, seed uint64, samples int) (*gpuproof.Prover, *interpreter) {
	r := &interpreter{Kernels: kernels, Seed: seed}
	return &gpuproof.Prover{Runner: r, Seed: draw, InTurn: true, Samples: samples}, r
}

// loadPTX reads the PTX of a generated folder, which must be fresh.
func loadPTX(t *testing.T, dir string, kernels []gpu.Kernel) map[string]*ptx.Kernel {
	t.Helper()
	files, err := Sources(kernels)
	if err != nil {
		t.Fatal(err)
	}
	if err := Fresh(dir, files, PTX); err != nil {
		t.Fatalf("%v\nrun make generate with the CUDA toolkit", err)
	}
	found := map[string]*ptx.Kernel{}
	for _, file := range gpu.Files(kernels) {
		text, err := files.PTX(file)
		if err != nil {
			t.Fatal(err)
		}
		m, err := ptx.Parse(string(text))
		if err != nil {
			t.Fatalf("%s: %v", ptxName(file), err)
		}
		for name, k := range m.Kernels {
			found[name] = k
		}
	}
	return found
}

// input is an array that kernels read.
func (d *device) input(b []byte) *ptx.Buffer {
	d.t.Helper()
	a, err := d.Alloc(table.Read, b, len(b))
	if err != nil {
		d.t.Fatal(err)
	}
	return a.(*ptx.Buffer)
}

// bf16 is a buffer of bf16 values.
func (d *device) bf16(v []float64) *ptx.Buffer {
	b := make([]byte, 2*len(v))
	for i, x := range v {
		binary.LittleEndian.PutUint16(b[2*i:], uint16(math.Float32bits(float32(gpuproof.Rounded(x)))>>16))
	}
	return d.input(b)
}

func (d *device) float32(v []float64) *ptx.Buffer {
	b := make([]byte, 4*len(v))
	for i, x := range v {
		binary.LittleEndian.PutUint32(b[4*i:], math.Float32bits(float32(x)))
	}
	return d.input(b)
}

// values are the bf16 or float32 of a buffer.
func values(b *ptx.Buffer, float32s bool) []float64 {
	var v []float64
	if float32s {
		for _, f := range b.Floats() {
			v = append(v, float64(f))
		}
		return v
	}
	for i := 0; i < len(b.Bytes()); i += 2 {
		v = append(v, float64(math.Float32frombits(uint32(binary.LittleEndian.Uint16(b.Bytes()[i:]))<<16)))
	}
	return v
}

// draw makes n bf16 of a normal distribution.
func (d *device) draw(n int, scale float64) []float64 {
	v := make([]float64, n)
	for i := range v {
		v[i] = gpuproof.Rounded(scale * d.rng.NormFloat64())
	}
	return v
}

// Those of a launch.
type (
	arrays  = gpuproof.Arrays
	numbers = gpuproof.Numbers
)

// run launches a kernel once. Findings, and outputs that it did not write
// whole, are errors; outputs become inputs of the next launch.
func (d *device) run(k gpu.Kernel, a arrays, n numbers, c table.Counts) error {
	for _, p := range k.Params {
		if b := a[p.Name]; b != nil && len(b.(*ptx.Buffer).Bytes()) != p.Bytes(c) {
			return fmt.Errorf("%s: %s has %d bytes, the plan says %d", k.Name, p.Name, len(b.(*ptx.Buffer).Bytes()), p.Bytes(c))
		}
	}
	if err := d.Launch(k.Kernel, c, a, n); err != nil {
		return fmt.Errorf("%v: %w", c, err)
	}
	for _, p := range k.Params {
		if b := a[p.Name]; b != nil && p.Access != table.Read {
			if n := b.(*ptx.Buffer).Unwritten(); n > 0 && p.Access == table.Written {
				return fmt.Errorf("%s: %v: %d words of %s were not written", k.Name, c, n, p.Name)
			}
			b.(*ptx.Buffer).Freeze()
		}
	}
	return nil
}

// output makes room for an array that a kernel writes.
func (d *device) output(k gpu.Kernel, name string, c table.Counts) *ptx.Buffer {
	for _, p := range k.Params {
		if p.Name == name {
			b, _ := d.Alloc(table.Written, nil, p.Bytes(c))
			return b.(*ptx.Buffer)
		}
	}
	d.t.Fatalf("%s has no parameter %s", k.Name, name)
	return nil
}

// product runs a matrix product, the sum of backward-weight in the given
// number of parts, and returns its results.
func (d *device) product(p gpu.Product, a arrays, tokens, parts int) (*ptx.Buffer, error) {
	ks, c := p.Kernels(), table.Counts{table.Tokens: tokens, table.Parts: parts}
	stages := (tokens + gpu.StageDepth - 1) / gpu.StageDepth
	out := d.output(ks[0], "c", c)
	a["c"] = out
	n := numbers{"split": uint32((stages + parts - 1) / parts)}
	if len(ks) == 1 {
		return out, d.run(ks[0], a, n, c)
	}
	if err := d.run(ks[0], arrays{"a": a["a"], "b": a["b"], "c": a["c"]}, n, c); err != nil {
		return nil, err
	}
	a["parts"] = out
	out = d.output(ks[1], "c", c)
	a["c"] = out
	return out, d.run(ks[1], a, nil, c)
}

// launch runs a matrix product that must go well.
func (d *device) launch(p gpu.Product, a arrays, tokens, parts int) *ptx.Buffer {
	d.t.Helper()
	c, err := d.product(p, a, tokens, parts)
	if err != nil {
		d.t.Fatal(err)
	}
	return c
}

// array is a buffer of the values of a layer.
func (d *device) array(v []float64, p table.Precision) *ptx.Buffer {
	if p == table.Float32s {
		return d.float32(v)
	}
	return d.bf16(v)
}

// sum adds up parts of n sums to what is there, or puts them in its place where
// there is nothing.
func (d *device) sum(p gpu.Sum, parts *ptx.Buffer, n, count int, there []float64) []float64 {
	d.t.Helper()
	accumulate := uint32(1)
	if there == nil {
		accumulate, there = 0, slices.Repeat([]float64{math.NaN()}, n)
	}
	there32 := d.float32(there).Bytes()
	b, _ := d.Alloc(table.Updated, there32, len(there32))
	sum := b.(*ptx.Buffer)
	if err := d.run(p.Kernel(), arrays{"parts": parts, "sum": sum}, numbers{"accumulate": accumulate}, table.Counts{table.Entries: n, table.Parts: count}); err != nil {
		d.t.Fatal(err)
	}
	return values(sum, true)
}

// columns sums the columns of the rows of a layer's gradient.
func (d *device) columns(p gpu.Columns, x *ptx.Buffer, tokens int, there []float64) []float64 {
	d.t.Helper()
	k, c := p.Kernel(), table.Counts{table.Tokens: tokens, table.Parts: p.Kernel().Cut.Parts(tokens)}
	parts := d.output(k, "sums", c)
	if err := d.run(k, arrays{"x": x, "sums": parts}, numbers{"rows": uint32(k.Cut.Units(tokens) * k.Cut.Unit)}, c); err != nil {
		d.t.Fatal(err)
	}
	return d.sum(gpu.SumRows, parts, p.Width, k.Cut.Parts(tokens), there)
}

// layer is a layer on the device: packed weights and what its passes leave.
type layer struct {
	plan  gpu.Layer
	packs []*ptx.Buffer
	bias  *ptx.Buffer
	// z holds the input of each factor, dz the gradient of its output.
	z, dz []*ptx.Buffer
	// grads and biasGrad are in canonical order.
	grads    [][]float64
	biasGrad []float64
}

func (d *device) newLayer(p gpu.Layer, w [][]float64, bias []float64) *layer {
	l := &layer{plan: p, dz: make([]*ptx.Buffer, len(w))}
	for i, f := range p.Factors {
		var pack []float64
		for b := range f.Blocks {
			for _, o := range f.Out[b] {
				for _, in := range f.In[b] {
					pack = append(pack, w[i][(b*f.Factor.Out+o)*f.Factor.In+in])
				}
			}
		}
		l.packs = append(l.packs, d.array(pack, p.Precision))
	}
	if bias != nil {
		stored := make([]float64, len(bias))
		for s, j := range p.Bias {
			stored[s] = bias[j]
		}
		l.bias = d.float32(stored)
	}
	return l
}

// forward runs the layer on x; where save, pre gets the values before the
// activation.
func (d *device) forward(l *layer, x *ptx.Buffer, tokens int, few bool, pre *ptx.Buffer) *ptx.Buffer {
	l.z = nil
	for i, f := range l.plan.Factors {
		l.z = append(l.z, x)
		k := f.Forward
		if few {
			k = f.Few
		}
		a := arrays{"a": x, "b": l.packs[i]}
		if k.Bias {
			a["bias"] = l.bias
		}
		if k.Epilogue != "" {
			a["pre"] = pre
		}
		x = d.launch(k, a, tokens, 1)
	}
	return x
}

// backward runs both backward passes, weights' gradients as sums of so many
// parts, added to one everywhere where accumulate; pre belongs to the activation
// on the layer's input, if it has one.
func (d *device) backward(l *layer, dy *ptx.Buffer, tokens, parts int, few, accumulate bool, pre *ptx.Buffer) (dx *ptx.Buffer) {
	there := func(n int) []float64 {
		if accumulate {
			return slices.Repeat([]float64{1}, n)
		}
		return nil
	}
	if l.bias != nil {
		columns := gpu.Columns{Columns: table.Columns{Width: len(l.plan.Bias), Precision: l.plan.Precision}}
		l.biasGrad = make([]float64, columns.Width)
		for s, v := range d.columns(columns, dy, tokens, there(columns.Width)) {
			l.biasGrad[l.plan.Bias[s]] = v
		}
	}
	for i := len(l.plan.Factors) - 1; i >= 0; i-- {
		f := l.plan.Factors[i]
		l.dz[i] = dy
		k := f.BackwardData
		if few {
			k = f.FewBackward
		}
		a := arrays{"a": dy, "b": l.packs[i]}
		if k.Epilogue != "" {
			a["pre"] = pre
		}
		dy = d.launch(k, a, tokens, 1)
	}
	l.grads = nil
	for i, f := range l.plan.Factors {
		n := f.Weights()
		stored := d.sum(gpu.SumParts, d.launch(f.BackwardWeight, arrays{"a": l.dz[i], "b": l.z[i]}, tokens, parts), n, parts, there(n))
		g := make([]float64, n)
		at := 0
		for b := range f.Blocks {
			for _, o := range f.Out[b] {
				for _, in := range f.In[b] {
					g[(b*f.Factor.Out+o)*f.Factor.In+in] = stored[at]
					at++
				}
			}
		}
		l.grads = append(l.grads, g)
	}
	return dy
}

var small = []spec.FFN{
	{Kind: spec.Dense, Hidden: 136, FFN: 264, Act: spec.GELU, Bias: true},
	{Kind: spec.Dense, Hidden: 64, FFN: 136, Act: spec.SwiGLU},
	{Kind: spec.Dense, Hidden: 520, FFN: 72, Act: spec.SwiGLU, Bias: true}, // sums that are split before each epilogue
	{Kind: spec.LowRank, Hidden: 128, FFN: 256, Rank: 72, Act: spec.SwiGLU, Bias: true},
	{Kind: spec.LowRank, Hidden: 72, FFN: 208, Rank: 40, Act: spec.GELU},
	{Kind: spec.BlockDense, Hidden: 160, FFN: 320, Rank: 80, Blocks: 2, Act: spec.GELU, Bias: true},
	{Kind: spec.BlockDense, Hidden: 96, FFN: 192, Rank: 96, Blocks: 4, Act: spec.SwiGLU},
	{Kind: spec.BlockShuffle, Hidden: 192, FFN: 384, Blocks: 2, Act: spec.GELU},
	{Kind: spec.LowRank, Hidden: 136, FFN: 264, Rank: 72, Act: spec.GELUErf, Bias: true},
	{Kind: spec.BlockShuffle, Hidden: 128, FFN: 256, Blocks: 4, Act: spec.SwiGLU, Bias: true},
}

// odd are networks that only float32 serves, of several tiles. The golden ones
// are no wider than one, and of every kind.
var odd = []spec.FFN{
	{Kind: spec.Dense, Hidden: 67, FFN: 131, Act: spec.GELU, Bias: true},
	{Kind: spec.LowRank, Hidden: 30, FFN: 70, Rank: 13, Act: spec.SwiGLU, Bias: true},
	{Kind: spec.Dense, Hidden: 35, FFN: 69, Act: spec.GELUErf},
}

func planned(t *testing.T, specs []spec.FFN) []gpu.FFN {
	t.Helper()
	var fs []gpu.FFN
	for _, f := range specs {
		p, err := gpu.NewFFN(f, "")
		if err != nil {
			t.Fatal(err)
		}
		fs = append(fs, p)
	}
	return fs
}
