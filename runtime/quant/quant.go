// Package quant turns weights into integers with scales, and knows nothing of how
// kernels read them: that is package mul's.
//
// Of int8 each row of a matrix, which one output sums, has a scale; of int4 each group
// of 32 inputs of a row has one, a bfloat16. Both are symmetric: a weight is its integer
// times the scale. All of it is a function of the numbers alone, whatever the machine.
package quant

import (
	"fmt"
	"math"
	"slices"

	"github.com/structuredffn/sffn/runtime/kernel"
)

// Matrix is the weights of a factor as integers, the inputs of each row in the order in
// which a product sums over them.
type Matrix struct {
	Format kernel.FormatName
	// A factor has Blocks blocks, each Out x In.
	Blocks, Out, In int
	// Values are [blocks, out, in]: -127 to 127, or -8 to 7.
	Values []int8
	// Scales are [blocks, out], or [blocks, out, groups of inputs].
	Scales []float32
	// Inputs are [blocks, in]: what activations are multiplied by before they are
	// quantised. The weights are those of the inputs so scaled.
	Inputs []float32
}

// limits are the least and the largest integer of a format.
func limits(f kernel.FormatName) (lo, hi int) {
	if f == kernel.Int4 {
		return -8, 7
	}
	return -127, 127
}

// Groups is the number of scales of a row.
func Groups(f kernel.FormatName, in int) int {
	if f == kernel.Int4 {
		return (in + kernel.QuantGroup - 1) / kernel.QuantGroup
	}
	return 1
}

// New is a matrix of zeros, with inputs as they are.
func New(f kernel.FormatName, blocks, out, in int) *Matrix {
	m := &Matrix{Format: f, Blocks: blocks, Out: out, In: in, Values: make([]int8, blocks*out*in), Scales: make([]float32, blocks*out*Groups(f, in)), Inputs: make([]float32, blocks*in)}
	for i := range m.Inputs {
		m.Inputs[i] = 1
	}
	return m
}

// Check says what of a matrix that came from elsewhere cannot be multiplied: wrong
// sizes, integers out of range, scales that are not finite.
func (m *Matrix) Check() error {
	if !m.Format.Quantized() {
		return fmt.Errorf("quant: %q is no format of integers", m.Format)
	}
	if m.Blocks < 1 || m.Out < 1 || m.In < 1 || len(m.Values) != m.Blocks*m.Out*m.In || len(m.Scales) != m.Blocks*m.Out*Groups(m.Format, m.In) || len(m.Inputs) != m.Blocks*m.In {
		return fmt.Errorf("quant: %d integers, %d scales and %d inputs are no %s matrix of %d x %d x %d", len(m.Values), len(m.Scales), len(m.Inputs), m.Format, m.Blocks, m.Out, m.In)
	}
	lo, hi := limits(m.Format)
	for i, v := range m.Values {
		if int(v) < lo || int(v) > hi {
			return fmt.Errorf("quant: integer %d of %s is %d, want %d to %d", i, m.Format, v, lo, hi)
		}
	}
	for i, s := range m.Scales {
		if !finite(s) || m.Format == kernel.Int4 && s != rounded(float64(s)) {
			return fmt.Errorf("quant: scale %d of %s is %v, want a finite one%s", i, m.Format, s, map[bool]string{true: " of bfloat16"}[m.Format == kernel.Int4])
		}
	}
	for i, f := range m.Inputs {
		if !finite(f) || f <= 0 {
			return fmt.Errorf("quant: input %d is scaled by %v, want a finite number above 0", i, f)
		}
	}
	return nil
}

func finite(x float32) bool { return math.Abs(float64(x)) <= math.MaxFloat32 }

// Row are the integers of row r, of all blocks' rows, and their scales.
func (m *Matrix) Row(r int) (values []int8, scales []float32) {
	g := Groups(m.Format, m.In)
	return m.Values[r*m.In : (r+1)*m.In], m.Scales[r*g : (r+1)*g]
}

// RowInputs are the scales of the inputs of row r.
func (m *Matrix) RowInputs(r int) []float32 {
	b := r / m.Out
	return m.Inputs[b*m.In : (b+1)*m.In]
}

// Weights writes what row r stands for.
func (m *Matrix) Weights(dst []float32, r int) {
	values, scales := m.Row(r)
	for k, f := range m.RowInputs(r) {
		s := scales[0]
		if m.Format == kernel.Int4 {
			s = scales[k/kernel.QuantGroup]
		}
		dst[k] = float32(float64(values[k]) * float64(s) * float64(f))
	}
}

// SetRow quantises row r: w is read, and divided by the scales of its inputs. weight,
// where not nil, says how much the square of each error counts, of scaled inputs.
func (m *Matrix) SetRow(r int, w, weight []float32) {
	values, scales := m.Row(r)
	inputs := m.RowInputs(r)
	if m.Format == kernel.Int8 {
		largest := 0.0
		for k, v := range w {
			largest = max(largest, math.Abs(float64(v)/float64(inputs[k])))
		}
		scales[0] = Scale8(largest)
		for k, v := range w {
			values[k] = Nearest(m.Format, float64(v)/float64(inputs[k]), scales[0])
		}
		return
	}
	var x, by [kernel.QuantGroup]float64
	for g := range scales {
		lo := g * kernel.QuantGroup
		n := min(kernel.QuantGroup, m.In-lo)
		for i := range n {
			x[i], by[i] = float64(w[lo+i])/float64(inputs[lo+i]), 1
			if weight != nil {
				by[i] = float64(weight[lo+i])
			}
		}
		scales[g] = Scale4(x[:n], by[:n])
		for i := range n {
			values[lo+i] = Nearest(m.Format, x[i], scales[g])
		}
	}
}

// SetRowFeedback quantises row r input by input, and takes the error of each to those that
// are left: upper(i), from i on, divided by its entry i, says how much of it each of them
// makes up for. weight says how much the square of an error counts that nobody makes up for.
func (m *Matrix) SetRowFeedback(r int, w, weight []float32, upper func(i int) []float64) {
	values, scales := m.Row(r)
	inputs := m.RowInputs(r)
	x, by := make([]float64, len(w)), make([]float64, len(w))
	largest := 0.0
	for k, v := range w {
		x[k], by[k] = float64(v)/float64(inputs[k]), float64(weight[k])
		largest = max(largest, math.Abs(x[k]))
	}
	scale := Scale8(largest)
	if m.Format == kernel.Int8 {
		scales[0] = scale
	}
	for k := range x {
		if m.Format == kernel.Int4 && k%kernel.QuantGroup == 0 {
			end := min(len(x), k+kernel.QuantGroup)
			scale = Scale4(x[k:end], by[k:end])
			scales[k/kernel.QuantGroup] = scale
		}
		values[k] = Nearest(m.Format, x[k], scale)
		u := upper(k)
		lost := (x[k] - float64(values[k])*float64(scale)) / u[k]
		if lost == 0 {
			continue
		}
		for j := k + 1; j < len(x); j++ {
			x[j] -= lost * u[j]
		}
	}
}

// Nearest is the integer that times the scale is nearest to x.
func Nearest(f kernel.FormatName, x float64, scale float32) int8 {
	if scale == 0 {
		return 0
	}
	lo, hi := limits(f)
	return int8(max(float64(lo), min(float64(hi), math.RoundToEven(x/float64(scale)))))
}

// Scale8 is the scale of a row of int8 with a largest magnitude.
func Scale8(largest float64) float32 {
	s := float32(largest / 127)
	if s < least {
		return 0
	}
	return s
}

// least is the smallest scale: below it are zeros, so that neither a scale nor what is
// divided by one leaves the range of normal numbers.
const least = 0x1p-100

// tried is the number of scales that are tried on either side of the one that takes the
// largest magnitude to -8, a quarter of an integer apart.
const tried = 5

// Scale4 is the scale of a group of int4 for which the sum of squared errors, weighted,
// is least: that of the sign which takes the largest magnitude to -8, or one nearby,
// each followed by the one that is best for its integers. It is a bfloat16.
func Scale4(x, weight []float64) float32 {
	top := 0.0
	for _, v := range x {
		if math.Abs(v) > math.Abs(top) {
			top = v
		}
	}
	if math.Abs(top)/8 < least {
		return 0
	}
	best, lost := float32(0), math.Inf(1)
	try := func(s float32) {
		if s == 0 {
			return
		}
		sum := 0.0
		for i, v := range x {
			d := v - float64(Nearest(kernel.Int4, v, s))*float64(s)
			sum += weight[i] * d * d
		}
		if sum < lost {
			best, lost = s, sum
		}
	}
	try(rounded(top / -8))
	for t := -tried; t <= tried; t++ {
		s := top / -(8 + 0.25*float64(t))
		var xq, qq float64
		for i, v := range x {
			q := max(-8, min(7, math.RoundToEven(v/s)))
			xq += weight[i] * v * q
			qq += weight[i] * q * q
		}
		if qq > 0 {
			try(rounded(xq / qq))
		}
	}
	return best
}

// rounded is the nearest bfloat16, ties to even, of a magnitude that has one.
func rounded(x float64) float32 {
	u := math.Float32bits(float32(x))
	return math.Float32frombits((u + 0x7fff + u>>16&1) &^ 0xffff)
}

// reach bounds how far apart the inputs' scales are.
const reach = 0x1p20

// Equalize gives the inputs of a row scales: activations of size a, and weights up to w,
// become equally large, so that neither loses its bits to a few large channels. Inputs of
// which either is nothing stay as the typical ones.
func Equalize(scales, a, w []float32) {
	var known []float64
	for k := range scales {
		if r := float64(w[k]) / float64(a[k]); a[k] > 0 && w[k] > 0 && r <= math.MaxFloat32 {
			known = append(known, r)
		}
	}
	if len(known) == 0 {
		return
	}
	slices.Sort(known)
	typical := known[len(known)/2]
	for k := range scales {
		r := 1.0
		if a[k] > 0 && w[k] > 0 {
			r = max(1/reach, min(reach, float64(w[k])/float64(a[k])/typical))
		}
		scales[k] = float32(math.Sqrt(r))
	}
}

// Ordered are weights of a row, in the order in which a product reads them.
func Ordered(w []float32, order []int) []float32 {
	x := make([]float32, len(order))
	for k, c := range order {
		x[k] = w[c]
	}
	return x
}
