package cuda

import (
	"math"
	"slices"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/runtime/vec"
)

// The numbers of a trial beside its tokens: sequences of testPositions rows.
const (
	testPositions = 9
	testSequences = 2
	testTableRows = 5
	testEntries   = 2*plan.SquaresEach + 800
)

// ints fills an array with whole numbers.
func (t *trial) ints(name string, f func(i int) int) {
	v := make([]float32, t.param(name).Len.In(t.counts))
	for i := range v {
		v[i] = float32(f(i))
	}
	t.arrays[name] = v
}

func (t *trial) floats(numbers map[string]float64) {
	for name, v := range numbers {
		t.numbers[name] = Float32(v)
	}
}

// prepareNorm gives the backward pass the statistics of its rows.
func prepareNorm(t *trial) {
	n := t.Plan.(plan.GPUNorm)
	if !n.Backward {
		return
	}
	h := n.Hidden
	mean, rstd := make([]float32, testTokens), make([]float32, testTokens)
	t.norm(n, make([]float32, testTokens*h), mean, rstd, t.arrays["s"], make([]float32, h))
	t.arrays["stats"] = stats(n, mean, rstd)
}

// norm is the CPU's, with weight 1 where the trial has none.
func (t *trial) norm(n plan.GPUNorm, y, mean, rstd, x, b []float32) {
	if n.RMS {
		t.vec.RMSNorm(y, rstd, x, t.arrays["w"], make([]float32, n.Hidden), testTokens, n.Hidden)
		return
	}
	t.vec.LayerNorm(y, mean, rstd, x, t.arrays["w"], b, testTokens, n.Hidden)
}

// stats are the numbers that rows leave.
func stats(n plan.GPUNorm, mean, rstd []float32) []float32 {
	if n.RMS {
		return rstd
	}
	var s []float32
	for i := range mean {
		s = append(s, mean[i], rstd[i])
	}
	return s
}

// dealt is where entry j of a row lies that blocks share in turn.
func dealt(n plan.GPUNorm, j int) int { return j%n.Blocks*(n.Hidden/n.Blocks) + j/n.Blocks }

func wantNorm(t *trial) (map[string][]float32, error) {
	n := t.Plan.(plan.GPUNorm)
	h := n.Hidden
	if n.Backward {
		return t.wantNormBackward(n), nil
	}
	s := slices.Clone(t.arrays["x"])
	if n.Add {
		for r := range testTokens {
			for j := range h {
				s[r*h+j] += t.arrays["y"][r*h+dealt(n, j)]
			}
		}
	}
	out, mean, rstd := make([]float32, testTokens*h), make([]float32, testTokens), make([]float32, testTokens)
	t.norm(n, out, mean, rstd, s, t.arrays["b"])
	return map[string][]float32{"s": s, "out": out, "stats": stats(n, mean, rstd)}, nil
}

func (t *trial) wantNormBackward(n plan.GPUNorm) map[string][]float32 {
	h, width := n.Hidden, n.Width()
	ds := slices.Clone(t.arrays["dx"])
	var mean, rstd []float32
	for i, v := range t.arrays["stats"] {
		if n.RMS || i%2 == 1 {
			rstd = append(rstd, v)
		} else {
			mean = append(mean, v)
		}
	}
	var sums []float32
	for lo := 0; lo < testTokens; lo += plan.NormRows {
		hi := min(testTokens, lo+plan.NormRows)
		dw, db := make([]float32, h), make([]float32, h)
		d, dout, s := ds[lo*h:hi*h], t.arrays["dout"][lo*h:hi*h], t.arrays["s"][lo*h:hi*h]
		if n.RMS {
			t.vec.RMSNormBackward(d, dw, db, dout, s, t.arrays["w"], rstd[lo:hi], hi-lo, h)
		} else {
			t.vec.LayerNormBackward(d, dw, db, dout, s, t.arrays["w"], mean[lo:hi], rstd[lo:hi], hi-lo, h)
		}
		sums = append(sums, slices.Concat(dw, db)[:width]...)
	}
	dy := make([]float32, len(ds))
	for r := range testTokens {
		for j := range h {
			dy[r*h+dealt(n, j)] = ds[r*h+j]
		}
	}
	return map[string][]float32{"ds": ds, "dy": dy, "sums": sums}
}

func prepareEmbed(t *trial) {
	e := t.Plan.(plan.GPUEmbed)
	if !e.Backward {
		t.ints("ids", func(i int) int { return t.rng.IntN(e.Vocab) })
		if e.Positions > 0 {
			t.ints("positions", func(i int) int { return t.rng.IntN(e.Positions) })
		}
		return
	}
	t.counts[plan.TableRows] = testTableRows
	t.redraw()
	t.ints("order", func(i int) int { return (7 * i) % testTokens })
	t.ints("starts", func(row int) int { return []int{0, 1, 1, 9, 16, testTokens}[row] }) // one row has none
	t.numbers["accumulate"] = Uint32(1)
}

func wantEmbed(t *trial) (map[string][]float32, error) {
	e := t.Plan.(plan.GPUEmbed)
	h := e.Hidden
	row := func(name string, i int) []float32 { return t.arrays[name][i*h : (i+1)*h] }
	if e.Backward {
		grad := slices.Clone(t.arrays["grad"])
		for r := range testTableRows {
			for i := int(t.arrays["starts"][r]); i < int(t.arrays["starts"][r+1]); i++ {
				t.vec.Add(grad[r*h:(r+1)*h], row("dx", int(t.arrays["order"][i])))
			}
		}
		return map[string][]float32{"grad": grad}, nil
	}
	var x []float32
	for i, id := range t.arrays["ids"] {
		v := slices.Clone(row("table", int(id)))
		if e.Positions > 0 {
			t.vec.Add(v, row("places", int(t.arrays["positions"][i])))
		}
		x = append(x, v...)
	}
	return map[string][]float32{"x": x}, nil
}

func prepareRotate(t *trial) {
	t.counts[plan.Positions], t.counts[plan.Slots] = testPositions, testSequences*testPositions
	t.redraw()
	t.ints("positions", func(i int) int { return i % testPositions })
	r := t.Plan.(plan.GPURotate)
	if r.Rotate {
		t.numbers["sign"] = Float32(1)
		if !r.Cache {
			t.numbers["sign"] = Float32(-1)
		}
	}
	if r.Cache {
		t.ints("seqs", func(i int) int { return i / testPositions })
		t.numbers["capacity"] = Uint32(testPositions)
	}
}

func wantRotate(t *trial) (map[string][]float32, error) {
	r := t.Plan.(plan.GPURotate)
	hd, half := r.HeadDim, r.HeadDim/2
	want := map[string][]float32{"qkv": slices.Clone(t.arrays["qkv"]), "keys": slices.Clone(t.arrays["keys"]), "values": slices.Clone(t.arrays["values"])}
	for i := range testTokens {
		pos := int(t.arrays["positions"][i])
		row := slices.Clone(t.arrays["qkv"][i*r.Width() : (i+1)*r.Width()])
		if r.Rotate {
			turn := t.vec.RoPE
			if !r.Cache {
				turn = t.vec.RoPEBackward
			}
			turn(row, t.arrays["cos"][pos*half:(pos+1)*half], t.arrays["sin"][pos*half:(pos+1)*half], r.Heads+r.KVHeads, hd, half)
		}
		turned := (r.Heads + r.KVHeads) * hd
		if r.Cache {
			turned = r.Heads * hd
			for h := range r.KVHeads {
				slot := ((int(t.arrays["seqs"][i])*r.KVHeads+h)*testPositions + pos) * hd
				copy(want["keys"][slot:slot+hd], row[(r.Heads+h)*hd:])
				copy(want["values"][slot:slot+hd], row[(r.Heads+r.KVHeads+h)*hd:])
			}
		}
		copy(want["qkv"][i*r.Width():], row[:turned])
	}
	return want, nil
}

func prepareLoss(t *trial) {
	l := t.Plan.(plan.GPULoss)
	t.arrays["logits"] = t.draw(t.param("logits"), 3)
	t.ints("targets", func(i int) int { return (i*l.Vocab/testTokens+i)%l.Vocab - i%5/4*l.Vocab }) // every fifth counts for nothing
	t.numbers["scale"], t.numbers["gradient"] = Float32(0.5), Uint32(1)
}

func wantLoss(t *trial) (map[string][]float32, error) {
	l := t.Plan.(plan.GPULoss)
	d, losses := make([]float32, testTokens*l.Pitch), make([]float32, testTokens)
	for i := range testTokens {
		target := int(t.arrays["targets"][i])
		if target < 0 {
			continue
		}
		row, x := d[i*l.Pitch:][:l.Vocab], t.arrays["logits"][i*l.Pitch:][:l.Vocab]
		top := t.vec.Max(x)
		sum := t.vec.ExpSum(row, x, 1, top)
		losses[i] = float32(float64(top) + math.Log(float64(sum)) - float64(x[target]))
		t.vec.Scale(row, 0.5/sum)
		row[target] -= 0.5
	}
	return map[string][]float32{"logits": d, "losses": losses}, nil
}

// step is the update of a trial.
var step = vec.AdamWStep{LR: 0.01, Beta1: 0.9, Beta2: 0.95, Eps: 1e-2, Decay: 0.1, Bias1: 0.271, Bias2: 0.142625, GradScale: 0.5}

func prepareAdamW(t *trial) {
	for i, v := range t.arrays["v"] {
		t.arrays["v"][i] = v * v
	}
	t.arrays["norm"] = []float32{2, float32(step.GradScale)}
	t.floats(map[string]float64{"keep": 1 - step.LR*step.Decay, "beta1": step.Beta1, "rest1": 1 - step.Beta1, "beta2": step.Beta2, "rest2": 1 - step.Beta2,
		"rate": step.LR / step.Bias1, "scale2": 1 / step.Bias2, "eps": step.Eps})
}

func wantAdamW(t *trial) (map[string][]float32, error) {
	w, m, v := slices.Clone(t.arrays["w"]), slices.Clone(t.arrays["m"]), slices.Clone(t.arrays["v"])
	t.vec.AdamW(w, t.arrays["grad"], m, v, step)
	return map[string][]float32{"w": w, "m": m, "v": v, "pack": w}, nil
}

func wantPack(t *trial) (map[string][]float32, error) {
	return map[string][]float32{"pack": t.arrays["w"]}, nil
}

func wantSquares(t *trial) (map[string][]float32, error) {
	var sums []float32
	for g := range slices.Chunk(t.arrays["grad"], plan.SquaresEach) {
		sums = append(sums, float32(t.vec.SumSquares(g)))
	}
	return map[string][]float32{"sums": sums}, nil
}

// testLimit is the norm that gradients of a trial are clipped to.
const testLimit = 10

func prepareClip(t *trial) {
	for i, v := range t.arrays["sums"] {
		t.arrays["sums"][i] = v * v
	}
	t.floats(map[string]float64{"limit": testLimit})
}

func wantClip(t *trial) (map[string][]float32, error) {
	sum := 0.0
	for _, v := range t.arrays["sums"] {
		sum += float64(v)
	}
	norm := math.Sqrt(sum)
	return map[string][]float32{"norm": {float32(norm), float32(min(1, testLimit/(norm+1e-6)))}}, nil
}
