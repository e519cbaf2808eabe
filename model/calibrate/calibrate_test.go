package calibrate

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/gen/specfile"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/checkpoint"
	"github.com/structuredffn/sffn/model/config"
	"github.com/structuredffn/sffn/model/convert"
	"github.com/structuredffn/sffn/model/decode"
	"github.com/structuredffn/sffn/model/initial"
	"github.com/structuredffn/sffn/model/quantize"
	"github.com/structuredffn/sffn/model/safetensors"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// save writes a model of random weights, and returns its checkpoint.
func save(t *testing.T, change func(*specfile.Section), edit func(p *model.Params)) *decode.Checkpoint {
	t.Helper()
	s := specfile.NewSection()
	s.Vocab, s.Hidden, s.FFN, s.Layers, s.QHeads, s.MaxPositions = 90, 96, 200, 2, 2, 64
	s.MLP.FirstDense = false
	change(&s)
	c, err := config.Of("small", s)
	if err != nil {
		t.Fatal(err)
	}
	c.Model.Guided = false
	pool := rt.NewPool(1)
	defer pool.Close()
	p := model.NewParams(c.Model)
	defer p.Close()
	initial.Model(p, c.Model, 3, initial.Merged, pool)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range p.Data {
		if p.Data[i] != 0 {
			p.Data[i] += float32(0.02 * r.NormFloat64())
		}
	}
	if edit != nil {
		edit(p)
	}
	var values []safetensors.Value
	for _, q := range p.List() {
		values = append(values, safetensors.Value{Name: q.Name, Shape: q.Shape, Data: p.Get(q.Name)})
	}
	dir, err := checkpoint.SaveWeights(filepath.Join(t.TempDir(), "run"), c.Source, checkpoint.State{Name: "small", Steps: 5}, nil, values)
	if err != nil {
		t.Fatal(err)
	}
	from, err := decode.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return from
}

func text(vocab int) *convert.Calibration {
	r := rand.New(rand.NewPCG(4, 4))
	c := &convert.Calibration{Seq: 32}
	for range 8 * c.Seq {
		c.IDs = append(c.IDs, int32(r.IntN(vocab)))
	}
	return c
}

func made(t *testing.T, z *Quantization, threads int) (*Report, *decode.Checkpoint) {
	t.Helper()
	pool := rt.NewPool(threads)
	defer pool.Close()
	z.Options.Pool = pool
	run := filepath.Join(t.TempDir(), "out")
	if _, err := z.Begin(run); err != nil {
		t.Fatal(err)
	}
	r, err := z.Run(context.Background(), run)
	if err != nil {
		t.Fatal(err)
	}
	to, err := decode.Open(r.Out)
	if err != nil {
		t.Fatal(err)
	}
	return r, to
}

// checkReport compares a report with the file: sizes, and what has more bits.
func checkReport(t *testing.T, r *Report, to *decode.Checkpoint) {
	t.Helper()
	w, err := checkpoint.OpenWeights(to.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	bytes := map[string]int64{}
	all := int64(0)
	for _, f := range w.File().Tensors() {
		name := strings.TrimSuffix(strings.TrimSuffix(f.Name, ".scales"), ".inputs")
		n := safetensors.Value{Shape: f.Shape, DType: f.DType}.Bytes()
		bytes[name], all = bytes[name]+n, all+n
	}
	sum := int64(0)
	for _, f := range r.Formats {
		sum += f.Bytes
	}
	if r.Bytes != all || sum != all {
		t.Errorf("%d bytes, %d by format; the file has %d", r.Bytes, sum, all)
	}
	for _, p := range r.Params {
		if p.Bytes != bytes[p.Name] || p.Weights <= 0 || p.Weights > 0.12 || p.Format == kernel.BF16 && p.Weights > 0.002 {
			t.Errorf("%+v, the file has %d bytes of it", p, bytes[p.Name])
		}
		// 64 is the least that integers are worth; with int4 the embedding is the head.
		if small := slices.Min(p.shape(to)) < 64; (p.Why != "") != (p.Format != r.Format) || p.Format != r.Format && !(small || r.Format == kernel.Int4 && p.Format == kernel.Int8) || (p.Why != "") != (p.More > 0) {
			t.Errorf("%+v of %s", p, r.Format)
		}
	}
}

func (p *ParamReport) shape(c *decode.Checkpoint) []int {
	list := c.Config.Model.Params()
	return list[slices.IndexFunc(list, func(q spec.Param) bool { return q.Name == p.Name })].Shape
}

func logits(t *testing.T, m *decode.Model, cached bool) (all []float32) {
	t.Helper()
	ids := text(m.Spec.Vocab).IDs[:48]
	if err := m.Logits(ids, cached, func(x []float32) error { all = append(all, x...); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

func weightsOf(t *testing.T, dir string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var kinds = map[string]func(*specfile.Section){
	"dense":                         func(s *specfile.Section) { s.MLP.Kind = spec.Dense },
	"lowrank":                       func(s *specfile.Section) { s.MLP.Kind, s.MLP.Rank, s.Tie = spec.LowRank, 70, false },
	"lowrank, of factors too small": func(s *specfile.Section) { s.MLP.Kind, s.MLP.Rank = spec.LowRank, 40 },
	"blockshuffle": func(s *specfile.Section) {
		s.MLP.Kind, s.MLP.Blocks, s.Hidden, s.FFN = spec.BlockShuffle, 2, 128, 256
	},
}

// A model of few bits on disk is the one that --format makes when a model is loaded, but
// for the embedding: the same logits, through the cache and not, on any number of threads.
// With text the outputs err less than those of the nearest integers, and the file is the
// same for any number of threads.
func TestQuantize(t *testing.T) {
	for name, change := range kinds {
		for _, f := range quantize.Formats {
			t.Run(fmt.Sprint(name, " ", f), func(t *testing.T) {
				from := save(t, change, nil)
				r, to := made(t, &Quantization{From: from, Format: f}, 2)
				// Beside what is halved, or less, biases, norms and positions are 5 %.
				if before, after := len(weightsOf(t, from.Dir)), len(weightsOf(t, to.Dir)); float64(r.Bytes) >= 0.525*float64(r.Before) || f.Quantized() && r.Bytes >= r.Before/2 || int64(after) < r.Bytes || int64(before) < r.Before {
					t.Errorf("%d bytes of %d, reported %d of %d", after, before, r.Bytes, r.Before)
				}
				checkReport(t, r, to)
				w, err := checkpoint.OpenWeights(from.Dir)
				if err != nil {
					t.Fatal(err)
				}
				defer w.Close()
				q, err := checkpoint.OpenWeights(to.Dir)
				if err != nil {
					t.Fatal(err)
				}
				defer q.Close()
				var first []float32
				for _, threads := range []int{1, 3} {
					pool := rt.NewPool(threads)
					defer pool.Close()
					stored, err := to.Load(rt.Options{Pool: pool})
					if err != nil {
						t.Fatal(err)
					}
					defer stored.Close()
					// The embedding of the one, all else of the other.
					m := to.Config.Model
					m.TieEmbeddings = false
					loaded, err := decode.Load(m, func(dst []float32, p spec.Param) error {
						if p.Name == model.Embedding {
							return q.Read(dst, p)
						}
						if p.Name == "lm_head.weight" && to.Config.Model.TieEmbeddings {
							p.Name = model.Embedding
						}
						return w.Read(dst, p)
					}, rt.Options{Pool: pool, Format: f})
					if err != nil {
						t.Fatal(err)
					}
					defer loaded.Close()
					for what, got := range map[string][]float32{"stored": logits(t, stored, false), "cached": logits(t, stored, true), "quantised at load": logits(t, loaded, false)} {
						if first == nil {
							first = got
						}
						if !slices.Equal(got, first) {
							t.Errorf("%d threads, %s: other logits", threads, what)
						}
					}
				}
				if !f.Quantized() {
					return
				}
				z := Quantization{From: from, Format: f, Calibration: text(from.Config.Model.Vocab)}
				with, one := made(t, &z, 1)
				_, three := made(t, &z, 3)
				if !bytes.Equal(weightsOf(t, one.Dir), weightsOf(t, three.Dir)) {
					t.Error("3 threads choose other integers than one")
				}
				for _, p := range with.Params {
					if p.Nearest != nil && !(*p.Outputs <= 1.001**p.Nearest) {
						t.Errorf("%s: outputs err by %v, of the nearest integers by %v", p.Name, *p.Outputs, *p.Nearest)
					}
					if p.Nearest != nil && f == kernel.Int4 && !(*p.Outputs < 0.9**p.Nearest) {
						t.Errorf("%s: outputs err by %v, of the nearest integers by %v: nothing is gained", p.Name, *p.Outputs, *p.Nearest)
					}
				}
			})
		}
	}
}

// Large channels that a norm's gains plant, and the weights behind it take back: of float32
// the function is the same, and integers err no more.
func TestPlanted(t *testing.T) {
	change := kinds["lowrank"]
	plant := func(p *model.Params) {
		for i := range p.Spec().Layers {
			name := model.LayerName(i)
			for norm, of := range map[string]string{".ln1": ".qkv_linear.weight", ".ln2": ".mlp.fc1.u"} {
				g := p.Get(name + norm + ".weight")
				b := p.Get(name + norm + ".bias")
				w := p.Get(name + of)
				for of == ".mlp.fc1.u" && w == nil {
					for _, q := range p.List() {
						if strings.HasPrefix(q.Name, name+".mlp.fc1.") && len(q.Shape) == 2 {
							w = p.Get(q.Name)
							break
						}
					}
				}
				for _, c := range []int{3, 40} {
					g[c] *= 32
					if b != nil {
						b[c] *= 32
					}
					for r := range len(w) / len(g) {
						w[r*len(g)+c] /= 32
					}
				}
			}
		}
	}
	pool := rt.NewPool(1)
	defer pool.Close()
	of := func(c *decode.Checkpoint) []float32 {
		m, err := c.Load(rt.Options{Pool: pool})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		return logits(t, m, false)
	}
	from := [2]*decode.Checkpoint{save(t, change, nil), save(t, change, plant)}
	exact := of(from[0])
	off := func(got []float32) float64 {
		var lost, all float64
		for i, v := range exact {
			d := float64(v - got[i])
			lost, all = lost+d*d, all+float64(v)*float64(v)
		}
		return ratio(lost, all)
	}
	if e := off(of(from[1])); e > 1e-5 {
		t.Fatalf("what is planted changes the function by %v", e)
	}
	for _, f := range []kernel.FormatName{kernel.Int8, kernel.Int4} {
		var e [2]float64
		for i, c := range from {
			_, to := made(t, &Quantization{From: c, Format: f}, 1)
			e[i] = off(of(to))
		}
		t.Logf("%s: logits off by %.4f, with planted channels by %.4f", f, e[0], e[1])
		if e[1] > 1.2*e[0] {
			t.Errorf("%s: logits off by %.4f, with planted channels by %.4f", f, e[0], e[1])
		}
	}
}

// What holds integers says so where float32 is wanted, and takes no other format.
func TestRefused(t *testing.T) {
	from := save(t, kinds["lowrank"], nil)
	_, to := made(t, &Quantization{From: from, Format: kernel.Int4}, 1)
	pool := rt.NewPool(1)
	defer pool.Close()
	check := func(what string, err error, want string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
	}
	_, err := to.Params()
	check("parameters to train", err, "holds its weights as int4")
	_, err = to.Load(rt.Options{Pool: pool, Format: kernel.Int8})
	check("another format", err, "holds its weights as int4, and runs in int4, not in int8")
	_, err = (&Quantization{From: to, Format: kernel.Int8}).Begin(t.TempDir())
	check("integers again", err, "holds its weights as int4")
	_, err = (&Quantization{From: from, Format: kernel.BF16W}).Begin(t.TempDir())
	check("no format of files", err, `"bf16w" is no format of few bits that models are written in; valid: [bf16 int8 int4]`)
	_, err = (&Quantization{From: from, Format: kernel.BF16, Calibration: text(90)}).Begin(t.TempDir())
	check("text for bfloat16", err, "bf16 is not calibrated")
	_, half := made(t, &Quantization{From: from, Format: kernel.BF16}, 1)
	_, err = half.Load(rt.Options{Pool: pool, Format: kernel.Int8})
	check("bfloat16 as integers", err, "holds its weights as bf16, and runs in bf16 or bf16w, not in int8")
	widened, err := half.Load(rt.Options{Pool: pool, Format: kernel.BF16W})
	if err != nil || widened.Options().Format != kernel.BF16W {
		t.Fatalf("bfloat16 as bf16w: %v", err)
	}
	widened.Close()
	_, err = (&Quantization{From: half, Format: kernel.Int8}).Begin(t.TempDir())
	check("integers of bfloat16", err, "holds its weights as bf16")
	large := save(t, kinds["dense"], func(p *model.Params) { p.Get(model.Embedding)[5] = 3.4e38 })
	run := filepath.Join(t.TempDir(), "large")
	_, err = (&Quantization{From: large, Format: kernel.BF16, Options: rt.Options{Pool: pool}}).Run(context.Background(), run)
	check("more than bfloat16 has", err, "entry 5 is 3.4e+38, which bfloat16 has no number for")
	if left, _ := os.ReadDir(run); len(left) > 0 {
		t.Errorf("what could not be written left %v", left)
	}
	_, err = (&Quantization{From: from, Format: kernel.Int8}).Begin(filepath.Dir(to.Dir))
	check("a folder with a run", err, "holds a run already")
	tiny := save(t, func(s *specfile.Section) { s.MLP.Kind, s.Hidden, s.FFN = spec.Dense, 32, 64 }, nil)
	_, err = (&Quantization{From: tiny, Format: kernel.Int8}).Begin(t.TempDir())
	check("a model too small", err, "no matrix")
	c := (&convert.Conversion{From: to, Aim: convert.Aim{Kind: spec.LowRank, Rank: 4}})
	_, err = c.Begin(filepath.Join(t.TempDir(), "x"))
	check("converting", err, "holds its weights as int4")
}
