package gpu

import (
	"fmt"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// NewFloat32 plans a network in float32 on CUDA cores: the fallback for
// widths that tensor cores cannot serve. Nothing is packed, and every vector is
// in its true order: shuffles are places of single entries.
func NewFloat32(f spec.FFN) (FFN, error) {
	p := FFN{Spec: f, Precision: table.Float32s, Output: plan.Identity(f.Hidden)}
	if f.Guide {
		return p, fmt.Errorf("%s: %w", f.Name(), errGuided)
	}
	forward, backward := table.EpiloguesOf(string(f.Act))
	p.FC1 = newFloat32(f.FC1(), forward, "")
	p.FC2 = newFloat32(f.FC2(), "", backward)
	return p, nil
}

// shuffle is that of a factor in the tables' terms.
func shuffle(f spec.Factor) table.Shuffle {
	switch {
	case !f.Then.Moves():
		return table.NoShuffle
	case f.Then == spec.Deal(f.Blocks, f.Out):
		return table.Deal
	case f.Then == spec.Riffle(f.Blocks, f.Out):
		return table.Riffle
	}
	panic(fmt.Sprintf("gpu: no kernel stores results in the order %v", f.Then)) // refused before
}

func newFloat32(l spec.Linear, forward, backward table.Epilogue) Layer {
	g := Layer{Spec: l, Precision: table.Float32s, Bias: plan.Identity(l.Out)}
	chain := l.Chain()
	for i, f := range chain {
		x := table.Operand{Pitch: f.Blocks * f.In, Cols: table.Contiguous(f.In)}
		w := table.Operand{Rows: f.Out, Pitch: f.In, BlockRows: f.Out, Cols: table.Places{Len: f.In, Run: f.In, Step: f.In}}
		y := table.Operand{Pitch: f.Blocks * f.Out, Cols: table.Contiguous(f.Out)}
		if then := shuffle(f); then != table.NoShuffle {
			y.Cols.Then, y.Cols.Of = then, f.Blocks
		}
		product := func(pass table.Pass, a, b, c table.Operand) Product {
			return Product{Product: table.Product{Pass: pass, Precision: table.Float32s, Blocks: f.Blocks, A: a, B: b, C: c},
				Tile: table.Tile{M: lowSide, N: lowSide, WarpsM: 2, WarpsN: 4}, Stages: 1, BlocksPerSM: 2}
		}
		gf := Factor{Factor: f}
		for range f.Blocks {
			gf.In, gf.Out = append(gf.In, plan.Identity(f.In)), append(gf.Out, plan.Identity(f.Out))
		}
		k := product(table.Forward, x, w, y)
		if i == len(chain)-1 {
			k.Epilogue, k.Bias = forward, l.Bias
		}
		if k.Epilogue.Activates() && k.Epilogue.Gated() {
			k.B.Pairs, k.C.Cols.Pairs = true, true
		}
		gf.Forward, gf.Few = k, k
		k = product(table.BackwardData, y, summed(w), x)
		if i == 0 {
			k.Epilogue = backward
		}
		gf.BackwardData, gf.FewBackward = k, k
		gf.BackwardWeight = product(table.BackwardWeight, summed(y), summed(x), w)
		g.Factors = append(g.Factors, gf)
	}
	return g
}

// Float32Depth is how many products of a sum a stage of a float32 kernel holds,
// Float32Pitch the distance of its rows in shared memory, one a product: eight
// rows of four entries lie in different banks.
const (
	Float32Depth = 16
	Float32Pitch = lowSide + 4
)

// float32 turns the row of the kernel table into that of a float32 kernel.
func (k Product) float32(g *Kernel) {
	g.Role, g.File = table.RoleSGEMM, "float32"
	g.SharedBytes = 4 * max(2*Float32Depth, k.Tile.M) * Float32Pitch // a stage, and later the sums
	g.Counts = Instructions{OtherStores: k.Stores()}
	for i := range g.Params {
		if g.Params[i].Type == table.ArrayBF16 {
			g.Params[i].Type = table.ArrayFloat32
		}
	}
}
