package model_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/gen/specfile"
	_ "github.com/structuredffn/sffn/generated/gpt2s" // specialised kernels of the S shapes
	"github.com/structuredffn/sffn/internal/f64ref"
	"github.com/structuredffn/sffn/internal/modeltest"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/config"
	"github.com/structuredffn/sffn/model/decode"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// shapes lists one layer of each preset, those of one shape once, with few
// tokens and positions: widths are what real models have.
func shapes(t *testing.T) (all []spec.Model) {
	t.Helper()
	for _, name := range specfile.Presets() {
		if strings.HasPrefix(name, "demo") {
			continue
		}
		f, err := config.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		s := f.Model
		s.Guided = strings.Contains(name, "guided")
		s.Layers, s.Except, s.Vocab, s.MaxPositions = 1, "", 509, 256
		known := slices.ContainsFunc(all, func(o spec.Model) bool {
			o.Name = s.Name
			return o == s
		})
		if !known {
			s.Name = name
			all = append(all, s)
		}
	}
	return all
}

// real makes a model whose entries are all of a usual size.
func real(s spec.Model) *model.Params {
	p := model.NewParams(s)
	state := uint64(1)
	for _, q := range slices.Concat(p.List(), p.Guides()) {
		x := p.Get(q.Name)
		scale, shift := 2*math.Sqrt(3/float64(q.Shape[len(q.Shape)-1])), -0.5
		if strings.Contains(q.Name, ".ln") || strings.HasSuffix(q.Name, "bias") {
			scale, shift = 0.5, 1.5
		}
		for i := range x {
			state = state*6364136223846793005 + 1442695040888963407
			x[i] = float32(scale * (float64(state>>40)*0x1p-24 + shift))
		}
	}
	return p
}

// ratios are the shares of fc1's guide and fc2's.
var ratios = [2]float32{0.25, 0.625}

// withReal runs f on a model with these parameters.
func withReal(t *testing.T, p *model.Params, opt rt.Options, threads int, f func(m *model.Model)) {
	t.Helper()
	opt.Pool = rt.NewPool(threads)
	defer opt.Pool.Close()
	m, err := model.New(p.Spec(), p, opt)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var guides []rt.Guide
	for i := range p.Guides() {
		guides = append(guides, rt.Guide{On: true, Ratio: ratios[i%2]})
	}
	m.SetGuides(guides)
	f(m)
}

// exact computes the logits of a sequence in float64.
func exact(p *model.Params, ids []int32) []float32 {
	ref := &f64ref.Model{Model: p.Spec(), Get: func(name string) []float64 {
		var w []float64
		for _, v := range p.Get(name) {
			w = append(w, float64(v))
		}
		return w
	}}
	for i := range p.Guides() {
		ref.Ratios = append(ref.Ratios, float64(ratios[i%2]))
	}
	var rounded []float32
	for _, v := range ref.Logits(ids) {
		rounded = append(rounded, float32(v))
	}
	return rounded
}

// equalBits compares NaN with NaN, too.
func equalBits(t *testing.T, what string, got, want []float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d entries, want %d", what, len(got), len(want))
	}
	for i, v := range want {
		if math.Float32bits(got[i]) != math.Float32bits(v) {
			t.Fatalf("%s: [%d] = %v, want %v", what, i, got[i], v)
		}
	}
}

// fullLogits are those of one pass over a sequence.
func fullLogits(t *testing.T, m *model.Model, ids []int32) []float32 {
	t.Helper()
	tr := m.NewTrace(len(ids))
	defer tr.Close()
	logits := make([]float32, len(ids)*m.Spec.Vocab)
	for i := range logits {
		logits[i] = float32(math.NaN())
	}
	if err := tr.Logits(logits, ids, 1); err != nil {
		t.Fatal(err)
	}
	for i, v := range logits {
		if v != v {
			t.Fatalf("logit %d was not written", i)
		}
	}
	return logits
}

// decoded compares what a decoder gives for three sequences, prompts in ragged
// pieces and then token by token in one batch, with the passes over all of them.
func decoded(t *testing.T, m *model.Model, ids, full [][]int32, want [][]float32) {
	t.Helper()
	v := m.Spec.Vocab
	d, err := decode.Of(m).NewDecoder(len(ids), m.Spec.MaxPositions)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	at := make([]int, len(ids))
	feed := func(seqs []int, n func(i int) int) {
		var next [][]int32
		for _, i := range seqs {
			next = append(next, full[i][at[i]:at[i]+n(i)])
			at[i] += n(i)
		}
		logits, err := d.Feed(seqs, next)
		if err != nil {
			t.Fatal(err)
		}
		for j, i := range seqs {
			equalBits(t, fmt.Sprintf("%s: sequence %d after %d tokens, cached", m.Spec.Name, i, at[i]), logits[j*v:(j+1)*v], want[i][(at[i]-1)*v:at[i]*v])
		}
	}
	feed([]int{0}, func(int) int { return len(ids[0]) - 10 })
	feed([]int{2, 0, 1}, func(i int) int { return []int{10, 2, 1}[i] })
	feed([]int{1}, func(i int) int { return len(ids[i]) - at[i] })
	feed([]int{2}, func(i int) int { return len(ids[i]) - at[i] })
	for range 3 {
		feed([]int{0, 1, 2}, func(int) int { return 1 })
	}
}

// One layer of each preset at its real widths: every way of computing the same
// thing gives the same bits, or the same numbers where sums are taken in another
// order.
func TestRealShapes(t *testing.T) {
	isas := kernel.Available()
	// The first sequence crosses a block of keys, and chunks of rows.
	lengths := []int{134, 31, 4}
	if isas[0] == kernel.Portable {
		lengths = []int{14, 5, 2} // Go alone takes a hundred times as long
	}
	for i, s := range shapes(t) {
		if isas[0] == kernel.Portable && s.Name != "gpt2s-lowrank-32" && s.Name != "gpt2s-blockshuffle-32" {
			continue
		}
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			p := real(s)
			defer p.Close()
			r := rand.New(rand.NewPCG(1, uint64(i)))
			var prompts, ids [][]int32
			for _, n := range lengths {
				all := modeltest.Tokens(r, n+3, s.Vocab)
				prompts, ids = append(prompts, all[:n]), append(ids, all)
			}
			var want [][]float32
			var grads *model.Params
			withReal(t, p, rt.Options{ISA: isas[0], Train: true}, 2, func(m *model.Model) {
				for _, q := range ids {
					want = append(want, fullLogits(t, m, q))
				}
				decoded(t, m, prompts, ids, want)
				grads = gradients(t, s, m.NewTrace(len(ids[1])), ids[1])
				sameGradients(t, s.Name+", recomputed", gradients(t, s, m.NewRecomputingTrace(len(ids[1])), ids[1]), grads)
			})
			defer grads.Close()
			few := ids[2][:2]
			fewLogits := want[2][:2*s.Vocab]
			close(t, s, "against float64", fewLogits, exact(p, few))

			again := func(what string, opt rt.Options, threads int) {
				t.Helper()
				withReal(t, p, opt, threads, func(m *model.Model) {
					for j := 1; j < len(ids); j++ {
						equalBits(t, s.Name+": "+what, fullLogits(t, m, ids[j]), want[j])
					}
					if opt.Train {
						sameGradients(t, s.Name+", "+what, gradients(t, s, m.NewTrace(len(ids[1])), ids[1]), grads)
					}
				})
			}
			// The S shapes are small enough to try them all.
			for j, threads := range []int{1, 3, 16} {
				if j == i%3 || s.Hidden == 768 {
					again(fmt.Sprintf("%d threads", threads), rt.Options{ISA: isas[0], Train: s.Hidden == 768}, threads)
				}
			}
			if s.Hidden == 768 && isas[0] != kernel.Portable {
				again("any-shape kernels", rt.Options{ISA: isas[0], AnyShape: true}, 2)
			}
			for _, isa := range isas[1:] {
				// Sums outside products, those of norms, are taken in each ISA's order.
				seq, logits := ids[1], want[1]
				if isa == kernel.Portable {
					seq, logits = few, fewLogits
				} else {
					equalBits(t, fmt.Sprintf("%s: the network alone, %s", s.Name, isa), network(t, p, isa), network(t, p, isas[0]))
				}
				withReal(t, p, rt.Options{ISA: isa}, 2, func(m *model.Model) {
					close(t, s, string(isa), fullLogits(t, m, seq), logits)
				})
			}
			if s.Kind != spec.Dense && !s.Guided {
				withReal(t, p, rt.Options{ISA: isas[0]}, 2, func(m *model.Model) {
					merged := decode.Of(m)
					defer merged.Close()
					if _, err := merged.Merge(false, nil); err != nil {
						t.Fatal(err)
					}
					d, err := merged.NewDecoder(1, s.MaxPositions)
					if err != nil {
						t.Fatal(err)
					}
					defer d.Close()
					for at, n := 0, len(ids[1])-3; at < len(ids[1]); n = 1 {
						logits, err := d.Feed([]int{0}, [][]int32{ids[1][at : at+n]})
						if err != nil {
							t.Fatal(err)
						}
						at += n
						close(t, s, "merged", logits, want[1][(at-1)*s.Vocab:at*s.Vocab])
					}
				})
			}
		})
	}
}

// network runs a model's first network by itself, on the kernels of an ISA.
func network(t *testing.T, p *model.Params, isa kernel.ISA) []float32 {
	t.Helper()
	s := p.Spec().LayerFFN(0)
	s.Guide = false
	weights := func(name string, l spec.Linear) (w rt.Weights) {
		for _, f := range l.Chain() {
			w.Factors = append(w.Factors, p.Get(model.LayerName(0)+".mlp."+name+"."+f.Param))
		}
		if l.Bias {
			w.Bias = p.Get(model.LayerName(0) + ".mlp." + name + ".bias")
		}
		return w
	}
	pool := rt.NewPool(2)
	defer pool.Close()
	f, err := rt.NewFFN(s, rt.FFNWeights{FC1: weights("fc1", s.FC1()), FC2: weights("fc2", s.FC2())}, rt.Options{ISA: isa, Pool: pool})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const rows = 31
	ws, r := f.NewWorkspace(), rand.New(rand.NewPCG(5, 5))
	defer ws.Close()
	x, y := make([]float32, rows*s.Hidden), make([]float32, rows*s.Hidden)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	f.Forward(y, x, nil, rows, nil, ws)
	return y
}

// close allows what rounding adds up to over the longest sum: errors grow with
// the root of its length, 16 is for the sums on the way and the tails of many
// entries.
func close(t *testing.T, s spec.Model, what string, got, want []float32) {
	t.Helper()
	largest := float32(0)
	for _, v := range want {
		largest = max(largest, v, -v)
	}
	tol := 16 * math.Sqrt(float64(max(s.FFN, s.Hidden))) * 0x1p-24 * float64(largest)
	for i, v := range want {
		if !(math.Abs(float64(got[i]-v)) <= tol) {
			t.Fatalf("%s: %s: [%d] = %v, want %v to within %v", s.Name, what, i, got[i], v, tol)
		}
	}
}

// gradients are those of one pass over a sequence; the trace is closed.
func gradients(t *testing.T, s spec.Model, tr *model.Trace, ids []int32) *model.Params {
	t.Helper()
	defer tr.Close()
	g := model.NewParams(s)
	for i := range g.Data {
		g.Data[i] = float32(math.NaN())
	}
	if _, err := tr.Backward(g, ids, slices.Concat(ids[1:], ids[:1]), 1, 1, false); err != nil {
		t.Fatal(err)
	}
	return g
}

// sameGradients compares all of them and closes the first.
func sameGradients(t *testing.T, what string, got, want *model.Params) {
	t.Helper()
	defer got.Close()
	for _, q := range slices.Concat(want.List(), want.Guides()) {
		x := want.Get(q.Name)
		if at := slices.IndexFunc(x, func(v float32) bool { return v != v }); at >= 0 {
			t.Fatalf("%s: entry %d of the gradient of %s was not written", what, at, q.Name)
		}
		equalBits(t, what+": gradient of "+q.Name, got.Get(q.Name), x)
	}
}
