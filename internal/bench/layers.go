package bench

import (
	"math"

	"github.com/structuredffn/sffn/gen/spec"
	rt "github.com/structuredffn/sffn/runtime"
)

// Result is the speed of one operation of a network, or of one factor of it.
type Result struct {
	Layer   string `json:"layer"`
	Factor  string `json:"factor,omitempty"` // layer and shape, blocks x out x in
	Op      string `json:"op"`
	Rows    int    `json:"rows"` // tokens
	Threads int    `json:"threads"`
	Rate
	// Pays is (time of the dense network / time) / (FLOPs of the dense network
	// / FLOPs), both timed in turn: 1 where structure saves as much time as
	// arithmetic.
	Pays *Spread `json:"pays,omitempty"`
}

// readBound is the number of rows up to which reading the weights may bound
// the time.
const readBound = 64

// network is a feed-forward network with weights and buffers to run it on.
type network struct {
	*rt.FFN
	w, g  rt.FFNWeights
	flops float64
	arena rt.Arena
	x, y  []float32
	ws    *rt.Workspace
	saved *rt.Saved
}

func (b *Bench) network(f spec.FFN, rows int, train bool) (*network, error) {
	n := &network{flops: 2 * float64(rows) * float64(f.FC1().Weights()+f.FC2().Weights())}
	weights := func(l spec.Linear) (w, g rt.Weights) {
		for _, c := range l.Chain() {
			w.Factors = append(w.Factors, normal(c.Weights(), 1/math.Sqrt(float64(c.In))))
			g.Factors = append(g.Factors, make([]float32, c.Weights()))
		}
		if l.Bias {
			w.Bias, g.Bias = normal(l.Out, 1), make([]float32, l.Out)
		}
		return w, g
	}
	n.w.FC1, n.g.FC1 = weights(f.FC1())
	n.w.FC2, n.g.FC2 = weights(f.FC2())
	opt := b.Options
	opt.Train = train
	var err error
	if n.FFN, err = rt.NewFFN(f, n.w, opt); err != nil {
		return nil, err
	}
	n.x, n.y = n.arena.Floats(rows*f.Hidden), n.arena.Floats(rows*f.Hidden)
	copy(n.x, normal(rows*f.Hidden, 1))
	n.ws = n.NewWorkspace()
	if train {
		n.saved = n.NewSaved(rows)
	}
	return n, nil
}

func (n *network) close() {
	n.FFN.Close()
	n.ws.Close()
	if n.saved != nil {
		n.saved.Close()
	}
	n.arena.Close()
}

// Factors times every factor of a network by itself: forward for any number
// of rows, the backward passes where there are more than few.
func (b *Bench) Factors(f spec.FFN, rows int) ([]Result, error) {
	few := rows <= readBound
	n, err := b.network(f, rows, !few)
	if err != nil {
		return nil, err
	}
	defer n.close()
	var results []Result
	for _, c := range n.Factors() {
		for _, r := range b.factor(n, c, rows) {
			r.Layer, r.Factor, r.Rows, r.Threads = f.Name(), c.Name(), rows, b.Pool.Threads()
			results = append(results, r)
		}
	}
	return results, nil
}

func (b *Bench) factor(n *network, c rt.Factor, rows int) []Result {
	var arena rt.Arena
	defer arena.Close()
	in, out, pre := c.Widths()
	x, y, dy := arena.Floats(rows*in), arena.Floats(rows*out), arena.Floats(rows*pre)
	copy(x, normal(len(x), 1))
	copy(dy, normal(len(dy), 1))
	blocks, o, k := c.Shape()
	flops := 2 * float64(rows) * float64(blocks*o*k)
	if rows <= readBound {
		bytes := c.PackedBytes()
		size := bytes
		factors := []rt.Factor{c}
		if b.Cold {
			size = memoryBytes()
			for len(factors)*bytes < size {
				factors = append(factors, c.Copy(&arena))
			}
		}
		forward := op{func(j int) { factors[j%len(factors)].Forward(y, x, rows, n.ws) }, flops, float64(bytes)}
		s := b.measure(readable(&arena, size), forward)
		return []Result{{Op: "forward", Rate: forward.rate(s, 0)}}
	}
	g := make([]float32, blocks*o*k)
	var results []Result
	for _, p := range []struct {
		name string
		run  func(int)
	}{
		{"forward", func(int) { c.Forward(y, x, rows, n.ws) }},
		{"backward data", func(int) { c.BackwardData(x, dy, rows, n.ws) }},
		{"backward weight", func(int) { c.BackwardWeight(g, dy, x, rows, n.ws) }},
	} {
		q := op{p.run, flops, 0}
		results = append(results, Result{Op: p.name, Rate: q.rate(b.measure(nil, q), 0)})
	}
	return results
}

// FFN times a whole network: forward as for decoding, forward with what the
// backward pass needs, both halves of the backward pass, and the three last
// together, as training runs them. Structured networks take turns with the
// dense one of the same widths.
func (b *Bench) FFN(f spec.FFN, rows int) ([]Result, error) {
	n, err := b.network(f, rows, true)
	if err != nil {
		return nil, err
	}
	defer n.close()
	ops := n.ops(rows)
	all := append([]namedOp(nil), ops...)
	structured := f.Kind != spec.Dense
	if structured {
		d := spec.FFN{Kind: spec.Dense, Hidden: f.Hidden, FFN: f.FFN, Act: f.Act, Bias: f.Bias}
		dense, err := b.network(d, rows, true)
		if err != nil {
			return nil, err
		}
		defer dense.close()
		all = append(all, dense.ops(rows)...)
	}
	var plain []op
	for _, o := range all {
		plain = append(plain, o.op)
	}
	samples := b.measure(nil, plain...)
	var results []Result
	for k, o := range ops {
		r := Result{Layer: f.Name(), Op: o.name, Rows: rows, Threads: b.Pool.Threads(), Rate: o.rate(samples, k)}
		if structured {
			var v []float64
			for _, s := range samples {
				v = append(v, s.seconds[len(ops)+k]/s.seconds[k]*o.flops/plain[len(ops)+k].flops)
			}
			p := spreadOf(v)
			r.Pays = &p
		}
		results = append(results, r)
	}
	return results, nil
}

type namedOp struct {
	name string
	op
}

func (n *network) ops(rows int) []namedOp {
	forward := func(saved *rt.Saved) { n.Forward(n.y, n.x, nil, rows, saved, n.ws) }
	dx := n.arena.Floats(len(n.x))
	data := func(int) { n.BackwardData(dx, n.x, rows, n.saved, n.ws) }
	weight := func(int) { n.BackwardWeights(n.g, n.x, n.x, rows, n.saved, false, n.ws) }
	return []namedOp{
		{"forward", op{func(int) { forward(nil) }, n.flops, 0}},
		{"forward and save", op{func(int) { forward(n.saved) }, n.flops, 0}},
		{"backward data", op{data, n.flops, 0}},
		{"backward weight", op{weight, n.flops, 0}},
		{"forward and backward", op{func(i int) { forward(n.saved); data(i); weight(i) }, 3 * n.flops, 0}},
	}
}
