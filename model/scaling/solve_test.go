package scaling_test

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/structuredffn/sffn/model/scaling"
	"github.com/structuredffn/sffn/model/scaling/runs"
)

// bruteForce minimises the sum of squares over a fine grid of exponents, with
// the normal equations at each: another way to the same minimum. terms are the
// variables u of exp(-t u); the last column is the constant.
func bruteForce(y []float64, sign float64, terms [][]float64, lo, hi float64, n int) (t, rss float64) {
	rss = math.Inf(1)
	for i := range n {
		x := lo * math.Pow(hi/lo, float64(i)/float64(n-1))
		columns := make([][]float64, len(terms)+1)
		for j, u := range terms {
			for _, v := range u {
				columns[j] = append(columns[j], sign*math.Exp(-x*v))
			}
		}
		for range y {
			columns[len(terms)] = append(columns[len(terms)], 1)
		}
		if v := leastNonNegative(columns, y); v < rss {
			t, rss = x, v
		}
	}
	return t, rss
}

// leastNonNegative is the minimum of |A c - y|^2 for c >= 0, over all supports.
func leastNonNegative(columns [][]float64, y []float64) float64 {
	best := math.Inf(1)
	for set := range 1 << len(columns) {
		var a [][]float64
		for j, col := range columns {
			if set>>j&1 == 1 {
				a = append(a, col)
			}
		}
		c := eliminate(a, y)
		rss := 0.0
		for i, v := range y {
			for j := range a {
				v -= c[j] * a[j][i]
			}
			rss += v * v
		}
		ok := true
		for _, v := range c {
			ok = ok && v >= 0
		}
		if ok {
			best = min(best, rss)
		}
	}
	return best
}

func eliminate(a [][]float64, y []float64) []float64 {
	dot := func(x, z []float64) (s float64) {
		for i := range x {
			s = math.FMA(x[i], z[i], s)
		}
		return s
	}
	k := len(a)
	m := make([][]float64, k)
	for i := range m {
		for j := range k {
			m[i] = append(m[i], dot(a[i], a[j]))
		}
		m[i] = append(m[i], dot(a[i], y))
	}
	for i := range k {
		for r := i + 1; r < k; r++ {
			f := m[r][i] / m[i][i]
			for c := range m[r] {
				m[r][c] -= f * m[i][c]
			}
		}
	}
	c := make([]float64, k)
	for i := k - 1; i >= 0; i-- {
		s := m[i][k]
		for j := i + 1; j < k; j++ {
			s -= m[i][j] * c[j]
		}
		c[i] = s / m[i][i]
	}
	return c
}

// centred is u of the runs less its mean.
func centred(rs []scaling.Run, of func(scaling.Run) float64) []float64 {
	mean := 0.0
	for _, r := range rs {
		mean += of(r) / float64(len(rs))
	}
	var u []float64
	for _, r := range rs {
		u = append(u, of(r)-mean)
	}
	return u
}

// Every corpus and loss column, the paper's points and all points: no exponent
// on a fine grid is better.
func TestBruteForce(t *testing.T) {
	table, _, err := runs.Read("testdata/testbed.csv")
	if err != nil {
		t.Fatal(err)
	}
	fits := 0
	for _, corpus := range []string{"rpj", "c4_original", "rw_original"} {
		for _, column := range table.Columns {
			if !strings.HasPrefix(column, "loss_") {
				continue
			}
			for _, where := range []string{lossPoints, ""} {
				rs := testbed(t, corpus, where, runs.Columns{Loss: column})
				f := fit(t, scaling.Joint, rs, scaling.Options{})
				var y []float64
				for _, r := range rs {
					y = append(y, r.Loss)
				}
				p, rss := bruteForce(y, 1, [][]float64{
					centred(rs, func(r scaling.Run) float64 { return math.Log(r.N) }),
					centred(rs, func(r scaling.Run) float64 { return math.Log(r.D) })}, 0.005, 1.5, 1000)
				compareBrute(t, fmt.Sprintf("%s %s %q", corpus, column, where), f, -f.Coefficients["b"], p, rss)
				fits++
			}
			for _, errColumn := range []string{"err_avg", "err_avg_subset"} {
				for _, where := range []string{errorPoints, ""} {
					rs := testbed(t, corpus, where, runs.Columns{Loss: column, Err: errColumn})
					f := fit(t, scaling.Error, rs, scaling.Options{})
					var y []float64
					for _, r := range rs {
						y = append(y, r.Err)
					}
					g, rss := bruteForce(y, -1, [][]float64{centred(rs, func(r scaling.Run) float64 { return r.Loss })}, 0.005, 6, 1000)
					compareBrute(t, fmt.Sprintf("%s %s %s %q", corpus, column, errColumn, where), f, f.Coefficients["gamma"], g, rss)
					fits++
				}
			}
		}
	}
	if fits != 3*8*6 {
		t.Errorf("%d fits", fits)
	}
}

func compareBrute(t *testing.T, what string, f *scaling.Fit, got, grid, rss float64) {
	t.Helper()
	if f.RSS > rss*(1+1e-9) {
		t.Errorf("%s: rss %.9g, the grid has %.9g", what, f.RSS, rss)
	}
	sum := 0.0
	for _, p := range f.Points {
		sum += p.Residual * p.Residual
	}
	if math.Abs(sum-f.RSS) > 1e-9*sum+1e-14 {
		t.Errorf("%s: rss %.9g, the residuals have %.9g", what, f.RSS, sum)
	}
	if math.Abs(got/grid-1) > 0.008 { // the grid's step, and a little
		t.Errorf("%s: exponent %g, the grid has %g", what, got, grid)
	}
	for _, w := range f.Warnings {
		t.Logf("%s: %s", what, w)
	}
}

// Exact data give the coefficients back, whatever they are.
func TestRecover(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		log := func(name string, lo, hi float64) float64 {
			return math.Exp(rapid.Float64Range(math.Log(lo), math.Log(hi)).Draw(t, name))
		}
		p, e := rapid.Float64Range(0.1, 0.8).Draw(t, "p"), rapid.Float64Range(0, 3).Draw(t, "E")
		n0, m0 := log("N", 1e4, 1e9), log("M", 1, 100)
		a := log("A", 0.1, 5) * math.Pow(n0, p)
		b := log("B", 0.1, 5) * math.Pow(n0*m0, p)
		var rs []scaling.Run
		for i := range 4 {
			for j := range 3 {
				r, err := scaling.Size(n0*math.Pow(4, float64(i)), 0, m0*math.Pow(3, float64(j)), 0)
				if err != nil {
					t.Fatal(err)
				}
				r.Name, r.Weight = fmt.Sprint(i, j), log("weight", 0.1, 10)
				r.Loss = e + a*math.Pow(r.N, -p) + b*math.Pow(r.D, -p)
				rs = append(rs, r)
			}
		}
		for _, law := range []scaling.Law{scaling.Joint, scaling.Compute} {
			f, err := scaling.New(law, rs, scaling.Options{})
			if err != nil {
				t.Fatal(err)
			}
			d := f.Derived["N_D_form"]
			for name, want := range map[string]float64{"A": a, "B": b, "exponent": p} {
				if math.Abs(d[name]/want-1) > 1e-4 {
					t.Errorf("%s: %s = %g, want %g", law, name, d[name], want)
				}
			}
			if math.Abs(d["E"]-e) > 1e-5 {
				t.Errorf("%s: E = %g, want %g", law, d["E"], e)
			}
			// The least compute: no other M reaches the loss with less.
			loss := e + log("rest", 0.1, 2)
			best, err := f.Reach(loss, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range []float64{0.9, 1.1} {
				other, err := f.Reach(loss, best.M()*r)
				if err != nil || other.C < best.C {
					t.Errorf("%s: M = %g needs %g FLOPs, M = %g only %g; %v", law, best.M(), best.C, other.M(), other.C, err)
				}
				if math.Abs(f.At(other)-loss) > 1e-8 {
					t.Errorf("%s: %v has loss %g, want %g", law, other, f.At(other), loss)
				}
			}
		}
	})
}

// A run that counts twice is two runs.
func TestWeights(t *testing.T) {
	rs := testbed(t, "rpj", "N<1e9", runs.Columns{Loss: "loss_c4_val", Err: "err_avg", Compute: "C"})
	for _, law := range scaling.Laws {
		double, weighted := rs, append([]scaling.Run(nil), rs...)
		for i := range 5 {
			double = append(double, rs[3*i])
			weighted[3*i].Weight = 2
		}
		f, g := fit(t, law, double, scaling.Options{}), fit(t, law, weighted, scaling.Options{})
		near(t, string(law)+" rss", g.RSS, f.RSS, 1e-9)
		for name, want := range f.Coefficients {
			near(t, string(law)+" "+name, g.Coefficients[name], want, 1e-5)
		}
		if plain := fit(t, law, rs, scaling.Options{}); math.Abs(plain.RSS/g.RSS-1) < 1e-3 {
			t.Errorf("%s: weights make no difference", law)
		}
	}
}

func run(n, m, loss float64) scaling.Run {
	return scaling.Run{Name: fmt.Sprintf("N%g-M%g", n, m), N: n, D: n * m, C: 6 * n * n * m, Loss: loss, Err: 0.5, Weight: 1}
}

// grid makes runs of the law 100 N^-0.2 + 100 D^-0.2 + 1, with noise.
func grid(ns, ms []float64) []scaling.Run {
	var rs []scaling.Run
	for _, n := range ns {
		for _, m := range ms {
			noise := 0.001 * float64(len(rs)*7%5-2)
			rs = append(rs, run(n, m, 100*math.Pow(n, -0.2)+100*math.Pow(n*m, -0.2)+1+noise))
		}
	}
	return rs
}

func TestDegenerate(t *testing.T) {
	rising := grid([]float64{1e6, 1e7, 1e8}, []float64{5, 20, 80})
	for i := range rising {
		rising[i].Loss = 20 - rising[i].Loss
	}
	// Two N and two D: any exponent goes through.
	square := append(grid([]float64{1e6}, []float64{20, 200}), grid([]float64{1e7}, []float64{2, 20})...)
	step := grid([]float64{1e6, 1e7, 1e8, 1e9}, []float64{20})
	for i := range step {
		step[i].Loss = 2
	}
	step[0].Loss = 5
	almost := grid([]float64{1e6, 1e7, 1e8, 1e9, 1e10}, []float64{20})
	for i := range almost { // whole batches only: M = 20 to within 0.4 %
		almost[i].D *= 1 + 0.002*float64(i%3-1)
	}
	for name, tt := range map[string]struct {
		law  scaling.Law
		runs []scaling.Run
		want string
	}{
		"one M":       {scaling.Joint, grid([]float64{1e6, 1e7, 1e8, 1e9, 1e10}, []float64{20}), "alpha and beta are not identifiable from 5 runs: every run has M = 20 tokens a parameter"},
		"one M, C":    {scaling.Compute, grid([]float64{1e6, 1e7, 1e8, 1e9}, []float64{20}), "a and beta are not identifiable from 4 runs: every run has M = 20"},
		"almost":      {scaling.Joint, almost, "alpha and beta are not identifiable from 5 runs: every run has M = "},
		"one N":       {scaling.Joint, grid([]float64{1e6}, []float64{5, 20, 80, 320}), "alpha and E are not identifiable from 4 runs: every run has N = 1e+06 parameters"},
		"two by two":  {scaling.Joint, square, "not identifiable from 4 runs: too few of the runs differ"},
		"too few":     {scaling.Joint, grid([]float64{1e6, 1e7, 1e8}, []float64{20}), "alpha, beta, E and b are not identifiable from 3 runs: the joint law has 4 coefficients"},
		"none":        {scaling.Power, nil, "not identifiable from 0 runs"},
		"same run":    {scaling.Joint, grid([]float64{1e6, 1e6, 1e6, 1e6}, []float64{20}), "alpha, beta, E and b are not identifiable from 4 runs: too few"},
		"one C":       {scaling.Irreducible, grid([]float64{1e6, 1e6, 1e6}, []float64{20}), "lam, E and exponent are not identifiable from 3 runs: too few"},
		"two C":       {scaling.Irreducible, grid([]float64{1e6, 1e6, 1e7}, []float64{20}), "not identifiable from 3 runs"},
		"one C, log":  {scaling.Power, grid([]float64{1e6, 1e6, 1e6}, []float64{20}), "lam and exponent are not identifiable from 3 runs"},
		"flat error":  {scaling.Error, grid([]float64{1e6, 1e7, 1e8}, []float64{5, 20, 80}), "gamma is not identifiable from 9 runs: the residuals are least for a law that is flat or a straight line"},
		"one loss":    {scaling.Error, []scaling.Run{run(1, 1, 3), run(2, 1, 3), run(3, 1, 3)}, "not identifiable from 3 runs: every run has the loss 3"},
		"rising loss": {scaling.Joint, rising, "b is not identifiable from 9 runs: the residuals are least for a law that is flat"},
		"step":        {scaling.Irreducible, step, "exponent is not identifiable from 4 runs: the residuals are least for a law that falls to its limit between two"},
		"no loss":     {scaling.Joint, append(grid([]float64{1e6, 1e7}, []float64{5, 20, 80}), run(1e8, 3, math.NaN())), "run N1e+08-M3: the loss is NaN, want a positive number"},
		"no N":        {scaling.Joint, append(grid([]float64{1e6, 1e7}, []float64{5, 20, 80}), run(0, 3, 3)), "run N0-M3: N is 0, want a positive number"},
		"percent":     {scaling.Error, []scaling.Run{{Name: "x", Loss: 3, Err: 45, Weight: 1}}, "run x: the error is 45, want 0 to 1"},
		"unknown":     {"cubic", nil, `unknown law "cubic"; valid are [joint compute power irreducible error]`},
	} {
		_, err := scaling.New(tt.law, tt.runs, scaling.Options{})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want it to contain %q", name, err, tt.want)
		}
	}
}

// Where more data would help no more, the amount is 0 and the fit says so.
func TestBound(t *testing.T) {
	rs := grid([]float64{1e6, 1e7, 1e8, 1e9}, []float64{20, 80})
	for i := range rs {
		rs[i].Loss = 100*math.Pow(rs[i].N, -0.2) + 1 + 0.01*rs[i].M()/20
	}
	f := fit(t, scaling.Joint, rs, scaling.Options{})
	if f.Coefficients["beta"] != 0 || len(f.Warnings) != 1 || !strings.Contains(f.Warnings[0], "beta lies on its bound 0") {
		t.Errorf("beta = %g, warnings %q", f.Coefficients["beta"], f.Warnings)
	}
	if _, err := f.Reach(3, 0); err == nil {
		t.Error("a law without beta has no best M")
	}
}

func TestReach(t *testing.T) {
	c := runs.Columns{Loss: "loss_c4_val", Err: "err_avg", Compute: "C"}
	for _, law := range []scaling.Law{scaling.Joint, scaling.Compute, scaling.Power, scaling.Irreducible} {
		f := fit(t, law, testbed(t, "rpj", "N<1e9,M>=20", c), scaling.Options{})
		for _, m := range []float64{0, 20, 640} {
			r, err := f.Reach(2.9, m)
			if err != nil {
				t.Fatal(law, err)
			}
			if m > 0 {
				near(t, string(law)+" M", r.M(), m, 1e-9)
			}
			near(t, string(law)+" loss", f.At(r), 2.9, 1e-9)
		}
		if law == scaling.Power {
			continue
		}
		if _, err := f.Reach(f.Limit(), 20); err == nil || !strings.Contains(err.Error(), "no amount of compute reaches it") {
			t.Errorf("%s: %v", law, err)
		}
	}
	e := fit(t, scaling.Error, testbed(t, "rpj", errorPoints, c), scaling.Options{})
	loss, err := e.LossFor(0.7)
	if err != nil {
		t.Fatal(err)
	}
	near(t, "error", e.At(scaling.Run{Loss: loss}), 0.7, 1e-12)
	for _, bad := range []float64{0.9, -3, math.NaN()} {
		if _, err := e.LossFor(bad); err == nil || !strings.Contains(err.Error(), "out of range") {
			t.Errorf("error %g: %v", bad, err)
		}
	}
}

func TestSize(t *testing.T) {
	want := scaling.Run{N: 1e9, D: 2e10, C: 1.2e20}
	for _, x := range [][4]float64{{1e9, 2e10}, {1e9, 0, 20}, {1e9, 0, 0, 1.2e20}, {0, 2e10, 20}, {0, 2e10, 0, 1.2e20}, {0, 0, 20, 1.2e20}} {
		r, err := scaling.Size(x[0], x[1], x[2], x[3])
		if err != nil {
			t.Fatal(err)
		}
		near(t, "N", r.N, want.N, 1e-12)
		near(t, "D", r.D, want.D, 1e-12)
		near(t, "C", r.C, want.C, 1e-12)
	}
	for _, x := range [][4]float64{{}, {1}, {1, 1, 1}, {1, -1}, {1, math.NaN()}} {
		if _, err := scaling.Size(x[0], x[1], x[2], x[3]); err == nil {
			t.Errorf("%v: no error", x)
		}
	}
}
