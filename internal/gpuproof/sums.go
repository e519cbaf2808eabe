package gpuproof

import (
	"math"

	"github.com/structuredffn/sffn/runtime/cuda/table"
)

func flag(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}

// each tells of every entry of one array what it must hold.
func (t *trial) each(name string, want func(i int) (value, tol float64)) {
	a := t.array(name)
	t.points = t.Params[a].Len.In(t.counts)
	t.wants = func() func(int, wanted) {
		return func(i int, yield wanted) {
			v, tol := want(i)
			yield(a, i, v, tol)
		}
	}
}

// sumOfRows tries the sums that so many rows leave: of a part a row, or where there
// are many of a weight's gradient, in few parts, or of a norm's, in a part a
// sixteenth of the rows.
func sumOfRows(t *trial, rows int) {
	switch {
	case rows < many:
		sum(t, 71, rows)
	case t.Shape.Sum.Down == 1:
		sum(t, 8*flat(rows, 0, 0)+5, 3)
	default:
		sum(t, 1537, rows/16)
	}
}

// sum tries sums of so many parts of n entries.
func sum(t *trial, n, parts int) {
	down := t.Shape.Sum.Down
	t.counts[table.Entries], t.counts[table.Parts] = n, parts
	x, there := t.draw("parts", 1), t.draw("sum", 1)
	accumulate := t.choose()
	t.numbers["accumulate"] = flag(accumulate)
	t.each("sum", func(i int) (float64, float64) {
		v := 0.0
		if accumulate {
			v = there.at(i)
		}
		abs := math.Abs(v)
		for r := range parts {
			v += x.at(r*n + i)
			abs += math.Abs(x.at(r*n + i))
		}
		return v, float64(parts/down+down+8) * ulp32 * abs
	})
}

// columns tries sums over the rows of so many tokens, in parts.
func columns(t *trial, tokens int) {
	k := *t.Shape.Columns
	rows := t.Cut.Units(tokens) * t.Cut.Unit
	t.counts[table.Tokens], t.counts[table.Parts] = tokens, t.Cut.Parts(tokens)
	t.numbers["rows"] = uint32(rows)
	x := t.draw("x", 1)
	t.each("sums", func(i int) (v, tol float64) {
		abs := 0.0
		for r := i / k.Width * rows; r < min(tokens, (i/k.Width+1)*rows); r++ {
			x := x.at(r*k.Width + i%k.Width)
			v += x
			abs += math.Abs(x)
		}
		return v, float64(rows+2) * ulp32 * abs
	})
}

// cast tries the change of so many entries' type.
func cast(t *trial, n int) { round(t, n, "x", "y") }

// pack tries the rounding of so many parameters.
func pack(t *trial, n int) { round(t, n, "w", "pack") }

// round tries what rounds each of n entries to bf16, or leaves one that is.
func round(t *trial, n int, from, to string) {
	t.counts[table.Entries] = n
	x := t.draw(from, 1)
	t.each(to, func(i int) (float64, float64) { return Rounded(x.at(i)), 0 })
}

// squares tries the sums of squares of so many gradients.
func squares(t *trial, n int) {
	t.counts[table.Entries] = n
	g := t.draw("grad", 1)
	t.each("sums", func(i int) (v, tol float64) {
		for j := i * t.Shape.Update.Each; j < min(n, (i+1)*t.Shape.Update.Each); j++ {
			v += g.at(j) * g.at(j)
		}
		return v, float64(t.Shape.Update.Each/t.Threads+16) * ulp32 * v
	})
}

// clip tries the norm of so many sums of squares; the norms of gradients that are
// not finite are what they are.
func clip(t *trial, n int) {
	t.counts[table.Entries] = n
	finite, limit := t.choose(), 3.0
	if !t.choose() {
		limit = 1e6 // nothing to clip
	}
	t.numbers["limit"] = math.Float32bits(float32(limit))
	total := 0.0
	sums := t.fill("sums", func(i int) float64 {
		if !finite && i == n/2 {
			return math.Inf(1)
		}
		return math.Abs(t.rng.NormFloat64())
	})
	for i := range n {
		total += sums.at(i)
	}
	norm := math.Sqrt(total)
	t.each("norm", func(i int) (float64, float64) {
		switch {
		case !finite:
			return math.Inf(1), 0
		case i == 0:
			return norm, float64(n/t.Threads+16) * ulp32 * norm
		}
		return min(1, limit/(norm+1e-6)), float64(n/t.Threads+32) * ulp32
	})
}

// adamW tries a step of the optimizer on n parameters; one with a norm that is
// not finite leaves everything as it is.
func adamW(t *trial, n int) {
	t.counts[table.Entries] = n
	finite := t.choose()
	const lr, beta1, beta2, eps, decay, clip, steps = 1e-2, 0.9, 0.95, 1e-3, 0.1, 0.3, 4 // an eps that shows
	w, m, g := t.draw("w", 1), t.draw("m", 0.1), t.draw("grad", 1)
	v := t.draw("v", 0.1)
	for i := range n {
		v.set(i, v.at(i)*v.at(i))
	}
	t.fill("pack", func(int) float64 { return 0 })
	t.fill("norm", func(i int) float64 {
		if !finite {
			return math.NaN()
		}
		return []float64{2, clip}[i]
	})
	bias1, bias2 := 1-math.Pow(beta1, steps), 1-math.Pow(beta2, steps)
	for name, x := range map[string]float64{"keep": 1 - lr*decay, "beta1": beta1, "rest1": 1 - beta1, "beta2": beta2, "rest2": 1 - beta2, "rate": lr / bias1, "scale2": 1 / bias2, "eps": eps} {
		t.numbers[name] = math.Float32bits(float32(x))
	}
	if !finite {
		for _, name := range []string{"w", "m", "v", "pack"} {
			t.stays[name] = func(int) bool { return true }
		}
	}
	aw, am, av, ap := t.array("w"), t.array("m"), t.array("v"), t.array("pack")
	t.points = n
	t.wants = func() func(int, wanted) {
		return func(i int, want wanted) {
			if !finite {
				want(am, i, m.at(i), 0)
				want(av, i, v.at(i), 0)
				want(aw, i, w.at(i), 0)
				want(ap, i, 0, 0)
				return
			}
			d := g.at(i) * clip
			m1, v1 := m.at(i)*beta1+d*(1-beta1), v.at(i)*beta2+d*d*(1-beta2)
			absM := math.Abs(m.at(i)*beta1) + math.Abs(d*(1-beta1))
			root := math.Sqrt(v1/bias2) + eps
			move := lr * (m1 / bias1) / root
			want(am, i, m1, 6*ulp32*absM)
			want(av, i, v1, 8*ulp32*v1)
			want(aw, i, w.at(i)*(1-lr*decay)-move, 8*ulp32*(math.Abs(w.at(i))+math.Abs(move)+lr*absM/bias1/root))
			want(ap, i, Rounded(t.out[aw].at(i)), 0)
		}
	}
}
