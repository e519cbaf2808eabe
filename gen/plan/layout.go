package plan

import (
	"slices"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// Run is an arithmetic progression of Len indices: Off, Off+Step, ...
type Run struct{ Off, Step, Len int }

// At is the i-th index of the run.
func (r Run) At(i int) int { return r.Off + i*r.Step }

// Seg is a stretch of a vector: where its entries are stored in a row and
// which index of their block each has. Both runs have the same length.
type Seg struct{ Store, Canon Run }

// Block is one block of a factor with the places of its inputs and outputs,
// in the order of storage.
type Block struct {
	In, Out []Seg
	// Up lists, for gated activations, the output that is multiplied with each of Out's
	// gates; its Store counts in the row of values before the activation.
	Up []Seg
}

// Factor is a factor of a layer with everything that its kernels need to
// know about shuffles: they are places, never passes over the data.
type Factor struct {
	spec.Factor
	Blocks []Block
	// InWidth and OutWidth are the entries of a stored source and destination
	// row. PreWidth is the width of a row of values before the activation:
	// OutWidth times the columns of the activation.
	InWidth, OutWidth, PreWidth int
	// Epilogue is the activation on the factor's outputs.
	Act spec.Act
	// Across says that the factor's lanes run across its blocks, which lie side by side.
	Across bool
	// Format is that of the factor's products.
	Format kernel.FormatName
}

// In is the layer with its products in a format. Factors whose lanes run across blocks
// keep float32, and others too small for integers bfloat16.
func (l Layer) In(format kernel.FormatName) Layer {
	l.Factors = slices.Clone(l.Factors)
	for i := range l.Factors {
		f := &l.Factors[i]
		f.Format, _ = f.FormatIn(format)
	}
	if l.Guide != nil {
		g := *l.Guide
		g.Format = format
		l.Guide = &g
	}
	return l
}

// Layer is a planned linear layer.
type Layer struct {
	Spec    spec.Linear
	Factors []Factor
	// Guide is the dense factor beside the chain, nil where there is none. It
	// leaves the activation to the chain, whose sums are added to its own.
	Guide *Factor
	// Bias maps each stored output (before the activation) to its entry of
	// the bias.
	Bias []int
}

// Inner counts the entries of a row between the factors.
func (l Layer) Inner() int {
	n := 0
	for _, f := range l.Factors[:len(l.Factors)-1] {
		n += f.OutWidth
	}
	return n
}

// Wide reports whether there is more between the factors than at both ends: then
// the backward pass computes it again, block of rows by block, and nobody keeps it.
func (l Layer) Wide() bool { return l.Inner() > l.Spec.In+l.Spec.Out }

// Saved counts the entries of a row between the factors that the backward pass
// finds saved.
func (l Layer) Saved() int {
	if l.Wide() {
		return 0
	}
	return l.Inner()
}

// FFN is a planned feed-forward network. Between its layers the hidden
// activation is stored in the order in which fc1's blocks make it.
type FFN struct {
	Spec     spec.FFN
	FC1, FC2 Layer
	// Apart says that the activation is a pass of its own between the layers, over
	// rows of values before it: a gate and its up lie in different blocks.
	Apart bool
}

// NewLayer plans a single linear layer, input and output in their true order.
func NewLayer(l spec.Linear) Layer {
	return NewStoredLayer(l, Identity(l.In), Identity(l.Out), "")
}

// NewFFN plans a feed-forward network.
func NewFFN(f spec.FFN) FFN { return NewFFNIn(f, kernel.F32) }

// NewFFNIn plans a feed-forward network whose products are in a format. Kernels of packs
// that are not float32 leave the activation to a pass of its own.
func NewFFNIn(f spec.FFN, format kernel.FormatName) FFN {
	fc1 := f.FC1()
	// hidden[j] is the stored place of activation j: block-major, because a
	// riffle after fc1 would move data that fc2 only deals out again.
	hidden := make([]int, f.FFN)
	chain := fc1.Chain()
	last := chain[len(chain)-1]
	place := 0
	for i := range fc1.Out {
		if j := last.Shuffled(i); j < f.FFN {
			hidden[j] = place
			place++
		}
	}
	pre := slices.Clone(hidden)
	for column := range f.Act.Columns() - 1 {
		for _, s := range hidden {
			pre = append(pre, (column+1)*f.FFN+s)
		}
	}
	lone := format != "" && format != kernel.F32
	p := FFN{Spec: f, Apart: lone || apart(last, f.FFN), FC2: NewStoredLayer(f.FC2(), hidden, Identity(f.Hidden), "").In(format)}
	act := f.Act
	if p.Apart {
		act = ""
	}
	p.FC1 = NewStoredLayer(fc1, Identity(f.Hidden), pre, act).In(format)
	return p
}

// apart reports whether results j and j+n of a factor lie in different blocks,
// for any j that has both.
func apart(f spec.Factor, n int) bool {
	block := make([]int, f.Blocks*f.Out)
	for i := range block {
		block[f.Shuffled(i)] = i / f.Out
	}
	for j := n; j < len(block); j++ {
		if block[j] != block[j%n] {
			return true
		}
	}
	return false
}

// Identity is the order of n entries that lie as they are.
func Identity(n int) []int {
	p := make([]int, n)
	for i := range p {
		p[i] = i
	}
	return p
}

// NewStoredLayer plans l, whose input j is stored at place in[j] and whose output j,
// before the activation, at out[j].
func NewStoredLayer(l spec.Linear, in, out []int, act spec.Act) Layer {
	return NewChain(l, l.Chain(), in, out, act)
}

// NewChain plans a layer of any chain: what NewStoredLayer does for that of a kind.
func NewChain(l spec.Linear, chain []spec.Factor, in, out []int, act spec.Act) Layer {
	p := Layer{Spec: l, Bias: make([]int, l.Out)}
	for j, s := range out {
		p.Bias[s] = j
	}
	// order[i] is that of the inputs of factor i, by the numbers that it reads them by.
	order := make([][]int, len(chain)+1)
	acts, lanes := make([]spec.Act, len(chain)), make([]bool, len(chain))
	for i, sf := range chain {
		order[i] = Identity(sf.Blocks * sf.In)
	}
	order[0], order[len(chain)], acts[len(chain)-1] = in, out, act
	for i, sf := range chain[:len(chain)-1] {
		if sf.Then.Moves() && sf.Then.Run > 1 {
			// Runs are read where they lie: the next factor's k are segments of them.
			// Storing them where they belong would be a masked store for each.
			order[i+1] = after(sf, Identity(sf.Blocks*sf.Out))
		}
	}
	for i := range chain {
		if before, behind, ok := across(chain, i); ok {
			order[i], order[i+1], lanes[i] = before, behind, true
		}
	}
	for i, sf := range chain {
		f := newFactor(sf, order[i], order[i+1], acts[i])
		f.Across = lanes[i]
		p.Factors = append(p.Factors, f)
	}
	if l.Guide {
		if !act.Gated() { // only kernels of gated ones know where the halves go
			act = ""
		}
		q := l.GuideParam()
		g := newFactor(spec.Factor{Param: q.Name, Shape: q.Shape, Blocks: 1, In: l.In, Out: l.Out}, in, out, act)
		p.Guide = &g
	}
	return p
}

// newFactor plans a factor whose input i is stored at src[i], and whose output
// i, after its shuffle, at dst[i].
func newFactor(sf spec.Factor, src, dst []int, act spec.Act) Factor {
	f := Factor{Factor: sf, InWidth: sf.Blocks * sf.In, OutWidth: sf.Blocks * sf.Out, Act: act}
	f.PreWidth = f.OutWidth
	if act.Gated() {
		f.OutWidth /= 2
	}
	for b := range sf.Blocks {
		ins := make([]place, sf.In)
		for d := range ins {
			ins[d] = place{src[b*sf.In+d], d}
		}
		var outs, ups []place
		for c := range sf.Out {
			s := dst[sf.Shuffled(b*sf.Out+c)]
			if s < f.OutWidth {
				outs = append(outs, place{s, c})
			} else {
				ups = append(ups, place{s, c})
			}
		}
		f.Blocks = append(f.Blocks, Block{In: segments(ins), Out: segments(outs), Up: segments(ups)})
	}
	return f
}

type place struct{ store, canon int }

// segments sorts places by storage and joins them into the fewest segments
// that are arithmetic progressions in both numberings; storage steps 1 except
// where the whole block is stored with one larger step.
func segments(places []place) []Seg {
	slices.SortFunc(places, func(a, b place) int { return a.store - b.store })
	step := 1
	if len(places) > 1 {
		step = places[1].store - places[0].store
		for i := 1; i < len(places); i++ {
			if places[i].store-places[i-1].store != step {
				step = 1
				break
			}
		}
	}
	var segs []Seg
	for i := 0; i < len(places); {
		canon := 1
		if i+1 < len(places) && places[i+1].store-places[i].store == step {
			canon = places[i+1].canon - places[i].canon
		}
		n := 1
		for i+n < len(places) && places[i+n].store-places[i+n-1].store == step && places[i+n].canon-places[i+n-1].canon == canon {
			n++
		}
		segs = append(segs, Seg{Run{places[i].store, step, n}, Run{places[i].canon, canon, n}})
		i += n
	}
	return segs
}
