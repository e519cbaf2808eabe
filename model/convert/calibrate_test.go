package convert

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/gen/specfile"
	"github.com/structuredffn/sffn/internal/f64ref"
	"github.com/structuredffn/sffn/internal/modeltest"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/decode"
	rt "github.com/structuredffn/sffn/runtime"
)

// text is a calibration of several batches, the last one shorter.
func text(whiten bool) *Calibration {
	const seq = 50
	return &Calibration{IDs: modeltest.Tokens(rand.New(rand.NewPCG(4, 5)), 42*seq, 60), Seq: seq, Whiten: whiten}
}

func load(t *testing.T, c *decode.Checkpoint, pool *rt.Pool) *decode.Model {
	t.Helper()
	m, err := c.Load(rt.Options{Pool: pool})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

// The errors of outputs are those of the converted model: of its own activations, in
// which they are summed up here one by one. The stream is that of the model.
func TestCalibrateOutputs(t *testing.T) {
	for _, act := range spec.Acts() {
		from, dense := saveDense(t, func(s *specfile.Section) { s.Act = act }, nil)
		for _, kind := range spec.Kinds() {
			t.Run(string(act)+" "+string(kind), func(t *testing.T) {
				c := &Conversion{From: from, Aim: Aim{Kind: kind, Budget: 0.8}, Calibration: text(true)}
				if kind != spec.Dense {
					c.Aim.Keep = []int{1}
				}
				r, to, p := run(t, c, 2)
				pool := rt.NewPool(2)
				defer pool.Close()
				before, after := load(t, from, pool), load(t, to, pool)
				s, err := NewStream(before, c.Calibration)
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				ctx := context.Background()
				for i, l := range r.Layers {
					if err := s.mix(ctx, i); err != nil {
						t.Fatal(err)
					}
					f, name := to.Config.Model.LayerFFN(i), model.LayerName(i)+".mlp."
					checkOutputs(t, s, from.Config.Model.LayerFFN(i), f, dense, p, name, l)
					if err := s.advance(ctx, after.FFN(i)); err != nil {
						t.Fatal(err)
					}
				}
				// The text has gone through the converted model.
				n := c.Calibration.Seq
				tr := after.NewTrace(n)
				defer tr.Close()
				want, got := make([]float32, n*60), make([]float32, n*60)
				last := len(c.Calibration.IDs) - n
				if err := tr.Logits(want, c.Calibration.IDs[last:], 1); err != nil {
					t.Fatal(err)
				}
				final := make([]float32, n*before.Spec.Hidden)
				s.act.X = s.stretch(s.x, last, n)
				s.pass.Final(final, s.act, n)
				s.pass.Head(got, final, n)
				if !slices.Equal(got, want) {
					t.Error("the stream is not the converted model's")
				}
			})
		}
	}
}

// checkOutputs computes the errors of one network's outputs in float64, on what the
// stream has of the layer.
func checkOutputs(t *testing.T, s *Stream, from, to spec.FFN, dense, p *model.Params, name string, r LayerReport) {
	t.Helper()
	if from == to {
		if r.FC1.Outputs != nil || r.FC2.Outputs != nil {
			t.Errorf("%s: errors %v of a network that stayed", name, r)
		}
		return
	}
	w1, w2 := wide(dense.Get(name+"fc1.weight")), wide(dense.Get(name+"fc2.weight"))
	v1, v2 := f64ref.Merged(to.FC1(), factors(p, name+"fc1", to.FC1())), f64ref.Merged(to.FC2(), factors(p, name+"fc2", to.FC2()))
	x, rows := wide(s.norm), len(s.ids)
	hidden := f64ref.Activate(to, f64ref.Linear(v1, wide(p.Get(name+"fc1.bias")), x, rows, to.Hidden, to.FC1().Out), rows)
	all := f64ref.Linear(w2, make([]float64, to.Hidden), hidden, rows, to.FFN, to.Hidden)
	if to.Kind == spec.Dense {
		units := f64ref.Activate(from, f64ref.Linear(w1, wide(dense.Get(name+"fc1.bias")), x, rows, from.Hidden, from.FC1().Out), rows)
		all = f64ref.Linear(w2, make([]float64, to.Hidden), units, rows, from.FFN, to.Hidden)
	} else {
		checkRatio(t, name+"fc1", r.FC1.Outputs, f64ref.Linear(w1, make([]float64, to.FC1().Out), x, rows, to.Hidden, to.FC1().Out),
			f64ref.Linear(v1, make([]float64, to.FC1().Out), x, rows, to.Hidden, to.FC1().Out))
	}
	checkRatio(t, name+"fc2", r.FC2.Outputs, all, f64ref.Linear(v2, make([]float64, to.Hidden), hidden, rows, to.FFN, to.Hidden))
}

func checkRatio(t *testing.T, what string, got *float64, all, some []float64) {
	t.Helper()
	var a, b float64
	for i, x := range all {
		a += x * x
		b += (x - some[i]) * (x - some[i])
	}
	want := math.Sqrt(b / a)
	if got == nil || !(math.Abs(*got-want) <= 1e-3*want+1e-5) {
		t.Errorf("%s: outputs' error %v, want %v", what, got, want)
	}
	if want <= 1e-6 || want >= 1 {
		t.Errorf("%s: outputs' error %v proves nothing", what, want)
	}
}

// What follows the outputs is nearer in them than what follows the weights, and further
// off in weights.
func TestCalibrateWhitens(t *testing.T) {
	from, _ := saveDense(t, nil, nil)
	for _, kind := range spec.Kinds() {
		white, _, _ := run(t, &Conversion{From: from, Aim: Aim{Kind: kind, Budget: 0.7}, Calibration: text(true)}, 2)
		plain, _, p := run(t, &Conversion{From: from, Aim: Aim{Kind: kind, Budget: 0.7}, Calibration: text(false)}, 2)
		_, _, q := run(t, &Conversion{From: from, Aim: Aim{Kind: kind, Budget: 0.7}}, 2)
		if !slices.Equal(p.Data, q.Data) {
			t.Errorf("%s: a calibration that is not followed changes weights", kind)
		}
		a, b := white.Layers[0], plain.Layers[0]
		if !(*a.FC2.Outputs < *b.FC2.Outputs) || a.FC2.Weights < b.FC2.Weights && kind != spec.Dense {
			t.Errorf("%s: fc2 outputs' error %v, %v without; weights' %v, %v", kind, *a.FC2.Outputs, *b.FC2.Outputs, a.FC2.Weights, b.FC2.Weights)
		}
		if kind != spec.Dense && !(*a.FC1.Outputs < *b.FC1.Outputs) {
			t.Errorf("%s: fc1 outputs' error %v, %v without", kind, *a.FC1.Outputs, *b.FC1.Outputs)
		}
	}
}

// Any number of threads gives the same bits.
func TestCalibrateThreads(t *testing.T) {
	from, _ := saveDense(t, nil, nil)
	for _, kind := range spec.Kinds() {
		var want string
		var data []float32
		for _, threads := range []int{1, 2, 3} {
			r, _, p := run(t, &Conversion{From: from, Aim: Aim{Kind: kind, Budget: 0.7}, Calibration: text(true)}, threads)
			r.Out = ""
			got := ""
			for _, l := range r.Layers {
				got += fmt.Sprint(l.Structure, l.FC1.Weights, l.FC2.Weights, *l.FC2.Outputs)
			}
			if want == "" {
				want, data = got, slices.Clone(p.Data)
			} else if got != want || !slices.Equal(p.Data, data) {
				t.Errorf("%s: %d threads give other bits", kind, threads)
			}
		}
	}
}

func TestCalibrateErrors(t *testing.T) {
	from, _ := saveDense(t, nil, nil)
	pool := rt.NewPool(1)
	defer pool.Close()
	for name, c := range map[string]*Calibration{
		"none":       {Seq: 4},
		"no windows": {IDs: []int32{1, 2, 3}, Seq: 2},
		"too long":   {IDs: make([]int32, 65), Seq: 65},
		"no length":  {IDs: []int32{1}},
		"other ids":  {IDs: []int32{1, 60}, Seq: 2},
	} {
		conv := &Conversion{From: from, Aim: Aim{Kind: spec.LowRank, Rank: 3}, Calibration: c, Options: rt.Options{Pool: pool}}
		_, err := conv.Begin(filepath.Join(t.TempDir(), "run"))
		if err == nil {
			_, err = conv.Run(context.Background())
		}
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
