package cuda

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/ptx"
)

// passDir holds the kernels around the products of models that reach every
// variant of their templates.
var passDir = filepath.Join("testdata", "passes")

// passModels differ in what the passes depend on: norm, positions, heads, the
// order of the networks' outputs, rows that are no whole number of blocks' pieces.
var passModels = []spec.Model{
	{Hidden: 136, FFN: 64, Vocab: 101, QHeads: 4, KVHeads: 2, AttnDim: 64, Kind: spec.Dense, Norm: spec.LayerNorm, Position: spec.RoPE},
	{Hidden: 128, FFN: 256, Vocab: 257, QHeads: 4, KVHeads: 4, AttnDim: 32, Kind: spec.BlockShuffle, Blocks: 4, Norm: spec.RMSNorm, Position: spec.Absolute},
	{Hidden: 192, FFN: 384, Vocab: 2600, QHeads: 3, KVHeads: 1, AttnDim: 96, Kind: spec.BlockShuffle, Blocks: 2, Norm: spec.LayerNorm, Position: spec.RoPE},
	{Hidden: 24, FFN: 48, Vocab: 104, QHeads: 4, KVHeads: 4, AttnDim: 24, Kind: spec.Dense, Norm: spec.RMSNorm, Position: spec.RoPE},
	{Hidden: 48, FFN: 144, Vocab: 101, QHeads: 4, KVHeads: 1, AttnDim: 48, Kind: spec.BlockShuffle, Blocks: 3, Norm: spec.RMSNorm, Position: spec.RoPE},
	{Hidden: 2056, FFN: 64, Vocab: 101, QHeads: 2, KVHeads: 1, AttnDim: 128, Kind: spec.Dense, Norm: spec.LayerNorm, Position: spec.Absolute},
	{Hidden: 2080, FFN: 64, Vocab: 101, QHeads: 2, KVHeads: 2, AttnDim: 256, Kind: spec.Dense, Norm: spec.RMSNorm, Position: spec.RoPE},
}

func passTable(models []spec.Model) ([]plan.GPUKernel, error) {
	var ks []plan.GPUKernel
	for _, m := range models {
		if m.Layers == 0 {
			m.Layers, m.MaxPositions = 2, 40
		}
		p, err := plan.NewGPUPasses(m)
		if err != nil {
			return nil, err
		}
		ks = append(ks, p.Kernels()...)
	}
	return plan.GPUUnique(ks), nil
}

// provers run a kernel of their family on random operands of a size, which
// they take for the tokens or anything else that launches vary in, and compare
// all results with float64.
var provers = map[string]func(d *device, k plan.GPUKernel, n int) error{
	"attend":      proveAttention,
	"attend_rows": proveAttention,
	"delta":       proveAttention,
	"norm":        proveNorm,
	"embed":       proveEmbed,
	"rotate":      proveRotate,
	"loss":        proveLoss,
	"adamw":       proveAdamW,
	"pack_bf16":   provePack,
	"sum_squares": proveSquares,
	"clip_norm":   proveClip,
	"sum":         proveSum,
}

// ulp32 is half the distance of neighbouring float32, relative.
const ulp32 = 1.0 / (1 << 24)

// within compares a result with what is wanted; tol bounds what float32 may
// lose on the way, and bf16 results are rounded once more.
func within(what string, got, want, tol float64, bf16 bool) error {
	if bf16 {
		tol += (math.Abs(want) + tol) * roundoff
	}
	if !(math.Abs(got-want) <= tol) {
		return fmt.Errorf("%s: %v, want %v within %.2g", what, got, want, tol)
	}
	return nil
}

func (d *device) int32(v []int) *ptx.Buffer { return d.mem.Input(int32s(v)) }

func int32s(v []int) []byte {
	b := make([]byte, 4*len(v))
	for i, x := range v {
		binary.LittleEndian.PutUint32(b[4*i:], uint32(int32(x)))
	}
	return b
}

// updated makes a buffer that was made as an input one that kernels may change.
func (d *device) updated(b *ptx.Buffer) *ptx.Buffer { return d.mem.Update(b.Bytes()) }

// draw32 makes n float32 of a normal distribution.
func (d *device) draw32(n int, scale float64) []float64 {
	v := make([]float64, n)
	for i := range v {
		v[i] = float64(float32(scale * d.rng.NormFloat64()))
	}
	return v
}

func (d *device) ints(n, limit int) []int {
	v := make([]int, n)
	for i := range v {
		v[i] = d.rng.IntN(limit)
	}
	return v
}

func flag32(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}

func proveNorm(d *device, k plan.GPUKernel, tokens int) error {
	p := k.Plan.(plan.GPUNorm)
	h, c := p.Hidden, plan.GPUCountsOf{plan.Tokens: tokens}
	w, b := d.draw32(h, 1), d.draw32(h, 1)
	// stored is the place of entry i of a row of y.
	stored := func(i int) int { return i%p.Blocks*(h/p.Blocks) + i/p.Blocks }
	x, y := d.draw32(tokens*h, 2), d.draw(tokens*h, 1)
	a := arrays{"w": d.float32(w)}
	if !p.RMS {
		a["b"] = d.float32(b)
	} else {
		b = make([]float64, h)
	}
	s := make([]float64, len(x))
	for i := range s {
		x[i] = float64(float32(x[i] + 0.5)) // a mean that is not 0
		s[i] = x[i]
		if p.Add {
			s[i] += y[i/h*h+stored(i%h)]
		}
		s[i] = float64(float32(s[i]))
	}
	stats := func(row []float64) (mean, rstd float64) {
		for _, v := range row {
			mean += v / float64(h)
		}
		if p.RMS {
			mean = 0
		}
		dev := 0.0
		for _, v := range row {
			dev += (v - mean) * (v - mean) / float64(h)
		}
		return mean, 1 / math.Sqrt(dev+1e-5)
	}
	e := float64(h+16) * ulp32 // of sums over a row
	if !p.Backward {
		a["x"], a["out"] = d.float32(x), d.output(k, "out", c)
		if p.Add {
			a["y"], a["s"] = d.bf16(y), d.output(k, "s", c)
		}
		if tokens != 17 {
			a["stats"] = d.output(k, "stats", c)
		}
		if err := d.run(k, a, nil, c); err != nil {
			return err
		}
		out := values(a["out"], false)
		var sums, gotStats []float64
		if p.Add {
			sums = values(a["s"], true)
		}
		if a["stats"] != nil {
			gotStats = values(a["stats"], true)
		}
		for r := range tokens {
			row := s[r*h:][:h]
			mean, rstd := stats(row)
			if gotStats != nil {
				got := gotStats[r*p.Stats():][:p.Stats()]
				if err := within("rstd", got[len(got)-1], rstd, 2*e*rstd, false); err != nil {
					return err
				}
				if !p.RMS {
					if err := within("mean", got[0], mean, 2*e, false); err != nil {
						return err
					}
				}
			}
			for i, v := range row {
				if p.Add {
					if err := within("s", sums[r*h+i], v, 0, false); err != nil {
						return err
					}
				}
				n := (v - mean) * rstd
				if err := within("out", out[r*h+i], n*w[i]+b[i], 2*e*((1+math.Abs(n))*math.Abs(w[i])+math.Abs(b[i])), true); err != nil {
					return err
				}
			}
		}
		return nil
	}
	dout, dx := d.draw(tokens*h, 1), d.draw32(tokens*h, 1)
	delete(a, "b")
	a["dout"], a["s"], a["ds"], a["sums"] = d.bf16(dout), d.float32(s), d.output(k, "ds", c), d.output(k, "sums", c)
	if tokens != 17 {
		a["dx"] = d.float32(dx)
	} else {
		clear(dx)
	}
	if p.Add {
		a["dy"] = d.output(k, "dy", c)
	}
	var st []float64
	for r := range tokens {
		mean, rstd := stats(s[r*h:][:h])
		if !p.RMS {
			st = append(st, mean)
		}
		st = append(st, rstd)
	}
	a["stats"] = d.float32(st)
	if err := d.run(k, a, nil, c); err != nil {
		return err
	}
	ds, sums := values(a["ds"], true), values(a["sums"], true)
	var dy []float64
	if p.Add {
		dy = values(a["dy"], false)
	}
	wantSums, absSums := make([]float64, len(sums)), make([]float64, len(sums))
	for r := range tokens {
		mean, rstd := stats(s[r*h:][:h])
		var mg, mgn, absG, absGN float64
		n, size := make([]float64, h), make([]float64, h) // size bounds what n may be off by, in units of float32's rounding
		for i := range n {
			n[i] = (s[r*h+i] - mean) * rstd
			size[i] = (math.Abs(s[r*h+i]) + math.Abs(mean)) * rstd
			g := dout[r*h+i] * w[i]
			mg += g / float64(h)
			mgn += g * n[i] / float64(h)
			absG += math.Abs(g) / float64(h)
			absGN += math.Abs(g) * size[i] / float64(h)
			at := r/plan.NormRows*p.Width() + i
			wantSums[at] += dout[r*h+i] * n[i]
			absSums[at] += math.Abs(dout[r*h+i]) * size[i]
			if !p.RMS {
				wantSums[at+h] += dout[r*h+i]
				absSums[at+h] += math.Abs(dout[r*h+i])
			}
		}
		if p.RMS {
			mg, absG = 0, 0
		}
		for i := range n {
			g := dout[r*h+i] * w[i]
			want := dx[r*h+i] + rstd*(g-mg-n[i]*mgn)
			tol := e * (math.Abs(dx[r*h+i]) + rstd*(math.Abs(g)+absG+size[i]*absGN))
			if err := within("ds", ds[r*h+i], want, tol, false); err != nil {
				return err
			}
			if p.Add {
				if err := within("dy", dy[r*h+stored(i)], want, tol, true); err != nil {
					return err
				}
			}
		}
	}
	for i, want := range wantSums {
		if err := within("sum", sums[i], want, (plan.NormRows+4)*ulp32*absSums[i], false); err != nil {
			return err
		}
	}
	return nil
}

// Embeddings and their gradients are sums in a fixed order: the same float32.
func proveEmbed(d *device, k plan.GPUKernel, tokens int) error {
	p := k.Plan.(plan.GPUEmbed)
	h, c := p.Hidden, plan.GPUCountsOf{plan.Tokens: tokens}
	if !p.Backward {
		ids, positions := d.ints(tokens, p.Vocab), d.ints(tokens, max(1, p.Positions))
		table, places := d.draw32(p.Vocab*h, 1), d.draw32(p.Positions*h, 1)
		a := arrays{"ids": d.int32(ids), "table": d.float32(table), "x": d.output(k, "x", c)}
		if p.Positions > 0 {
			a["positions"], a["places"] = d.int32(positions), d.float32(places)
		}
		if err := d.run(k, a, nil, c); err != nil {
			return err
		}
		for i, got := range values(a["x"], true) {
			want := float32(table[ids[i/h]*h+i%h])
			if p.Positions > 0 {
				want += float32(places[positions[i/h]*h+i%h])
			}
			if err := within("entry", got, float64(want), 0, false); err != nil {
				return err
			}
		}
		return nil
	}
	rows := 1 + tokens/2 // some tokens come more than once, and some rows have none
	c[plan.TableRows] = rows
	dx, grad, ids := d.draw32(tokens*h, 1), d.draw32(rows*h, 1), d.ints(tokens, rows)
	accumulate := tokens%2 == 0
	want := make([]float32, len(grad))
	if accumulate {
		for i, g := range grad {
			want[i] = float32(g)
		}
	}
	var order []int
	starts := []int{0}
	for row := range rows {
		for t, id := range ids {
			if id != row {
				continue
			}
			order = append(order, t)
			for i := range h {
				want[row*h+i] += float32(dx[t*h+i])
			}
		}
		starts = append(starts, len(order))
	}
	a := arrays{"dx": d.float32(dx), "order": d.int32(order), "starts": d.int32(starts), "grad": d.updated(d.float32(grad))}
	if err := d.run(k, a, numbers{"accumulate": flag32(accumulate)}, c); err != nil {
		return err
	}
	for i, got := range values(a["grad"], true) {
		if err := within("gradient", got, float64(want[i]), 0, false); err != nil {
			return err
		}
	}
	return nil
}

func proveRotate(d *device, k plan.GPUKernel, tokens int) error {
	p := k.Plan.(plan.GPURotate)
	const positions, capacity = 50, 61
	seqs := 1 + tokens/capacity
	c := plan.GPUCountsOf{plan.Tokens: tokens, plan.Positions: positions, plan.Slots: seqs * capacity}
	hd, half, w := p.HeadDim, p.HeadDim/2, p.Width()
	qkv := d.draw(tokens*w, 1)
	seq, pos := make([]int, tokens), make([]int, tokens)
	for t := range tokens {
		seq[t], pos[t] = t%seqs, t/seqs%positions
	}
	sign := float64(1 - 2*(tokens%2))
	cos, sin := d.draw32(positions*half, 1), d.draw32(positions*half, 1)
	size := p.KVHeads * hd * seqs * capacity
	keys, vals := d.draw(size, 1), d.draw(size, 1)
	a := arrays{"qkv": d.bf16(qkv), "positions": d.int32(pos)}
	if p.Rotate {
		a["qkv"], a["cos"], a["sin"] = d.updated(a["qkv"]), d.float32(cos), d.float32(sin)
	}
	if p.Cache {
		a["seqs"], a["keys"], a["values"] = d.int32(seq), d.updated(d.bf16(keys)), d.updated(d.bf16(vals))
	}
	if err := d.run(k, a, numbers{"sign": math.Float32bits(float32(sign)), "capacity": capacity}, c); err != nil {
		return err
	}
	// want and tol start with what was there; each token changes its own.
	type array struct {
		name      string
		want, tol []float64
	}
	out := map[string]*array{"qkv": {"qkv", qkv, make([]float64, len(qkv))}}
	if p.Cache {
		out["keys"], out["values"] = &array{"keys", keys, make([]float64, size)}, &array{"values", vals, make([]float64, size)}
	}
	old := append([]float64(nil), qkv...)
	for t := range tokens {
		for head := range p.Heads + 2*p.KVHeads {
			to, base := out["qkv"], t*w+head*hd
			if p.Cache && head >= p.Heads {
				to = out["keys"]
				if head >= p.Heads+p.KVHeads {
					to = out["values"]
				}
				base = ((seq[t]*p.KVHeads+(head-p.Heads)%p.KVHeads)*capacity + pos[t]) * hd
			}
			for j := range half {
				x, y := old[t*w+head*hd+j], old[t*w+head*hd+j+half]
				wantX, wantY, tolX, tolY := x, y, 0.0, 0.0
				if p.Rotate && head < p.Heads+p.KVHeads {
					co, si := cos[pos[t]*half+j], sign*sin[pos[t]*half+j]
					wantX, wantY = x*co-y*si, y*co+x*si
					bound := func(a, b, v float64) float64 {
						e := 3 * ulp32 * (math.Abs(a) + math.Abs(b))
						return e + (math.Abs(v)+e)*roundoff
					}
					tolX, tolY = bound(x*co, y*si, wantX), bound(y*co, x*si, wantY)
				}
				to.want[base+j], to.want[base+j+half] = wantX, wantY
				to.tol[base+j], to.tol[base+j+half] = tolX, tolY
			}
		}
	}
	for _, o := range out {
		for i, got := range values(a[o.name], false) {
			if err := within(o.name, got, o.want[i], o.tol[i], false); err != nil {
				return err
			}
		}
	}
	return nil
}

func proveLoss(d *device, k plan.GPUKernel, tokens int) error {
	p := k.Plan.(plan.GPULoss)
	c := plan.GPUCountsOf{plan.Tokens: tokens}
	logits, targets := d.draw(tokens*p.Pitch, 3), d.ints(tokens, p.Vocab)
	for t := range targets {
		if t%5 == 3 {
			targets[t] = -1
		}
		for i := p.Vocab; i < p.Pitch; i++ {
			logits[t*p.Pitch+i] = 1000 // padding, which nobody may look at
		}
	}
	const scale = 0.125
	gradient := tokens != 17
	a := arrays{"logits": d.updated(d.bf16(logits)), "targets": d.int32(targets), "losses": d.output(k, "losses", c)}
	if err := d.run(k, a, numbers{"scale": math.Float32bits(scale), "gradient": flag32(gradient)}, c); err != nil {
		return err
	}
	losses, grads := values(a["losses"], true), values(a["logits"], false)
	for t, target := range targets {
		row := logits[t*p.Pitch:][:p.Pitch]
		top, sum, span := math.Inf(-1), 0.0, 0.0
		for _, v := range row[:p.Vocab] {
			top = max(top, v)
			span = max(span, math.Abs(v))
		}
		for _, v := range row[:p.Vocab] {
			sum += math.Exp(v - top)
		}
		// A power of two is off by 2^-22 and by the rounding of its exponent, twice
		// where the maximum moves; a thread's sum has its columns and the block's.
		e := 8.0/(1<<22) + 8*span*ulp32 + float64(p.Pitch/k.Threads+64)*ulp32
		want := 0.0
		if target >= 0 {
			want = top + math.Log(sum) - row[target]
		}
		if err := within("loss", losses[t], want, e+8*ulp32*span, false); err != nil {
			return err
		}
		for i, v := range row {
			want, tol := 0.0, 0.0
			switch {
			case !gradient:
				want = v
			case target >= 0 && i < p.Vocab:
				want = math.Exp(v-top) / sum * scale
				tol = 2 * e * want
				if i == target {
					want -= scale
					tol += 2 * ulp32 * scale
				}
			}
			if err := within("gradient", grads[t*p.Pitch+i], want, tol, gradient); err != nil {
				return err
			}
		}
	}
	return nil
}

func proveAdamW(d *device, k plan.GPUKernel, n int) error { return d.adamW(k, 8*(20*n+3), n != 17) }

func (d *device) adamW(k plan.GPUKernel, n int, finite bool) error {
	c := plan.GPUCountsOf{plan.Entries: n}
	const lr, beta1, beta2, eps, decay, clip, steps = 1e-2, 0.9, 0.95, 1e-8, 0.1, 0.3, 4
	w, m, g := d.draw32(n, 1), d.draw32(n, 0.1), d.draw32(n, 1)
	v := d.draw32(n, 0.1)
	for i := range v {
		v[i] *= v[i]
	}
	norm := []float64{2, clip}
	if !finite {
		norm = []float64{math.NaN(), math.NaN()}
	}
	a := arrays{"w": d.updated(d.float32(w)), "m": d.updated(d.float32(m)), "v": d.updated(d.float32(v)), "grad": d.float32(g),
		"pack": d.updated(d.bf16(make([]float64, n))), "norm": d.float32(norm)}
	bias1, bias2 := 1-math.Pow(beta1, steps), 1-math.Pow(beta2, steps)
	number := numbers{}
	for name, x := range map[string]float64{"keep": 1 - lr*decay, "beta1": beta1, "rest1": 1 - beta1, "beta2": beta2, "rest2": 1 - beta2, "rate": lr / bias1, "scale2": 1 / bias2, "eps": eps} {
		number[name] = math.Float32bits(float32(x))
	}
	if err := d.run(k, a, number, c); err != nil {
		return err
	}
	gotW, gotM, gotV, pack := values(a["w"], true), values(a["m"], true), values(a["v"], true), values(a["pack"], false)
	for i := range w {
		dd := g[i] * clip
		m1, v1 := m[i]*beta1+dd*(1-beta1), float64(float32(v[i]))*beta2+dd*dd*(1-beta2)
		move := lr * (m1 / bias1) / (math.Sqrt(v1/bias2) + eps)
		w1 := w[i]*(1-lr*decay) - move
		absM := math.Abs(m[i]*beta1) + math.Abs(dd*(1-beta1))
		packed := rounded(gotW[i])
		if !finite {
			m1, v1, w1, packed = m[i], float64(float32(v[i])), w[i], 0
		}
		for _, o := range []struct {
			what           string
			got, want, tol float64
		}{
			{"m", gotM[i], m1, 6 * ulp32 * absM},
			{"v", gotV[i], v1, 8 * ulp32 * v1},
			{"w", gotW[i], w1, 8 * ulp32 * (math.Abs(w[i]) + math.Abs(move) + lr*absM/bias1/(math.Sqrt(v1/bias2)+eps))},
			{"pack", pack[i], packed, 0},
		} {
			if err := within(o.what, o.got, o.want, o.tol, false); err != nil {
				return err
			}
		}
	}
	return nil
}

func provePack(d *device, k plan.GPUKernel, n int) error { return d.pack(k, 40*n) }

func (d *device) pack(k plan.GPUKernel, n int) error {
	c := plan.GPUCountsOf{plan.Entries: n}
	w := d.draw32(n, 1)
	a := arrays{"w": d.float32(w), "pack": d.output(k, "pack", c)}
	if err := d.run(k, a, nil, c); err != nil {
		return err
	}
	for i, got := range values(a["pack"], false) {
		if err := within("entry", got, rounded(w[i]), 0, false); err != nil {
			return err
		}
	}
	return nil
}

func proveSquares(d *device, k plan.GPUKernel, n int) error { return d.squares(k, 200*n) }

func (d *device) squares(k plan.GPUKernel, n int) error {
	c := plan.GPUCountsOf{plan.Entries: n}
	g := d.draw32(n, 1)
	a := arrays{"grad": d.float32(g), "sums": d.output(k, "sums", c)}
	if err := d.run(k, a, nil, c); err != nil {
		return err
	}
	want := make([]float64, len(a["sums"].Floats()))
	for i, v := range g {
		want[i/plan.SquaresEach] += v * v
	}
	for i, got := range values(a["sums"], true) {
		if err := within("sum", got, want[i], float64(plan.SquaresEach/k.Threads+16)*ulp32*want[i], false); err != nil {
			return err
		}
	}
	return nil
}

func proveClip(d *device, k plan.GPUKernel, n int) error { return d.clip(k, 5*n, n%17 != 0) }

func (d *device) clip(k plan.GPUKernel, n int, finite bool) error {
	sums := d.draw32(n, 1)
	sum := 0.0
	for i := range sums {
		sums[i] = math.Abs(sums[i])
		if !finite && i == n/2 {
			sums[i] = math.Inf(1)
		}
		sum += sums[i]
	}
	c := plan.GPUCountsOf{plan.Entries: n}
	a := arrays{"sums": d.float32(sums), "norm": d.output(k, "norm", c)}
	limit := 3.0
	if n%2 == 0 {
		limit = 1e6 // nothing to clip
	}
	if err := d.run(k, a, numbers{"limit": math.Float32bits(float32(limit))}, c); err != nil {
		return err
	}
	got := values(a["norm"], true)
	norm := math.Sqrt(sum)
	if math.IsInf(norm, 1) {
		if !math.IsInf(got[0], 1) || !math.IsInf(got[1], 1) {
			return fmt.Errorf("norm and clip of an infinite gradient: %v", got)
		}
		return nil
	}
	if err := within("norm", got[0], norm, float64(n/k.Threads+16)*ulp32*norm, false); err != nil {
		return err
	}
	return within("clip", got[1], min(1, limit/(norm+1e-6)), float64(n/k.Threads+32)*ulp32, false)
}

func proveSum(d *device, k plan.GPUKernel, rows int) error { return d.addUp(k, 71, rows) }

func (d *device) addUp(k plan.GPUKernel, n, rows int) error {
	down, c := k.Plan.(plan.GPUSum).Down, plan.GPUCountsOf{plan.Entries: n, plan.Parts: rows}
	x, out := d.draw32(rows*n, 1), d.draw32(n, 1)
	accumulate := rows%2 == 0
	a := arrays{"parts": d.float32(x), "sum": d.updated(d.float32(out))}
	if err := d.run(k, a, numbers{"accumulate": flag32(accumulate)}, c); err != nil {
		return err
	}
	for i, got := range values(a["sum"], true) {
		want := 0.0
		if accumulate {
			want = out[i]
		}
		abs := math.Abs(want)
		for r := range rows {
			want += x[r*n+i]
			abs += math.Abs(x[r*n+i])
		}
		if err := within("column", got, want, float64(rows/down+down+8)*ulp32*abs, false); err != nil {
			return err
		}
	}
	return nil
}

func (d *device) prove(k plan.GPUKernel, n int) error {
	if err := provers[k.Template](d, k, n); err != nil {
		return fmt.Errorf("%s: %d: %w", k.Name, n, err)
	}
	return nil
}

// Every kernel around the products, at every size, three schedules each, all
// results.
func TestPasses(t *testing.T) {
	ks := table(t, passDir)
	kernels := loadPTX(t, passDir, ks)
	for _, k := range ks {
		t.Run(k.Name, func(t *testing.T) {
			t.Parallel()
			for _, n := range tokenCounts {
				for seed := range uint64(3) {
					d := &device{t: t, kernels: kernels, rng: rand.New(rand.NewPCG(seed, uint64(n))), seed: 1000 * seed}
					if err := d.prove(k, n); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	}
}

// The passes of the S shapes, as they are shipped.
func TestShippedPasses(t *testing.T) {
	ks := shipped(t)
	kernels := loadPTX(t, shippedDir, ks)
	for i, k := range ks {
		if provers[k.Template] == nil { // a product
			continue
		}
		t.Run(k.Name, func(t *testing.T) {
			t.Parallel()
			counts := tokenCounts[i%len(tokenCounts):][:1]
			if *full {
				counts = tokenCounts
			}
			for _, n := range counts {
				d := &device{t: t, kernels: kernels, rng: rand.New(rand.NewPCG(1, uint64(n))), seed: uint64(i)}
				if err := d.prove(k, n); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}
