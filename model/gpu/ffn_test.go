package gpu

import (
	"encoding/json"
	"io/fs"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/spec"
	vectors "github.com/structuredffn/sffn/model/golden"
	"github.com/structuredffn/sffn/model/safetensors"
	"github.com/structuredffn/sffn/runtime/cuda"
)

// register makes the kernels of the golden layers and networks known, which
// gen/cuda's tests hold to their plans.
func register(t *testing.T) {
	t.Helper()
	cuda.Register(os.DirFS("../../gen/cuda/testdata/golden"))
}

// golden is a case of the reference's manifest.
type golden struct {
	Name   string `json:"name"`
	Kind   string `json:"kind"`
	Layer  string `json:"layer"`
	In     int    `json:"in"`
	Out    int    `json:"out"`
	Hidden int    `json:"hidden"`
	FFN    int    `json:"ffn"`
	Act    string `json:"act"`
	Rank   int    `json:"rank"`
	Blocks int    `json:"nblocks"`
	Bias   bool   `json:"bias"`
	File   string `json:"file"`
	file   *safetensors.File
	t      *testing.T
}

func goldens(t *testing.T) map[string]*golden {
	t.Helper()
	src, err := fs.ReadFile(vectors.Cases(), "manifest.json")
	must(t, err)
	var m struct {
		Cases []*golden `json:"cases"`
	}
	must(t, json.Unmarshal(src, &m))
	cases := map[string]*golden{}
	for _, c := range m.Cases {
		if c.Layer == "linear" {
			c.Layer = "dense"
		}
		c.t = t
		cases[c.Name] = c
	}
	return cases
}

func (g *golden) get(name string) []float32 {
	g.t.Helper()
	if g.file == nil {
		var err error
		g.file, err = safetensors.OpenFS(vectors.Cases(), g.File)
		must(g.t, err)
		g.t.Cleanup(func() { g.file.Close() })
	}
	v, err := g.file.Float32s(name)
	must(g.t, err)
	return v
}

// near compares in the norm: after n roundings to bf16.
func near(t *testing.T, what string, got, want []float32, n int) {
	t.Helper()
	within(t, what, got, want, rounding(n))
}

// rounding is how far n roundings to bf16, each of which moves a vector by
// 2^-8/sqrt(3) of its length at most, and tanh.approx move a result.
func rounding(n int) float64 { return math.Sqrt(float64(n)/3)/256 + 1.0/1024 }

func within(t *testing.T, what string, got, want []float32, tol float64) {
	t.Helper()
	var diff, norm float64
	for i, w := range want {
		diff += float64(got[i]-w) * float64(got[i]-w)
		norm += float64(w) * float64(w)
	}
	if rel := math.Sqrt(diff / norm); !(rel <= tol) {
		t.Errorf("%s: relative error %.2e, want at most %.2e", what, rel, tol)
	}
}

// bench is one network or layer of a case on a device.
type bench struct {
	t     *testing.T
	g     *golden
	r     runner
	mem   memory
	w     *weights
	grads arena
}

func newBench(g *golden, ks []plan.GPUKernel, l layout) *bench {
	t := g.t
	t.Helper()
	register(t)
	d, _ := open(t)
	must(t, d.Load(append(ks, plan.PackBF16.Kernel())))
	s, err := d.NewStream()
	must(t, err)
	b := &bench{t: t, g: g, r: runner{d: d, s: s}, mem: memory{d: d}}
	t.Cleanup(func() {
		b.mem.free()
		must(t, s.Close())
	})
	l.place()
	b.w, err = newWeights(&b.r, l, g.get)
	must(t, err)
	t.Cleanup(b.w.close)
	b.grads, err = b.w.newArena(4)
	must(t, err)
	t.Cleanup(func() { d.Free(b.grads.Buffer) })
	return b
}

// upload is a buffer of a tensor, so many times in a row.
func (b *bench) upload(name string, times int, p plan.Precision) cuda.Buffer {
	b.t.Helper()
	v := slices.Repeat(b.g.get(name), times)
	buf := b.mem.entries(p, len(v))
	must(b.t, b.mem.err)
	if p == plan.Float32s {
		must(b.t, cuda.Upload(b.r.s, buf, v))
		return buf
	}
	u := make([]uint16, len(v))
	for i, x := range v {
		n := math.Float32bits(x)
		u[i] = uint16((n + 0x7fff + n>>16&1) >> 16)
	}
	must(b.t, cuda.Upload(b.r.s, buf, u))
	return buf
}

// compare compares a buffer with a tensor, so many times in a row.
func (b *bench) compare(name string, buf cuda.Buffer, times int, p plan.Precision, tol float64) {
	b.t.Helper()
	must(b.t, b.r.err)
	want := slices.Repeat(b.g.get(name), times)
	got := make([]float32, len(want))
	if p == plan.Float32s {
		must(b.t, cuda.Download(b.r.s, got, buf))
	} else {
		u := make([]uint16, len(want))
		must(b.t, cuda.Download(b.r.s, u, buf))
		for i, x := range u {
			got[i] = math.Float32frombits(uint32(x) << 16)
		}
	}
	within(b.t, name, got, want, tol)
}

// compareGradients compares those of all parameters, which are so many times the
// case's.
func (b *bench) compareGradients(times int, tol float64) {
	b.t.Helper()
	v, got := make([]float32, b.w.size), map[string][]float32{}
	must(b.t, cuda.Download(b.r.s, v, b.grads.Buffer))
	b.w.unpack(func(name string) []float32 {
		got[name] = make([]float32, b.w.slots[name].size)
		return got[name]
	}, v)
	for name, v := range got {
		for i := range v {
			v[i] /= float32(times)
		}
		name = "grad" + strings.TrimPrefix(name, "param")
		within(b.t, name, v, b.g.get(name), tol)
	}
}

// times are how often a case's tokens run in a row: least, and so often that they
// are no longer few.
func (g *golden) times(least int) []int {
	return []int{least, (plan.FewTokens/(least*g.tokens()) + 1) * least}
}

func (g *golden) tokens() int { return len(g.get("x")) / max(g.In, g.Hidden) }

// guided are the golden cases that the plan refuses, because no device computes
// guides.
var guided = []string{
	"guided_lowrank_37x53_r11_a075",
	"guided_blockdense_48x36_r20_b4_a03125",
	"guided_blockshuffle_30x42_b3_a05",
	"guided_lowrank_24x24_r6_a1",
	"guided_blockshuffle_24x16_b4_a0_nobias",
	"guided_mlp_lowrank_gelu_a0625",
	"guided_mlp_blockshuffle_swiglu_a025",
}

// Every golden layer and network, forward and every gradient, on the device: on
// kernels of exactly its shape, in bf16 where its widths allow it and in float32
// otherwise.
func TestGolden(t *testing.T) {
	cases := goldens(t)
	for _, name := range guided {
		if cases[name] == nil {
			t.Errorf("there is no %s", name)
		}
	}
	for name, g := range cases {
		kind, isGuided := strings.CutPrefix(g.Kind, "guided_")
		switch kind {
		case "model", "trajectory", "init", "ratio_schedule", "lr_schedule":
			continue // whole models have their own test, what is around them is the CPU's
		}
		t.Run(name, func(t *testing.T) {
			g.t = t
			switch kind {
			case "layer":
				goldenLayer(g, spec.Linear{Kind: spec.Kind(g.Layer), In: g.In, Out: g.Out, Rank: g.Rank, Blocks: g.Blocks, Bias: g.Bias, Guide: isGuided})
			case "mlp":
				goldenFFN(g, spec.FFN{Kind: spec.Kind(g.Layer), Hidden: g.Hidden, FFN: g.FFN, Act: spec.Act(g.Act), Rank: g.Rank, Blocks: g.Blocks, Bias: g.Bias, Guide: isGuided})
			default:
				t.Errorf("cases of kind %s do not run", g.Kind)
			}
		})
	}
}

// refused demands that the plan refuses the guided cases, because of their
// guides, and no other.
func (g *golden) refused(err error) bool {
	g.t.Helper()
	if !slices.Contains(guided, g.Name) {
		must(g.t, err)
		return false
	}
	if err == nil || !strings.Contains(err.Error(), "guided layers have no GPU kernels") {
		g.t.Errorf("the plan says %v, want a refusal of the guide; what devices compute must run here", err)
	}
	return true
}

func goldenLayer(g *golden, s spec.Linear) {
	p, err := plan.NewGPULayer(s, "")
	if g.refused(err) {
		return
	}
	var l layout
	l.canonical("param.", s.Params())
	l.linear("param", p)
	b := newBench(g, p.Kernels(), l)
	f := newLinear(p, "param", b.w, &b.grads)
	for _, times := range g.times(1) {
		tokens := times * g.tokens()
		z, dz := f.intermediates(&b.mem, tokens), f.intermediates(&b.mem, tokens)
		y, dx := b.mem.entries(p.Precision, tokens*s.Out), b.mem.entries(p.Precision, tokens*s.In)
		parts := b.mem.bytes(f.partBytes(tokens, true))
		x, dy := b.upload("x", times, p.Precision), b.upload("dy", times, p.Precision)
		f.run(&b.r, y, x, z, cuda.Buffer{}, tokens, parts)
		f.backward(&b.r, dx, dy, dz, cuda.Buffer{}, tokens, parts)
		// Twice, the second time on top of the first.
		f.gradients(&b.r, dy, x, z, dz, tokens, false, parts)
		f.gradients(&b.r, dy, x, z, dz, tokens, true, parts)
		// Rounded are, for each factor, what it reads, its weights and what it leaves;
		// in float32 that is the sums, and each has half an ulp a product.
		n := 3*len(p.Factors) + 1
		tol := rounding(n)
		if p.Precision == plan.Float32s {
			tol = float64(n*(max(s.In, s.Out, tokens)+4)) / (1 << 24)
		}
		b.compare("y", y, times, p.Precision, tol)
		b.compare("dx", dx, times, p.Precision, tol)
		b.compareGradients(2*times, tol)
	}
}

func goldenFFN(g *golden, s spec.FFN) {
	p, err := plan.NewGPUFFN(s, "")
	if g.refused(err) {
		return
	}
	var l layout
	l.canonical("param.fc1.", s.FC1().Params())
	l.canonical("param.fc2.", s.FC2().Params())
	l.linear("param.fc1", p.FC1)
	l.linear("param.fc2", p.FC2)
	b := newBench(g, p.Kernels(), l)
	f := newFFN(p, "param", b.w, &b.grads)
	// All are of widths that only float32 serves. Casts take entries by eights.
	least := 1
	for least*len(g.get("x"))%8 != 0 {
		least++
	}
	for _, times := range g.times(least) {
		tokens := times * g.tokens()
		saved, scratch := f.save(&b.mem, tokens, true), f.scratch(&b.mem, tokens, true)
		y, dx := b.mem.bf16(tokens*s.Hidden), b.mem.bf16(tokens*s.Hidden)
		parts := b.mem.bytes(f.partBytes(tokens, true))
		x, dy := b.upload("x", times, plan.BF16), b.upload("dy", times, plan.BF16)
		f.run(&b.r, y, x, saved, scratch, tokens, parts)
		f.backward(&b.r, dx, dy, x, saved, scratch, tokens, false, parts)
		f.backward(&b.r, dx, dy, x, saved, scratch, tokens, true, parts)
		// The casts round x, dy and the results. Gates and ups, whose product is taken,
		// move together with x: by up to 1+1.28 times as much, which is how steep SiLU
		// is, so that x counts six times, and once more in the gradients of weights.
		b.compare("y", y, times, plan.BF16, rounding(7))
		b.compare("dx", dx, times, plan.BF16, rounding(8))
		b.compareGradients(2*times, rounding(8))
	}
}
