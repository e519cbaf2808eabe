package scaling

import (
	"errors"
	"math"

	"gonum.org/v1/gonum/floats"
	"gonum.org/v1/gonum/mat"
	"gonum.org/v1/gonum/stat"
)

// problem is the least-squares problem that all laws but the power law come
// to, with amounts c that are not negative:
//
//	y = sign * sum_j c_j exp(-t (u_j - shift_j)) + c_last
//
// u is ln N and ln D, ln C, or the loss. The shift is the mean of u: it scales
// the columns, which differ by many orders of magnitude otherwise.
type problem struct {
	terms [][]float64 // u - shift, a row a term
	shift []float64
	sign  float64
	y     []float64
	root  []float64 // square roots of the weights
	span  float64   // the widest range of a u
	c     []float64 // what profile found

	columns [][]float64 // of the design matrix, weighted
	rhs     []float64
	work    [maxColumns + 1][]float64
}

func newProblem(law Law, runs []Run) *problem {
	p := &problem{sign: 1}
	variable := func(of func(Run) float64) {
		u := make([]float64, len(runs))
		lo, hi := math.Inf(1), math.Inf(-1)
		for i, r := range runs {
			u[i] = of(r)
			lo, hi = min(lo, u[i]), max(hi, u[i])
		}
		mean := stat.Mean(u, nil)
		for i := range u {
			u[i] -= mean
		}
		p.terms, p.shift, p.span = append(p.terms, u), append(p.shift, mean), max(p.span, hi-lo)
	}
	switch law {
	case Joint:
		variable(func(r Run) float64 { return math.Log(r.N) })
		variable(func(r Run) float64 { return math.Log(r.D) })
	case Compute: // sqrt(6) N and sqrt(6) D
		variable(func(r Run) float64 { return (math.Log(r.C) - math.Log(r.M())) / 2 })
		variable(func(r Run) float64 { return (math.Log(r.C) + math.Log(r.M())) / 2 })
	case Irreducible:
		variable(func(r Run) float64 { return math.Log(r.C) })
	case Error:
		p.sign = -1
		variable(func(r Run) float64 { return r.Loss })
	}
	for _, r := range runs {
		root := math.Sqrt(r.Weight)
		p.root, p.y, p.rhs = append(p.root, root), append(p.y, target(law, r)), append(p.rhs, root*target(law, r))
	}
	for range len(p.terms) + 1 {
		p.columns = append(p.columns, make([]float64, len(runs)))
	}
	for i := range p.work {
		p.work[i] = make([]float64, len(runs))
	}
	p.c = make([]float64, len(p.columns))
	return p
}

// design fills the columns for an exponent.
func (p *problem) design(t float64) {
	for j, u := range p.terms {
		for i, x := range u {
			p.columns[j][i] = p.sign * p.root[i] * math.Exp(-t*x)
		}
	}
	copy(p.columns[len(p.terms)], p.root)
}

// profile is the least sum of squares for an exponent; c are the amounts.
//
// The solution with no negative amount is the ordinary one on some subset of
// the columns, of which there are few.
func (p *problem) profile(t float64) float64 {
	p.design(t)
	best := math.Inf(1)
	trial := make([]float64, len(p.c))
	all := 1<<len(p.columns) - 1
	for set := all; set >= 0; set-- {
		rss, ok := p.leastSquares(trial, set)
		if ok && rss < best {
			best = rss
			copy(p.c, trial)
		}
		if ok && set == all {
			break // the unconstrained solution is good
		}
	}
	return best
}

// maxColumns is that of the joint law.
const maxColumns = 3

// leastSquares solves on the columns of a set, by modified Gram-Schmidt on
// them and the right-hand side, which is as stable as Householder's method
// (Björck 1967). It reports whether there is one solution, and none of it is
// negative.
func (p *problem) leastSquares(c []float64, set int) (rss float64, ok bool) {
	clear(c)
	var used [maxColumns]int
	n := 0
	for j, col := range p.columns {
		if set>>j&1 == 1 {
			copy(p.work[n], col)
			used[n] = j
			n++
		}
	}
	rest := p.work[maxColumns]
	copy(rest, p.rhs)
	var r [maxColumns][maxColumns]float64
	var b [maxColumns]float64
	for k, q := range p.work[:n] {
		r[k][k] = floats.Norm(q, 2)
		if r[k][k] <= 1e-14*floats.Norm(p.columns[used[k]], 2) {
			return 0, false
		}
		floats.Scale(1/r[k][k], q)
		for l := k + 1; l < n; l++ {
			r[k][l] = floats.Dot(q, p.work[l])
			floats.AddScaled(p.work[l], -r[k][l], q)
		}
		b[k] = floats.Dot(q, rest)
		floats.AddScaled(rest, -b[k], q)
	}
	for k := n - 1; k >= 0; k-- {
		x := b[k]
		for l := k + 1; l < n; l++ {
			x -= r[k][l] * c[used[l]]
		}
		if x /= r[k][k]; x < 0 {
			return 0, false
		}
		c[used[k]] = x
	}
	return floats.Dot(rest, rest), true
}

// The exponents that are searched, as multiples of 1/span: from laws that the
// runs cannot tell from straight lines to those that fall within one step.
const (
	lowest  = 1e-3
	highest = 50
	steps   = 160
)

var (
	errFlat  = errors.New("the residuals are least for a law that is flat or a straight line over these runs")
	errSteep = errors.New("the residuals are least for a law that falls to its limit between two of these runs")
)

// minimise finds the exponent with the least sum of squares: a scan, then a
// golden section around each of its minima.
func (p *problem) minimise() (float64, error) {
	ratio := math.Pow(highest/lowest, 1.0/(steps-1))
	var ts, rss [steps]float64
	for i := range ts {
		ts[i] = lowest / p.span * math.Pow(ratio, float64(i))
		rss[i] = p.profile(ts[i])
	}
	best, least := 0, math.Inf(1)
	t := 0.0
	for i := range ts {
		left, right := max(i-1, 0), min(i+1, steps-1)
		if rss[i] > rss[left] || rss[i] > rss[right] {
			continue
		}
		if x, v := golden(p.profile, ts[left], ts[right]); v < least {
			best, least, t = i, v, x
		}
	}
	// No exponent means anything where a constant is as good.
	constant, _ := p.leastSquares(make([]float64, len(p.c)), 1<<len(p.terms))
	switch {
	case best == 0 || constant <= least*(1+1e-9)+1e-24*floats.Dot(p.rhs, p.rhs):
		return 0, errFlat
	case best == steps-1:
		return 0, errSteep
	}
	return t, nil
}

// golden finds a minimum of f between lo and hi, which are close.
func golden(f func(float64) float64, lo, hi float64) (x, value float64) {
	const g = 0.6180339887498949
	a, b := hi-g*(hi-lo), lo+g*(hi-lo)
	fa, fb := f(a), f(b)
	for hi-lo > 1e-12*hi {
		if fa <= fb {
			hi, b, fb = b, a, fa
			a = hi - g*(hi-lo)
			fa = f(a)
		} else {
			lo, a, fa = a, b, fb
			b = lo + g*(hi-lo)
			fb = f(b)
		}
	}
	if fa <= fb {
		return a, fa
	}
	return b, fb
}

const (
	// singular is the smallest singular value, with columns of length one,
	// from which coefficients count as told apart.
	singular = 3e-4
	// sameWithin is the relative difference up to which sizes count as one.
	sameWithin = 1e-2
)

// ambiguous names the coefficients that the runs do not tell apart, whatever
// their losses: those in the null space of the law's derivatives. most says
// that there are several such directions.
func (p *problem) ambiguous(names []string) (found []string, most bool) {
	k := len(names)
	if p.span == 0 {
		return names, true
	}
	j := mat.NewDense(len(p.y), k, nil)
	p.design(1 / p.span)
	slope := make([]float64, len(p.y))
	for n, u := range p.terms {
		for i, x := range u {
			slope[i] += x * p.columns[n][i]
		}
	}
	for n, col := range append(p.columns[:k-1:k-1], slope) {
		v := mat.NewVecDense(len(col), col)
		if norm := mat.Norm(v, 2); norm > 0 {
			v = mat.VecDenseCopyOf(v)
			v.ScaleVec(1/norm, v)
		}
		j.SetCol(n, v.RawVector().Data)
	}
	var svd mat.SVD
	if !svd.Factorize(j, mat.SVDThin) {
		return names, true
	}
	var v mat.Dense
	svd.VTo(&v)
	in := make([]bool, k)
	directions := 0
	for n, s := range svd.Values(nil) {
		if s > singular {
			continue
		}
		directions++
		for i := range in {
			in[i] = in[i] || math.Abs(v.At(i, n)) > 0.1
		}
	}
	for i, yes := range in {
		if yes {
			found = append(found, names[i])
		}
	}
	return found, directions > 1
}

// solvePower fits a straight line to log10 of the loss above the floor.
func (f *Fit) solvePower(runs []Run) error {
	var x, y, w []float64
	for _, r := range runs {
		x, y, w = append(x, math.Log10(r.C)), append(y, math.Log10(r.Loss-f.Floor)), append(w, r.Weight)
	}
	if spread := stat.StdDev(x, nil); !(spread > singular) {
		return degenerate(Power, runs, forms[Power].names, true)
	}
	alpha, slope := stat.LinearRegression(x, y, w, false)
	f.Coefficients = map[string]float64{"lam": math.Pow(10, alpha), "exponent": slope}
	f.RSS = 0
	for i := range x {
		e := y[i] - alpha - slope*x[i]
		f.RSS += w[i] * e * e
	}
	return nil
}
