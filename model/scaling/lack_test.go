package scaling_test

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/model/scaling"
	"github.com/structuredffn/sffn/model/scaling/runs"
)

func TestLackOfFit(t *testing.T) {
	// Sizes 0, 1, 2 with two runs each, 0 ± 1, 3 ± 1, 0 ± 1: the line is y = 1, the
	// means lie 1, 2, 1 from it (sum of squares 2 (1 + 4 + 1) = 12, one degree of
	// freedom), the runs 1 from their means (6, three). F(1, 3) = 6 is the square of
	// Student's t, whose distribution with three degrees of freedom is known.
	sizes, ones := []int{0, 1, 2, 2, 1, 0}, []float64{1, 1, 1, 1, 1, 1}
	residuals := []float64{-2, 1, 0, -2, 3, 0}
	l := scaling.NewLackOfFit(sizes, residuals, ones, 2)
	want := 1 - 2/math.Pi*(math.Sqrt2/3+math.Atan(math.Sqrt2))
	if l == nil || math.Abs(l.F-6) > 1e-12 || l.Freedom != [2]int{1, 3} || math.Abs(l.P-want) > 1e-9 || l.Rejects() {
		t.Errorf("%+v, want F = 6, p = %g", l, want)
	}
	if got := l.String(); got != "F(1, 3) = 6, p = 0.092" {
		t.Error(got)
	}
	// A weight of 2 is a run that comes twice, but for the degrees of freedom.
	twice := scaling.NewLackOfFit([]int{0, 0, 0, 1, 1, 2, 2}, []float64{1, 1, 4, 2, 1, 0, 3}, []float64{1, 1, 1, 1, 1, 1, 1}, 2)
	weighted := scaling.NewLackOfFit([]int{0, 0, 1, 1, 2, 2}, []float64{1, 4, 2, 1, 0, 3}, []float64{2, 1, 1, 1, 1, 1}, 2)
	if a, b := twice.F/4, weighted.F/3; math.Abs(a-b) > 1e-12 {
		t.Errorf("weights: %g, want %g", b, a)
	}
	for what, l := range map[string]*scaling.LackOfFit{
		"no size twice":   scaling.NewLackOfFit([]int{0, 1, 2}, ones[:3], ones[:3], 2),
		"as many sizes":   scaling.NewLackOfFit([]int{0, 0, 1, 1}, residuals[:4], ones[:4], 2),
		"copies of a run": scaling.NewLackOfFit([]int{0, 1, 1, 2}, []float64{1, 0.1, 0.1, 1}, ones[:4], 2),
		"no runs":         scaling.NewLackOfFit([]int{}, nil, nil, 2),
	} {
		if l != nil || l.Rejects() || l.String() != "-" {
			t.Errorf("%s: %v", what, l)
		}
	}
}

// Of runs about a law, one in twenty experiments rejects it; a law of another
// form is rejected.
func TestLackOfFitRejects(t *testing.T) {
	for _, law := range []scaling.Law{scaling.Power, scaling.Irreducible, scaling.Joint, scaling.Compute} {
		const experiments = 100
		right, wrong := 0, 0
		for x := range experiments {
			r := rand.New(rand.NewPCG(4, uint64(x)))
			experiment := func(bend float64) *scaling.Fit {
				var rs []scaling.Run
				for _, n := range []float64{1e6, 4e6, 16e6, 64e6} {
					for _, m := range []float64{20, 80} {
						for range 4 {
							q := scaling.Run{N: n, D: m * n, C: 6 * n * n * m, Weight: 1}
							u := math.Log(q.C)
							noise := 0.02 * r.NormFloat64()
							switch law {
							case scaling.Power:
								q.Loss = 40 * math.Exp(-0.08*u+noise)
							case scaling.Irreducible:
								q.Loss = 80*math.Exp(-0.12*u) + 1 + noise
							default:
								q.Loss = 100*math.Pow(q.N, -0.25) + 100*math.Pow(q.D, -0.25) + 1 + noise
							}
							q.Loss += bend * math.Sin(3*u)
							rs = append(rs, q)
						}
					}
				}
				return fit(t, law, rs, scaling.Options{})
			}
			if experiment(0).LackOfFit.Rejects() {
				right++
			}
			if f := experiment(0.1); f.LackOfFit.Rejects() {
				wrong++
				if !strings.Contains(strings.Join(f.Warnings, "\n"), "the runs reject this law (lack of fit, F(") {
					t.Fatalf("%s: warnings %q", law, f.Warnings)
				}
			}
		}
		// 5 of 100 are expected, with deviation 2.2.
		if right < 1 || right > 12 || wrong < experiments*9/10 {
			t.Errorf("%s: of %d experiments %d reject their own law, %d another", law, experiments, right, wrong)
		}
	}
}

// The slopes of experiments/paper: their lines are rejected where the seeds
// say so. The numbers are those of a program apart from this one.
func TestPaperLackOfFit(t *testing.T) {
	table, _, err := runs.Read("../../experiments/paper/runs.csv")
	if err != nil {
		t.Fatal(err)
	}
	groups, err := table.Groups("kind")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]float64{"dense": 9.173863, "lowrank 63 %": 13.150038, "lowrank 31 %": 1.706217}
	for _, g := range groups {
		rs, err := g.Runs(runs.Columns{Loss: "loss", Compute: "flops"})
		if err != nil {
			t.Fatal(err)
		}
		f := fit(t, scaling.Power, rs, scaling.Options{})
		l := f.LackOfFit
		if l == nil || l.Freedom != [2]int{2, 8} || l.Rejects() != (l.F > 4.459) {
			t.Fatalf("%s: %+v", g.Value, l)
		}
		near(t, g.Value, l.F, want[g.Value], 1e-4) // the program's losses have six decimals
		delete(want, g.Value)
	}
	if len(want) > 0 {
		t.Errorf("not there: %v", want)
	}
}
