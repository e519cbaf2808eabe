package convert

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/decode"
	"github.com/structuredffn/sffn/model/project"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// Calibration is text that a conversion is measured on, and, with Whiten, follows.
type Calibration struct {
	// IDs are sequences of Seq tokens, one after the other.
	IDs []int32
	Seq int
	// Whiten takes the projections that are nearest in outputs; without it, in weights.
	Whiten bool
	// Allot shares a budget out by what each layer costs, measured; without it, layers
	// have equal shares.
	Allot bool
}

// Check looks whether the text is one for a model.
func (c *Calibration) Check(m spec.Model) error { return c.check(m) }

func (c *Calibration) check(m spec.Model) error {
	if c.Seq < 1 || c.Seq > m.MaxPositions || len(c.IDs) < c.Seq || len(c.IDs)%c.Seq != 0 {
		return fmt.Errorf("convert: %d tokens to calibrate on are no sequences of %d, of a model that takes up to %d", len(c.IDs), c.Seq, m.MaxPositions)
	}
	return nil
}

// rowsAtOnce is about how many tokens go through a layer together.
const rowsAtOnce = 2048

// Stream is the calibration's text on its way through the model, a layer at a time: of
// each token it holds the residual stream, and what the network of the layer reads.
type Stream struct {
	m    *decode.Model
	pass *model.Pass
	act  *model.Activations
	ids  []int32
	// A batch is of so many sequences.
	seq, batch int
	// x and norm are [tokens, hidden].
	x, norm     []float32
	mixed       int // sequences that attend at a time
	grams       map[int]*Gram
	arena       rt.Arena
	hidden, pre []float32 // of a batch
}

// NewStream embeds the text, for a model that takes float32.
func NewStream(m *decode.Model, c *Calibration) (*Stream, error) {
	if err := m.CheckTokens(c.IDs); err != nil {
		return nil, fmt.Errorf("convert: calibration: %w", err)
	}
	s := &Stream{m: m, pass: m.NewPass(), ids: c.IDs, seq: c.Seq, batch: max(1, rowsAtOnce/c.Seq), grams: map[int]*Gram{}}
	rows := s.batch * s.seq
	s.act = m.NewActivations(&s.arena, rows)
	s.x, s.norm = s.arena.Floats(len(s.ids)*m.Spec.Hidden), s.arena.Floats(len(s.ids)*m.Spec.Hidden)
	s.hidden, s.pre = s.arena.Floats(rows*m.Spec.FFN), s.arena.Floats(rows*m.Spec.FFN*m.Spec.Act.Columns())
	s.pass.Positions = make([]int, rows)
	for r := range rows {
		s.pass.Positions[r] = r % s.seq
	}
	_ = s.each(context.Background(), func(lo, rows int) error {
		s.pass.Embed(s.stretch(s.x, lo, rows), s.ids[lo:lo+rows])
		return nil
	})
	return s, nil
}

// Close frees the stream.
func (s *Stream) Close() {
	for _, g := range s.grams {
		g.Close()
	}
	s.pass.Close()
	s.arena.Close()
}

// each calls f for each batch of tokens.
func (s *Stream) each(ctx context.Context, f func(lo, rows int) error) error {
	for lo := 0; lo < len(s.ids); lo += s.batch * s.seq {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := f(lo, min(s.batch*s.seq, len(s.ids)-lo)); err != nil {
			return err
		}
	}
	return nil
}

func (s *Stream) stretch(x []float32, lo, rows int) []float32 {
	h := s.m.Spec.Hidden
	return x[lo*h : (lo+rows)*h]
}

// attend is attention over whole sequences.
func (s *Stream) attend(i int) error {
	s.m.Attention(i).Forward(s.act.Attn, nil, s.act.QKV, s.mixed, s.seq, s.pass.Attention)
	return nil
}

// mix runs layer i up to its network.
func (s *Stream) mix(ctx context.Context, i int) error {
	return s.Mix(ctx, i, func(*model.Activations, int) error { return nil })
}

// Mix runs layer i up to its network, and calls f after each batch: with what the layer
// has computed of so many rows. The batches come in the same order for every layer.
func (s *Stream) Mix(ctx context.Context, i int, f func(a *model.Activations, rows int) error) error {
	return s.each(ctx, func(lo, rows int) error {
		x := s.stretch(s.x, lo, rows)
		s.act.X, s.act.Mid, s.act.Norm2 = x, x, s.stretch(s.norm, lo, rows)
		s.mixed = rows / s.seq
		if err := s.pass.Mix(i, s.act, rows, s.attend); err != nil {
			return err
		}
		return f(s.act, rows)
	})
}

// Advance runs the network of the layer: of the rows that Mix stopped at.
func (s *Stream) Advance(ctx context.Context, f *rt.FFN) error { return s.advance(ctx, f) }

// Workspace is scratch for layers that are run beside it.
func (s *Stream) Workspace() *rt.Workspace { return s.pass.Workspace }

// Activate computes activations of rows of n results, as the model does.
func (s *Stream) Activate(e kernel.Epilogue, y, pre []float32, n int) {
	s.m.Vec().Activate(e, y, pre, n)
}

// Rows is the number of rows of a batch, at most.
func (s *Stream) Rows() int { return s.batch * s.seq }

// Tokens is the number of rows in all.
func (s *Stream) Tokens() int { return len(s.ids) }

func (s *Stream) advance(ctx context.Context, f *rt.FFN) error {
	return s.each(ctx, func(lo, rows int) error {
		x := s.stretch(s.x, lo, rows)
		f.Forward(x, s.stretch(s.norm, lo, rows), x, rows, nil, s.pass.Workspace)
		return nil
	})
}

// logitRows is how many tokens have logits at a time.
const logitRows = 128

// loss is the mean loss of the first tokens of the text where the network of layer i,
// before which the text stands, is another one: of the next token of each sequence, the
// last of which has none. The stream stays where it is.
func (s *Stream) loss(ctx context.Context, i int, f *rt.FFN, tokens int) (float64, error) {
	t := *s
	t.ids, t.x, t.norm = s.ids[:tokens], slices.Clone(s.stretch(s.x, 0, tokens)), slices.Clone(s.stretch(s.norm, 0, tokens))
	if err := t.advance(ctx, f); err != nil {
		return 0, err
	}
	for k := i + 1; k < s.m.Spec.Layers; k++ {
		if err := t.mix(ctx, k); err != nil {
			return 0, err
		}
		if err := t.advance(ctx, s.m.FFN(k)); err != nil {
			return 0, err
		}
	}
	h, vocab := s.m.Spec.Hidden, s.m.Spec.Vocab
	final, logits := make([]float32, logitRows*h), make([]float32, logitRows*vocab)
	sum, n := 0.0, 0
	for lo := 0; lo < tokens; lo += logitRows {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		rows := min(logitRows, tokens-lo)
		t.act.X = t.stretch(t.x, lo, rows)
		t.pass.Final(final[:rows*h], t.act, rows)
		t.pass.Head(logits[:rows*vocab], final[:rows*h], rows)
		var each [logitRows]float64
		s.m.Options().Pool.Run(rows, func(_, r int) {
			if at := lo + r; (at+1)%s.seq != 0 {
				each[r] = surprise(logits[r*vocab:(r+1)*vocab], t.ids[at+1])
			}
		})
		for r := range rows {
			sum += each[r]
			n += min(1, (lo+r+1)%s.seq)
		}
	}
	return sum / float64(max(1, n)), nil
}

// surprise is the cross entropy of one token.
func surprise(logits []float32, id int32) float64 {
	most := float64(slices.Max(logits))
	sum := 0.0
	for _, v := range logits {
		sum += math.Exp(float64(v) - most)
	}
	return most + math.Log(sum) - float64(logits[id])
}

// inputs are the moments of what the network reads.
func (s *Stream) inputs(ctx context.Context) (*project.Moments, error) {
	g, err := s.gram(s.m.Spec.Hidden)
	if err != nil {
		return nil, err
	}
	err = s.each(ctx, func(lo, rows int) error {
		g.Add(s.stretch(s.norm, lo, rows), rows, s.pass.Workspace)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return project.NewMoments(g.Take(), g.n, len(s.ids))
}

// activations are the moments of what the second linear of a network reads, whose first
// one has these weights.
func (s *Stream) activations(ctx context.Context, f spec.FFN, w rt.Weights) (*project.Moments, error) {
	g, err := s.gram(f.FFN)
	if err != nil {
		return nil, err
	}
	fc1, err := rt.NewLinear(f.FC1(), w, s.m.Options())
	if err != nil {
		return nil, err
	}
	defer fc1.Close()
	err = s.each(ctx, func(lo, rows int) error {
		y, pre := s.hidden[:rows*f.FFN], s.pre[:rows*f.FC1().Out]
		fc1.Forward(pre, s.stretch(s.norm, lo, rows), nil, rows, nil, s.pass.Workspace)
		s.m.Vec().Activate(kernel.Epilogue(f.Act), y, pre, f.FFN)
		g.Add(y, rows, s.pass.Workspace)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return project.NewMoments(g.Take(), g.n, len(s.ids))
}

// strips is the number of stretches of columns that x^T x is cut into: what lies below
// the diagonal is left out, but for a half of each square on it.
const strips = 8

// Gram adds up x^T x, its upper triangle: float32 within a batch, by the kernels of
// gradients, float64 from batch to batch. These sums do not depend on the threads.
type Gram struct {
	n      int
	strips []strip
	sum    []float64
	arena  rt.Arena
}

// strip is what columns lo to hi have with those from lo on: a layer's gradient.
type strip struct {
	lo, hi     int
	l          *rt.Linear
	part       rt.Weights
	rows, rest []float32 // of x: the strip's own columns, and those from lo on
}

// NewGram is an empty one of batches of so many rows, at most, of n.
func NewGram(n, rows int, opt rt.Options) (*Gram, error) {
	opt.Train = true
	g := &Gram{n: n}
	size := max(1, (n/strips+kernel.Panel-1)/kernel.Panel) * kernel.Panel
	for lo := 0; lo < n; lo += size {
		p := strip{lo: lo, hi: min(lo+size, n)}
		wide, all := p.hi-lo, n-lo
		w := rt.Weights{Factors: [][]float32{g.arena.Floats(wide * all)}}
		var err error
		if p.l, err = rt.NewLinear(spec.Linear{Kind: spec.Dense, In: all, Out: wide}, w, opt); err != nil {
			g.Close()
			return nil, err
		}
		p.part.Factors = w.Factors // the layer runs on its packs, and its weights are never asked for
		p.l.DropWeights()
		p.rows, p.rest = g.arena.Floats(rows*wide), g.arena.Floats(rows*all)
		g.strips = append(g.strips, p)
	}
	return g, nil
}

// Close frees it; a sum that was taken stays.
func (g *Gram) Close() {
	for _, p := range g.strips {
		p.l.Close()
	}
	g.arena.Close()
}

// Take is the sum so far, [n, n], and begins another.
func (g *Gram) Take() (sum []float64) {
	sum, g.sum = g.sum, nil
	return sum
}

// Add adds rows of n.
func (g *Gram) Add(x []float32, rows int, ws *rt.Workspace) {
	if g.sum == nil {
		g.sum = make([]float64, g.n*g.n)
	}
	for _, p := range g.strips {
		wide, all := p.hi-p.lo, g.n-p.lo
		own, rest := p.rows[:rows*wide], p.rest[:rows*all]
		for r := range rows {
			copy(own[r*wide:(r+1)*wide], x[r*g.n+p.lo:])
			copy(rest[r*all:(r+1)*all], x[r*g.n+p.lo:(r+1)*g.n])
		}
		p.l.Backward(nil, p.part, own, rest, rows, rt.NoIntermediates(), false, ws)
		for i, v := range p.part.Factors[0] {
			r := p.lo + i/all
			g.sum[r*g.n+p.lo+i%all] += float64(v)
		}
	}
}

// gram is an empty one of rows of n, made once.
func (s *Stream) gram(n int) (*Gram, error) {
	if g, ok := s.grams[n]; ok {
		return g, nil
	}
	g, err := NewGram(n, s.Rows(), s.m.Options())
	if err == nil {
		s.grams[n] = g
	}
	return g, err
}
