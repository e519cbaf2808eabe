// Package spec says what a structured layer, a feed-forward network or a whole
// model is: its kind and widths, whether they are valid, which parameters it
// has and how many, and how many floating-point operations it takes.
//
// The package is pure and imports only the standard library: the generator
// plans from it and the runtime uses its values as keys.
//
// Source of every definition: Wei et al. 2024, "Building on Efficient
// Foundations" (arXiv 2406.16450).
package spec

import "fmt"

// Shuffle is a fixed relabelling of the entries of a vector that follows a
// factor: the vector, read as an array [Outer, Inner, Run], has its first two
// axes swapped. The zero Shuffle leaves it as it is.
type Shuffle struct{ Outer, Inner, Run int }

// Deal is the shuffle of n*q entries that deals entry i to pile i mod n, at
// place i div n: block l of n in the next factor reads pile l.
func Deal(n, q int) Shuffle { return Shuffle{q, n, 1} }

// Riffle undoes Deal: entry i of block l of n becomes output i*n + l.
func Riffle(n, q int) Shuffle { return Shuffle{n, q, 1} }

// Moves reports whether any entry of the vector changes its place.
func (s Shuffle) Moves() bool { return s.Outer > 1 && s.Inner > 1 }

// Of is the place that entry i has after the shuffle.
func (s Shuffle) Of(i int) int {
	if !s.Moves() {
		return i
	}
	row := i / s.Run
	return (row%s.Inner*s.Outer+row/s.Inner)*s.Run + i%s.Run
}

// String shows the axes before and after: 4x96 to 96x4.
func (s Shuffle) String() string {
	run := ""
	if s.Run > 1 {
		run = fmt.Sprintf("x%d", s.Run)
	}
	return fmt.Sprintf("%dx%d%s to %dx%d%s", s.Outer, s.Inner, run, s.Inner, s.Outer, run)
}

// Factor is a block-diagonal matrix: Blocks blocks, each Out x In, stored
// row-major as [Blocks, Out, In] (or [Out, In] where the layer's kind never
// has more than one block in this factor).
type Factor struct {
	// Param is the reference's name of the weight: weight, lr1, blkdiag, ...
	Param string
	// Shape is the shape of the stored weight.
	Shape []int
	// Blocks, In and Out count the blocks and the inputs and outputs of each.
	Blocks, In, Out int
	// Then is the shuffle of the factor's Blocks*Out outputs.
	Then Shuffle
}

// Weights is the number of weights of the factor.
func (f Factor) Weights() int { return f.Blocks * f.In * f.Out }

// Shuffled is the place that output i of the factor has after its shuffle.
func (f Factor) Shuffled(i int) int { return f.Then.Of(i) }

// Linear is one linear layer, y = x W^T + bias, x having In entries and y
// Out. The zero Kind is invalid.
type Linear struct {
	Kind    Kind
	In, Out int
	// Rank is the inner width of kinds that have one ([Ranked]), 0 otherwise.
	Rank int
	// Blocks is the block count of kinds that have one ([Blocked]), 0 otherwise.
	Blocks int
	// InSplit and OutSplit say how kinds that choose it ([Split]) cut the two widths;
	// 0 is the kind's rule.
	InSplit, OutSplit int
	Bias              bool
	// Guide says that a dense guide [Out, In] runs beside the chain, in
	// self-guided training (paper, section 5).
	Guide bool
}

// Param is one named parameter with its shape.
type Param struct {
	Name  string
	Shape []int
}

// Size is the number of entries of the parameter.
func (p Param) Size() int {
	n := 1
	for _, d := range p.Shape {
		n *= d
	}
	return n
}

// Params lists the parameters of the layer: the factors' weights in chain
// order, then the bias where there is one. The guide is not among them.
func (l Linear) Params() []Param {
	var ps []Param
	for _, f := range l.Chain() {
		ps = append(ps, Param{f.Param, f.Shape})
	}
	if l.Bias {
		ps = append(ps, Param{"bias", []int{l.Out}})
	}
	return ps
}

// Rates are the learning rates of the factors' weights of a valid layer, in chain
// order, as multiples of the run's. Biases and guides have the run's.
func (l Linear) Rates() []float64 {
	if row, _ := l.Kind.row(); row.rates != nil {
		return row.rates(l, row.chain(l))
	}
	rates := make([]float64, len(l.Chain()))
	for i := range rates {
		rates[i] = 1
	}
	return rates
}

// GuideParam is the dense guide, of a layer that has one.
func (l Linear) GuideParam() Param { return Param{"guide_linear", []int{l.Out, l.In}} }

// Weights is the number of weights, the bias not counted.
func (l Linear) Weights() int {
	n := 0
	for _, f := range l.Chain() {
		n += f.Weights()
	}
	return n
}

// FFN is a feed-forward network, fc2(act(fc1(x))), both linears of one kind.
type FFN struct {
	Kind         Kind
	Hidden, FFN  int
	Rank, Blocks int
	// HiddenSplit and FFNSplit say how kinds that choose it ([Split]) cut the two
	// widths; 0 is the kind's rule.
	HiddenSplit, FFNSplit int
	Act                   Act
	Bias                  bool
	// Guide gives both linears a guide.
	Guide bool
}

// FC1 is the first linear: Hidden -> FFN, times the columns of the activation.
func (f FFN) FC1() Linear {
	return Linear{Kind: f.Kind, In: f.Hidden, Out: f.FFN * f.Act.Columns(), Rank: f.Rank, Blocks: f.Blocks,
		InSplit: f.HiddenSplit, OutSplit: f.FFNSplit, Bias: f.Bias, Guide: f.Guide}
}

// FC2 is the second linear: FFN -> Hidden.
func (f FFN) FC2() Linear {
	return Linear{Kind: f.Kind, In: f.FFN, Out: f.Hidden, Rank: f.Rank, Blocks: f.Blocks,
		InSplit: f.FFNSplit, OutSplit: f.HiddenSplit, Bias: f.Bias, Guide: f.Guide}
}
