package model_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/initial"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/memory"
)

// build makes a model with parameters far from any symmetric start.
func build(t testing.TB, s spec.Model, isa kernel.ISA, threads int) *model.Model {
	t.Helper()
	pool := rt.NewPool(threads)
	t.Cleanup(pool.Close)
	p := model.NewParams(s)
	t.Cleanup(p.Close)
	initial.Model(p, s, 3, initial.Merged, pool)
	r := rand.New(rand.NewPCG(1, 2))
	for _, q := range slices.Concat(p.List(), p.Guides()) {
		for i, w := range p.Get(q.Name) {
			p.Get(q.Name)[i] = w + float32(0.1*r.NormFloat64())
		}
	}
	m, err := model.New(s, p, rt.Options{ISA: isa, Pool: pool, Train: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	var guides []rt.Guide
	for i := range p.Guides() {
		guides = append(guides, rt.Guide{On: i%3 != 2, Ratio: float32(r.Float64())})
	}
	m.SetGuides(guides)
	return m
}

func tokens(r *rand.Rand, n, vocab int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(r.IntN(vocab))
	}
	return ids
}

// drawSpec draws a small model of any form.
func drawSpec(t *rapid.T) spec.Model {
	pick := func(name string, n int) int { return rapid.IntRange(0, n-1).Draw(t, name) }
	kv := 1 + pick("kv", 2)
	q := kv * (1 + pick("group", 2))
	s := spec.Model{
		Name: "drawn", Vocab: 11 + pick("vocab", 30), Hidden: 12 * (1 + pick("hidden", 2)), FFN: 12 * (1 + pick("ffn", 4)), Layers: 1 + pick("layers", 3),
		AttnDim: q * 2 * (1 + pick("head", 4)), QHeads: q, KVHeads: kv, MaxPositions: 24,
		Act: []spec.Act{spec.GELU, spec.SwiGLU}[pick("act", 2)], Bias: pick("bias", 2) == 0,
		Norm: []spec.Norm{spec.LayerNorm, spec.RMSNorm}[pick("norm", 2)], Position: []spec.Position{spec.RoPE, spec.Absolute}[pick("position", 2)],
		RotaryBase: 10000, ScaleAttnByLayer: pick("scale", 2) == 0, TieEmbeddings: pick("tie", 2) == 0, InitStd: 0.2,
	}
	structure := func() (l spec.Structure) {
		switch l.Kind = spec.Kinds()[pick("kind", len(spec.Kinds()))]; l.Kind {
		case spec.LowRank:
			l.Rank = 1 + pick("rank", 12)
		case spec.BlockDense:
			l.Blocks = []int{1, 2, 3}[pick("blocks", 3)]
			l.Rank = 6 * (1 + pick("rank", 2))
		case spec.BlockShuffle:
			l.Blocks = []int{1, 2, 3, 4, 6}[pick("blocks", 5)]
		}
		return l
	}
	own := structure()
	s.Kind, s.Rank, s.Blocks = own.Kind, own.Rank, own.Blocks
	for i := range s.Layers {
		if pick("other", 2) == 0 {
			s.SetStructure(i, i, structure())
		}
	}
	s.Guided = pick("guided", 2) == 0
	return s
}

// The gradient of each parameter, against the difference of two losses along
// a direction of that parameter alone.
func TestGradients(t *testing.T) {
	isas := kernel.Available()
	for seed := range 30 {
		s := rapid.Custom(drawSpec).Example(seed)
		t.Run(fmt.Sprintf("%d_%s_%s_%s", seed, s.Kind, s.Act, s.Norm), func(t *testing.T) { testGradients(t, s, isas[seed%len(isas)], 2, 9) })
	}
}

func testGradients(t *testing.T, s spec.Model, isa kernel.ISA, batch, seq int) {
	t.Helper()
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	m := build(t, s, isa, 2)
	r := rand.New(rand.NewPCG(9, 9))
	ids, targets := tokens(r, batch*seq, s.Vocab), tokens(r, batch*seq, s.Vocab)
	tr := m.NewTrace(batch * seq)
	defer tr.Close()
	grads := model.NewParams(s)
	defer grads.Close()
	if _, err := tr.Backward(grads, ids, targets, batch, 1, false); err != nil {
		t.Fatal(err)
	}
	for _, q := range slices.Concat(m.Params.List(), m.Params.Guides()) {
		w, g := m.Params.Get(q.Name), grads.Get(q.Name)
		// Along the gradient's own direction the difference is largest.
		norm := 0.0
		for _, v := range g {
			norm += float64(v) * float64(v)
		}
		norm = math.Sqrt(norm)
		if norm < 1e-5 {
			continue
		}
		old := slices.Clone(w)
		at := func(eps float64) float64 {
			for i := range w {
				w[i] = old[i] + float32(eps*float64(g[i])/norm)
			}
			m.Repack()
			loss, err := tr.Loss(ids, targets, batch)
			if err != nil {
				t.Fatal(err)
			}
			return loss
		}
		// Four points cancel the third derivative. A loss is good to about
		// 1e-6, which a distance of 12*eps/16 divides; where it is steep, it bends
		// sooner.
		eps := 0.004 / max(1, norm)
		slope := (8*(at(eps)-at(-eps)) - (at(2*eps) - at(-2*eps))) / (12 * eps)
		copy(w, old)
		m.Repack()
		if !(math.Abs(slope-norm) <= 2e-3*norm+1e-3) {
			t.Errorf("%s: the loss rises by %v along the gradient, whose length is %v", q.Name, slope, norm)
		}
	}
}

var forms = []spec.Model{
	{Name: "rope", Vocab: 50, Hidden: 24, FFN: 60, Layers: 2, AttnDim: 24, QHeads: 2, KVHeads: 2, MaxPositions: 300, Kind: spec.LowRank, Rank: 5,
		Except: "0:dense", Act: spec.GELU, Bias: true, Norm: spec.LayerNorm, Position: spec.RoPE, RotaryBase: 1e4, TieEmbeddings: true, InitStd: 0.2},
	{Name: "mqa", Vocab: 33, Hidden: 24, FFN: 60, Layers: 2, AttnDim: 48, QHeads: 6, KVHeads: 1, MaxPositions: 300, Kind: spec.BlockShuffle, Blocks: 3,
		Act: spec.SwiGLU, Norm: spec.RMSNorm, Position: spec.Absolute, InitStd: 0.2},
}

// near allows the rounding of sums taken in another order.
func near(t *testing.T, what string, got, want []float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d entries, want %d", what, len(got), len(want))
	}
	for i, w := range want {
		if !(math.Abs(float64(got[i]-w)) <= 2e-5*(1+math.Abs(float64(w)))) {
			t.Fatalf("%s: [%d] = %v, want %v", what, i, got[i], w)
		}
	}
}

// Decoding with the cache, in pieces of any length, equals one full pass; and
// a batch equals its sequences one by one.
func TestDecoder(t *testing.T) {
	for _, isa := range kernel.Available() {
		for _, s := range forms {
			t.Run(fmt.Sprintf("%s/%s", isa, s.Name), func(t *testing.T) {
				m := build(t, s, isa, 2)
				r := rand.New(rand.NewPCG(8, 8))
				const n, seqs = 290, 3 // more than one block of keys
				tr := m.NewTrace(n)
				defer tr.Close()
				dec, err := m.NewDecoder(seqs, n)
				if err != nil {
					t.Fatal(err)
				}
				defer dec.Close()
				var ids [seqs][]int32
				var full [seqs][]float32
				for i := range ids {
					ids[i] = tokens(r, n, s.Vocab)
					full[i] = make([]float32, n*s.Vocab)
					if err := tr.Logits(full[i], ids[i], 1); err != nil {
						t.Fatal(err)
					}
				}
				var at [seqs]int
				for at[0] < n || at[1] < n || at[2] < n {
					var who []int
					var next [][]int32
					for i := range ids {
						if left := n - at[i]; left > 0 && r.IntN(3) > 0 {
							k := 1 + r.IntN(min(left, 1+at[i]))
							who, next = append(who, i), append(next, ids[i][at[i]:at[i]+k])
							at[i] += k
						}
					}
					logits, err := dec.Feed(who, next)
					if err != nil {
						t.Fatal(err)
					}
					for j, i := range who {
						near(t, fmt.Sprintf("sequence %d at %d", i, at[i]), logits[j*s.Vocab:(j+1)*s.Vocab], full[i][(at[i]-1)*s.Vocab:at[i]*s.Vocab])
						if dec.Len(i) != at[i] {
							t.Fatalf("the decoder holds %d tokens, want %d", dec.Len(i), at[i])
						}
					}
				}
				// What is truncated leaves no trace.
				dec.Truncate(1, 20)
				logits, err := dec.Feed([]int{1}, [][]int32{ids[1][20:25]})
				if err != nil {
					t.Fatal(err)
				}
				near(t, "truncated", logits, full[1][24*s.Vocab:25*s.Vocab])
				if _, err := dec.Feed([]int{0}, [][]int32{{1}}); err == nil || !strings.Contains(err.Error(), "there is room for 290") {
					t.Errorf("a full decoder: %v", err)
				}
			})
		}
	}
}

// Generating a batch gives what its prompts give alone, greedy or sampled.
func TestGenerateBatch(t *testing.T) {
	m := build(t, forms[0], kernel.Available()[0], 2)
	r := rand.New(rand.NewPCG(8, 8))
	prompts := [][]int32{tokens(r, 3, 50), tokens(r, 17, 50), tokens(r, 1, 50)}
	generate := func(prompts [][]int32, s model.Sampling) [][]int32 {
		dec, err := m.NewDecoder(len(prompts), 17+40-1) // the last token takes no room
		if err != nil {
			t.Fatal(err)
		}
		defer dec.Close()
		out := make([][]int32, len(prompts))
		if err := dec.Generate(prompts, 40, -1, s, func(i int, id int32) bool {
			out[i] = append(out[i], id)
			return true
		}); err != nil {
			t.Fatal(err)
		}
		return out
	}
	all := generate(prompts, model.Sampling{})
	for i := range prompts {
		if one := generate(prompts[i:i+1], model.Sampling{})[0]; !slices.Equal(one, all[i]) || len(one) != 40 {
			t.Errorf("prompt %d alone gives %v, in a batch %v", i, one, all[i])
		}
	}
	s := model.Sampling{Temperature: 1, TopK: 20, TopP: 0.9, Seed: 4}
	a := generate(prompts, s)
	if !slices.EqualFunc(a, generate(prompts, s), slices.Equal) {
		t.Error("the same seed gives two texts")
	}
	if one := generate(prompts[:1], s)[0]; !slices.Equal(one, a[0]) {
		t.Error("sampling depends on the rest of the batch")
	}
	s.Seed = 5
	if slices.EqualFunc(a, generate(prompts, s), slices.Equal) {
		t.Error("two seeds give the same text")
	}
	if slices.EqualFunc(a, all, slices.Equal) {
		t.Error("sampling is greedy")
	}
	if top1 := generate(prompts, model.Sampling{Temperature: 2, TopK: 1}); !slices.EqualFunc(top1, all, slices.Equal) {
		t.Error("top-k 1 is not greedy")
	}
	if tiny := generate(prompts, model.Sampling{Temperature: 2, TopP: 1e-9}); !slices.EqualFunc(tiny, all, slices.Equal) {
		t.Error("a vanishing top-p is not greedy")
	}
}

// A copy of a sequence goes on as the sequence itself would, and apart from it.
func TestFork(t *testing.T) {
	for _, s := range forms {
		m := build(t, s, "", 2)
		r := rand.New(rand.NewPCG(8, 8))
		const n = 270 // more than one block of keys
		ids := tokens(r, n+20, s.Vocab)
		dec, err := m.NewDecoder(3, n+20)
		if err != nil {
			t.Fatal(err)
		}
		defer dec.Close()
		feed := func(seqs []int, ids ...[]int32) []float32 {
			logits, err := dec.Feed(seqs, ids)
			if err != nil {
				t.Fatal(err)
			}
			return slices.Clone(logits)
		}
		for _, held := range []int{n, 40, 1, 0} {
			for i := range 3 {
				dec.Truncate(i, 0)
			}
			feed([]int{1}, tokens(r, held+11, s.Vocab)) // what the copy replaces
			if held > 0 {
				feed([]int{2}, ids[:held])
			}
			if err := dec.Fork(1, 2); err != nil || dec.Len(1) != held {
				t.Fatalf("the copy holds %d tokens, want %d; %v", dec.Len(1), held, err)
			}
			both := feed([]int{1, 2}, ids[held:held+5], ids[held:held+5])
			if !slices.Equal(both[:s.Vocab], both[s.Vocab:]) {
				t.Errorf("%s, %d tokens: the copy goes on otherwise", s.Name, held)
			}
			feed([]int{1}, tokens(r, 5, s.Vocab)) // changes nothing of the other
			after := feed([]int{2}, ids[held+5:held+10])
			feed([]int{0}, ids[:held+5])
			near(t, s.Name+": the origin of a copy that went on", after, feed([]int{0}, ids[held+5:held+10]))
		}
		// Into a sequence that never held anything.
		fresh, err := m.NewDecoder(2, n)
		if err != nil {
			t.Fatal(err)
		}
		defer fresh.Close()
		if _, err := fresh.Feed([]int{0}, [][]int32{ids[:40]}); err != nil {
			t.Fatal(err)
		}
		if err := fresh.Fork(1, 0); err != nil {
			t.Fatal(err)
		}
		both, err := fresh.Feed([]int{0, 1}, [][]int32{ids[40:45], ids[40:45]})
		if err != nil || !slices.Equal(both[:s.Vocab], both[s.Vocab:]) {
			t.Errorf("%s: a fresh sequence goes on otherwise than what it is a copy of: %v", s.Name, err)
		}
		if _, err := fresh.Feed([]int{0, 1}, [][]int32{{1}}); err == nil {
			t.Error("tokens of one sequence are taken for two")
		}
		if err := dec.Fork(0, 3); err == nil || !strings.Contains(err.Error(), "sequence 3 of a batch of 3") {
			t.Errorf("a sequence that is not there: %v", err)
		}
	}
}

// Decoding allocates nothing for a token, and generating no more for a long
// text than for a short one.
func TestDecodingAllocatesNothing(t *testing.T) {
	for _, s := range forms {
		for _, threads := range []int{1, 2} {
			m := build(t, s, "", threads)
			const batch, room = 3, 280
			dec, err := m.NewDecoder(batch, room)
			if err != nil {
				t.Fatal(err)
			}
			defer dec.Close()
			seqs, one := []int{2, 0, 1}, [][]int32{{1}, {2}, {3}}
			feed := func() {
				if _, err := dec.Feed(seqs, one); err != nil {
					t.Fatal(err)
				}
			}
			feed()
			if n := testing.AllocsPerRun(room-10, feed); n != 0 {
				t.Errorf("%s, %d threads: a token makes %v allocations", s.Name, threads, n)
			}
			for _, how := range []model.Sampling{{}, {Temperature: 1}, {Temperature: 1, TopK: 7}, {Temperature: 1, TopP: 0.9}} {
				allocs := func(n int) float64 {
					return testing.AllocsPerRun(3, func() {
						for i := range batch {
							dec.Truncate(i, 0)
						}
						if err := dec.Generate(one, n, -1, how, func(int, int32) bool { return true }); err != nil {
							t.Fatal(err)
						}
					})
				}
				if short, long := allocs(10), allocs(250); long != short {
					t.Errorf("%s, %d threads, %+v: a text of 250 tokens makes %v allocations, one of 10 %v", s.Name, threads, how, long, short)
				}
			}
		}
	}
}

// Losses and gradients have the same bits for any number of threads, and
// micro-batches that accumulate give the gradient of the whole batch.
func TestThreadsAndAccumulation(t *testing.T) {
	for _, s := range forms {
		var first []float32
		r := rand.New(rand.NewPCG(6, 6))
		const batch, seq = 4, 70
		ids, targets := tokens(r, batch*seq, s.Vocab), tokens(r, batch*seq, s.Vocab)
		for _, threads := range []int{1, 2, 3, 16} {
			m := build(t, s, "", threads)
			tr := m.NewTrace(batch * seq)
			grads := model.NewParams(s)
			if _, err := tr.Backward(grads, ids, targets, batch, 1, false); err != nil {
				t.Fatal(err)
			}
			if first == nil {
				first = slices.Clone(grads.Data)
			}
			if !slices.Equal(first, grads.Data) {
				t.Errorf("%s: %d threads give other gradients than 1", s.Name, threads)
			}
			for i := range batch {
				at := i * seq
				if _, err := tr.Backward(grads, ids[at:at+seq], targets[at:at+seq], 1, 1.0/batch, i > 0); err != nil {
					t.Fatal(err)
				}
			}
			near(t, s.Name+": accumulated", grads.Data, first)
			tr.Close()
			grads.Close()
		}
	}
}

func TestBadInput(t *testing.T) {
	s := forms[0]
	m := build(t, s, "", 1)
	tr := m.NewTrace(20)
	defer tr.Close()
	good := make([]int32, 20)
	for what, f := range map[string]func() error{
		"want 0 to 49":             func() error { _, err := tr.Loss([]int32{50}, []int32{0}, 1); return err },
		"target 0 is -2":           func() error { _, err := tr.Loss([]int32{0}, []int32{-2}, 1); return err },
		"room for 20":              func() error { _, err := tr.Loss(make([]int32, 21), make([]int32, 21), 1); return err },
		"no batch of 3":            func() error { _, err := tr.Loss(good, good, 3); return err },
		"no targets for 20 tokens": func() error { _, err := tr.Loss(good, nil, 1); return err },
		"19 targets for 20":        func() error { _, err := tr.Loss(good, good[:19], 1); return err },
		"a batch of 0 sequences":   func() error { _, err := m.NewDecoder(0, 10); return err },
		"the model takes 1 to 300": func() error { _, err := m.NewDecoder(1, 301); return err },
	} {
		if err := f(); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("got %v, want it to contain %q", err, what)
		}
	}
	for _, bad := range []model.Sampling{{Temperature: -1}, {Temperature: math.NaN()}, {TopK: -1}, {TopP: 1.5}} {
		if bad.Validate() == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}

// Computing activations again gives the same bits, guides and micro-batches
// that accumulate included.
func TestRecompute(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 6))
	for seed := range 24 {
		s := rapid.Custom(drawSpec).Example(seed)
		s.Guided = s.Kind != spec.Dense && seed%2 == 0
		if err := s.Validate(); err != nil {
			t.Fatal(err)
		}
		m := build(t, s, "", 2)
		guides := make([]rt.Guide, len(s.Guides()))
		for i := range guides {
			guides[i] = rt.Guide{On: i%3 != 2, Ratio: 0.3}
		}
		m.SetGuides(guides)
		const batch, seq = 3, 23
		ids, targets := tokens(r, 2*batch*seq, s.Vocab), tokens(r, 2*batch*seq, s.Vocab)
		run := func(tr *model.Trace) (losses [2]float64, grads []float32) {
			defer tr.Close()
			g := model.NewParams(s)
			defer g.Close()
			for i := range losses {
				at, end := i*batch*seq, (i+1)*batch*seq
				var err error
				if losses[i], err = tr.Backward(g, ids[at:end], targets[at:end], batch, 0.5, i > 0); err != nil {
					t.Fatal(err)
				}
			}
			return losses, slices.Clone(g.Data)
		}
		losses, grads := run(m.NewTrace(batch * seq))
		again, gradsAgain := run(m.NewRecomputingTrace(batch * seq))
		if losses != again || !slices.Equal(grads, gradsAgain) {
			t.Errorf("%d: %+v: losses %v and, recomputed, %v; equal gradients: %v", seed, s, losses, again, slices.Equal(grads, gradsAgain))
		}
	}
}

// The prediction counts every buffer that training maps; computing activations
// again takes far fewer.
func TestMemory(t *testing.T) {
	all, fewer := trainingMemory(t, false), trainingMemory(t, true)
	if fewer > 0.65*all {
		t.Errorf("%.0f bytes of activations, %.0f with recomputation", all, fewer)
	}
}

// trainingMemory checks the prediction and returns the activations' share.
func trainingMemory(t *testing.T, recompute bool) float64 {
	s := forms[0]
	s.Vocab, s.Hidden, s.FFN, s.AttnDim, s.QHeads, s.KVHeads, s.Layers = 1000, 256, 1024, 256, 4, 4, 4
	const rows = 1024
	before := memory.Held()
	pool := rt.NewPool(2)
	defer pool.Close()
	p := model.NewParams(s)
	defer p.Close()
	m, err := model.New(s, p, rt.Options{Pool: pool, Train: true})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	grads := model.NewParams(s)
	defer grads.Close()
	newTrace := m.NewTrace
	if recompute {
		newTrace = m.NewRecomputingTrace
	}
	without := memory.Held()
	tr := newTrace(rows)
	defer tr.Close()
	ids := make([]int32, rows)
	if _, err := tr.Backward(grads, ids, ids, rows/256, 1, false); err != nil {
		t.Fatal(err)
	}
	want := model.PredictMemory(s, true, recompute, 2)
	want.Moments = 0 // the optimizer is not here
	got := memory.Held() - before
	if ratio := float64(got) / float64(want.Total(rows)); ratio < 0.7 || ratio > 1.2 {
		t.Errorf("training takes %d bytes, predicted %d", got, want.Total(rows))
	}
	return float64(memory.Held() - without)
}
