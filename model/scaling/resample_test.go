package scaling_test

import (
	"math"
	"math/rand/v2"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/model/scaling"
	"github.com/structuredffn/sffn/model/scaling/runs"
)

// The same seed gives the same sample on any number of processors.
func TestBootstrapReproducible(t *testing.T) {
	f := fit(t, scaling.Joint, testbed(t, "rpj", "N<1e9", runs.Columns{Loss: "loss_c4_val"}), scaling.Options{})
	for _, how := range []scaling.Resampling{scaling.Residuals, scaling.Cases} {
		var samples []*scaling.Sample
		for _, procs := range []int{1, 3} {
			old := runtime.GOMAXPROCS(procs)
			s, err := f.Bootstrap(40, 7, how)
			runtime.GOMAXPROCS(old)
			if err != nil {
				t.Fatal(err)
			}
			samples = append(samples, s)
		}
		if !reflect.DeepEqual(samples[0], samples[1]) {
			t.Errorf("%s: samples differ with the number of processors", how)
		}
		other, err := f.Bootstrap(40, 8, how)
		if err != nil {
			t.Fatal(err)
		}
		if reflect.DeepEqual(samples[0], other) {
			t.Errorf("%s: two seeds gave one sample", how)
		}
	}
}

// Over many noisy experiments, intervals hold the truth about as often as they
// say.
func TestBootstrapCovers(t *testing.T) {
	for _, how := range []scaling.Resampling{scaling.Residuals, scaling.Cases} {
		const experiments = 40
		hits := 0
		for x := range experiments {
			r := rand.New(rand.NewPCG(3, uint64(x)))
			rs := grid([]float64{1e6, 4e6, 16e6, 64e6, 256e6}, []float64{5, 20, 80, 320})
			for i := range rs {
				rs[i].Loss = 100*math.Pow(rs[i].N, -0.2) + 100*math.Pow(rs[i].D, -0.2) + 1 + 0.02*r.NormFloat64()
			}
			f := fit(t, scaling.Joint, rs, scaling.Options{})
			s, err := f.Bootstrap(50, uint64(x), how)
			if err != nil {
				t.Fatal(err)
			}
			if in := s.Interval(0.8, func(f *scaling.Fit) float64 { return f.Coefficients["b"] }); in.Low <= -0.2 && -0.2 <= in.High {
				hits++
			}
		}
		// 32 expected, with a standard deviation of 2.5 and the bootstrap's own bias.
		if hits < 23 || hits > 39 {
			t.Errorf("%s: %d of %d intervals of 80 %% hold the truth", how, hits, experiments)
		}
	}
}

func TestBootstrapOften(t *testing.T) {
	f := fit(t, scaling.Joint, testbed(t, "rpj", lossPoints, runs.Columns{Loss: "loss_c4_val"}), scaling.Options{})
	s, err := f.Bootstrap(1000, 1, scaling.Residuals)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Fits)+s.Failed != 1000 || s.Failed > 50 {
		t.Errorf("%d fits, %d failed", len(s.Fits), s.Failed)
	}
	in := s.Interval(0.95, func(f *scaling.Fit) float64 { return f.Coefficients["b"] })
	if b := f.Coefficients["b"]; !(in.Low < b && b < in.High) {
		t.Errorf("b = %g, interval %v", b, in)
	}
}

func TestLeaveOneOut(t *testing.T) {
	c := runs.Columns{Loss: "loss_c4_val"}
	f := fit(t, scaling.Joint, testbed(t, "rpj", lossPoints, c), scaling.Options{})
	s, left, err := f.LeaveOneOut()
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 5 || len(s.Fits) != 4 || s.Failed != 1 {
		t.Fatalf("%d left out, %d fits", len(left), len(s.Fits))
	}
	for i, p := range f.Points {
		if only := p.M() == 320; only != strings.Contains(left[i].Why, "alpha and beta are not identifiable") {
			t.Errorf("without %s: %q", p.Name, left[i].Why)
		}
	}
	// The prediction for a run left out is that of a fit that never saw it.
	all := testbed(t, "rpj", lossPoints, c)
	g := fit(t, scaling.Joint, append(append([]scaling.Run(nil), all[:2]...), all[3:]...), scaling.Options{})
	near(t, "left out", left[2].Predicted, g.At(all[2]), 1e-9)
	in := s.Interval(1, func(f *scaling.Fit) float64 { return f.Coefficients["E"] })
	if !(in.Low < in.High) {
		t.Errorf("interval %v", in)
	}
	four := fit(t, scaling.Joint, all[1:], scaling.Options{})
	if len(four.Warnings) == 0 || !strings.Contains(strings.Join(four.Warnings, ""), "as many coefficients as runs (4)") {
		t.Errorf("warnings %q", four.Warnings)
	}
	if _, _, err := four.LeaveOneOut(); err == nil {
		t.Error("four runs cannot do without one")
	}
	if _, err := four.Bootstrap(10, 1, scaling.Residuals); err == nil || !strings.Contains(err.Error(), "no residuals") {
		t.Errorf("bootstrap of four runs: %v", err)
	}
}

func BenchmarkFit(b *testing.B) {
	for _, x := range []struct {
		law   scaling.Law
		where string
	}{{scaling.Joint, lossPoints}, {scaling.Joint, "M>0"}, {scaling.Error, errorPoints}, {scaling.Irreducible, "M=20"}} {
		rs := testbed(b, "rpj", x.where, runs.Columns{Loss: "loss_c4_val", Err: "err_avg", Compute: "C"})
		b.Run(string(x.law)+"/"+x.where, func(b *testing.B) {
			for b.Loop() {
				fit(b, x.law, rs, scaling.Options{})
			}
		})
	}
}

func BenchmarkBootstrap1000(b *testing.B) {
	f := fit(b, scaling.Joint, testbed(b, "rpj", lossPoints, runs.Columns{Loss: "loss_c4_val"}), scaling.Options{})
	for b.Loop() {
		if _, err := f.Bootstrap(1000, 1, scaling.Residuals); err != nil {
			b.Fatal(err)
		}
	}
}
