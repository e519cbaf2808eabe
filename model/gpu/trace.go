package gpu

import (
	"fmt"
	"math"
	"slices"

	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/runtime/cuda"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// network is a model bound to its weights on a device.
type network struct {
	plans
	spec     spec.Model
	w        *weights
	layers   []layer
	final    norm
	head     *linear
	cos, sin cuda.Buffer // rotary angles, [position, head size/2]
	wte, wpe cuda.Buffer
	mem      memory
}

type layer struct {
	norm1, norm2 norm
	qkv, out     *linear
	ffn          *ffn
	scale        cuda.Float32 // of the scores
}

// norm is a layer or RMS norm; grad is that of weight and bias, one after the
// other.
type norm struct {
	gpu.Norms
	w, b, grad cuda.Buffer
	width      int // of a row of partial sums
	eps        cuda.Float32
}

func newNetwork(r *runner, p plans, w *weights, grads *arena) (*network, error) {
	m := p.Model.Spec
	n := &network{plans: p, spec: m, w: w, mem: memory{d: r.d}, wte: w.master.get("model.wte.weight"), wpe: w.master.get("model.wpe.weight")}
	bind := func(k gpu.Norms, name string) norm {
		b := norm{Norms: k, w: w.master.get(name + ".weight"), b: w.master.get(name + ".bias"), width: m.Hidden, eps: cuda.Float32(m.NormEps)}
		if b.b.Size() > 0 {
			b.width *= 2
		}
		if grads != nil {
			b.grad = grads.Slice(4*w.slots[name+".weight"].offset, 4*b.width)
		}
		return b
	}
	for i, f := range p.FFN {
		name := model.LayerName(i)
		scale := 1 / math.Sqrt(float64(m.HeadDim()))
		if m.ScaleAttnByLayer {
			scale /= float64(i + 1)
		}
		n.layers = append(n.layers, layer{
			norm1: bind(p.Norm1[i], name+".ln1"), norm2: bind(p.Norm2[i], name+".ln2"),
			qkv: newLinear(p.QKV, name+".qkv_linear", w, grads), out: newLinear(p.Output, name+".o_linear", w, grads),
			ffn: newFFN(p.FFNs[f], name+".mlp", w, grads), scale: cuda.Float32(scale),
		})
	}
	n.final = bind(p.Final, "model.ln_f")
	n.head = newLinear(p.Head, "", w, grads)
	h := &n.head.factors[0]
	if h.w = w.bf16.get(headName(m)); grads != nil {
		h.g = grads.get(headName(m))
	}
	if m.Position == spec.RoPE {
		cos, sin := model.Angles(m)
		n.cos, n.sin = n.mem.float32(len(cos)), n.mem.float32(len(sin))
		r.do(func() error { return n.mem.err })
		r.do(func() error { return cuda.Upload(r.s, n.cos, cos) })
		r.do(func() error { return cuda.Upload(r.s, n.sin, sin) })
	}
	if r.err != nil {
		n.mem.free()
		return nil, r.err
	}
	return n, nil
}

// forward runs a norm on x + y, or on x where there is no y: s is the sum.
func (n norm) forward(r *runner, out, s, x, y, stats cuda.Buffer, tokens int) {
	a := cuda.Args{"x": x, "w": n.w, "out": out, "eps": n.eps}
	if n.b.Size() > 0 {
		a["b"] = n.b
	}
	if stats.Size() > 0 {
		a["stats"] = stats
	}
	if y.Size() > 0 {
		a["y"], a["s"] = y, s
	}
	r.launch(n.Forward, table.Counts{table.Tokens: tokens}, a)
}

// backward computes ds, the gradient of s, from that of the norm's output and
// dx, what flows past the norm, if anything does; and dy, the same in bf16 for
// the sublayer whose output was added, if one was.
func (n norm) backward(r *runner, ds, dy, dout, s, stats, dx, sums cuda.Buffer, tokens int, accumulate bool) {
	a := cuda.Args{"dout": dout, "s": s, "stats": stats, "w": n.w, "ds": ds, "sums": sums}
	if dx.Size() > 0 {
		a["dx"] = dx
	}
	if dy.Size() > 0 {
		a["dy"] = dy
	}
	r.launch(n.Backward, table.Counts{table.Tokens: tokens}, a)
	addUp(r, sumRows, n.grad, sums, (tokens+gpu.NormRows-1)/gpu.NormRows, accumulate)
}

// trace is room for the activations of up to rows tokens.
type trace struct {
	*network
	rows   int
	mem    memory
	layers []layerTrace
	ffns   []ffnScratch // by network of the plan
	// x is the embeddings; s, n and stats are those of the last norm; y what the
	// sublayers leave for the next norm.
	x, s, n, stats, y      cuda.Buffer
	logits, losses         cuda.Buffer
	in                     inputs
	parts, sums            cuda.Buffer
	dnorm, dy, dqkv, dattn cuda.Buffer
	ds                     [2]cuda.Buffer
	delta                  cuda.Buffer
	lossRows               int
	hostLosses             []float32
}

// layerTrace is what a layer's backward pass needs; s1 is not there in the first
// layer, which adds nothing.
type layerTrace struct {
	s1, s2, n1, n2, st1, st2, qkv, attn, lse cuda.Buffer
	ffn                                      ffnSaved
}

// headRows bounds the logits that exist at one time; tests lower it.
var headRows = gpu.HeadRows

func (n *network) newTrace(rows int) (*trace, error) {
	m := n.spec
	t := &trace{network: n, rows: rows, mem: memory{d: n.mem.d}, lossRows: min(rows, headRows), hostLosses: make([]float32, rows)}
	mem := &t.mem
	h, qkv := m.Hidden, m.QKV().Out
	t.ffns = make([]ffnScratch, len(n.FFNs))
	parts := n.head.partBytes(rows, true)
	for i, l := range n.layers {
		f := n.FFN[i]
		if t.ffns[f].dpre.Size() == 0 {
			t.ffns[f] = l.ffn.scratch(mem, rows, true)
		}
		parts = max(parts, l.qkv.partBytes(rows, true), l.out.partBytes(rows, true), l.ffn.partBytes(rows, true))
		c := layerTrace{s2: mem.float32(rows * h), n1: mem.bf16(rows * h), n2: mem.bf16(rows * h),
			st1: mem.float32(2 * rows), st2: mem.float32(2 * rows), qkv: mem.bf16(rows * qkv), attn: mem.bf16(rows * m.AttnDim),
			lse: mem.float32(rows * m.QHeads), ffn: l.ffn.save(mem, rows, true)}
		if i > 0 {
			c.s1 = mem.float32(rows * h)
		}
		t.layers = append(t.layers, c)
	}
	t.x, t.s, t.n, t.stats, t.y = mem.float32(rows*h), mem.float32(rows*h), mem.bf16(rows*h), mem.float32(2*rows), mem.bf16(rows*h)
	t.logits, t.losses = mem.bf16(t.lossRows*n.Logits), mem.float32(rows)
	t.dnorm, t.dy, t.dqkv, t.dattn = mem.bf16(rows*h), mem.bf16(rows*h), mem.bf16(rows*qkv), mem.bf16(rows*m.AttnDim)
	t.ds = [2]cuda.Buffer{mem.float32(rows * h), mem.float32(rows * h)}
	t.sums, t.delta = mem.float32(2*h*((rows+gpu.NormRows-1)/gpu.NormRows)), mem.float32(rows*m.QHeads)
	t.parts = mem.bytes(parts)
	size := 4 * (5*rows + m.Vocab + m.MaxPositions + 2)
	t.in.device = mem.bytes(size)
	err := mem.err
	if err == nil {
		t.in.host, err = mem.d.AllocHost(size)
	}
	if err != nil {
		mem.free()
		return nil, fmt.Errorf("activations of %d tokens: %w", rows, err)
	}
	return t, nil
}

// inputs are what the host sends with each micro-batch, in one copy: tokens and
// their positions, and for the gradients of both tables where each row's tokens
// are.
type inputs struct {
	host                    *cuda.Host
	device                  cuda.Buffer
	ids, targets, positions cuda.Buffer
	tokens, places          sorted
}

// sorted lists the rows of a batch by a key: those of key k are
// order[starts[k]:starts[k+1]].
type sorted struct {
	order, starts cuda.Buffer
	keys          int
}

// begin sends the tokens of batch sequences to the device. The host's side is
// free: whoever ran the last batch has waited for its loss.
func (t *trace) begin(r *runner, ids, targets []int32, seq int) {
	in := &t.in
	to, at := cuda.Of[int32](in.host), 0
	next := func(n int) ([]int32, cuda.Buffer) {
		b := in.device.Slice(4*at, 4*n)
		at += n
		return to[at-n : at], b
	}
	m := len(ids)
	var v, positions []int32
	v, in.ids = next(m)
	copy(v, ids)
	v, in.targets = next(m)
	copy(v, targets)
	positions, in.positions = next(m)
	for i := range positions {
		positions[i] = int32(i % seq)
	}
	for _, k := range []struct {
		*sorted
		by []int32
		n  int
	}{{&in.tokens, ids, t.spec.Vocab}, {&in.places, positions, t.spec.MaxPositions}} {
		var starts []int32
		k.keys = k.n
		v, k.order = next(m)
		starts, k.starts = next(k.n + 1)
		bucket(v, starts, k.by)
	}
	r.do(func() error { return r.s.Push(in.device, in.host, 4*at) })
}

// bucket fills order and starts of a sorted list.
func bucket(order, starts, keys []int32) {
	clear(starts)
	for _, k := range keys {
		starts[k+1]++
	}
	for k := range starts[1:] {
		starts[k+1] += starts[k]
	}
	for i, k := range slices.Backward(keys) { // from the end of each key's stretch
		starts[k+1]--
		order[starts[k+1]] = int32(i)
	}
	// Now starts[k+1] is where key k begins.
	copy(starts, starts[1:])
	starts[len(starts)-1] = int32(len(keys))
}

// embed sums the embeddings of tokens and positions.
func (n *network) embed(r *runner, x, ids, positions cuda.Buffer, tokens int) {
	a := cuda.Args{"ids": ids, "table": n.wte, "x": x}
	if n.wpe.Size() > 0 {
		a["positions"], a["places"] = positions, n.wpe
	}
	r.launch(n.Embed, table.Counts{table.Tokens: tokens}, a)
}

// rotate turns queries and keys to their positions, or back.
func (n *network) rotate(r *runner, qkv, positions cuda.Buffer, tokens int, sign float32) {
	if n.cos.Size() == 0 {
		return
	}
	r.launch(n.Rotate, table.Counts{table.Tokens: tokens, table.Positions: n.spec.MaxPositions},
		cuda.Args{"qkv": qkv, "positions": positions, "cos": n.cos, "sin": n.sin, "sign": cuda.Float32(sign)})
}

// forward computes everything up to the last norm of batch sequences.
func (t *trace) forward(r *runner, batch, seq int) {
	m := batch * seq
	t.embed(r, t.x, t.in.ids, t.in.positions, m)
	x, y := t.x, cuda.Buffer{}
	for i := range t.layers {
		l, c := &t.network.layers[i], &t.layers[i]
		l.norm1.forward(r, c.n1, c.s1, x, y, c.st1, m)
		if i > 0 {
			x = c.s1
		}
		l.qkv.run(r, c.qkv, c.n1, nil, cuda.Buffer{}, m, t.parts)
		t.rotate(r, c.qkv, t.in.positions, m, 1)
		t.attend(r, l, c, batch, seq)
		l.out.run(r, t.y, c.attn, nil, cuda.Buffer{}, m, t.parts)
		l.norm2.forward(r, c.n2, c.s2, x, t.y, c.st2, m)
		x, y = c.s2, t.y
		l.ffn.run(r, y, c.n2, c.ffn, t.ffns[t.FFN[i]], m, t.parts)
	}
	t.final.forward(r, t.n, t.s, x, y, t.stats, m)
}

// loss runs the head on m rows, a stretch at a time. With gradients it leaves
// those of scale times the sum of losses: that of the last norm's output in
// dnorm, and the head's own.
func (t *trace) loss(r *runner, m int, scale float64, gradients, accumulate bool) {
	h := t.spec.Hidden
	for at := 0; at < m; at += t.lossRows {
		n := min(t.lossRows, m-at)
		x := t.n.Slice(2*at*h, 2*n*h)
		t.head.run(r, t.logits, x, nil, cuda.Buffer{}, n, t.parts)
		r.launch(t.Loss, table.Counts{table.Tokens: n}, cuda.Args{"logits": t.logits, "targets": t.in.targets.Slice(4*at, 4*n), "losses": t.losses.Slice(4*at, 4*n),
			"scale": cuda.Float32(scale), "gradient": truth(gradients)})
		if gradients {
			t.head.backward(r, t.dnorm.Slice(2*at*h, 2*n*h), t.logits, nil, cuda.Buffer{}, n, t.parts)
			t.head.gradients(r, t.logits, x, nil, nil, n, accumulate || at > 0, t.parts)
		}
	}
}

// mean waits for the losses of m rows, of which so many count and the others
// are 0, and returns their mean.
func (t *trace) mean(r *runner, m, counted int) (float64, error) {
	r.do(func() error { return cuda.Download(r.s, t.hostLosses[:m], t.losses) })
	sum := 0.0
	for _, l := range t.hostLosses[:m] {
		sum += float64(l)
	}
	return sum / float64(counted), r.err
}

// backward computes the gradients of all parameters below the head, from dnorm.
func (t *trace) backward(r *runner, batch, seq int, accumulate bool, grads *arena) {
	m := batch * seq
	ds, next := t.ds[0], t.ds[1]
	t.final.backward(r, ds, t.dy, t.dnorm, t.s, t.stats, cuda.Buffer{}, t.sums, m, accumulate)
	for i := len(t.layers) - 1; i >= 0; i-- {
		l, c := &t.network.layers[i], &t.layers[i]
		l.ffn.backward(r, t.dnorm, t.dy, c.n2, c.ffn, t.ffns[t.FFN[i]], m, accumulate, t.parts)
		l.norm2.backward(r, next, t.dy, t.dnorm, c.s2, c.st2, ds, t.sums, m, accumulate)
		ds, next = next, ds
		l.out.backward(r, t.dattn, t.dy, nil, cuda.Buffer{}, m, t.parts)
		l.out.gradients(r, t.dy, c.attn, nil, nil, m, accumulate, t.parts)
		t.attendBackward(r, l, c, batch, seq)
		t.rotate(r, t.dqkv, t.in.positions, m, -1)
		l.qkv.backward(r, t.dnorm, t.dqkv, nil, cuda.Buffer{}, m, t.parts)
		l.qkv.gradients(r, t.dqkv, c.n1, nil, nil, m, accumulate, t.parts)
		s, dy := c.s1, t.dy
		if i == 0 {
			s, dy = t.x, cuda.Buffer{}
		}
		l.norm1.backward(r, next, dy, t.dnorm, s, c.st1, ds, t.sums, m, accumulate)
		ds, next = next, ds
	}
	// A tied head has left its share of the table's gradient.
	t.embedBackward(r, grads.get("model.wte.weight"), ds, t.in.tokens, m, accumulate || t.spec.TieEmbeddings)
	if t.wpe.Size() > 0 {
		t.embedBackward(r, grads.get("model.wpe.weight"), ds, t.in.places, m, accumulate)
	}
}

// embedBackward adds the rows of dx to the table's rows that they came from.
func (t *trace) embedBackward(r *runner, grad, dx cuda.Buffer, by sorted, tokens int, accumulate bool) {
	r.launch(t.EmbedBackward, table.Counts{table.Tokens: tokens, table.TableRows: by.keys},
		cuda.Args{"dx": dx, "order": by.order, "starts": by.starts, "grad": grad, "accumulate": truth(accumulate)})
}

func (t *trace) close() {
	t.mem.free()
	t.in.host.Close()
}
