package convert

import (
	"cmp"
	"context"
	"slices"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model/project"
	rt "github.com/structuredffn/sffn/runtime"
)

// narrow leaves out the hidden units of a dense network that give the least: by the
// length of a unit's rows of fc1 times that of its column of fc2. With moments of the
// units it is what a unit adds to the outputs, the root of its mean square times the
// length of its column, and fc2's columns of the units that stay take over what
// they can of the others, by least squares: they are the best of these units.
func (c *Conversion) narrow(ctx context.Context, to, from spec.FFN, w rt.FFNWeights, moments *project.Moments) (n network, err error) {
	fc1, fc2 := wide(w.FC1.Factors[0]), wide(w.FC2.Factors[0])
	in, out := unitSquares(from, fc1, fc2)
	score := make([]float64, from.FFN)
	for u := range score {
		if score[u] = in[u] * out[u]; c.whitens() {
			score[u] = moments.At(u, u) * out[u]
		}
	}
	units := best(score, to.FFN)
	n.FC1, n.FC2 = pick(from, w, units)
	n.fc1.All, n.fc1.Lost = sum(in), sum(in)
	for _, u := range units {
		n.fc1.Lost -= in[u]
	}
	if c.whitens() {
		columns, err := project.TakeOver(ctx, fc2, units, moments, c.Options)
		if err != nil {
			return n, err
		}
		n.FC2.Factors[0] = single(columns)
	}
	hat := make([]float64, len(fc2))
	for o := range from.Hidden {
		for i, u := range units {
			hat[o*from.FFN+u] = float64(n.FC2.Factors[0][o*len(units)+i])
		}
	}
	n.fc2, err = project.Lost(ctx, fc2, hat, from.FFN, moments, c.Options)
	return n, err
}

func sum(x []float64) (s float64) {
	for _, v := range x {
		s += v
	}
	return s
}

// unitSquares are the squares of each hidden unit's weights in fc1, its gate and its
// up, and in fc2.
func unitSquares(f spec.FFN, fc1, fc2 []float64) (in, out []float64) {
	in, out = make([]float64, f.FFN), make([]float64, f.FFN)
	for row := range f.FC1().Out {
		for _, v := range fc1[row*f.Hidden : (row+1)*f.Hidden] {
			in[row%f.FFN] += v * v
		}
	}
	for i, v := range fc2 {
		out[i%f.FFN] += v * v
	}
	return in, out
}

// best are the n units of the highest scores, in rising order.
func best(score []float64, n int) []int {
	units := make([]int, len(score))
	for u := range units {
		units[u] = u
	}
	slices.SortStableFunc(units, func(a, b int) int { return cmp.Compare(score[b], score[a]) })
	units = units[:n]
	slices.Sort(units)
	return units
}

// pick takes some hidden units of a network.
func pick(f spec.FFN, w rt.FFNWeights, units []int) (fc1, fc2 rt.Weights) {
	var rows, columns []float32
	for part := range f.Act.Columns() {
		for _, u := range units {
			row := part*f.FFN + u
			rows = append(rows, w.FC1.Factors[0][row*f.Hidden:(row+1)*f.Hidden]...)
			if w.FC1.Bias != nil {
				fc1.Bias = append(fc1.Bias, w.FC1.Bias[row])
			}
		}
	}
	for o := range f.Hidden {
		for _, u := range units {
			columns = append(columns, w.FC2.Factors[0][o*f.FFN+u])
		}
	}
	fc1.Factors, fc2.Factors = [][]float32{rows}, [][]float32{columns}
	fc2.Bias = slices.Clone(w.FC2.Bias)
	return fc1, fc2
}
