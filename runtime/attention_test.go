package runtime

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/structuredffn/sffn/runtime/kernel"
)

// referenceAttention is causal attention and its gradient in float64, with
// every score written out.
func referenceAttention(s AttentionSpec, qkv, do []float64, batch, seq int) (o, dqkv []float64) {
	width, hd, group := s.RowWidth(), s.HeadDim, s.QHeads/s.KVHeads
	o, dqkv = make([]float64, batch*seq*s.QHeads*hd), make([]float64, len(qkv))
	for b := range batch {
		for h := range s.QHeads {
			at := func(t, head int) int { return (b*seq+t)*width + head*hd }
			kh, vh := s.QHeads+h/group, s.QHeads+s.KVHeads+h/group
			for i := range seq {
				p, sum, top := make([]float64, i+1), 0.0, math.Inf(-1)
				for j := range p {
					for d := range hd {
						p[j] += qkv[at(i, h)+d] * qkv[at(j, kh)+d]
					}
					p[j] *= float64(s.Scale)
					top = max(top, p[j])
				}
				for j := range p {
					p[j] = math.Exp(p[j] - top)
					sum += p[j]
				}
				row := (b*seq+i)*s.QHeads*hd + h*hd
				dp, mean := make([]float64, i+1), 0.0
				for j := range p {
					p[j] /= sum
					for d := range hd {
						o[row+d] += p[j] * qkv[at(j, vh)+d]
						dp[j] += do[row+d] * qkv[at(j, vh)+d]
					}
					mean += p[j] * dp[j]
				}
				for j := range p {
					ds := p[j] * (dp[j] - mean) * float64(s.Scale)
					for d := range hd {
						dqkv[at(i, h)+d] += ds * qkv[at(j, kh)+d]
						dqkv[at(j, kh)+d] += ds * qkv[at(i, h)+d]
						dqkv[at(j, vh)+d] += p[j] * do[row+d]
					}
				}
			}
		}
	}
	return o, dqkv
}

var attentionShapes = []struct {
	AttentionSpec
	batch, seq int
}{
	{AttentionSpec{QHeads: 1, KVHeads: 1, HeadDim: 1}, 1, 1},
	{AttentionSpec{QHeads: 2, KVHeads: 2, HeadDim: 8}, 2, 5},
	{AttentionSpec{QHeads: 4, KVHeads: 2, HeadDim: 13}, 2, 97}, // two blocks of queries
	{AttentionSpec{QHeads: 3, KVHeads: 1, HeadDim: 33}, 1, 129},
	{AttentionSpec{QHeads: 2, KVHeads: 1, HeadDim: 64}, 1, 256}, // one full block of keys
	{AttentionSpec{QHeads: 1, KVHeads: 1, HeadDim: 40}, 1, 530}, // three blocks of keys
}

func TestAttention(t *testing.T) {
	for _, isa := range kernel.Available() {
		for _, c := range attentionShapes {
			c.Scale = float32(1 / math.Sqrt(float64(c.HeadDim)))
			t.Run(fmt.Sprintf("%s/%dx%d_%d_%d", isa, c.QHeads, c.KVHeads, c.HeadDim, c.seq), func(t *testing.T) {
				rng := rand.New(rand.NewPCG(3, uint64(c.seq)))
				m := c.batch * c.seq
				qkv, do := random(rng, m*c.RowWidth(), 1.5), random(rng, m*c.QHeads*c.HeadDim, 1)
				want, dwant := referenceAttention(c.AttentionSpec, wide(qkv), wide(do), c.batch, c.seq)
				var first [][]float32
				for _, threads := range []int{1, 2, 3, 16} {
					pool := NewPool(threads)
					a, err := NewAttention(c.AttentionSpec, Options{ISA: isa, Pool: pool})
					if err != nil {
						t.Fatal(err)
					}
					ws := a.NewWorkspace()
					o, sums, dqkv := poisoned(len(do)), poisoned(2*m*c.QHeads), poisoned(len(qkv))
					a.Forward(o, sums, qkv, c.batch, c.seq, ws)
					a.Backward(dqkv, do, o, sums, qkv, c.batch, c.seq, ws)
					near(t, "o", o, want, tolerance(c.seq+c.HeadDim))
					near(t, "dqkv", dqkv, dwant, 4*tolerance(c.seq+c.HeadDim))
					if first == nil {
						first = [][]float32{o, sums, dqkv}
					}
					for i, got := range [][]float32{o, sums, dqkv} {
						if !slices.Equal(got, first[i]) {
							t.Errorf("%d threads give other bits than 1", threads)
						}
					}
					ws.Close()
					pool.Close()
				}
			})
		}
	}
}

// Rows that come in pieces through the cache equal those of one pass: the
// same blocks of keys, so within rounding of a few.
func TestKVCache(t *testing.T) {
	pool := NewPool(2)
	defer pool.Close()
	for _, isa := range kernel.Available() {
		for _, c := range attentionShapes {
			c.Scale = float32(1 / math.Sqrt(float64(c.HeadDim)))
			a, err := NewAttention(c.AttentionSpec, Options{ISA: isa, Pool: pool})
			if err != nil {
				t.Fatal(err)
			}
			rng := rand.New(rand.NewPCG(4, uint64(c.seq)))
			width, out := c.RowWidth(), c.QHeads*c.HeadDim
			qkv := random(rng, c.batch*c.seq*width, 1.5)
			ws := a.NewWorkspace()
			full := poisoned(c.batch * c.seq * out)
			a.Forward(full, nil, qkv, c.batch, c.seq, ws)
			cache := a.NewKVCache(c.batch, c.seq)
			got := poisoned(len(full))
			for pos := 0; pos < c.seq; {
				n := min(1+rng.IntN(1+pos), c.seq-pos)
				// The same stretch of every sequence, side by side.
				var spans []Span
				var rows []float32
				for b := range c.batch {
					spans = append(spans, Span{Seq: b, Pos: pos, Row: b * n, Rows: n})
					rows = append(rows, qkv[(b*c.seq+pos)*width:(b*c.seq+pos+n)*width]...)
				}
				o := poisoned(c.batch * n * out)
				if err := a.Extend(o, rows, cache, spans, ws); err != nil {
					t.Fatal(err)
				}
				for b := range c.batch {
					copy(got[(b*c.seq+pos)*out:], o[b*n*out:(b+1)*n*out])
				}
				pos += n
			}
			near(t, fmt.Sprintf("%s %v", isa, c.AttentionSpec), got, wide(full), tolerance(c.seq))
			if err := a.Extend(got, qkv, cache, []Span{{Pos: c.seq, Rows: 1}}, ws); err == nil {
				t.Error("a full cache takes another row")
			}
			cache.Close()
			ws.Close()
		}
	}
}

func TestAttentionErrors(t *testing.T) {
	for _, s := range []AttentionSpec{{}, {QHeads: 3, KVHeads: 2, HeadDim: 4}, {QHeads: 1, KVHeads: 1}} {
		if _, err := NewAttention(s, Options{}); err == nil {
			t.Errorf("%+v is accepted", s)
		}
	}
}

func BenchmarkAttention(b *testing.B) {
	s := AttentionSpec{QHeads: 4, KVHeads: 4, HeadDim: 32, Scale: 0.2}
	const batch, seq = 8, 128
	pool := NewPool(1)
	defer pool.Close()
	a, err := NewAttention(s, Options{Pool: pool})
	if err != nil {
		b.Fatal(err)
	}
	ws := a.NewWorkspace()
	defer ws.Close()
	rng := rand.New(rand.NewPCG(1, 1))
	const m = batch * seq
	qkv, do := random(rng, m*s.RowWidth(), 1), random(rng, m*s.QHeads*s.HeadDim, 1)
	o, sums, dqkv := poisoned(len(do)), poisoned(2*m*s.QHeads), poisoned(len(qkv))
	for b.Loop() {
		a.Forward(o, sums, qkv, batch, seq, ws)
		a.Backward(dqkv, do, o, sums, qkv, batch, seq, ws)
	}
	b.ReportMetric(float64(m)*float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
}
