package gpu

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/shared"
	"github.com/structuredffn/sffn/model/safetensors"
	"github.com/structuredffn/sffn/runtime/cuda"
)

// register makes the kernels of gen/cuda's tests known.
func register(t *testing.T) {
	t.Helper()
	files, err := filepath.Glob("../../gen/cuda/testdata/small/*.ptx")
	if err != nil || len(files) == 0 {
		t.Fatalf("no PTX: %v", err)
	}
	for _, f := range files {
		src, err := os.ReadFile(f)
		must(t, err)
		cuda.RegisterPTX(string(src))
	}
}

// wider are networks that there are kernels for; the golden ones, which are
// smaller, are parts of them, with zeros around.
var wider = map[string]spec.FFN{
	"mlp_dense_gelu":               {Kind: spec.Dense, Hidden: 136, FFN: 264, Act: spec.GELU, Bias: true},
	"mlp_dense_gelu_nobias":        {Kind: spec.Dense, Hidden: 136, FFN: 264, Act: spec.GELU, Bias: true},
	"mlp_dense_swiglu_nobias":      {Kind: spec.Dense, Hidden: 64, FFN: 136, Act: spec.SwiGLU},
	"mlp_lowrank_swiglu_bias":      {Kind: spec.LowRank, Hidden: 128, FFN: 256, Rank: 72, Act: spec.SwiGLU, Bias: true},
	"mlp_lowrank_swiglu_nobias":    {Kind: spec.LowRank, Hidden: 128, FFN: 256, Rank: 72, Act: spec.SwiGLU, Bias: true},
	"mlp_blockdense_swiglu_nobias": {Kind: spec.BlockDense, Hidden: 96, FFN: 192, Rank: 96, Blocks: 4, Act: spec.SwiGLU},
}

// golden is a case of the reference's manifest.
type golden struct {
	Name   string `json:"name"`
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
	dir := shared.Dir(t, "golden")
	src, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
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
		c.File, c.t = filepath.Join(dir, c.File), t
		cases[c.Name] = c
	}
	return cases
}

func (g *golden) get(name string) []float32 {
	g.t.Helper()
	if g.file == nil {
		var err error
		g.file, err = safetensors.Open(g.File)
		must(g.t, err)
		g.t.Cleanup(func() { g.file.Close() })
	}
	v, err := g.file.Float32s(name)
	must(g.t, err)
	return v
}

// part says where a golden layer lies in a wider one of its kind: places of its
// inputs, outputs, and of the weights of each factor.
type part struct {
	small, wide spec.Linear
	in, out     func(i int) int
	factors     []func(b, o, k int) (wb, wo, wk int)
}

// blocked puts the entries of small blocks at the beginnings of larger ones.
func blocked(small, large int) func(int) int {
	return func(i int) int { return i/small*large + i%small }
}

func same(i int) int { return i }

// newPart needs out for kinds whose outputs may lie anywhere.
func newPart(small, wide spec.Linear, out func(int) int) part {
	p := part{small: small, wide: wide, in: same, out: out}
	if small.Blocks > 0 {
		p.in = blocked(small.In/small.Blocks, wide.In/wide.Blocks)
	}
	keep := func(b, o, k int) (int, int, int) { return b, o, k }
	switch small.Kind {
	case spec.Dense:
		p.factors = append(p.factors, func(b, o, k int) (int, int, int) { return b, out(o), k })
	case spec.LowRank:
		p.factors = append(p.factors, keep, func(b, o, k int) (int, int, int) { return b, out(o), k })
	case spec.BlockDense:
		mid := blocked(small.Rank/small.Blocks, wide.Rank/wide.Blocks)
		p.factors = append(p.factors, keep, func(b, o, k int) (int, int, int) { return b, out(o), mid(k) })
	case spec.BlockShuffle:
		// The shuffle deals each block's q entries out to n blocks in turn: where n
		// divides both q, those of block k come to places k*q/n on.
		n := small.Blocks
		run := func(l spec.Linear) int { return l.Chain()[0].Out / n }
		mid := blocked(run(small), run(wide))
		p.factors = append(p.factors, keep, func(b, o, k int) (int, int, int) { return b, o, mid(k) })
	}
	return p
}

// widen fills the wider layer's parameters, and narrow reads the golden one's
// share of them.
func (p part) widen(get func(name string) []float32, set func(name string, v []float32)) {
	for i, f := range p.small.Chain() {
		w := p.wide.Chain()[i]
		v, src := make([]float32, w.Weights()), get(f.Param)
		p.each(i, func(small, wide int) { v[wide] = src[small] })
		set(f.Param, v)
	}
	if p.wide.Bias {
		v := make([]float32, p.wide.Out)
		if p.small.Bias {
			for i, b := range get("bias") {
				v[p.out(i)] = b
			}
		}
		set("bias", v)
	}
}

func (p part) each(factor int, f func(small, wide int)) {
	s, w := p.small.Chain()[factor], p.wide.Chain()[factor]
	for b := range s.Blocks {
		for o := range s.Out {
			for k := range s.In {
				wb, wo, wk := p.factors[factor](b, o, k)
				f((b*s.Out+o)*s.In+k, (wb*w.Out+wo)*w.In+wk)
			}
		}
	}
}

// spread puts rows of vectors in the wider ones' places, and shrink takes them
// back.
func spread(x []float32, n, wide int, at func(int) int) []float32 {
	y := make([]float32, len(x)/n*wide)
	for i, v := range x {
		y[i/n*wide+at(i%n)] = v
	}
	return y
}

func shrink(y []float32, n, wide int, at func(int) int) []float32 {
	x := make([]float32, len(y)/wide*n)
	for i := range x {
		x[i] = y[i/n*wide+at(i%n)]
	}
	return x
}

// near compares in the norm: after n roundings to bf16, each of which moves a
// vector by 2^-8/sqrt(3) of its length at most, and tanh.approx.
func near(t *testing.T, what string, got, want []float32, n int) {
	t.Helper()
	var diff, norm float64
	for i, w := range want {
		diff += float64(got[i]-w) * float64(got[i]-w)
		norm += float64(w) * float64(w)
	}
	if rel, tol := math.Sqrt(diff/norm), math.Sqrt(float64(n)/3)/256+1.0/1024; !(rel <= tol) {
		t.Errorf("%s: relative error %.2e, want at most %.2e", what, rel, tol)
	}
}

// bench is one network or layer on a device.
type bench struct {
	t     *testing.T
	r     runner
	mem   memory
	w     *weights
	grads arena
}

func newBench(t *testing.T, ks []plan.GPUKernel, l layout, get func(string) []float32) *bench {
	t.Helper()
	register(t)
	d, _ := open(t)
	must(t, d.Load(append(ks, plan.PackBF16.Kernel())))
	s, err := d.NewStream()
	must(t, err)
	b := &bench{t: t, r: runner{d: d, s: s}, mem: memory{d: d}}
	t.Cleanup(func() {
		b.mem.free()
		must(t, s.Close())
	})
	b.w, err = newWeights(&b.r, l, get)
	must(t, err)
	b.grads, err = b.w.newArena(4)
	must(t, err)
	return b
}

// bf16 is a buffer of values, in the order of places.
func (b *bench) bf16(v []float32) cuda.Buffer {
	b.t.Helper()
	u := make([]uint16, len(v))
	for i, x := range v {
		n := math.Float32bits(x)
		u[i] = uint16((n + 0x7fff + n>>16&1) >> 16)
	}
	buf := b.mem.bf16(len(v))
	must(b.t, b.mem.err)
	must(b.t, cuda.Upload(b.r.s, buf, u))
	return buf
}

func (b *bench) values(buf cuda.Buffer) []float32 {
	b.t.Helper()
	must(b.t, b.r.err)
	u := make([]uint16, buf.Size()/2)
	must(b.t, cuda.Download(b.r.s, u, buf))
	v := make([]float32, len(u))
	for i, x := range u {
		v[i] = math.Float32frombits(uint32(x) << 16)
	}
	return v
}

// gradients are those of all parameters, in canonical order.
func (b *bench) gradients() map[string][]float32 {
	b.t.Helper()
	v := make([]float32, b.w.size)
	must(b.t, cuda.Download(b.r.s, v, b.grads.Buffer))
	g := map[string][]float32{}
	b.w.unpack(func(name string) []float32 {
		g[name] = make([]float32, b.w.slots[name].size)
		return g[name]
	}, v)
	return g
}

// stored deals rows out to places, and canonical back.
func stored(v []float32, places []int) []float32 {
	return spread(v, len(places), len(places), func(i int) int { return places[i] })
}

func canonical(v []float32, places []int) []float32 {
	return shrink(v, len(places), len(places), func(i int) int { return places[i] })
}

// Golden networks of three kinds, forward and backward, on the device.
func TestGoldenFFNs(t *testing.T) {
	cases := goldens(t)
	for name, wide := range wider {
		t.Run(name, func(t *testing.T) {
			g := cases[name]
			g.t = t
			small := spec.FFN{Kind: spec.Kind(g.Layer), Hidden: g.Hidden, FFN: g.FFN, Act: spec.Act(g.Act), Rank: g.Rank, Blocks: g.Blocks, Bias: g.Bias}
			p, err := plan.NewGPU(wide)
			must(t, err)
			// Blocks of fc2's inputs decide where the hidden entries lie, those of fc1's
			// where x does.
			hidden, x := same, same
			if small.Blocks > 0 {
				hidden, x = blocked(small.FFN/small.Blocks, wide.FFN/wide.Blocks), blocked(small.Hidden/small.Blocks, wide.Hidden/wide.Blocks)
			}
			pre := hidden
			if small.Act == spec.SwiGLU {
				pre = func(i int) int { return i/small.FFN*wide.FFN + hidden(i%small.FFN) }
			}
			p1, p2 := newPart(small.FC1(), wide.FC1(), pre), newPart(small.FC2(), wide.FC2(), x)
			params := map[string][]float32{}
			for prefix, q := range map[string]part{"fc1.": p1, "fc2.": p2} {
				q.widen(func(n string) []float32 { return g.get("param." + prefix + n) }, func(n string, v []float32) { params["mlp."+prefix+n] = v })
			}
			var l layout
			l.canonical("mlp.fc1.", wide.FC1().Params())
			l.canonical("mlp.fc2.", wide.FC2().Params())
			l.linear("mlp.fc1", p.FC1)
			l.linear("mlp.fc2", p.FC2)
			l.place()
			b := newBench(t, p.Kernels(), l, func(n string) []float32 { return params[n] })
			defer b.w.close()
			f := newFFN(p, "mlp", b.w, &b.grads)
			tokens := len(g.get("x")) / small.Hidden
			saved, scratch := f.save(&b.mem, tokens, true), f.scratch(&b.mem, tokens, true)
			parts := b.mem.bytes(f.partBytes(tokens, true))
			in := b.bf16(spread(g.get("x"), small.Hidden, wide.Hidden, p1.in))
			dy := b.bf16(stored(spread(g.get("dy"), small.Hidden, wide.Hidden, x), p.Output))
			y, dx := b.mem.bf16(tokens*wide.Hidden), b.mem.bf16(tokens*wide.Hidden)
			must(t, b.mem.err)
			f.run(&b.r, y, in, saved, scratch, tokens, parts)
			// Twice, the second time on top of the first.
			f.backward(&b.r, dx, dy, in, saved, scratch, tokens, false, parts)
			f.backward(&b.r, dx, dy, in, saved, scratch, tokens, true, parts)
			// Rounded are x, the weights of n factors a layer and what each leaves; for
			// backward, dy, both layers' weights, and of the products' results fc1's
			// forward and all of backward, and the gate and up of the derivative.
			n := len(p.FC1.Factors)
			back := 2 + 2*n + 3*n + 2
			near(t, "y", shrink(canonical(b.values(y), p.Output), small.Hidden, wide.Hidden, x), g.get("y"), 1+4*n)
			near(t, "dx", shrink(b.values(dx), small.Hidden, wide.Hidden, p1.in), g.get("dx"), back)
			got := b.gradients()
			for prefix, q := range map[string]part{"fc1.": p1, "fc2.": p2} {
				b.compareGradients(g, q, "mlp."+prefix, "grad."+prefix, got, back)
			}
			b.r.d.Free(b.grads.Buffer)
		})
	}
}

// compareGradients compares half of what two backward passes left.
func (b *bench) compareGradients(g *golden, q part, prefix, want string, got map[string][]float32, n int) {
	b.t.Helper()
	for i, f := range q.small.Chain() {
		v := make([]float32, f.Weights())
		q.each(i, func(small, wide int) { v[small] = got[prefix+f.Param][wide] / 2 })
		near(b.t, want+f.Param, v, g.get(want+f.Param), n)
	}
	if q.small.Bias {
		v := make([]float32, q.small.Out)
		for i := range v {
			v[i] = got[prefix+"bias"][q.out(i)] / 2
		}
		near(b.t, want+"bias", v, g.get(want+"bias"), n)
	}
}

// A golden layer of the fourth kind, and of the first: fc1 of a network, before
// the activation.
func TestGoldenLayers(t *testing.T) {
	cases := goldens(t)
	for name, ffn := range map[string]spec.FFN{
		"layer_blockshuffle_48x96_b4":   {Kind: spec.BlockShuffle, Hidden: 128, FFN: 256, Blocks: 4, Act: spec.SwiGLU, Bias: true},
		"layer_blockdense_48x96_r24_b4": {Kind: spec.BlockDense, Hidden: 96, FFN: 192, Rank: 96, Blocks: 4, Act: spec.SwiGLU},
		"layer_lowrank_48x96_r16":       {Kind: spec.LowRank, Hidden: 128, FFN: 256, Rank: 72, Act: spec.SwiGLU, Bias: true},
		"layer_dense_33x47":             {Kind: spec.Dense, Hidden: 136, FFN: 264, Act: spec.GELU, Bias: true},
	} {
		t.Run(name, func(t *testing.T) {
			g := cases[name]
			g.t = t
			p, err := plan.NewGPU(ffn)
			must(t, err)
			small, wide := spec.Linear{Kind: spec.Kind(g.Layer), In: g.In, Out: g.Out, Rank: g.Rank, Blocks: g.Blocks, Bias: g.Bias && ffn.Bias}, ffn.FC1()
			q := newPart(small, wide, same)
			params := map[string][]float32{}
			q.widen(func(n string) []float32 { return g.get("param." + n) }, func(n string, v []float32) { params["fc1."+n] = v })
			var l layout
			l.canonical("fc1.", wide.Params())
			l.linear("fc1", p.FC1)
			l.place()
			b := newBench(t, p.FC1.Kernels(), l, func(n string) []float32 { return params[n] })
			defer b.w.close()
			fc1 := newLinear(p.FC1, "fc1", b.w, &b.grads)
			tokens := len(g.get("x")) / g.In
			z, dz := fc1.intermediates(&b.mem, tokens), fc1.intermediates(&b.mem, tokens)
			x, act, pre, dx := b.bf16(spread(g.get("x"), g.In, wide.In, q.in)), b.mem.bf16(tokens*ffn.FFN), b.mem.bf16(tokens*wide.Out), b.mem.bf16(tokens*wide.In)
			places := make([]int, wide.Out)
			for s, c := range p.FC1.Bias {
				places[c] = s
			}
			dy := b.bf16(stored(spread(g.get("dy"), g.Out, wide.Out, same), places))
			parts := b.mem.bytes(fc1.partBytes(tokens, true))
			must(t, b.mem.err)
			fc1.run(&b.r, act, x, z, pre, tokens, parts)
			fc1.backward(&b.r, dx, dy, dz, cuda.Buffer{}, tokens, parts)
			fc1.gradients(&b.r, dy, x, z, dz, tokens, false, parts)
			fc1.gradients(&b.r, dy, x, z, dz, tokens, true, parts)
			n := 3 * len(p.FC1.Factors)
			y := g.get("y")
			if g.Bias && !small.Bias { // the wider one has none
				for i := range y {
					y[i] -= g.get("param.bias")[i%g.Out]
				}
			}
			near(t, "y", shrink(canonical(b.values(pre), places), g.Out, wide.Out, same), y, n+1)
			near(t, "dx", shrink(b.values(dx), g.In, wide.In, q.in), g.get("dx"), n+1)
			b.compareGradients(g, q, "fc1.", "grad.", b.gradients(), n+2)
			b.r.d.Free(b.grads.Buffer)
		})
	}
}
