package cuda

import (
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/f64ref"
)

var (
	update = flag.Bool("update", false, "compile testdata/small again; needs the CUDA toolkit")
	full   = flag.Bool("full", false, "run every shipped kernel at every number of tokens, three schedules each")
)

var smallDir = filepath.Join("testdata", "small")

// tokenCounts straddle the tiles of 16, 64 and 128 rows.
var tokenCounts = []int{1, 17, 64, 65, 128, 129}

func TestMain(m *testing.M) {
	flag.Parse()
	if *update {
		if err := compileSmall(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func compileSmall() error {
	var fs []plan.GPUFFN
	for _, f := range small {
		p, err := plan.NewGPU(f)
		if err != nil {
			return err
		}
		fs = append(fs, p)
	}
	ks, err := passTable(passModels)
	if err != nil {
		return err
	}
	return errors.Join(compileInto(smallDir, plan.GPUTable(fs...)), compileInto(passDir, ks))
}

func compileInto(dir string, ks []plan.GPUKernel) error {
	files, err := Build(dir, "", ks)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, data := range files {
		if name != Manifest && filepath.Ext(name) != ".ptx" {
			continue // sources are written again by the tests, cubins are not run
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

// near compares in the norm. Rounding a vector to bf16 changes it by at most
// roundoff/sqrt(3) in the root mean square, and n independent roundings by
// sqrt(n) times that; tanh.approx is good to 2^-11, its slope here to twice that.
func near(t *testing.T, what string, got, want []float64, roundings int) {
	t.Helper()
	var diff, norm float64
	for i := range want {
		diff += (got[i] - want[i]) * (got[i] - want[i])
		norm += want[i] * want[i]
	}
	if rel, tol := math.Sqrt(diff/norm), math.Sqrt(float64(roundings)/3)*roundoff+1.0/1024; !(rel <= tol) {
		t.Errorf("%s: relative error %.2e, want at most %.2e", what, rel, tol)
	}
}

// Whole networks of every kind, at every number of tokens, forward and
// backward, each launch with another schedule, against float64.
func TestNetworks(t *testing.T) {
	fs := planned(t, small)
	kernels := loadPTX(t, smallDir, plan.GPUTable(fs...))
	for _, f := range fs {
		for _, m := range tokenCounts {
			t.Run(fmt.Sprintf("%s/%d", f.Spec.Name(), m), func(t *testing.T) {
				t.Parallel()
				for seed := range uint64(3) {
					d := &device{t: t, kernels: kernels, rng: rand.New(rand.NewPCG(seed, uint64(m))), seed: 1000 * seed}
					network(d, f, m, seed)
				}
			})
		}
	}
}

func network(d *device, f plan.GPUFFN, m int, seed uint64) {
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
	dact, dm2, _ := f64ref.LinearBackward(m2, act, dy, m, l2.In, l2.Out)
	dh := f64ref.ActivateBackward(s, h, dact, m)
	dx, dm1, _ := f64ref.LinearBackward(m1, x, dh, m, l1.In, l1.Out)

	fc1, fc2 := d.newLayer(f.FC1, w1, b1), d.newLayer(f.FC2, w2, b2)
	dev := d.bf16(x)
	forward := func(few, save bool) {
		last := f.FC1.Factors[len(f.FC1.Factors)-1].Forward
		pre := d.mem.Output(2 * m * last.C.Pitch)
		if !save {
			pre = nil
		}
		got := values(d.forward(fc2, d.forward(fc1, dev, m, few, pre), m, few, nil), false)
		near(t, "y", unstored(got, f.Output, m), y, 2*len(fc1.packs))
		if !save {
			return
		}
		stored := make([]float64, len(dy))
		for r := range m {
			for j, p := range f.Output {
				stored[r*s.Hidden+p] = dy[r*s.Hidden+j]
			}
		}
		splits := 1 + int(seed)%2
		dpre := d.backward(fc2, d.bf16(stored), m, splits, pre)
		gotDX := d.backward(fc1, dpre, m, splits, nil)
		near(t, "dx", values(gotDX, false), dx, 2*len(fc1.packs)+2)
		for i, g := range f64ref.FactorGradients(l1, w1, dm1) {
			near(t, fmt.Sprintf("dW of fc1's factor %d", i), fc1.grads[i], g, 2*len(fc1.packs)+2)
		}
		for i, g := range f64ref.FactorGradients(l2, w2, dm2) {
			near(t, fmt.Sprintf("dW of fc2's factor %d", i), fc2.grads[i], g, 2*len(fc1.packs)+2)
		}
	}
	forward(false, true)
	if m <= plan.FewTokens {
		forward(true, false)
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
