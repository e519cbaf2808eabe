package gpucheck

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/gen/specfile"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/gpu"
	"github.com/structuredffn/sffn/model/initial"
	"github.com/structuredffn/sffn/model/train"
	rt "github.com/structuredffn/sffn/runtime"
)

// Steps that are compared with the CPU's have few tokens: it is slow.
const (
	trainBatch = 2
	trainSeq   = 32
	trainLR    = 2e-3
)

// How far losses may be from the CPU's, relative: each, which bf16 moves at random,
// and on average, where that cancels.
const (
	lossEach = 0.03
	lossMean = 0.01
)

// tokens is text that can be learnt: each token follows from the one before it,
// but for one in ten.
func tokens(n, vocab int, seed uint64) []int32 {
	r := rand.New(rand.NewPCG(seed, 1))
	v := make([]int32, n)
	for i := range v {
		if i == 0 || r.IntN(10) == 0 {
			v[i] = int32(r.IntN(vocab))
			continue
		}
		v[i] = (v[i-1]*5 + 3) % int32(vocab)
	}
	return v
}

// params draws a model's parameters, so that every part of it matters.
func params(m spec.Model, pool *rt.Pool) *model.Params {
	p := model.NewParams(m)
	initial.Model(p, m, 1, initial.Merged, pool)
	r := rand.New(rand.NewPCG(3, 4))
	for _, q := range p.List() {
		if strings.HasSuffix(q.Name, ".bias") || strings.Contains(q.Name, ".ln") {
			for i, v := range p.Get(q.Name) {
				p.Get(q.Name)[i] = v + 0.1*float32(r.NormFloat64())
			}
		}
	}
	return p
}

// state is what a training run goes on from.
type state struct{ p, m, v *model.Params }

func newState(p *model.Params) state {
	s := state{model.NewParams(p.Spec()), model.NewParams(p.Spec()), model.NewParams(p.Spec())}
	copy(s.p.Data, p.Data)
	return s
}

func (s state) close() { s.p.Close(); s.m.Close(); s.v.Close() }

// train takes steps on the device and on the CPU, and on the device once more in
// two parts, which must end with the same bits.
func (c *check) train() error {
	for _, cfg := range c.Trained {
		if err := c.trainModel(cfg); err != nil {
			return fmt.Errorf("%s: %w", cfg.Model.Name, err)
		}
	}
	return nil
}

func (c *check) trainModel(cfg *specfile.Config) error {
	m, seq := cfg.Model, min(trainSeq, cfg.Model.MaxPositions)
	pool := rt.NewPool(0)
	defer pool.Close()
	start := params(m, pool)
	defer start.Close()
	batch := func(step int) (x, y []int32) {
		for i := range trainBatch {
			t := tokens(seq+1, m.Vocab, uint64(step*trainBatch+i))
			x, y = append(x, t[:seq]...), append(y, t[1:]...)
		}
		return x, y
	}

	want, err := c.trainCPU(cfg, start, pool, batch)
	if err != nil {
		return err
	}
	run := func(s state, from, to int) (losses []float64, err error) {
		e, err := c.engineOf(cfg, train.Start{Spec: m, Params: s.p, M: s.m, V: s.v, Steps: from, Train: cfg.Train}, trainBatch, seq)
		if err != nil {
			return nil, err
		}
		defer e.Close()
		for step := from; step < to; step++ {
			if err := c.at("%s, step %d", m.Name, step); err != nil {
				return nil, err
			}
			x, y := batch(step)
			loss, err := e.Backward(x, y, trainBatch, 1, false)
			if err != nil {
				return nil, err
			}
			if _, err := e.Step(trainLR); err != nil {
				return nil, err
			}
			losses = append(losses, loss)
		}
		return losses, e.Fetch()
	}
	whole, parts := newState(start), newState(start)
	defer whole.close()
	defer parts.close()
	got, err := run(whole, 0, c.Steps)
	if err != nil {
		return err
	}
	sum := 0.0
	for step, loss := range got {
		d := (loss - want[step]) / want[step]
		sum += d / float64(len(got))
		if !(math.Abs(d) <= lossEach) {
			c.check(m.Name, fmt.Errorf("loss of step %d is %.4f, the CPU's %.4f: more than %g off", step, loss, want[step], lossEach))
		}
	}
	c.part.Checks += len(got)
	if !(math.Abs(sum) <= lossMean) {
		c.problem("%s: losses are %.2g of the CPU's off on average, want at most %g", m.Name, sum, lossMean)
	}
	c.note("%s: %d steps, loss %.4f to %.4f; the CPU's %.4f to %.4f", m.Name, len(got), got[0], got[len(got)-1], want[0], want[len(want)-1])
	half := c.Steps / 2
	for _, r := range [][2]int{{0, half}, {half, c.Steps}} {
		if _, err := run(parts, r[0], r[1]); err != nil {
			return err
		}
	}
	for what, s := range map[string][2]*model.Params{"parameters": {whole.p, parts.p}, "first moments": {whole.m, parts.m}, "second moments": {whole.v, parts.v}} {
		err := error(nil)
		if !slices.Equal(s[0].Data, s[1].Data) {
			err = fmt.Errorf("a run that goes on at step %d ends with other %s", half, what)
		}
		c.check(m.Name, err)
	}
	return nil
}

// trainCPU takes the same steps on the CPU.
func (c *check) trainCPU(cfg *specfile.Config, start *model.Params, pool *rt.Pool, batch func(step int) (x, y []int32)) ([]float64, error) {
	s := newState(start)
	defer s.close()
	cpu, err := model.New(cfg.Model, s.p, rt.Options{Pool: pool, Train: true})
	if err != nil {
		return nil, err
	}
	defer cpu.Close()
	x, _ := batch(0)
	tr, grads := cpu.NewTrace(len(x)), model.NewParams(cfg.Model)
	defer tr.Close()
	defer grads.Close()
	t := cfg.Train
	adam := train.NewAdamW(cpu, t.Beta1, t.Beta2, t.Eps, t.WeightDecay, t.Clip)
	defer adam.Close()
	var losses []float64
	for step := range c.Steps {
		if err := c.at("%s, step %d on the CPU", cfg.Model.Name, step); err != nil {
			return nil, err
		}
		x, y := batch(step)
		loss, err := tr.Backward(grads, x, y, trainBatch, 1, false)
		if err != nil {
			return nil, err
		}
		losses = append(losses, loss)
		adam.Step(grads, trainLR)
		cpu.Repack()
	}
	return losses, nil
}

// decodeTokens are chosen after prompts of at most decodePrompt tokens.
const (
	decodeTokens = 20
	decodePrompt = 100
)

// decode continues prompts of several lengths greedily, with graphs and without:
// the same bits, and the logits of the CPU's decoder within bf16.
func (c *check) decode() error {
	for _, cfg := range c.Trained {
		if err := c.decodeModel(cfg); err != nil {
			return fmt.Errorf("%s: %w", cfg.Model.Name, err)
		}
	}
	return nil
}

func (c *check) decodeModel(cfg *specfile.Config) error {
	m := cfg.Model
	pool := rt.NewPool(0)
	defer pool.Close()
	p := params(m, pool)
	defer p.Close()
	ks, err := gpu.Kernels(m)
	if err != nil {
		return err
	}
	if err := c.d.Load(ks); err != nil {
		return err
	}
	n := min(c.Steps, decodeTokens)
	longest := min(decodePrompt, m.MaxPositions-n)
	prompts := [][]int32{tokens(longest, m.Vocab, 1), tokens(3, m.Vocab, 2), tokens(1, m.Vocab, 3)}
	seqs := []int{0, 1, 2}
	// run feeds prompts and then the tokens that follow, or the best ones.
	run := func(d model.Feeder, given [][]int32) (logits []float32, chosen [][]int32, err error) {
		next := prompts
		for step := range n + 1 {
			if err := c.at("%s, token %d", m.Name, step); err != nil {
				return nil, nil, err
			}
			l, err := d.Feed(seqs, next)
			if err != nil {
				return nil, nil, err
			}
			logits = append(logits, l...)
			row := make([]int32, len(seqs))
			next = nil
			for i := range seqs {
				row[i] = best(l[i*m.Vocab : (i+1)*m.Vocab])
				if given != nil {
					row[i] = given[step][i]
				}
				next = append(next, row[i:i+1])
			}
			chosen = append(chosen, row)
		}
		return logits, chosen, nil
	}
	var first []float32
	var chosen [][]int32
	for _, graphs := range []bool{true, false} {
		dec, err := gpu.NewDecoder(c.d, p, len(seqs), longest+n)
		if err != nil {
			return err
		}
		dec.NoGraphs = !graphs
		logits, ids, err := run(dec, nil)
		dec.Close()
		if err != nil {
			return fmt.Errorf("graphs: %v: %w", graphs, err)
		}
		if graphs {
			first, chosen = logits, ids
			continue
		}
		err = nil
		if !slices.Equal(first, logits) {
			err = fmt.Errorf("logits without graphs are not those with them")
		}
		c.check(m.Name, err)
	}
	cpu, err := model.New(m, p, rt.Options{Pool: pool})
	if err != nil {
		return err
	}
	defer cpu.Close()
	dec, err := cpu.NewDecoder(len(seqs), longest+n)
	if err != nil {
		return err
	}
	defer dec.Close()
	want, _, err := run(dec, chosen)
	if err != nil {
		return err
	}
	tol := rounding(roundings(m) / 2)
	// A token is the CPU's where that is ahead by more than both may be off.
	differ := 0
	for row := range len(want) / m.Vocab {
		g, w := first[row*m.Vocab:(row+1)*m.Vocab], want[row*m.Vocab:(row+1)*m.Vocab]
		if !c.check(fmt.Sprintf("%s, step %d", m.Name, row/len(seqs)), within("logits", g, w, tol)) {
			break
		}
		if best(g) != best(w) {
			differ++
		}
	}
	c.note("%s: %d greedy tokens, %d of them not the CPU's, whose logits are within %.2g", m.Name, len(want)/m.Vocab, differ, tol)
	return nil
}

// best is the first of the largest logits.
func best(l []float32) int32 {
	b := 0
	for i, v := range l {
		if v > l[b] {
			b = i
		}
	}
	return int32(b)
}
