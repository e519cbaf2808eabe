package forecast

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/model/scaling"
	"github.com/structuredffn/sffn/model/scaling/runs"
)

// table has runs of two kinds whose losses and errors follow laws, but for a
// little noise; those of kind b have lower losses.
func table(t *testing.T) *runs.Table {
	t.Helper()
	var b strings.Builder
	b.WriteString("name,kind,N,D,loss,err\n")
	i := 0
	for k, kind := range []string{"a", "b"} {
		scale := 1 - 0.2*float64(k)
		for _, n := range []float64{1e6, 3e6, 1e7, 3e7} {
			for _, m := range []float64{20, 320} {
				i++
				loss := scale*(40*math.Pow(n, -0.25)+60*math.Pow(m*n, -0.25)) + 2 + 1e-3*math.Sin(float64(i))
				fmt.Fprintf(&b, "%s%g-%g,%s,%g,%g,%v,%v\n", kind, n, m, kind, n, m*n, loss, 0.9-2*math.Exp(-0.6*loss))
			}
		}
	}
	table, err := runs.Parse("runs.csv", []byte(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func fit(t *testing.T, law scaling.Law, where string) []*Fitted {
	t.Helper()
	part, err := table(t).Where(where)
	if err != nil {
		t.Fatal(err)
	}
	fs, err := Fit(law, part, "kind", runs.Columns{Loss: "loss", Err: "err"}, scaling.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fs {
		if err := f.Resample(Resampling{Replicates: 100, Seed: 1, Level: 0.9, Resample: string(scaling.Residuals)}); err != nil {
			t.Fatal(err)
		}
	}
	return fs
}

// Each law finds its own group, in whichever order they come.
func TestPairs(t *testing.T) {
	losses, errs := fit(t, scaling.Joint, "N>0"), fit(t, scaling.Error, "N>0")
	errs[0], errs[1] = errs[1], errs[0]
	for _, p := range Pairs(losses, errs) {
		if p.Loss.Group != p.Group || p.Err.Group != p.Group || p.Err.ErrColumn != "err" || p.Loss.ErrColumn != "" {
			t.Errorf("group %s has laws of %s and %s", p.Group, p.Loss.Group, p.Err.Group)
		}
	}
	if ps := Pairs(losses, errs[:1]); len(ps) != 2 || (ps[0].Err == nil) == (ps[1].Err == nil) {
		t.Errorf("one error law makes pairs %+v", ps)
	}
	if ps := Pairs(nil, errs); len(ps) != 2 || ps[0].Loss != nil || ps[0].Err != errs[0] || ps[0].Group != errs[0].Group {
		t.Errorf("error laws alone make %+v", ps)
	}
}

// What reaches a loss has that loss, with the least compute unless the tokens a
// parameter are given; the intervals hold the predictions.
func TestReach(t *testing.T) {
	holds := func(what string, i *scaling.Interval, x float64) {
		t.Helper()
		if i == nil || !(i.Low <= x && x <= i.High && i.Low < i.High) {
			t.Errorf("%s: %v is not in %v", what, x, i)
		}
	}
	for _, p := range Pairs(fit(t, scaling.Joint, "N>0"), fit(t, scaling.Error, "N>0")) {
		for _, loss := range []float64{2.6, 2.4} {
			least, err := p.Reach([]float64{loss}, nil, 0.9)
			if err != nil {
				t.Fatal(err)
			}
			xs, err := p.Reach([]float64{loss}, []float64{20, 640}, 0.9)
			if err != nil || len(xs) != 2 || xs[0].C < least[0].C || xs[1].C < least[0].C || math.Abs(xs[1].M/640-1) > 1e-9 {
				t.Errorf("%s: loss %v is reached by %+v, with the least compute by %+v, %v", p.Group, loss, xs, least, err)
			}
			for _, x := range append(xs, least...) {
				at := p.At(scaling.Run{N: x.N, D: x.D, C: x.C}, 0.9)
				if *x.Loss != loss || math.Abs(*at.Loss-loss) > 1e-9 || math.Abs(*at.Err-*x.Err) > 1e-9 {
					t.Errorf("%s: loss %v is said to come of N %g, D %g, which give %v", p.Group, loss, x.N, x.D, *at.Loss)
				}
				holds("compute", x.CInterval, x.C)
				holds("loss", at.LossInterval, *at.Loss)
				holds("error", at.ErrInterval, *at.Err)
			}
		}
		if _, err := p.Reach([]float64{1}, nil, 0.9); err == nil || !strings.Contains(err.Error(), "not above the irreducible loss") {
			t.Errorf("a loss below all: %v", err)
		}
	}
}

// Of the runs of a group, predictions say which were fitted, and how far off they
// are.
func TestCompare(t *testing.T) {
	all := table(t)
	for _, p := range Pairs(fit(t, scaling.Joint, "N<3e7"), fit(t, scaling.Error, "N>0")) {
		xs, err := p.Compare(all, "kind", runs.Columns{Loss: "loss", Err: "err"}, 0.9)
		if err != nil || len(xs) != 8 {
			t.Fatalf("%d predictions, want 8, %v", len(xs), err)
		}
		for _, x := range xs {
			if x.InLossFit != (x.N < 3e7) || !x.InErrFit || !strings.HasPrefix(x.Name, p.Group) {
				t.Errorf("%s: in the fits of loss and error: %v, %v", x.Name, x.InLossFit, x.InErrFit)
			}
			if *x.LossRelErr != scaling.RelErr(*x.Loss, *x.LossTrue) || *x.LossRelErr > 0.01 || *x.ErrFromTrueRel > 0.01 {
				t.Errorf("%s: loss %v, measured %v", x.Name, *x.Loss, *x.LossTrue)
			}
		}
		p.Err = nil
		if xs, err := p.Compare(all, "kind", runs.Columns{Loss: "loss", Err: "err"}, 0.9); err != nil || xs[0].Err != nil || xs[0].ErrTrue != nil {
			t.Errorf("without a law of the error: %+v, %v", xs[0], err)
		}
	}
}

func TestSizes(t *testing.T) {
	rs, err := Sizes([]float64{1e6, 1e7}, nil, []float64{20, 30}, nil)
	if err != nil || len(rs) != 4 || rs[3].N != 1e7 || rs[3].D != 3e8 {
		t.Errorf("%v, %v", rs, err)
	}
	if rs, err := Sizes(nil, nil, nil, []float64{1e18}); err != nil || len(rs) != 1 || rs[0].C != 1e18 || rs[0].N != 0 {
		t.Errorf("C alone: %v, %v", rs, err)
	}
}
