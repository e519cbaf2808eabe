package cuda

import (
	"cmp"
	"math"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/spec"
	rt "github.com/structuredffn/sffn/runtime"
)

// prepareProduct draws the second operand so that the sums are about as large
// as the first.
func prepareProduct(t *trial) {
	k, tokens := t.Plan.(plan.GPUProduct), t.counts[plan.Tokens]
	t.arrays["b"] = t.draw(t.param("b"), 1/math.Sqrt(float64(cmp.Or(k.Depth(), tokens))))
	if !k.Bias || k.Split() {
		delete(t.arrays, "bias")
	}
	t.numbers["split"] = Uint32(k.PartStages(tokens, 1))
}

// wantProduct multiplies each block as a dense layer on the CPU.
func wantProduct(t *trial) (map[string][]float32, error) {
	k, tokens := t.Plan.(plan.GPUProduct), t.counts[plan.Tokens]
	m, n, depth := cmp.Or(k.Rows(), tokens), k.Cols(), cmp.Or(k.Depth(), tokens)
	want := t.written()
	parts, each := max(1, k.Parts), depth
	if k.Split() {
		each = k.PartSteps() * plan.GPUDepth
	}
	for block := range k.Blocks {
		for part := range parts {
			lo, hi := part*each, min(depth, (part+1)*each)
			c, err := t.multiply(gather(t.arrays["a"], k.A, block, m, lo, hi), gather(t.arrays["b"], k.B, block, n, lo, hi), m, n, hi-lo)
			if err != nil {
				return nil, err
			}
			for i := range m {
				row := c[i*n : (i+1)*n]
				switch {
				case k.Split():
					for j, v := range row {
						want["c"][(part*tokens+i)*k.C.Pitch+k.C.Cols.At(block, j)] = v
					}
				case k.C.BlockRows > 0:
					for j, v := range row {
						want["c"][k.C.At(block, i, j)] = v
					}
				default:
					t.finish(k, want, block, i, row)
				}
			}
		}
	}
	return want, nil
}

// multiply computes [m, n] of the rows of a and b, [m, depth] and [n, depth].
func (t *trial) multiply(a, b []float32, m, n, depth int) ([]float32, error) {
	c := make([]float32, m*n)
	l, err := rt.NewLinear(spec.Linear{Kind: spec.Dense, In: depth, Out: n}, rt.Weights{Factors: [][]float32{b}}, t.cpu)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	ws := l.NewWorkspace()
	defer ws.Close()
	l.Forward(c, a, nil, m, nil, ws)
	return c, nil
}

// gather collects the rows, or summed columns, of one block, entries lo to hi of
// each.
func gather(v []float32, o plan.Operand, block, outer, lo, hi int) []float32 {
	x := make([]float32, 0, outer*(hi-lo))
	for i := range outer {
		for j := lo; j < hi; j++ {
			row, col := i, j
			if o.Summed {
				row, col = j, i
			}
			x = append(x, v[o.At(block, row, col)])
		}
	}
	return x
}

// finish applies the epilogue to row i of a block's sums and puts what comes of
// it where the kernel does.
func (t *trial) finish(k plan.GPUProduct, want map[string][]float32, block, i int, c []float32) {
	col := func(j int) int { return k.C.Cols.At(block, j) }
	at := func(j int) int { return i*k.C.Pitch + col(j) }
	// Gates and ups of a row take turns, or come one after the other.
	act, gate, up := func(j int) int { return at(j) / 2 }, func(j int) int { return 2 * at(j) }, func(j int) int { return 2*at(j) + 1 }
	if k.Precision == plan.Float32s {
		act = func(j int) int { return i*k.C.Pitch/2 + col(j) }
		gate = func(j int) int { return 2*i*k.C.Pitch + col(j) }
		up = func(j int) int { return (2*i+1)*k.C.Pitch + col(j) }
	}
	for j := range c {
		if bias := t.arrays["bias"]; bias != nil {
			c[j] += bias[col(j)]
		}
		if pre := want["pre"]; pre != nil {
			pre[at(j)] = c[j]
		}
	}
	n, pre := len(c), t.arrays["pre"]
	switch k.Epilogue {
	case plan.GPUGELU:
		t.vec.GELU(c, c)
	case plan.GPUGELUBackward:
		h := make([]float32, n)
		for j := range h {
			h[j] = pre[at(j)]
		}
		t.vec.GELUBackward(h, c, h, c)
	case plan.GPUSwiGLU:
		g, u := make([]float32, n/2), make([]float32, n/2)
		for j := range g {
			g[j], u[j] = c[2*j], c[2*j+1]
		}
		t.vec.SwiGLU(g, g, u)
		for j, v := range g {
			want["c"][act(2*j)] = v
		}
		return
	case plan.GPUSwiGLUBackward:
		g, u, dg, du := make([]float32, n), make([]float32, n), make([]float32, n), make([]float32, n)
		for j := range n {
			g[j], u[j] = pre[gate(j)], pre[up(j)]
		}
		t.vec.SwiGLUBackward(make([]float32, n), dg, du, g, u, c)
		for j := range n {
			want["c"][gate(j)], want["c"][up(j)] = dg[j], du[j]
		}
		return
	}
	for j, v := range c {
		want["c"][at(j)] = v
	}
}

// wantFinish adds the parts of each row.
func wantFinish(t *trial) (map[string][]float32, error) {
	k, tokens := t.Plan.(plan.GPUFinish).GPUProduct, t.counts[plan.Tokens]
	want := t.written()
	for block := range k.Blocks {
		for i := range tokens {
			c := make([]float32, k.Cols())
			for j := range c {
				for part := range k.Parts {
					c[j] += t.arrays["parts"][(part*tokens+i)*k.C.Pitch+k.C.Cols.At(block, j)]
				}
			}
			t.finish(k, want, block, i, c)
		}
	}
	return want, nil
}

func prepareFinish(t *trial) {
	if !t.Plan.(plan.GPUFinish).Bias {
		delete(t.arrays, "bias")
	}
}

func prepareSum(t *trial) {
	t.counts[plan.Entries], t.counts[plan.Parts] = 300, 19
	t.redraw()
	t.numbers["accumulate"] = Uint32(1)
}

func wantSum(t *trial) (map[string][]float32, error) {
	sum, n := t.arrays["sum"], t.counts[plan.Entries]
	want := append([]float32(nil), sum...)
	for part := range t.counts[plan.Parts] {
		t.vec.Add(want, t.arrays["parts"][part*n:(part+1)*n])
	}
	return map[string][]float32{"sum": want}, nil
}

func prepareColumns(t *trial) {
	t.counts[plan.Parts] = 2
	t.redraw()
	t.numbers["rows"] = Uint32((testTokens + 1) / 2)
}

func wantColumns(t *trial) (map[string][]float32, error) {
	width, each := t.Plan.(plan.GPUColumns).Width, (testTokens+1)/2
	sums := make([]float32, 2*width)
	for part := range 2 {
		rows := min(each, testTokens-part*each)
		t.vec.ColSum(sums[part*width:(part+1)*width], t.arrays["x"][part*each*width:], rows, width, width)
	}
	return map[string][]float32{"sums": sums}, nil
}

func wantCast(t *trial) (map[string][]float32, error) {
	return map[string][]float32{"y": t.arrays["x"]}, nil
}
