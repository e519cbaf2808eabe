// Package bench times layers against the machine's rate of multiply-adds,
// measured in turn with them.
package bench

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/structuredffn/sffn/gen/spec"
	rt "github.com/structuredffn/sffn/runtime"
)

// Result is the speed of one operation of one layer.
type Result struct {
	Layer   string `json:"layer"`
	Op      string `json:"op"` // forward, forward and save (for backward), backward data, backward weight
	M       int    `json:"m"`  // rows (tokens)
	Threads int    `json:"threads"`
	// GFLOPS and Peak are medians, of the layer's useful operations and of the
	// machine's multiply-adds measured just before each.
	GFLOPS float64 `json:"gflops"`
	Peak   float64 `json:"peak_gflops"`
	// Share is the median ratio of the two, Low and High its quartiles.
	Share float64 `json:"share_of_peak"`
	Low   float64 `json:"share_low"`
	High  float64 `json:"share_high"`
}

// minTime is the shortest time that one measurement takes.
const minTime = 20 * time.Millisecond

// FFN times the forward pass of a network at m rows, as for decoding and as
// for training, and the backward pass, repeats times each.
func FFN(f spec.FFN, m, repeats int, opt rt.Options) ([]Result, error) {
	opt.Train = true
	rng := rand.New(rand.NewPCG(1, 1))
	fill := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(rng.NormFloat64())
		}
		return x
	}
	weights := func(l spec.Linear) (w, g rt.Weights) {
		for _, c := range l.Chain() {
			w.Factors = append(w.Factors, fill(c.Weights()))
			g.Factors = append(g.Factors, make([]float32, c.Weights()))
		}
		if l.Bias {
			w.Bias, g.Bias = fill(l.Out), make([]float32, l.Out)
		}
		return w, g
	}
	var w, g rt.FFNWeights
	w.FC1, g.FC1 = weights(f.FC1())
	w.FC2, g.FC2 = weights(f.FC2())
	ffn, err := rt.NewFFN(f, w, opt)
	if err != nil {
		return nil, err
	}
	defer ffn.Close()
	var arena rt.Arena
	defer arena.Close()
	n := m * f.Hidden
	x, y, dx := arena.Floats(n), arena.Floats(n), arena.Floats(n)
	copy(x, fill(n))
	ws, saved := ffn.NewWorkspace(), ffn.NewSaved(m)
	defer ws.Close()
	defer saved.Close()
	flops := 2 * float64(m) * float64(f.FC1().Weights()+f.FC2().Weights())
	var rs []Result
	for _, op := range []struct {
		name  string
		flops float64
		run   func()
	}{
		{"forward", flops, func() { ffn.Forward(y, x, nil, m, nil, ws) }},
		{"forward and save", flops, func() { ffn.Forward(y, x, nil, m, saved, ws) }},
		{"backward data", flops, func() { ffn.BackwardData(dx, y, m, saved, ws) }},
		{"backward weight", flops, func() { ffn.BackwardWeights(g, y, x, m, saved, false, ws) }},
	} {
		r := measure(op.flops, repeats, opt, op.run)
		r.Layer, r.Op, r.M, r.Threads = f.Name(), op.name, m, opt.Pool.Threads()
		rs = append(rs, r)
	}
	return rs, nil
}

// measure times f, which takes so many floating-point operations.
func measure(flops float64, repeats int, opt rt.Options, f func()) Result {
	start := time.Now()
	f()
	calls := max(1, int(minTime/max(1, time.Since(start))))
	var rates, peaks, shares []float64
	for range repeats {
		peak := rt.Peak(opt.Pool, opt.ISA)
		start := time.Now()
		for range calls {
			f()
		}
		rate := flops * float64(calls) / time.Since(start).Seconds()
		rates, peaks, shares = append(rates, rate), append(peaks, peak), append(shares, rate/peak)
	}
	for _, v := range [][]float64{rates, peaks, shares} {
		slices.Sort(v)
	}
	return Result{GFLOPS: rates[repeats/2] / 1e9, Peak: peaks[repeats/2] / 1e9,
		Share: shares[repeats/2], Low: shares[repeats/4], High: shares[repeats*3/4]}
}
