package convert

import (
	"context"
	"fmt"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/decode"
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

func (c *Calibration) check(m spec.Model) error {
	if c.Seq < 1 || c.Seq > m.MaxPositions || len(c.IDs) < c.Seq || len(c.IDs)%c.Seq != 0 {
		return fmt.Errorf("convert: %d tokens to calibrate on are no sequences of %d, of a model that takes up to %d", len(c.IDs), c.Seq, m.MaxPositions)
	}
	return nil
}

// rowsAtOnce is about how many tokens go through a layer together.
const rowsAtOnce = 2048

// stream is the calibration's text on its way through the model, a layer at a time: of
// each token it holds the residual stream, and what the network of the layer reads.
type stream struct {
	m    *decode.Model
	pass *model.Pass
	act  *model.Activations
	ids  []int32
	// A batch is of so many sequences.
	seq, batch int
	// x and norm are [tokens, hidden].
	x, norm     []float32
	mixed       int // sequences that attend at a time
	grams       map[int]*gram
	arena       rt.Arena
	hidden, pre []float32 // of a batch
}

// newStream embeds the text.
func newStream(m *decode.Model, c *Calibration) (*stream, error) {
	if err := m.CheckTokens(c.IDs); err != nil {
		return nil, fmt.Errorf("convert: calibration: %w", err)
	}
	s := &stream{m: m, pass: m.NewPass(), ids: c.IDs, seq: c.Seq, batch: max(1, rowsAtOnce/c.Seq), grams: map[int]*gram{}}
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

func (s *stream) close() {
	for _, g := range s.grams {
		g.close()
	}
	s.pass.Close()
	s.arena.Close()
}

// each calls f for each batch of tokens.
func (s *stream) each(ctx context.Context, f func(lo, rows int) error) error {
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

func (s *stream) stretch(x []float32, lo, rows int) []float32 {
	h := s.m.Spec.Hidden
	return x[lo*h : (lo+rows)*h]
}

// attend is attention over whole sequences.
func (s *stream) attend(i int) error {
	s.m.Attention(i).Forward(s.act.Attn, nil, s.act.QKV, s.mixed, s.seq, s.pass.Attention)
	return nil
}

// mix runs layer i up to its network.
func (s *stream) mix(ctx context.Context, i int) error {
	return s.each(ctx, func(lo, rows int) error {
		x := s.stretch(s.x, lo, rows)
		s.act.X, s.act.Mid, s.act.Norm2 = x, x, s.stretch(s.norm, lo, rows)
		s.mixed = rows / s.seq
		return s.pass.Mix(i, s.act, rows, s.attend)
	})
}

// advance runs the network of the layer.
func (s *stream) advance(ctx context.Context, f *rt.FFN) error {
	return s.each(ctx, func(lo, rows int) error {
		x := s.stretch(s.x, lo, rows)
		f.Forward(x, s.stretch(s.norm, lo, rows), x, rows, nil, s.pass.Workspace)
		return nil
	})
}

// inputs are the moments of what the network reads.
func (s *stream) inputs(ctx context.Context) (*Moments, error) {
	g, err := s.gram(s.m.Spec.Hidden)
	if err != nil {
		return nil, err
	}
	err = s.each(ctx, func(lo, rows int) error {
		g.add(s.stretch(s.norm, lo, rows), rows, s.pass.Workspace)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return NewMoments(g.sum, g.n, len(s.ids))
}

// activations are the moments of what the second linear of a network reads, whose first
// one has these weights.
func (s *stream) activations(ctx context.Context, f spec.FFN, w rt.Weights) (*Moments, error) {
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
		g.add(y, rows, s.pass.Workspace)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return NewMoments(g.sum, g.n, len(s.ids))
}

// gram adds up x^T x: float32 within a batch, by the kernels of gradients, float64 from
// batch to batch. These sums do not depend on the threads.
type gram struct {
	n    int
	l    *rt.Linear
	part rt.Weights
	sum  []float64
}

// gram is an empty one of rows of n.
func (s *stream) gram(n int) (*gram, error) {
	if g, ok := s.grams[n]; ok {
		clear(g.sum)
		return g, nil
	}
	opt := s.m.Options()
	opt.Train = true
	square := func() rt.Weights { return rt.Weights{Factors: [][]float32{s.arena.Floats(n * n)}} }
	l, err := rt.NewLinear(spec.Linear{Kind: spec.Dense, In: n, Out: n}, square(), opt)
	if err != nil {
		return nil, err
	}
	s.grams[n] = &gram{n: n, l: l, part: square(), sum: make([]float64, n*n)}
	return s.grams[n], nil
}

func (g *gram) close() { g.l.Close() }

func (g *gram) add(x []float32, rows int, ws *rt.Workspace) {
	g.l.Backward(nil, g.part, x, x, rows, rt.NoIntermediates(), false, ws)
	for i, v := range g.part.Factors[0] {
		g.sum[i] += float64(v)
	}
}
