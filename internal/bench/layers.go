package bench

import (
	"math"
	"slices"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/bench/peer"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/kernel"
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
	w, g   rt.FFNWeights
	flops  float64
	format kernel.FormatName
	arena  rt.Arena
	x, y   []float32
	ws     *rt.Workspace
	saved  *rt.Saved
}

func (b *Bench) network(f spec.FFN, rows int, train bool) (*network, error) {
	n := &network{format: b.Format, flops: 2 * float64(rows) * float64(f.FC1().Weights()+f.FC2().Weights())}
	weights := func(l spec.Linear) (w, g rt.Weights) {
		for _, c := range l.Chain() {
			w.Factors = append(w.Factors, normal(c.Weights(), 1/math.Sqrt(float64(c.In))))
			g.Factors = append(g.Factors, make([]float32, c.Weights()))
		}
		if l.Bias {
			w.Bias, g.Bias = normal(l.Out, 1), make([]float32, l.Out)
		}
		if l.Guide {
			w.Guide, g.Guide = normal(l.Out*l.In, 1/math.Sqrt(float64(l.In))), make([]float32, l.Out*l.In)
			n.flops += 2 * float64(rows) * float64(l.Out*l.In)
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
	if f.Guide {
		g := rt.Guide{On: true, Ratio: 0.5}
		n.SetGuides(g, g)
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
		rs, err := b.factor(n, c, rows)
		if err != nil {
			return nil, err
		}
		for _, r := range rs {
			r.Layer, r.Factor, r.Rows, r.Threads = f.Name(), c.Name(), rows, b.Pool.Threads()
			results = append(results, r)
		}
	}
	return results, nil
}

func (b *Bench) factor(n *network, c rt.Factor, rows int) ([]Result, error) {
	var arena rt.Arena
	defer arena.Close()
	in, out, pre := c.Widths()
	x, y, dy := arena.Floats(rows*in), arena.Floats(rows*out), arena.Floats(rows*pre)
	copy(x, normal(len(x), 1))
	copy(dy, normal(len(dy), 1))
	blocks, o, k := c.Shape()
	size, factors := c.PackedBytes(), []rt.Factor{c}
	few := rows <= readBound
	if few && b.Cold {
		size = memoryBytes()
		for len(factors)*c.PackedBytes() < size {
			factors = append(factors, c.Copy(&arena))
		}
	}
	p := &peer.Product{Rows: rows, Blocks: blocks, Out: o, In: k, X: arena.Floats(rows * blocks * k), Y: arena.Floats(rows * blocks * o)}
	copy(p.X, normal(len(p.X), 1))
	copy(p.Y, normal(len(p.Y), 1))
	ours := []op{{name: "forward", time: calls(func(i int) { factors[i%len(factors)].Forward(y, x, rows, n.ws) })}}
	if !few {
		g := make([]float32, blocks*o*k)
		p.G = arena.Floats(len(g))
		ours = append(ours,
			op{name: "backward data", time: calls(func(int) { c.BackwardData(x, dy, rows, n.ws) })},
			op{name: "backward weight", time: calls(func(int) { c.BackwardWeight(g, dy, x, rows, n.ws) })})
	}
	if len(b.Libraries) > 0 {
		for range factors {
			w := arena.Floats(blocks * o * k)
			copy(w, normal(len(w), 1/math.Sqrt(float64(k))))
			p.W = append(p.W, w)
		}
	}
	var read []float32
	if few {
		read = readable(&arena, size)
	}
	var results []Result
	for _, q := range ours {
		q.flops, q.format = 2*float64(rows)*float64(blocks*o*k), c.Format()
		if few {
			q.bytes = float64(c.PackedBytes())
		}
		ops := append([]op{q}, b.products(q.name, p)...)
		samples, err := b.measure(read, ops...)
		if err != nil {
			return nil, err
		}
		results = append(results, Result{Op: q.name, Rate: rate(samples, ops, 0)})
	}
	return results, nil
}

// products are the libraries' ways to compute the product that is called name.
func (b *Bench) products(name string, p *peer.Product) []op {
	threads := b.Pool.Threads()
	var ops []op
	for _, l := range b.Libraries {
		if most := l.MaxThreads(); most > 0 && threads > most {
			continue
		}
		var f func(i int)
		restore := l.Use(threads)
		switch name { // prepared as it will run: libxsmm's tiles are chosen here
		case "forward":
			f = l.Forward(p)
		case "backward data":
			f = l.BackwardData(p)
		case "backward weight":
			f = l.BackwardWeight(p)
		}
		restore()
		if f == nil {
			continue
		}
		timed := calls(f)
		ops = append(ops, op{name: name, peer: l.Name(), version: l.Version(), time: func(n int) (float64, error) {
			defer l.Use(threads)()
			return timed(n)
		}})
	}
	return ops
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
	ours := n.ops(rows)
	ops := slices.Clone(ours)
	structured := f.Kind != spec.Dense
	if structured {
		d := spec.FFN{Kind: spec.Dense, Hidden: f.Hidden, FFN: f.FFN, Act: f.Act, Bias: f.Bias}
		dense, err := b.network(d, rows, true)
		if err != nil {
			return nil, err
		}
		defer dense.close()
		for _, o := range dense.ops(rows) {
			o.name = "dense " + o.name
			ops = append(ops, o)
		}
	}
	programs, stop, err := b.programs(peer.Job{Mode: "ffn", FFN: &f, Rows: rows}, "forward", "forward and backward")
	if err != nil {
		return nil, err
	}
	defer stop()
	ops = append(ops, programs...)
	samples, err := b.measure(nil, ops...)
	if err != nil {
		return nil, err
	}
	var results []Result
	for k, o := range ours {
		r := Result{Layer: f.Name(), Op: o.name, Rows: rows, Threads: b.Pool.Threads(), Rate: rate(samples, ops, k)}
		if structured {
			d := len(ours) + k
			p := slower(samples, d, k).times(o.flops / ops[d].flops)
			r.Pays = &p
		}
		results = append(results, r)
	}
	return results, nil
}

// programs starts every other program on a job and returns its operations; stop
// ends the processes.
func (b *Bench) programs(job peer.Job, names ...string) (ops []op, stop func(), err error) {
	job.Threads = b.Pool.Threads()
	var ps []*peer.Process
	stop = func() {
		for _, p := range ps {
			p.Close()
		}
	}
	for _, t := range b.Programs {
		p, err := t.Start(job)
		if err != nil {
			stop()
			return nil, nil, err
		}
		ps = append(ps, p)
		for _, name := range names {
			ops = append(ops, op{name: name, peer: t.Name(), version: p.Version, time: func(n int) (float64, error) { return p.Run(name, n) }})
		}
	}
	return ops, stop, nil
}

func (n *network) ops(rows int) []op {
	forward := func(saved *rt.Saved) { n.Forward(n.y, n.x, nil, rows, saved, n.ws) }
	dx := n.arena.Floats(len(n.x))
	data := func(int) { n.BackwardData(dx, n.x, rows, n.saved, n.ws) }
	weight := func(int) { n.BackwardWeights(n.g, n.x, n.x, rows, n.saved, false, n.ws) }
	ops := []op{
		{name: "forward", flops: n.flops, time: calls(func(int) { forward(nil) })},
		{name: "forward and save", flops: n.flops, time: calls(func(int) { forward(n.saved) })},
		{name: "backward data", flops: n.flops, time: calls(data)},
		{name: "backward weight", flops: n.flops, time: calls(weight)},
		{name: "forward and backward", flops: 3 * n.flops, time: calls(func(i int) { forward(n.saved); data(i); weight(i) })},
	}
	for i := range ops {
		ops[i].format = n.format
	}
	return ops
}
