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
	t.leaveOut(k)
	t.numbers["split"] = Uint32((tokens + plan.GPUDepth - 1) / plan.GPUDepth)
}

// leaveOut takes away the arrays that a product does not read.
func (t *trial) leaveOut(k plan.GPUProduct) {
	if t.param("bias").Optional {
		delete(t.arrays, "bias")
	}
	if pre := t.param("pre"); pre.Optional && pre.Access == plan.Read {
		delete(t.arrays, "pre")
	}
}

// wantProduct multiplies each block, and each part of its sums, as a dense layer
// on the CPU.
func wantProduct(t *trial) (map[string][]float32, error) {
	k, tokens := t.Plan.(plan.GPUProduct), t.counts[plan.Tokens]
	m, n, depth := cmp.Or(k.Rows(), tokens), k.Cols(), cmp.Or(k.Depth(), tokens)
	want := map[string][]float32{}
	for _, name := range []string{"c", "pre"} {
		if p := t.param(name); p.Access == plan.Written {
			want[name] = make([]float32, p.Len.In(t.counts))
		}
	}
	parts, stages := 1, (depth+plan.GPUDepth-1)/plan.GPUDepth
	if k.Split() {
		parts, stages = k.Parts, k.PartSteps()
	}
	for n0 := range k.Blocks * parts {
		block, part := n0/parts, n0%parts
		first := part * stages * plan.GPUDepth
		in := min(depth-first, stages*plan.GPUDepth)
		a, b, c := gather(t.arrays["a"], k.A, block, m, first, in), gather(t.arrays["b"], k.B, block, n, first, in), make([]float32, m*n)
		l, err := rt.NewLinear(spec.Linear{Kind: spec.Dense, In: in, Out: n}, rt.Weights{Factors: [][]float32{b}}, t.cpu)
		if err != nil {
			return nil, err
		}
		ws := l.NewWorkspace()
		l.Forward(c, a, nil, m, nil, ws)
		ws.Close()
		l.Close()
		for i := range m {
			if row := c[i*n : (i+1)*n]; k.Split() {
				for j, v := range row {
					want["c"][(part*m+i)*k.C.Pitch+k.C.Cols.At(block, j)] = v
				}
			} else {
				t.storeRow(k, want, block, i, row)
			}
		}
	}
	return want, nil
}

// gather collects the rows, or summed columns, of one block, from the first on.
func gather(v []float32, o plan.Operand, block, outer, first, inner int) []float32 {
	x := make([]float32, outer*inner)
	for i := range outer {
		for j := range inner {
			x[i*inner+j] = v[place(o, block, i, first+j)]
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
	return o.At(block, i, j)
}

// storeRow applies the epilogue to row i of a block's sums and puts what comes of
// it where the kernel does.
func (t *trial) storeRow(k plan.GPUProduct, want map[string][]float32, block, i int, c []float32) {
	at := func(j int) int { return i*k.C.Pitch + k.C.Cols.At(block, j) }
	if k.C.BlockRows > 0 {
		at = func(j int) int { return place(k.C, block, i, j) }
	}
	// Places of an activation, and of its gate and up where at is its place: they
	// take turns, or all gates of a row come before its ups.
	act := func(at int) int { return at / 2 }
	pair := func(at int) (gate, up int) { return 2 * at, 2*at + 1 }
	if k.Precision == plan.Float32s {
		act = func(at int) int { return at - i*k.C.Pitch/2 }
		pair = func(at int) (gate, up int) { return at + i*k.C.Pitch, at + (i+1)*k.C.Pitch }
	}
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
			want["c"][act(at(2*j))] = v
		}
		return
	case plan.GPUSwiGLUBackward:
		g, u, dg, du := make([]float32, n), make([]float32, n), make([]float32, n), make([]float32, n)
		for j := range n {
			gate, up := pair(at(j))
			g[j], u[j] = t.arrays["pre"][gate], t.arrays["pre"][up]
		}
		t.vec.SwiGLUBackward(make([]float32, n), dg, du, g, u, c)
		for j := range n {
			gate, up := pair(at(j))
			want["c"][gate], want["c"][up] = dg[j], du[j]
		}
		return
	}
	for j, v := range c {
		want["c"][at(j)] = v
	}
}
