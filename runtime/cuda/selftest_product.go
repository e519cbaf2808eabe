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
	if !k.Bias {
		delete(t.arrays, "bias")
	}
	if pre := t.param("pre"); k.Epilogue == plan.GPULinear && pre.Optional {
		delete(t.arrays, "pre")
	}
	t.numbers["split"] = Uint32((tokens + plan.GPUDepth - 1) / plan.GPUDepth)
}

// wantProduct multiplies each block as a dense layer on the CPU.
func wantProduct(t *trial) (map[string][]float32, error) {
	k, tokens := t.Plan.(plan.GPUProduct), t.counts[plan.Tokens]
	m, n, depth := cmp.Or(k.Rows(), tokens), k.Cols(), cmp.Or(k.Depth(), tokens)
	want := map[string][]float32{}
	for _, name := range []string{"c", "pre"} {
		if p := t.param(name); p.Access == plan.Written {
			want[name] = make([]float32, p.Len.In(t.counts))
		}
	}
	for block := range k.Blocks {
		a, b, c := gather(t.arrays["a"], k.A, block, m, depth), gather(t.arrays["b"], k.B, block, n, depth), make([]float32, m*n)
		l, err := rt.NewLinear(spec.Linear{Kind: spec.Dense, In: depth, Out: n}, rt.Weights{Factors: [][]float32{b}}, t.cpu)
		if err != nil {
			return nil, err
		}
		ws := l.NewWorkspace()
		l.Forward(c, a, nil, m, nil, ws)
		ws.Close()
		l.Close()
		for i := range m {
			t.storeRow(k, want, block, i, c[i*n:(i+1)*n])
		}
	}
	return want, nil
}

// gather collects the rows, or summed columns, of one block.
func gather(v []float32, o plan.Operand, block, outer, inner int) []float32 {
	x := make([]float32, outer*inner)
	for i := range outer {
		for j := range inner {
			x[i*inner+j] = v[place(o, block, i, j)]
		}
	}
	return x
}

// place is the index of an entry: i counts the rows or columns that are not
// summed, j those that are.
func place(o plan.Operand, block, i, j int) int {
	if o.Summed {
		i, j = j, i
	}
	if o.BlockRows > 0 {
		return (block*o.BlockRows+i)*o.Pitch + j
	}
	return i*o.Pitch + o.Cols.At(block, j)
}

// storeRow applies the epilogue to row i of a block's sums and puts what comes of
// it where the kernel does.
func (t *trial) storeRow(k plan.GPUProduct, want map[string][]float32, block, i int, c []float32) {
	if k.Float32() {
		for j, v := range c {
			want["c"][place(k.C, block, i, j)] = v
		}
		return
	}
	at := func(j int) int { return i*k.C.Pitch + k.C.Cols.At(block, j) }
	if bias := t.arrays["bias"]; bias != nil {
		for j := range c {
			c[j] += bias[k.C.Cols.At(block, j)]
		}
	}
	if pre := want["pre"]; pre != nil {
		for j, v := range c {
			pre[at(j)] = v
		}
	}
	n := len(c)
	switch k.Epilogue {
	case plan.GPUGELU:
		t.vec.GELU(c, c)
	case plan.GPUGELUBackward:
		h := make([]float32, n)
		for j := range h {
			h[j] = t.arrays["pre"][at(j)]
		}
		t.vec.GELUBackward(h, c, h, c)
	case plan.GPUSwiGLU:
		g, u := make([]float32, n/2), make([]float32, n/2)
		for j := range g {
			g[j], u[j] = c[2*j], c[2*j+1]
		}
		t.vec.SwiGLU(g, g, u)
		for j, v := range g {
			want["c"][at(2*j)/2] = v
		}
		return
	case plan.GPUSwiGLUBackward:
		g, u, dg, du := make([]float32, n), make([]float32, n), make([]float32, n), make([]float32, n)
		for j := range n {
			g[j], u[j] = t.arrays["pre"][2*at(j)], t.arrays["pre"][2*at(j)+1]
		}
		t.vec.SwiGLUBackward(make([]float32, n), dg, du, g, u, c)
		for j := range n {
			want["c"][2*at(j)], want["c"][2*at(j)+1] = dg[j], du[j]
		}
		return
	}
	for j, v := range c {
		want["c"][at(j)] = v
	}
}
