package convert

import (
	"cmp"
	"slices"

	"gonum.org/v1/gonum/mat"

	"github.com/structuredffn/sffn/gen/spec"
	rt "github.com/structuredffn/sffn/runtime"
)

// narrow leaves out the hidden units of a dense network that give the least: by the
// length of a unit's rows of fc1 times that of its column of fc2. With moments of the
// units it is what a unit adds to the outputs, the root of its mean square times the
// length of its column, and fc2's columns of the units that stay take over what
// they can of the others, by least squares: they are the best of these units.
func narrow(to, from spec.FFN, w rt.FFNWeights, moments *Moments, follow bool) (n network, err error) {
	fc1, fc2 := wide(w.FC1.Factors[0]), wide(w.FC2.Factors[0])
	in, out := unitSquares(from, fc1, fc2)
	score := make([]float64, from.FFN)
	for u := range score {
		if score[u] = in[u] * out[u]; follow {
			score[u] = moments.c.At(u, u) * out[u]
		}
	}
	units := best(score, to.FFN)
	n.FC1, n.FC2 = pick(from, w, units)
	n.fc1.All, n.fc1.Lost = sum(in), sum(in)
	for _, u := range units {
		n.fc1.Lost -= in[u]
	}
	if follow {
		n.FC2.Factors[0] = single(takeOver(from, fc2, units, moments))
	}
	// What fc2 lacks.
	rest := mat.NewDense(from.Hidden, from.FFN, slices.Clone(fc2))
	for o := range from.Hidden {
		for i, u := range units {
			rest.Set(o, u, rest.At(o, u)-float64(n.FC2.Factors[0][o*len(units)+i]))
		}
	}
	n.fc2.All, n.fc2.Lost = sum(out), square(rest)
	if moments != nil {
		n.fc2.AllOutput, n.fc2.LostOutput = moments.square(mat.NewDense(from.Hidden, from.FFN, fc2)), moments.square(rest)
	}
	return n, nil
}

// takeOver are the weights of some hidden units [hidden, units] that give the outputs
// of all of them best: W C_all,units C_units,units^-1.
func takeOver(f spec.FFN, fc2 []float64, units []int, moments *Moments) []float64 {
	n := len(units)
	own, cross := mat.NewDense(n, n, nil), mat.NewDense(f.FFN, n, nil)
	for j, u := range units {
		for i, v := range units {
			own.Set(i, j, moments.c.At(v, u))
		}
		for v := range f.FFN {
			cross.Set(v, j, moments.c.At(v, u))
		}
	}
	var b mat.Dense
	b.Mul(mat.NewDense(f.Hidden, f.FFN, fc2), cross)
	return mat.DenseCopyOf(solve(own, b.T()).T()).RawMatrix().Data
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
