package cuda

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/f64ref"
	"github.com/structuredffn/sffn/internal/ptx"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

var (
	update = flag.Bool("update", false, "compile testdata again; needs the CUDA toolkit")
	full   = flag.Bool("full", false, "run every shipped kernel at every number of tokens, three schedules each")
)

var smallDir = filepath.Join("testdata", "small")

// folders are those of testdata, with the tables of their kernels.
var folders = map[string]func() ([]gpu.Kernel, error){
	smallDir:  smallTable,
	passDir:   func() ([]gpu.Kernel, error) { return passTable(passModels) },
	goldenDir: goldenTable,
	edgeDir:   edgeTable,
}

func tableOf(t *testing.T, dir string) []gpu.Kernel {
	t.Helper()
	ks, err := folders[dir]()
	if err != nil {
		t.Fatal(err)
	}
	return ks
}

// tokenCounts straddle the tiles of 16, 64 and 128 rows.
var tokenCounts = []int{1, 17, 64, 65, 128, 129}

func TestMain(m *testing.M) {
	flag.Parse()
	if *update {
		for dir, kernels := range folders {
			ks, err := kernels()
			if err := errors.Join(err, compileInto(dir, ks)); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
	}
	os.Exit(m.Run())
}

// smallModel has two heads to each key and value, a vocabulary that is no multiple
// of 8, and sums long enough to be split.
var smallModel = spec.Model{Vocab: 131, Hidden: 264, FFN: 136, Layers: 1, AttnDim: 256, QHeads: 16, KVHeads: 8, Kind: spec.Dense, Act: spec.GELU, QKVBias: true, OutputBias: true, FFNBias: true}

// smallTable lists the kernels of testdata/small.
func smallTable() ([]gpu.Kernel, error) {
	m, err := gpu.NewModel(smallModel, "")
	if err != nil {
		return nil, err
	}
	of := []interface{ Kernels() []gpu.Kernel }{m}
	for _, f := range append(slices.Clone(small), odd...) {
		p, err := gpu.NewFFN(f, "")
		if err != nil {
			return nil, err
		}
		of = append(of, p)
	}
	return gpu.Table(of...), nil
}

func compileInto(dir string, ks []gpu.Kernel) error {
	files, err := Proven(dir, ks)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, data := range files {
		if name != Manifest && name != Rows && !strings.HasSuffix(name, PTX) {
			continue // sources are written again by the tests, machine code is not run
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// roundoff is half the distance of neighbouring bf16, relative: they have eight
// significant bits.
const roundoff = 1.0 / 256

// tolerance is how far a vector may be off in the norm, relative, after a number of
// roundings. Rounding to bf16 changes a vector by at most roundoff/sqrt(3) in the
// root mean square, and n independent roundings by sqrt(n) times that;
// tanh.approx is good to 2^-11, its slope here to twice that. In float32 each
// rounding stands for a sum of at most terms products, each half an ulp off, and
// for the two ulp of an exponential and a quotient.
func tolerance(p table.Precision, roundings, terms int) float64 {
	if p == table.Float32s {
		return float64(roundings*(terms+4)) / (1 << 24)
	}
	return math.Sqrt(float64(roundings)/3)*roundoff + 1.0/1024
}

// near compares in the norm.
func near(t *testing.T, what string, got, want []float64, tol float64) {
	t.Helper()
	var diff, norm float64
	for i := range want {
		diff += (got[i] - want[i]) * (got[i] - want[i])
		norm += want[i] * want[i]
	}
	if rel := math.Sqrt(diff / norm); !(rel <= tol) {
		t.Errorf("%s: relative error %.2e, want at most %.2e", what, rel, tol)
	}
}

// Whole networks of every kind and precision, at every number of tokens, forward
// and backward, each launch with another schedule, against float64.
func TestNetworks(t *testing.T) {
	fs := planned(t, slices.Concat(small, odd, goldenFFNs))
	kernels := loadPTX(t, smallDir, tableOf(t, smallDir))
	maps.Copy(kernels, loadPTX(t, goldenDir, tableOf(t, goldenDir)))
	for _, f := range fs {
		for _, m := range tokenCounts {
			t.Run(fmt.Sprintf("%s/%d", f.Spec.Name(), m), func(t *testing.T) {
				t.Parallel()
				for seed := range uint64(3) {
					d := newDevice(t, kernels, rand.New(rand.NewPCG(seed, uint64(m))), 1000*seed)
					network(d, f, m, seed)
				}
			})
		}
	}
}

func network(d *device, f gpu.FFN, m int, seed uint64) {
	t, s := d.t, f.Spec
	draw := func(l spec.Linear) (w [][]float64, bias []float64) {
		for _, p := range l.Chain() {
			w = append(w, d.draw(p.Weights(), 1/math.Sqrt(float64(p.In))))
		}
		if l.Bias {
			bias = d.draw(l.Out, 0.5)
		}
		return w, bias
	}
	l1, l2 := s.FC1(), s.FC2()
	w1, b1 := draw(l1)
	w2, b2 := draw(l2)
	x, dy := d.draw(m*s.Hidden, 1), d.draw(m*s.Hidden, 1)

	m1, m2 := f64ref.Merged(l1, w1), f64ref.Merged(l2, w2)
	h := f64ref.Linear(m1, b1, x, m, l1.In, l1.Out)
	act := f64ref.Activate(s, h, m)
	y := f64ref.Linear(m2, b2, act, m, l2.In, l2.Out)
	dact, _, db2 := f64ref.LinearBackward(m2, act, dy, m, l2.In, l2.Out)
	dh := f64ref.ActivateBackward(s, h, dact, m)
	dx, _, db1 := f64ref.LinearBackward(m1, x, dh, m, l1.In, l1.Out)
	// gradients are those of the factors, whose chain is the merged matrix.
	gradients := func(what string, l spec.Linear, w [][]float64, merged, x, dy []float64) [][]float64 {
		c := f64ref.NewChain(l)
		y, inputs := c.Forward(w, x, m)
		near(t, what+"'s chain", y, f64ref.Linear(merged, nil, x, m, l.In, l.Out), 1e-12)
		_, g := c.Backward(w, inputs, dy, m)
		return g
	}
	dw1, dw2 := gradients("fc1", l1, w1, m1, x, dh), gradients("fc2", l2, w2, m2, act, dy)

	fc1, fc2 := d.newLayer(f.FC1, w1, b1), d.newLayer(f.FC2, w2, b2)
	dev, is32 := d.array(x, f.Precision), f.Precision == table.Float32s
	n, terms := 2*len(fc1.packs), max(l1.In, l1.Out, m)
	last := f.FC1.Factors[len(f.FC1.Factors)-1].Forward
	forward := func(few bool, pre *ptx.Buffer) {
		got := values(d.forward(fc2, d.forward(fc1, dev, m, few, pre), m, few, nil), is32)
		near(t, "y", unstored(got, f.Output, m), y, tolerance(f.Precision, n, terms))
	}
	pre := d.output(last.Kernel(), "pre", table.Counts{table.Tokens: m})
	forward(false, pre)
	stored := make([]float64, len(dy))
	for r := range m {
		for j, p := range f.Output {
			stored[r*s.Hidden+p] = dy[r*s.Hidden+j]
		}
	}
	backward := func(few, accumulate bool) {
		parts := 1 + int(seed)%2
		dpre := d.backward(fc2, d.array(stored, f.Precision), m, parts, few, accumulate, pre)
		gotDX := d.backward(fc1, dpre, m, parts, few, accumulate, nil)
		tol := tolerance(f.Precision, n+2, terms)
		near(t, "dx", values(gotDX, is32), dx, tol)
		check := func(what string, got, want []float64) {
			if accumulate {
				got = slices.Clone(got)
				for i := range got {
					got[i]--
				}
				largest := max(slices.Max(want), -slices.Min(want))
				for i := range want {
					if e := math.Abs(got[i] - want[i]); !(e <= 4*tol*(1+largest)) {
						t.Errorf("%s: entry %d added to 1: off by %v", what, i, e)
						return
					}
				}
				return
			}
			near(t, what, got, want, tol)
		}
		for i, g := range dw1 {
			check(fmt.Sprintf("dW of fc1's factor %d", i), fc1.grads[i], g)
		}
		for i, g := range dw2 {
			check(fmt.Sprintf("dW of fc2's factor %d", i), fc2.grads[i], g)
		}
		if s.Bias {
			check("db of fc1", fc1.biasGrad, db1)
			check("db of fc2", fc2.biasGrad, db2)
		}
	}
	backward(false, seed == 2)
	if m <= gpu.FewTokens && !is32 {
		pre = d.output(last.Kernel(), "pre", table.Counts{table.Tokens: m})
		forward(true, pre)
		backward(true, false)
	}
}

// unstored puts rows in their true order.
func unstored(v []float64, places []int, m int) []float64 {
	out := make([]float64, len(v))
	n := len(places)
	for r := range m {
		for j, p := range places {
			out[r*n+j] = v[r*n+p]
		}
	}
	return out
}
