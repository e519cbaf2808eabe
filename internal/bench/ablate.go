package bench

import (
	"github.com/structuredffn/sffn/gen/spec"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/vec"
	"slices"
)

// Ablation is what the decisions of the generator earn on the forward pass of
// a network. Each is the time without it / the time with it.
type Ablation struct {
	Layer   string `json:"layer"`
	Rows    int    `json:"rows"`
	Threads int    `json:"threads"`
	Rate           // of the network as it is
	// Specialised: any-shape kernels in place of those of the shape.
	Specialised Spread `json:"specialised"`
	// Fused: factor by factor over all rows, in place of row blocks through the
	// whole network.
	Fused Spread `json:"fused"`
	// Absorbed, of chains with shuffles: products without shuffles and passes that
	// permute, in place of shuffles in packs and addresses; both factor by
	// factor.
	Absorbed *Spread `json:"absorbed,omitempty"`
}

// Ablate times a network without biases as it is, and with one decision of
// the generator undone at a time.
func (b *Bench) Ablate(f spec.FFN, rows int) (Ablation, error) {
	f.Bias = false
	n, err := b.network(f, rows, false)
	if err != nil {
		return Ablation{}, err
	}
	defer n.close()
	general := *b
	general.AnyShape = true
	anyShape, err := general.network(f, rows, false)
	if err != nil {
		return Ablation{}, err
	}
	defer anyShape.close()
	ops := []op{
		{name: "forward", format: n.format, flops: n.flops, time: calls(func(int) { n.Forward(n.y, n.x, nil, rows, nil, n.ws) })},
		{time: calls(func(int) { anyShape.Forward(anyShape.y, anyShape.x, nil, rows, nil, anyShape.ws) })},
		{time: calls(n.byFactor(rows, b.ISA))},
	}
	if shuffled(f) {
		l, err := b.literal(n, rows)
		if err != nil {
			return Ablation{}, err
		}
		defer l.close()
		ops = append(ops, op{time: calls(l.forward)})
	}
	samples, err := b.measure(nil, ops...)
	if err != nil {
		return Ablation{}, err
	}
	a := Ablation{Layer: f.Name(), Rows: rows, Threads: b.Pool.Threads(), Rate: rate(samples, ops, 0), Specialised: slower(samples, 1, 0), Fused: slower(samples, 2, 0)}
	if len(ops) > 3 {
		s := slower(samples, 3, 2)
		a.Absorbed = &s
	}
	return a, nil
}

// byFactor runs the network one factor after the other over all rows.
func (n *network) byFactor(rows int, isa kernel.ISA) func(int) {
	var steps []func()
	src := n.x
	factors := n.Factors()
	f := n.Spec()
	for i, c := range factors {
		if wants, _, _ := c.Widths(); len(src) != rows*wants { // the activation is a pass of its own
			act, pre := n.arena.Floats(rows*wants), src
			steps = append(steps, func() { vec.For(isa).Activate(kernel.Epilogue(f.Act), act, pre, f.FFN) })
			src = act
		}
		_, width, _ := c.Widths()
		dst := n.y
		if i < len(factors)-1 {
			dst = n.arena.Floats(rows * width)
		}
		from := src
		steps = append(steps, func() { c.Forward(dst, from, rows, n.ws) })
		src = dst
	}
	return func(int) {
		for _, s := range steps {
			s()
		}
	}
}

// shuffled reports whether a network's chains have shuffles.
func shuffled(f spec.FFN) bool {
	return slices.ContainsFunc(f.FC1().Chain(), func(c spec.Factor) bool { return c.Then.Moves() })
}

// literal is a network that permutes by passes over the data.
type literal struct {
	Bench
	rows   int
	layers []*rt.Linear
	arena  rt.Arena
	ws     *rt.Workspace
	steps  []func()
	y      []float32
}

// literal makes the network with the weights and the input of n.
func (b *Bench) literal(n *network, rows int) (*literal, error) {
	l := &literal{Bench: *b, rows: rows, ws: rt.NewWorkspace(b.Pool), y: n.x}
	f := n.Spec()
	for i, part := range []spec.Linear{f.FC1(), f.FC2()} {
		w := []rt.Weights{n.w.FC1, n.w.FC2}[i]
		for j, c := range part.Chain() {
			if err := l.product(c, w.Factors[j]); err != nil {
				l.close()
				return nil, err
			}
			last := j == len(w.Factors)-1
			l.permute(c, i == 0 && last, f)
		}
	}
	return l, nil
}

// product adds the product with a factor whose shuffle is left out: it is the
// first factor of a blockdense layer.
func (l *literal) product(c spec.Factor, w []float32) error {
	s := spec.Linear{Kind: spec.BlockDense, In: c.Blocks * c.In, Out: 1, Rank: c.Blocks * c.Out, Blocks: c.Blocks}
	opt := l.Options
	opt.Train = false
	layer, err := rt.NewLinear(s, rt.Weights{Factors: [][]float32{w, make([]float32, s.Rank)}}, opt)
	if err != nil {
		return err
	}
	l.layers = append(l.layers, layer)
	x, y := l.y, l.arena.Floats(l.rows*s.Rank)
	l.steps = append(l.steps, func() { layer.Factors()[0].Forward(y, x, l.rows, l.ws) })
	l.y = y
	return nil
}

// permute adds the pass over all rows that the factor's shuffle is, and the
// activation of each row that it has moved.
func (l *literal) permute(c spec.Factor, activate bool, f spec.FFN) {
	n, width := c.Blocks, c.Blocks*c.Out
	t := vec.For(l.ISA)
	move := func(dst, src []float32) { runs(dst, src, c.Then) }
	switch c.Then {
	case spec.Deal(n, c.Out):
		move = func(dst, src []float32) { deal(t, l.ISA, dst, src, n) }
	case spec.Riffle(n, c.Out):
		spread := t.NewSpread(n)
		move = func(dst, src []float32) { riffle(spread, dst, src, n) }
	}
	out := width
	if activate {
		out = f.FFN
	}
	x, y, moved := l.y, l.arena.Floats(l.rows*out), l.arena.Floats(l.Pool.Threads()*width)
	const chunk = 16
	l.steps = append(l.steps, func() {
		l.Pool.Run((l.rows+chunk-1)/chunk, func(worker, i int) {
			for r := i * chunk; r < min(l.rows, (i+1)*chunk); r++ {
				src, dst, mid := x[r*width:(r+1)*width], y[r*out:(r+1)*out], moved[worker*width:(worker+1)*width]
				if !activate || !f.Act.Gated() {
					mid = dst
				}
				move(mid, src)
				if activate {
					t.Activate(kernel.Epilogue(f.Act), dst, mid, out)
				}
			}
		})
	})
	l.y = y
}

func (l *literal) forward(int) {
	for _, s := range l.steps {
		s()
	}
}

func (l *literal) close() {
	for _, c := range l.layers {
		c.Close()
	}
	l.ws.Close()
	l.arena.Close()
}

// runs sends each run of a row to its place.
func runs(dst, src []float32, then spec.Shuffle) {
	n := then.Run
	if !then.Moves() {
		n = len(src)
	}
	for i := 0; i < len(src); i += n {
		copy(dst[then.Of(i):], src[i:i+n])
	}
}

// deal sends entry i of a row to pile i mod n, at place i div n.
func deal(t *vec.Table, isa kernel.ISA, dst, src []float32, n int) {
	q, strip := len(src)/n, kernel.For(isa).StripRows
	whole := q / strip * strip
	for pile := range n {
		d := dst[pile*q : (pile+1)*q]
		if whole > 0 {
			t.PackStrips(d, src[pile:], nil, 1, whole/strip, strip, n, strip, len(src))
		}
		for a := whole; a < q; a++ {
			d[a] = src[a*n+pile]
		}
	}
}

// riffle undoes deal.
func riffle(spread *vec.Spread, dst, src []float32, n int) {
	q := len(src) / n
	whole := q / 16 * 16
	for pile := range n {
		s := src[pile*q : (pile+1)*q]
		if whole > 0 {
			spread.Run(dst[pile:], s, nil, 1, whole, len(dst))
		}
		for a := whole; a < q; a++ {
			dst[a*n+pile] = s[a]
		}
	}
}
