package scaling_test

import (
	"encoding/json"
	"math"
	"os"
	"slices"
	"testing"

	"github.com/structuredffn/sffn/model/scaling"
	"github.com/structuredffn/sffn/model/scaling/runs"
)

// The runs that the paper's laws are fitted to.
const (
	lossPoints  = "M=20,N<1e9 or M=320,N<2e7"
	errorPoints = "M=20,N<2e9 or M=320,N<2e7"
)

// testbed reads the runs of a corpus.
func testbed(t testing.TB, corpus, where string, c runs.Columns) []scaling.Run {
	t.Helper()
	table, _, err := runs.Read("testdata/testbed.csv")
	if err != nil {
		t.Fatal(err)
	}
	for _, filter := range []string{"dataset=" + corpus, where} {
		if filter == "" {
			continue
		}
		if table, err = table.Where(filter); err != nil {
			t.Fatal(err)
		}
	}
	rs, err := table.Runs(c)
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

func fit(t testing.TB, law scaling.Law, rs []scaling.Run, o scaling.Options) *scaling.Fit {
	t.Helper()
	f, err := scaling.New(law, rs, o)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// near compares with a relative tolerance.
func near(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if !(math.Abs(got-want) <= tolerance*math.Abs(want)) {
		t.Errorf("%s: %.12g, want %.12g within %g", what, got, want, tolerance)
	}
}

// tolerances are those of the reference's README.
var tolerances = map[string]float64{
	"alpha": 1e-4, "beta": 1e-4, "k": 1e-4, "lam": 1e-4, "a": 1e-4, "A": 1e-4, "B": 1e-4,
	"b": 1e-5, "E": 1e-5, "gamma": 1e-5, "epsilon": 1e-5, "exponent": 1e-5, "eta": 1e-5,
}

func coefficients(t *testing.T, what string, got, want map[string]float64) {
	t.Helper()
	for name, x := range want {
		tolerance := tolerances[name]
		if name == "b" && x > 0 { // the amount of the compute form, not the exponent
			tolerance = tolerances["beta"]
		}
		near(t, what+" "+name, got[name], x, tolerance)
	}
}

type solution struct {
	Coefficients map[string]float64            `json:"coefficients"`
	Forms        map[string]map[string]float64 `json:"derived_forms"`
	RSS          float64                       `json:"rss"`
	Residuals    []float64                     `json:"residuals_true_minus_fit"`
}

type reference struct {
	Points []string `json:"points"`
	solution
	Exact solution `json:"exact_minimiser"`
}

type line struct {
	Lam      float64 `json:"lam"`
	Exponent float64 `json:"exponent"`
	C        float64 `json:"c"`
	RSS      float64 `json:"rss"`
}

func (l line) coefficients() map[string]float64 {
	return map[string]float64{"lam": l.Lam, "exponent": l.Exponent}
}

type predicted struct {
	Name       string  `json:"name"`
	LossPred   float64 `json:"loss_pred"`
	LossRelErr float64 `json:"loss_rel_err"`
	Avg        errors  `json:"avg"`
	Subset     errors  `json:"avg_subset"`
}

type errors struct {
	Pred           float64  `json:"err_pred"`
	RelErr         float64  `json:"err_rel_err"`
	FromTrue       *float64 `json:"err_pred_from_true_loss"`
	RelErrFromTrue *float64 `json:"err_rel_err_from_true_loss"`
}

type expected struct {
	LossFit  reference `json:"loss_fit"`
	ErrorFit struct {
		Avg    reference `json:"avg"`
		Subset reference `json:"avg_subset"`
	} `json:"error_fit"`
	HeldOut []predicted `json:"held_out_predictions"`
	Large   []predicted `json:"other_large_runs"`
	All     []predicted `json:"all_runs"`
	Extra   struct {
		LogLinear struct {
			line
			Predictions []predicted `json:"predictions"`
		} `json:"loss_vs_C_loglinear_M20"`
		Irreducible struct {
			Exact       line        `json:"exact_minimiser"`
			Predictions []predicted `json:"predictions"`
		} `json:"loss_vs_C_irreducible_M20"`
		PerM []struct {
			M                     float64
			N                     int `json:"n"`
			Reducible, Raw, Joint line
			JointLaw              line `json:"joint_law"`
		} `json:"per_M_loglinear"`
	} `json:"extra_fits"`
}

func (r reference) compare(t *testing.T, what string, f *scaling.Fit) {
	t.Helper()
	if len(f.Points) != len(r.Points) {
		t.Fatalf("%s: fitted to %d runs, want %v", what, len(f.Points), r.Points)
	}
	for _, p := range f.Points {
		i := slices.Index(r.Points, p.Name)
		if i < 0 {
			t.Fatalf("%s: fitted to %s, want %v", what, p.Name, r.Points)
		}
		if d := p.Residual - r.Exact.Residuals[i]; math.Abs(d) > 1e-6 {
			t.Errorf("%s: residual of %s is off by %g", what, p.Name, d)
		}
	}
	for _, s := range []solution{r.solution, r.Exact} {
		coefficients(t, what, f.Coefficients, s.Coefficients)
		for form, c := range s.Forms {
			coefficients(t, what+" "+form, f.Derived[form], c)
		}
		near(t, what+" rss", f.RSS, s.RSS, 1e-6)
	}
}

// Everything in the reference: coefficients, residuals, predictions and
// relative errors.
func TestExpected(t *testing.T) {
	text, err := os.ReadFile("testdata/expected.json")
	if err != nil {
		t.Fatal(err)
	}
	var all struct {
		Datasets map[string]expected `json:"datasets"`
	}
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	if len(all.Datasets) < 2 {
		t.Fatalf("%d datasets", len(all.Datasets))
	}
	for corpus, want := range all.Datasets {
		t.Run(corpus, func(t *testing.T) {
			avg, subset := runs.Columns{Loss: "loss_c4_val", Err: "err_avg"}, runs.Columns{Loss: "loss_c4_val", Err: "err_avg_subset"}
			five := testbed(t, corpus, lossPoints, avg)
			joint := fit(t, scaling.Joint, five, scaling.Options{})
			want.LossFit.compare(t, "loss", joint)
			compute := fit(t, scaling.Compute, five, scaling.Options{})
			coefficients(t, "compute form", map[string]float64{"a": compute.Coefficients["a"], "b": compute.Coefficients["beta"], "eta": compute.Coefficients["eta"], "E": compute.Coefficients["E"]},
				want.LossFit.Exact.Forms["C_M_form"])
			errAvg := fit(t, scaling.Error, testbed(t, corpus, errorPoints, avg), scaling.Options{})
			want.ErrorFit.Avg.compare(t, "error", errAvg)
			errSubset := fit(t, scaling.Error, testbed(t, corpus, errorPoints, subset), scaling.Options{})
			want.ErrorFit.Subset.compare(t, "subset error", errSubset)

			avgRuns, subsetRuns := map[string]scaling.Run{}, map[string]scaling.Run{}
			for _, r := range testbed(t, corpus, "", avg) {
				avgRuns[r.Name] = r
			}
			for _, r := range testbed(t, corpus, "", subset) {
				subsetRuns[r.Name] = r
			}
			predictions := append(append(want.All, want.HeldOut...), want.Large...)
			if len(predictions) < len(avgRuns)+2 {
				t.Fatalf("%d predictions of %d runs", len(predictions), len(avgRuns))
			}
			for _, p := range predictions {
				r := avgRuns[p.Name]
				loss := joint.At(r)
				near(t, p.Name+" loss", loss, p.LossPred, 1e-6)
				near(t, p.Name+" compute form", compute.At(r), p.LossPred, 1e-6)
				relative(t, p.Name+" loss", scaling.RelErr(loss, r.Loss), p.LossRelErr)
				for _, e := range []struct {
					law  *scaling.Fit
					run  scaling.Run
					want errors
				}{{errAvg, r, p.Avg}, {errSubset, subsetRuns[p.Name], p.Subset}} {
					chained := e.law.At(scaling.Run{Loss: loss})
					near(t, p.Name+" error", chained, e.want.Pred, 1e-6)
					relative(t, p.Name+" error", scaling.RelErr(chained, e.run.Err), e.want.RelErr)
					if e.want.FromTrue != nil {
						near(t, p.Name+" error from measured loss", e.law.At(e.run), *e.want.FromTrue, 1e-6)
						relative(t, p.Name+" error from measured loss", scaling.RelErr(e.law.At(e.run), e.run.Err), *e.want.RelErrFromTrue)
					}
				}
			}
			compareLines(t, want, corpus, joint, avgRuns)
		})
	}
}

// relative compares relative errors: of predictions that agree to 1e-6, they
// agree to 1e-6 absolutely.
func relative(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.Abs(got-want) > 1.1e-6 {
		t.Errorf("%s: relative error %.9g, want %.9g", what, got, want)
	}
}

// compareLines checks the laws of compute alone.
func compareLines(t *testing.T, want expected, corpus string, joint *scaling.Fit, all map[string]scaling.Run) {
	c := runs.Columns{Loss: "loss_c4_val", Compute: "C"}
	four := testbed(t, corpus, "M=20,N<1e9", c)
	power := fit(t, scaling.Power, four, scaling.Options{})
	coefficients(t, "power", power.Coefficients, want.Extra.LogLinear.coefficients())
	irreducible := fit(t, scaling.Irreducible, four, scaling.Options{})
	exact := want.Extra.Irreducible.Exact
	coefficients(t, "irreducible", irreducible.Coefficients, map[string]float64{"lam": exact.Lam, "exponent": exact.Exponent, "E": exact.C})
	near(t, "irreducible rss", irreducible.RSS, exact.RSS, 1e-6)
	for _, x := range []struct {
		law  *scaling.Fit
		want []predicted
	}{{power, want.Extra.LogLinear.Predictions}, {irreducible, want.Extra.Irreducible.Predictions}} {
		if len(x.want) == 0 {
			t.Error("no predictions")
		}
		for _, p := range x.want {
			near(t, p.Name, x.law.At(all[p.Name]), p.LossPred, 1e-6)
			relative(t, p.Name, scaling.RelErr(x.law.At(all[p.Name]), all[p.Name].Loss), p.LossRelErr)
		}
	}
	for _, per := range want.Extra.PerM {
		var rs []scaling.Run
		for _, r := range testbed(t, corpus, "N<1e9", c) {
			if r.M() == per.M {
				rs = append(rs, r)
			}
		}
		if len(rs) != per.N {
			t.Fatalf("M = %g: %d runs, want %d", per.M, len(rs), per.N)
		}
		coefficients(t, "raw", fit(t, scaling.Power, rs, scaling.Options{}).Coefficients, per.Raw.coefficients())
		// The floor is the reference's: 1e-5 of it moves these lines.
		floor := want.LossFit.Coefficients["E"]
		coefficients(t, "reducible", fit(t, scaling.Power, rs, scaling.Options{Floor: floor}).Coefficients, per.Reducible.coefficients())
		d := joint.Derived["C_M_form"]
		coefficients(t, "joint", map[string]float64{"exponent": -d["eta"], "lam": d["a"]*math.Pow(per.M, d["eta"]) + d["b"]*math.Pow(per.M, -d["eta"])}, per.JointLaw.coefficients())
	}
}

// The numbers that the source prints, and two of the reference's identities,
// without the reference.
func TestPublished(t *testing.T) {
	c := runs.Columns{Loss: "loss_c4_val", Err: "err_avg_subset"}
	joint := fit(t, scaling.Joint, testbed(t, "rpj", lossPoints, c), scaling.Options{})
	errs := fit(t, scaling.Error, testbed(t, "rpj", errorPoints, c), scaling.Options{})
	for where, want := range map[string][2]float64{"N>1e9,M=640": {0.7103, 3.6365}, "N>5e9": {0.7320, 0.0464}} {
		r := testbed(t, "rpj", where, c)[0]
		loss := joint.At(r)
		for i, got := range []float64{scaling.RelErr(loss, r.Loss), scaling.RelErr(errs.At(scaling.Run{Loss: loss}), r.Err)} {
			if math.Abs(100*got-want[i]) > 5.1e-5 {
				t.Errorf("%s: %.5f %%, want %.4f %%", where, 100*got, want[i])
			}
		}
	}
	if p := joint.Points[1]; p.M() != 320 || math.Abs(p.Residual) > 1e-9 {
		t.Errorf("the only run at M = 320 has the residual %g, want 0", p.Residual)
	}
	one := fit(t, scaling.Irreducible, testbed(t, "rpj", "M=20,N<1e9", c), scaling.Options{})
	near(t, "E of the runs at M = 20", one.Coefficients["E"], joint.Coefficients["E"], 1e-6)
	near(t, "eta of the runs at M = 20", -2*one.Coefficients["exponent"], -joint.Coefficients["b"], 1e-6)
}
