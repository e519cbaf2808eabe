package runtime

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// The activations in the epilogues of the products, and their derivatives,
// have their true limits too.
func TestActivationLimits(t *testing.T) {
	const width = 32
	x := []float32{-math.MaxFloat32, -3e38, -2e19, -1e13, -1000, 1000, 1e13, 2e19, 3e38}
	for _, isa := range kernel.Available() {
		for _, act := range []spec.Act{spec.GELU, spec.SwiGLU} {
			// One input, which every hidden entry has as its pre-activation (SwiGLU: as
			// its gate, and 1 as its up), and one output, the first hidden entry.
			s := spec.FFN{Kind: spec.Dense, Hidden: 1, FFN: width, Act: act, Bias: true}
			fc1, fc2 := s.FC1(), s.FC2()
			w := FFNWeights{FC1: randomWeights(rand.New(rand.NewPCG(1, 1)), fc1), FC2: randomWeights(rand.New(rand.NewPCG(1, 1)), fc2)}
			for i := range w.FC1.Bias {
				w.FC1.Bias[i], w.FC1.Factors[0][i] = 0, 1
				if i >= width {
					w.FC1.Bias[i], w.FC1.Factors[0][i] = 1, 0
				}
			}
			clear(w.FC2.Factors[0])
			clear(w.FC2.Bias)
			w.FC2.Factors[0][0] = 1
			l, err := NewFFN(s, w, Options{ISA: isa, Train: true})
			if err != nil {
				t.Fatal(err)
			}
			m := len(x)
			ws, saved := l.NewWorkspace(), l.NewSaved(m)
			y, dx, dy := poisoned(m), poisoned(m), make([]float32, m)
			for i := range dy {
				dy[i] = 1
			}
			grads := FFNWeights{emptyLike(w.FC1), emptyLike(w.FC2)}
			l.Forward(y, x, nil, m, saved, ws)
			l.Backward(dx, grads, dy, x, m, saved, false, ws)
			for i, v := range x {
				want, slope := v, float32(1)
				if v < 0 {
					want, slope = 0, 0
				}
				if y[i] != want || dx[i] != slope {
					t.Errorf("%s: %s(%v) = %v and its derivative %v, want %v and %v", isa, act, v, y[i], dx[i], want, slope)
				}
			}
			ws.Close()
			saved.Close()
		}
	}
}

// attentionOf binds attention with the usual scale.
func attentionOf(t *testing.T, s AttentionSpec, isa kernel.ISA, pool *Pool) *Attention {
	t.Helper()
	s.Scale = float32(1 / math.Sqrt(float64(s.HeadDim)))
	a, err := NewAttention(s, Options{ISA: isa, Pool: pool})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Scores of 4e10, where neighbouring float32 lie 4096 apart: the exponents are
// differences of scores, so that the largest has exactly 0 in both passes.
func TestAttentionOfLargeScores(t *testing.T) {
	pool := NewPool(2)
	defer pool.Close()
	s := AttentionSpec{QHeads: 2, KVHeads: 1, HeadDim: 48}
	const seq, size = 140, 3e4 // two blocks of keys
	for _, isa := range kernel.Available() {
		for _, equal := range []bool{true, false} {
			a := attentionOf(t, s, isa, pool)
			rng := rand.New(rand.NewPCG(7, 7))
			qkv, do := random(rng, seq*s.RowWidth(), 1), random(rng, seq*s.QHeads*s.HeadDim, 1)
			for i := range qkv {
				if i%s.RowWidth() >= (s.QHeads+s.KVHeads)*s.HeadDim {
					continue // values
				}
				if qkv[i] *= size; equal {
					qkv[i] = size
				}
			}
			want, dwant := referenceAttention(a.Spec, wide(qkv), wide(do), 1, seq)
			ws := a.NewWorkspace()
			o, sums, dqkv := poisoned(len(do)), poisoned(2*seq*s.QHeads), poisoned(len(qkv))
			a.Forward(o, sums, qkv, 1, seq, ws)
			a.Backward(dqkv, do, o, sums, qkv, 1, seq, ws)
			near(t, fmt.Sprintf("%s, equal scores %v: o", isa, equal), o, want, tolerance(seq))
			// The gradient of the scores is what rounding leaves times 3e4: only that of
			// the values has a reference.
			var dv, dvwant []float32
			for r := range seq {
				row := dqkv[r*s.RowWidth():][:s.RowWidth()]
				for i, g := range row {
					if math.IsNaN(float64(g)) || math.IsInf(float64(g), 0) {
						t.Fatalf("%s, equal scores %v: the gradient of row %d is %v at %d", isa, equal, r, g, i)
					}
				}
				at := (s.QHeads + s.KVHeads) * s.HeadDim
				dv = append(dv, row[at:]...)
				for _, w := range dwant[r*s.RowWidth()+at : (r+1)*s.RowWidth()] {
					dvwant = append(dvwant, float32(w))
				}
			}
			near(t, fmt.Sprintf("%s, equal scores %v: dv", isa, equal), dv, wide(dvwant), 4*tolerance(seq))
			ws.Close()
		}
	}
}

// Keys whose scores are minus infinity count for nothing beside others, in
// whichever blocks they lie.
func TestAttentionOfInfiniteScores(t *testing.T) {
	pool := NewPool(1)
	defer pool.Close()
	s := AttentionSpec{QHeads: 1, KVHeads: 1, HeadDim: 2}
	const seq = 300
	for _, isa := range kernel.Available() {
		a := attentionOf(t, s, isa, pool)
		qkv, values := make([]float32, seq*s.RowWidth()), 0.0
		ws := a.NewWorkspace()
		for r := range seq {
			row := qkv[r*s.RowWidth():]
			row[0], row[2], row[4] = 1e30, -1e30, float32(r)
			if r >= kernel.KeyBlock+2 {
				row[2] = 1
				values += float64(r)
			}
		}
		o := poisoned(seq * s.HeadDim)
		a.Forward(o, nil, qkv, 1, seq, ws)
		want := values / (seq - kernel.KeyBlock - 2)
		if got := float64(o[(seq-1)*s.HeadDim]); !(math.Abs(got-want) <= want*tolerance(seq)) {
			t.Errorf("%s: %v, want %v", isa, got, want)
		}
		ws.Close()
	}
}

// What is not finite in a later position reaches no earlier row: a full pass
// gives rows the bits of those that come one by one, when nothing later exists.
func TestLaterPositions(t *testing.T) {
	pool := NewPool(2)
	defer pool.Close()
	bits := func(x []float32) (b []uint32) {
		for _, v := range x {
			if v != v {
				v = float32(math.NaN()) // NaN of any kind
			}
			b = append(b, math.Float32bits(v))
		}
		return b
	}
	s := AttentionSpec{QHeads: 2, KVHeads: 1, HeadDim: 40}
	const seq = 200
	for _, isa := range kernel.Available() {
		a := attentionOf(t, s, isa, pool)
		ws := a.NewWorkspace()
		width, out := s.RowWidth(), s.QHeads*s.HeadDim
		for _, at := range []int{1, 95, 100, 127, 150, 199} {
			for what, bad := range map[string]float32{"NaN": float32(math.NaN()), "infinity": float32(math.Inf(-1))} {
				qkv := random(rand.New(rand.NewPCG(8, 8)), seq*width, 1)
				for _, part := range []int{0, s.QHeads, s.QHeads + 1} { // q, k, v
					qkv[at*width+part*s.HeadDim+17] = bad
				}
				full := poisoned(seq * out)
				a.Forward(full, nil, qkv, 1, seq, ws)
				cache := a.NewKVCache(1, seq)
				one := poisoned(seq * out)
				for pos := range seq {
					if err := a.Extend(one[pos*out:], qkv[pos*width:], cache, []Span{{Pos: pos, Rows: 1}}, ws); err != nil {
						t.Fatal(err)
					}
				}
				pieces := poisoned(seq * out)
				for pos, n := 0, 0; pos < seq; pos += n {
					n = min(seq-pos, 1+pos)
					if err := a.Extend(pieces[pos*out:], qkv[pos*width:], cache, []Span{{Pos: pos, Rows: n}}, ws); err != nil {
						t.Fatal(err)
					}
				}
				cache.Close()
				for i, v := range full[:at*out] {
					if v != v {
						t.Fatalf("%s: %s in position %d makes row %d NaN", isa, what, at, i/out)
					}
				}
				if want := bits(one); !slices.Equal(bits(full), want) || !slices.Equal(bits(pieces), want) {
					t.Fatalf("%s: %s in position %d: rows that come at once have other bits than one by one", isa, what, at)
				}
			}
		}
		ws.Close()
	}
}
